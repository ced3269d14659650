"""How tables are written: as text, CSV, Markdown and LaTeX."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepal_galot.report import table_formats, tables
from deepal_galot.report.comparison import compare
from deepal_galot.report.tables import Cell, Table

pytestmark = pytest.mark.usefixtures("quick_pictures")


def test_csv_has_a_line_a_row(two_methods):
    accuracy, folders = two_methods
    lines = table_formats.csv_of_rows(compare(folders)[0]).decode().splitlines()
    assert len(lines) == 1 + 2 * 5 * 3
    assert lines[0].startswith("dataset,strategy,seed,round,budget")


TABLE = Table("t", "a 100 % title", ("name", "x", "y & z"), (
    (Cell("a_b|c"), Cell("1.0 ±0.5", 1.0, 0.5, True), Cell("")),
    (Cell("ε = {d}"), Cell("0.5", 0.5), Cell("12", 12.0)),
))  # fmt: skip


def test_a_table_as_csv_keeps_values_and_errors_apart():
    lines = table_formats.as_csv(TABLE).decode().splitlines()
    assert lines == ["name,x,x SEM,y & z", "a_b|c,1,0.5,", "ε = {d},0.5,,12"]


def test_the_files_of_differences_name_what_is_subtracted_and_their_columns(two_methods):
    """Before, only a title that the CSV does not have said it, and intervals were called error."""
    (comparison,) = compare(two_methods[1])
    head, line = table_formats.as_csv(tables.difference_table(comparison)).decode().splitlines()
    assert head == "strategy,baseline,difference,95 % half-width,p (paired t),n"
    assert line.startswith("MarginSampling,RandomSampling,")
    head, line = table_formats.as_csv(tables.gains_table(comparison)).decode().splitlines()
    assert head.startswith("strategy,baseline,10,10 95 % half-width,15,")
    assert line.startswith("MarginSampling,RandomSampling,")
    assert [float(x) for x in line.split(",")[2:]]  # all of them numbers
    accuracy = table_formats.as_csv(tables.accuracy_table(comparison)).decode()
    assert accuracy.startswith("strategy,10,10 SEM,15,15 SEM,")


def test_a_table_as_markdown_and_latex_is_escaped():
    markdown = table_formats.as_markdown(TABLE).decode()
    assert "| a\\|b" not in markdown and "| a_b\\|c | **1.0 ±0.5** |  |" in markdown
    latex = table_formats.as_latex(TABLE).decode()
    assert r"a\_b\textbar{}c & \textbf{1.0 $\pm$0.5} &  \\" in latex
    assert r"$\varepsilon$ = \{d\} & 0.5 & 12 \\" in latex and r"a 100 \% title" in latex


@pytest.mark.parametrize(("name", "markdown", "latex"), [
    ("<b>cat</b> & dog", "&lt;b>cat&lt;/b> &amp; dog",
     r"\textless{}b\textgreater{}cat\textless{}/b\textgreater{} \& dog"),
    ("&lt;", "&amp;lt;", r"\&lt;"),
    ("*a*", r"\*a\*", "{*}a{*}"),
    ("[a](b)", r"\[a](b)", "{[}a](b)"),
    ("`a` ~b~", r"\`a\` \~b\~", r"`a` \textasciitilde{}b\textasciitilde{}"),
    ("__a_b_", r"\_\_a_b\_", r"\_\_a\_b\_"),
    (r"a\|b", r"a\\\|b", r"a\textbackslash{}\textbar{}b"),
    ("GALOT:text_per=image,epsilon=0.5 †", "GALOT:text_per=image,epsilon=0.5 †",
     r"GALOT:text\_per=image,epsilon=0.5 $\dagger$"),
    ("> 60 (1 of 3 seeds reach it)", "> 60 (1 of 3 seeds reach it)",
     r"\textgreater{} 60 (1 of 3 seeds reach it)"),
    ("5 % of #1 for $2^{3}", r"5 % of #1 for \$2^{3}",
     r"5 \% of \#1 for \$2\textasciicircum{}\{3\}"),
])  # fmt: skip
def test_names_are_text_in_markdown_and_latex(name, markdown, latex):
    """Before, <b> was HTML in a Markdown viewer, and a [ or * after the line's end an argument."""
    table = Table("t", name, ("class", name), ((Cell(name), Cell(name, best=True)),))
    title, _, head, _, row, _ = table_formats.as_markdown(table).decode().split("\n")
    written = markdown.replace("\\|", "|")  # which is markup in a table alone
    assert title == (written if "|" in name else markdown)
    assert head == f"| class | {markdown} |" and row == f"| {markdown} | **{markdown}** |"
    lines = table_formats.as_latex(table).decode().split("\n")
    assert rf"\caption{{{latex}}}" in lines and rf"class & {latex} \\" in lines
    assert rf"{latex} & \textbf{{{latex}}} \\" in lines


def test_a_wide_table_breaks_into_blocks_with_the_names():
    text = table_formats.as_text(TABLE, width=20)
    first, second = text.split("\n\n")
    assert max(map(len, text.splitlines())) <= 20
    assert first.splitlines()[0].split() == ["name", "x"]
    assert second.splitlines()[2].startswith("a_b|c") and second.splitlines()[3].endswith("12")
    assert "1.0 ±0.5*" in text and "\033[1m1.0 ±0.5" in table_formats.as_text(TABLE, bold=True)


@given(st.integers(10, 60))
def test_no_column_is_lost_at_any_width(width):
    text = table_formats.as_text(TABLE, width=width)
    assert all(word in text for word in ("name", "x", "y & z", "0.5", "12"))
