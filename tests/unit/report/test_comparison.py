"""Which runs are compared, as what, and what of them."""

import itertools

import numpy as np
import pytest

from deepal_galot.errors import UserError
from deepal_galot.report import table_formats, tables
from deepal_galot.report.comparison import Curve, compare, merge
from deepal_galot.report.statements import statements
from deepal_galot.report.write import write_report
from deepal_galot.results import RunFolder
from finished_runs import finished, texts
from helpers import small_config

pytestmark = pytest.mark.usefixtures("quick_pictures")


def test_seeds_stand_in_the_order_of_their_numbers(tmp_path):
    runs = [finished(tmp_path, [0.5], seed=s) for s in (10, 2)]
    assert compare(runs)[0].curves[0].seeds == (2, 10)


def test_others_are_compared_with_what_learns_as_they_do(tmp_path):
    """Before, --strategy all compared them with GAAL, which learns from images that it made."""
    gaal = finished(tmp_path, [0.2, 0.3], strategy="GAAL", remark="queries are made")
    galot = finished(tmp_path, [0.6, 0.7], strategy="GALOT", mode="al+gal")
    real = finished(tmp_path, [0.5, 0.6], strategy="RandomSampling")
    for runs, label in (([gaal, galot, real], real), ([gaal, galot], gaal), ([galot], galot)):
        assert compare(runs)[0].reference.label == label.config.strategy


def test_the_baseline_is_the_same_in_any_order(tmp_path):
    """Before, it was the first of the command, so the same results gave other differences."""

    def run(strategy, own="", version="p", **fields):
        content = {f"plugin {own}": version} if own else {}
        return finished(tmp_path, [0.5, 0.6], content=content, strategy=strategy, **fields)

    def baseline(*runs):
        found = {compare(order)[0].reference.label for order in itertools.permutations(runs)}
        (label,) = found
        return label

    mine, bald = run("AMine", own="AMine"), run("BALD")
    margin, random = run("MarginSampling"), run("RandomSampling")
    galot = run("GALOT", mode="al+gal", base_sampler="MarginSampling")
    badge = run("GALOT", mode="al+gal", base_sampler="BALD")
    alone = run("GALOT", mode="gal", base_sampler="MarginSampling")  # which it does not read
    marked = finished(tmp_path, [0.5, 0.6], strategy="CoreSet", remark="another network")
    assert baseline(mine, marked) == "AMine"
    assert baseline(mine, bald, marked) == "BALD"
    assert baseline(mine, bald, margin) == "MarginSampling"
    assert baseline(bald, margin, random, alone) == "RandomSampling"
    assert baseline(random, margin, galot) == "MarginSampling"
    assert baseline(margin, bald, galot, badge) == "BALD"
    assert baseline(random, galot) == "RandomSampling"
    own = run("GALOT", own="AMine", mode="al+gal", base_sampler="AMine")
    assert baseline(mine, random, own) == "AMine"
    edited = run("AMine", own="AMine", version="q")  # nothing picks with this version
    assert baseline(edited, random, own) == "RandomSampling"


def test_rows_have_the_same_order_for_a_run_and_for_its_folders(tmp_path):
    """Before, that of the command and that of the names."""
    names = ("RandomSampling", "GALOT", "BALD", "FullySupervised")
    modes = {"GALOT": "al+gal", "FullySupervised": "full"}
    runs = [finished(tmp_path, [0.5] * (2 - (n == "FullySupervised")), strategy=n,
                     mode=modes.get(n, "al")) for n in names]  # fmt: skip
    for order in itertools.permutations(runs):
        (comparison,) = compare(order)
        labels = [c.label for c in comparison.curves]
        assert labels == ["BALD", "RandomSampling", "GALOT", "FullySupervised"]


def test_costs_are_sums_over_rounds_and_means_over_seeds(tmp_path):
    made = {"images_made": 3, "ascent_images": 4}
    runs = [finished(tmp_path, [0.5, 0.6], seed=s, row=made | {"train_seconds": 2.0 + s})
            for s in (0, 1)]  # fmt: skip
    (curve,) = compare(runs)[0].curves
    assert curve.images_made == 14 and curve.cost("train s") == 5


def test_balanced_accuracy_is_of_the_budgets_that_are_asked_for():
    rows = [{"budget": 10, "balanced_accuracy": 0.2}, {"budget": 20, "balanced_accuracy": 0.6}]
    curve = Curve("", (), (0,), (10, 20), np.array([[0.5, 0.9]]), (rows,))
    assert curve.balanced([10]) == [0.2] and curve.balanced([10, 20]) == pytest.approx([0.4])
    assert curve.balanced([10, 30]) is None and curve.balanced([]) is None


def test_what_a_strategy_measures_from_its_second_round_on_is_known():
    rows = [{"budget": 10}, {"budget": 20, "own_oracle_accuracy": 0.5}]
    curve = Curve("", (), (0,), (10, 20), np.array([[0.5, 0.9]]), (rows,))
    assert curve.own_measures == ["own_oracle_accuracy"]


def test_stored_images_cost_what_making_them_took(tmp_path):
    runs = [finished(tmp_path, [0.5, 0.6], seed=s, row={"generate_seconds": 0.5, **stored})
            for s, stored in enumerate([{"seconds_stored": 2.0}, {}])]  # fmt: skip
    (curve,) = compare(runs)[0].curves
    assert curve.cost("gen s") == (5 + 1) / 2
    damaged = finished(tmp_path, [0.5], seed=2, row={"seconds_stored": float("nan")})
    with pytest.raises(UserError, match="line 1 is damaged .seconds_stored"):
        compare([damaged])


def test_other_protocols_go_into_other_tables(tmp_path):
    folders = [finished(tmp_path, [0.5]), finished(tmp_path, [0.6], lr=0.5),
               finished(tmp_path, [0.6], content={"data": "other"}),
               finished(tmp_path, [0.6], n_init=11)]  # fmt: skip
    comparisons = compare(folders)
    assert len(comparisons) == 4 and len({c.name for c in comparisons}) == 4


def test_titles_of_one_data_set_say_how_the_tables_differ(tmp_path):
    """Before, only a hash told photos-dd0c6b from photos-591cb0."""

    def titles(*runs):
        return {c.title.removeprefix(c.name) for c in compare(runs)}

    first, longer = finished(tmp_path, [0.5]), finished(tmp_path, [0.5, 0.6], strategy="BALD")
    short = finished(tmp_path, [0.5], epochs=3)
    assert titles(first, longer) == {""}
    assert titles(first, longer, short) == {" (epochs=2)", " (epochs=3)"}
    other = {"n_init": 11, "lr": 0.5, "epochs": 3, "batch_size": 7}
    changed = finished(tmp_path, [0.5], protocol="paper", **other)
    assert titles(first, changed) == {
        " (protocol=demo,n_init=10,classifier=small_cnn,…)",
        " (protocol=paper,n_init=11,classifier=resnet18,…)",
    }
    elsewhere = finished(tmp_path, [0.5], content={"data": "other"})
    assert titles(first, elsewhere) == {""}
    assert titles(first, finished(tmp_path, [0.5], dataset="MNIST")) == {""}


def test_the_fully_supervised_run_joins_every_table_of_its_recipe(tmp_path):
    full = finished(tmp_path, [0.9], strategy="FullySupervised", mode="full")
    runs = [finished(tmp_path, [0.5, 0.6, 0.7]), finished(tmp_path, [0.5, 0.6], n_init=11),
            finished(tmp_path, [0.4, 0.5], strategy="RandomSampling"), full]  # fmt: skip
    second, first = sorted(compare(runs), key=lambda c: len(c.curves))
    assert [c.label for c in first.curves] == [
        "MarginSampling", "RandomSampling", "FullySupervised",
    ]  # fmt: skip
    assert [c.label for c in second.curves] == ["MarginSampling", "FullySupervised"]
    averages = [row[-10] for row in texts(tables.accuracy_table(first))]
    assert averages == ["55.0", "45.0", ""]  # over the two rounds that both have
    (alone,) = compare([full])
    assert texts(tables.accuracy_table(alone))[0][1:3] == ["90.0", "90.0"]
    assert "FullySupervised" in table_formats.as_text(tables.accuracy_table(alone))


@pytest.mark.parametrize("own", [{"epsilon": 0.0}, {"direction": "random"}, {"mode": "gal"}])
def test_controls_are_always_called_what_they_are(tmp_path, own):
    """Before, where all have ε = 0, the control was called GALOT."""
    ((name, value),) = own.items()
    settings = {name: f"{value:g}" if name == "epsilon" else value, "n_synthetic": "2"}
    fields = {"strategy": "GALOT", "mode": "al+gal", "n_synthetic": 2.0} | own
    (comparison,) = compare([finished(tmp_path, [0.5, 0.7], settings, **fields)])
    assert [c.label for c in comparison.curves] == [f"GALOT:{name}={settings[name]}"]
    assert comparison.shared == {"n_synthetic": "2"}


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


def test_rounds_that_not_all_seeds_have_are_left_out_and_said(tmp_path):
    runs = [finished(tmp_path / "a", [0.5, 0.6]), finished(tmp_path / "b", [0.5, 0.6, 0.7], seed=1)]
    (comparison,) = compare(runs)
    assert comparison.curves[0].budgets == (10, 15)
    line = (
        "MarginSampling: rounds that not all of its seeds have, 1 at most, are left out, of its "
        "labels and costs too"
    )
    assert line in statements(comparison)
    assert comparison.curves[0].labels == 15 and comparison.curves[0].cost("train s") == 4
    longer = [finished(tmp_path, [0.5] * 3, strategy="BALD", seed=s) for s in range(2)]
    (comparison,) = compare([*runs, *longer])
    (line,) = [line for line in statements(comparison) if "same budgets" in line]
    assert line.endswith("; labels, images and costs are up to each method's own last budget")


@pytest.mark.parametrize("accuracy", [float("nan"), 55.3, -0.1])
def test_an_accuracy_that_is_none_is_an_error(accuracy, tmp_path):
    run = finished(tmp_path, [0.5, accuracy])
    with pytest.raises(UserError, match="rounds.jsonl: line 2 is damaged .accuracy"):
        compare([run])


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
