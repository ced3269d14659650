"""The tables of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .comparison import COSTS, Comparison, Curve
from .exhibit import PaperRow, paper_numbers
from .statistics import (
    LEAST_SEEDS,
    PairedDifference,
    labels_needed,
    mean_sem,
    normalized_area,
    paired_by_budget,
    paired_difference,
    win_shares,
)

BY_CLASS_END = ("all", "images")  # last columns of a table by class: its mean, and a count
UNEVEN = 0.005  # balanced accuracy is shown where it is so far from accuracy


@dataclass(frozen=True)
class Cell:
    """
    Attributes:
        text: as people read it.
        value: as programs do, and what a column is sorted by; None for words.
        error: standard error of the value, or half an interval; None if it has none.
        best: whether it is the best of its column.
    """

    text: str
    value: float | None = None
    error: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """
    Attributes:
        name: part of its files' names.
        title: a line that says what the numbers are.
        header: a name for each column; the first holds the rows' names.
        rows: cells, as many as the header has names.
        error: what the errors of its cells are.
        data: the same for programs, where that takes other columns: what the CSV file holds.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    error: str = "SEM"
    data: Table | None = None

    @property
    def has_numbers(self) -> bool:
        """Whether any cell beside the rows' names is a number."""
        return any(cell.value is not None for _, *cells in self.rows for cell in cells)

    @property
    def shares(self) -> tuple[str, ...]:
        """Of a table of percentages the names of their columns, which follow the rows' names. What
        ends a table by class is told by its place, since a class may be called "all", too."""
        return self.header[1:-1] if self.header[-2:] == BY_CLASS_END else self.header[1:]


def mean_over(what: str, rows: Sequence[Sequence[Cell]]) -> str:
    """What the cells are; of an error only where one is shown."""
    known = any(cell.error is not None for row in rows for cell in row)
    return f"mean{' ±SEM' if known else ''} over {what}"


def mean_cell(
    values: Sequence[float] | np.ndarray, digits: int = 1, best: bool = False, plus: bool = False
) -> Cell:
    """Mean ± SEM, with so many digits behind the point; of a difference with its plus."""
    mean, sem = mean_sem(values)
    text = "+" * (plus and mean >= 0) + with_error(mean, sem, digits)
    return Cell(text, mean, None if np.isnan(sem) else sem, best)


# -- which tables there are ----------------------------------------------------------------------


def accuracy_table(comparison: Comparison) -> Table:
    """Mean ± SEM at each budget, their average, the area; seconds are sums over a run, means over
    seeds, and labels and images those of a run."""
    columns, rows = _accuracy_columns(comparison), []
    best = {name: _best(column) for name, column in columns.items()}
    for i, curve in enumerate(comparison.curves):
        accuracies = [_accuracy(column[i], best[name]) for name, column in columns.items()]
        counts = (len(curve.seeds), curve.labels, curve.images, curve.images_made)
        rows.append(
            (
                Cell(curve.marked_label),
                *accuracies,
                *(Cell(f"{n:,}", n) for n in counts),
                *(Cell(f"{curve.cost(k):.1f}", curve.cost(k)) for k in COSTS),
            )
        )
    header = ("strategy", *columns, "n", "labels", "images", "made", *COSTS)
    what = {
        "balanced": "balanced: average of the mean over classes",
        "area": "area: under the curve over labels",
    }
    said = [what[name] for name in columns if name in what] + ["costs of one run"]
    if any(c.images_made for c in comparison.curves):
        said.append("gen s: images that were stored already as when they were made")
    title = f"test accuracy in %, {mean_over('n seeds', rows)}; {'; '.join(said)}"
    return Table("accuracy", title, header, tuple(rows))


Column = list[np.ndarray | None]  # [S] of each method that has it


def _accuracy_columns(comparison: Comparison) -> dict[str, Column]:
    """Accuracy at each budget, their average, that of balanced accuracy where it tells more, and
    the area where there are two budgets."""
    common, curves = comparison.common_budgets, comparison.curves
    columns: dict[str, Column] = {
        f"{b:,}": [c.average([b]) for c in curves] for b in comparison.budgets
    }
    columns["average"] = [c.average(common) for c in curves]
    balanced = [c.balanced(common) for c in curves]
    pairs = [p for p in zip(balanced, columns["average"], strict=True) if p[1] is not None]
    if any(abs(np.mean(b - average)) >= UNEVEN for b, average in pairs):
        columns["balanced"] = balanced
    if len(common) > 1:
        columns["area"] = [normalized_area(c, common) for c in curves]
    return columns


def _best(column: Column) -> float | None:
    """The highest mean of a column, where not all have the same."""
    means = [values.mean() for values in column if values is not None]
    return max(means) if means and not _same(max(means), min(means)) else None


def _same(a: float, b: float) -> bool:
    """But for what rounding changes in a mean."""
    return math.isclose(a, b, rel_tol=1e-12)


def _accuracy(values: np.ndarray | None, best: float | None = None) -> Cell:
    """Mean ± SEM in percent; the best if that is the mean."""
    if values is None:
        return Cell("")
    return mean_cell(100 * values, best=best is not None and _same(values.mean(), best))


def with_error(mean: float, error: float, digits: int = 1) -> str:
    text = f"{mean:,.{digits}f}".replace("-", "−")
    return text + ("" if np.isnan(error) else f" ±{error:,.{digits}f}")


def difference_table(comparison: Comparison) -> Table | None:
    """Every other method minus the baseline, paired by seed; None without another."""
    reference, budgets, rows = comparison.reference, comparison.common_budgets, []
    for curve in comparison.learning:
        d = None if curve is reference else paired_difference(curve, reference, budgets)
        if d is None:
            continue
        known = not np.isnan(d.half_width)
        rows.append(
            (
                Cell(curve.label),
                Cell(signed(100 * d.mean), 100 * d.mean),
                Cell(f"±{100 * d.half_width:.2f}", 100 * d.half_width) if known else Cell(""),
                Cell(f"{d.p:.2g}", d.p) if known else Cell(""),
                Cell(str(d.n), d.n),
            )
        )
    title = f"points of average accuracy above {reference.label}, paired by seed"
    header = ("strategy", "difference", HALF_WIDTH, "p (paired t)", "n")
    table = Table("differences", title, header, tuple(rows))
    return _with_baseline(table, reference) if rows else None


HALF_WIDTH = "95 % half-width"  # of an interval


def _with_baseline(table: Table, baseline: Curve) -> Table:
    """The table, whose file says in each row what is subtracted."""
    header = (table.header[0], "baseline", *table.header[1:])
    rows = tuple((first, Cell(baseline.label), *cells) for first, *cells in table.rows)
    return replace(table, data=replace(table, header=header, rows=rows))


def gains_table(comparison: Comparison) -> Table | None:
    """Every other method minus the baseline at each |L|, paired by seed; None where there are not
    two of them, or too few seeds."""
    reference, rows = comparison.reference, []
    others = [c for c in comparison.learning if c is not reference]
    of_method = {c.label: paired_by_budget(c, reference) for c in others}
    budgets = sorted(set().union(*of_method.values()))
    for label, gains in of_method.items():
        if any(d.n >= LEAST_SEEDS for d in gains.values()):
            rows.append((Cell(label), *(_gain(gains.get(b)) for b in budgets)))
    if len(budgets) < 2 or not rows:
        return None
    title = f"points above {reference.label} at each |L|, paired by seed, ± 95 % interval"
    header = ("strategy", *(f"{b:,}" for b in budgets))
    return _with_baseline(Table("gains", title, header, tuple(rows), HALF_WIDTH), reference)


def _gain(d: PairedDifference | None) -> Cell:
    if d is None or np.isnan(d.half_width):
        return Cell("")
    mean, half_width = 100 * d.mean, 100 * d.half_width
    return Cell(f"{signed(mean)} ±{half_width:.2f}", mean, half_width)


def signed(points: float) -> str:
    """With its sign, as print has it."""
    return f"{points:+.2f}".replace("-", "−")


def win_table(comparison: Comparison) -> Table | None:
    """How often the row beats the column; the lower a column's mean, the better its method."""
    labels = [c.label for c in comparison.learning]
    return _win_matrix("wins", BEATS, labels, win_shares(comparison.learning))


def overall_win_table(comparisons: Sequence[Comparison]) -> Table | None:
    """The same over several data sets, each counting as much: the matrix of BADGE (Ash et al. 2020)
    divided by their number. None where no two methods met on two data sets."""
    datasets = dict.fromkeys(c.dataset for c in comparisons)
    if len(datasets) < 2 or len(datasets) < len(comparisons):
        return None
    labels = list(dict.fromkeys(c.label for of in comparisons for c in of.learning))
    layers = np.full((len(comparisons), len(labels), len(labels)), np.nan)
    for layer, comparison in zip(layers, comparisons, strict=True):
        places = [labels.index(c.label) for c in comparison.learning]
        layer[np.ix_(places, places)] = win_shares(comparison.learning)
    met = (~np.isnan(layers)).sum(0)
    shares = np.where(met > 1, np.nansum(layers, 0) / np.maximum(met, 1), np.nan)
    title = f"{BEATS}, mean over {', '.join(datasets)}"
    return _win_matrix("wins_overall", title, labels, shares)


BEATS = "% of budgets at which the row beats the column (paired t-test, two-sided, 5 %)"


def _win_matrix(name: str, title: str, labels: Sequence[str], shares: np.ndarray) -> Table | None:
    """
    Args:
        shares: [M, M] in [0, 1], NaN where two methods never met.
    """
    if np.isnan(shares).all():
        return None
    rows = [(Cell(x), *map(_share, line)) for x, line in zip(labels, shares, strict=True)]
    known = ~np.isnan(shares)
    beaten = [s[k].mean() if k.any() else np.nan for s, k in zip(shares.T, known.T, strict=True)]
    rows.append((Cell("mean of the column"), *map(_share, beaten)))
    return Table(name, title, ("beats", *labels), tuple(rows))


def _share(share: float) -> Cell:
    return Cell("") if np.isnan(share) else Cell(f"{100 * share:.0f}", 100 * share)


def labels_table(comparison: Comparison, targets: Sequence[float] = ()) -> Table | None:
    """Human labels until an accuracy is reached; without targets, the baseline's last one.

    Args:
        targets: test accuracies in [0, 1].
    """
    if targets:
        named = {t: f"{round(100 * t, 6):g} %" for t in targets}
        source, about = "--target-accuracy", "a test accuracy"
    else:
        last = float(comparison.reference.accuracy[:, -1].mean())
        named = {last - ROUNDING: f"{100 * last:.1f} %"}  # as the table of accuracies has it
        source = f"last accuracy of {comparison.reference.label}"
        about = f"a test accuracy of {100 * last:.1f} %, the last of {comparison.reference.label}"
    rows, data = [], []
    for curve in comparison.learning:
        needed = {t: labels_needed(curve, t) for t in named}
        rows.append((Cell(curve.label), *(_labels(curve, of) for of in needed.values())))
        for target, of in needed.items():
            aim = (Cell("", 100 * target), Cell(source))
            data.append((Cell(curve.label), *aim, *_labels_in_numbers(curve, of)))
    title = (
        f"human labels needed for {about}: where each seed's curve, linear between budgets, first "
        f"reaches it; {mean_over('seeds', rows)}"
    )
    columns = ("strategy", "target in %", "target from", *NEEDED)
    file = Table("labels", title, columns, tuple(data))
    header = ("strategy", *named.values())
    return Table("labels", title, header, tuple(rows), data=file) if rows else None


ROUNDING = 1e-12  # how much above equal accuracies their mean may be
NEEDED = ("mean labels", "seeds that reach it", "of them at the first budget", "seeds")


def _labels(curve: Curve, needed: np.ndarray) -> Cell:
    """Words without a value where a seed never gets there: a mean of the others would mislead."""
    reached = np.isfinite(needed).sum()
    if reached < len(needed):
        some = f"{reached} of {len(needed)} seeds reach it"
        if curve.labels == 0:
            return Cell(some if reached else "never")
        return Cell(f"> {curve.budgets[-1]:,}" + f" ({some})" * bool(reached))
    if curve.labels == 0:
        return Cell("0", 0.0)
    mean, sem = mean_sem(needed)
    if curve.budgets[0] in needed:  # it may have been there before
        return Cell(f"≤ {mean:,.0f}", mean)
    return Cell(with_error(mean, sem, 0), mean, None if np.isnan(sem) else sem)


def _labels_in_numbers(curve: Curve, needed: np.ndarray) -> tuple[Cell, ...]:
    """The columns NEEDED; no mean where a seed never gets there."""
    mean = replace(_labels(curve, needed), text="")
    counts = (np.isfinite(needed).sum(), (needed == curve.budgets[0]).sum(), len(needed))
    return mean, *(Cell("", float(n)) for n in counts)


def paper_table(comparison: Comparison) -> Table | None:
    """The paper's numbers, and ours minus them; None where nothing of it may be compared."""
    rows: list[tuple[str, dict[int | str, Cell]]] = []
    for curve, printed in paper_rows(comparison):
        theirs, ours = {}, {}
        for key, own in _comparable(curve, printed).items():
            value, mark = 100 * printed.accuracy[key], "?" * (key in printed.doubtful)
            theirs[key] = Cell(f"{value:.2f}{mark}", value)
            ours[key] = Cell(signed(100 * own - value) + mark, 100 * own - value)
        rows += [(f"{curve.marked_label}: paper", theirs), ("  ours − paper", ours)]
    if not rows:
        return None
    columns = sorted({k for _, cells in rows for k in cells}, key=lambda k: (isinstance(k, str), k))
    table = [(Cell(name), *(cells.get(k, Cell("")) for k in columns)) for name, cells in rows]
    header = ("strategy", *(k if isinstance(k, str) else f"{k:,}" for k in columns))
    title = "the paper's test accuracy in %, and ours minus it in points; ? is doubtful"
    return Table("paper", title, header, tuple(table))


def _comparable(curve: Curve, printed: PaperRow) -> dict[int | str, float]:
    """Our mean accuracy under each key of the paper's that means the same."""
    if not curve.learns:
        return {"all labels": curve.accuracy.mean()} if "all labels" in printed.accuracy else {}
    means = dict(zip(curve.budgets, curve.accuracy.mean(0), strict=True))
    own = {b: mean for b, mean in means.items() if b in printed.accuracy}
    same = set(means) == {k for k in printed.accuracy if isinstance(k, int)}
    if same and "average" in printed.accuracy:
        own["average"] = curve.accuracy.mean()
    return own


def paper_rows(comparison: Comparison) -> list[tuple[Curve, PaperRow]]:
    """Methods whose data, protocol and generator are the paper's, with what it prints."""
    if comparison.exhibit is None:
        return []
    addresses = {arm.label: arm.paper for arm in comparison.exhibit.arms if arm.paper}
    found = []
    for curve in comparison.curves:
        if curve.label in addresses:
            table, row = addresses[curve.label]
            printed = paper_numbers().get((table, comparison.dataset, row))
            found += [(curve, printed)] if printed else []
    return found


def pool_table(comparison: Comparison) -> Table | None:
    """How near each method's generated images are to the unlabeled ones, in the last round; None
    where no method with a pool generates."""
    rows = []
    aligned = any("mismatch" in row for c in comparison.learning for of in c.rows for row in of)
    keys = ("pool_distance", *(("mismatch_plain", "mismatch") if aligned else ()))
    for curve in comparison.learning:
        last = [of_seed[-1] for of_seed in curve.rows]
        if any("pool_distance" in row for of_seed in curve.rows for row in of_seed):
            cells = [_mean_of(last, key) for key in keys]
            counts = (Cell(f"{n:,}", n) for n in (curve.images_made, curve.images))
            rows.append((Cell(curve.label), *counts, *cells))
    title = (
        "unlabeled images to the nearest generated one (root mean square of pixels, in the last "
        "round)"
    )
    if aligned:
        title += (
            ", and how far the generated images' moments are from theirs, as made and aligned "
            "(align=pool: of the foreground, in halves of the side; else of the channels' values)"
        )
    title += f"; {mean_over('seeds', rows)}"
    header = ("images of", "made", "trained on", "distance", *(("moments", "aligned") * aligned))
    return Table("pool", title, header, tuple(rows)) if rows else None


def text_table(comparison: Comparison) -> Table | None:
    """What moving the text did, optimised or at random: the acquisition score of images before and
    after, and how far the text moved; None where no method moves any."""
    rows = []
    for curve in comparison.curves:
        moved = [[row for row in of_seed if "score_before" in row] for of_seed in curve.rows]
        if not all(moved):
            continue
        mean = {key: [np.mean([row[key] for row in of]) for of in moved] for key in MOVED}
        gain = np.subtract(mean["score_after"], mean["score_before"])
        cells = [mean_cell(mean[key], digits=4) for key in ("score_before", "score_after")]
        cells.append(mean_cell(gain, digits=4, plus=True))
        epsilon = float(np.mean(mean["epsilon"]))  # the same for all seeds
        cells.append(Cell(f"{epsilon:.3g}", epsilon))
        cells += [mean_cell(mean[key], digits=3) for key in ("distance", "arrived_distance")]
        rows.append((Cell(curve.label), *cells, Cell(str(len(gain)), len(gain))))
    title = (
        "acquisition score (of the method's own text target; higher is more wanted) of images at "
        "fresh noise before and after the text moved; ε and ‖c − c0‖: how far it may and did move, "
        f"as computed and as the network reads it; {mean_over('seeds', rows)} of the mean over "
        "rounds"
    )
    header = ("strategy", "score before", "score after", "after − before", "ε", "‖c − c0‖",
              "‖c − c0‖ as read", "n")  # fmt: skip
    return Table("text", title, header, tuple(rows)) if rows else None


MOVED = ("score_before", "score_after", "epsilon", "distance", "arrived_distance")  # of a row


def _mean_of(rows: Sequence[dict], key: str) -> Cell:
    """Over seeds; empty where not all have it."""
    if not all(key in row for row in rows):
        return Cell("")
    return mean_cell([row[key] for row in rows], digits=4)


def tables_of(comparison: Comparison, targets: Sequence[float] = ()) -> list[Table]:
    """All that this comparison has."""
    made = (
        accuracy_table(comparison),
        paper_table(comparison),
        difference_table(comparison),
        gains_table(comparison),
        win_table(comparison),
        labels_table(comparison, targets),
        pool_table(comparison),
    )
    return [table for table in made if table is not None]
