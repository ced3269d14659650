"""Statistics against scipy and by hand; tables that refuse to mix protocols."""

import dataclasses
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from deepal_galot.cli import build_parser
from deepal_galot.errors import UserError
from deepal_galot.report import figures, page, statistics, tables, write
from deepal_galot.report.command import find
from deepal_galot.report.comparison import Curve, compare, merge, of_exhibit
from deepal_galot.report.exhibit import (
    Exhibit,
    ExhibitArm,
    paper_numbers,
    real_examples,
    save_real_examples,
)
from deepal_galot.report.figures import curves, render
from deepal_galot.report.gallery import gallery_of
from deepal_galot.report.pseudo_labels import find_judge
from deepal_galot.report.statements import statements
from deepal_galot.report.tables import Cell, Table
from deepal_galot.report.write import ReportOptions, write_report
from deepal_galot.results import RunFolder, find_runs
from helpers import SVG, small_config

RNG = np.random.default_rng(0)


def finished(output, accuracies, settings=None, content=None, row=None, **fields):
    """A finished run with the given accuracies, and further columns in every row."""
    fields |= {"n_rounds": len(accuracies) - 1}
    config = small_config(**fields)
    folder = RunFolder.create(output, config, {"data": "d"} | (content or {}), settings or {})
    for r, accuracy in enumerate(accuracies):
        folder.append({
            "round": r, "budget": config.budget(r), "labels": config.budget(r), "images": 0,
            "accuracy": accuracy, "images_made": 0, "ascent_images": 0, "steps": 1,
            "query_seconds": 1.0, "train_seconds": 2.0,
            "extra_train_seconds": 0.0, "generate_seconds": 0.0, **(row or {}),
        })  # fmt: skip
    return folder


def texts(table):
    """A table's words."""
    return [[cell.text for cell in row] for row in table.rows]


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    """Drawing is most of a report's time, and tested apart."""
    for module in (page, write):
        monkeypatch.setattr(module, "render", lambda draw, kinds, *_: dict.fromkeys(kinds, SVG))


@pytest.fixture
def two_methods(tmp_path):
    accuracy = np.random.default_rng(0).random((2, 5, 3))
    folders = [
        finished(tmp_path, accuracy[m, s].tolist(), strategy=name, seed=s)
        for m, name in enumerate(("MarginSampling", "RandomSampling"))
        for s in range(5)
    ]
    return accuracy, folders


def test_mean_and_sem_by_hand():
    assert statistics.mean_sem([1.0, 2.0, 3.0]) == (2.0, pytest.approx(1 / np.sqrt(3)))
    mean, sem = statistics.mean_sem([5.0])
    assert mean == 5.0 and np.isnan(sem)


def test_paired_difference_equals_scipys_paired_interval(two_methods):
    accuracy, folders = two_methods
    (comparison,) = compare(folders)
    margin, random = comparison.curves
    d = statistics.paired_difference(random, margin, comparison.common_budgets)
    reference = stats.ttest_rel(accuracy[1].mean(1), accuracy[0].mean(1)).confidence_interval()
    assert d.n == 5
    assert (d.mean - d.half_width, d.mean + d.half_width) == pytest.approx(tuple(reference))


def test_pairs_only_seeds_and_budgets_that_both_have(tmp_path):
    a = [finished(tmp_path, [0.5, 0.6, 0.9], strategy="MarginSampling", seed=s) for s in (0, 1, 2)]
    b = [finished(tmp_path, [0.4, 0.7], strategy="RandomSampling", seed=s) for s in (1, 2, 3)]
    (comparison,) = compare(a + b)
    assert comparison.common_budgets == [10, 15]
    d = statistics.paired_difference(*comparison.curves, comparison.common_budgets)
    assert (d.n, d.mean) == (2, pytest.approx(0.0)) and np.isnan([d.half_width, d.p]).all()
    # The table says the same, over the budgets of its average, and why.
    assert texts(tables.difference_table(comparison)) == [["RandomSampling", "+0.00", "", "", "2"]]
    lines = statements(comparison)
    assert any("same budgets: average, area and differences are over 10, 15" in x for x in lines)
    assert any("not all methods have the same seeds" in x for x in lines)


def test_seeds_are_paired_by_their_number():
    """Of (1, 2, 3) and (0, 1, 2) seeds 1 and 2 are common."""
    later, earlier = (
        Curve("", (), seeds, (10,), np.array([[0.5 + s * step] for s in seeds]), ())
        for seeds, step in (((1, 2, 3), 0.1), ((0, 1, 2), 0.02))
    )
    for a, b, sign in ((later, earlier, 1), (earlier, later, -1)):
        d = statistics.paired_difference(a, b, (10,))
        assert (d.n, d.mean) == (2, pytest.approx(sign * 0.12))


def test_p_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 6))
    assert statistics.paired(a, b).p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert statistics.paired(1e-3 * a, 1e-3 * b).p == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_the_difference_table_holds_scipys_interval_and_p(two_methods):
    accuracy, folders = two_methods
    (row,) = tables.difference_table(compare(folders)[0]).rows
    test = stats.ttest_rel(accuracy[1].mean(1), accuracy[0].mean(1))
    low, high = test.confidence_interval()
    expected = [50 * (low + high), 50 * (high - low), test.pvalue, 5]
    assert [cell.value for cell in row[1:]] == pytest.approx(expected)
    assert [c.text for c in row[2:]] == [f"±{expected[1]:.2f}", f"{test.pvalue:.2g}", "5"]


def test_the_pool_table_is_of_the_last_round(tmp_path):
    fields = {"strategy": "GALOT", "mode": "al+gal", "epsilon_schedule": "constant"}
    measured = {"pool_distance": 0.3, "mismatch_plain": 0.2, "mismatch": 0.1}
    first = finished(tmp_path, [0.5], row=measured | {"images": 4, "images_made": 6}, **fields)
    longer = RunFolder.create(tmp_path, small_config(n_rounds=1, **fields), {"data": "d"}, {})
    measured = {"pool_distance": 0.25, "mismatch_plain": 0.15, "mismatch": 0.05}
    longer.append(first.rows()[0] | measured | {"round": 1, "images": 5, "images_made": 7})
    table = tables.pool_table(compare([RunFolder.open(longer.path)])[0])
    assert texts(table) == [["GALOT", "13", "5", "0.2500", "0.1500", "0.0500"]]


def test_seeds_stand_in_the_order_of_their_numbers(tmp_path):
    runs = [finished(tmp_path, [0.5], seed=s) for s in (10, 2)]
    assert compare(runs)[0].curves[0].seeds == (2, 10)


def test_without_a_target_it_is_the_baselines_last_mean(tmp_path):
    runs = [finished(tmp_path, [0.5, a], seed=s) for s, a in enumerate((0.9, 0.7))]
    assert tables.labels_table(compare(runs)[0]).header[1] == "80 %"


def test_costs_are_sums_over_rounds_and_means_over_seeds(tmp_path):
    made = {"images_made": 3, "ascent_images": 4}
    runs = [finished(tmp_path, [0.5, 0.6], seed=s, row=made | {"train_seconds": 2.0 + s})
            for s in (0, 1)]  # fmt: skip
    (curve,) = compare(runs)[0].curves
    assert curve.images_made == 14 and curve.cost("train_seconds") == 5


def test_what_a_strategy_measures_itself_is_averaged(tmp_path):
    run = finished(tmp_path, [0.5], row={"own_svm_accuracy": 0.3})
    longer = RunFolder.create(tmp_path, small_config(n_rounds=1), {"data": "d"}, {})
    longer.append(run.rows()[0] | {"round": 1, "own_svm_accuracy": 0.5})
    lines = statements(compare([RunFolder.open(longer.path)])[0])
    assert "MarginSampling: svm accuracy 40.0 % (average)" in lines


def test_table_holds_the_numbers(two_methods):
    accuracy, folders = two_methods
    (comparison,) = compare(folders)
    row = texts(tables.accuracy_table(comparison))[0]
    sem = accuracy[0, :, 0].std(ddof=1) / np.sqrt(5)
    assert row[0] == "MarginSampling"
    assert row[1] == f"{100 * accuracy[0, :, 0].mean():.1f} ±{100 * sem:.1f}"
    assert row[-8:] == ["5", "20", "0", "0", "3.0", "6.0", "0.0", "0.0"]
    text = tables.as_text(tables.accuracy_table(comparison))
    assert text.count("*") == 5  # the best of three budgets, the average and the area
    assert len({len(line.split()) for line in text.splitlines()[2:]}) == 1


def test_a_tie_marks_all_of_it_and_nothing_where_there_is_nothing_else(tmp_path):
    """Before, the first of equal ones alone."""
    a = finished(tmp_path, [0.5, 0.6])
    b = finished(tmp_path, [0.5, 0.6], strategy="RandomSampling")
    c = finished(tmp_path, [0.4, 0.59], strategy="EntropySampling")
    rows = tables.accuracy_table(compare([a, b, c])[0]).rows
    assert [[cell.best for cell in row[1:4]] for row in rows] == [[True] * 3] * 2 + [[False] * 3]
    rows = tables.accuracy_table(compare([a, b])[0]).rows
    assert not any(cell.best for row in rows for cell in row)


def test_other_protocols_go_into_other_tables(tmp_path):
    folders = [finished(tmp_path, [0.5]), finished(tmp_path, [0.6], lr=0.5),
               finished(tmp_path, [0.6], content={"data": "other"}),
               finished(tmp_path, [0.6], n_init=11)]  # fmt: skip
    comparisons = compare(folders)
    assert len(comparisons) == 4 and len({c.name for c in comparisons}) == 4


def test_unfinished_runs_are_left_out_and_said(tmp_path):
    done = finished(tmp_path, [0.5, 0.6])
    open_config = small_config(strategy="RandomSampling", n_rounds=1)
    unfinished = RunFolder.create(tmp_path, open_config, {"data": "d"}, {})
    text = write_report([done, unfinished], tmp_path)
    assert "1 unfinished runs are left out" in text and "no spread can be claimed" in text
    with pytest.raises(UserError, match="nothing to report: 1 of 1 runs are unfinished"):
        write_report([unfinished], tmp_path)


def test_the_control_is_shown_or_asked_for(tmp_path):
    galot = {"strategy": "GALOT", "mode": "al+gal"}
    two = {"n_synthetic": "2"}
    runs = [finished(tmp_path, [0.5, 0.7], two, n_synthetic=2.0, **galot)]
    text = write_report(runs, tmp_path)
    assert 'adds is not known: run "GALOT:epsilon=0,n_synthetic=2" too' in text
    assert "all GALOT with n_synthetic=2" in text
    control = {"epsilon": "0"} | two
    runs.append(finished(tmp_path, [0.5, 0.6], control, epsilon=0.0, n_synthetic=2.0, **galot))
    text = write_report(runs, tmp_path)
    assert "text optimisation adds: GALOT − GALOT:epsilon=0: +5.00 points" in text
    assert "is not known" not in text and "its direction adds" not in text
    aside = {"direction": "random"} | two
    random = {"direction": "random", "n_synthetic": 2.0}
    runs.append(finished(tmp_path, [0.5, 0.62], aside, **random, **galot))
    text = write_report(runs, tmp_path)
    assert "a random direction adds: GALOT:direction=random − GALOT:epsilon=0: +1.00 points" in text
    assert "its direction adds: GALOT − GALOT:direction=random: +4.00 points" in text
    assert text.count("its direction adds") == 1
    del runs[-1]
    kept = {"text_target": "max_loss", "oversample": "2", "keep": "acquisition"}
    fields = {"text_target": "max_loss", "oversample": 2.0, "keep": "acquisition"}
    chosen = finished(tmp_path, [0.5, 0.8], kept | two, n_synthetic=2.0, **fields, **galot)
    text = write_report([*runs, chosen], tmp_path)  # what is kept is not kept by margin
    assert 'run "GALOT:epsilon=0,text_target=max_loss,oversample=2,keep=acquisition' in text
    runs.append(finished(tmp_path, [0.5, 0.9], two, {"generator": "w"}, n_synthetic=2.0, **galot))
    (comparison,) = compare(runs)
    assert len({c.label for c in comparison.curves}) == 3
    # The same settings with other weights: not its control.
    unknown = [line for line in statements(comparison) if "is not known" in line]
    assert len(unknown) == 1 and comparison.curves[2].label in unknown[0]


def test_blank_images_are_noted_where_there_were_any(tmp_path):
    def lines(retried, failed):
        counts = {"images_retried": retried, "images_failed": failed}
        run = finished(tmp_path / str(counts), [0.5, 0.6], row=counts)
        (comparison,) = compare([run])
        assert f",{retried},{failed}," in tables.csv_of_rows(comparison).decode()
        return [line for line in statements(comparison) if "blank" in line]

    assert lines(0, 0) == []
    again = "MarginSampling: 6 generated images came out blank and were drawn again"
    assert lines(3, 0) == [again]
    assert lines(3, 1) == [again + "; 2 stayed blank and are left out"]
    run = finished(tmp_path / "mute", [0.5, 0.6], row={"ascent_failed": 4})
    (line,) = [line for line in statements(compare([run])[0]) if "not finite" in line]
    assert line.startswith("MarginSampling: 8 images of the text optimisation, or their gradients")


def test_csv_has_a_line_a_row(two_methods):
    accuracy, folders = two_methods
    lines = tables.csv_of_rows(compare(folders)[0]).decode().splitlines()
    assert len(lines) == 1 + 2 * 5 * 3
    assert lines[0].startswith("dataset,strategy,seed,round,budget")


def test_pictures_are_pngs(two_methods, tmp_path):
    comparison = compare(two_methods[1])[0]
    files = render(lambda: curves(comparison), ("png", "svg"))
    assert files["png"].startswith(b"\x89PNG") and b"MarginSampling (n=5)" in files["svg"]
    assert render(lambda: curves(comparison), ("png", "svg")) == files
    assert gallery_of(comparison.curves[0]) is None


def test_the_fully_supervised_run_joins_every_table_of_its_recipe(tmp_path):
    full = finished(tmp_path, [0.9], strategy="FullySupervised", mode="full")
    runs = [finished(tmp_path, [0.5, 0.6, 0.7]), finished(tmp_path, [0.5, 0.6], n_init=11),
            finished(tmp_path, [0.4, 0.5], strategy="RandomSampling"), full]  # fmt: skip
    first, second = compare(runs)
    assert [c.label for c in first.curves] == [
        "MarginSampling", "RandomSampling", "FullySupervised",
    ]  # fmt: skip
    assert [c.label for c in second.curves] == ["MarginSampling", "FullySupervised"]
    averages = [row[-10] for row in texts(tables.accuracy_table(first))]
    assert averages == ["55.0", "45.0", ""]  # over the two rounds that both have
    (alone,) = compare([full])
    assert texts(tables.accuracy_table(alone))[0][1:3] == ["90.0", "90.0"]
    assert "FullySupervised" in tables.as_text(tables.accuracy_table(alone))


@pytest.mark.parametrize("own", [{"epsilon": 0.0}, {"direction": "random"}, {"mode": "gal"}])
def test_controls_are_always_called_what_they_are(tmp_path, own):
    """Before, where all have ε = 0, the control was called GALOT."""
    ((name, value),) = own.items()
    settings = {name: f"{value:g}" if name == "epsilon" else value, "n_synthetic": "2"}
    fields = {"strategy": "GALOT", "mode": "al+gal", "n_synthetic": 2.0} | own
    (comparison,) = compare([finished(tmp_path, [0.5, 0.7], settings, **fields)])
    assert [c.label for c in comparison.curves] == [f"GALOT:{name}={settings[name]}"]
    assert comparison.shared == {"n_synthetic": "2"}


def test_a_baselines_settings_may_stand_in_any_order(tmp_path):
    fields = {"strategy": "GALOT", "mode": "al+gal"}
    own = {"epsilon": "0", "template": "a {label}, small"}
    runs = [finished(tmp_path, [0.5, 0.7], own, epsilon=0.0, template=own["template"], **fields),
            finished(tmp_path, [0.5, 0.8], **fields)]  # fmt: skip
    options = ReportOptions(baseline="GALOT:template=a {label}, small,epsilon=0")
    assert "points of average accuracy above GALOT:epsilon=0" in write_report(
        runs, tmp_path, options
    )


def test_a_report_of_folders_has_the_order_of_labels(tmp_path):
    """Before, that of the runs' hashes."""
    values = [2.0, 3.0, 5.0, 7.0, 9.0]
    for value in values:
        finished(tmp_path, [0.5, 0.7], {"oversample": f"{value:g}"}, strategy="GALOT",
                 mode="al+gal", oversample=value)  # fmt: skip
    found, _ = find(build_parser().parse_args(["--report", "--output", str(tmp_path)]))
    assert [f.config.oversample for f in found] == values


def test_one_budget_has_no_area(tmp_path):
    runs = [
        finished(tmp_path, [a], strategy=s) for a, s in ((0.5, "RandomSampling"), (0.6, "BALD"))
    ]
    table = tables.accuracy_table(compare(runs)[0])
    assert "area" not in table.header and "area" not in table.title
    assert {len(row) for row in table.rows} == {len(table.header)}


def test_the_star_goes_to_the_higher_mean_not_the_higher_print(tmp_path):
    runs = [finished(tmp_path, [0.9096], strategy="MarginSampling"),
            finished(tmp_path, [0.9104], strategy="RandomSampling")]  # fmt: skip
    lines = tables.as_text(tables.accuracy_table(compare(runs)[0])).splitlines()
    assert "91.0*" not in lines[2] and lines[3].count("91.0*") == 2


def test_an_extended_run_is_reported_whole(tmp_path):
    finished(tmp_path, [0.5, 0.6])
    longer = RunFolder.create(tmp_path, small_config(n_rounds=2), {"data": "d"}, {})
    unfinished = RunFolder.open(longer.path)
    assert not unfinished.finished
    with pytest.raises(UserError, match="nothing to report"):
        write_report([unfinished], tmp_path)
    longer.append(longer.rows()[1] | {"round": 2, "budget": 20, "labels": 20, "accuracy": 0.9})
    (comparison,) = compare([RunFolder.open(longer.path)])
    assert comparison.curves[0].accuracy.tolist() == [[0.5, 0.6, 0.9]]


# -- statistics ----------------------------------------------------------------------------------


def one_curve(tmp_path, accuracies, **fields):
    """A method's curve, a seed for each list of accuracies."""
    runs = [finished(tmp_path, a, seed=s, **fields) for s, a in enumerate(accuracies)]
    return compare(runs)[0].curves[0]


def bare_curve(budgets, accuracies):
    """Budgets and accuracies without runs behind them."""
    seeds = tuple(range(len(accuracies)))
    return Curve("", (), seeds, tuple(budgets), np.array(accuracies), ())


def test_the_area_weighs_a_round_by_its_labels():
    # 10 + 5 + 5 + 2 labels: the last query is smaller, so the last trapezoid is narrower.
    curve = bare_curve((10, 15, 20, 22), [[0.2, 0.6, 0.7, 0.9]])
    by_hand = (5 * 0.4 + 5 * 0.65 + 2 * 0.8) / 12
    assert statistics.normalized_area(curve, curve.budgets) == pytest.approx([by_hand])
    scipys = integrate.trapezoid([0.2, 0.6, 0.7, 0.9], [10, 15, 20, 22]) / 12
    assert by_hand == pytest.approx(scipys)
    assert statistics.normalized_area(curve, (10,)) is None
    assert statistics.normalized_area(curve, (10, 99)) is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.data())
def test_the_area_lies_between_the_worst_and_the_best(accuracies, data):
    n = len(accuracies)
    gaps = data.draw(st.lists(st.integers(1, 1000), min_size=n, max_size=n))
    budgets = tuple(np.cumsum(gaps).tolist())
    curve = bare_curve(budgets, [accuracies])
    (area,) = statistics.normalized_area(curve, budgets)
    assert min(accuracies) - 1e-9 <= area <= max(accuracies) + 1e-9


def test_wins_are_those_of_scipys_paired_test(tmp_path):
    rng = np.random.default_rng(3)
    accuracy = rng.random((3, 6, 4)) * 0.1 + np.array([0.5, 0.55, 0.6])[:, None, None]
    names = ("MarginSampling", "RandomSampling", "EntropySampling")
    runs = [
        finished(tmp_path, accuracy[m, s].tolist(), strategy=name, seed=s)
        for m, name in enumerate(names)
        for s in range(6)
    ]
    (comparison,) = compare(runs)
    wins = statistics.win_shares(comparison.curves)
    assert np.isnan(np.diag(wins)).all()
    for i in range(3):
        for j in range(3):
            if i != j:
                test = stats.ttest_rel(accuracy[i], accuracy[j])
                share = ((test.pvalue < 0.05) & (test.statistic > 0)).mean()
                assert wins[i, j] == share
    assert 0 < np.nansum(wins) < 6  # the case has wins and draws
    table = tables.win_table(comparison)
    assert table.header == ("beats", *names) and table.rows[-1][0].text == "mean of the column"
    means = 100 * np.nanmean(wins, axis=0)
    assert [cell.value for cell in table.rows[-1][1:]] == pytest.approx(means.tolist())


def test_gains_at_each_budget_are_scipys_intervals(tmp_path):
    rng = np.random.default_rng(4)
    accuracy = rng.random((2, 5, 3))
    runs = [
        finished(tmp_path, accuracy[m, s].tolist(), strategy=name, seed=s)
        for m, name in enumerate(("MarginSampling", "RandomSampling"))
        for s in range(5)
    ]
    shorter = rng.random((5, 2))  # a method without the last budget
    runs += [finished(tmp_path, a.tolist(), strategy="BALD", seed=s) for s, a in enumerate(shorter)]
    (comparison,) = compare(runs)
    table = tables.gains_table(comparison)
    assert table.header == ("strategy", "10", "15", "20")
    expected = {"RandomSampling": accuracy[1], "BALD": shorter}
    assert {row[0].text for row in table.rows} == set(expected)
    for name, *cells in table.rows:
        for r, cell in enumerate(cells):
            if r >= expected[name.text].shape[1]:
                assert (cell.text, cell.value) == ("", None)
                continue
            test = stats.ttest_rel(expected[name.text][:, r], accuracy[0, :, r])
            low, high = test.confidence_interval(0.95)
            assert cell.value == pytest.approx(100 * (low + high) / 2)
            assert cell.error == pytest.approx(100 * (high - low) / 2)
    panels = figures.gains(table).axes
    assert [len(ax.lines[1].get_xdata()) for ax in panels] == [
        sum(c.value is not None for c in row[1:]) for row in table.rows
    ]


def test_differences_that_never_vary_are_certain(tmp_path):
    runs = [finished(tmp_path, [0.5], seed=s) for s in range(3)]
    runs += [finished(tmp_path, [0.6], strategy="RandomSampling", seed=s) for s in range(3)]
    a, b = compare(runs)[0].curves
    d = statistics.paired_difference(b, a, (10,))
    assert (d.p, d.half_width) == (0.0, pytest.approx(0, abs=1e-12))
    assert statistics.win_shares((a, b)).tolist()[1][0] == 1.0
    assert statistics.paired_difference(a, a, (10,)).p == 1.0
    assert statistics.paired_difference(a, b, (10, 99)) is None


def test_one_seed_wins_nothing(tmp_path):
    runs = [finished(tmp_path, [0.5]), finished(tmp_path, [0.9], strategy="RandomSampling")]
    (comparison,) = compare(runs)
    assert np.isnan(statistics.win_shares(comparison.curves)).all()
    assert tables.win_table(comparison) is None
    assert texts(tables.difference_table(comparison)) == [["RandomSampling", "+40.00", "", "", "1"]]


def test_labels_needed_by_hand(tmp_path):
    seeds = [[0.5, 0.7, 0.9], [0.9, 0.95, 0.99], [0.1, 0.2, 0.3]]
    curve = one_curve(tmp_path, seeds)
    assert curve.budgets == (10, 15, 20)
    assert statistics.labels_needed(curve, 0.8).tolist() == [pytest.approx(17.5), 10, np.inf]
    assert statistics.labels_needed(curve, 0.7)[0] == 15
    (comparison,) = compare(curve.folders)
    table = tables.labels_table(comparison, (0.8, 0.05, 0.999))
    assert texts(table)[0][1:] == ["14 (2 of 3 seeds)", "≤ 10", "> 20"]
    assert table.header[1:] == ("80 %", "5 %", "99.9 %")
    # A mean of the seeds that got there would sort and print as the best.
    assert [c.value for c in table.rows[0][1:]] == [None, 10.0, None]


def test_a_seed_that_begins_above_the_target_makes_the_mean_an_upper_bound(tmp_path):
    runs = [finished(tmp_path, a, seed=s) for s, a in enumerate([[0.9, 0.95], [0.6, 1.0]])]
    (cell,) = tables.labels_table(compare(runs)[0], (0.8,)).rows[0][1:]
    assert (cell.text, cell.value) == ("≤ 11", 11.25)  # of 10, or fewer, and 12.5


def test_the_baseline_reaches_its_own_last_accuracy(tmp_path):
    """Before, 81.778 % was rounded to 81.8, which it never reached."""
    table = tables.labels_table(compare([finished(tmp_path, [0.5, 0.81778])])[0])
    assert table.header[1] == "81.7 %" and table.rows[0][1].value == pytest.approx(15, abs=0.1)


def test_the_recipe_is_said(tmp_path):
    """Before, tables of several recipes stood side by side and nothing told how they differ."""
    for epochs in (30, 2):
        for seed in range(3):
            finished(tmp_path, [0.5, 0.6], seed=seed, epochs=epochs, min_steps=0)
    budget = "; 10 labels, then 5 a round"
    assert {statements(c)[0] for c in compare(find_runs(tmp_path))} == {
        f"training: small_cnn, protocol demo with min_steps=0{budget}",
        f"training: small_cnn, protocol demo with epochs=2,min_steps=0{budget}",
    }


def test_methods_that_are_called_alike_are_told_apart(tmp_path):
    """As versions of a plug-in's file are, and runs whose ε rises over more rounds."""
    own = [{"plugin Mine": "a"}, {"plugin Mine": "b"}]
    runs = [finished(tmp_path, [0.5, 0.6], content=c, seed=s) for c in own for s in range(3)]
    fields = {"strategy": "GALOT", "mode": "al+gal"}
    runs += [finished(tmp_path, [0.5] * n, **fields) for n in (2, 3)]
    for i, run in enumerate(runs):
        os.utime(run.path / "rounds.jsonl", (i, i))
    (comparison,) = compare(runs)
    labels = [c.label for c in comparison.curves]
    lines = [line for line in statements(comparison) if "played last" in line]
    assert lines == [
        f"{labels[0]}, {labels[1]} differ in the plugin Mine; {labels[1]} was played last",
        f"{labels[2]}, {labels[3]} differ in n_rounds; {labels[3]} was played last",
    ]


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


def test_labels_needed_without_labels(tmp_path):
    rows = {"row": {"labels": 0}, "strategy": "GALOT", "mode": "gal"}
    runs = [finished(tmp_path, a, seed=s, **rows) for s, a in enumerate([[0.5, 0.9], [0.5, 0.6]])]
    (cell,) = tables.labels_table(compare(runs)[0], (0.8,)).rows[0][1:]
    assert (cell.text, cell.value) == ("0 (1 of 2 seeds)", None)
    (cell,) = tables.labels_table(compare(runs)[0], (0.95,)).rows[0][1:]
    assert (cell.text, cell.value) == ("never", None)
    (cell,) = tables.labels_table(compare(runs)[0], (0.55,)).rows[0][1:]
    assert (cell.text, cell.value) == ("0", 0.0)


def test_seconds_of_generating_are_explained_where_there_are_some(tmp_path):
    made = finished(tmp_path, [0.5, 0.6], row={"images_made": 3}, strategy="GALOT", mode="al+gal")
    for run, said in ((made, True), (finished(tmp_path, [0.5, 0.6]), False)):
        title = tables.accuracy_table(compare([run])[0]).title
        assert ("gen s: without images that were stored already" in title) is said


def test_two_seeds_claim_no_spread(tmp_path):
    runs = [finished(tmp_path, [0.5, 0.6], seed=s) for s in (0, 1)]
    runs += [finished(tmp_path, [0.49, 0.59], strategy="RandomSampling", seed=s) for s in (0, 1)]
    (comparison,) = compare(runs)
    text = write_report(runs, tmp_path)
    assert "±" not in text and "fewer than 3 seeds: no spread" in text
    assert "test accuracy in %, mean over n seeds" in text
    page = tmp_path / "report" / "index.html"
    assert "Mean over n seeds; the table" in page.read_text()
    third = [finished(tmp_path, [0.5, 0.6], seed=2)]
    said = write_report(runs + third, tmp_path)
    assert "fewer than 3 seeds of RandomSampling: no spread can be claimed" in said
    assert "Mean over n seeds, bands of one standard error; the table" in page.read_text()
    assert tables.win_table(comparison) is None


def test_a_single_fit_on_all_labels_does_not_take_the_spread_away(two_methods, tmp_path):
    full = finished(tmp_path, [0.9], strategy="FullySupervised", mode="full")
    (comparison,) = compare([*two_methods[1], full])
    assert not any("fewer than 3 seeds" in line for line in statements(comparison))


def test_an_exhibit_names_what_is_missing_or_twice(tmp_path):
    runs = [finished(tmp_path, [0.5, 0.6], seed=s) for s in range(3)]
    folder = Path(*runs[0].path.parts[-4:-1]).as_posix()
    arms = (ExhibitArm("a", folder), ExhibitArm("b", "D/S/none"), ExhibitArm("c", folder))
    comparison = of_exhibit(Exhibit("table1", "t", "curves", "Digits", arms), runs)
    assert [c.label for c in comparison.curves] == ["a"]
    lines = statements(comparison)
    assert "no finished run of b" in lines and "one and the same run as a: c" in lines


def test_rounds_that_not_all_seeds_have_are_left_out_and_said(tmp_path):
    runs = [finished(tmp_path / "a", [0.5, 0.6]), finished(tmp_path / "b", [0.5, 0.6, 0.7], seed=1)]
    (comparison,) = compare(runs)
    assert comparison.curves[0].budgets == (10, 15)
    line = "MarginSampling: rounds that not all of its seeds have are left out, 1 at most"
    assert line in statements(comparison)


@pytest.mark.parametrize("accuracy", [float("nan"), 55.3, -0.1])
def test_an_accuracy_that_is_none_is_an_error(accuracy, tmp_path):
    run = finished(tmp_path, [0.5, accuracy])
    with pytest.raises(UserError, match="rounds.jsonl: line 2 is damaged .accuracy"):
        compare([run])


def test_a_chosen_baseline_is_what_the_others_are_compared_with(two_methods, tmp_path):
    accuracy, folders = two_methods
    text = write_report(folders, tmp_path, ReportOptions(baseline="RandomSampling"))
    mean = 100 * (accuracy[0] - accuracy[1]).mean()
    (line,) = [x for x in text.splitlines() if x.startswith("MarginSampling") and "±" in x][1:]
    assert line.split()[1] == f"{mean:+.2f}".replace("-", "−")
    assert "points of average accuracy above RandomSampling, paired by seed" in text
    with pytest.raises(UserError, match="--baseline 'Random'.*did you mean RandomSampling"):
        write_report(folders, tmp_path, ReportOptions(baseline="Random"))


# -- several machines ----------------------------------------------------------------------------


def test_runs_of_several_machines_count_once(tmp_path):
    here = [finished(tmp_path / "a", [0.5, 0.6], seed=s) for s in (0, 1)]
    there = [finished(tmp_path / "b", [0.5, 0.6], seed=s) for s in (1, 2)]
    folders, lines = merge(here + there)
    (comparison,) = compare(folders)
    assert comparison.curves[0].seeds == (0, 1, 2) and lines == []
    other = finished(tmp_path / "c", [0.5, 0.7], seed=0)
    folders, lines = merge([*here, other])
    assert folders == here and "1 runs lie in several folders" in lines[0]
    longer = finished(tmp_path / "d", [0.5, 0.6, 0.7], seed=0)
    assert merge([*here, longer])[0] == [longer, here[1]]


def test_other_devices_are_said(tmp_path):
    runs = [finished(tmp_path, [0.5], seed=s) for s in range(3)]
    for run, torch_version in zip(runs, ("2.11", "2.11", "2.15"), strict=True):
        run.save_environment({"device_name": "x", "versions": {"torch": torch_version}})
    text = "\n".join(statements(compare(runs)[0]))
    assert "of different machines or versions: x with torch 2.11; x with torch 2.15" in text
    assert "different machines" not in "\n".join(statements(compare(runs[:2])[0]))
    runs[0].save_environment({"device_name": "y", "versions": {"torch": "2.11"}})  # its later part
    runs[0].save_environment({"device_name": "x", "versions": {"torch": "2.11"}})
    assert "x with torch 2.11; y with torch 2.11" in "\n".join(statements(compare(runs[:2])[0]))


# -- how a table is written ----------------------------------------------------------------------

TABLE = Table("t", "a 100 % title", ("name", "x", "y & z"), (
    (Cell("a_b|c"), Cell("1.0 ±0.5", 1.0, 0.5, True), Cell("")),
    (Cell("ε = {d}"), Cell("0.5", 0.5), Cell("12", 12.0)),
))  # fmt: skip


def test_a_table_as_csv_keeps_values_and_errors_apart():
    lines = tables.as_csv(TABLE).decode().splitlines()
    assert lines == ["name,x,x error,y & z", "a_b|c,1,0.5,", "ε = {d},0.5,,12"]


def test_a_table_as_markdown_and_latex_is_escaped():
    markdown = tables.as_markdown(TABLE).decode()
    assert "| a\\|b" not in markdown and "| a_b\\|c | **1.0 ±0.5** |  |" in markdown
    latex = tables.as_latex(TABLE).decode()
    assert r"a\_b\textbar{}c & \textbf{1.0 $\pm$0.5} &  \\" in latex
    assert r"$\varepsilon$ = \{d\} & 0.5 & 12 \\" in latex and r"a 100 \% title" in latex


def test_a_wide_table_breaks_into_blocks_with_the_names():
    text = tables.as_text(TABLE, width=20)
    first, second = text.split("\n\n")
    assert max(map(len, text.splitlines())) <= 20
    assert first.splitlines()[0].split() == ["name", "x"]
    assert second.splitlines()[2].startswith("a_b|c") and second.splitlines()[3].endswith("12")
    assert "1.0 ±0.5*" in text and "\033[1m1.0 ±0.5" in tables.as_text(TABLE, bold=True)


@given(st.integers(10, 60))
def test_no_column_is_lost_at_any_width(width):
    text = tables.as_text(TABLE, width=width)
    assert all(word in text for word in ("name", "x", "y & z", "0.5", "12"))


# -- the paper's numbers -------------------------------------------------------------------------


def test_averages_of_the_paper_are_means_of_its_cells_where_nothing_is_doubtful():
    checked = 0
    for address, row in paper_numbers().items():
        cells = [v for k, v in row.accuracy.items() if isinstance(k, int)]
        assert all(0 < v < 1 for v in row.accuracy.values()), address
        if "average" in row.accuracy and "average" not in row.doubtful:
            assert abs(np.mean(cells) - row.accuracy["average"]) < 1e-4, address
            checked += 1
        assert bool(row.doubt) == bool(row.doubtful)
    assert checked == 45


def test_rows_that_the_paper_prints_twice_agree():
    numbers = paper_numbers()
    galot = numbers["table1", "CIFAR10", "GALOT"].accuracy
    assert numbers["table2", "CIFAR10", "Baseline (Resnet 18)"].accuracy == galot
    for table, row in (("table5", "GALOT (300 epochs)"), ("table7", "MarginSampling")):
        again = numbers[table, "CIFAR10", row].accuracy
        assert all(again[k] == galot[k] for k in (1000, 2000, 3000, 4000, 5000))


def test_a_report_is_found_again_from_the_folders_alone(two_methods, tmp_path):
    _, folders = two_methods
    before = write_report(folders, tmp_path / "x")
    assert write_report(find_runs(tmp_path), tmp_path / "x") == before
    names = {f.name for f in (tmp_path / "x" / "report").iterdir()}
    assert {"index.html", "Digits_rows.csv", "Digits_curves.png", "Digits_curves.svg",
            "Digits_accuracy.csv", "Digits_accuracy.md", "Digits_accuracy.tex", "Digits_wins.svg",
            "Digits_labels.tex", "Digits_costs.png"} <= names  # fmt: skip


def exhibit_of(tmp_path, runs, arms, **fields):
    """An exhibit of finished runs and its comparison."""
    arms = tuple(
        ExhibitArm(label, Path(*run.path.parts[-4:-1]).as_posix(), paper)
        for run, (label, paper) in zip(runs, arms, strict=True)
    )
    exhibit = Exhibit("table4", "ε", "curves", runs[0].config.dataset, arms, **fields)
    return exhibit, of_exhibit(exhibit, runs)


def test_the_papers_numbers_stand_beside_ours_with_the_difference(tmp_path):
    budget = {"dataset": "CIFAR10", "n_init": 1000, "n_query": 1000}
    galot = {"strategy": "GALOT", "mode": "al+gal", **budget}
    runs = [finished(tmp_path, [0.66, 0.77, 0.82], epsilon=0.0, **galot),
            finished(tmp_path, [0.50, 0.60, 0.70], epsilon=5.0, **galot),
            finished(tmp_path, [0.55, 0.68, 0.81], **budget)]  # fmt: skip
    arms = [("ε = 0", ("table4", "0")), ("ε = 0.5", None),
            ("Margin", ("table1", "MarginSampling"))]  # fmt: skip
    exhibit, comparison = exhibit_of(tmp_path, runs, arms, baseline="ε = 0", notes=("a note",))
    table = tables.paper_table(comparison)
    assert table.header == ("strategy", "1,000", "2,000", "3,000")
    assert texts(table) == [
        ["ε = 0: paper", "65.47", "77.00", "82.28"],
        ["  ours − paper", "+0.53", "+0.00", "−0.28"],
        ["Margin: paper", "55.06", "68.00", "81.27?"],
        ["  ours − paper", "−0.06", "+0.00", "−0.27?"],
    ]
    assert comparison.reference.label == "ε = 0"
    # Never in our own columns.
    ours = tables.accuracy_table(comparison)
    assert [row[0].text for row in ours.rows] == ["ε = 0", "ε = 0.5", "Margin"]
    lines = statements(comparison)
    assert "a note" in lines and any(line.startswith("? its value at 3,000") for line in lines)
    write_report(runs, tmp_path, exhibits=[exhibit])
    assert (tmp_path / "report" / f"{exhibit.file_name}_paper.svg").exists()


def test_the_papers_average_is_of_its_ten_budgets_and_no_others(tmp_path):
    budget = {"dataset": "CIFAR10", "n_init": 1000, "n_query": 1000, "strategy": "RandomSampling"}
    ten = [round(0.5 + 0.04 * r, 2) for r in range(10)]
    whole, part = (finished(tmp_path, a, lr=lr, **budget) for a, lr in ((ten, 0.1), (ten[:5], 0.2)))
    paper = ("table1", "RandomSampling")
    _, comparison = exhibit_of(tmp_path, [whole, part], [("ten", paper), ("five", paper)])
    table = tables.paper_table(comparison)
    assert table.header[-2:] == ("10,000", "average")
    averages = [row[-1].text for row in table.rows]
    assert averages == ["78.74", f"{100 * np.mean(ten) - 78.74:+.2f}".replace("-", "−"), "", ""]
    assert [row[-2].text for row in table.rows][2:] == ["", ""]  # five has no 10,000 labels


def test_without_the_papers_rows_there_is_no_such_table(tmp_path):
    runs = [finished(tmp_path, [0.5, 0.6])]
    _, comparison = exhibit_of(tmp_path, runs, [("a", None)])
    assert tables.paper_table(comparison) is None
    assert tables.paper_table(compare(runs)[0]) is None


def test_a_fully_supervised_run_stands_beside_the_papers(tmp_path):
    full = finished(tmp_path, [0.9], strategy="FullySupervised", mode="full", dataset="CIFAR10")
    arms = [("all", ("table1", "fully supervised"))]
    _, comparison = exhibit_of(tmp_path, [full], arms)
    assert texts(tables.paper_table(comparison)) == [
        ["all: paper", "95.36"], ["  ours − paper", "−5.36"],
    ]  # fmt: skip


def test_runs_of_an_exhibit_stand_in_no_other_table_until_one_joins_them(tmp_path):
    runs = [finished(tmp_path, [0.5, 0.6]), finished(tmp_path, [0.6, 0.7], strategy="GAAL")]
    exhibit, _ = exhibit_of(tmp_path, runs, [("a", None), ("b", None)])
    text = write_report(runs, tmp_path, exhibits=[exhibit])
    assert "Table 4: ε, on Digits" in text and "\nDigits: test accuracy" not in text
    runs.append(finished(tmp_path, [0.7, 0.8], strategy="RandomSampling"))
    text = write_report(runs, tmp_path, exhibits=[exhibit])
    both = text[text.index("\nDigits: test accuracy") :]
    assert all(name in both for name in ("MarginSampling", "GAAL", "RandomSampling"))


def test_wins_over_data_sets_are_the_mean_of_theirs(tmp_path):
    names, rng = ("MarginSampling", "RandomSampling"), np.random.default_rng(5)
    comparisons = []
    for dataset, gap in (("Digits", 0.2), ("MNIST", 0.0), ("SVHN", 0.05)):
        accuracy = rng.random((2, 5, 3)) * 0.1 + np.array([gap, 0])[:, None, None]
        comparisons += compare([
            finished(tmp_path / dataset, accuracy[m, s].tolist(), strategy=name, seed=s,
                     dataset=dataset)
            for m, name in enumerate(names) for s in range(5)
        ])  # fmt: skip
    each = [statistics.win_shares(c.curves)[0, 1] for c in comparisons]
    table = tables.overall_win_table(comparisons)
    assert table.rows[0][2].value == pytest.approx(100 * np.mean(each)) and 0 < np.mean(each) < 1
    assert table.title.endswith("mean over Digits, MNIST, SVHN")
    assert tables.overall_win_table(comparisons[:1]) is None
    runs = [f for c in comparisons for curve in c.curves for f in curve.folders]
    write_report(runs, tmp_path)
    assert (tmp_path / "report" / "SVHN_wins_overall.csv").exists()


def test_methods_that_met_on_one_data_set_have_no_wins_over_several(tmp_path):
    comparisons, both = [], ("BALD", "MeanSTD")
    for dataset, names in (("Digits", (*both, "VarRatio")), ("MNIST", both)):
        comparisons += compare([
            finished(tmp_path, [0.5 + 0.01 * len(name)], strategy=name, seed=s, dataset=dataset)
            for name in names for s in range(3)
        ])  # fmt: skip
    rows = {name: cells for name, *cells in texts(tables.overall_win_table(comparisons))}
    assert rows["VarRatio"] == ["", "", ""] and rows["MeanSTD"] == ["100", "", ""]


def test_alike_titles_are_told_apart(tmp_path):
    runs = [finished(tmp_path, [0.5, 0.6]), finished(tmp_path, [0.6, 0.7], strategy="GAAL")]
    exhibits = [exhibit_of(tmp_path, [run], [("a", None)])[0] for run in runs]
    text = write_report(runs, tmp_path, exhibits=exhibits)
    titles = [line.partition(": test")[0] for line in text.splitlines() if "Table 4: " in line]
    assert len(set(titles)) == 2
    assert titles == [f"Table 4: ε, on Digits ({e.file_name[-6:]})" for e in exhibits]


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


def test_real_images_are_kept_for_people_where_there_are_enough(toy, tmp_path):
    save_real_examples(toy, tmp_path)
    kept = real_examples(tmp_path, "toy")
    for k in range(3):
        assert (kept[k] == toy.x_train[toy.y_train == k][:4]).all()
    few = dataclasses.replace(toy, name="few", x_train=toy.x_train[:6], y_train=toy.y_train[:6])
    save_real_examples(few, tmp_path)
    assert real_examples(tmp_path, "few") is None


def test_the_judge_is_the_exhibits_own_or_the_best(tmp_path):
    def judged(accuracy, lr):
        fields = {"strategy": "FullySupervised", "mode": "full", "lr": lr}
        return finished(tmp_path, [accuracy], **fields)

    worse, better = judged(0.9, 0.1), judged(0.95, 0.2)
    runs = [finished(tmp_path, [0.5, 0.6])]
    exhibit, comparison = exhibit_of(tmp_path, runs, [("a", None)])
    assert find_judge(comparison, [worse, better]).folder is better
    own = dataclasses.replace(exhibit, judge=Path(*worse.path.parts[-4:-1]).as_posix())
    comparison = dataclasses.replace(comparison, exhibit=own)
    assert find_judge(comparison, [worse, better]).folder is worse
    assert find_judge(comparison, [better]).folder is better
    assert find_judge(comparison, []) is None
