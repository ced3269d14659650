"""Random augmentation of training images, in batches on their device.

The random numbers are drawn first, on the CPU and from a stream of their own. Applying them draws
nothing, so every device sees the same images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import RunConfig

Draws = dict[str, Tensor]  # each [B, ...]

RAND_AUGMENT = ("identity", "rotate", "shear_x", "shear_y", "translate_x", "translate_y",
                "brightness", "contrast", "saturation", "posterize", "solarize",
                "autocontrast")  # fmt: skip
STRONGEST = 30  # the scale of RandAugment's magnitude
LUMA = (0.2989, 0.587, 0.114)
ROUNDING = 0.05  # in grey levels: error of a warp by the identity, around k / 255


def draw(n: int, config: RunConfig, rng: torch.Generator) -> Draws:
    """The random numbers for `augment` of n images, on the CPU.

    Args:
        n: B.
        config: for its shift, flip, rotate, zoom and rand_augment.
        rng: stream batches(round).
    """
    draws: Draws = {}
    if config.rotate or config.zoom:
        draws["angle"] = (torch.rand(n, generator=rng) * 2 - 1) * math.radians(config.rotate)
        draws["scale"] = 1 + (torch.rand(n, 2, generator=rng) * 2 - 1) * config.zoom
    if config.flip:
        draws["flip"] = torch.rand(n, generator=rng) < 0.5
    if config.shift:
        draws["shift"] = torch.randint(0, 2 * config.shift + 1, (2, n), generator=rng).T
    if config.rand_augment:
        shape = (n, config.rand_augment)
        draws["operation"] = torch.randint(len(RAND_AUGMENT), shape, generator=rng)
        draws["sign"] = torch.randint(2, shape, generator=rng) * 2.0 - 1
    return draws


def augment(x: Tensor, draws: Draws, config: RunConfig) -> Tensor:
    """Random rotation and zoom, flip, shift, then RandAugment of each image.

    Shift is a random crop after zero padding. Resampling is bilinear, with zeros outside.

    Args:
        x: [B, C, H, W] float in [0, 1].
        draws: from `draw`, on x's device.
        config: the one passed to `draw`.

    Returns:
        [B, C, H, W] in [0, 1].
    """
    if "angle" in draws:
        x = _warp(x, _turned(draws["angle"]) / draws["scale"][:, :, None])
    if "flip" in draws:
        x = torch.where(draws["flip"][:, None, None, None], x.flip(3), x)
    if "shift" in draws:
        x = _crop(x, draws["shift"], config.shift)
    for layer in range(config.rand_augment):
        which, sign = draws["operation"][:, layer], draws["sign"][:, layer]
        x = rand_augment(x, which, sign, config.rand_magnitude / STRONGEST)
    return x


def rand_augment(x: Tensor, which: Tensor, sign: Tensor, strength: float) -> Tensor:
    """One operation of RandAugment (Cubuk et al. 2020) on each image.

    Ranges are torchvision's. Differences: no equalize and sharpness, shear about the centre, and
    bilinear resampling.

    Args:
        x: [B, C, H, W] float in [0, 1].
        which: [B] index into RAND_AUGMENT; sign: [B] -1 or 1; strength: in [0, 1].
    """
    signed = {name: sign * strength * (which == i) for i, name in enumerate(RAND_AUGMENT)}
    matrix = _turned(signed["rotate"] * math.radians(30))
    matrix[:, 0, 1] += 0.3 * signed["shear_x"]
    matrix[:, 1, 0] += 0.3 * signed["shear_y"]
    shares = torch.stack([signed["translate_x"], signed["translate_y"]], 1) * 150 / 331
    x = _warp(x, matrix, shares)
    for name, changed in _recoloured(x, 1 + 0.9 * strength * sign, strength).items():
        x = torch.where((which == RAND_AUGMENT.index(name))[:, None, None, None], changed, x)
    return x.clamp(0, 1)


def _recoloured(x: Tensor, factor: Tensor, strength: float) -> dict[str, Tensor]:
    """Every colour operation applied to every image; factor: [B]."""
    factor = factor[:, None, None, None]
    weights = LUMA if x.shape[1] == 3 else [1 / x.shape[1]] * x.shape[1]
    grey = sum(w * channel for w, channel in zip(weights, x.split(1, 1), strict=True))
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    step = 2 ** round(4 * strength)  # width of a posterized level, in units of 1/255
    return {
        "brightness": x * factor,
        "contrast": torch.lerp(grey.mean((1, 2, 3), keepdim=True), x, factor),
        "saturation": torch.lerp(grey, x, factor),
        "posterize": ((x * 255 + ROUNDING) / step).floor() * step / 255,
        "solarize": torch.where(x + ROUNDING / 255 >= 1 - strength, 1 - x, x),
        "autocontrast": torch.where(high > low, (x - low) / (high - low).clamp_min(1e-6), x),
    }


def _turned(angle: Tensor) -> Tensor:
    """[B] radians -> [B, 2, 2] rotations of (x, y)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def _warp(x: Tensor, matrix: Tensor, shift: Tensor | None = None) -> Tensor:
    """Warp images: the pixel at p, from the centre, is taken from x at matrix·p + shift.

    Args:
        matrix: [B, 2, 2], for pixels (x, y); shift: [B, 2], as a share of width and height.
    """
    aspect = x.shape[3] / x.shape[2]  # both axes of grid_sample run over [-1, 1]
    theta = F.pad(matrix, (0, 1))
    theta[:, 0, 1] /= aspect
    theta[:, 1, 0] *= aspect
    if shift is not None:
        theta[:, :, 2] = 2 * shift
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)


def _crop(x: Tensor, corner: Tensor, pad: int) -> Tensor:
    """Windows of x's size from x with a frame of zeros; corner: [B, 2] row and column."""
    n, channels, height, width = x.shape
    rows = (corner[:, :1] + torch.arange(height, device=x.device))[:, None, :, None]
    columns = (corner[:, 1:] + torch.arange(width, device=x.device))[:, None, None, :]
    image = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[None, :, None, None]
    return F.pad(x, (pad,) * 4)[image, channel, rows, columns]
