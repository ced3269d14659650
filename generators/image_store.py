"""Generated images, kept on disk for reuse in shards whose names are hashes.

A shard is a fixed range of at most 256 image indices of one class. Its name is a hash of everything
its pixels depend on. So runs and processes can share a store without locks, and no stale shard is
read. Beside each shard lies its manifest, one line of JSON, which is written last. The manifest
holds the shard's checksum and its own. A shard that does not match is made again. Images are made
in batches in one canonical order. So an interrupted run makes the same batches, and bit for bit the
same pixels, as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from deepal_galot.alignment import fit_aligned
from deepal_galot.disk import atomic_write, npz_bytes
from deepal_galot.errors import UserError
from deepal_galot.images import png_bytes, to_uint8

from .base import ATTEMPTS, ONE_IN, Generator, ImageRequest, check_sample

SHARD = 256  # image indices per shard

Rows = Sequence[tuple[int, int]]  # (class, index) of some images
Batch = tuple[np.ndarray, np.ndarray, list[np.ndarray | None]]  # see `draw`


@dataclass(frozen=True)
class Images:
    """The images of a request.

    Attributes:
        x: [N, H, W, C] uint8, class by class; images that stayed blank are left out.
        y: [N] int64 pseudo-labels.
        key: the request's key, under which the images are stored.
        made: number of images that were not stored before.
        retried: number that came out blank and were drawn again, now or when they were stored.
        failed: number that stayed blank.
        seconds_stored: time it once took to draw the images that were not drawn now.
    """

    x: np.ndarray
    y: np.ndarray
    key: str
    made: int
    retried: int
    failed: int
    seconds_stored: float


class _Drawn:
    """A request's images in the canonical order, while they are read and drawn.

    Attributes:
        rows: (class, index) of each image; y: [N] int64 its class.
        x: [N, H, W, C] uint8.
        attempt: [N] uint8 number of the attempt that gave the image; ATTEMPTS if none did.
        seconds: [N] time it took to draw the image, now or when it was stored.
        now: [N] bool, whether it was drawn now.
    """

    def __init__(self, request: ImageRequest, key: str) -> None:
        self.request, self.key, self.rows = request, key, request.rows()
        self.y = np.array([k for k, _ in self.rows], np.int64)
        self.x = np.zeros((len(self.rows), *request.image_shape), np.uint8)
        self.attempt = np.zeros(len(self.rows), np.uint8)
        self.seconds = np.zeros(len(self.rows))
        self.now = np.zeros(len(self.rows), bool)

    @property
    def failed(self) -> np.ndarray:
        """[N] bool: images that stayed blank."""
        return self.attempt == ATTEMPTS

    def check(self, generator: Generator) -> None:
        """
        Raises:
            UserError: more than 5 % of a class stayed blank.
        """
        failed = np.bincount(self.y[self.failed], minlength=len(self.request.counts))
        for k, (n, count) in enumerate(zip(failed, self.request.counts, strict=True)):
            if n * ONE_IN > count:
                rows = np.flatnonzero(self.failed & (self.y == k))
                blank = [self.rows[position][1] for position in rows]
                raise UserError(generator.too_many_blank(self.request, k, blank))

    def images(self, made: int) -> Images:
        good = ~self.failed
        retried, failed = int((self.attempt > 0).sum()), int(self.failed.sum())
        stored = float(self.seconds[~self.now].sum())
        return Images(self.x[good], self.y[good], self.key, made, retried, failed, stored)


@dataclass(frozen=True)
class FullSizeFolder:
    """The first images of each class and round at full resolution, as PNG, for people to look at.

    Attributes:
        folder: <folder>/round002/003_cat_0000.png is the first image of class 3, "cat".
        first: number of images per class and round.
    """

    folder: Path
    first: int

    def file(self, request: ImageRequest, row: tuple[int, int]) -> Path:
        """The path of the image at this (class, index)."""
        k, i = row
        name = re.sub(r"[^\w.+-]+", "_", request.class_names[k])
        return self.of_round(request.round) / f"{k:03d}_{name}_{i:04d}.png"

    def of_round(self, round: int) -> Path:
        """The folder of a round's images."""
        return self.folder / f"round{round:03d}"

    def lacks(self, drawn: _Drawn) -> np.ndarray:
        """[N] bool: images that belong into the folder and are not there yet."""
        return np.array(
            [
                row[1] < self.first and not failed and not self.file(drawn.request, row).exists()
                for row, failed in zip(drawn.rows, drawn.failed, strict=True)
            ],
            bool,
        )


class DrawBatches(Protocol):
    """Draws batches of a request, in this process or elsewhere.

    Because an image depends on its address alone, it is the same wherever it is drawn.
    """

    def __call__(
        self, generator: Generator, request: ImageRequest, batches: Sequence[Rows], full: bool
    ) -> Iterator[tuple[int, Batch]]:
        """
        Args:
            batches: the rows of each batch, at most generator.batch_size.
            full: whether images at full resolution are wanted, too.

        Returns:
            (position in `batches`, the batch as `draw` returns it), in any order.
        """
        ...


def draw_here(
    generator: Generator, request: ImageRequest, batches: Sequence[Rows], full: bool
) -> Iterator[tuple[int, Batch]]:
    """Draw one batch after the other in this process; see DrawBatches."""
    for position, rows in enumerate(batches):
        yield position, draw(generator, request, rows, full)


class ImageStore:
    """A folder of shards and, if wanted, a folder of the first images at full size."""

    def __init__(
        self,
        root: Path,
        full_size: FullSizeFolder | None = None,
        draw_batches: DrawBatches = draw_here,
    ) -> None:
        self.root, self.full_size, self.draw_batches = root, full_size, draw_batches

    def get(self, generator: Generator, request: ImageRequest) -> Images:
        """Read the requested images from the store; make and store those that are missing.

        Raises:
            UserError: more than 5 % of a class stayed blank.
        """
        drawn = _Drawn(request, request.key(generator))
        missing = self._read(drawn)
        drawn.check(generator)
        return drawn.images(self._make(generator, drawn, missing))

    def find(self, key: str, request: ImageRequest) -> Images | None:
        """Read a request's images by its key, without the generator.

        Returns:
            The images; None if a shard is missing or damaged.
        """
        drawn = _Drawn(request, key)
        return None if self._read(drawn) else drawn.images(0)

    def _read(self, drawn: _Drawn) -> dict[Path, np.ndarray]:
        """Fill `drawn` from the stored shards. Returns the missing shards and their positions."""
        missing = {}
        for path, where in self._shards(drawn).items():
            stored = _read_shard(path, drawn, where)
            if stored is None:
                missing[path] = where
            else:
                arrays, seconds = stored
                drawn.x[where], drawn.attempt[where] = arrays["images"], arrays["attempt"]
                drawn.seconds[where] = seconds / len(where)
        return missing

    def _shards(self, drawn: _Drawn) -> dict[Path, np.ndarray]:
        """Shard file -> its positions in the canonical order."""
        shards: dict[Path, list[int]] = {}
        for position, (k, i) in enumerate(drawn.rows):
            name = f"{drawn.key}-{k:04d}-{i // SHARD:04d}.npz"
            shards.setdefault(self.root / drawn.key[:2] / name, []).append(position)
        return {path: np.array(where) for path, where in shards.items()}

    def _make(self, generator: Generator, drawn: _Drawn, missing: dict[Path, np.ndarray]) -> int:
        """Draw the images of missing shards and those that the full-size folder lacks.

        Each shard is written as soon as it is complete.

        Returns:
            Number of images in the missing shards.
        """
        size, request = generator.batch_size, drawn.request
        needed = np.zeros(len(drawn.rows), bool)
        for where in missing.values():
            needed[where] = True
        made = int(needed.sum())
        shown = self.full_size.lacks(drawn) if self.full_size else np.zeros_like(needed)
        starts = [s for s in range(0, len(needed), size) if (needed | shown)[s : s + size].any()]
        batches = [drawn.rows[start : start + size] for start in starts]
        before = time.perf_counter()
        with tqdm(total=made, desc="  images", unit="img", leave=False, disable=None) as bar:
            for n, batch in self.draw_batches(generator, request, batches, bool(shown.any())):
                part = slice(starts[n], starts[n] + size)
                drawn.now[part] = True
                drawn.seconds[part] = (time.perf_counter() - before) / len(batches[n])
                self._take(drawn, part, batch, needed, shown)
                drawn.check(generator)
                bar.update(int(needed[part].sum()))
                needed[part] = False
                for path in [p for p, where in missing.items() if not needed[where].any()]:
                    _write_shard(path, drawn, missing.pop(path))
                before = time.perf_counter()
        return made

    def _take(
        self, drawn: _Drawn, part: slice, batch: Batch, needed: np.ndarray, shown: np.ndarray
    ) -> None:
        """Copy the needed images of a batch into `drawn`, and write its full-size pictures."""
        x, attempt, full = batch
        take = np.flatnonzero(needed[part])
        drawn.x[part][take], drawn.attempt[part][take] = x[take], attempt[take]
        for i in np.flatnonzero(shown[part]):
            if full[i] is not None:
                file = self.full_size.file(drawn.request, drawn.rows[part][i])
                atomic_write(file, png_bytes(full[i]))


def draw(generator: Generator, request: ImageRequest, rows: Rows, full: bool = True) -> Batch:
    """Draw one batch of images. An image that is blank or not finite is drawn again, up to three
    times.

    Args:
        rows: (class, index) of each image; at most generator.batch_size of them.
        full: whether images at full resolution are wanted, too.

    Returns:
        ([B, H, W, C] uint8; [B] uint8 the attempt that gave each image, ATTEMPTS if none did;
        B images [S, S, C'] uint8 at full resolution, None if none came out or `full` is false).
    """
    x = np.zeros((len(rows), *request.image_shape), np.uint8)
    attempt = np.full(len(rows), ATTEMPTS, np.uint8)
    pictures: list[np.ndarray | None] = [None] * len(rows)
    pending = np.arange(len(rows))
    for number in range(ATTEMPTS):
        raw = generator.draw(request, [rows[p] for p in pending], number)
        check_sample(generator, raw, len(pending))
        good = _is_picture(raw)
        came = pending[good]
        raw = raw[torch.from_numpy(good).to(raw.device)]
        x[came] = to_uint8(fit_aligned(raw, request.image_shape, request.alignment))
        attempt[came] = number
        if full:
            for position, image in zip(came, to_uint8(raw), strict=True):
                pictures[position] = image
        pending = pending[~good]
        if len(pending) == 0:
            break
    return x, attempt, pictures


def _is_picture(images: Tensor) -> np.ndarray:
    """[B] bool: finite, and a channel varies by more than 1/255 over the image."""
    flat = images.flatten(2)
    varies = (flat.amax(2) - flat.amin(2)).amax(1) > 1 / 255
    return (torch.isfinite(flat).all(2).all(1) & varies).cpu().numpy()


# -- one shard on disk -------------------------------------------------------------------------


def _write_shard(path: Path, drawn: _Drawn, where: np.ndarray) -> None:
    """Write the shard, then its manifest."""
    request, attempt = drawn.request, drawn.attempt[where]
    data = npz_bytes(images=drawn.x[where], labels=drawn.y[where], attempt=attempt)
    k = int(drawn.y[where[0]])
    record = _address(drawn, where) | {
        "class_name": request.class_names[k],
        "prompt": request.prompt(k),
        "distance": request.distance(k),
        "seed": request.seed,
        "round": request.round,
        "retried": int((attempt > 0).sum()),
        "failed": int((attempt == ATTEMPTS).sum()),
        "seconds": round(drawn.seconds[where].sum(), 3),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "shard_sha256": hashlib.sha256(data).hexdigest(),
    }
    atomic_write(path, data)
    atomic_write(path.with_suffix(".json"), _sealed(record))


def _address(drawn: _Drawn, where: np.ndarray) -> dict[str, Any]:
    """The address of a shard in its manifest: the request's key and the range of images."""
    k, first = drawn.rows[where[0]]
    return {"key": drawn.key, "class": k, "first": first, "count": len(where)}


def _sealed(record: dict[str, Any]) -> bytes:
    """A manifest as one line of JSON; its last entry is the checksum of the others."""
    seal = hashlib.sha256(json.dumps(record).encode()).hexdigest()
    return (json.dumps(record | {"manifest_sha256": seal}) + "\n").encode()


def read_manifest(file: Path) -> dict[str, Any] | None:
    """A shard's manifest; None if it is missing or not byte for byte as it was written."""
    try:
        data = file.read_bytes()
        record = json.loads(data)
        del record["manifest_sha256"]
        intact = _sealed(record) == data
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return record if intact else None


def _read_shard(
    path: Path, drawn: _Drawn, where: np.ndarray
) -> tuple[dict[str, np.ndarray], float] | None:
    """A shard's arrays and the seconds that drawing took; None if the shard is missing, damaged or
    has another address."""
    record = read_manifest(path.with_suffix(".json"))
    if record is None or not _address(drawn, where).items() <= record.items():
        return None
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != record["shard_sha256"]:
        return None
    with np.load(io.BytesIO(data), allow_pickle=False) as npz:
        return {name: npz[name] for name in npz.files}, record["seconds"]
