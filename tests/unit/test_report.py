"""Statistics against scipy and by hand; tables that refuse to mix protocols."""

import numpy as np
import pytest
from scipy import stats

from deepal_galot import report
from deepal_galot.errors import UserError
from deepal_galot.results import RunFolder
from helpers import small_config

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


@pytest.fixture
def two_methods(tmp_path):
    accuracy = RNG.random((2, 5, 3))
    folders = [
        finished(tmp_path, accuracy[m, s].tolist(), strategy=name, seed=s)
        for m, name in enumerate(("MarginSampling", "RandomSampling"))
        for s in range(5)
    ]
    return accuracy, folders


def test_mean_and_sem_by_hand():
    assert report.mean_sem([1.0, 2.0, 3.0]) == (2.0, pytest.approx(1 / np.sqrt(3)))
    mean, sem = report.mean_sem([5.0])
    assert mean == 5.0 and np.isnan(sem)


def test_paired_difference_equals_scipys_paired_interval(two_methods):
    accuracy, folders = two_methods
    (comparison,) = report.compare(folders)
    margin, random = comparison.curves
    d = report.paired_difference(random, margin)
    reference = stats.ttest_rel(accuracy[1].mean(1), accuracy[0].mean(1)).confidence_interval()
    assert d.n == 5
    assert (d.mean - d.half_width, d.mean + d.half_width) == pytest.approx(tuple(reference))


def test_pairs_only_seeds_and_budgets_that_both_have(tmp_path):
    a = [finished(tmp_path, [0.5, 0.6, 0.9], strategy="MarginSampling", seed=s) for s in (0, 1, 2)]
    b = [finished(tmp_path, [0.4, 0.7], strategy="RandomSampling", seed=s) for s in (1, 2, 3)]
    (comparison,) = report.compare(a + b)
    d = report.paired_difference(*comparison.curves)
    assert (d.n, d.mean) == (2, pytest.approx(0.0))


def test_table_holds_the_numbers(two_methods):
    accuracy, folders = two_methods
    (comparison,) = report.compare(folders)
    row = report.table_rows(comparison)[0]
    sem = accuracy[0, :, 0].std(ddof=1) / np.sqrt(5)
    assert row[0] == "MarginSampling"
    assert row[1] == f"{100 * accuracy[0, :, 0].mean():.1f} ±{100 * sem:.1f}"
    assert row[-8:] == ["5", "20", "0", "0", "3.0", "6.0", "0.0", "0.0"]
    text = report.text_table(comparison)
    assert text.count("*") == 4  # the best of three budgets and the average
    assert len({len(line.split()) for line in text.splitlines()[2:]}) == 1


def test_other_protocols_go_into_other_tables(tmp_path):
    folders = [finished(tmp_path, [0.5]), finished(tmp_path, [0.6], lr=0.5),
               finished(tmp_path, [0.6], content={"data": "other"}),
               finished(tmp_path, [0.6], n_init=11)]  # fmt: skip
    comparisons = report.compare(folders)
    assert len(comparisons) == 4 and len({c.name for c in comparisons}) == 4


def test_unfinished_runs_are_left_out_and_said(tmp_path):
    done = finished(tmp_path, [0.5, 0.6])
    open_config = small_config(strategy="RandomSampling", n_rounds=1)
    unfinished = RunFolder.create(tmp_path, open_config, {"data": "d"}, {})
    text = report.write_report([done, unfinished], tmp_path)
    assert "1 unfinished runs are left out" in text and "no spread can be claimed" in text
    with pytest.raises(UserError, match="nothing to report: 1 of 1 runs are unfinished"):
        report.write_report([unfinished], tmp_path)


def test_the_control_is_shown_or_asked_for(tmp_path):
    galot = {"strategy": "GALOT", "mode": "al+gal"}
    two = {"n_synthetic": "2"}
    runs = [finished(tmp_path, [0.5, 0.7], two, n_synthetic=2.0, **galot)]
    text = report.write_report(runs, tmp_path)
    assert 'adds is not known: run "GALOT:epsilon=0,n_synthetic=2" too' in text
    assert "all GALOT with n_synthetic=2" in text
    control = {"epsilon": "0"} | two
    runs.append(finished(tmp_path, [0.5, 0.6], control, epsilon=0.0, n_synthetic=2.0, **galot))
    text = report.write_report(runs, tmp_path)
    assert "text optimisation adds: GALOT − GALOT:epsilon=0: +5.00 points" in text
    assert "is not known" not in text
    kept = {"text_target": "max_loss", "oversample": "2", "keep": "acquisition"}
    fields = {"text_target": "max_loss", "oversample": 2.0, "keep": "acquisition"}
    chosen = finished(tmp_path, [0.5, 0.8], kept | two, n_synthetic=2.0, **fields, **galot)
    text = report.write_report([*runs, chosen], tmp_path)  # what is kept is not kept by margin
    assert 'run "GALOT:epsilon=0,text_target=max_loss,oversample=2,keep=acquisition' in text
    runs.append(finished(tmp_path, [0.5, 0.9], two, {"generator": "w"}, n_synthetic=2.0, **galot))
    (comparison,) = report.compare(runs)
    assert len({c.label for c in comparison.curves}) == 3
    # The same settings with other weights: not its control.
    unknown = [line for line in report.statements(comparison) if "is not known" in line]
    assert len(unknown) == 1 and comparison.curves[2].label in unknown[0]


def test_blank_images_are_noted_where_there_were_any(tmp_path):
    def lines(retried, failed):
        counts = {"images_retried": retried, "images_failed": failed}
        run = finished(tmp_path / str(counts), [0.5, 0.6], row=counts)
        (comparison,) = report.compare([run])
        assert f",{retried},{failed}," in report.csv_table(comparison).decode()
        return [line for line in report.statements(comparison) if "blank" in line]

    assert lines(0, 0) == []
    again = "MarginSampling: 6 generated images came out blank and were drawn again"
    assert lines(3, 0) == [again]
    assert lines(3, 1) == [again + "; 2 stayed blank and are left out"]


def test_csv_has_a_line_a_row(two_methods):
    accuracy, folders = two_methods
    lines = report.csv_table(report.compare(folders)[0]).decode().splitlines()
    assert len(lines) == 1 + 2 * 5 * 3
    assert lines[0].startswith("dataset,strategy,seed,round,budget")


def test_pictures_are_pngs(two_methods, tmp_path):
    comparison = report.compare(two_methods[1])[0]
    assert report.plot_curves(comparison).startswith(b"\x89PNG")
    assert report.plot_images(comparison.curves[0]) is None


def test_the_fully_supervised_run_joins_every_table_of_its_recipe(tmp_path):
    full = finished(tmp_path, [0.9], strategy="FullySupervised", mode="full")
    runs = [finished(tmp_path, [0.5, 0.6, 0.7]), finished(tmp_path, [0.5, 0.6], n_init=11),
            finished(tmp_path, [0.4, 0.5], strategy="RandomSampling"), full]  # fmt: skip
    first, second = report.compare(runs)
    assert [c.label for c in first.curves] == [
        "MarginSampling", "RandomSampling", "FullySupervised",
    ]  # fmt: skip
    assert [c.label for c in second.curves] == ["MarginSampling", "FullySupervised"]
    averages = [row[-9] for row in report.table_rows(first)]
    assert averages == ["55.0", "45.0", ""]  # over the two rounds that both have
    (alone,) = report.compare([full])
    assert report.table_rows(alone)[0][1:3] == ["90.0", "90.0"]
    assert "FullySupervised" in report.text_table(alone)


def test_the_star_goes_to_the_higher_mean_not_the_higher_print(tmp_path):
    runs = [finished(tmp_path, [0.9096], strategy="MarginSampling"),
            finished(tmp_path, [0.9104], strategy="RandomSampling")]  # fmt: skip
    lines = report.text_table(report.compare(runs)[0]).splitlines()
    assert "91.0*" not in lines[2] and lines[3].count("91.0*") == 2


def test_an_extended_run_is_reported_whole(tmp_path):
    finished(tmp_path, [0.5, 0.6])
    longer = RunFolder.create(tmp_path, small_config(n_rounds=2), {"data": "d"}, {})
    unfinished = RunFolder.open(longer.path)
    assert not unfinished.finished
    with pytest.raises(UserError, match="nothing to report"):
        report.write_report([unfinished], tmp_path)
    longer.append(longer.rows()[1] | {"round": 2, "budget": 20, "labels": 20, "accuracy": 0.9})
    (comparison,) = report.compare([RunFolder.open(longer.path)])
    assert comparison.curves[0].accuracy.tolist() == [[0.5, 0.6, 0.9]]
