"""Generated images of finished runs, read from the results and the image store alone."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from generators.base import Generator
from generators.image_store import ImageStore
from generators.prompts import templates

from ..borrowed_galot import BorrowedGalot
from ..errors import UserError
from ..results import RunFolder
from .comparison import Curve
from .exhibit import real_examples
from .figures import folded, new_figure, row_names, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 2  # probe pairs a class in the pictures
MOST_CLASSES = 20  # more rows than that no screen shows
LETTERS = 10  # an inch of a title


@dataclass(frozen=True)
class ProbeImages:
    """One round's fresh-noise images in pairs of the same noise.

    Attributes:
        round, epsilon: when, and how far c may be from c0.
        aligned: whether the run aligns its images.
        random: whether its text moves in random directions.
        images: [2, K, P, H, W, C] uint8, from c0 and from c; where ε is 0, as the generator made
            them and as they are trained on.
        scores: [2, K, P] their acquisition scores; NaN where ε is 0.
    """

    round: int
    epsilon: float
    aligned: bool
    random: bool
    images: np.ndarray
    scores: np.ndarray

    @property
    def sides(self) -> tuple[str, ...]:
        """What the images of a pair are called; one name where they are the same."""
        if self.epsilon:
            moved = "random step" if self.random else "optimised"
            return ("aligned", f"aligned, {moved}") if self.aligned else ("plain", moved)
        moved = self.aligned and not np.array_equal(*self.images)
        return ("as made", "aligned") if moved else ("plain",)

    @property
    def pairs(self) -> str:
        """What its pairs show; empty where it has single images."""
        return f"pairs: {' | '.join(self.sides)}" if len(self.sides) > 1 else ""


@dataclass(frozen=True)
class Gallery:
    """What one run generated.

    Attributes:
        label: of its method.
        folder: the run.
    """

    label: str
    folder: RunFolder

    @cached_property
    def _card(self) -> dict[str, Any]:
        return self.folder.classifier()[1]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self._card["class_names"])

    @property
    def prompts(self) -> list[str]:
        """For each class, its prompts."""
        given, n = self._card["prompts"], len(templates(self.folder.config.template))
        return [" | ".join(given[k * n : (k + 1) * n]) for k in range(len(self.class_names))]

    @cached_property
    def probes(self) -> list[ProbeImages]:
        """Of every round that has some; empty where the images follow no text."""
        found, config = [], self.folder.config
        for row in self.folder.rows():
            if not self.folder.has("text", row["round"]):
                continue
            state = self.folder.load("text", row["round"])
            if state["probe_images"].shape[2]:
                images, scores = state["probe_images"].numpy(), state["probe_score"].numpy()
                how = (float(state["epsilon"]), config.aligns, config.direction == "random")
                found.append(ProbeImages(row["round"], *how, images, scores))
        return found

    @property
    def kept(self) -> bool:
        """Whether the image store beside the run still has the images of its last round."""
        return self._last_round is not None

    def training_images(self) -> tuple[np.ndarray, np.ndarray]:
        """([N, H, W, C] uint8, [N] int64 pseudo-labels) that the last round made and trained on.

        Raises:
            UserError: the image store has lost some of them.
        """
        if self._last_round is None:
            raise UserError(f"{self.folder.path}: images of its last round are gone or damaged")
        return self._last_round

    @cached_property
    def _last_round(self) -> tuple[np.ndarray, np.ndarray] | None:
        def gone() -> Generator:
            raise UserError("the image store has lost some of them")

        keys, store = [row["images_key"] for row in self.folder.rows()], self.folder.output
        galot = BorrowedGalot(
            self.folder.config,
            gone,
            ImageStore(store / "images"),
            self.folder,
            self.class_names,
            tuple(self._card["image_shape"]),
            keys,
        )
        last = len(keys) - 1
        try:
            batch = galot.make_images(None, last)
        except UserError:
            return None
        return batch.x, batch.y


def galleries_of(curve: Curve) -> list[Gallery]:
    """One for each run of a method that makes images of its own, else none."""
    config = curve.folders[0].config
    if not config.uses_generated_images or config.synthetic_from is not None:
        return []
    return [Gallery(curve.label, folder) for folder in curve.folders]


def gallery_of(curve: Curve) -> Gallery | None:
    """The lowest seed's, of a method that makes images of its own."""
    return next(iter(galleries_of(curve)), None)


def sheet(gallery: Gallery) -> Figure | None:
    """A row a class, for each round its pairs, or single images where a pair's are the same; None
    if the images follow no text."""
    probes = gallery.probes
    if not probes:
        return None
    names = [short(name, 24) for name in gallery.class_names[:MOST_CLASSES]]
    grids = []
    for p in probes:  # pairs, or twice as many single ones
        n = len(p.sides)
        grids.append(_side_by_side(p.images[:n, : len(names), : 2 * SHOWN // n]))
    config = gallery.folder.config
    title = f"{config.dataset}, {gallery.label}, seed {config.seed}: {config.template!r}"
    title += "; a pair shares its noise" if any(p.pairs for p in probes) else ""
    of_round = 1.1 * SHOWN  # inches, of its images; as high as these need, so that no gap is left
    width = 0.2 + 0.08 * max(map(len, names)) + (of_round + 0.1) * len(grids)
    title = folded(title, int(LETTERS * width))
    height = 0.9 + 0.2 * (title.count("\n") + 1)
    height += of_round * max(grid.shape[0] / grid.shape[1] for grid in grids)
    figure, _ = new_figure(width, height)
    figure.clear()
    axes = figure.subplots(1, len(grids), squeeze=False)[0]
    for r, (ax, grid, probe) in enumerate(zip(axes, grids, probes, strict=True)):
        show(ax, grid)
        step = grid.shape[0] / len(names)
        ax.set_yticks([(i + 0.5) * step - 0.5 for i in range(len(names))], names if r == 0 else [])
        ax.set_title(f"round {probe.round}, ε = {probe.epsilon:.2g}", fontsize="medium")
        ax.set_xlabel(probe.pairs, fontsize="small")
    figure.suptitle(title, fontsize="medium")
    figure.draw_without_rendering()  # the layout needs two passes for images of fixed proportions
    return figure


def one_class(galleries: Sequence[Gallery], k: int = 0) -> Figure | None:
    """The paper's Figure 7: one class's images of the same noise, a row for each method, and real
    ones if some are at hand."""
    rows = [(g.label, g.probes[-1].images[1, k]) for g in galleries if g.probes]
    if not rows:
        return None
    output = galleries[0].folder.output
    real = real_examples(output, galleries[0].folder.config.dataset)
    if real is not None and real.shape[2:] == rows[0][1].shape[1:]:
        rows.insert(0, ("real images", real[k, : len(rows[0][1])]))
    grid = np.concatenate([np.concatenate(_framed(images), axis=1) for _, images in rows])
    figure, ax = new_figure(2.2 + 0.9 * len(rows[0][1]), 0.9 + 0.9 * len(rows))
    show(ax, grid)
    step = grid.shape[0] / len(rows)
    ax.set_yticks(
        [(i + 0.5) * step - 0.5 for i in range(len(rows))], row_names([name for name, _ in rows])
    )
    ax.set_title(f"“{galleries[0].class_names[k]}”: a column shares its noise", fontsize="medium")
    return figure


def examples(gallery: Gallery, n_classes: int = 10, each: int = 3) -> Figure:
    """The paper's Figures 8 to 10: random training images of random classes, of the last round."""
    x, y = gallery.training_images()
    rng = np.random.default_rng(0)
    names = gallery.class_names
    chosen = np.sort(rng.permutation(len(names))[:n_classes])
    columns = []
    for k in chosen:
        of_class = np.flatnonzero(y == k)
        picked = x[rng.choice(of_class, min(each, len(of_class)), replace=False)]
        blank = np.full((each - len(picked), *x.shape[1:]), 255, np.uint8)
        columns.append(np.concatenate(_framed(np.concatenate([picked, blank]))))
    grid = np.concatenate(columns, axis=1)
    figure, ax = new_figure(0.4 + 0.95 * len(chosen), 0.8 + 0.95 * each)
    show(ax, grid)
    step = grid.shape[1] / len(chosen)
    ax.set_xticks(
        [(i + 0.5) * step - 0.5 for i in range(len(chosen))],
        [textwrap.fill(names[k], 12) for k in chosen],
        fontsize="small",
    )
    return figure


def show(ax, grid: np.ndarray) -> None:
    """A picture without ticks, grey or RGB."""
    grid = grid[..., 0] if grid.shape[-1] == 1 else grid
    ax.imshow(grid, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _framed(images: np.ndarray) -> list[np.ndarray]:
    """[H, W, C] uint8 images with a thin white frame."""
    edge = max(1, images.shape[2] // 16)
    return [np.pad(i, ((edge, edge), (edge, edge), (0, 0)), constant_values=255) for i in images]


def _side_by_side(images: np.ndarray) -> np.ndarray:
    """[2 or 1, n, S, H, W, C] uint8 probes -> one picture: a row a class, S pairs, a thin line
    between the two of a pair and a thick one between pairs."""
    sides, n, shown, height, width, channels = images.shape
    thin, thick = max(1, width // 16), max(2, width // 4)
    cell = sides * width + (sides - 1) * thin + thick
    picture = np.full((n * (height + thin), shown * cell - thick, channels), 255, np.uint8)
    for side in range(sides):
        for i in range(n):
            for j in range(shown):
                y, x = i * (height + thin), j * cell + side * (width + thin)
                picture[y : y + height, x : x + width] = images[side, i, j]
    return picture
