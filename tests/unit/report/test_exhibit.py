"""The paper's tables and figures, and its numbers beside ours."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from deepal_galot.report import tables
from deepal_galot.report.comparison import compare, of_exhibit
from deepal_galot.report.exhibit import (
    Exhibit,
    ExhibitArm,
    paper_numbers,
    real_examples,
    save_real_examples,
)
from deepal_galot.report.pseudo_labels import find_judge
from deepal_galot.report.statements import statements
from deepal_galot.report.write import write_report
from finished_runs import exhibit_of, finished, texts

pytestmark = pytest.mark.usefixtures("quick_pictures")


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


def test_an_exhibit_names_what_is_missing_or_twice(tmp_path):
    runs = [finished(tmp_path, [0.5, 0.6], seed=s) for s in range(3)]
    folder = Path(*runs[0].path.parts[-4:-1]).as_posix()
    arms = (ExhibitArm("a", folder), ExhibitArm("b", "D/S/none"), ExhibitArm("c", folder))
    comparison = of_exhibit(Exhibit("table1", "t", "curves", "Digits", arms), runs)
    assert [c.label for c in comparison.curves] == ["a"]
    lines = statements(comparison)
    assert "no finished run of b" in lines and "one and the same run as a: c" in lines


def test_an_arm_that_is_twice_stands_where_it_is_first(tmp_path):
    runs = [finished(tmp_path, [0.5, 0.6], lr=lr) for lr in (0.1, 0.2)]
    arms = [("a", None), ("b", None), ("a again", None)]
    _, comparison = exhibit_of(tmp_path, [*runs, runs[0]], arms)
    assert [c.label for c in comparison.curves] == ["a", "b"]


def test_runs_of_an_exhibit_stand_in_no_other_table_until_one_joins_them(tmp_path):
    runs = [finished(tmp_path, [0.5, 0.6]), finished(tmp_path, [0.6, 0.7], strategy="GAAL")]
    exhibit, _ = exhibit_of(tmp_path, runs, [("a", None), ("b", None)])
    text = write_report(runs, tmp_path, exhibits=[exhibit])
    assert "Table 4: ε, on Digits" in text and "\nDigits: test accuracy" not in text
    runs.append(finished(tmp_path, [0.7, 0.8], strategy="RandomSampling"))
    text = write_report(runs, tmp_path, exhibits=[exhibit])
    both = text[text.index("\nDigits: test accuracy") :]
    assert all(name in both for name in ("MarginSampling", "GAAL", "RandomSampling"))


def test_alike_titles_are_told_apart(tmp_path):
    runs = [finished(tmp_path, [0.5, 0.6]), finished(tmp_path, [0.6, 0.7], strategy="GAAL")]
    exhibits = [exhibit_of(tmp_path, [run], [("a", None)])[0] for run in runs]
    text = write_report(runs, tmp_path, exhibits=exhibits)
    titles = [line.partition(": test")[0] for line in text.splitlines() if "Table 4: " in line]
    assert len(set(titles)) == 2
    assert titles == [f"Table 4: ε, on Digits ({e.file_name[-6:]})" for e in exhibits]


def test_real_images_are_kept_for_people_where_there_are_enough(toy, tmp_path):
    save_real_examples(toy, tmp_path)
    kept = real_examples(tmp_path, "toy")
    for k in range(3):
        assert (kept[k] == toy.x_train[toy.y_train == k][:4]).all()
    few = dataclasses.replace(toy, name="few", x_train=toy.x_train[:6], y_train=toy.y_train[:6])
    save_real_examples(few, tmp_path)
    assert real_examples(tmp_path, "few") is None


def test_the_judge_is_the_exhibits_own_or_of_the_lowest_seed(tmp_path):
    def judged(accuracy, seed, lr=0.1):
        fields = {"strategy": "FullySupervised", "mode": "full", "lr": lr, "seed": seed}
        return finished(tmp_path, [accuracy], **fields)

    seeds = [judged(accuracy, seed) for seed, accuracy in ((10, 0.99), (2, 0.9), (3, 0.95))]
    runs = [finished(tmp_path, [0.5, 0.6])]
    exhibit, comparison = exhibit_of(tmp_path, runs, [("a", None)])
    assert find_judge(comparison, seeds).folder is seeds[1]  # the worst of them
    assert find_judge(comparison, []) is None
    other = judged(0.97, 2, lr=0.2)
    first = min(seeds[1], other, key=lambda f: f.method)
    for folders in ([*seeds, other], [other, *seeds]):
        assert find_judge(comparison, folders).folder is first
    own = dataclasses.replace(exhibit, judge=other.method)
    comparison = dataclasses.replace(comparison, exhibit=own)
    assert find_judge(comparison, [*seeds, other]).folder is other
    assert find_judge(comparison, seeds).folder is seeds[1]
