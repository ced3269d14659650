"""Base class of data sets, and the data that they load: arrays, class names, pixel statistics.

To add a data set, write a file in this folder (or a plug-in) with a subclass of Dataset.
"""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .. import seeding
from ..errors import UserError, some_of

MIN_SIDE = 8  # pixels; with fewer, the networks' strides leave no pixel


@dataclass(frozen=True)
class DatasetSpec:
    """A data set in memory; the constructor checks it.

    Attributes:
        name: the data set's name, a folder name in the results.
        x_train: [N, H, W, C] uint8 pool images, C = 1 or 3; H, W ≥ 8. N = 0 if there is no pool.
        y_train: [N] int64 labels in 0 … K-1, each at least once if N > 0; hidden from the
            strategies until bought.
        x_test, y_test: the same for the M test images; M = 0 if there is no test set. A class may
            be absent.
        class_names: K names, as they are put into prompts.
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
        check_class_names(self.name, self.class_names)
        for part in ("train", "test"):
            what = f"{self.name}, {part} part"
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            check_images(what, x)
            check_labels(what, y, len(x), len(self.class_names))
            object.__setattr__(self, f"y_{part}", y.astype(np.int64))
            object.__setattr__(self, f"x_{part}", _read_only(x))
        self._check_statistics()
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise UserError(
                f"{self.name}: train images are {self.x_train.shape[1:]}, test images "
                f"{self.x_test.shape[1:]} (height, width, channels)"
            )
        self._check_every_class_has_images()
        for name, kind in (("class_names", str), ("mean", float), ("std", float)):
            # Otherwise lists and NumPy's numbers would hash and compare as other values.
            object.__setattr__(self, name, tuple(map(kind, getattr(self, name))))

    def _check_statistics(self) -> None:
        if not len(self.mean) == len(self.std) == self.x_train.shape[3]:
            raise UserError(
                f"{self.name}: images have {self.x_train.shape[3]} channels, its mean and standard "
                f"deviation {len(self.mean)} and {len(self.std)}"
            )
        if not (all(0 <= m <= 1 for m in self.mean) and all(0 < s <= 1 for s in self.std)):
            raise UserError(
                f"{self.name}: mean {self.mean} and standard deviation {self.std} must be those of "
                f"pixels in [0, 1] (those of 0 … 255 divided by 255), a deviation above 0"
            )

    def _check_every_class_has_images(self) -> None:
        counts = np.bincount(self.y_train, minlength=self.n_classes)
        absent = [n for n, count in zip(self.class_names, counts, strict=True) if not count]
        if absent and len(self.x_train):
            from_one = " (do the labels begin at 1? save y - 1)" if not counts[0] else ""
            raise UserError(
                f"{self.name}: {len(absent)} of {self.n_classes} classes have no train images "
                f"({some_of(absent)}); add some, or leave the class out{from_one}"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.x_train.shape[1:]

    @property
    def n_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)

    @property
    def n_in_both(self) -> int:
        """Number of pool images that are also in the test set, pixel for pixel."""
        train, test = ([_digest(image) for image in x] for x in (self.x_train, self.x_test))
        tested = set(test)
        return sum(digest in tested for digest in train)

    @cached_property
    def content_hash(self) -> str:
        """Sixteen hex digits over all arrays, class names and statistics, because results depend
        on them."""
        digest = hashlib.sha256(repr((self.class_names, self.mean, self.std)).encode())
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest()


def _read_only(x: np.ndarray) -> np.ndarray:
    """Make a read-only view. All runs of a process share the images, so a run that wrote into them
    would change the other runs' training data."""
    x = x.view()
    x.setflags(write=False)
    return x


def check_class_names(what: str, names: Sequence[str]) -> None:
    """
    Raises:
        UserError: fewer than two names, a name twice, empty or with control characters.
    """
    if len(names) < 2:
        raise UserError(
            f"{what}: {len(names)} class{'es' * (len(names) != 1)}; a classifier needs 2"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{what}: two classes have the same name: {some_of(twice)}")
    bad = [repr(name) for name in names if not name.strip() or not name.isprintable()]
    if bad:
        raise UserError(f"{what}: class names must be text on one line, not {some_of(bad)}")


def check_images(what: str, x: np.ndarray) -> None:
    """
    Raises:
        UserError: not uint8 [N, H, W, 1 or 3], or a side below 8.
    """
    fault = None
    if x.dtype != np.uint8:
        fault = _as_bytes(x)
    elif x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3):
        fault = "channels come first; save x.transpose(0, 2, 3, 1)"
    elif x.ndim != 4:
        fault = "grey images may leave out the last axis, no other one"
    elif x.shape[3] not in (1, 3):
        fault = "other channels, e.g. transparency, must be removed"
    elif min(x.shape[1:3]) < MIN_SIDE:
        fault = f"no side may be below {MIN_SIDE} pixels"
    if fault:
        raise UserError(
            f"{what}: images must be uint8 [N, height, width, 1 or 3], not {x.dtype} "
            f"{list(x.shape)}: {fault}"
        )


def _as_bytes(x: np.ndarray) -> str:
    """How to save images of another dtype as uint8, by their values."""
    if np.issubdtype(x.dtype, np.bool_):
        return "of true and false, save x.astype('uint8') * 255"
    whole = np.issubdtype(x.dtype, np.integer)
    if not (whole or np.issubdtype(x.dtype, np.floating)) or not x.size:
        return "save numbers from 0 to 255"
    if not np.isfinite(x).all():
        return "some values are not finite; mend them, and save numbers from 0 to 255"
    low, high = x.min(), x.max()
    if low < 0 or high > 255:
        return f"values run from {low:.6g} to {high:.6g}; scale them to 0 … 255, then round them"
    if whole:
        return "of numbers from 0 to 255, save x.astype('uint8')"
    if high > 1:
        return "of floats from 0 to 255, save x.round().astype('uint8')"
    return "of floats in [0, 1], save (x * 255).round().astype('uint8')"


def check_labels(what: str, y: np.ndarray, n_images: int, n_classes: int | None = None) -> None:
    """
    Raises:
        UserError: not one whole number for each image, or a number outside 0 … n_classes-1.
    """
    if y.shape != (n_images,) or not np.issubdtype(y.dtype, np.integer):
        hint = ""
        if y.shape == (n_images, 1):
            hint = ": save y.ravel()"
        elif y.ndim == 2 and len(y) == n_images:
            hint = ": of one-hot rows, save y.argmax(1)"
        elif y.shape == (n_images,) and np.issubdtype(y.dtype, np.floating):
            hint = ": of whole numbers, save y.astype(int)"
        raise UserError(
            f"{what}: {n_images} images need [{n_images}] whole-number labels, not {y.dtype} "
            f"{list(y.shape)}{hint}"
        )
    if len(y) and (y.min() < 0 or (n_classes is not None and y.max() >= n_classes)):
        classes = "they count from 0" if n_classes is None else f"there are {n_classes} classes"
        raise UserError(f"{what}: labels run from {y.min()} to {y.max()}, but {classes}")


def pixel_statistics(x: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel of [N, H, W, C] uint8 images, in units of [0, 1].

    They are exact. They are computed from counts of the 256 levels, so that no float copy of the
    data set is needed. A constant channel gets the deviation 1, so that it normalises to 0, not to
    NaN.
    """
    counts = np.zeros((x.shape[3], 256), np.int64)
    for start in range(0, len(x), 4096):
        part = x[start : start + 4096]
        counts += [np.bincount(part[..., c].ravel(), minlength=256) for c in range(x.shape[3])]
    levels, total = np.arange(256) / 255, x[..., 0].size
    mean = [float(c @ levels / total) for c in counts]
    std = [float(np.sqrt(c @ (levels - m) ** 2 / total)) for c, m in zip(counts, mean, strict=True)]
    # Test the counts, because rounding may give a constant channel a std of 1e-18.
    varies = [np.count_nonzero(c) > 1 for c in counts]
    return tuple(mean), tuple(s if v else 1.0 for s, v in zip(std, varies, strict=True))


class Dataset(ABC):
    """Base class of data sets; the first docstring line is shown by --list.

    Class attributes:
        name: as on the command line (default: the class name).
        class_names: must be known before loading, so that an unsuitable generator is refused early.
        defaults: preferred values of RunConfig fields and of "protocol".
    """

    class_names: ClassVar[tuple[str, ...]]
    defaults: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def load(self, data_dir: Path) -> DatasetSpec:
        """Read the data set; download it into data_dir if necessary.

        It must give the same arrays each time. Before the call, Python's, NumPy's and torch's
        global generators are seeded from stream load of seed 0.

        Raises:
            UserError: the files are missing and cannot be fetched, or are damaged.
        """


def load_dataset(cls: type[Dataset], data_dir: Path) -> DatasetSpec:
    """Load a data set.

    Raises:
        UserError: it cannot be had, or `load` has another signature or result than it must have.
    """
    try:
        inspect.signature(cls.load).bind(None, data_dir)
    except TypeError as error:
        raise UserError(f"{cls.__name__}.load must take (self, data_dir): {error}") from None
    seeding.seed_globals(0, "load")  # a random split must be the same in each process and command
    spec = cls().load(data_dir)
    if not isinstance(spec, DatasetSpec):
        raise UserError(f"{cls.__name__}.load gave {str(spec)[:200]!r}, not a DatasetSpec")
    return spec


def names_of(cls: type[Dataset]) -> tuple[str, ...]:
    """Class names of a data set that is not loaded yet.

    Raises:
        UserError: the class has no attribute `class_names`.
    """
    if not hasattr(cls, "class_names"):
        raise UserError(
            f"the data set {cls.__name__} has no class attribute `class_names`, which a generator "
            f"is asked about before anything is loaded"
        )
    return cls.class_names
