"""The files of a report."""

import dataclasses
import threading
import time
import warnings
from types import SimpleNamespace

import pytest

from deepal_galot.cli import build_parser
from deepal_galot.errors import UserError
from deepal_galot.lock import one_at_a_time
from deepal_galot.report import figures, page, write
from deepal_galot.report.command import find, others
from deepal_galot.report.comparison import compare
from deepal_galot.report.exhibit import PaperRow
from deepal_galot.report.figures import beside_paper, curves, render
from deepal_galot.report.gallery import gallery_of
from deepal_galot.report.tables import Cell, Table, difference_table
from deepal_galot.report.write import ReportOptions, write_report
from deepal_galot.results import RunFolder, find_runs
from finished_runs import exhibit_of, finished
from helpers import small_config

pytestmark = pytest.mark.usefixtures("quick_pictures")


def test_a_report_is_found_again_from_the_folders_alone(two_methods, tmp_path):
    _, folders = two_methods
    before = write_report(folders, tmp_path / "x")
    assert write_report(find_runs(tmp_path), tmp_path / "x") == before
    names = {f.name for f in (tmp_path / "x" / "report").iterdir()}
    assert {"index.html", "Digits_rows.csv", "Digits_curves.png", "Digits_curves.svg",
            "Digits_accuracy.csv", "Digits_accuracy.md", "Digits_accuracy.tex", "Digits_wins.svg",
            "Digits_labels.tex", "Digits_costs.png"} <= names  # fmt: skip


def test_a_report_of_folders_has_the_order_of_labels(tmp_path):
    """Before, that of the runs' hashes."""
    values = [2.0, 3.0, 5.0, 7.0, 9.0]
    for value in values:
        finished(tmp_path, [0.5, 0.7], {"oversample": f"{value:g}"}, strategy="GALOT",
                 mode="al+gal", oversample=value)  # fmt: skip
    found, _ = find(build_parser().parse_args(["--report", "--output", str(tmp_path)]))
    (comparison,) = compare(found)
    assert [c.folders[0].config.oversample for c in comparison.curves] == values


def test_unfinished_runs_are_left_out_and_said(tmp_path):
    done = finished(tmp_path, [0.5, 0.6])
    open_config = small_config(strategy="RandomSampling", n_rounds=1)
    unfinished = RunFolder.create(tmp_path, open_config, {"data": "d"}, {})
    unfinished.append(done.rows()[0])
    text = write_report([done, unfinished], tmp_path)
    assert "1 unfinished run is left out" in text and "no spread can be claimed" in text
    with pytest.raises(UserError, match="nothing to report: 1 of 1 runs are unfinished"):
        write_report([unfinished], tmp_path)


def test_a_chosen_baseline_is_what_the_others_are_compared_with(two_methods, tmp_path):
    accuracy, folders = two_methods
    text = write_report(folders, tmp_path, ReportOptions(baseline="MarginSampling"))
    mean = 100 * (accuracy[1] - accuracy[0]).mean()
    (line,) = [x for x in text.splitlines() if x.startswith("RandomSampling") and "±" in x][1:]
    assert line.split()[1] == f"{mean:+.2f}".replace("-", "−")
    assert "points of average accuracy above MarginSampling, paired by seed" in text
    with pytest.raises(UserError, match="--baseline 'Random'.*did you mean RandomSampling"):
        write_report(folders, tmp_path, ReportOptions(baseline="Random"))


def test_where_a_chosen_baseline_is_missing_another_is_said_to_stand_for_it(tmp_path):
    """Before, one of several data sets took another one without a word."""

    def runs(dataset, *names):
        return [finished(tmp_path, [0.5, 0.6], strategy=n, dataset=dataset) for n in names]

    folders = runs("Digits", "BALD", "RandomSampling") + runs("MNIST", "BALD", "MarginSampling")
    folders += runs("SVHN", "BALD")
    said = "no finished run of RandomSampling here: compared with MarginSampling"
    text = write_report(folders, tmp_path, ReportOptions(baseline="RandomSampling"))
    assert text.count(said) == 1 == text.count("no finished run of")
    assert text.index("\nMNIST: ") < text.index(said) < text.index("\nSVHN: ")
    assert said in (tmp_path / "report" / "index.html").read_text()
    assert said not in write_report(folders, tmp_path)


def test_a_baselines_settings_may_stand_in_any_order(tmp_path):
    fields = {"strategy": "GALOT", "mode": "al+gal"}
    own = {"epsilon": "0", "template": "a {label}, small"}
    runs = [finished(tmp_path, [0.5, 0.7], own, epsilon=0.0, template=own["template"], **fields),
            finished(tmp_path, [0.5, 0.8], **fields)]  # fmt: skip
    options = ReportOptions(baseline="GALOT:template=a {label}, small,epsilon=0")
    assert "points of average accuracy above GALOT:epsilon=0" in write_report(
        runs, tmp_path, options
    )


def test_a_report_leaves_nothing_of_the_one_before_but_of_other_data(tmp_path):
    """Before, differences of an earlier command stood beside the accuracies of this one."""

    def methods(dataset, *names, **fields):
        return [finished(tmp_path, [0.5, 0.6], strategy=n, dataset=dataset, seed=s, **fields)
                for n in names for s in range(3)]  # fmt: skip

    def written(dataset):
        return {f.name.removeprefix(dataset) for f in (tmp_path / "report").glob(f"{dataset}*")}

    write_report(methods("MNIST", "BALD", "VarRatio"), tmp_path)
    first = methods("Digits", "BALD", "VarRatio")
    write_report(first, tmp_path)
    (tmp_path / "report" / "Digits_mine.txt").write_text("a person's")
    assert "_differences.csv" in written("Digits") and "_wins.svg" in written("Digits")
    other = methods("Digits", "BALD", epochs=3)
    write_report(other, tmp_path)
    alone = written("Digits")
    assert "_accuracy.csv" in alone and "_mine.txt" in alone
    assert not {n for n in alone if n.startswith(("_differences", "_wins"))}
    assert "_differences.csv" in written("MNIST")
    write_report([*first, *other], tmp_path)
    assert written("Digits_") == {"mine.txt"}  # two tables have longer names
    for damaged in ("{", "[[1, 2]]", '{"../../x": "/Digits", "Digits_mine.txt": 7}', "null"):
        (tmp_path / "report" / "files.json").write_text(damaged)
        write_report(first, tmp_path)
    assert (tmp_path / "report" / "Digits_mine.txt").exists()


def test_one_report_at_a_time(two_methods, tmp_path, capsys):
    """Jobs that end together lost each other's entries in files.json."""
    folders, report = two_methods[1], tmp_path / "report"
    report.mkdir()
    with one_at_a_time(report / "LOCK", "this test"):
        thread = threading.Thread(target=write_report, args=(folders, tmp_path))
        thread.start()
        while "waiting for its end" not in capsys.readouterr().err:
            assert thread.is_alive()
            time.sleep(0.01)
        assert [f.name for f in report.iterdir()] == ["LOCK"]
    thread.join()
    assert (report / "files.json").exists()


def test_what_lies_beside_a_campaigns_runs_is_said(tmp_path):
    """As the seeds of an array job's other commands do."""
    first, *more = (finished(tmp_path, [0.5], seed=seed) for seed in range(3))
    finished(tmp_path, [0.5], dataset="MNIST")
    (line,) = others([first], tmp_path)
    assert line.startswith(f"2 other runs of Digits in {tmp_path}; ")
    assert line.endswith(f"run_benchmark.py --report --dataset Digits --output {tmp_path}")
    assert others([first, *more], tmp_path) == []


def test_pictures_are_pngs(two_methods, tmp_path):
    comparison = compare(two_methods[1])[0]
    files = render(lambda: curves(comparison), ("png", "svg"))
    assert files["png"].startswith(b"\x89PNG") and b"MarginSampling (n=5)" in files["svg"]
    assert render(lambda: curves(comparison), ("png", "svg")) == files
    assert gallery_of(comparison.curves[0]) is None


@pytest.mark.parametrize("labels", [10, 0])
def test_a_judge_is_asked_for_where_there_are_labels(tmp_path, labels):
    """Before, also of class names alone, where there is nothing to learn it from."""
    mode = "al+gal" if labels else "gal"
    run = finished(tmp_path, [0.5, 0.6], row={"labels": labels}, strategy="GALOT", mode=mode)
    section = SimpleNamespace(comparison=compare([run])[0], galleries=["images"], judge=None)
    asked = [line for line in write._next_steps([section]) if "mode=full" in line]
    assert len(asked) == bool(labels)


@pytest.mark.parametrize("draw", [figures.bars, figures.intervals])
def test_what_stands_below_a_picture_is_inside_of_it(draw):
    """Before, a long name pushed it out."""
    rows = ((Cell("a name as long as they come, " * 4), Cell("1", 1.0, 0.1), Cell("1", 1.0, 0.1)),)
    figure = draw(Table("t", "human labels needed, " * 9, ("strategy", "80 %", "90 %"), rows))
    figure.draw_without_rendering()
    (below,) = [text for text in figure.texts if "needed" in text.get_text()]
    box, whole = below.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0
    assert not any(box.overlaps(legend.get_window_extent()) for legend in figure.legends)


def test_a_difference_without_an_interval_says_how_few_seeds_it_has(tmp_path):
    """Before, its bare dot looked more precise than those with bars."""

    def names(*seeds):
        methods = zip(("RandomSampling", "BALD", "MeanSTD"), seeds, strict=True)
        runs = [
            finished(tmp_path / f"{seeds}", [0.5, 0.5 + s * len(name) / 99], strategy=name, seed=s)
            for name, n in methods
            for s in range(n)
        ]
        figure = figures.intervals(difference_table(compare(runs)[0]))
        below = figure.texts[0].get_text().replace("\n", " ")
        return [x.get_text() for x in figure.axes[0].get_yticklabels()], below

    said = "points of average accuracy above RandomSampling, paired by seed"
    assert names(4, 4, 4) == (["BALD", "MeanSTD"], f"{said}; bars: 95 % interval")
    numbered = ["BALD (n=4)", "MeanSTD (n=3)"]
    assert names(4, 4, 3) == (numbered, f"{said}; bars: 95 % interval")
    few = "; no bar with fewer than 3 seeds"
    numbered = ["BALD (n=3)", "MeanSTD (n=2)"]
    assert names(3, 3, 2) == (numbered, f"{said}; bars: 95 % interval{few}")
    assert names(2, 2, 2) == (["BALD (n=2)", "MeanSTD (n=2)"], f"{said}{few}")


ARMS = [f"GALOT:mode=al+gal,direction=random,ascent_samples={n},ascent_steps=4" for n in (2, 3)]


def test_a_panel_without_one_below_it_has_tick_labels_and_titles_break_between_settings():
    """Before, it had none, and titles broke inside words."""
    cells = (Cell("1", 1.0, 0.1), Cell("2", 2.0, 0.1))
    table = Table("t", "points", ("", "10", "15"), tuple((Cell(x), *cells) for x in ARMS * 2))
    figure = figures.gains(table)
    figure.draw_without_rendering()
    shown = [ax for ax in figure.axes if ax.get_visible()]
    labels = [ax.get_xticklabels() for ax in shown]
    assert [any(x.get_visible() for x in of) for of in labels] == [False, True, True, True]
    settings = [line.split(",") for line in shown[0].get_title().replace(":", ",").split("\n")]
    assert [x for line in settings for x in line if x] == ARMS[0].replace(":", ",").split(",")


@pytest.mark.parametrize("full", [False, True])
def test_the_legend_covers_no_curve(tmp_path, two_methods, full):
    """Before, with few methods it lay on the curves where the axes had no free corner."""
    runs = two_methods[1]
    if full:
        runs = [*runs, finished(tmp_path, [0.9], strategy="FullySupervised", mode="full")]
    figure = curves(compare(runs)[0])
    figure.draw_without_rendering()
    (axes,), (legend,) = figure.axes, figure.legends
    assert axes.get_legend() is None
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())


@pytest.mark.parametrize(("width", "columns"), [(28, 3), (33, 2), (46, 2), (47, 1)])
def test_a_legend_has_as_many_columns_as_fit(tmp_path, width, columns):
    """Before, names of 33 to 46 letters stood below each other, and three columns were too wide."""
    label = "GALOT:base_sampler=ClusterMargin,template=a photo of {label}"[: width - 6]
    (comparison,) = compare([finished(tmp_path, [0.5, 0.6])])
    curve = dataclasses.replace(comparison.curves[0], label=label)
    figure = curves(dataclasses.replace(comparison, curves=(curve,) * 6))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend._ncols == columns
    assert legend.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.parametrize("draw", [figures.bars, figures.intervals, figures.matrix])
def test_names_beside_a_picture_are_whole_and_inside_of_it(draw):
    """Before, the middle of a long one was left out, so that two arms were called alike."""
    cells = (Cell("1", 1.0, 0.1), Cell("2", 2.0, 0.1))
    figure = draw(Table("t", "title", ("", *ARMS), tuple((Cell(x), *cells) for x in ARMS)))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    labels = axes.get_yticklabels() + (axes.get_xticklabels() if draw is figures.matrix else [])
    assert {x.get_text().replace("\n", "") for x in labels} == set(ARMS)
    whole, boxes = figure.bbox, [x.get_window_extent() for x in labels]
    assert all(whole.x0 <= b.x0 and b.x1 <= whole.x1 and b.y1 <= whole.y1 for b in boxes)
    assert not boxes[0].overlaps(boxes[1])


def test_of_a_very_long_name_the_middle_is_left_out_where_the_rest_tells_it_apart():
    names = [f"{a},{'word ' * 40}{b}" for a, b in (("one", "x=1"), ("one", "x=2"), ("two", "x=1"))]
    cut = figures.row_names(names)
    assert len(set(cut)) == 3 and {text.count("\n") for text in cut} == {2}
    same_ends = [f"one, {'word ' * 20}{x}{' word' * 20}" for x in "ab"]
    assert figures.row_names(same_ends) == [
        figures.folded(x, figures.NAME_WIDTH) for x in same_ends
    ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("GALOT:epsilon=0,norm=linf", ["GALOT:", "epsilon=0,", "norm=linf"]),
        ("of 1,347 labels", ["of 1,347", "labels"]),
        ("x" * 15, ["x" * 10, "x" * 5]),
        ("", [""]),
    ],
)
def test_where_a_name_breaks(text, lines):
    assert figures.folded(text, 10) == "\n".join(lines)


def test_curves_are_in_percent_as_the_tables_are(two_methods, tmp_path):
    accuracy, folders = two_methods
    full = finished(tmp_path, [0.9], strategy="FullySupervised", mode="full")
    (comparison,) = compare([*folders, full])
    paper = PaperRow({10: 0.31, 20: 0.42, 99: 0.5, "all labels": 0.95}, frozenset(), "")
    beside = beside_paper([(curve, paper) for curve in comparison.curves])
    ours = [*(100 * accuracy).mean(1).tolist(), [90, 90]]
    for figure, expected in (
        (curves(comparison), ours),
        (beside, [*ours, [31, 42], [31, 42], [95, 95]]),
    ):
        (axes,) = figure.axes
        drawn = sorted(list(line.get_ydata()) for line in axes.lines)
        assert list(map(len, drawn)) == list(map(len, sorted(expected)))
        assert sum(drawn, []) == pytest.approx(sum(sorted(expected), []))
        assert axes.get_ylabel() == "test accuracy in %"


def test_what_stands_for_labels_is_spoken_of_where_something_does(tmp_path):
    """Before, below every picture of curves."""
    galot = {"strategy": "GALOT", "row": {"labels": 0}}
    runs = [finished(tmp_path, [0.5, 0.6]), finished(tmp_path, [0.5, 0.6], mode="gal", **galot)]
    for used, more in ((runs[:1], ""), (runs, " (in mode gal, what stands for them)")):
        (axes,) = curves(compare(used)[0]).axes
        assert axes.get_xlabel() == f"|L|: human labels{more}"


def test_letters_without_a_glyph_are_said_once_and_not_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, "_fonts", lambda: ["DejaVu Sans"])
    for module in (page, write):
        monkeypatch.setattr(module, "render", render)
    runs = [finished(tmp_path, [0.5, 0.6])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exhibit, _ = exhibit_of(tmp_path, runs, [("a", None)])
        assert "letters are boxes" not in write_report(runs, tmp_path, exhibits=[exhibit])
        exhibit, _ = exhibit_of(tmp_path, runs, [("猫", None)])
        text = write_report(runs, tmp_path, exhibits=[exhibit])
    assert text.count("some letters are boxes in the pictures") == 1
    assert "Glyph" not in capsys.readouterr().err
