"""The experiments of the paper from the command line: end to end, reuse, several machines."""

import dataclasses
import shutil
import time

import pytest

from deepal_galot.cli import main
from deepal_galot.experiments import EXPERIMENTS
from deepal_galot.report.exhibit import find_exhibits
from helpers import rows_of

SHORT = ["--scale", "small", "--epochs", "1", "--min-steps", "2", "--steps", "2",
         "--ascent-steps", "1", "--ascent-samples", "1"]  # fmt: skip


def run(output, *flags, code=0):
    assert main([*map(str, flags), "--output", str(output)]) == code


SOME = ("table2", "table5", "fig3", "fig4", "fig7", "fig8")  # every kind, and the reusing one


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A results folder after some experiments, all cut short, and fig4 to five of its 24 arms."""
    output = tmp_path_factory.mktemp("experiments")
    fewer = dataclasses.replace(EXPERIMENTS["fig4"], arms=EXPERIMENTS["fig4"].arms[:5])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXPERIMENTS, "fig4", fewer)
        run(output, "--experiment", *SOME, *SHORT)
    return output


def check_exhibits(output, names):
    """Every arm of these experiments is finished and shown."""
    exhibits = find_exhibits(output)
    assert [e.name for e in exhibits] == sorted(names, key=list(BY_NUMBER).index)
    page = (output / "report" / "index.html").read_text()
    for exhibit in exhibits:
        experiment = EXPERIMENTS[exhibit.name]
        if exhibit.name != "fig4" or len(names) > len(SOME):
            assert len(exhibit.arms) == len(experiment.arms) + len(experiment.reusing)
        assert all(any((output / arm.folder).glob("seed0/DONE")) for arm in exhibit.arms)
        assert all(arm.paper is None for arm in exhibit.arms)  # Digits is not in the paper
        assert list((output / "report").glob(f"{exhibit.file_name}_*.tex"))
        assert f"{exhibit.number}: {experiment.title}".replace("'", "&#x27;") in page


BY_NUMBER = [*(f"table{i}" for i in range(1, 8)), *(f"fig{i}" for i in range(3, 11))]


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


def test_a_stopped_experiment_goes_on(everything, tmp_path):
    shutil.copytree(everything / "Digits", tmp_path / "Digits")
    (exhibit,) = [e for e in find_exhibits(everything) if e.name == "table2"]
    last = tmp_path / exhibit.arms[-1].folder
    source = tmp_path / exhibit.arms[2].folder / "seed0"
    lost = sorted((tmp_path / exhibit.arms[2].folder).glob("seed*"))
    assert lost == [source]
    # The images' own path is part of the reusing runs' configuration, not of their fingerprint.
    shutil.copytree(everything / "images", tmp_path / "images")
    shutil.rmtree(last)
    run(tmp_path, "--experiment", "table2", *SHORT)
    (again,) = find_exhibits(tmp_path)
    assert [a.folder for a in again.arms] == [a.folder for a in exhibit.arms]
    assert rows_of(tmp_path)[f"{exhibit.arms[-1].folder}/seed0"] == rows_of(everything)[
        f"{exhibit.arms[-1].folder}/seed0"]  # fmt: skip


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
    assert table[0].startswith("strategy,10.0 %,") and "99.0 %" in table[0]
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
