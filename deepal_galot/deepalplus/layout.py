"""Array formats of DeepALPlus's data sets, to add generated images to the arrays of real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

SWAPPED = ("EMNIST",)  # rows and columns are swapped in its files and stay so in DeepALPlus
BGR = ("TinyImageNet",)  # DeepALPlus reads it with OpenCV, blue first


@dataclass(frozen=True)
class Layout:
    """The array format of a data set's images.

    Attributes:
        kind: "grey" [N, H, W]; "channels first" [N, C, H, W] (SVHN style); "channels last" [N, H,
            W, C] (CIFAR style); "objects" [N] of separate [H, W, C] arrays (images of several
            sizes).
        image_shape: (H, W, C) of an upright image.
        tensor: whether the array is a torch tensor (MNIST style), else a NumPy array.
        swapped: whether rows and columns are swapped; bgr: whether blue comes first.
    """

    kind: str
    image_shape: tuple[int, int, int]
    tensor: bool
    swapped: bool = False
    bgr: bool = False

    @classmethod
    def of(cls, images: Any, dataset: str) -> Layout:
        """The layout of X_train, a uint8 array or tensor, or an array of uint8 arrays.

        Raises:
            UserError: X_train does not have one of the known formats.
        """
        kind, shape = _form(images, dataset)
        swapped = dataset in SWAPPED
        if swapped:
            shape = (shape[1], shape[0], shape[2])
        return cls(kind, shape, isinstance(images, Tensor), swapped, dataset in BGR)

    def pack(self, x: np.ndarray) -> Any:
        """[N, H, W, C] uint8 RGB or grey -> N images in the data set's format."""
        if self.swapped:
            x = x.swapaxes(1, 2)
        if self.bgr:
            x = x[..., ::-1]
        if self.kind == "grey":
            x = x[..., 0]
        elif self.kind == "channels first":
            x = x.transpose(0, 3, 1, 2)
        x = np.ascontiguousarray(x)
        if self.kind == "objects":
            separate = np.empty(len(x), object)
            separate[:] = list(x)
            return separate
        return torch.from_numpy(x) if self.tensor else x

    def join(self, real: Any, generated: Any) -> Any:
        """Real images followed by generated ones; all in the data set's format."""
        return torch.cat([real, generated]) if self.tensor else np.concatenate([real, generated])

    def unpack(self, images: Any) -> np.ndarray:
        """N images of one size in the data set's format -> [N, H, W, C] uint8; undoes `pack`."""
        x = np.stack(images) if self.kind == "objects" else np.asarray(images)
        if self.kind == "grey":
            x = x[..., None]
        elif self.kind == "channels first":
            x = x.transpose(0, 2, 3, 1)
        if self.bgr:
            x = x[..., ::-1]
        return np.ascontiguousarray(x.swapaxes(1, 2) if self.swapped else x)

    def as_stored(self, x: Tensor) -> Tensor:
        """[B, C, H, W] upright RGB or grey -> as DeepALPlus's handler reads it; differentiable."""
        if self.swapped:
            x = x.transpose(2, 3)
        return x.flip(1) if self.bgr else x


def _form(images: Any, dataset: str) -> tuple[str, tuple[int, int, int]]:
    """(kind, (H, W, C) as stored).

    Raises:
        UserError: the images do not have one of the known formats.
    """
    shape = tuple(images.shape)
    if images.dtype == np.object_ and len(shape) == 1 and len(images):
        first = np.asarray(images[0])
        if first.dtype == np.uint8 and first.ndim == 3 and first.shape[2] in (1, 3):
            return "objects", first.shape
    if images.dtype in (np.uint8, torch.uint8):
        if len(shape) == 3:
            return "grey", (*shape[1:], 1)
        if len(shape) == 4 and shape[3] in (1, 3):
            return "channels last", shape[1:]
        if len(shape) == 4 and shape[1] in (1, 3):
            return "channels first", (*shape[2:], shape[1])
    raise UserError(
        f"-d {dataset}: its X_train is {images.dtype} {list(shape)}; generated images need uint8 "
        f"[N, H, W], [N, H, W, channels] or [N, channels, H, W]"
    )
