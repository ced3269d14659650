"""Images that exist already, made by any other service: PATH/CLASS/*.png, *.jpg, …"""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from deepal_galot import seeding
from deepal_galot.config import FOLDER, RunConfig
from deepal_galot.datasets.user_data import prompt_word
from deepal_galot.errors import UserError, did_you_mean, said
from deepal_galot.images import check_opens, fit_to, image_files, read_image, to_unit_float

from .base import ONE_IN, Generator, Graph, ImageRequest, Size

Listing = tuple[tuple[Path, int, int], ...]  # (file, bytes, time of its last change)


class FolderGenerator(Generator):
    """Base of the generators that hand out a folder's images; a subclass names the folder.

    Each round takes a class's images in a random order, without repetition. Seed and round
    determine the order.
    """

    reads_text = False
    batch_size = 64

    @property
    @abstractmethod
    def path(self) -> Path:
        """Folder with a sub-folder for every class; a subclass sets it as an attribute."""

    @classmethod
    def at(cls, path: str | Path) -> type[FolderGenerator]:
        """Make a generator class for a folder."""
        return type("FolderGenerator", (cls,), {"path": Path(path), "name": f"{FOLDER}{path}"})

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self._files = self._by_class()

    @classmethod
    def _by_class(cls) -> dict[str, list[Path]]:
        """Class name -> its image files, sorted.

        Raises:
            UserError: no such folder, or two sub-folders for one class.
        """
        if not cls.path.is_dir():
            raise UserError(f"--generator {cls.name}: no such folder")
        files: dict[str, list[Path]] = {}
        for folder in sorted(p for p in cls.path.iterdir() if p.is_dir() and p.name[0] != "."):
            word = prompt_word(folder.name)
            if word in files:
                raise UserError(f"--generator {cls.name}: two folders for the class {word!r}")
            files[word] = image_files(folder)
        return files

    @classmethod
    def content_hash(cls) -> str:
        """Over names and bytes. Checks that every file opens as an image, too, so that most damaged
        ones are found before the first fit and not when they are drawn."""
        files = [file for of_class in cls._by_class().values() for file in of_class]
        states = [(file, _stat(cls.path, file)) for file in files]
        return _hash_files(cls.path, tuple((f, s.st_size, s.st_mtime_ns) for f, s in states))

    @cached_property
    def identity(self) -> dict[str, Any]:
        return {"files": self.content_hash()}

    @classmethod
    def check_classes(cls, class_names: Sequence[str], dataset: str) -> None:
        files = cls._by_class()
        absent = [name for name in class_names if not files.get(name)]
        if absent:
            hint = "there are no folders in it"
            if absent[0] in files:
                hint = "that folder is empty"
            elif files:
                hint = did_you_mean(absent[0], files)
            raise UserError(
                f"--generator {cls.name}: no images of {len(absent)} of the {len(class_names)} "
                f"classes of {dataset}; for {absent[0]!r} put some into "
                f"{cls.path / absent[0].replace(' ', '_')}/ ({hint})"
            )

    @classmethod
    def supply(cls, class_name: str) -> int:
        of_class = (f for f in cls.path.iterdir() if prompt_word(f.name) == class_name)
        return sum(len(image_files(f)) for f in of_class if not f.name.startswith("."))

    @classmethod
    def too_many_blank(cls, request: ImageRequest, k: int, blank: Sequence[int]) -> str:
        name = request.class_names[k]
        order = _order(request, k, cls._by_class()[name])
        files = dict.fromkeys(order[i] for i in blank)
        n = len(files) - 1
        others = f" and {n} other file{'s' * (n > 1)}" if n else ""
        return (
            f"--generator {cls.name}: {len(blank)} of {request.counts[k]} images of {name!r} "
            f"(round {request.round}) are blank, more than {100 // ONE_IN} %: "
            f"{next(iter(files))}{others} (all pixels alike; transparent ones are white, and of "
            f"an animation the first frame counts); take them away"
        )

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """[P, 1, 0]: there is no text to embed."""
        return torch.zeros(len(prompts), 1, 0)

    @classmethod
    def size(cls, config: RunConfig) -> Size:
        return Size(0, 0, 0)

    def sample(
        self, c: Tensor, seeds: Sequence[int], graph: Graph = "none", steps: int | None = None
    ) -> Tensor:
        raise NotImplementedError("a folder's images do not follow a text")

    def draw(self, request: ImageRequest, rows: Sequence[tuple[int, int]], attempt: int) -> Tensor:
        """Read the files' images, resized to the request's shape: [B, C, H, W]. A blank file is
        blank at every attempt."""
        classes = {k for k, _ in rows}
        order = {k: _order(request, k, self._files[request.class_names[k]]) for k in classes}
        images = [to_unit_float(read_image(order[k][i])[None]) for k, i in rows]
        return torch.cat([fit_to(image, request.image_shape) for image in images])


def _order(request: ImageRequest, k: int, files: Sequence[Path]) -> list[Path]:
    """A class's files in the order of this request's seed and round."""
    rng = seeding.numpy_rng(request.seed, "folder", request.round, k)
    return [files[i] for i in rng.permutation(len(files))]


@lru_cache(8)
def _hash_files(root: Path, listing: Listing) -> str:
    """Sixteen hex digits over names and bytes; hashed again when the listing changes.

    Raises:
        UserError: a file does not open as an image.
    """
    digest = hashlib.sha256(b"upright")  # names the way in which read_image turns images
    for file, _, _ in listing:
        digest.update(file.relative_to(root).as_posix().encode() + b"\0")
        try:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
                check_opens(stream)
        except Exception as error:  # decoders raise many kinds for damaged files
            raise _unreadable(root, file, error) from error
    return digest.hexdigest()[:16]


def _stat(root: Path, file: Path) -> os.stat_result:
    """
    Raises:
        UserError: a link to a file that is not there, or no permission.
    """
    try:
        return file.stat()
    except OSError as error:
        raise _unreadable(root, file, error) from error


def _unreadable(root: Path, file: Path, error: Exception) -> UserError:
    why = f"cannot be read as an image ({said(error)})"
    if isinstance(error, UnidentifiedImageError):  # whose message is the stream's name
        why = "is no image" if file.stat().st_size else "is empty"
    if file.is_symlink() and not file.exists():
        why = f"is a link to {os.readlink(file)}, which is not there"
    return UserError(f"--generator {FOLDER}{root}: {file} {why}; mend it or take it away")
