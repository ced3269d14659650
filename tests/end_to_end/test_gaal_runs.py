"""GAAL by the command line: what its queries cost, what its rows hold, and resuming it."""

import time

import numpy as np
import pytest

from deepal_galot import oracle, registry
from deepal_galot.cli import main
from deepal_galot.pool import SyntheticQuery
from helpers import QUICK, only_run, rows_of


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    monkeypatch.setattr(registry.strategies.get("GAAL"), "gan_steps", 5)
    monkeypatch.setattr(oracle, "LEAST_IMAGES", 3000)


def play(output, n_rounds):
    """(the run's folder, its rows without the seconds)."""
    arguments = [*QUICK, "--strategy", "GAAL", "--n-rounds", n_rounds, "--output", output]
    assert main(list(map(str, arguments))) == 0
    return only_run(output)


def test_synthetic_queries_are_bought_like_labels(tmp_path, capsys):
    folder, rows = play(tmp_path, 2)
    assert [r["labels"] for r in rows] == [r["budget"] for r in rows] == [10, 15, 20]
    assert [r["images"] for r in rows] == [0, 0, 0]  # none of them is pseudo-labeled
    first, *queries = folder.picks()
    assert first.shape == (10,)
    for query in queries:
        assert isinstance(query, SyntheticQuery)
        assert query.images.shape == (5, 8, 8, 1) and query.labels.shape == (5,)
        assert set(query.labels) <= set(range(10))
    assert not np.array_equal(queries[0].images, queries[1].images)
    assert all(0 <= r["own_svm_accuracy"] <= 1 for r in rows)
    (timed,) = rows_of(tmp_path, seconds=True).values()
    assert all(r["extra_train_seconds"] > 0 for r in timed)
    printed = capsys.readouterr().out
    assert f"† GAAL: {registry.strategies.get('GAAL').remark}" in printed
    assert "GAAL: svm accuracy" in printed


@pytest.mark.usefixtures("no_report")
def test_the_oracles_time_is_not_the_querys(tmp_path, monkeypatch):
    """A human's time would not be in it either; this one lets an hour go by on the clock."""
    real, passed = time.perf_counter, [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: real() + passed[0])

    def slow_human(self, images):
        passed[0] += 3600
        return np.zeros(len(images), np.int64)

    monkeypatch.setattr(oracle.ReferenceOracle, "__call__", slow_human)
    play(tmp_path, 1)
    (timed,) = rows_of(tmp_path, seconds=True).values()
    assert passed[0] == 3600
    assert all(timed[1][f"{what}_seconds"] < 1800 for what in ("query", "train", "extra_train"))


@pytest.mark.parametrize("lost", ["nothing", "the row", "the query"])
@pytest.mark.usefixtures("no_report")
def test_stopped_and_continued_it_ends_with_the_same_rows(tmp_path, lost):
    """After a restart the GAN is trained again, and is the same; bought labels stay bought."""
    whole, expected = play(tmp_path / "whole", 2)
    folder, _ = play(tmp_path / "parts", 1)
    if lost != "nothing":
        file = folder.path / "rounds.jsonl"
        file.write_text(file.read_text().splitlines(keepends=True)[0])
    if lost == "the query":  # also what a kill between the two leaves: the classifier of round 0
        folder.save_picks(folder.picks()[:1])
        (folder.path / "classifier.safetensors").unlink()
        _, rows = play(tmp_path / "first", 0)
        first = next((tmp_path / "first").rglob("classifier.safetensors"))
        (folder.path / "classifier.safetensors").write_bytes(first.read_bytes())
        (folder.path / "seals.json").unlink()  # which know a classifier of another run
    folder, rows = play(tmp_path / "parts", 2)
    assert rows == expected
    for a, b in zip(folder.picks()[1:], whole.picks()[1:], strict=True):
        assert np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)
