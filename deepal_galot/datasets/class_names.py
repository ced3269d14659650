"""Class names from a text file.

They replace the training data ("text to model", with optional test images), or they are other words
for a data set's classes in prompts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..errors import UserError, did_you_mean, said
from ..images import image_files, load_image
from .base import Dataset, DatasetSpec, check_class_names
from .user_data import results_name


def names_only(file: Path, image_size: int, test_folder: Path | None = None) -> type[Dataset]:
    """A data set class with an empty pool, whose classes are the lines of a file.

    Args:
        file: one class name a line, UTF-8; blank lines and lines starting with # are skipped.
        image_size: side of the classifier's square RGB input, in pixels.
        test_folder: optional folder with one sub-folder of images for each class name.

    Raises:
        UserError: the file is unreadable, has fewer than two names, or a name twice.
    """
    names = tuple(line for line in _lines(file) if line)
    check_class_names(f"--class-names {file}", names)
    own = {"class_names": names, "image_size": image_size, "test_folder": test_folder}
    return type("ClassNames", (_NamesOnly,), {**own, "name": results_name(Path(file.stem))})


class _NamesOnly(Dataset):
    """Class names without training images; `names_only` sets the class attributes."""

    name: ClassVar[str]
    image_size: ClassVar[int]
    test_folder: ClassVar[Path | None]

    def load(self, data_dir: Path) -> DatasetSpec:
        shape = (0, self.image_size, self.image_size, 3)
        x_train, y_train = np.zeros(shape, np.uint8), np.zeros(0, np.int64)
        x_test, y_test = x_train, y_train
        if self.test_folder is not None:
            x_test, y_test = _test_images(self.test_folder, self.class_names, self.image_size)
        # Without data there are no pixel statistics, so [0, 1] is mapped to [-1, 1].
        half = (0.5, 0.5, 0.5)
        parts = (x_train, y_train, x_test, y_test)
        return DatasetSpec(self.name, *parts, self.class_names, half, half)


def prompt_words(file: Path, class_names: Sequence[str]) -> tuple[str, ...]:
    """The word for each class in prompts. In tables and predictions classes keep their names.

    Args:
        file: UTF-8 text, either one word a line, for each class in order; or lines "class name =
            word" for some of the classes. Lines starting with # are skipped.
        class_names: the data set's class names.

    Raises:
        UserError: the file is unreadable, has an empty line, an unknown class, a class or a word
            twice, or another number of words than there are classes.
    """
    where, lines = f"--class-names {file}", _lines(file)
    if "" in lines:
        raise UserError(f"{where}: an empty line after {lines.index('')} names; remove it")
    pairs = [re.split(r"\s=(?:\s|$)", line, maxsplit=1) for line in lines]
    if any(len(pair) == 2 for pair in pairs):
        words = _replaced(where, pairs, class_names)
    elif len(lines) == len(class_names):
        words = tuple(lines)
    else:
        raise UserError(
            f"{where}: {len(lines)} names for {len(class_names)} classes; give one a line for each "
            f"class, or lines OLD = NEW for some of them"
        )
    check_class_names(where, words)
    return words


def _replaced(
    where: str, pairs: Sequence[Sequence[str]], class_names: Sequence[str]
) -> tuple[str, ...]:
    """The class names, with the first of each pair replaced by the second."""
    words: dict[str, str] = {}
    for old, *new in pairs:
        old = old.strip()
        if not new:
            raise UserError(f"{where}: {old!r} is not a line OLD = NEW, with spaces around the =")
        if old not in class_names:
            raise UserError(f"{where}: no class {old!r}: {did_you_mean(old, class_names)}")
        if old in words:
            raise UserError(f"{where}: two lines for {old!r}; keep one")
        words[old] = new[0].strip()
    return tuple(words.get(name, name) for name in class_names)


def _lines(file: Path) -> list[str]:
    """The file's lines, stripped, without comments.

    Raises:
        UserError: the file cannot be read as text.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--class-names {file}: cannot be read as text ({said(error)})") from error
    return [s for line in lines if not (s := line.strip()).startswith("#")]


def _test_images(
    folder: Path, names: tuple[str, ...], image_size: int
) -> tuple[np.ndarray, np.ndarray]:
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
