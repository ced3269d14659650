"""The experiments of the paper from the command line: end to end, reuse, several machines."""

import dataclasses
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from deepal_galot.cli import main
from deepal_galot.experiments import EXPERIMENTS
from deepal_galot.report.exhibit import find_exhibits
from helpers import ROOT, rows_of

pytestmark = pytest.mark.xdist_group("experiments")  # its fixture is worth sharing

SHORT = ["--scale", "small", "--epochs", "1", "--min-steps", "2", "--steps", "2",
         "--ascent-steps", "1", "--ascent-samples", "1"]  # fmt: skip


def run(output, *flags, code=0):
    assert main([*map(str, flags), "--output", str(output)]) == code


SOME = ("table2", "table5", "fig3", "fig4", "fig7", "fig8")  # every kind, and the reusing one


@contextmanager
def fewer_arms():
    """fig4 has five of its 24, table2 one of its four large networks."""
    fig4, table2 = EXPERIMENTS["fig4"], EXPERIMENTS["table2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXPERIMENTS, "fig4", dataclasses.replace(fig4, arms=fig4.arms[:5]))
        networks = dataclasses.replace(table2, reusing=table2.reusing[2:3])
        patch.setitem(EXPERIMENTS, "table2", networks)
        yield


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A results folder after some experiments, all cut short."""
    output = tmp_path_factory.mktemp("experiments")
    with fewer_arms():
        run(output, "--experiment", *SOME, *SHORT)
    return output


def check_exhibits(output, names):
    """Every arm of these experiments is finished and shown."""
    exhibits = find_exhibits(output)
    assert [e.name for e in exhibits] == sorted(names, key=list(BY_NUMBER).index)
    page = (output / "report" / "index.html").read_text()
    for exhibit in exhibits:
        experiment = EXPERIMENTS[exhibit.name]
        if exhibit.name not in ("fig4", "table2") or len(names) > len(SOME):
            assert len(exhibit.arms) == len(experiment.arms) + len(experiment.reusing)
        assert all(any((output / arm.folder).glob("seed0/DONE")) for arm in exhibit.arms)
        assert all(arm.paper is None for arm in exhibit.arms)  # Digits is not in the paper
        assert list((output / "report").glob(f"{exhibit.file_name}_*.tex"))
        assert f"{exhibit.number}: {experiment.title}".replace("'", "&#x27;") in page


BY_NUMBER = [*(f"table{i}" for i in range(1, 8)), *(f"fig{i}" for i in range(3, 11)),
             "matched20", "matched50", "recipes"]  # fmt: skip


def test_experiments_of_every_kind_run_in_one_command(everything):
    check_exhibits(everything, SOME)


@pytest.mark.slow
def test_all_experiments_run_at_small_scale_in_one_command(tmp_path):
    started = time.perf_counter()
    run(tmp_path, "--experiment", "all", "--scale", "small")
    print(f"{time.perf_counter() - started:.0f} s")
    check_exhibits(tmp_path, BY_NUMBER)


def test_pictures_of_each_kind_are_there(everything):
    names = {f.name for f in (everything / "report").iterdir()}
    for start, end in (("fig4", "pseudo_labels_by_epsilon.svg"), ("fig4", "pseudo_labels.csv"),
                       ("fig7", "one_class.png"), ("fig8", "examples.png"),
                       ("table5", "curves.svg"), ("table5", "costs.png")):  # fmt: skip
        assert any(n.startswith(start) and n.endswith(end) for n in names), (start, end)


def test_finished_runs_are_reused_and_shared_ones_run_once(everything, capsys):
    before = rows_of(everything, seconds=True)
    run(everything, "--experiment", "table5", "fig3", "fig8", *SHORT)
    assert rows_of(everything, seconds=True) == before
    err = capsys.readouterr().err
    assert err.count("experiment ") == 3 and "round 0" not in err
    of = {e.name: e for e in find_exhibits(everything)}
    galot = {e.arms[i].folder for e, i in ((of["table2"], 2), (of["fig3"], 2), (of["fig8"], 0))}
    assert len(galot) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_a_killed_experiment_goes_on(everything, tmp_path):
    flags = ["--experiment", "table2", *SHORT, "--save-full-size", "1"]
    command = [sys.executable, str(ROOT / "run_benchmark.py"), *flags]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not list(tmp_path.glob("Digits/GALOT/*/*/rounds.jsonl")):
        time.sleep(0.02)
    process.kill()
    process.wait()
    (of_all,) = [e for e in find_exhibits(everything) if e.name == "table2"]
    assert not find_exhibits(tmp_path)  # its reusing arms were not known yet
    with fewer_arms():
        run(tmp_path, *flags)
    (exhibit,) = find_exhibits(tmp_path)
    assert [a.folder for a in exhibit.arms] == [a.folder for a in of_all.arms]
    rows, theirs = rows_of(tmp_path), rows_of(everything)
    assert rows == {run: theirs[run] for run in rows} and len(rows) == len(exhibit.arms)
    # Arms that make no images do not stop it, and GALOT's two rounds have theirs.
    assert len(list((tmp_path / "images" / "full").rglob("*.png"))) == 20


def test_two_machines_give_one_table(everything, tmp_path, capsys):
    other, both = tmp_path / "other", tmp_path / "both"
    run(other, "--experiment", "table5", *SHORT, "--seeds", "1")
    capsys.readouterr()
    run(both, "--report", everything, other, "--dataset", "Digits")
    out = capsys.readouterr().out
    start = out.index(EXPERIMENTS["table5"].title)
    rows = [line for line in out[start:].splitlines()[3:6]]
    assert [row.split()[0] for row in rows] == ["MarginSampling,", "MarginSampling,", "GALOT,"]
    header = out[start:].splitlines()[1].split()
    assert all(row.split()[-8:][0] == "2" for row in rows), (header, rows)  # n


def test_a_report_has_a_baseline_and_targets(everything, tmp_path, capsys):
    run(tmp_path, "--report", everything, "--target-accuracy", "10", "99")
    table = next((tmp_path / "report").glob("table5*[0-9a-f]_labels.csv")).read_text().splitlines()
    assert table[0].startswith("strategy,target in %,target from,mean labels,")
    assert ",10,--target-accuracy," in table[1] and ",99,--target-accuracy,,0," in table[2]
    run(tmp_path, "--report", everything, "--target-accuracy", "0", code=2)
    assert "--target-accuracy 0: must be above 0" in capsys.readouterr().err
    run(tmp_path, "--report", everything, "--baseline", "Nobody", code=2)
    assert "--baseline 'Nobody': no such method here" in capsys.readouterr().err


def test_a_dry_run_counts_each_experiment_and_runs_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("deepal_galot.probe.PROBE_SECONDS", 0.01)
    run(tmp_path, "--experiment", "table2", "fig8", *SHORT, "--dry-run")
    out = capsys.readouterr().out
    assert "and 4 runs that train on its images" in out and "fig8: " in out
    assert not list(tmp_path.glob("*/*/*/seed*"))


@pytest.mark.parametrize("flags, says", [
    (["--experiment", "table5", "--jobs", "0"], "--jobs 0: at least 1"),
    (["--experiment", "table5", "--baseline", "Nobody"], "--baseline 'Nobody': no such arm"),
    (["--baseline", "Nobody"], "--baseline 'Nobody': is not among what is run"),
    (["--scale", "small"], "--scale small: belongs to --experiment"),
    (["--report", "--strategy", "GALOT"], "--report: is about all runs"),
    (["--report", "--dry-run"], "--report and --dry-run: one at a time"),
    (["--report", "--epochs", "3"], "--epochs: --report does not read it; leave it out"),
    (["--report", "--engine", "ray"], "--engine: --report does not read it"),
    (["--annotate", "1", "--baseline", "GALOT"], "--baseline: --annotate does not read it"),
    (["--predict", "x", "--from", "y", "--jobs", "2"], "--jobs: --predict does not read it"),
    (["--list", "--dataset", "MNIST"], "--dataset: --list does not read it"),
    (["--list", "--list-experiments"], "--list and --list-experiments: one at a time"),
    (["--experiment", "fig8", "--dataset", "Nope"], "unknown data set 'Nope'"),
])  # fmt: skip
def test_bad_flags_are_said_before_anything_runs(flags, says, tmp_path, capsys):
    run(tmp_path, *flags, code=2)
    err = capsys.readouterr().err
    assert err.count("error: ") == 1 and says in err
    assert not list(tmp_path.glob("*/*/*/seed*"))


def test_marks_of_other_images_and_folders_that_cannot_be_written_are_said(
    everything, tmp_path, capsys
):
    marks = tmp_path / "marks.json"
    marks.write_text('{"schema": 1, "annotator": "", "marks": {"0123456789abcdef": true}}')
    run(tmp_path, "--report", everything, "--annotations", marks)
    assert "none of the 1 marks is of an image of these runs" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    for where, why in (("file", "is a file, not a folder"), ("file/below", "cannot be written")):
        run(tmp_path / where, "--report", everything, code=2)
        said = capsys.readouterr().err
        assert "--output" in said and str(tmp_path / where) in said and why in said


def test_a_chosen_baseline_leaves_experiments_alone_that_have_no_such_arm(everything, tmp_path):
    run(tmp_path, "--report", everything, "--baseline", "AL+GAL")
    of = {e.name: e.file_name for e in find_exhibits(everything)}

    def title(name):
        return (tmp_path / "report" / f"{of[name]}_differences.md").read_text().splitlines()[0]

    assert "above AL+GAL, " in title("fig3") and "above MarginSampling, " in title("table5")
