"""From an .npz file or bare arrays to a DatasetSpec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import UserError, said
from .base import DatasetSpec, check_images, pixel_statistics

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
Arrays = dict[str, np.ndarray]


def read_npz(path: Path, keys: Sequence[str] = NPZ_KEYS, optional: Sequence[str] = ()) -> Arrays:
    """The named arrays of an .npz file; of the optional ones, those that are there.

    Raises:
        UserError: not an .npz, damaged, an array is missing or holds Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as npz:  # an .npy under another name gives an array
            missing = [k for k in keys if k not in npz.files]
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
        why = "" if "pickle" in str(error) else f" ({said(error)})"  # no advice to load unsafely
        raise UserError(f"{path}: damaged or not an .npz file{why}") from error


def spec_of(
    name: str,
    arrays: Arrays,
    class_names: tuple[str, ...],
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> DatasetSpec:
    """A data set that was read from files; grey images may come without a channel axis.

    Args:
        name: a folder name in the results.
        arrays: x_train, y_train, x_test, y_test.
        class_names: K names.
        mean, std: published ones; computed from x_train if None.

    Raises:
        UserError: a part has no images, or DatasetSpec refuses it.
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
    """[N, H, W] -> [N, H, W, 1]; [N, H, W, C] as it is; contiguous."""
    return np.ascontiguousarray(x[..., None] if x.ndim == 3 else x)
