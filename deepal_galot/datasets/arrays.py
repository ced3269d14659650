"""Make a DatasetSpec from an .npz file or from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import UserError, said
from .base import DatasetSpec, check_images, pixel_statistics

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
Arrays = dict[str, np.ndarray]


def read_npz(
    path: Path,
    keys: Sequence[str] = NPZ_KEYS,
    optional: Sequence[str] = (),
    unread: Sequence[str] = (),
) -> Arrays:
    """Read the named arrays of an .npz file, and the optional ones if they are there.

    Args:
        unread: arrays that must be there and are not read.

    Raises:
        UserError: not an .npz, damaged, an array is missing or holds Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as npz:  # an .npy under this name fails here
            missing = [k for k in dict.fromkeys((*unread, *keys)) if k not in npz.files]
            if missing:
                raise UserError(f"{path}: holds {npz.files}, lacks {missing}")
            return {k: npz[k] for k in (*keys, *optional) if k in npz.files}
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise nearly anything on a damaged file
        if "Object arrays" in str(error):
            raise UserError(
                f"{path}: an array holds Python objects, which are not read: save images as one "
                f"uint8 array, labels as whole numbers, names as text"
            ) from error
        # NumPy's message on pickles is left out, because it advises to load unsafely.
        why = "" if "pickle" in str(error) else f" ({said(error)})"
        raise UserError(f"{path}: damaged or not an .npz file{why}") from error


def spec_of(
    name: str,
    arrays: Arrays,
    class_names: tuple[str, ...],
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> DatasetSpec:
    """Make a DatasetSpec from arrays; grey images may lack a channel axis.

    Args:
        name: the data set's name, a folder name in the results.
        arrays: x_train, y_train, x_test, y_test.
        class_names: K names.
        mean, std: published statistics; None computes them from x_train.

    Raises:
        UserError: a part has no images, or DatasetSpec refuses the arrays.
    """
    arrays = {k: with_channels(v) if k.startswith("x") else v for k, v in arrays.items()}
    for part in ("train", "test"):
        check_images(f"{name}, {part} part", arrays[f"x_{part}"])
        if len(arrays[f"x_{part}"]) == 0:
            raise UserError(f"{name}, {part} part: no images")
    if mean is None or std is None:
        mean, std = pixel_statistics(arrays["x_train"])
    return DatasetSpec(name, **arrays, class_names=class_names, mean=mean, std=std)


def with_channels(x: np.ndarray) -> np.ndarray:
    """[N, H, W] -> [N, H, W, 1]; [N, H, W, C] stays. The result is contiguous."""
    return np.ascontiguousarray(x[..., None] if x.ndim == 3 else x)
