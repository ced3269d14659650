"""What a report's tables hold."""

import numpy as np
import pytest
from scipy import stats

from deepal_galot.errors import UserError
from deepal_galot.report import figures, statistics, table_formats, tables
from deepal_galot.report.comparison import compare
from deepal_galot.report.section import make_sections
from deepal_galot.report.write import write_report
from deepal_galot.results import RunFolder
from finished_runs import finished, texts
from helpers import small_config

pytestmark = pytest.mark.usefixtures("quick_pictures")


def test_table_holds_the_numbers(two_methods):
    accuracy, folders = two_methods
    (comparison,) = compare(folders)
    row = texts(tables.accuracy_table(comparison))[0]
    sem = accuracy[0, :, 0].std(ddof=1) / np.sqrt(5)
    assert row[0] == "MarginSampling"
    assert row[1] == f"{100 * accuracy[0, :, 0].mean():.1f} ±{100 * sem:.1f}"
    assert row[-8:] == ["5", "20", "0", "0", "3.0", "6.0", "0.0", "0.0"]
    text = table_formats.as_text(tables.accuracy_table(comparison))
    assert text.count("*") == 5  # the best of three budgets, the average and the area
    assert len({len(line.split()) for line in text.splitlines()[2:]}) == 1


def test_balanced_accuracy_stands_where_it_tells_more(tmp_path):
    def runs(*of_seeds, **fields):
        return [finished(tmp_path, [0.8, 0.9], row={"balanced_accuracy": b}, seed=s, **fields)
                for s, b in enumerate(of_seeds)]  # fmt: skip

    even = runs(0.852, 0.849, strategy="BALD")  # 85 on average
    assert "balanced" not in tables.accuracy_table(compare(even)[0]).header
    uneven = runs(0.6, 0.7, strategy="RandomSampling")
    full = finished(tmp_path, [0.9], strategy="FullySupervised", mode="full",
                    row={"balanced_accuracy": 0.9})  # fmt: skip
    table = tables.accuracy_table(compare([*even, *uneven, full])[0])
    j = table.header.index("balanced")
    assert table.header[j - 1 : j + 2] == ("average", "balanced", "area")
    assert "balanced: average of the mean over classes" in table.title
    values = [row[j].value for row in table.rows]
    assert values == [pytest.approx(85.05), pytest.approx(65), None]
    assert [row[j].best for row in table.rows] == [True, False, False]
    csv = table_formats.csv_of_rows(compare(uneven)[0]).decode()
    assert ",accuracy,balanced_accuracy," in csv and ",0.9,0.7," in csv
    damaged = finished(tmp_path, [0.5], row={"balanced_accuracy": 1.5}, seed=9)
    with pytest.raises(UserError, match="line 1 is damaged .balanced_accuracy"):
        compare([damaged])


def test_a_tie_marks_all_of_it_and_nothing_where_there_is_nothing_else(tmp_path):
    """Before, the first of equal ones alone."""
    a = finished(tmp_path, [0.5, 0.6])
    b = finished(tmp_path, [0.5, 0.6], strategy="RandomSampling")
    c = finished(tmp_path, [0.4, 0.59], strategy="EntropySampling")
    rows = tables.accuracy_table(compare([a, b, c])[0]).rows
    assert [[cell.best for cell in row[1:4]] for row in rows] == [[False] * 3] + [[True] * 3] * 2
    rows = tables.accuracy_table(compare([a, b])[0]).rows
    assert not any(cell.best for row in rows for cell in row)


def test_the_star_goes_to_the_higher_mean_not_the_higher_print(tmp_path):
    runs = [finished(tmp_path, [0.9096], strategy="MarginSampling"),
            finished(tmp_path, [0.9104], strategy="RandomSampling")]  # fmt: skip
    lines = table_formats.as_text(tables.accuracy_table(compare(runs)[0])).splitlines()
    assert "91.0*" not in lines[2] and lines[3].count("91.0*") == 2


def test_one_budget_has_no_area(tmp_path):
    runs = [
        finished(tmp_path, [a], strategy=s) for a, s in ((0.5, "RandomSampling"), (0.6, "BALD"))
    ]
    table = tables.accuracy_table(compare(runs)[0])
    assert "area" not in table.header and "area" not in table.title
    assert {len(row) for row in table.rows} == {len(table.header)}


def test_seconds_of_generating_are_explained_where_there_are_some(tmp_path):
    made = finished(tmp_path, [0.5, 0.6], row={"images_made": 3}, strategy="GALOT", mode="al+gal")
    for run, said in ((made, True), (finished(tmp_path, [0.5, 0.6]), False)):
        title = tables.accuracy_table(compare([run])[0]).title
        assert ("gen s: images that were stored already as when" in title) is said


def test_the_difference_table_holds_scipys_interval_and_p(two_methods):
    accuracy, folders = two_methods
    (row,) = tables.difference_table(compare(folders)[0]).rows
    test = stats.ttest_rel(accuracy[0].mean(1), accuracy[1].mean(1))
    low, high = test.confidence_interval()
    expected = [50 * (low + high), 50 * (high - low), test.pvalue, 5]
    assert [cell.value for cell in row[1:]] == pytest.approx(expected)
    assert [c.text for c in row[2:]] == [f"±{expected[1]:.2f}", f"{test.pvalue:.2g}", "5"]


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
    expected = {"MarginSampling": accuracy[0], "BALD": shorter}
    assert {row[0].text for row in table.rows} == set(expected)
    for name, *cells in table.rows:
        for r, cell in enumerate(cells):
            if r >= expected[name.text].shape[1]:
                assert (cell.text, cell.value) == ("", None)
                continue
            test = stats.ttest_rel(expected[name.text][:, r], accuracy[1, :, r])
            low, high = test.confidence_interval(0.95)
            assert cell.value == pytest.approx(100 * (low + high) / 2)
            assert cell.error == pytest.approx(100 * (high - low) / 2)
    panels = figures.gains(table).axes
    assert [len(ax.lines[1].get_xdata()) for ax in panels] == [
        sum(c.value is not None for c in row[1:]) for row in table.rows
    ]


def test_one_budget_has_no_table_of_gains(tmp_path):
    """The table of differences says it all."""
    runs = [finished(tmp_path, [a + s / 50], strategy=name, seed=s)
            for name, a in (("MarginSampling", 0.5), ("RandomSampling", 0.7))
            for s in range(3)]  # fmt: skip
    (comparison,) = compare(runs)
    assert tables.gains_table(comparison) is None
    assert tables.difference_table(comparison) is not None


def test_without_a_target_it_is_the_baselines_last_mean_as_the_accuracies_have_it(tmp_path):
    """Before, 81.778 % was cut to 81.7, which no other table had."""
    accuracies = (0.81778, 0.7, 0.9)
    runs = [finished(tmp_path, [0.5, a], seed=s) for s, a in enumerate(accuracies)]
    runs += [finished(tmp_path, [0.5, 0.6], strategy="BALD", seed=s) for s in range(3)]
    for used in (runs[:1], runs):
        (comparison,) = compare(used)
        baseline = tables.accuracy_table(comparison).rows[-1]
        table = tables.labels_table(comparison)
        shown = baseline[2].text.split()[0]
        assert table.header[1] == f"{shown} %"
        assert (
            f"needed for a test accuracy of {shown} %, the last of MarginSampling: where each "
            f"seed's curve, linear between budgets, first reaches it; mean" in table.title
        )
        line = table_formats.as_csv(table).decode().splitlines()[-1].split(",")
        assert float(line[1]) == pytest.approx(baseline[2].value)
        assert line[2] == "last accuracy of MarginSampling"
    (cell,) = tables.labels_table(compare(runs[:1])[0]).rows[0][1:]
    assert cell.text == "15"  # the baseline itself gets there, by its own last accuracy


def test_seeds_of_one_accuracy_reach_their_mean(tmp_path):
    """Which rounding may leave above them: the mean of three times 0.1 is above 0.1."""
    runs = [finished(tmp_path, [0.05, 0.1], seed=s) for s in range(3)]
    assert np.mean([0.1] * 3) > 0.1
    (cell,) = tables.labels_table(compare(runs)[0]).rows[0][1:]
    assert (cell.text, cell.value) == ("15 ±0", pytest.approx(15))


NEEDED = (
    "strategy,target in %,target from,mean labels,seeds that reach it,"
    "of them at the first budget,seeds"
)


def test_a_seed_that_begins_above_the_target_makes_the_mean_an_upper_bound(tmp_path):
    runs = [finished(tmp_path, a, seed=s) for s, a in enumerate([[0.9, 0.95], [0.6, 1.0]])]
    (cell,) = tables.labels_table(compare(runs)[0], (0.8,)).rows[0][1:]
    assert (cell.text, cell.value, cell.error) == ("≤ 11", 11.25, None)  # of ≤ 10, and 12.5
    table = tables.labels_table(compare(runs)[0], (0.8, 0.97))
    assert table_formats.as_csv(table).decode().splitlines() == [
        NEEDED,
        "MarginSampling,80,--target-accuracy,11.25,2,1,2",
        "MarginSampling,97,--target-accuracy,,1,0,2",
    ]


def test_where_not_all_seeds_get_there_no_mean_is_shown(tmp_path):
    """Before, that of those that do, which made the worse method look better."""
    runs = [finished(tmp_path, [0.5, a], seed=s) for s, a in enumerate((0.9, 0.6, 0.7))]
    good = [finished(tmp_path, [0.5, 0.9], strategy="BALD", seed=s) for s in range(3)]
    table = tables.labels_table(compare([*good, *runs])[0], (0.8, 0.95))
    assert texts(table) == [
        ["BALD", "14 ±0", "> 15"],
        ["MarginSampling", "> 15 (1 of 3 seeds reach it)", "> 15"],
    ]
    assert table_formats.as_csv(table).decode().splitlines() == [
        NEEDED.replace("labels,", "labels,mean labels SEM,", 1),
        "BALD,80,--target-accuracy,13.75,0,3,0,3",
        "BALD,95,--target-accuracy,,,0,0,3",
        "MarginSampling,80,--target-accuracy,,,1,0,3",
        "MarginSampling,95,--target-accuracy,,,0,0,3",
    ]
    (axes,) = figures.bars(table).axes
    widths = [bar.get_width() for bar in axes.patches]
    assert [w for w in widths if not np.isnan(w)] == [13.75]
    assert {text.get_text().strip() for text in axes.texts} >= {"> 15 (1 of 3 seeds reach it)"}


def test_without_a_number_there_is_no_picture_of_labels(tmp_path):
    runs = [finished(tmp_path, [0.5, 0.6])]
    for target, drawn in ((0.55, True), (0.95, False)):
        (section,) = make_sections(compare(runs), runs, (target,))
        assert any(t.name == "labels" for t in section.tables)
        assert any(p.name == "labels" for p in section.pictures) is drawn


def test_labels_needed_without_labels(tmp_path):
    rows = {"row": {"labels": 0}, "strategy": "GALOT", "mode": "gal"}
    runs = [finished(tmp_path, a, seed=s, **rows) for s, a in enumerate([[0.5, 0.9], [0.5, 0.6]])]
    (cell,) = tables.labels_table(compare(runs)[0], (0.8,)).rows[0][1:]
    assert (cell.text, cell.value) == ("1 of 2 seeds reach it", None)
    (cell,) = tables.labels_table(compare(runs)[0], (0.95,)).rows[0][1:]
    assert (cell.text, cell.value) == ("never", None)
    (cell,) = tables.labels_table(compare(runs)[0], (0.55,)).rows[0][1:]
    assert (cell.text, cell.value) == ("0", 0.0)


def test_the_pool_table_is_of_the_last_round(tmp_path):
    fields = {"strategy": "GALOT", "mode": "al+gal", "epsilon_schedule": "constant"}
    measured = {"pool_distance": 0.3, "mismatch_plain": 0.2, "mismatch": 0.1}
    first = finished(tmp_path, [0.5], row=measured | {"images": 4, "images_made": 6}, **fields)
    longer = RunFolder.create(tmp_path, small_config(n_rounds=1, **fields), {"data": "d"}, {})
    measured = {"pool_distance": 0.25, "mismatch_plain": 0.15, "mismatch": 0.05}
    longer.append(first.rows()[0] | measured | {"round": 1, "images": 5, "images_made": 7})
    table = tables.pool_table(compare([RunFolder.open(longer.path)])[0])
    assert texts(table) == [["GALOT", "13", "5", "0.2500", "0.1500", "0.0500"]]


def test_the_pool_table_has_no_columns_of_an_alignment_that_nobody_has(tmp_path):
    fields = {"strategy": "GALOT", "mode": "al+gal", "epsilon_schedule": "constant"}
    plain = finished(tmp_path, [0.5], row={"pool_distance": 0.3, "images": 4}, **fields)
    table = tables.pool_table(compare([plain])[0])
    assert table.header == ("images of", "made", "trained on", "distance")
    assert "align" not in table.title and texts(table)[0][3] == "0.3000"


def test_the_text_table_is_of_rounds_that_moved_the_text(tmp_path):
    def run(seed, scores, **fields):
        """Scores after, of rounds that begin at -0.5; None where the text stays."""
        own = {key: str(value) for key, value in fields.items()}
        fields |= {"strategy": "GALOT", "mode": "al+gal", "seed": seed}
        folder = RunFolder.create(tmp_path, small_config(n_rounds=2, **fields), {"data": "d"}, own)
        (row,) = finished(tmp_path / "row", [0.5], **fields).rows()
        for r, after in enumerate(scores):
            moved = {"score_before": -0.5, "score_after": after, "epsilon": 2.0 * r,
                     "distance": 1.5, "arrived_distance": 1.25}  # fmt: skip
            folder.append(row | {"round": r} | (moved if after is not None else {}))
        return RunFolder.open(folder.path)

    plain = finished(tmp_path, [0.5] * 3)
    still = run(0, (None, None, None), epsilon=0.0)
    assert tables.text_table(compare([plain, still])[0]) is None
    runs = [run(s, (None, -0.4, -0.2 - 0.1 * s)) for s in range(3)]
    random = [run(s, (None, -0.6, -0.5), direction="random") for s in range(2)]
    table = tables.text_table(compare([plain, still, *runs, *random])[0])
    assert table.header[3:7] == ("after − before", "ε", "‖c − c0‖", "‖c − c0‖ as read")
    assert texts(table) == [
        ["GALOT", "−0.5000 ±0.0000", "−0.3500 ±0.0289", "+0.1500 ±0.0289", "3", "1.500 ±0.000",
         "1.250 ±0.000", "3"],
        ["GALOT:direction=random", "−0.5000", "−0.5500", "−0.0500", "3", "1.500", "1.250", "2"],
    ]  # fmt: skip
    assert r"$\Vert$c" in table_formats.as_latex(table).decode()


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
