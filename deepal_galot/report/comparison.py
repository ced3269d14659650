"""Result folders -> methods that may stand in one table, each with its seeds."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..config import BUDGET, TRAINING, fields_of
from ..errors import UserError
from ..results import Row, RunFolder, label_of
from ..strategy_entries import setting_text
from .exhibit import Exhibit

# What tables call a cost of one run, and the columns of a row that it is the sum of. Images that
# were stored already cost what drawing them took, so that the order of the runs matters little.
COSTS = {
    "query s": ("query_seconds",),
    "train s": ("train_seconds",),
    "extra s": ("extra_train_seconds",),
    "gen s": ("generate_seconds", "seconds_stored"),
}
COST_COLUMNS = tuple(column for columns in COSTS.values() for column in columns)
PLAIN = ("RandomSampling", "MarginSampling")  # baselines, where no method's own sampler is there
CONTROLS = ("epsilon", "direction", "mode")  # settings that are always said
MOST_SETTINGS = 3  # in a title
OWN = "own_"  # prefix of the columns that a strategy measures itself


@dataclass(frozen=True)
class Curve:
    """One method's runs: the same configuration under several seeds.

    Attributes:
        label: what tables call it.
        folders: its runs, by seed.
        seeds: [S].
        budgets: [R] |L| of each round.
        accuracy: [S, R] test accuracy in [0, 1].
        rows: for each seed, its rows.
        cut: rounds that some seeds have and not all; they are left out.
    """

    label: str
    folders: tuple[RunFolder, ...]
    seeds: tuple[int, ...]
    budgets: tuple[int, ...]
    accuracy: np.ndarray
    rows: tuple[list[Row], ...]
    cut: int = 0

    def at(self, budgets: Sequence[int]) -> np.ndarray | None:
        """[S, B] accuracy at these budgets; None if one is missing."""
        if not budgets or not set(budgets) <= set(self.budgets):
            return None
        return self.accuracy[:, [self.budgets.index(b) for b in budgets]]

    def average(self, budgets: Sequence[int]) -> np.ndarray | None:
        """[S] mean accuracy over these budgets, the paper's "Average"; None if one is missing."""
        accuracy = self.at(budgets)
        return None if accuracy is None else accuracy.mean(1)

    def balanced(self, budgets: Sequence[int]) -> np.ndarray | None:
        """[S] the same of the mean over classes of their accuracy; None if one is missing."""
        if self.at(budgets) is None:
            return None
        at = [
            [row["balanced_accuracy"] for row in rows if row["budget"] in budgets]
            for rows in self.rows
        ]
        return np.mean(at, axis=1)

    def cost(self, name: str) -> float:
        """One of COSTS: sum over the rounds, mean over the seeds."""
        runs = [[row[c] for row in rows for c in COSTS[name]] for rows in self.rows]
        return float(np.mean([sum(run) for run in runs]))

    @property
    def labels(self) -> int:
        """Human labels at the end."""
        return self.rows[0][-1]["labels"]

    @property
    def images(self) -> int:
        """Generated images in the last training set."""
        return self.rows[0][-1]["images"]

    @property
    def images_made(self) -> int:
        """All images generated in a run, those of the text optimisation included."""
        return sum(row["images_made"] + row["ascent_images"] for row in self.rows[0])

    @property
    def learns(self) -> bool:
        """Whether it has more budgets than one."""
        return len(self.budgets) > 1

    @property
    def strategy(self) -> str:
        """Name of its class."""
        return self.folders[0].config.strategy

    @property
    def uses_generated_images(self) -> bool:
        return self.folders[0].config.uses_generated_images

    @property
    def base_sampler(self) -> str | None:
        """What picks real images for a method with generated ones; None where nothing does."""
        if not self.uses_generated_images:
            return None
        return self.folders[0].config.fields_read().get("base_sampler")

    @property
    def own_settings(self) -> dict[str, Any]:
        """The strategy's own hyper-parameters that are not at their default."""
        return dict(self.folders[0].config.settings)

    def picks_for(self, other: Curve) -> bool:
        """Whether this is the base sampler of a method with generated images, with its settings and
        in its version."""
        if self.strategy != other.base_sampler:
            return False
        ours, theirs = (c.folders[0].content.get(f"plugin {self.strategy}") for c in (self, other))
        return ours == theirs and self.own_settings.items() <= other.own_settings.items()

    @property
    def is_users_own(self) -> bool:
        """Whether the package does not ship its strategy."""
        return f"plugin {self.strategy}" in self.folders[0].content

    @property
    def remark(self) -> str:
        """How its network or training differs from the others'; such a label gets a dagger."""
        return self.folders[0].remark

    @property
    def marked_label(self) -> str:
        return f"{self.label} †" if self.remark else self.label

    @property
    def own_measures(self) -> list[str]:
        """Columns that the strategy adds to the rows itself."""
        return [k for k in self.rows[0][-1] if k.startswith(OWN)]


@dataclass(frozen=True)
class Comparison:
    """Methods that stand in one table: of the same data, network, recipe and budget, or the arms
    of an exhibit, which says how they differ.

    Attributes:
        dataset: its name.
        name: of the table and its files; the data set's, unless it has several tables.
        shared: settings that all methods with generated images share; not in their labels.
        curves: the methods, in the order of the rows.
        baseline: label of the method that the others are compared with; None for the usual one,
            see `reference`.
        exhibit: the table or figure of the paper that it mirrors, if it does.
        apart: what its title says to tell it from another's of the data set.
        missed: label of the method that was asked for as the baseline and is not among them.
    """

    dataset: str
    name: str
    shared: Mapping[str, str]
    curves: tuple[Curve, ...]
    baseline: str | None = None
    exhibit: Exhibit | None = None
    apart: str = ""
    missed: str = ""

    @property
    def budgets(self) -> list[int]:
        """All columns."""
        return sorted({b for c in self.curves for b in c.budgets})

    @property
    def learning(self) -> tuple[Curve, ...]:
        """The methods with more than one budget, or all if there is none."""
        return tuple(c for c in self.curves if c.learns) or self.curves

    @property
    def common_budgets(self) -> list[int]:
        """What every method has, the single fit on all labels aside: the average is over these."""
        return sorted(set.intersection(*(set(c.budgets) for c in self.learning)))

    @property
    def reference(self) -> Curve:
        """The method that the others are compared with; the order of the methods plays no part.

        The one called `baseline`, if there is one. Else one that learns from real images alone and
        has no remark: the base sampler of a method with generated images, RandomSampling,
        MarginSampling, another strategy of the package, one of the user's own, in this order; of
        several the first by name.
        """
        named = [c for c in self.curves if c.label == self.baseline]
        plain = [c for c in self.learning if not c.uses_generated_images]
        alike = [c for c in plain if not c.remark]  # of images and a network as the others have

        def place(curve: Curve) -> tuple:
            if any(curve.picks_for(other) for other in self.learning):
                return 0, -len(curve.own_settings), natural(curve.label)
            rank = PLAIN.index(curve.strategy) if curve.strategy in PLAIN else len(PLAIN)
            return 1 + rank, curve.is_users_own, natural(curve.label)

        return min(named or alike or plain or self.learning, key=place)

    @property
    def title(self) -> str:
        if self.exhibit is not None:
            return f"{self.exhibit.number}: {self.exhibit.title}, on {self.dataset}{self.apart}"
        return self.name + self.apart


Methods = dict[str, list[RunFolder]]  # by RunFolder.method


def compare(folders: Sequence[RunFolder]) -> list[Comparison]:
    """Group finished runs into tables; runs of another protocol go into another table.

    A fully supervised run has no budget of its own and joins every table of its data and recipe,
    as its last row.

    Args:
        folders: runs of any data sets, in any order; unfinished ones and runs without test data
            are left out.
    """
    tables: dict[tuple, dict[tuple, Methods]] = {}
    for folder in sorted(filter(has_accuracy, folders), key=_place_of_row):
        by_budget = tables.setdefault(_recipe_key(folder), {})
        methods = by_budget.setdefault(_budget_key(folder), {})
        methods.setdefault(folder.method, []).append(folder)
    comparisons = []
    for recipe, by_budget in tables.items():
        full = by_budget.pop((), {})
        for budget, methods in (by_budget or {(): {}}).items():
            comparisons.append(_comparison(recipe[0], (recipe, budget), {**methods, **full}))
    return _distinct_names(comparisons)


def of_exhibit(exhibit: Exhibit, folders: Sequence[RunFolder]) -> Comparison | None:
    """The arms of an exhibit that have finished runs, each run once; None if none has."""
    labels: dict[str, str] = {}
    for arm in exhibit.arms:
        labels.setdefault(arm.folder, arm.label)
    curves = []
    for method, label in labels.items():
        runs = [f for f in folders if f.method == method and has_accuracy(f)]
        if runs:
            curves.append(_curve(label, runs))
    if not curves:
        return None
    shared = _shared_settings([curve.folders[0] for curve in curves])
    return Comparison(
        exhibit.dataset, exhibit.file_name, shared, tuple(curves), exhibit.baseline, exhibit
    )


def has_accuracy(folder: RunFolder) -> bool:
    """Whether a run is finished and was tested."""
    return folder.finished and folder.rows()[0].get("accuracy") is not None


def merge(folders: Sequence[RunFolder]) -> tuple[list[RunFolder], list[str]]:
    """Runs of several results folders, each of them once.

    Returns:
        (of a run that several folders hold, the one with most rounds; lines about runs whose
        copies have other accuracies).
    """
    found: dict[tuple[str, str], RunFolder] = {}
    differ: list[RunFolder] = []
    for folder in folders:
        first = found.setdefault(folder.key, folder)
        if first is folder:
            continue
        ours, theirs = ([r.get("accuracy") for r in f.rows()] for f in (first, folder))
        if any(a != b for a, b in zip(ours, theirs, strict=False)):
            differ.append(folder)
        elif len(theirs) > len(ours):
            found[folder.key] = folder
    lines = []
    if differ:
        lines = [
            f"{len(differ)} runs lie in several folders with other accuracies, as runs on "
            f"different machines may have; the first folder's count, not {differ[0].path}"
        ]
    return list(found.values()), lines


def _place_of_row(folder: RunFolder) -> tuple:
    """Where a run stands in tables: those without generated images first, then by name."""
    config = folder.config
    label = label_of(config.strategy, folder.settings)
    return config.dataset, config.uses_generated_images, natural(label), folder.key


def natural(text: str) -> list[tuple[float, str]]:
    """A sort key by which numbers in a text follow each other as numbers: 2 before 10."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(float(x) if i % 2 else 0.0, x) for i, x in enumerate(parts)]


def _recipe_key(folder: RunFolder) -> tuple:
    """Data set, its content, and everything about training."""
    return (folder.config.dataset, folder.content["data"], _values(folder, TRAINING))


def _budget_key(folder: RunFolder) -> tuple:
    """The labeling budget but for the number of rounds; empty for the fully supervised run."""
    return () if folder.config.mode == "full" else _values(folder, BUDGET)


def _values(folder: RunFolder, group: str) -> tuple:
    names = fields_of(group)
    return tuple((n, getattr(folder.config, n)) for n in names if n != "n_rounds")


def _comparison(dataset: str, key: tuple, methods: Methods) -> Comparison:
    runs = list(methods.values())
    shared = _shared_settings([of[0] for of in runs])
    curves = [_curve(x, of) for x, of in zip(_labels(runs, shared), runs, strict=True)]
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:6]
    return Comparison(dataset, f"{dataset}-{digest}", shared, tuple(curves))


def _distinct_names(comparisons: list[Comparison]) -> list[Comparison]:
    """A data set's only table is called like the data set; of several the titles say how they
    differ."""
    alike: dict[str, list[Comparison]] = {}
    for c in comparisons:
        alike.setdefault(c.dataset, []).append(c)
    return [
        replace(c, apart=_apart(c, alike[c.dataset]))
        if len(alike[c.dataset]) > 1
        else replace(c, name=c.dataset)
        for c in comparisons
    ]


def _apart(comparison: Comparison, alike: Sequence[Comparison]) -> str:
    """The first settings in which tables of a data set differ; empty where only their data do."""
    config, *others = (c.learning[0].folders[0].config for c in (comparison, *alike))
    names = ("protocol", *fields_of(BUDGET, TRAINING))
    differ = [n for n in names if n != "n_rounds" and len({getattr(c, n) for c in others}) > 1]
    said = label_of("", {n: setting_text(getattr(config, n)) for n in differ[:MOST_SETTINGS]})
    return f" ({said}{',…' * (len(differ) > MOST_SETTINGS)})" if said else ""


def _shared_settings(runs: Sequence[RunFolder]) -> dict[str, str]:
    """Settings that every run with generated images has, but for those that make it a control."""
    items = [set(r.settings.items()) for r in runs if r.config.uses_generated_images]
    common = set.intersection(*items) if items else set()
    return {key: value for key, value in sorted(common) if key not in CONTROLS}


def _labels(methods: Sequence[Sequence[RunFolder]], shared: Mapping[str, str]) -> list[str]:
    """One distinct label a method, without what all share."""
    labels = []
    for first, *_ in methods:
        own = dict(first.settings)
        if first.config.uses_generated_images:
            own = {k: v for k, v in own.items() if k not in shared}
        labels.append(label_of(first.config.strategy, own))
    return [
        x if labels.count(x) == 1 else f"{x}#{of[0].path.parent.name[:4]}"
        for x, of in zip(labels, methods, strict=True)
    ]


def _checked_rows(folder: RunFolder) -> list[Row]:
    """
    Raises:
        UserError: a row lacks a number that the tables need.
    """
    counts = ("budget", "labels", "images", "images_made", "ascent_images")
    shares = ("accuracy", "balanced_accuracy")
    needed, rows = (*counts, *shares, *COST_COLUMNS), folder.rows()
    for row in rows:
        bad = [k for k in needed if not _is_number(row.get(k))]
        bad += [k for k in shares if not bad and row[k] > 1]
        if bad:
            line = row["round"] + 1
            raise UserError(f"{folder.path / 'rounds.jsonl'}: line {line} is damaged ({bad[0]})")
    return rows


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _curve(label: str, folders: list[RunFolder]) -> Curve:
    folders = sorted(folders, key=lambda f: f.config.seed)
    rows = [_checked_rows(f) for f in folders]
    rounds = min(map(len, rows))
    cut = max(map(len, rows)) - rounds
    rows = [r[:rounds] for r in rows]
    accuracy = np.array([[row["accuracy"] for row in r] for r in rows])
    budgets = tuple(row["budget"] for row in rows[0])
    seeds = tuple(f.config.seed for f in folders)
    return Curve(label, tuple(folders), seeds, budgets, accuracy, tuple(rows), cut)
