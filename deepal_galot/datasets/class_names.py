"""No data at all: class names from a text file ("text to model"), with optional test images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import UserError, said
from .base import DatasetSpec
from .user_data import results_name


def from_class_names(file: Path, image_size: int, test_folder: Path | None = None) -> DatasetSpec:
    """An empty pool whose classes are the lines of a file.

    Args:
        file: one class name a line, UTF-8; blank lines and lines starting with # are skipped.
        image_size: side of the classifier's square RGB input, in pixels.
        test_folder: optional folder with one sub-folder of images for each class name.

    Raises:
        UserError: unreadable, fewer than two names, a name twice, no test images.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--class-names {file}: cannot be read as text ({said(error)})") from error
    names = tuple(s for line in lines if (s := line.strip()) and not s.startswith("#"))
    if len(names) < 2:
        raise UserError(f"--class-names {file}: {len(names)} names; a classifier needs at least 2")
    x_test, y_test = _empty(image_size)
    if test_folder is not None:
        x_test, y_test = _test_images(test_folder, names, image_size)
    name = results_name(Path(file.stem))
    # Without data there are no pixel statistics: [0, 1] is mapped to [-1, 1].
    half = (0.5, 0.5, 0.5)
    return DatasetSpec(name, *_empty(image_size), x_test, y_test, names, half, half)


def _empty(image_size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((0, image_size, image_size, 3), np.uint8), np.zeros(0, np.int64)


def _test_images(
    folder: Path, names: tuple[str, ...], image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    from ..images import image_files, load_image

    x, y = [], []
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        raise UserError(f"--test-data {folder}: no sub-folder for {', '.join(missing)}")
    for label, name in enumerate(names):
        files = image_files(folder / name)
        x += [load_image(f, (image_size, image_size, 3)) for f in files]
        y += [label] * len(files)
    if not x:
        raise UserError(f"--test-data {folder}: no images in sub-folders named {', '.join(names)}")
    return np.stack(x), np.array(y, np.int64)
