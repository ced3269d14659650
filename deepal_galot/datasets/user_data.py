"""The user's own data, named by its path: a folder of images, or an .npz of arrays."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from .. import registry
from ..errors import UserError
from ..images import IMAGE_SUFFIXES, image_files, read_image, resize_image
from .arrays import NPZ_KEYS, Arrays, read_npz, spec_of
from .base import Dataset, DatasetSpec, check_class_names, check_labels

RESERVED = {"images", "report", "exhibits"}  # other folders in the results folder
MAX_SIDE = 1024  # pixels; larger images are probably photographs that should be reduced
NO_IMAGES = f"no images in it ({', '.join(sorted(IMAGE_SUFFIXES))})"


def is_path(source: str) -> bool:
    """Whether --dataset names a path. A registered name wins over a folder of the same name."""
    if source in registry.datasets:
        return False
    separators = {os.sep, os.altsep or os.sep, "/"}
    looks_like_one = bool(separators & set(source)) or source.lower().endswith(".npz")
    return looks_like_one or Path(source).is_dir()


def results_name(path: Path) -> str:
    """A folder name in the results, made of a path's stem: letters, digits, . + - _.

    >>> results_name(Path("my photos/cats & dogs.npz"))
    'cats_dogs'
    """
    path = Path(os.path.abspath(path))  # so that "." and ".." have names, too
    stem = path.stem if path.suffix.lower() == ".npz" else path.name
    name = re.sub(r"[^\w.+-]+", "_", unicodedata.normalize("NFC", stem)).strip("_.+-") or "data"
    taken = name.casefold() in RESERVED or name in registry.datasets
    return f"{name}-data" if taken else name


def dataset_at(source: str | Path, image_size: int | None = None) -> type[Dataset]:
    """Make a data set class for an image folder or an .npz; reads the class names, not the images.

    Args:
        source: a folder with train/ and test/, each with a folder of images for every class; or
            an .npz with x_train, y_train, x_test, y_test and optionally class_names.
        image_size: side in pixels to which a folder's images are resized. None leaves them as they
            are; then all must have one size.

    Raises:
        UserError: no such path, or its classes cannot be found out.
    """
    path = Path(source)
    if path.is_dir():
        base, names = _ImageFolder, tuple(map(prompt_word, _class_folders(path / "train")))
    elif not path.exists():
        raise UserError(f"--dataset {path}: no such folder or .npz file")
    elif path.suffix.lower() == ".npz":
        if image_size is not None:
            raise UserError(f"--image-size {image_size}: {path} holds arrays, which have a size")
        base, names = _NpzFile, _npz_class_names(path)
    else:
        raise UserError(f"--dataset {path}: neither a folder nor an .npz file")
    check_class_names(str(path), names)
    own = {"path": path, "image_size": image_size, "class_names": names}
    return type("UserData", (base,), {**own, "name": results_name(path)})


class _UserData(Dataset):
    """Base of the two kinds; `dataset_at` sets the class attributes."""

    name: ClassVar[str]
    path: ClassVar[Path]
    image_size: ClassVar[int | None]


class _NpzFile(_UserData):
    """An .npz with x_train, y_train, x_test, y_test and optionally class_names"""

    def load(self, data_dir: Path) -> DatasetSpec:
        return spec_of(self.name, read_npz(self.path), self.class_names)


def _npz_class_names(path: Path) -> tuple[str, ...]:
    """The class_names of the file; without them, the label numbers as text.

    Raises:
        UserError: the file cannot be read, class_names are not [K] text, or the labels are wrong.
    """
    arrays = read_npz(path, ("y_train",), ("class_names",), unread=NPZ_KEYS)
    y, names = arrays["y_train"], arrays.get("class_names")
    if names is not None:
        if names.ndim != 1 or names.dtype.kind != "U":
            raise UserError(
                f"{path}: class_names must be [K] text, not {names.dtype} {list(names.shape)}: "
                f"save np.array(['cat', 'dog'])"
            )
        return tuple(name.strip() for name in names.tolist())
    check_labels(f"{path}, y_train", y, len(y) if y.ndim else 1)
    n_classes = int(y.max()) + 1 if len(y) else 0
    if n_classes > len(y):
        raise UserError(
            f"{path}: labels run up to {n_classes - 1}, but {len(y)} images cannot show "
            f"{n_classes} classes; number the classes 0, 1, 2, …"
        )
    return tuple(map(str, range(n_classes)))


class _ImageFolder(_UserData):
    """A folder with train/CLASS/*.png and test/CLASS/*.png"""

    def load(self, data_dir: Path) -> DatasetSpec:
        folders = _class_folders(self.path / "train")
        unknown = sorted(set(_class_folders(self.path / "test")) - set(folders))
        if unknown:
            raise UserError(f"{self.path / 'test' / unknown[0]}: there is no such class in train/")
        train = _labeled_files(self.path / "train", folders)
        empty = sorted(set(range(len(folders))) - {label for _, label in train})
        if empty:
            raise UserError(f"{self.path / 'train' / folders[empty[0]]}: {NO_IMAGES}")
        test = _labeled_files(self.path / "test", folders)
        if not test:
            raise UserError(f"{self.path / 'test'}: {NO_IMAGES}")
        x = _read_images([file for file, _ in train + test], self.name, self.image_size)
        y = np.array([label for _, label in train + test], np.int64)
        n = len(train)
        arrays: Arrays = {"x_train": x[:n], "y_train": y[:n], "x_test": x[n:], "y_test": y[n:]}
        return spec_of(self.name, arrays, self.class_names)


def _class_folders(part: Path) -> list[str]:
    """Sorted names of the class folders in train/ or test/, without hidden ones.

    Raises:
        UserError: no such part, no folders in it, or images beside the folders.
    """
    if not part.is_dir():
        raise UserError(
            f"{part}: no such folder; an image folder needs train/CLASS/… and test/CLASS/…"
        )
    stray = image_files(part)
    if stray:
        raise UserError(f"{stray[0]}: is in no class; put it into {part}/CLASS/")
    folders = sorted(p.name for p in part.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise UserError(f"{part}: no class folders in it; put the images into {part}/CLASS/")
    return folders


def prompt_word(folder: str) -> str:
    """A folder's name as a word for prompts: _ becomes a space."""
    return " ".join(unicodedata.normalize("NFC", folder).replace("_", " ").split())


def _labeled_files(part: Path, folders: Sequence[str]) -> list[tuple[Path, int]]:
    """(image file, label) pairs of all classes; a class may have no folder in this part.

    Raises:
        UserError: a folder inside a class folder.
    """
    found = []
    for label, folder in enumerate(folders):
        found += [(file, label) for file in image_files(part / folder)]
        if (part / folder).is_dir():
            nested = [p for p in (part / folder).iterdir() if p.is_dir() and p.name[0] != "."]
            if nested:
                raise UserError(f"{nested[0]}: a folder inside a class folder; move its images up")
    return found


def _read_images(files: Sequence[Path], name: str, image_size: int | None) -> np.ndarray:
    """Read images as [N, H, W, C] uint8; C = 1 if all of them are grey, else 3.

    Raises:
        UserError: an image cannot be read or is too large, or sizes differ.
    """
    images: list[np.ndarray] = []
    for file in tqdm(files, f"reading {name}", unit="image", leave=False, disable=None):
        pixels = read_image(file)
        if image_size is not None:
            pixels = resize_image(pixels, (image_size, image_size, pixels.shape[2]))
        height, width = pixels.shape[:2]
        if max(height, width) > MAX_SIDE:
            raise UserError(f"{file}: is {width}×{height} pixels; give --image-size N, e.g. 64")
        if images and pixels.shape[:2] != images[0].shape[:2]:
            raise UserError(
                f"{file}: is {width}×{height} pixels, {files[0]} "
                f"{images[0].shape[1]}×{images[0].shape[0]}: give --image-size N to resize all "
                f"images to N×N"
            )
        images.append(pixels)
    x = np.empty((len(images), height, width, max(p.shape[2] for p in images)), np.uint8)
    for i, pixels in enumerate(images):
        x[i] = pixels  # grey [H, W, 1] fills all three channels
    return x
