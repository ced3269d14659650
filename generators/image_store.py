"""Every generated image, kept and reusable: shards on disk, addressed by what they hold.

A shard is a fixed range of at most 256 image indices of one class. Its name hashes everything its
pixels depend on, so runs and processes share a store without locks, and nothing stale is ever read.
Images are made in batches of one canonical order, so a run that was interrupted makes the same
batches, and bit for bit the same pixels, as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from deepal_galot import seeding
from deepal_galot.disk import atomic_write_npz
from deepal_galot.errors import UserError
from deepal_galot.images import fit_to, to_uint8

from .base import Generator

SHARD = 256  # image indices a shard
ATTEMPTS = 4  # the first and three retries for an image that comes out blank


@dataclass(frozen=True)
class Refinement:
    """What makes an image's own text embedding of its prompt's.

    Attributes:
        identity: hash of all that `apply` depends on but its arguments.
        apply: (c [B, L, D], the images' seeds, [B] rows of Request.c) -> c [B, L, D].
    """

    identity: str
    apply: Callable[[Tensor, Sequence[int], Tensor], Tensor]


@dataclass(frozen=True)
class Request:
    """One round's images.

    Attributes:
        c: [C·P, L, D] float32 text embeddings, P a class; image i of a class has its (i mod P)-th.
        counts: C numbers of images.
        prompts: C·P prompts.
        image_shape: (H, W, C) of the data set; images are resized to it.
        seed, round: address of the image stream.
        refinement: gives each image a text embedding of its own, if there is one.
    """

    c: Tensor
    counts: tuple[int, ...]
    prompts: tuple[str, ...]
    image_shape: tuple[int, int, int]
    seed: int
    round: int
    refinement: Refinement | None = None

    def key(self, generator: Generator) -> str:
        """Forty hex digits over all that the pixels depend on."""
        what = {
            "version": 2,
            "resize": "bilinear, antialiased",
            "generator": generator.identity,
            "counts": self.counts,
            "prompts": self.prompts,
            "shape": self.image_shape,
            "seed": self.seed,
            "round": self.round,
            "refinement": self.refinement and self.refinement.identity,
        }
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
        digest.update(self.c.contiguous().numpy().tobytes())
        return digest.hexdigest()[:40]

    def text(self, k: int, i: int) -> int:
        """Which row of c and prompts image i of class k has."""
        per_class = len(self.prompts) // len(self.counts)
        return k * per_class + i % per_class

    def rows(self) -> list[tuple[int, int]]:
        """(class, index) of every image, in the canonical order."""
        return [(k, i) for k, n in enumerate(self.counts) for i in range(n)]


@dataclass(frozen=True)
class Images:
    """uint8 images [N, H, W, C] and pseudo-labels [N] int64, class by class; how many were new."""

    x: np.ndarray
    y: np.ndarray
    made: int


class ImageStore:
    """A folder of shards."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, generator: Generator, request: Request) -> Images:
        """The requested images: read where they exist, made and stored where they do not."""
        rows, key = request.rows(), request.key(generator)
        y = np.array([k for k, _ in rows], np.int64)
        x = np.zeros((len(rows), *request.image_shape), np.uint8)
        missing: dict[Path, np.ndarray] = {}
        for path, where in self._shards(key, rows).items():
            stored = _read_shard(path, (len(where), *request.image_shape))
            if stored is None:
                missing[path] = where
            else:
                x[where] = stored
        made = self._make(generator, request, rows, x, missing)
        return Images(x, y, made)

    def holds(self, generator: Generator, request: Request) -> bool:
        """Whether all of the requested images exist."""
        shards = self._shards(request.key(generator), request.rows())
        shape = request.image_shape
        return all(_read_shard(p, (len(where), *shape)) is not None for p, where in shards.items())

    def _shards(self, key: str, rows: Sequence[tuple[int, int]]) -> dict[Path, np.ndarray]:
        """Shard file -> its positions in the canonical order."""
        shards: dict[Path, list[int]] = {}
        for position, (k, i) in enumerate(rows):
            name = f"{key}-{k:04d}-{i // SHARD:04d}.npz"
            shards.setdefault(self.root / key[:2] / name, []).append(position)
        return {path: np.array(where) for path, where in shards.items()}

    def _make(
        self, generator: Generator, request: Request, rows: Sequence[tuple[int, int]],
        x: np.ndarray, missing: dict[Path, np.ndarray],
    ) -> int:  # fmt: skip
        """Fill x at the missing shards' positions, writing each shard as soon as it is whole."""
        needed = np.zeros(len(rows), bool)
        for where in missing.values():
            needed[where] = True
        starts = [s for s in range(0, len(rows), generator.batch_size)
                  if needed[s : s + generator.batch_size].any()]  # fmt: skip
        made = int(needed.sum())
        with tqdm(total=made, desc="  images", unit="img", leave=False, disable=None) as bar:
            for start in starts:
                part = slice(start, start + generator.batch_size)
                new = draw(generator, request, rows[part])
                take = needed[part]
                x[part][take] = new[take]
                needed[part] = False
                bar.update(int(take.sum()))
                for path in [p for p, where in missing.items() if not needed[where].any()]:
                    where = missing.pop(path)
                    prompt = request.prompts[request.text(*rows[where[0]])]
                    atomic_write_npz(path, images=x[where], prompt=np.array(prompt))
        return made


def draw(generator: Generator, request: Request, rows: Sequence[tuple[int, int]]) -> np.ndarray:
    """One batch of images; those that come out blank or not finite are drawn again.

    Args:
        rows: (class, index) of each image; at most generator.batch_size of them.

    Returns:
        [B, H, W, C] uint8.

    Raises:
        UserError: an image is still blank after three more seeds.
    """
    x = np.zeros((len(rows), *request.image_shape), np.uint8)
    pending = np.arange(len(rows))
    for attempt in range(ATTEMPTS):
        images = [rows[p] for p in pending]
        seeds = [
            seeding.derive(request.seed, "image", request.round, k, i, attempt) for k, i in images
        ]
        texts = torch.tensor([request.text(k, i) for k, i in images])
        c = request.c[texts]
        if request.refinement is not None:
            c = request.refinement.apply(c, seeds, texts)
        raw = generator.sample(c, seeds)
        good = _is_picture(raw)
        x[pending[good]] = to_uint8(fit_to(raw, request.image_shape))[good]
        pending = pending[~good]
        if len(pending) == 0:
            return x
    k, i = rows[pending[0]]
    prompt = request.prompts[request.text(k, i)]
    raise UserError(
        f"the generator gave {ATTEMPTS} blank images in a row for {prompt!r} (image {i}, round "
        f"{request.round}): its numbers overflow; try another --scheduler or --guidance"
    )


def _is_picture(images: Tensor) -> np.ndarray:
    """[B] bool: finite and not one single colour."""
    flat = images.flatten(2)
    varies = (flat.amax(2) - flat.amin(2)).amax(1) > 1 / 255
    return (torch.isfinite(flat).all(2).all(1) & varies).cpu().numpy()


def _read_shard(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A shard's images, or None if it is not there or damaged (zip checks each array's CRC)."""
    try:
        with np.load(path, allow_pickle=False) as npz:
            images = npz["images"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None
