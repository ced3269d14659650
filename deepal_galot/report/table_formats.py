"""Tables as text, CSV, Markdown and LaTeX; all rows of all runs as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from .comparison import COST_COLUMNS, Comparison
from .tables import Table


def as_text(table: Table, *, bold: bool = False, width: int | None = None) -> str:
    """For a terminal; the best of a column is marked, with `bold` in bold type, else by a star.

    Args:
        width: letters in a line; columns beyond it come below, with the rows' names again.
    """
    cells = [[c.text + "*" * (c.best and not bold) for c in row] for row in table.rows]
    lines = [list(table.header), *cells]
    widths = [max(len(line[j]) for line in lines) + 2 for j in range(len(table.header))]
    blocks = []
    for columns in _blocks(widths, width):
        rule = "-" * (sum(widths[j] for j in columns) - 2)
        text = [_line([table.header[j].ljust(widths[j]) for j in columns]), rule]
        for row, shown in zip(table.rows, cells, strict=True):
            padded = [shown[j].ljust(widths[j]) for j in columns]
            if bold:
                padded = [_bold(p, row[j].best) for p, j in zip(padded, columns, strict=True)]
            text.append(_line(padded))
        blocks.append("\n".join(text))
    return "\n\n".join(blocks)


def _blocks(widths: Sequence[int], width: int | None) -> list[list[int]]:
    """Columns that fit beside the first into a line, block by block."""
    blocks = [[0]]
    for j in range(1, len(widths)):
        full = sum(widths[k] for k in blocks[-1]) + widths[j] - 2
        if width is not None and full > width and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(j)
    return blocks


def _line(cells: Sequence[str]) -> str:
    return "".join(cells).rstrip()


def _bold(text: str, best: bool) -> str:
    return f"\033[1m{text}\033[0m" if best else text


def as_csv(table: Table) -> bytes:
    """Values in full; errors in columns of their own."""
    table = table.data or table
    erring = [any(row[j].error is not None for row in table.rows) for j in range(len(table.header))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header: list[str] = []
    for name, with_errors in zip(table.header, erring, strict=True):
        header += [name, f"{name} {table.error}"] if with_errors else [name]
    writer.writerow(header)
    for row in table.rows:
        line: list[object] = []
        for cell, with_errors in zip(row, erring, strict=True):
            line.append(cell.text if cell.value is None else f"{cell.value:.10g}")
            if with_errors:
                line.append("" if cell.error is None else f"{cell.error:.10g}")
        writer.writerow(line)
    return out.getvalue().encode()


# What Markdown reads as markup: of underscores those that are not between letters or digits.
MARKUP = re.compile(r"[\\`*\[~$]|(?<![^\W_])_|_(?![^\W_])")


def as_markdown(table: Table) -> bytes:
    """A pipe table under its title; the best of a column in bold."""

    def text(words: str) -> str:
        return MARKUP.sub(r"\\\g<0>", words).replace("&", "&amp;").replace("<", "&lt;")

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"

    rows = [
        line([f"**{text(c.text)}**" if c.best else text(c.text) for c in row]) for row in table.rows
    ]
    head = line([text(name) for name in table.header])
    rule = "| --- |" + " ---: |" * (len(table.header) - 1)
    return "\n".join([text(table.title), "", head, rule, *rows, ""]).encode()


# A bare [ or * at a row's start would be an argument of the \\ before it.
LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
         "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
         "±": r"$\pm$", "−": "$-$", "ε": r"$\varepsilon$", "†": r"$\dagger$", "≤": r"$\leq$",
         "‖": r"$\Vert$", "×": r"$\times$", "η": r"$\eta$", "…": r"\dots{}", "|": r"\textbar{}",
         ">": r"\textgreater{}", "<": r"\textless{}",
         "[": "{[}", "*": "{*}"}  # fmt: skip


def as_latex(table: Table) -> bytes:
    """A table float of booktabs' rules; the best of a column in bold."""

    def text(words: str) -> str:
        return "".join(LATEX.get(ch, ch) for ch in words)

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    rows = [
        line([rf"\textbf{{{text(c.text)}}}" if c.best else text(c.text) for c in row])
        for row in table.rows
    ]
    columns = "l" + "r" * (len(table.header) - 1)
    head = line([text(name) for name in table.header])
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            r"\begin{table}",
            rf"\caption{{{text(table.title)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    ).encode()


def csv_of_rows(comparison: Comparison) -> bytes:
    """Every row of every run, one line each, for other tools."""
    out = io.StringIO()
    keys = [
        "round",
        "budget",
        "labels",
        "images",
        "images_made",
        "images_retried",
        "images_failed",
        "ascent_images",
        "ascent_failed",
        "accuracy",
        "balanced_accuracy",
        "epsilon",
        "distance",
        "arrived_distance",
        "score_before",
        "score_after",
        "pool_distance",
        "mismatch_plain",
        "mismatch",
        "steps",
        *COST_COLUMNS,
    ]
    keys += sorted({k for curve in comparison.curves for k in curve.own_measures})
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["dataset", "strategy", "seed", *keys])
    for curve in comparison.curves:
        for seed, rows in zip(curve.seeds, curve.rows, strict=True):
            for row in rows:
                writer.writerow(
                    [comparison.dataset, curve.label, seed, *(row.get(k, "") for k in keys)]
                )
    return out.getvalue().encode()
