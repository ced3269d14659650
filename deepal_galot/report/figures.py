"""The pictures of a comparison, as matplotlib figures: for paper, and in the page's own colours."""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .comparison import COSTS, Comparison, Curve
from .exhibit import PaperRow
from .statistics import LEAST_SEEDS, has_spread, mean_sem
from .tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Each has a contrast of at least 3 to white and to near black, so one drawing serves both.
COLORS = ("#3574d4", "#cf6500", "#2b9348", "#d6403a", "#9260c2", "#97694f", "#cf4f9c", "#7a7a7a",
          "#868219", "#148f9f")  # fmt: skip
MARKERS, LINES = "osD^vP*X", ("-", ":", "-.")
INK = "#0a0b0c"  # of text and axes; the page puts its own colour in its place
MORE_LETTERS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC",
                "Noto Sans JP", "WenQuanYi Zen Hei", "Microsoft YaHei", "Yu Gothic",
                "Malgun Gothic", "PingFang SC", "Hiragino Sans", "Arial Unicode MS",
                "Noto Sans Arabic", "Noto Sans Devanagari")  # fmt: skip
LEGEND_WIDTH = 100  # letters in a line of a legend
LEGEND_KEY = 7  # letters that would fit where a legend has a line and its marker
NAME_WIDTH, MOST_LINES = 38, 3  # letters and lines of a name beside a picture
ROW, LINE = 0.32, 0.17  # inches for a bar, and for a line of a name
SLANT = 40  # degrees, of names above columns


def render(
    draw: Callable[[], Figure], kinds: Sequence[str], look: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """A figure as "png" or "svg", or both; the same bytes for the same figure, with text as text.

    Args:
        look: matplotlib settings over those of all pictures: INK, and no mathematics in labels.
    """
    import matplotlib

    inked = (
        "text.color",
        "axes.labelcolor",
        "axes.edgecolor",
        "axes.titlecolor",
        "xtick.color",
        "ytick.color",
    )
    settings = dict.fromkeys(inked, INK) | {
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "deepal-galot",
        "font.family": _fonts(),
    }
    files = {}
    with matplotlib.rc_context(settings | dict(look or {})):
        figure = draw()
        for kind in kinds:
            out, vector = io.BytesIO(), kind == "svg"
            metadata = {"Date": None} if vector else None
            figure.savefig(out, format=kind, dpi=110, metadata=metadata, transparent=vector)
            files[kind] = out.getvalue()
    return files


@contextlib.contextmanager
def glyphs_missing() -> Iterator[list[str]]:
    """Collects matplotlib's warnings of letters that no font has, in place of printing them."""
    missing: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield missing
    for warning in caught:
        if str(warning.message).startswith("Glyph "):
            missing.append(str(warning.message))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


@cache
def _fonts() -> list[str]:
    """matplotlib's own font, and those installed here that have the letters of more languages."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in MORE_LETTERS if name in installed)]


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one set of axes, in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def style(i: int) -> dict[str, str]:
    """How the i-th method of a comparison is drawn; alike in every picture of it."""
    return {
        "color": COLORS[i % len(COLORS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": LINES[i // len(COLORS) % len(LINES)],
    }


def curves(comparison: Comparison, *, legend: bool = True) -> Figure:
    """Learning curves: mean accuracy over |L|, bands of one SEM.

    Args:
        legend: inside the figure; the page has its own.
    """
    # From the best downwards, so that the legend stands as the curves end.
    order = sorted(
        range(len(comparison.curves)), key=lambda i: -comparison.curves[i].accuracy[:, -1].mean()
    )
    names = {i: _legend_name(comparison.curves[i]) for i in order}
    many = len(names) > 6
    widest = max(map(_width, names.values()))
    beside = min(3, (LEGEND_WIDTH + LEGEND_KEY) // (widest + LEGEND_KEY))
    lines = math.ceil(sum(map(_lines, names.values())) / beside)
    height = 5 + 0.19 * lines
    figure, axes = new_figure(*((7.5, height) if legend else (5.4, 3.9)))
    for i in order:
        _curve(axes, comparison.curves[i], names[i], i, band=0.08 if many else 0.2)
    ticks = sorted({budget for curve in comparison.learning for budget in curve.budgets})
    if len(ticks) <= (12 if legend else 6):
        axes.set_xticks(ticks)
    alone = any(not curve.folders[0].config.uses_real_images for curve in comparison.curves)
    axes.set_xlabel("|L|: human labels" + " (in mode gal, what stands for them)" * alone)
    axes.set_ylabel("test accuracy in %")
    axes.grid(alpha=0.3)
    if legend:
        spread = " ± SEM" if has_spread(comparison.curves) else ""
        axes.set_title(folded(f"{comparison.title}: mean{spread} over seeds", 75))
        # Not inside the axes, where it may cover a line.
        figure.legend(fontsize="small", loc="outside lower left", ncols=beside)
    return figure


def _legend_name(curve: Curve) -> str:
    alone = f", {curve.labels:,} labels" if not curve.learns else ""
    return folded(f"{curve.label} (n={len(curve.seeds)}){alone}", LEGEND_WIDTH)


def _curve(axes: Axes, curve: Curve, name: str, i: int, band: float) -> None:
    mean, sem = np.array([mean_sem(100 * a) for a in curve.accuracy.T]).T
    if not curve.learns:
        axes.axhline(mean[0], color=style(i)["color"], linestyle="--", label=name)
        return
    axes.plot(curve.budgets, mean, **style(i), markersize=5, label=name)
    axes.fill_between(curve.budgets, mean - sem, mean + sem, alpha=band, color=style(i)["color"])


def beside_paper(rows: Sequence[tuple[Curve, PaperRow]]) -> Figure:
    """Our curves, and the paper's dashed in the same colours."""
    names = [folded(curve.label, LEGEND_WIDTH) for curve, _ in rows]
    figure, axes = new_figure(7.5, 5 + 0.19 * sum(map(_lines, names)))
    for i, ((curve, printed), name) in enumerate(zip(rows, names, strict=True)):
        if not curve.learns:
            axes.axhline(100 * curve.accuracy.mean(), color=style(i)["color"], label=name)
            theirs = 100 * printed.accuracy["all labels"]
            axes.axhline(theirs, color=style(i)["color"], linestyle="--")
            continue
        _curve(axes, curve, name, i, band=0.1)
        theirs = {k: 100 * v for k, v in printed.accuracy.items() if k in curve.budgets}
        axes.plot(list(theirs), list(theirs.values()), color=style(i)["color"], linestyle="--")
    axes.set_xlabel("|L|: human labels; dashed: the paper's numbers")
    axes.set_ylabel("test accuracy in %")
    axes.grid(alpha=0.3)
    figure.legend(fontsize="small", loc="outside lower left")
    return figure


def costs(comparison: Comparison) -> Figure:
    """Seconds of one run as a bar for each method, by what they were spent on."""
    methods = comparison.curves
    names = row_names([c.label for c in methods])
    figure, axes = new_figure(7.5, 1.3 + _row_height(names) * len(methods))
    left, y = np.zeros(len(methods)), np.arange(len(methods))
    for i, name in enumerate(COSTS):
        seconds = np.array([c.cost(name) for c in methods])
        axes.barh(y, seconds, left=left, color=COLORS[i], label=name.removesuffix(" s"))
        left += seconds
    for at, total in zip(y, left, strict=True):
        axes.text(total, at, f" {total:,.1f}", va="center", fontsize="small")
    _name_rows(axes, names)
    axes.set_xlim(0, 1.15 * max(left.max(), 0.1))
    axes.set_xlabel("seconds of one run, mean over seeds")
    figure.legend(fontsize="small", loc="outside lower right", ncols=len(COSTS))
    return figure


def intervals(table: Table) -> Figure:
    """The differences from the baseline, each with its 95 % interval, and with its number of seeds
    where these differ or are too few for an interval."""
    known = [row[2].value is not None for row in table.rows]
    told = not all(known) or len({row[-1].text for row in table.rows}) > 1
    names = row_names([row[0].text + f" (n={row[-1].text})" * told for row in table.rows])
    figure, axes = new_figure(7.5, 1.1 + _row_height(names) * len(names))
    for y, (_, mean, half_width, *_) in enumerate(table.rows):
        axes.errorbar(mean.value, y, xerr=half_width.value, fmt="o", color=COLORS[0], capsize=3)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_ylim(-0.6, len(table.rows) - 0.4)
    _name_rows(axes, names)
    title = table.title + "; bars: 95 % interval" * any(known)
    title += f"; no bar with fewer than {LEAST_SEEDS} seeds" * (not all(known))
    figure.supxlabel(folded(title, 90), fontsize="medium")  # names may be long
    axes.grid(axis="x", alpha=0.3)
    return figure


def gains(table: Table) -> Figure:
    """The differences from the baseline over |L|: a panel for each method, on the same axes."""
    names = row_names([row[0].text for row in table.rows], 32)
    n = len(names)
    columns = min(3, n)
    lines, width = math.ceil(n / columns), 2.5 * columns + 0.8
    height = 1.6 + 0.3 * (n > columns) + 0.14 * max(map(_lines, names))
    figure, unused = new_figure(width, height * lines + 0.6)
    unused.remove()
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    budgets = np.array([int(name.replace(",", "")) for name in table.header[1:]])
    for i, axes in enumerate(grid.flat):
        axes.set_visible(i < n)
        if i >= n:
            continue
        cells = table.rows[i][1:]
        here = np.array([c.value is not None for c in cells])
        mean, half_width = np.array([(c.value, c.error) for c in cells if c.value is not None]).T
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.plot(budgets[here], mean, color=COLORS[0], marker="o", markersize=3)
        axes.fill_between(
            budgets[here], mean - half_width, mean + half_width, alpha=0.2, color=COLORS[0]
        )
        axes.set_title(names[i], fontsize="small")
        axes.tick_params(labelbottom=i + columns >= n)  # also where the last line has no panel
        axes.grid(alpha=0.3)
    figure.supylabel("points", fontsize="medium")
    figure.supxlabel(folded(f"|L|; {table.title}", int(11 * width)), fontsize="medium")
    return figure


def bars(table: Table) -> Figure:
    """A bar for each number of a table; where it has words, these alone."""
    rows, columns = len(table.rows), len(table.header) - 1
    names = row_names([row[0].text for row in table.rows])
    row_height = max(_row_height(names), 0.6 * ROW * columns)
    figure, axes = new_figure(7.5, 1.2 + row_height * rows)
    for j in range(columns):
        cells = [row[j + 1] for row in table.rows]
        y = np.arange(rows) + (j - (columns - 1) / 2) * 0.8 / columns
        axes.barh(
            y,
            [math.nan if c.value is None else c.value for c in cells],
            0.8 / columns,
            color=COLORS[j % len(COLORS)],
            xerr=[math.nan if c.value is None else c.error or 0 for c in cells],
            label=table.header[j + 1],
        )
        for at, cell in zip(y, cells, strict=True):
            right = (cell.value or 0) + (cell.error or 0)
            axes.text(right, at, f"  {cell.text}", va="center", fontsize="small")
    axes.set_ylim(-0.6, rows - 0.4)
    _name_rows(axes, names)
    axes.set_xlim(0, 1.3 * (max(axes.get_xlim()[1], 1e-9)))
    figure.supxlabel(folded(table.title, 80), fontsize="medium")  # names may be long
    figure.legend(fontsize="small", loc="outside upper right", ncols=min(columns, 5))
    return figure


def matrix(table: Table) -> Figure:
    """A table of percentages as shades with their numbers."""
    names = row_names(table.shares)
    row_labels = row_names([row[0].text for row in table.rows])
    above, beside = (max(map(_width, texts)) for texts in (names, row_labels))
    # Slanted lines of a name stand side by side.
    column = max(0.55, LINE * (max(map(_lines, names)) + 0.3) / math.sin(math.radians(SLANT)))
    width = max(4.5, 1.2 + column * len(names) + 0.08 * (beside + above))
    row_height = max(0.42, _row_height(row_labels))
    height = 0.8 + row_height * len(row_labels) + 0.07 * max(14, above)
    figure, axes = new_figure(width, height)
    cells = [row[1 : len(names) + 1] for row in table.rows]
    values = np.array([[np.nan if c.value is None else c.value for c in row] for row in cells])
    axes.imshow(values, cmap="Blues", vmin=0, vmax=150, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if not np.isnan(value):
            dark = value > 90
            axes.text(
                j,
                i,
                cells[i][j].text,
                ha="center",
                va="center",
                color="white" if dark else "black",
                fontsize="small",
            )
    slanted = {"rotation": SLANT, "ha": "left", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(names)), names, **slanted)
    axes.xaxis.tick_top()
    _name_rows(axes, row_labels, flip=False)
    axes.tick_params(length=0)
    axes.set_xlabel(folded(table.title, int(8 * width)), fontsize="small")
    figure.draw_without_rendering()  # the layout needs two passes for slanted names
    return figure


def percentages(named: Mapping[str, Mapping[float, float]], x_label: str, y_label: str) -> Figure:
    """A line for each name over a few values that stand evenly, whatever their size.

    Args:
        named: name -> x -> y in percent.
    """
    names = [folded(name, LEGEND_WIDTH) for name in named]
    figure, axes = new_figure(7.5, 4.2 + 0.19 * sum(map(_lines, names)))
    xs = sorted({x for ys in named.values() for x in ys})
    for i, (name, ys) in enumerate(zip(names, named.values(), strict=True)):
        axes.plot([xs.index(x) for x in ys], list(ys.values()), **style(i), label=name)
    axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    axes.set_ylim(0, 102)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    figure.legend(fontsize="small", loc="outside lower left")
    return figure


def _name_rows(axes: Axes, names: Sequence[str], *, flip: bool = True) -> None:
    axes.set_yticks(range(len(names)), names)
    if flip:
        axes.invert_yaxis()


def _row_height(names: Sequence[str]) -> float:
    """Inches for a row, where all are as high as the highest name."""
    return max(ROW, LINE * (max(map(_lines, names)) + 0.3))


def _lines(text: str) -> int:
    return text.count("\n") + 1


def _width(text: str) -> int:
    """Letters in its longest line."""
    return max(map(len, text.split("\n")))


def row_names(names: Sequence[str], width: int = NAME_WIDTH) -> list[str]:
    """Names that fit beside a picture, over several lines. The middle of a very long one is left
    out, unless another would look the same."""
    whole = [folded(name, width) for name in names]
    cut = [_without_middle(name) for name in whole]
    return [c if cut.count(c) == 1 else name for c, name in zip(cut, whole, strict=True)]


def _without_middle(name: str) -> str:
    """The first lines of a folded name and its last one."""
    lines = name.split("\n")
    if len(lines) <= MOST_LINES:
        return name
    return "\n".join([*lines[: MOST_LINES - 1], f"… {lines[-1]}"])


def folded(text: str, width: int) -> str:
    """A text over several lines, broken behind commas, colons and spaces, and within a word only
    where that alone is longer than a line.

    >>> folded("GALOT:direction=random,ascent_samples=2", 24)
    'GALOT:direction=random,\\nascent_samples=2'
    """
    lines = [""]
    for word in re.split(r"(?<=[,:])(?!\d)|(?<=\s)", text):  # not within 1,000
        if len(lines[-1]) + len(word.rstrip()) > width:
            lines.append("")
        while len(word.rstrip()) > width:
            lines[-1:] = [word[:width], ""]
            word = word[width:]
        lines[-1] += word
    return "\n".join(filter(None, map(str.rstrip, lines)))


def short(name: str, most: int = 48) -> str:
    """A name that fits beside a picture: the middle of a long one is left out.

    >>> short("the name of a class of animals", 24)
    'the name of a … animals'
    """
    end = most // 3 - 1
    if len(name) <= most:
        return name
    return f"{name[: most - end - 3].rstrip()} … {name[-end:].lstrip()}"
