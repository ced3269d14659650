"""How often a generated image is what its pseudo-label says: the paper's Figure 4 and Table 9."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..learner import Learner
from ..pool import ImageSet
from ..predict import load_classifier
from ..results import RunFolder
from .comparison import Comparison, has_accuracy
from .gallery import Gallery, galleries_of
from .statistics import LEAST_SEEDS
from .tables import BY_CLASS_END, Cell, Table, mean_cell, mean_over

JUDGED = 1000  # images of a run at most, the first of each class
EVERYTHING = -2  # the column of all classes, which may themselves be called "all"
COLUMNS = 20  # more classes than that have no column of their own


@dataclass(frozen=True)
class Judge:
    """A reference classifier, trained on every real label of the data set.

    Attributes:
        folder: its run.
    """

    folder: RunFolder

    @property
    def accuracy(self) -> float:
        """On the real test images, in [0, 1]."""
        return self.folder.rows()[-1]["accuracy"]

    @property
    def name(self) -> str:
        return (
            f"a {self.folder.config.classifier} trained on all real labels "
            f"({100 * self.accuracy:.1f} % on the test images)"
        )

    @cached_property
    def _loaded(self) -> tuple[Learner, dict[str, Any]]:
        return load_classifier(self.folder, torch.device("cpu"))

    def labels(self, images: np.ndarray) -> np.ndarray:
        """[N] int64 the class that it sees in each of [N, H, W, C] uint8 images."""
        learner, card = self._loaded
        return learner.predict(ImageSet.unlabeled(images, card["mean"], card["std"])).numpy()


def find_judge(comparison: Comparison, folders: Sequence[RunFolder]) -> Judge | None:
    """The fully supervised run that belongs to an exhibit; else, one of those of the data set.

    Of several that of the lowest seed, then the first by its folder's name: never the best, whose
    test accuracy, which is shown, would be chosen by itself.
    """
    data = {f.content["data"] for c in comparison.curves for f in c.folders}
    runs = [
        f
        for f in folders
        if f.config.mode == "full" and f.content["data"] in data and has_accuracy(f)
    ]
    own = comparison.exhibit.judge if comparison.exhibit else None
    runs = [f for f in runs if f.method == own] or runs
    first = min(runs, key=lambda f: (f.config.seed, f.key), default=None)
    return None if first is None else Judge(first)


def judged_table(comparison: Comparison, judge: Judge, read: Sequence[Gallery]) -> Table | None:
    """A row for each method of which generated images are still there: how often the judge sees the
    pseudo-label, in all its runs.

    Args:
        read: galleries of some of these runs, whose images are kept in memory anyway.
    """
    rows, shown, known = [], None, {gallery.folder.path: gallery for gallery in read}
    for curve in comparison.curves:
        galleries = [known.get(g.folder.path, g) for g in galleries_of(curve)]
        galleries = [g for g in galleries if g.kept]
        if galleries:
            shown = shown or galleries[0]
            rows.append((curve.label, [_judged(gallery, judge) for gallery in galleries]))
    if not rows:
        return None
    title = f"% of generated images that are what their text says, judged by {judge.name}"
    table = accuracy_by_class("pseudo_labels", title, rows, shown.class_names)
    return replace(table, title=f"{title}; all: {mean_over('runs', table.rows)}")


def _judged(gallery: Gallery, judge: Judge) -> tuple[np.ndarray, np.ndarray]:
    """([N] pseudo-labels, [N] bool whether the judge sees them) of one run."""
    x, y = first_of_each_class(gallery)
    return y, judge.labels(x) == y


def by_template(table: Table, galleries: Sequence[Gallery]) -> dict[str, dict[float, float]]:
    """The paper's Figure 4: template -> ε -> % of images that are what their text says."""
    configs = {g.label: g.folder.config for g in galleries}
    shares: dict[str, dict[float, float]] = {}
    for row in table.rows:
        config = configs[row[0].text]
        shares.setdefault(config.template, {})[config.epsilon] = row[EVERYTHING].value
    return {template: dict(sorted(of.items())) for template, of in shares.items()}


def first_of_each_class(gallery: Gallery) -> tuple[np.ndarray, np.ndarray]:
    """Of the last round's images, as many of each class as JUDGED allows; at least five."""
    x, y = gallery.training_images()
    each = max(5, JUDGED // len(gallery.class_names))
    keep = np.concatenate([np.flatnonzero(y == k)[:each] for k in range(len(gallery.class_names))])
    return x[keep], y[keep]


def accuracy_by_class(
    name: str,
    title: str,
    rows: Sequence[tuple[str, Sequence[tuple[np.ndarray, np.ndarray]]]],
    class_names: Sequence[str],
) -> Table:
    """The paper's Table 9: a row a method, a column a class, and all.

    Args:
        rows: for each method its label, and of each of its runs [N] pseudo-labels and [N] bool
            whether each is right.
    """
    names = class_names if len(class_names) <= COLUMNS else ()
    lines = []
    for label, runs in rows:
        y, right = (np.concatenate(of_runs) for of_runs in zip(*runs, strict=True))
        by_class = [_percent([right[y == k]]) for k in range(len(names))]
        everything = _percent([of_run for _, of_run in runs])
        lines.append((Cell(label), *by_class, everything, Cell(f"{len(y):,}", len(y))))
    return Table(name, title, ("images of", *names, *BY_CLASS_END), tuple(lines))


def _percent(runs: Sequence[np.ndarray]) -> Cell:
    """The mean share of several runs, with its error if there are enough."""
    shares = [100 * float(right.mean()) for right in runs if len(right)]
    return mean_cell(shares, digits=int(len(shares) >= LEAST_SEEDS)) if shares else Cell("")
