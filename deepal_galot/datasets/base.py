"""What a data set is: arrays, class names, pixel statistics; and how one is added.

To add one, write a file in this folder (or a plug-in) with a subclass of Dataset.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import UserError


@dataclass(frozen=True)
class DatasetSpec:
    """A data set in memory; checked when made.

    Attributes:
        name: the data set's name, a folder name in the results.
        x_train: [N, H, W, C] uint8 pool images, C = 1 or 3.
        y_train: [N] int64 labels in 0 … K-1; hidden from the strategies until bought.
        x_test, y_test: the same for the test set; M = 0 images if there is none.
        class_names: K names, as they go into the prompts.
        mean, std: per channel, of pixels in [0, 1], for normalisation.
    """

    name: str
    x_train: np.ndarray = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_test: np.ndarray = field(repr=False)
    y_test: np.ndarray = field(repr=False)
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise UserError(f"{self.name}: {len(self.class_names)} class; a classifier needs 2")
        if len(set(self.class_names)) != len(self.class_names):
            raise UserError(f"{self.name}: two classes have the same name: {self.class_names}")
        for part, x, y in (
            ("train", self.x_train, self.y_train),
            ("test", self.x_test, self.y_test),
        ):
            _check_part(f"{self.name}, {part} part", x, y, len(self.class_names))
        for name in ("y_train", "y_test"):
            object.__setattr__(self, name, getattr(self, name).astype(np.int64))
        if not len(self.mean) == len(self.std) == self.x_train.shape[3]:
            raise UserError(
                f"{self.name}: images have {self.x_train.shape[3]} channels, its mean and standard "
                f"deviation {len(self.mean)} and {len(self.std)}"
            )
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise UserError(
                f"{self.name}: train images are {self.x_train.shape[1:]}, test images "
                f"{self.x_test.shape[1:]} (height, width, channels)"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.x_train.shape[1:]

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @cached_property
    def content_hash(self) -> str:
        """Sixteen hex digits over all arrays and names: what a result may depend on."""
        digest = hashlib.sha256(repr((self.class_names, self.mean, self.std)).encode())
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


def _check_part(what: str, x: np.ndarray, y: np.ndarray, n_classes: int) -> None:
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] not in (1, 3):
        raise UserError(
            f"{what}: images must be uint8 [N, height, width, 1 or 3], not {x.dtype} {x.shape}"
        )
    if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"{what}: {len(x)} images need {len(x)} whole-number labels, not {y.shape}")
    if len(y) and not (y.min() >= 0 and y.max() < n_classes):
        raise UserError(
            f"{what}: labels run from {y.min()} to {y.max()}, but there are {n_classes} classes"
        )


def pixel_statistics(x: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel of [N, H, W, C] uint8 images, in units of [0, 1]."""
    flat = x.reshape(-1, x.shape[-1]) / 255.0
    return tuple(flat.mean(0).tolist()), tuple(flat.std(0).tolist())


class Dataset(ABC):
    """Base class of data sets; the first docstring line is shown by --list.

    Class attributes:
        name: as on the command line (default: the class name).
        class_names: known before loading, so that a generator can be refused early.
        defaults: RunConfig fields (and "protocol") that this data set prefers.
    """

    class_names: ClassVar[tuple[str, ...]]
    defaults: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def load(self, data_dir: Path) -> DatasetSpec:
        """Read it, downloading into data_dir if it must.

        Raises:
            UserError: it is not there and cannot be fetched, or it is damaged.
        """
