"""Image conversions for training, scoring, generation and prediction."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from .errors import UserError, said

AT_ONCE = 2**24  # image values held as floats at the same time: 64 MiB of float32
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"})


def fit_to(
    images: Tensor, shape: tuple[int, int, int], change: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Recolour and resize images to a data set's shape; differentiable. All images take this path.

    Args:
        images: [B, 3 or 1, h, w] float in [0, 1].
        shape: (H, W, C) of the data set.
        change: [B, C, h, w] -> the same shape; applied after recolouring and before resizing, where
            the resolution is highest.

    Returns:
        [B, C, H, W] float in [0, 1], antialiased bilinear; grey is the ITU-R 601 luma.
    """
    height, width, channels = shape
    if images.shape[1] == 3 and channels == 1:
        luma = images.new_tensor([0.299, 0.587, 0.114])
        images = (images * luma[:, None, None]).sum(1, keepdim=True)
    elif images.shape[1] == 1 and channels == 3:
        images = images.expand(-1, 3, -1, -1)
    if change is not None:
        images = change(images)
    if images.shape[2:] != (height, width):
        rows = _resize_matrix(images.shape[2], height).to(images)
        columns = _resize_matrix(images.shape[3], width).to(images)
        images = rows @ images @ columns.T
    return images.clamp(0, 1)


@functools.lru_cache(256)  # bounded: a folder of photographs may hold any number of sizes
def _resize_matrix(n: int, m: int) -> Tensor:
    """[m, n] weights of torch's antialiased bilinear resize of one axis from n to m pixels.

    A resize as a matrix product has a deterministic gradient on a GPU; F.interpolate has not.
    """
    identity = torch.eye(n, dtype=torch.float64)[None, None]
    return F.interpolate(identity, (m, n), mode="bilinear", antialias=True)[0, 0]


def in_parts(images: np.ndarray) -> list[np.ndarray]:
    """Split [N, H, W, C] images, N ≥ 1, into even parts of about AT_ONCE values, at least one image
    each."""
    return np.array_split(images, min(len(images), -(-images.size // AT_ONCE)))


def to_uint8(images: Tensor) -> np.ndarray:
    """[B, C, H, W] float in [0, 1] -> [B, H, W, C] uint8, rounded."""
    return images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def png_bytes(image: np.ndarray) -> bytes:
    """[H, W, 3 or 1] uint8 -> a PNG file's content."""
    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(out, format="png")
    return out.getvalue()


def to_unit_float(images: np.ndarray | Tensor) -> Tensor:
    """[B, H, W, C] uint8 -> [B, C, H, W] float32 in [0, 1]."""
    images = images if isinstance(images, Tensor) else torch.tensor(images)
    return images.permute(0, 3, 1, 2).float().div(255)


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name, without hidden ones; empty if there is no
    folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # knows folders without a system call for each
        # Not is_file(): a broken link must not be skipped; reading it gives an error with its name.
        names = [e.name for e in entries if not e.is_dir() and not e.name.startswith(".")]
    return sorted(folder / n for n in names if Path(n).suffix.lower() in IMAGE_SUFFIXES)


def read_image(file: Path | zipfile.Path) -> np.ndarray:
    """One image as [H, W, C] uint8: C = 1 if its file holds only grey levels, else 3.

    Upright, by its EXIF orientation. 16-bit grey is scaled to 8 bits. Transparent pixels are put on
    white. Of an animation the first frame is read.

    Raises:
        UserError: the file cannot be read as an image.
    """
    try:
        with _large_ones_too(), file.open("rb") as stream, Image.open(stream) as image:
            old = image.mode == "I" and image.format == "PNG"  # Pillow 10's mode for 16 bits
            image = _upright(image)
            if old or image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
                return (np.asarray(image) // 257).astype(np.uint8)[..., None]
            if image.mode in ("I", "F"):
                raise UserError(f"{file}: 32-bit pixels have no known range; save it with 8 or 16")
            grey = image.mode in ("1", "L", "LA")
            if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            pixels = np.array(image.convert("L" if grey else "RGB"))
    except UserError:
        raise
    except Exception as error:  # decoders raise many kinds for damaged files
        raise UserError(f"{file}: cannot be read as an image ({said(error)})") from error
    return pixels.reshape(*pixels.shape[:2], 1 if grey else 3)


def check_opens(stream: BinaryIO) -> None:
    """Raise an error, of many kinds, if an open file does not begin as an image; most of the pixels
    are not decoded."""
    stream.seek(0)
    with _large_ones_too(), Image.open(stream) as image:
        image.verify()


@contextlib.contextmanager
def _large_ones_too() -> Iterator[None]:
    """Open images of any number of pixels without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _upright(image: Image.Image) -> Image.Image:
    """The image turned by its EXIF orientation, because phones store images as their sensor saw
    them."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF block; the pixels may be fine
        return image


def resize_image(pixels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """[H, W, C] uint8, resized and recoloured to a shape by `fit_to`."""
    return to_uint8(fit_to(to_unit_float(pixels[None]), shape))[0]


def load_image(file: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """One image file as [H, W, C] uint8 of the given shape.

    Raises:
        UserError: the file cannot be read as an image.
    """
    return resize_image(read_image(file), shape)
