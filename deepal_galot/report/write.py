"""Everything that is written about runs: files below <output>/report, and text for the terminal."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..disk import atomic_write, not_written
from ..errors import UserError, did_you_mean
from ..lock import one_at_a_time
from ..results import RunFolder, label_of, split_label
from .annotation import Annotation, annotation_page
from .comparison import Comparison, compare, merge, of_exhibit
from .exhibit import Exhibit
from .figures import glyphs_missing, render
from .gallery import gallery_of
from .page import page
from .section import Section, make_sections
from .statistics import LEAST_SEEDS
from .table_formats import as_csv, as_latex, as_markdown, as_text, csv_of_rows
from .unfinished import how_to_see, rounds_of, unfinished_lines

FORMATS = {"csv": as_csv, "md": as_markdown, "tex": as_latex}


@dataclass(frozen=True)
class ReportOptions:
    """What the person who asked for the report wants of it.

    Attributes:
        baseline: label of the method that the others are compared with.
        targets: test accuracies in [0, 1] whose labels are counted.
        marks: of people, on generated images.
        bold: whether the terminal shows bold type.
        exhibits_only: leave out runs that stand in no exhibit.
    """

    baseline: str | None = None
    targets: tuple[float, ...] = ()
    marks: tuple[Annotation, ...] = ()
    bold: bool = False
    exhibits_only: bool = False


def write_report(
    folders: Sequence[RunFolder],
    output: Path,
    options: ReportOptions | None = None,
    exhibits: Sequence[Exhibit] = (),
) -> str:
    """Write tables, pictures and the page below `<output>/report`; return the terminal's text.

    Args:
        folders: runs, of one results folder or several.
        exhibits: tables and figures of the paper among them; their runs stand in no other table
            unless one has a method beside them.

    Raises:
        UserError: none of the runs is finished, or no method is called like the baseline.
    """
    options = options or ReportOptions()
    folders, lines = merge(folders)
    comparisons = _comparisons(folders, exhibits, options)
    sections = make_sections(comparisons, folders, options.targets, options.marks)
    file = output / "report" / "index.html"
    with glyphs_missing() as missing, _writable(output), _alone(file.parent):
        written, parts = {}, []
        for section in sections:
            files = _files(section)
            for name, data in files.items():
                atomic_write(file.parent / name, data)
            written |= dict.fromkeys(files, _subject(section))
            parts.append(_text(section, file.parent, len(files), options.bold))
        atomic_write(file, page(sections).encode())
        _remove_stale(file.parent, written)
    if missing:
        lines.append(
            "some letters are boxes in the pictures: no font here has them; install one "
            "that does, such as Noto Sans CJK"
        )
    if options.marks and not any(t.name == "annotated" for s in sections for t in s.tables):
        marks = sum(len(a.marks) for a in options.marks)
        lines.append(f"--annotations: none of the {marks} marks is of an image of these runs")
    lines += unfinished_lines(folders, _methods_of(exhibits))
    lines += _next_steps(sections)
    return "\n\n".join([*parts, *lines, f"to look at: {file}"])


@contextlib.contextmanager
def _writable(output: Path) -> Iterator[None]:
    """
    Raises:
        UserError: the report cannot be written there.
    """
    try:
        yield
    except OSError as error:
        raise UserError(not_written(output, error)) from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One report at a time: jobs that share an output end together, and each would lose what the
    other listed."""
    folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder / "LOCK", str(folder)):
        yield


def write_annotation_page(folders: Sequence[RunFolder], output: Path, n: int) -> str:
    """Write the page on which a person marks n images a class of every method; says where it is.

    Raises:
        UserError: no finished run made images, or n < 1.
    """
    curves = [curve for c in compare(merge(folders)[0]) for curve in c.curves]
    galleries = list(filter(None, map(gallery_of, curves)))
    file = output / "report" / "annotate.html"
    title = ", ".join(dict.fromkeys(g.folder.config.dataset for g in galleries))
    text = annotation_page(galleries, n, title)
    with _writable(output):
        atomic_write(file, text.encode())
    return (
        f"to mark: {file}\nopen it in a browser; then, with the file that it saves:\n"
        f"  python run_benchmark.py --report --output {shlex.quote(str(output))} "
        f"--annotations annotations.json"
    )


def _comparisons(
    folders: Sequence[RunFolder], exhibits: Sequence[Exhibit], options: ReportOptions
) -> list[Comparison]:
    """The exhibits, then what is not in them.

    Raises:
        UserError: there is nothing, or no method is called like the baseline.
    """
    shown = list(filter(None, (of_exhibit(e, folders) for e in exhibits)))
    in_exhibits = {f.key for c in shown for curve in c.curves for f in curve.folders}
    judges = {e.judge for e in exhibits}
    in_exhibits |= {f.key for f in folders if f.method in judges}
    if not options.exhibits_only:
        shown += [
            c
            for c in compare(folders)
            if any(f.key not in in_exhibits for curve in c.curves for f in curve.folders)
        ]
    if not shown:
        raise UserError(f"nothing to report: {_why_nothing(folders, exhibits)}")
    return _told_apart(_with_baseline(shown, options.baseline) if options.baseline else shown)


def _why_nothing(folders: Sequence[RunFolder], exhibits: Sequence[Exhibit]) -> str:
    """Why no run is shown, and what shows them."""
    missing = [f for f in folders if not f.finished]
    if not missing:
        return "the runs have no test data"
    others = " and the others have no test data" * (len(missing) < len(folders))
    return (
        f"{len(missing)} of {len(folders)} runs are unfinished ({rounds_of(missing)}){others}; "
        f"{how_to_see(folders, _methods_of(exhibits))}"
    )


def _methods_of(exhibits: Sequence[Exhibit]) -> set[str]:
    return {arm.folder for e in exhibits for arm in e.arms}


def _with_baseline(comparisons: Sequence[Comparison], baseline: str) -> list[Comparison]:
    """Each with this baseline that has such a method; the others keep theirs, and say so.

    Raises:
        UserError: none has.
    """
    known = {c.label for comparison in comparisons for c in comparison.curves}
    alike = {label for label in known if _settings(label) == _settings(baseline)}
    if not alike:
        raise UserError(
            f"--baseline {baseline!r}: no such method here: {did_you_mean(baseline, known)}"
        )
    found = [next((m.label for m in c.curves if m.label in alike), None) for c in comparisons]
    return [
        replace(c, baseline=label) if label else replace(c, missed=baseline)
        for c, label in zip(comparisons, found, strict=True)
    ]


def _settings(label: str) -> tuple[str, frozenset[str]]:
    """A method's name and its settings, which a person may write in another order."""
    name, settings = split_label(label)
    return name, frozenset(settings)


def _told_apart(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same with titles that differ."""
    titles = [c.title for c in comparisons]
    return [
        replace(c, apart=f" ({c.name.rpartition('-')[2]})") if titles.count(c.title) > 1 else c
        for c in comparisons
    ]


def _files(section: Section) -> dict[str, bytes]:
    """The files of its tables and pictures, by name."""
    files = {f"{section.name}_rows.csv": csv_of_rows(section.comparison)}
    for table in section.tables:
        for kind, write in FORMATS.items():
            files[f"{section.name}_{table.name}.{kind}"] = write(table)
    for picture in section.pictures:
        drawn = render(picture.draw, ("png", "svg") if picture.table else ("png",))
        name = f"{section.name}_{_file_name(picture.name)}"
        files |= {f"{name}.{kind}": data for kind, data in drawn.items()}
    return files


def _subject(section: Section) -> str:
    """What its files are about: a data set, or an experiment on it."""
    exhibit = section.comparison.exhibit
    return f"{exhibit.name if exhibit else ''}/{section.comparison.dataset}"


def _remove_stale(folder: Path, written: Mapping[str, str]) -> None:
    """Remove what an earlier report wrote about the same and this one has not: its numbers would
    stand beside these under names that are alike.

    Args:
        written: the files of this report, each with its subject.
    """
    listing = folder / "files.json"
    try:
        known = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    known = known if isinstance(known, dict) else {}  # without it nothing is removed
    for name, subject in known.items():
        if subject in written.values() and name not in written and name == Path(name).name:
            (folder / name).unlink(missing_ok=True)
    kept = {n: s for n, s in known.items() if s not in written.values()}
    atomic_write(listing, (json.dumps(kept | dict(written), indent=1) + "\n").encode())


def _text(section: Section, folder: Path, n_files: int, bold: bool) -> str:
    """What the terminal shows."""
    comparison, title = section.comparison, section.title
    if comparison.shared:
        title += f"; all GALOT with {label_of('', comparison.shared)}"
    width = shutil.get_terminal_size().columns if bold else None
    first, *others = section.tables
    starred = not bold and any(cell.best for row in first.rows for cell in row)
    about = f"{first.title}; * is the highest mean of its column" if starred else first.title
    lines = [f"{title}: {about}", as_text(first, bold=bold, width=width), ""]
    for table in others:
        if table.name in ("differences", "wins_overall") and first.name == "accuracy":
            lines += [table.title, as_text(table, bold=bold, width=width), ""]
    return "\n".join([*lines, *section.lines, f"{n_files} files: {folder / section.name}_*"])


def _next_steps(sections: Sequence[Section]) -> list[str]:
    """What would make the tables say more."""
    lines = []
    seeds = [len(c.seeds) for s in sections for c in s.comparison.learning]
    if seeds and min(seeds) < LEAST_SEEDS:
        lines.append(
            "next: more seeds, so that spreads are known: --seeds 0 1 2 3 4 in the "
            "command that ran them"
        )
    unjudged = [
        s.comparison.dataset
        for s in sections
        if s.galleries and s.judge is None and any(c.labels for c in s.comparison.curves)
    ]
    for dataset in dict.fromkeys(unjudged):
        lines.append(
            f"next: --strategy GALOT:mode=full in the command that ran {dataset}, a classifier on "
            f"all labels, so that --report can check pseudo-labels"
        )
    return lines


def _file_name(label: str) -> str:
    """A label as part of a file name."""
    return "".join(ch if ch.isalnum() or ch in "-_.=" else "_" for ch in label)[:100]
