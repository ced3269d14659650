"""Seeded renders of digits with captions that describe them: the tiny model's training data.

A font glyph is reduced to its skeleton: points with a stroke radius. Slant, width, bends, pen and
framing, which vary between hands, then act on the points. The image is drawn from the points once,
at the final size, so warping does not change the stroke width that the caption names.

No data set is read. The ranges below were chosen by the accuracy of a small network on MNIST
digits, cropped and refitted to the full height of the frame. The network was trained on renders
only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter, ImageFont

IMAGE_SIZE = 32
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STYLE_WORDS = ("handwritten", "printed", "bold", "thin", "large", "small", "tilted", "centered")
NOUNS = ("digit", "number")
PREFIXES = (
    "{}",
    "a {}",
    "the {}",
    "a photo of a {}",
    "a realistic photo of a {}",
    "a simple photo of a {}",
    "a recent photograph of a {}",
    "a recent color photograph of a {}, ultra detailed, 4k resolution",
    "a drawing of a {}",
    "a drawing of the {}",
    "a picture of a {}",
    "an image of the {}",
)

_GLYPH_HEIGHT = 96  # pixels; height of a glyph when it is thinned
_GLYPH_POINTS = 192  # skeleton points that are kept
_EXTRA_POINTS = 24  # points of the bar of a crossed seven or the loop of a two
_NIST_WIDTH = 20  # columns to which a full-height shape is stretched, on average
_STRETCH = (0.6, 2.4)  # limits of this stretch, so that a narrow shape does not become a block
_SMALL = IMAGE_SIZE * 20 / 28  # MNIST keeps a digit in the central 20 of 28 pixels
_HALF_STROKE = (1.3, 3.4)  # pixels, at full height
_BOLD, _THIN = 2.7, 2.0  # half-strokes above and below which a caption may say bold and thin


@dataclass(frozen=True)
class Glyph:
    """The skeleton of one digit of one font.

    Attributes:
        digit: 0..9.
        printed: whether the font imitates print rather than handwriting.
        points: float32 [192, 2], (x, y), y down, centred, in units of the glyph's height.
        ratio: float32 [192], stroke radius at each point over the glyph's mean radius.
    """

    digit: int
    printed: bool
    points: np.ndarray
    ratio: np.ndarray


@dataclass(frozen=True)
class Renders:
    """A batch of captioned renders.

    Attributes:
        labels: int64 [N], 0..9.
        captions: N texts.
        images: uint8 [N, 32, 32], white stroke on black.
    """

    labels: np.ndarray
    captions: list[str]
    images: np.ndarray


def load_glyphs(files: Sequence[Path], printed: bool) -> list[Glyph]:
    """Read the ten digits of every font file.

    Args:
        files: font files that Pillow can open.
        printed: whether these fonts imitate print.

    Returns:
        Ten glyphs for each font, in the order of the files.

    Raises:
        OSError: a file is missing or is not a font.
    """
    return [_glyph(file, digit, printed) for file in files for digit in range(10)]


def _glyph(file: Path, digit: int, printed: bool) -> Glyph:
    mask = _glyph_mask(file, str(digit))
    rows, columns = np.nonzero(_thin(mask))
    skeleton = np.stack([columns, rows], axis=1).astype(np.float32)
    radius = _distance_to_background(mask, skeleton)
    keep = np.linspace(0, len(skeleton) - 1, _GLYPH_POINTS).round().astype(int)
    points, radius = skeleton[keep], radius[keep]
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - (low + high) / 2) / (high[1] - low[1])
    return Glyph(digit, printed, points, radius / radius.mean())


def _glyph_mask(file: Path, text: str) -> np.ndarray:
    """Draw one character, cropped and scaled to 96 px height, with an empty margin: bool [H, W]."""
    font = ImageFont.truetype(str(file), 240)
    canvas = Image.new("L", (720, 720))
    ImageDraw.Draw(canvas).text((360, 460), text, fill=255, font=font, anchor="ms")
    box = canvas.getbbox()
    if box is None:
        raise OSError(f"{file.name} draws nothing for {text!r}")
    width = max(1, round((box[2] - box[0]) * _GLYPH_HEIGHT / (box[3] - box[1])))
    glyph = canvas.crop(box).resize((width, _GLYPH_HEIGHT), Image.Resampling.LANCZOS)
    framed = Image.new("L", (width + 8, _GLYPH_HEIGHT + 8))
    framed.paste(glyph, (4, 4))
    # Blur, because the skeleton of a rough outline would have a spur at every bump.
    return np.asarray(framed.filter(ImageFilter.GaussianBlur(1.5))) > 110


def _thin(mask: np.ndarray) -> np.ndarray:
    """Thin a shape to one pixel (T. Y. Zhang and C. Y. Suen, CACM 27(3), 1984).

    Args:
        mask: bool [H, W] whose border is False.

    Returns:
        The skeleton, bool [H, W].
    """
    image = mask.copy()
    changed = True
    while changed:
        changed = False
        for first in (True, False):
            delete = image & _removable(image, first)
            image &= ~delete
            changed |= bool(delete.any())
    return image


def _removable(image: np.ndarray, first: bool) -> np.ndarray:
    pad = np.pad(image, 1).astype(np.uint8)
    height, width = image.shape
    offsets = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
    ring = [pad[1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in offsets]
    north, _, east, _, south, _, west, _ = ring
    count = sum(ring)
    turns = sum((a == 0) & (b == 1) for a, b in zip(ring, ring[1:] + ring[:1], strict=True))
    if first:
        open_side = (north * east * south == 0) & (east * south * west == 0)
    else:
        open_side = (north * east * west == 0) & (north * south * west == 0)
    return (count >= 2) & (count <= 6) & (turns == 1) & open_side


def _distance_to_background(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(~mask)
    background = torch.from_numpy(np.stack([columns, rows], axis=1).astype(np.float32))
    return torch.cdist(torch.from_numpy(points), background).amin(dim=1).numpy()


@dataclass(frozen=True)
class _Style:
    """Random style of N renders; every field is an array of length N."""

    printed: np.ndarray
    small: np.ndarray
    tilted: np.ndarray
    half_stroke: np.ndarray  # pixels at full height
    contrast_of_pen: np.ndarray  # exponent on the font's own stroke ratio: 0 uniform, 1 the font's


def _draw_style(printed: np.ndarray, rng: np.random.Generator) -> _Style:
    n = len(printed)
    return _Style(
        printed=printed,
        small=rng.random(n) < 0.15,
        tilted=rng.random(n) < 0.08,
        half_stroke=rng.uniform(*_HALF_STROKE, n),
        contrast_of_pen=np.where(printed, 1.0, rng.choice([0.0, 0.5, 1.0], n, p=[0.5, 0.3, 0.2])),
    )


def render(
    glyphs: Sequence[Glyph], n: int, seed: int, printed_share: float = 0.15, batch: int = 64
) -> Renders:
    """Draw n captioned digits.

    Args:
        glyphs: from `load_glyphs`. If all are printed or none is, printed_share is not used.
        n: number of renders.
        seed: the same seed and glyphs give the same renders.
        printed_share: share of renders from printed fonts, 0..1.
        batch: renders drawn at once; changes memory, not the result.

    Returns:
        The renders, digits in random order.
    """
    rng = np.random.default_rng(seed)
    is_printed = np.array([glyph.printed for glyph in glyphs])
    if is_printed.all() or not is_printed.any():
        printed_share = float(is_printed.all())
    want_printed = rng.random(n) < printed_share
    pick = np.where(
        want_printed,
        rng.choice(np.flatnonzero(is_printed), n) if is_printed.any() else 0,
        rng.choice(np.flatnonzero(~is_printed), n) if not is_printed.all() else 0,
    )
    labels = np.array([glyph.digit for glyph in glyphs])[pick]
    style = _draw_style(want_printed, rng)
    points, ratio = _skeletons(glyphs, pick, style, rng)
    points = _bend(points, style, rng)
    points, radius, stretch = _fit(points, ratio, style, rng)
    parts = [slice(i, i + batch) for i in range(0, n, batch)]
    images = np.concatenate([_rasterise(points[p], radius[p], stretch[p]) for p in parts])
    images = np.clip(images * rng.uniform(0.85, 1.1, (n, 1, 1)), 0, 1)
    captions = [_caption(int(label), style, i, rng) for i, label in enumerate(labels)]
    return Renders(labels.astype(np.int64), captions, np.rint(images * 255).astype(np.uint8))


def _skeletons(
    glyphs: Sequence[Glyph], pick: np.ndarray, style: _Style, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Gather points [N, 216, 2] and radius ratios [N, 216]; add loops and bars to some twos and
    sevens."""
    points = np.stack([glyph.points for glyph in glyphs])[pick]
    ratio = np.stack([glyph.ratio for glyph in glyphs])[pick] ** style.contrast_of_pen[:, None]
    # Every skeleton has 24 extra points. If nothing is added, they repeat its first point.
    points = np.concatenate([points, np.repeat(points[:, :1], _EXTRA_POINTS, axis=1)], axis=1)
    ratio = np.concatenate([ratio, np.repeat(ratio[:, :1], _EXTRA_POINTS, axis=1)], axis=1)
    added = {2: _two_loop, 7: _seven_bar}
    for i in np.flatnonzero(~style.printed & (rng.random(len(pick)) < 0.35)):
        draw = added.get(glyphs[pick[i]].digit)
        extra = draw(points[i, :_GLYPH_POINTS], rng) if draw else None
        if extra is not None:
            points[i, _GLYPH_POINTS:] = extra
            ratio[i, _GLYPH_POINTS:] = 1.0
    return points.astype(np.float32), ratio.astype(np.float32)


def _two_loop(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a small ellipse [24, 2] that starts and ends in the lower left corner of a two."""
    corner = points[np.argmax(points[:, 1] - points[:, 0])]
    wide, high = rng.uniform(0.06, 0.17), rng.uniform(0.05, 0.12)
    angle = np.linspace(0, 2 * np.pi, _EXTRA_POINTS)
    return corner + np.stack([wide * (1 - np.cos(angle)), high * (np.sin(angle) - 0.6)], axis=1)


def _seven_bar(points: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Return a short stroke [24, 2] across the stem; None if the font already crosses its seven."""
    y = rng.uniform(-0.05, 0.12)
    stem = points[np.abs(points[:, 1] - y) < 0.06, 0]
    if not len(stem) or np.ptp(stem) > 0.25:
        return None
    reach = rng.uniform(0.14, 0.3)
    along = np.linspace(-reach, reach, _EXTRA_POINTS)
    slope = rng.normal(-0.1, 0.15)
    return np.stack([stem.mean() + along, y + slope * along], axis=1)


def _bend(points: np.ndarray, style: _Style, rng: np.random.Generator) -> np.ndarray:
    """Apply width, shear, rotation and two smooth random displacement fields: [N, P, 2]."""
    n = len(points)
    hand = np.where(style.printed, 0.15, 1.0)
    turn = rng.normal(0, 0.12, n) * hand
    turn += style.tilted * rng.choice([-1.0, 1.0], n) * rng.uniform(0.3, 0.65, n)
    # NIST's reader removes most of the slant; MNIST keeps it.
    shear = rng.normal(0, 1, n) * np.where(style.small, 0.25, 0.1) * hand
    stretch = np.exp(rng.normal(0, 0.14, n) * np.maximum(hand, 0.5))
    strength = hand * rng.uniform(0.1, 1.0, n)
    for cells, size in ((3, 0.09), (6, 0.03)):
        field = rng.normal(0, size, (n, 2, cells, cells)) * strength[:, None, None, None]
        points = points + _sample_field(field.astype(np.float32), points)
    x = points[..., 0] * stretch[:, None] - points[..., 1] * shear[:, None]
    y = points[..., 1]
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    return np.stack([x * cos - y * sin, x * sin + y * cos], axis=2).astype(np.float32)


def _sample_field(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Read smooth displacements [N, P, 2] from a coarse grid [N, 2, cells, cells] at points."""
    grid = torch.from_numpy(points / 0.6)[:, :, None]
    smooth = F.grid_sample(
        torch.from_numpy(field), grid, mode="bicubic", padding_mode="border", align_corners=True
    )
    return smooth[..., 0].permute(0, 2, 1).numpy()


def _fit(
    points: np.ndarray, ratio: np.ndarray, style: _Style, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scale and centre skeletons in the frame.

    Full-height digits are framed as in NIST's form reader (NISTIR 5469), the source of UCI's
    optical digits: the drawn shape, stroke included, spans 32 rows and is stretched or squeezed
    towards 20 columns. Small digits are framed as in MNIST: the larger side fits the central box,
    and the centre of mass is in the middle.

    Returns:
        points [N, P, 2] and radii [N, P] in pixels, and the stretch [N] of the columns about the
        middle. The stretch also widens the strokes.
    """
    n = len(points)
    side = np.where(style.small, _SMALL, IMAGE_SIZE)
    half = style.half_stroke * np.where(style.small, 0.75, 1.0)
    low, high = points.min(axis=1), points.max(axis=1)
    room = side - 2 * half
    extent = np.maximum(high - low, 1e-3)
    scale = np.where(style.small, room / extent.max(axis=1), room / extent[:, 1])
    width = extent[:, 0] * scale + 2 * half
    stretch = np.where(style.small, 1.0, rng.normal(_NIST_WIDTH, 1.5, n) / width)
    middle = np.where(style.small[:, None], points.mean(axis=1), (low + high) / 2)
    shift = rng.normal(0, 0.4, (n, 2)) * [1.0, 0.3]
    placed = (points - middle[:, None]) * scale[:, None, None] + IMAGE_SIZE / 2 + shift[:, None]
    return (
        placed.astype(np.float32),
        (ratio * half[:, None]).astype(np.float32),
        stretch.clip(*_STRETCH).astype(np.float32),
    )


def _rasterise(points: np.ndarray, radius: np.ndarray, stretch: np.ndarray) -> np.ndarray:
    """Cover every pixel by its distance to the union of discs: float32 [N, 32, 32] in 0..1."""
    centres = torch.arange(IMAGE_SIZE, dtype=torch.float32) + 0.5
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    middle = IMAGE_SIZE / 2
    columns = middle + (x.flatten() - middle) / torch.from_numpy(stretch)[:, None]
    pixels = torch.stack([columns, y.flatten().expand_as(columns)], dim=2)
    gap = torch.cdist(pixels, torch.from_numpy(points)) - torch.from_numpy(radius)[:, None]
    cover = (0.5 - gap.amin(dim=2)).clamp(0, 1)
    return cover.view(-1, IMAGE_SIZE, IMAGE_SIZE).numpy()


def _caption(label: int, style: _Style, i: int, rng: np.random.Generator) -> str:
    """Describe render i. "handwritten", "printed", "bold" and "thin" are left out half the time."""

    def perhaps(word: str, chance: float) -> list[str]:
        return [word] if rng.random() < chance else []

    words = perhaps("printed" if style.printed[i] else "handwritten", 0.5)
    if style.half_stroke[i] > _BOLD:
        words += perhaps("bold", 0.5)
    elif style.half_stroke[i] < _THIN:
        words += perhaps("thin", 0.5)
    words += ["small"] if style.small[i] else perhaps("large", 0.15)
    words += ["tilted"] if style.tilted[i] else []
    words += perhaps("centered", 0.1)
    rng.shuffle(words)
    noun = [str(rng.choice(NOUNS, p=[0.8, 0.2]))] if rng.random() < 0.4 else []
    name = NAMES[label] if rng.random() < 0.7 else str(label)
    prefix = PREFIXES[rng.integers(len(PREFIXES))]
    after = words and rng.random() < 0.2
    caption = prefix.format(" ".join(([] if after else words) + noun + [name]))
    caption = ", ".join([caption, *words]) if after else caption
    if rng.random() < 0.1:  # a word that the tokenizer must spell, and that should change nothing
        letters = rng.integers(97, 123, rng.integers(2, 6)).astype(np.uint8)
        caption = f"{letters.tobytes().decode()} {caption}"
    return caption
