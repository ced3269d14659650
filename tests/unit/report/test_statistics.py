"""Statistics against scipy and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from deepal_galot.report import statistics, tables
from deepal_galot.report.comparison import Curve, compare
from deepal_galot.report.statements import statements
from finished_runs import finished, texts


def test_mean_and_sem_by_hand():
    assert statistics.mean_sem([1.0, 2.0, 3.0]) == (2.0, pytest.approx(1 / np.sqrt(3)))
    mean, sem = statistics.mean_sem([5.0])
    assert mean == 5.0 and np.isnan(sem)


def test_p_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 6))
    assert statistics.paired(a, b).p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert statistics.paired(1e-3 * a, 1e-3 * b).p == pytest.approx(stats.ttest_rel(a, b).pvalue)


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
    assert texts(tables.difference_table(comparison)) == [["MarginSampling", "+0.00", "", "", "2"]]
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


def test_differences_that_never_vary_are_certain(tmp_path):
    runs = [finished(tmp_path, [0.5], seed=s) for s in range(3)]
    runs += [finished(tmp_path, [0.6], strategy="RandomSampling", seed=s) for s in range(3)]
    a, b = compare(runs)[0].curves
    d = statistics.paired_difference(b, a, (10,))
    assert (d.p, d.half_width) == (0.0, pytest.approx(0, abs=1e-12))
    assert statistics.win_shares((a, b)).tolist()[1][0] == 1.0
    assert statistics.paired_difference(a, a, (10,)).p == 1.0
    assert statistics.paired_difference(a, b, (10, 99)) is None


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
    names = ("EntropySampling", "MarginSampling", "RandomSampling")
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


def test_one_seed_wins_nothing(tmp_path):
    runs = [finished(tmp_path, [0.5]), finished(tmp_path, [0.9], strategy="RandomSampling")]
    (comparison,) = compare(runs)
    assert np.isnan(statistics.win_shares(comparison.curves)).all()
    assert tables.win_table(comparison) is None
    assert texts(tables.difference_table(comparison)) == [["MarginSampling", "−40.00", "", "", "1"]]


def test_two_seeds_win_nothing():
    """Nor lose: a share of 0 would say that a test was made."""
    curves = [bare_curve((10, 15), [[a, a], [a, a]]) for a in (0.5, 0.9)]
    assert np.isnan(statistics.win_shares(curves)).all()


def test_methods_are_paired_at_the_budgets_that_both_have():
    a = bare_curve((10, 15, 20), [[0.5, 0.6, 0.7]])
    b = bare_curve((5, 10, 20), [[0.1, 0.2, 0.3]])
    for first, second, sign in ((a, b, 1), (b, a, -1)):
        gains = statistics.paired_by_budget(first, second)
        means = {budget: d.mean for budget, d in gains.items()}
        assert means == {10: pytest.approx(0.3 * sign), 20: pytest.approx(0.4 * sign)}
    assert statistics.paired_by_budget(a, bare_curve((7,), [[0.5]])) == {}


def test_labels_needed_by_hand(tmp_path):
    seeds = [[0.5, 0.7, 0.9], [0.9, 0.95, 0.99], [0.1, 0.2, 0.3]]
    (comparison,) = compare([finished(tmp_path, a, seed=s) for s, a in enumerate(seeds)])
    (curve,) = comparison.curves
    assert curve.budgets == (10, 15, 20)
    assert statistics.labels_needed(curve, 0.8).tolist() == [pytest.approx(17.5), 10, np.inf]
    assert statistics.labels_needed(curve, 0.7)[0] == 15
    table = tables.labels_table(comparison, (0.8, 0.05, 0.999))
    assert texts(table)[0][1:] == ["> 20 (2 of 3 seeds reach it)", "≤ 10", "> 20"]
    assert table.header[1:] == ("80 %", "5 %", "99.9 %")
    # A mean of the seeds that got there would sort and print as the best.
    assert [c.value for c in table.rows[0][1:]] == [None, 10.0, None]
