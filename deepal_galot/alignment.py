"""One map for all generated images that gives them the unlabeled pool's moments.

With --align pool, for objects on a plain background (digits, garments), the map is affine in the
plane. Mean centroid and mean covariance of the foreground become the pool's, so size, slant and
place agree. With --align channels it is affine in each channel's values. Neither uses labels. The
plane's map is applied before the resize, because at 8×8 pixels a bilinear warp is a blur.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from .images import fit_to, in_parts, to_unit_float

PLAIN = 0.9  # share of corner pixels that must be within NEAR of the background
NEAR = 0.1  # in units of the range of values


@dataclass(frozen=True)
class Moments:
    """Moments of a set of images. Plane coordinates run from -1 to 1, x to the right, y down.

    Attributes:
        mean, std: [C] of the values in [0, 1].
        background: [C] median of the corner pixels if the background is plain, else None.
        center: [2] mean centroid (x, y) of the foreground |value - background|, summed over
            channels.
        covariance: [2, 2] mean of its second central moments. Both None without a foreground.
    """

    mean: Tensor
    std: Tensor
    background: Tensor | None
    center: Tensor | None
    covariance: Tensor | None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The moments that are not None."""
        return {k: v for k, v in vars(self).items() if v is not None}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Moments:
        return cls(**{f.name: tensors.get(f.name) for f in fields(cls)})


def moments_of(images: np.ndarray) -> Moments:
    """[N, H, W, C] uint8, N ≥ 1 -> float64 moments. Blank images do not count for the
    foreground's."""
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]].reshape(-1, images.shape[3])
    corners = corners.astype(np.float32) / np.float32(255)  # same values as to_unit_float
    background = np.median(corners, axis=0).astype(np.float64)
    plain = (np.abs(corners - background) <= NEAR).all(1).mean() >= PLAIN
    sums = [_sums(part, background) for part in in_parts(images)]
    value, square, center, covariance, seen = (sum(s) for s in zip(*sums, strict=True))
    mean = value / len(images)
    std = (square / len(images) - mean.square()).clamp_min(0).sqrt()
    if not plain or seen == 0:
        return Moments(mean, std, None, None, None)
    return Moments(mean, std, torch.from_numpy(background), center / seen, covariance / seen)


def _sums(images: np.ndarray, background: np.ndarray) -> tuple[Tensor, ...]:
    """Sums over images: [C] mean value and mean square, [2] centroid, [2, 2] covariance; and the
    number of images with a foreground."""
    x = to_unit_float(images).double()
    plane = _plane(*x.shape[2:])
    mass = (x - torch.from_numpy(background)[:, None, None]).abs().sum(1).flatten(1)
    mass = mass[mass.sum(1) > 0]
    share = mass / mass.sum(1, keepdim=True)
    center = share @ plane
    second = torch.einsum("np,pa,pb->nab", share, plane, plane)
    covariance = second - center[:, :, None] * center[:, None]
    values = x.mean((2, 3)), x.square().mean((2, 3))
    return *(v.sum(0) for v in (*values, center, covariance)), torch.tensor(len(mass))


def _plane(height: int, width: int) -> Tensor:
    """[H·W, 2] (x, y) of the pixel centers."""
    y, x = ((torch.arange(n, dtype=torch.float64) * 2 + 1) / n - 1 for n in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)


@dataclass(frozen=True)
class Alignment:
    """p ↦ A·p + b in the plane, then v ↦ gain·v + offset in each channel.

    Attributes:
        matrix: [2, 3] float64, (A, b).
        background: [C] value outside of the image.
        gain, offset: [C].
    """

    matrix: Tensor
    background: Tensor
    gain: Tensor
    offset: Tensor

    @classmethod
    def identity(cls, channels: int) -> Alignment:
        zero, one = torch.zeros(channels).double(), torch.ones(channels).double()
        return cls(torch.eye(2, 3).double(), zero, one, zero)

    @classmethod
    def between(cls, generated: Moments, pool: Moments, kind: str) -> Alignment:
        """The map that gives generated images the pool's moments.

        Args:
            generated, pool: moments of images of the same shape.
            kind: "pool": affine in the plane if both have a foreground, else the identity; or
                "channels": affine in the channels' values.
        """
        same = cls.identity(len(pool.mean))
        if kind == "channels":
            gain = torch.where(generated.std > 0, pool.std / generated.std.clamp_min(1e-12), 1.0)
            return cls(same.matrix, same.background, gain, pool.mean - gain * generated.mean)
        if generated.center is None or pool.center is None:
            return same
        a = _transport(generated.covariance, pool.covariance)
        b = pool.center - a @ generated.center
        return cls(torch.cat([a, b[:, None]], 1), generated.background, same.gain, same.offset)

    @property
    def is_identity(self) -> bool:
        same = self.identity(len(self.gain)).tensors
        return all(torch.equal(same[k], v) for k, v in self.tensors.items() if k != "background")

    def fit_to(self, images: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """images.fit_to, with the plane's map before the resize and the channels' map after it.

        The new moments are only nearly the pool's. They were measured after the resize, so they
        contain the covariance K of its kernel, and the map is computed as if K became A·K·Aᵀ. But
        the resize comes after the map, so K stays K.
        """
        images = fit_to(images, shape, self._warped)
        gain, offset = (v.to(images)[:, None, None] for v in (self.gain, self.offset))
        return (gain * images + offset).clamp(0, 1)

    def _warped(self, images: Tensor) -> Tensor:
        """[B, C, H, W] float in [0, 1] of any size -> the same, mapped; differentiable.

        A bilinear grid_sample written by hand, because its gradient is deterministic on a GPU.
        """
        if torch.equal(self.matrix, torch.eye(2, 3).double()):
            return images
        height, width = images.shape[2:]
        back = torch.linalg.inv(self.matrix[:, :2])
        # Source position of each pixel of the result, in pixels.
        x, y = ((_plane(height, width) - self.matrix[:, 2]) @ back.T).unbind(1)
        x, y = ((x + 1) * width - 1) / 2, ((y + 1) * height - 1) / 2
        background = self.background.to(images)[:, None]
        pixels = images.flatten(2) - background
        warped = torch.zeros_like(pixels)
        corners = itertools.product(*((at.floor(), at.floor() + 1) for at in (y, x)))
        for row, column in corners:
            share = (1 - (y - row).abs()) * (1 - (x - column).abs())
            share *= (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            warped = warped + share.to(images) * pixels[..., place.long().to(images.device)]
        return (warped + background).unflatten(2, (height, width))

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


def fit_aligned(images: Tensor, shape: tuple[int, int, int], alignment: Alignment | None) -> Tensor:
    """images.fit_to, with the alignment unless it is None."""
    return fit_to(images, shape) if alignment is None else alignment.fit_to(images, shape)


@dataclass(frozen=True)
class Match:
    """How generated images are aligned to the unlabeled pool.

    Attributes:
        alignment: the map.
        pool: moments of the unlabeled images.
        plain: `mismatch` between plain images and the pool.
    """

    alignment: Alignment
    pool: Moments
    plain: float

    @property
    def tensors(self) -> dict[str, Tensor]:
        pool = {f"pool_{k}": v for k, v in self.pool.tensors.items()}
        return self.alignment.tensors | pool | {"mismatch": torch.tensor(self.plain)}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Match:
        pool = {k.removeprefix("pool_"): v for k, v in tensors.items() if k.startswith("pool_")}
        own = {f.name: tensors[f.name] for f in fields(Alignment)}
        return cls(Alignment(**own), Moments.of_tensors(pool), tensors["mismatch"].item())


def mismatch(a: Moments, b: Moments, kind: str) -> float:
    """Distance between the moments of two sets of images.

    Kind "pool": the 2-Wasserstein distance of the Gaussians with the foregrounds' centers and
    covariances, in units of half the image's side. Kind "channels", or if one has no foreground:
    the root mean square, over channels, of the differences of mean and of standard deviation.
    """
    if kind == "channels" or a.center is None or b.center is None:
        return torch.cat([a.mean - b.mean, a.std - b.std]).square().mean().sqrt().item()
    root = _root(a.covariance)
    spread = a.covariance + b.covariance - 2 * _root(root @ b.covariance @ root)
    return ((a.center - b.center).square().sum() + spread.trace()).clamp_min(0).sqrt().item()


def _transport(of: Tensor, to: Tensor) -> Tensor:
    """The symmetric positive A with A·of·Aᵀ = to that moves a Gaussian the least: of^-½ (of^½ to
    of^½)^½ of^-½ (Olkin & Pukelsheim 1982). The identity if one covariance is singular."""
    if min(torch.linalg.eigvalsh(m).min() for m in (of, to)) <= 1e-9:
        return torch.eye(2).double()
    root = _root(of)
    inverse = torch.linalg.inv(root)
    return inverse @ _root(root @ to @ root) @ inverse


def _root(matrix: Tensor) -> Tensor:
    """Square root of a symmetric positive matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
