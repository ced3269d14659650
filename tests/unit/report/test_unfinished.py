"""What is said of runs whose rounds are not all there."""

import dataclasses

import pytest

from deepal_galot.errors import UserError
from deepal_galot.report.unfinished import unfinished_lines
from deepal_galot.report.write import write_report
from deepal_galot.results import RunFolder
from finished_runs import exhibit_of, finished

FINISHES = "the command that began them finishes them"


def extended(run, n_rounds):
    """The folder of the same run, begun with more rounds."""
    longer = dataclasses.replace(run.config, n_rounds=n_rounds)
    return RunFolder.create(run.output, longer, run.content, run.settings)


def nothing(folders, output, exhibits=()):
    """The error of a report of these runs."""
    with pytest.raises(UserError) as caught:
        write_report(folders, output, exhibits=exhibits)
    return str(caught.value)


def test_an_extension_that_stopped_says_how_its_finished_rounds_are_shown(tmp_path):
    """Before, that the others had no test data, of none, and nothing of the rounds."""
    short = [finished(tmp_path, [0.5] * n, seed=s) for s, n in enumerate((3, 4))]
    text = nothing([extended(run, 9) for run in short], tmp_path)
    assert text.startswith(
        f"nothing to report: 2 of 2 runs are unfinished (MarginSampling: 3 to 4 of 10 rounds); "
        f"{FINISHES}; the same command with --n-rounds 2 "
    )
    again = [extended(run, 2) for run in short]  # what that command opens
    assert all(run.finished for run in again)


@pytest.mark.usefixtures("quick_pictures")
def test_where_epsilon_depends_on_the_rounds_the_shorter_run_is_another(tmp_path):
    """Advice that would play a run anew is not given, be that run finished or not."""
    fields = {"strategy": "GALOT", "mode": "al+gal", "epsilon_schedule": "linear", "epsilon": 1.0}
    short = finished(tmp_path, [0.5, 0.6, 0.7], **fields)
    begun, margin = extended(short, 9), extended(finished(tmp_path, [0.5] * 5), 9)
    assert begun.path != short.path and not begun.extendable
    shown = write_report([short, margin], tmp_path)
    assert f"(MarginSampling: 5 of 10 rounds); {FINISHES}\n" in shown
    assert nothing([begun, margin], tmp_path).endswith(FINISHES)
    assert nothing([begun], tmp_path).endswith(FINISHES)


def test_a_run_that_has_not_begun_is_not_shown_by_fewer_rounds(tmp_path):
    run = finished(tmp_path, [0.5] * 3)
    new = RunFolder.create(tmp_path, dataclasses.replace(run.config, seed=1), run.content, {})
    assert nothing([extended(run, 9), new], tmp_path).endswith(FINISHES)


def test_runs_without_a_round_are_counted_and_not_described(tmp_path):
    """Before, after Ctrl-C every later report of other runs described all that had been planned."""
    run = finished(tmp_path, [0.5] * 3)
    begun = extended(finished(tmp_path, [0.5], strategy="BALD"), 2)
    planned = [
        RunFolder.create(tmp_path, dataclasses.replace(run.config, seed=s), run.content, {})
        for s in (1, 2)
    ]
    said = f"2 runs have no round yet, e.g. {planned[0].path}"
    assert unfinished_lines([run]) == []
    assert unfinished_lines([run, *planned]) == [said]
    (line,) = unfinished_lines([run, planned[0]])
    assert line.startswith("1 run has no round yet, e.g. ")
    assert unfinished_lines([run, *planned, begun]) == [
        f"1 unfinished run is left out, e.g. {begun.path} (BALD: 1 of 3 rounds); {FINISHES}",
        said,
    ]


def test_an_experiment_has_rounds_of_its_own(tmp_path):
    run = finished(tmp_path, [0.5] * 3)
    exhibit, _ = exhibit_of(tmp_path, [run], [("a", None)])
    assert nothing([extended(run, 9)], tmp_path, [exhibit]).endswith(FINISHES)


def test_runs_without_test_data_are_said(tmp_path):
    run = finished(tmp_path, [None, None])
    assert nothing([run], tmp_path) == "nothing to report: the runs have no test data"
    assert nothing([extended(run, 3)], tmp_path).endswith(FINISHES)
