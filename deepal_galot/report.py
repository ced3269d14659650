"""Tables, learning curves and image grids, from result folders alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .config import BUDGET, TRAINING, option_fields
from .disk import atomic_write
from .errors import UserError
from .galot import PROBES
from .results import Row, RunFolder, load_tensors

SECONDS = ("query s", "train s", "gen s")
COSTS = ("query_seconds", "train_seconds", "generate_seconds")


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

    @property
    def average(self) -> np.ndarray:
        """[S] mean accuracy over the rounds of each seed, the paper's "Average"."""
        return self.accuracy.mean(1)

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
    def uses_generated_images(self) -> bool:
        return self.folders[0].config.uses_generated_images


@dataclass(frozen=True)
class Comparison:
    """Methods that may stand in one table: same data, network, recipe and budget."""

    dataset: str
    name: str
    curves: tuple[Curve, ...]

    @property
    def budgets(self) -> list[int]:
        """All columns."""
        return sorted({b for c in self.curves for b in c.budgets})


def compare(folders: Sequence[RunFolder]) -> list[Comparison]:
    """Group finished runs into tables; runs of another protocol go into another table.

    Args:
        folders: runs of any data sets; unfinished ones and runs without test data are left out.
    """
    groups: dict[tuple, dict[tuple, list[RunFolder]]] = {}
    for folder in folders:
        rows = folder.rows()
        if folder.finished and rows[0]["accuracy"] is not None:
            group = groups.setdefault(_protocol_key(folder), {})
            group.setdefault((folder.label, folder.path.parent), []).append(folder)
    comparisons = []
    for key, methods in groups.items():
        curves = [_curve(label, of_method) for (label, _), of_method in methods.items()]
        name = key[0] if _only_one_table(key[0], groups) else f"{key[0]}-{_short(key)}"
        comparisons.append(Comparison(key[0], name, tuple(curves)))
    return comparisons


def _protocol_key(folder: RunFolder) -> tuple:
    """What must agree before accuracies are set side by side; `full` has no budget of its own."""
    record = json.loads((folder.path / "config.json").read_text(encoding="utf-8"))
    config = folder.config
    shared = [f.name for f in option_fields() if f.metadata["group"] == TRAINING]
    if config.mode != "full":
        shared += [f.name for f in option_fields() if f.metadata["group"] == BUDGET]
    values = tuple((n, getattr(config, n)) for n in shared if n != "n_rounds")
    return (config.dataset, record["content"]["data"], values)


def _only_one_table(dataset: str, groups: dict) -> bool:
    return sum(key[0] == dataset for key in groups) == 1


def _short(key: tuple) -> str:
    import hashlib

    return hashlib.sha256(repr(key).encode()).hexdigest()[:6]


def _curve(label: str, folders: list[RunFolder]) -> Curve:
    folders = sorted(folders, key=lambda f: f.config.seed)
    rows = [f.rows() for f in folders]
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
        columns = [c.budgets.index(x) for x in budgets]
        return np.array([c.accuracy[c.seeds.index(s)][columns].mean() for s in seeds])

    mean, sem = mean_sem(averages(a) - averages(b))
    half_width = float(stats.t.ppf(0.975, len(seeds) - 1) * sem) if len(seeds) > 1 else float("nan")
    return PairedDifference(mean, half_width, len(seeds))


# -- tables ------------------------------------------------------------------------------------


def _columns(comparison: Comparison) -> list[str]:
    budgets = [f"{b:,}" for b in comparison.budgets]
    return ["strategy", *budgets, "average", "n", "labels", "images", *SECONDS]


def _with_error(mean: float, sem: float) -> str:
    """In percent."""
    return f"{100 * mean:.1f}" + ("" if np.isnan(sem) else f" ±{100 * sem:.1f}")


def table_rows(comparison: Comparison) -> list[list[str]]:
    """Mean ± SEM for each budget and the average; costs are sums over a run, means over seeds."""
    rows = []
    for curve in comparison.curves:
        at = dict(zip(curve.budgets, curve.accuracy.T, strict=True))
        cells = [_with_error(*mean_sem(at[b])) if b in at else "" for b in comparison.budgets]
        rows.append([
            curve.label, *cells, _with_error(*mean_sem(curve.average)), str(len(curve.seeds)),
            f"{curve.labels:,}", f"{curve.images:,}", *(f"{curve.cost(k):.1f}" for k in COSTS),
        ])  # fmt: skip
    return rows


def text_table(comparison: Comparison, *, bold: bool = False) -> str:
    """The table for a terminal; the best mean of each accuracy column is marked, with `bold` in
    bold type and otherwise by a star."""
    header, rows = _columns(comparison), table_rows(comparison)
    best = {j: _best_row(rows, j) for j in range(1, len(comparison.budgets) + 2)}
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


def _best_row(rows: list[list[str]], column: int) -> int:
    filled = [i for i in range(len(rows)) if rows[i][column]]
    return max(filled, key=lambda i: float(rows[i][column].split()[0]))


def csv_table(comparison: Comparison) -> bytes:
    """Every row of every run, one line each, for other tools."""
    out = io.StringIO()
    keys = ["round", "budget", "labels", "images", "images_made", "ascent_images", "accuracy",
            "epsilon", "score_before", "score_after", "steps", *COSTS]  # fmt: skip
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
    """What may be said about the table: paired differences, the ε = 0 control, too few seeds."""
    curves = comparison.curves
    lines = []
    reference = next((c for c in curves if not c.uses_generated_images), curves[0])
    for curve in curves:
        if curve is not reference:
            lines += _difference_line(curve, reference)
    for curve in curves:
        if curve.uses_generated_images and curve.folders[0].config.epsilon > 0:
            lines += _control_line(curve, curves)
    if min(len(c.seeds) for c in curves) < 3:
        lines.append("fewer than 3 seeds: no spread can be claimed")
    return lines


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
            return ["text optimisation adds: " + line for line in _difference_line(curve, other)]
    name, _, settings = curve.label.partition(":")
    kept = [s for s in settings.split(",") if s and s.split("=")[0] not in _ASCENT]
    control = f'"{name}:{",".join(["epsilon=0", *kept])}"'
    return [f"what the text optimisation of {curve.label} adds is not known: run {control} as well"]


_ASCENT = ("epsilon", "epsilon_schedule", "eta", "gal_strategy", "ascent_steps", "ascent_samples",
           "direction", "norm")  # fmt: skip


def _is_control(curve: Curve, other: Curve) -> bool:
    """Whether `other` is the same configuration but for ε = 0."""
    a, b = curve.folders[0].config.fields_read(), other.folders[0].config.fields_read()
    ignore = {*_ASCENT, "n_rounds"}
    same = {k: v for k, v in a.items() if k not in ignore} == {
        k: v for k, v in b.items() if k not in ignore
    }
    return same and other.folders[0].config.epsilon == 0


# -- pictures ----------------------------------------------------------------------------------


def _figure(width: float, height: float):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt, *plt.subplots(figsize=(width, height), layout="constrained")


def plot_curves(comparison: Comparison) -> bytes:
    """Learning curves as PNG: mean accuracy over |L|, bands of one SEM."""
    plt, figure, axes = _figure(7.5, 5)
    markers = "osD^vP*X"
    for i, curve in enumerate(comparison.curves):
        mean, sem = np.array([mean_sem(a) for a in curve.accuracy.T]).T
        n = f"{curve.label} (n={len(curve.seeds)})"
        if len(curve.budgets) == 1:
            axes.axhline(
                mean[0], color="0.4", linestyle="--", label=f"{n}, {curve.labels:,} labels"
            )
            continue
        (line,) = axes.plot(curve.budgets, mean, marker=markers[i % len(markers)], label=n)
        axes.fill_between(curve.budgets, mean - sem, mean + sem, alpha=0.2, color=line.get_color())
    axes.set_xlabel("|L|: human labels (images for mode=gal)")
    axes.set_ylabel("test accuracy")
    axes.set_title(f"{comparison.dataset}: mean ± SEM over seeds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _png(plt, figure)


def plot_images(curve: Curve) -> bytes | None:
    """Generated images as PNG: a row a class, for each round unoptimised | optimised from the same
    noise. From the lowest seed's journaled probes; None if the run made none."""
    folder = curve.folders[0]
    files = sorted((folder.path / "text").glob("round*.safetensors"))[: len(curve.budgets)]
    if not files:
        return None
    states = [load_tensors(f) for f in files]
    _, card = folder.classifier()
    names = card["class_names"][:20]  # more rows than that no screen shows
    shown = min(2, PROBES)
    grid = np.concatenate([_round_block(s, len(names), shown) for s in states], axis=1)
    n_columns = 2 * shown * len(states)
    plt, figure, axes = _figure(1.6 + 0.5 * n_columns, 1.2 + 0.5 * len(names))
    side = grid.shape[0] / len(names)
    axes.imshow(grid, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_yticks([(i + 0.5) * side for i in range(len(names))], names)
    axes.set_xticks(
        [(i + 0.5) * 2 * shown * side for i in range(len(states))],
        [
            f"round {r}, ε={float(s['epsilon']):.2g}\nplain | optimised"
            for r, s in enumerate(states)
        ],
    )
    for i in range(1, len(states)):
        axes.axvline(i * 2 * shown * side - 0.5, color="tab:orange", linewidth=2)
    axes.tick_params(length=0)
    axes.set_title(
        f"{folder.config.dataset}, {curve.label}, seed {folder.config.seed}: "
        f"{folder.config.template!r}; the same noise left and right",
        fontsize="medium",
    )
    return _png(plt, figure)


def _round_block(state: dict, n_classes: int, shown: int) -> np.ndarray:
    """[n·H, 2·shown·W(, 3)] uint8: `shown` pairs plain | optimised for each class."""
    images = state["probe_images"].numpy()[:, :n_classes, :shown]  # [2, n, shown, H, W, C]
    pairs = images.transpose(1, 3, 2, 0, 4, 5)  # n, H, shown, 2, W, C
    n, height, _, _, width, channels = pairs.shape
    block = pairs.reshape(n * height, shown * 2 * width, channels)
    return block[..., 0] if channels == 1 else block


def _png(plt, figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    plt.close(figure)
    return out.getvalue()


# -- everything --------------------------------------------------------------------------------


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
                label = "".join(ch if ch.isalnum() or ch in "-_.=" else "_" for ch in curve.label)
                files[f"{comparison.name}_{label}_images.png"] = grid
        for name, data in files.items():
            atomic_write(output / "report" / name, data)
        written = [f"  {output / 'report' / name}" for name in files]
        parts.append("\n".join([
            f"{comparison.name}: test accuracy in %, mean ±SEM over n seeds, by labels bought; seconds a run",
            text_table(comparison, bold=bold), "", *statements(comparison), *written,
        ]))  # fmt: skip
    unfinished = [f for f in folders if not f.finished]
    if unfinished:
        parts.append(f"{len(unfinished)} unfinished runs are left out, e.g. {unfinished[0].path}")
    return "\n\n".join(parts)
