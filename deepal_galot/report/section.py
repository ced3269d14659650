"""What is shown of one comparison: tables, pictures, sentences and generated images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..results import RunFolder
from . import figures
from .annotation import Annotation, marked_table
from .comparison import Comparison
from .gallery import Gallery, examples, gallery_of, one_class, sheet
from .pseudo_labels import Judge, by_template, find_judge, judged_table
from .statements import statements
from .tables import Table, overall_win_table, paper_rows, tables_of, text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ABOUT_IMAGES = ("pseudo_labels", "annotated")  # tables


@dataclass(frozen=True)
class Picture:
    """
    Attributes:
        name: part of its files' names.
        alt: what it shows, for those who cannot see it.
        draw: makes the figure.
        table: name of the table that holds its numbers; empty for images.
    """

    name: str
    alt: str
    draw: Callable[[], Figure]
    table: str = ""


@dataclass(frozen=True)
class Section:
    """
    Attributes:
        comparison: what it is about.
        tables, pictures, lines: what is shown of it; of pictures without numbers, images.
        galleries: the methods that make images, each by its lowest seed.
        judge: who checks pseudo-labels; None if no classifier was trained on all real labels.
    """

    comparison: Comparison
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...]
    lines: tuple[str, ...]
    galleries: tuple[Gallery, ...]
    judge: Judge | None

    @property
    def name(self) -> str:
        return self.comparison.name

    @property
    def title(self) -> str:
        return self.comparison.title


def make_sections(
    comparisons: Sequence[Comparison],
    folders: Sequence[RunFolder],
    targets: Sequence[float] = (),
    marks: Sequence[Annotation] = (),
) -> list[Section]:
    """What is shown of each comparison; what one experiment, or none, has on several data sets is
    summed up behind the last of them.

    Args:
        folders: where a judge of pseudo-labels may be among.
        targets: test accuracies in [0, 1] of the table of labels.
        marks: of people, on generated images of any run.
    """
    alike: dict[str, list[Comparison]] = {}
    for c in comparisons:
        alike.setdefault(c.exhibit.name if c.exhibit else "", []).append(c)
    overall = {id(of[-1]): overall_win_table(of) for of in alike.values()}
    return [make_section(c, folders, targets, marks, overall.get(id(c))) for c in comparisons]


def make_section(
    comparison: Comparison,
    folders: Sequence[RunFolder],
    targets: Sequence[float] = (),
    marks: Sequence[Annotation] = (),
    overall: Table | None = None,
) -> Section:
    """
    Args:
        folders, targets, marks: see make_sections.
        overall: a table of this and other data sets.
    """
    galleries = tuple(filter(None, map(gallery_of, comparison.curves)))
    judge = find_judge(comparison, folders) if galleries else None
    judged = judged_table(comparison, judge, galleries) if judge else None
    marked = marked_table(galleries, marks) if marks else None
    moved = text_table(comparison)  # the last, since the images come next
    tables = [*tables_of(comparison, targets), *filter(None, (overall, judged, marked, moved))]
    kind, lines = "curves", statements(comparison)
    gone = [g.label for g in galleries if (judge or marks) and not g.kept]
    if comparison.exhibit is not None and comparison.exhibit.kind != "curves":
        kind, lines = comparison.exhibit.kind, list(comparison.exhibit.notes)
        about = ABOUT_IMAGES if kind == "pseudo_labels" and (judged or marked) else ("accuracy",)
        tables = [table for table in tables if table.name in about]
    if gone:
        lines.append(f"images of {', '.join(gone)} are gone from the store: nobody judged them")
    pictures = _of_images(kind, galleries)
    if kind in ("one_class", "examples"):  # the pictures are all that it shows
        galleries = ()
    else:
        pictures += _of_numbers(comparison, tables)
    if kind == "pseudo_labels":
        pictures = _by_template(tables, galleries) + pictures
    return Section(comparison, tuple(tables), tuple(pictures), tuple(lines), galleries, judge)


def _of_numbers(comparison: Comparison, tables: Sequence[Table]) -> list[Picture]:
    """A picture of each table; of the accuracies two."""
    title, by_name = comparison.title, {t.name: t for t in tables}
    pictures = [
        Picture(
            "curves",
            f"{title}: learning curves, test accuracy over human labels",
            lambda: figures.curves(comparison),
            "accuracy",
        ),
        Picture(
            "costs",
            f"{title}: seconds of one run by what they were spent on",
            lambda: figures.costs(comparison),
            "accuracy",
        ),
    ]
    if not comparison.common_budgets or not any(c.learns for c in comparison.curves):
        pictures = pictures[1:]
    if "accuracy" not in by_name:
        pictures = []
    if "paper" in by_name:
        draw = partial(figures.beside_paper, paper_rows(comparison))
        pictures.append(Picture("paper", f"{title}: ours and the paper's curves", draw, "paper"))
    draws = {
        "differences": figures.intervals,
        "gains": figures.gains,
        "wins": figures.matrix,
        "labels": figures.bars,
        "wins_overall": figures.matrix,
        "pseudo_labels": figures.matrix,
        "annotated": figures.matrix,
    }
    for name, draw in draws.items():
        table = by_name.get(name)
        if table is not None and table.has_numbers:
            alt = f"{title}: {table.title}"
            pictures.append(Picture(name, alt, partial(draw, table), name))
    return pictures


def _by_template(tables: Sequence[Table], galleries: Sequence[Gallery]) -> list[Picture]:
    """The paper's Figure 4, of the judge's answers and of people's."""
    found = []
    for table in tables:
        if table.name in ABOUT_IMAGES:
            shares = by_template(table, galleries)
            draw = partial(figures.percentages, shares, "ε, in random directions", "% right")
            found.append(Picture(f"{table.name}_by_epsilon", table.title, draw, table.name))
    return found


def _of_images(kind: str, galleries: Sequence[Gallery]) -> list[Picture]:
    """The pictures of generated images that this kind of exhibit has."""
    shown = [g for g in galleries if g.probes]
    if kind == "pseudo_labels":
        return []
    if kind == "examples":
        return [
            Picture(
                f"{g.label}_examples",
                f"generated images of {g.label}, random classes",
                lambda g=g: examples(g),
            )
            for g in galleries
            if g.kept
        ]
    if kind == "one_class" and shown:
        alt = f"generated images of “{shown[0].class_names[0]}”, a row for each ε"
        return [Picture("one_class", alt, lambda: one_class(shown))]
    return [
        Picture(
            f"{g.label}_images",
            f"{g.label}: generated images by class and round, "
            f"{g.probes[-1].pairs or 'a row a class'}",
            lambda g=g: sheet(g),
        )
        for g in shown
    ]
