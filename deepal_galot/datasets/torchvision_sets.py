"""Data sets that torchvision downloads, or that lie in the data folder as one .npz."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import UserError
from .base import Dataset, DatasetSpec
from .digits import DIGIT_NAMES

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
Arrays = dict[str, np.ndarray]


class _TorchvisionSet(Dataset):
    """A data set that torchvision knows; `<data-dir>/<name>.npz` is read instead if it exists."""

    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]

    def load(self, data_dir: Path) -> DatasetSpec:
        name = type(self).__name__
        offline_copy = data_dir / f"{name}.npz"
        arrays = read_npz(offline_copy) if offline_copy.is_file() else _download(name, data_dir)
        arrays = {k: v if k.startswith("y") else with_channels(v) for k, v in arrays.items()}
        return DatasetSpec(
            name, **arrays, class_names=self.class_names, mean=self.mean, std=self.std
        )


class MNIST(_TorchvisionSet):
    """70,000 handwritten digits, 28×28 grey; pool 60,000, test 10,000. LeCun et al. 1998"""

    class_names = DIGIT_NAMES
    mean, std = (0.1307,), (0.3081,)
    defaults = {"generator": "tiny", "template": "a small handwritten digit {label}"}


class CIFAR10(_TorchvisionSet):
    """60,000 photographs in 10 classes, 32×32 RGB; pool 50,000, test 10,000; Krizhevsky 2009"""

    class_names = (
        "airplane",
        "car",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def read_npz(path: Path) -> Arrays:
    """The four arrays of a data set's .npz (x_train, y_train, x_test, y_test).

    Raises:
        UserError: not an .npz, damaged, or an array is missing.
    """
    try:
        with np.load(path, allow_pickle=False) as npz:  # an .npy under another name gives an array
            missing = [k for k in NPZ_KEYS if k not in npz.files]
            if missing:
                raise UserError(f"{path}: holds {npz.files}, lacks {missing}")
            return {k: npz[k] for k in NPZ_KEYS}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged or not an .npz file ({error})") from error


def with_channels(x: np.ndarray) -> np.ndarray:
    """[N, H, W] -> [N, H, W, 1]; [N, H, W, C] as it is."""
    return x[..., None] if x.ndim == 3 else x


def _download(name: str, data_dir: Path) -> Arrays:
    """By torchvision, into data_dir; its archives are md5-checked."""
    import torchvision

    cls: Callable[..., Any] = getattr(torchvision.datasets, name)
    try:
        parts = [cls(data_dir, train=train, download=True) for train in (True, False)]
    except Exception as error:  # urllib, ssl, OSError, RuntimeError: all mean "not to be had"
        raise UserError(
            f"{name} is not in {data_dir} and could not be downloaded ({type(error).__name__}): "
            f"connect once, or put it there as {data_dir / name}.npz with arrays "
            f"{', '.join(NPZ_KEYS)} (images uint8), or name the folder with --data-dir"
        ) from error
    (x_train, y_train), (x_test, y_test) = (
        (np.asarray(p.data), np.asarray(p.targets, dtype=np.int64)) for p in parts
    )
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
