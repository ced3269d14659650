"""Tables, learning curves and image grids, from result folders alone."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .config import BUDGET, TRAINING, RunConfig, option_fields
from .disk import atomic_write
from .errors import UserError
from .results import Row, RunFolder, label_of, load_tensors

SECONDS = ("query s", "train s", "extra s", "gen s")
OWN = "own_"  # prefix of the columns that a strategy measures itself
LEGEND_WIDTH = 100  # letters in a line of a legend
LETTERS = 10  # an inch of a title
SHOWN = 2  # probe pairs a class in the picture
COSTS = ("query_seconds", "train_seconds", "extra_train_seconds", "generate_seconds")


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
    """

    label: str
    folders: tuple[RunFolder, ...]
    seeds: tuple[int, ...]
    budgets: tuple[int, ...]
    accuracy: np.ndarray
    rows: tuple[list[Row], ...]

    def average(self, budgets: Sequence[int]) -> np.ndarray | None:
        """[S] mean accuracy over these budgets, the paper's "Average"; None if one is missing."""
        if not budgets or not set(budgets) <= set(self.budgets):
            return None
        return self.accuracy[:, [self.budgets.index(b) for b in budgets]].mean(1)

    def cost(self, key: str) -> float:
        """Sum over the rounds, mean over the seeds."""
        return float(np.mean([sum(row[key] for row in rows) for rows in self.rows]))

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
    def uses_generated_images(self) -> bool:
        return self.folders[0].config.uses_generated_images

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
    """Methods that may stand in one table: same data, network, recipe and budget.

    Attributes:
        dataset: its name.
        name: of the table and its files; the data set's, unless it has several tables.
        shared: settings that all methods with generated images share; not in their labels.
        curves: the methods.
    """

    dataset: str
    name: str
    shared: Mapping[str, str]
    curves: tuple[Curve, ...]

    @property
    def budgets(self) -> list[int]:
        """All columns."""
        return sorted({b for c in self.curves for b in c.budgets})

    @property
    def common_budgets(self) -> list[int]:
        """What every method has, the single fit on all labels aside: the average is over these."""
        learning = [c for c in self.curves if len(c.budgets) > 1] or self.curves
        return sorted(set.intersection(*(set(c.budgets) for c in learning)))


Methods = dict[Path, list[RunFolder]]  # by the folder that their seeds share


def compare(folders: Sequence[RunFolder]) -> list[Comparison]:
    """Group finished runs into tables; runs of another protocol go into another table.

    A fully supervised run has no budget of its own and joins every table of its data and recipe.

    Args:
        folders: runs of any data sets; unfinished ones and runs without test data are left out.
    """
    tables: dict[tuple, dict[tuple, Methods]] = {}
    for folder in folders:
        rows = folder.rows()
        if folder.finished and rows[0].get("accuracy") is not None:
            by_budget = tables.setdefault(_recipe_key(folder), {})
            methods = by_budget.setdefault(_budget_key(folder), {})
            methods.setdefault(folder.path.parent, []).append(folder)
    comparisons = []
    for recipe, by_budget in tables.items():
        full = by_budget.pop((), {})
        for budget, methods in (by_budget or {(): {}}).items():
            comparisons.append(_comparison(recipe[0], (recipe, budget), {**methods, **full}))
    return _distinct_names(comparisons)


def _recipe_key(folder: RunFolder) -> tuple:
    """Data set, its content, and everything about training."""
    return (folder.config.dataset, folder.content["data"], _values(folder, TRAINING))


def _budget_key(folder: RunFolder) -> tuple:
    """The labeling budget but for the number of rounds; empty for the fully supervised run."""
    return () if folder.config.mode == "full" else _values(folder, BUDGET)


def _values(folder: RunFolder, group: str) -> tuple:
    names = [f.name for f in option_fields() if f.metadata["group"] == group]
    return tuple((n, getattr(folder.config, n)) for n in names if n != "n_rounds")


def _comparison(dataset: str, key: tuple, methods: Methods) -> Comparison:
    runs = list(methods.values())
    shared = _shared_settings([of[0] for of in runs])
    curves = [_curve(x, of) for x, of in zip(_labels(runs, shared), runs, strict=True)]
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:6]
    return Comparison(dataset, f"{dataset}-{digest}", shared, tuple(curves))


def _distinct_names(comparisons: list[Comparison]) -> list[Comparison]:
    """A data set's only table is called like the data set."""
    datasets = [c.dataset for c in comparisons]
    return [
        replace(c, name=c.dataset) if datasets.count(c.dataset) == 1 else c for c in comparisons
    ]


def _shared_settings(runs: Sequence[RunFolder]) -> dict[str, str]:
    """Settings that every run with generated images has."""
    items = [set(r.settings.items()) for r in runs if r.config.uses_generated_images]
    common = set.intersection(*items) if items else set()
    return dict(sorted(common))


def _labels(methods: Sequence[Sequence[RunFolder]], shared: Mapping[str, str]) -> list[str]:
    """One distinct label a method, without what all share."""
    labels = []
    for first, *_ in methods:
        own = {k: v for k, v in first.settings.items() if k not in shared}
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
    needed = ("budget", "labels", "images", "images_made", "ascent_images", "accuracy", *COSTS)
    rows = folder.rows()
    for row in rows:
        bad = [k for k in needed if not isinstance(row.get(k), int | float)]
        if bad:
            line = row["round"] + 1
            raise UserError(f"{folder.path / 'rounds.jsonl'}: line {line} is damaged ({bad[0]})")
    return rows


def _curve(label: str, folders: list[RunFolder]) -> Curve:
    folders = sorted(folders, key=lambda f: f.config.seed)
    rows = [_checked_rows(f) for f in folders]
    rounds = min(map(len, rows))
    rows = [r[:rounds] for r in rows]
    accuracy = np.array([[row["accuracy"] for row in r] for r in rows])
    budgets = tuple(row["budget"] for row in rows[0])
    seeds = tuple(f.config.seed for f in folders)
    return Curve(label, tuple(folders), seeds, budgets, accuracy, tuple(rows))


# -- statistics --------------------------------------------------------------------------------


def mean_sem(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard error of the mean (n - 1); the error of a single value is NaN."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


@dataclass(frozen=True)
class PairedDifference:
    """Mean of seed-paired differences with its 95 % t-interval half-width (NaN for one pair)."""

    mean: float
    half_width: float
    n: int


def paired_difference(a: Curve, b: Curve) -> PairedDifference | None:
    """a - b of the average over common budgets, over the seeds that both have; None if no such."""
    from scipy import stats  # scikit-learn brings it

    seeds = sorted(set(a.seeds) & set(b.seeds))
    budgets = sorted(set(a.budgets) & set(b.budgets))
    if not seeds or not budgets:
        return None

    def averages(c: Curve) -> np.ndarray:
        of_seed = dict(zip(c.seeds, c.average(budgets), strict=True))
        return np.array([of_seed[s] for s in seeds])

    mean, sem = mean_sem(averages(a) - averages(b))
    half_width = float(stats.t.ppf(0.975, len(seeds) - 1) * sem) if len(seeds) > 1 else float("nan")
    return PairedDifference(mean, half_width, len(seeds))


# -- tables ------------------------------------------------------------------------------------


def _columns(comparison: Comparison) -> list[str]:
    budgets = [f"{b:,}" for b in comparison.budgets]
    return ["strategy", *budgets, "average", "n", "labels", "images", "made", *SECONDS]


def _with_error(mean: float, sem: float) -> str:
    """In percent."""
    return f"{100 * mean:.1f}" + ("" if np.isnan(sem) else f" ±{100 * sem:.1f}")


def table_rows(comparison: Comparison) -> list[list[str]]:
    """Mean ± SEM for each budget and the average; costs are sums over a run, means over seeds."""
    rows = []
    for curve in comparison.curves:
        at = dict(zip(curve.budgets, curve.accuracy.T, strict=True))
        cells = [_with_error(*mean_sem(at[b])) if b in at else "" for b in comparison.budgets]
        average = curve.average(comparison.common_budgets)
        cells.append("" if average is None else _with_error(*mean_sem(average)))
        rows.append([
            curve.marked_label, *cells, str(len(curve.seeds)),
            f"{curve.labels:,}", f"{curve.images:,}", f"{curve.images_made:,}",
            *(f"{curve.cost(k):.1f}" for k in COSTS),
        ])  # fmt: skip
    return rows


def text_table(comparison: Comparison, *, bold: bool = False) -> str:
    """The table for a terminal; the best mean of each accuracy column is marked, with `bold` in
    bold type and otherwise by a star."""
    header, rows = _columns(comparison), table_rows(comparison)
    best = _best_rows(comparison)
    widths = [max(len(r[j]) for r in [header, *rows]) + 1 for j in range(len(header))]

    def line(cells: list[str], i: int | None = None) -> str:
        out = []
        for j, cell in enumerate(cells):
            mark = len(rows) > 1 and best.get(j) == i and i is not None
            padded = (cell + "*" * (mark and not bold)).ljust(widths[j])
            out.append(f"\033[1m{padded}\033[0m" if mark and bold else padded)
        return " ".join(out).rstrip()

    body = [line(r, i) for i, r in enumerate(rows)]
    return "\n".join([line(header), "-" * (sum(widths) + len(widths) - 1), *body])


def _best_rows(comparison: Comparison) -> dict[int, int]:
    """Accuracy column of the table -> row of its highest mean."""
    sets = [[b] for b in comparison.budgets] + [comparison.common_budgets]
    best = {}
    for column, budgets in enumerate(sets, start=1):
        averages = [c.average(budgets) for c in comparison.curves]
        means = [-np.inf if a is None else a.mean() for a in averages]
        best[column] = int(np.argmax(means))
    return best


def csv_table(comparison: Comparison) -> bytes:
    """Every row of every run, one line each, for other tools."""
    out = io.StringIO()
    keys = ["round", "budget", "labels", "images", "images_made", "images_retried",
            "images_failed", "ascent_images", "accuracy", "epsilon", "distance",
            "arrived_distance", "score_before", "score_after", "steps", *COSTS]  # fmt: skip
    keys += sorted({k for curve in comparison.curves for k in curve.own_measures})
    writer = csv.writer(out)
    writer.writerow(["dataset", "strategy", "seed", *keys])
    for curve in comparison.curves:
        for seed, rows in zip(curve.seeds, curve.rows, strict=True):
            for row in rows:
                writer.writerow(
                    [comparison.dataset, curve.label, seed, *(row.get(k, "") for k in keys)]
                )
    return out.getvalue().encode()


def statements(comparison: Comparison) -> list[str]:
    """What may be said about the table: changed networks, blank images, what strategies measured
    themselves, paired differences, the ε = 0 control, too few seeds."""
    curves = comparison.curves
    remarks = dict.fromkeys(c.remark for c in curves if c.remark)
    lines = [f"† {', '.join(c.label for c in curves if c.remark == r)}: {r}" for r in remarks]
    lines += [line for curve in curves for line in _blank_lines(curve)]
    lines += [_own_line(curve, key) for curve in curves for key in curve.own_measures]
    learning = [c for c in curves if len(c.budgets) > 1] or list(curves)
    reference = next((c for c in learning if not c.uses_generated_images), learning[0])
    for curve in curves:
        if curve is not reference:
            lines += _difference_line(curve, reference)
    for curve in curves:
        config = curve.folders[0].config
        made_here = curve.uses_generated_images and config.synthetic_from is None
        if made_here and config.epsilon > 0:
            lines += _control_line(curve, curves)
    if min(len(c.seeds) for c in curves) < 3:
        lines.append("fewer than 3 seeds: no spread can be claimed")
    return lines


def _blank_lines(curve: Curve) -> list[str]:
    """What came of images that the generator left blank, over all rounds and seeds."""
    rows = [row for of_seed in curve.rows for row in of_seed]
    retried, failed = (sum(r.get(f"images_{k}", 0) for r in rows) for k in ("retried", "failed"))
    if not retried:
        return []
    left_out = f"; {failed:,} stayed blank and are left out" if failed else ""
    return [f"{curve.label}: {retried:,} generated images came out blank and were drawn again"
            f"{left_out}"]  # fmt: skip


def _own_line(curve: Curve, key: str) -> str:
    """The average of a column that the strategy measured itself."""
    values = np.array([np.mean([row[key] for row in rows if key in row]) for rows in curve.rows])
    name = key.removeprefix(OWN).replace("_", " ")
    return f"{curve.label}: {name} {_with_error(*mean_sem(values))} % (average)"


def _difference_line(a: Curve, b: Curve) -> list[str]:
    d = paired_difference(a, b)
    if d is None:
        return []
    interval = "" if np.isnan(d.half_width) else f" ± {100 * d.half_width:.2f} (95 % interval)"
    points = f"{100 * d.mean:+.2f}{interval} points of average"
    return [f"{a.label} − {b.label}: {points}, n = {d.n} seeds"]


def _control_line(curve: Curve, curves: Sequence[Curve]) -> list[str]:
    """GALOT beside itself with ε = 0: what the text optimisation adds."""
    for other in curves:
        if other.uses_generated_images and _is_control(curve, other):
            random = curve.folders[0].config.direction == "random"
            what = "a random direction adds: " if random else "text optimisation adds: "
            return [what + line for line in _difference_line(curve, other)]
    first = curve.folders[0]
    read = _control_of(first.config).keys() | {"generator", "synthetic_from"}
    kept = {k: v for k, v in first.settings.items() if k in read and k != "epsilon"}
    control = label_of(first.config.strategy, {"epsilon": "0"} | kept)
    return [f'what the text optimisation of {curve.label} adds is not known: run "{control}" too']


def _control_of(config: RunConfig) -> dict[str, Any]:
    """What a run with ε = 0 and everything else alike reads."""
    return dataclasses.replace(config, epsilon=0.0).fields_read()


def _is_control(curve: Curve, other: Curve) -> bool:
    """Whether `other` is the same configuration, data and weights but for ε = 0."""
    ours, theirs = (c.folders[0] for c in (curve, other))
    same = _control_of(ours.config) == theirs.config.fields_read()
    return same and ours.content == theirs.content


# -- pictures ----------------------------------------------------------------------------------


def _figure(width: float, height: float, panels: int = 1):
    """(pyplot, figure, its axes)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, panels, figsize=(width, height), layout="constrained", squeeze=False
    )
    return plt, figure, axes[0]


def plot_curves(comparison: Comparison) -> bytes:
    """Learning curves as PNG: mean accuracy over |L|, bands of one SEM."""
    # From the best downwards, so that the legend stands as the curves end.
    ranked = sorted(comparison.curves, key=lambda c: -c.accuracy[:, -1].mean())
    names = [textwrap.fill(f"{c.label} (n={len(c.seeds)})", LEGEND_WIDTH) for c in ranked]
    many = len(names) > 6 or max(map(len, names)) > LEGEND_WIDTH / 2
    below = 0.19 * sum(name.count("\n") + 1 for name in names) if many else 0
    plt, figure, (axes,) = _figure(7.5, 5 + below)
    colors, markers, lines = plt.get_cmap("tab10").colors, "osD^vP*X", ("-", ":", "-.")
    for i, (curve, name) in enumerate(zip(ranked, names, strict=True)):
        mean, sem = np.array([mean_sem(a) for a in curve.accuracy.T]).T
        if len(curve.budgets) == 1:
            axes.axhline(
                mean[0], color="0.4", linestyle="--", label=f"{name}, {curve.labels:,} labels"
            )
            continue
        style = {"color": colors[i % len(colors)], "marker": markers[i % len(markers)],
                 "linestyle": lines[i // len(colors) % len(lines)]}  # fmt: skip
        axes.plot(curve.budgets, mean, **style, label=name)
        band = 0.08 if many else 0.2
        axes.fill_between(curve.budgets, mean - sem, mean + sem, alpha=band, color=style["color"])
    ticks = sorted({budget for curve in ranked for budget in curve.budgets})
    if len(ticks) <= 12:
        axes.set_xticks(ticks)
    axes.set_xlabel("|L|: human labels (in mode gal, what stands for them)")
    axes.set_ylabel("test accuracy")
    axes.set_title(f"{comparison.dataset}: mean ± SEM over seeds")
    axes.grid(alpha=0.3)
    if many:
        figure.legend(fontsize="small", loc="outside lower left")
    else:
        axes.legend(fontsize="small")
    return _png(plt, figure)


def plot_images(curve: Curve) -> bytes | None:
    """Generated images as PNG: a row a class, for each round pairs of plain | optimised images of
    the same noise. From the lowest seed's journaled probes; None if the run made none."""
    folder = curve.folders[0]
    files = sorted((folder.path / "text").glob("round*.safetensors"))[: len(curve.budgets)]
    if not files:
        return None
    states = [load_tensors(f) for f in files]
    if states[0]["probe_images"].shape[2] == 0:  # images of a folder follow no text
        return None
    names = folder.classifier()[1]["class_names"][:20]  # more rows than that no screen shows
    grids = [_pairs(s["probe_images"].numpy()[:, : len(names), :SHOWN]) for s in states]
    size = (1.4 + 1.1 * SHOWN * len(grids), 1.2 + 0.5 * len(names))
    plt, figure, axes = _figure(*size, len(grids))
    for r, (ax, grid, state) in enumerate(zip(axes, grids, states, strict=True)):
        ax.imshow(grid, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        step = grid.shape[0] / len(names)
        ax.set_yticks([(i + 0.5) * step - 0.5 for i in range(len(names))], names if r == 0 else [])
        ax.set_xticks([])
        ax.tick_params(length=0)
        ax.set_title(f"round {r}, ε = {float(state['epsilon']):.2g}", fontsize="medium")
        ax.set_xlabel("pairs: plain | optimised", fontsize="small")
    config = folder.config
    title = (
        f"{config.dataset}, {curve.label}, seed {config.seed}: {config.template!r}; "
        f"a pair shares its noise"
    )
    figure.suptitle(textwrap.fill(title, int(LETTERS * size[0])), fontsize="medium")
    return _png(plt, figure)


def _pairs(images: np.ndarray) -> np.ndarray:
    """[2, n, S, H, W, C] uint8 probes -> one picture: a row a class, S pairs side by side, a thin
    line between the two of a pair and a thick one between pairs."""
    _, n, shown, height, width, channels = images.shape
    thin, thick = max(1, width // 16), max(2, width // 4)
    cell = 2 * width + thin + thick
    picture = np.full((n * (height + thin), shown * cell - thick, channels), 255, np.uint8)
    for side in range(2):
        for i in range(n):
            for j in range(shown):
                y, x = i * (height + thin), j * cell + side * (width + thin)
                picture[y : y + height, x : x + width] = images[side, i, j]
    return picture[..., 0] if channels == 1 else picture


def _png(plt, figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    plt.close(figure)
    return out.getvalue()


# -- everything --------------------------------------------------------------------------------


def _file_name(label: str) -> str:
    """A label as part of a file name."""
    return "".join(ch if ch.isalnum() or ch in "-_.=" else "_" for ch in label)[:100]


def write_report(folders: Sequence[RunFolder], output: Path, *, bold: bool = False) -> str:
    """Write the pictures and CSV below `<output>/report`; return the text for the terminal.

    Raises:
        UserError: none of the runs is finished.
    """
    comparisons = compare(folders)
    if not comparisons:
        waiting = sum(not f.finished for f in folders)
        raise UserError(
            f"nothing to report: {waiting} of {len(folders)} runs are unfinished and the others "
            f"have no test data; the command that started them goes on where they stopped"
        )
    parts = []
    for comparison in comparisons:
        files = {f"{comparison.name}_rows.csv": csv_table(comparison),
                 f"{comparison.name}_curves.png": plot_curves(comparison)}  # fmt: skip
        for curve in comparison.curves:
            grid = plot_images(curve)
            if grid is not None:
                files[f"{comparison.name}_{_file_name(curve.label)}_images.png"] = grid
        for name, data in files.items():
            atomic_write(output / "report" / name, data)
        written = [f"  {output / 'report' / name}" for name in files]
        title = f"{comparison.name}: test accuracy in %, mean ±SEM over n seeds; costs of one run"
        if comparison.shared:
            title += f"; all GALOT with {label_of('', comparison.shared)}"
        table = text_table(comparison, bold=bold)
        parts.append("\n".join([title, table, "", *statements(comparison), *written]))
    unfinished = [f for f in folders if not f.finished]
    if unfinished:
        parts.append(f"{len(unfinished)} unfinished runs are left out, e.g. {unfinished[0].path}")
    return "\n\n".join(parts)
