"""TinyImageNet, read from its published folder or zip."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import UserError, said
from ..images import read_image
from .arrays import Arrays
from .published import PublishedSet
from .tiny_imagenet_words import WORDS

NAME = "tiny-imagenet-200"
URL = f"http://cs231n.stanford.edu/{NAME}.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
SIDE = 64
Place = Path | zipfile.Path  # in the folder or inside the zip; both have the same files


class TinyImageNet(PublishedSet):
    """110,000 photographs in 200 classes, 64×64 RGB; pool 100,000, test 10,000 (its val part)

    Le & Yang 2015, Stanford CS231N. Read from `tiny-imagenet-200/` or `tiny-imagenet-200.zip` in
    the data folder; the zip is not unpacked. Labels follow the sorted WordNet ids, as in
    torchvision's ImageFolder. The images of a class are in the order of its annotation file. Grey
    photographs become RGB.
    """

    class_names = tuple(WORDS.values())
    mean, std = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
    defaults = {"batch_size": 128, "rotate": 20.0, "shift": 0, "flip": 1}

    def published(self, data_dir: Path) -> Arrays:
        root: Place = data_dir / NAME
        if not root.is_dir():
            root = _open_zip(self.download(URL, data_dir / f"{NAME}.zip", MD5))
        _check_classes(root)
        train = [
            (root / "train" / wnid / "images" / row[0], wnid)
            for wnid in WORDS
            for row in _rows(root / "train" / wnid / f"{wnid}_boxes.txt")
        ]
        listing = root / "val" / "val_annotations.txt"
        test = [(root / "val" / "images" / row[0], row[1]) for row in _rows(listing, columns=2)]
        return _read_part("train", train) | _read_part("test", test)


def _open_zip(file: Path) -> zipfile.Path:
    """
    Raises:
        UserError: the file is damaged or not a zip.
    """
    try:
        return zipfile.Path(file, f"{NAME}/")
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: damaged or not a zip ({said(error)}); delete it") from error


def _check_classes(root: Place) -> None:
    """
    Raises:
        UserError: wnids.txt does not name exactly our 200 classes.
    """
    found = {row[0] for row in _rows(root / "wnids.txt")}
    if found != set(WORDS):
        raise UserError(
            f"{root}/wnids.txt names {len(found)} classes that are not the 200 of TinyImageNet "
            f"({len(set(WORDS) - found)} missing, {len(found - set(WORDS))} unknown); is it "
            f"the folder of {URL}?"
        )


def _rows(listing: Place, columns: int = 1) -> list[list[str]]:
    """The lines of a tab-separated text file, split into columns.

    Raises:
        UserError: the file cannot be read, is empty, or a line has fewer columns.
    """
    try:
        rows = [line.split("\t") for line in listing.read_text(encoding="utf-8").splitlines()]
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise UserError(f"{listing}: missing or damaged ({said(error)})") from error
    if not rows or min(map(len, rows)) < columns:
        raise UserError(f"{listing}: empty, or a line with fewer than {columns} columns")
    return rows


def _read_part(part: str, files: Sequence[tuple[Place, str]]) -> Arrays:
    """Read x_<part> [N, 64, 64, 3] uint8 and y_<part> [N] int64 from (image, WordNet id) pairs.

    Raises:
        UserError: an image cannot be read or has another size, or an id is unknown.
    """
    label_of = {wnid: label for label, wnid in enumerate(WORDS)}
    x, y = np.empty((len(files), SIDE, SIDE, 3), np.uint8), np.empty(len(files), np.int64)
    bar = tqdm(files, f"TinyImageNet, {part}", unit="image", leave=False, disable=None)
    for i, (file, wnid) in enumerate(bar):
        if wnid not in label_of:
            raise UserError(f"{file}: is labeled {wnid}, which is not a class of TinyImageNet")
        pixels = read_image(file)
        if pixels.shape[:2] != (SIDE, SIDE):
            raise UserError(f"{file}: is {pixels.shape[1]}×{pixels.shape[0]} pixels, not 64×64")
        x[i], y[i] = pixels, label_of[wnid]  # grey [64, 64, 1] fills all three channels
    return {f"x_{part}": x, f"y_{part}": y}
