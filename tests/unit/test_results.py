"""A run's folder: torn rows, altered configurations, damaged files."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepal_galot import lock, results, seals
from deepal_galot.disk import append_line, atomic_write
from deepal_galot.errors import UserError
from deepal_galot.results import RunFolder, find_runs
from helpers import small_config

CONTENT = {"data": "d"}


def create(tmp_path, **fields):
    return RunFolder.create(tmp_path, small_config(**fields), CONTENT, {"epsilon": "2"})


def test_layout_and_round_trip(tmp_path):
    folder = create(tmp_path, seed=3)
    assert folder.path.parts[-4:-2] == ("Digits", "MarginSampling")
    assert folder.path.name == "seed3"
    opened = RunFolder.open(folder.path)
    assert opened.config == folder.config and opened.settings == {"epsilon": "2"}
    assert [f.path for f in find_runs(tmp_path)] == [folder.path]


def test_a_notebook_shows_where_a_run_lies_and_how_far_it_is(tmp_path):
    """Before, <... object at 0x...>."""
    folder = create(tmp_path, n_rounds=2)
    folder.append({"round": 0})
    assert repr(folder) == f"<RunFolder {folder.path}: 1 of 3 rounds>"
    for name in ("rounds.jsonl", "seals.json"):
        data = (folder.path / name).read_bytes()
        (folder.path / name).write_text("{\n{\n")
        assert repr([folder]) == f"[<RunFolder {folder.path}: damaged>]"
        (folder.path / name).write_bytes(data)
    (folder.path / "rounds.jsonl").unlink()
    (folder.path / "rounds.jsonl").mkdir()
    assert "damaged" in repr(folder)
    shutil.rmtree(folder.path)
    assert repr(folder) == f"<RunFolder {folder.path}: 0 of 3 rounds>"


def test_rows_are_checked_in_one_reading_of_the_seals(tmp_path, monkeypatch):
    """Before, once a row, so that the time of a run grew with the square of its rounds."""
    folder, read, known = create(tmp_path, n_rounds=19), [], seals.Seals.known
    for round in range(20):
        folder.append({"round": round})
    monkeypatch.setattr(seals.Seals, "known", lambda self: read.append(self) or known(self))
    assert len(folder.rows()) == 20 and len(read) == 1


def test_the_code_of_a_new_run_is_kept_and_read_by_nothing(tmp_path):
    """It lies there before the configuration does; an older run, and one that goes on, get none."""
    plain = create(tmp_path, seed=3)
    for n_rounds in (2, 3):
        code = {"Mine/mine.py": b"x = 1\n", "Mine/parts/a.py": b""}
        made = RunFolder.create(tmp_path, small_config(n_rounds=n_rounds), CONTENT, {}, code=code)
        assert (made.path / "code" / "Mine" / "mine.py").read_bytes() == b"x = 1\n"
        assert (made.path / "code" / "Mine" / "parts" / "a.py").exists()
        shutil.rmtree(made.path / "code")
        code["Mine/mine.py"] = b"x = 2\n"
        again = RunFolder.create(tmp_path, small_config(n_rounds=n_rounds), CONTENT, {}, code=code)
        assert not (again.path / "code").exists() and again.path.parent == plain.path.parent
        shutil.rmtree(made.path)


def test_a_path_in_the_configuration_that_is_no_utf8(tmp_path):
    """It is kept byte for byte; what pictures show of it has a ? there. Once it was a traceback."""
    config = small_config(strategy="GALOT", mode="gal", generator="folder:caf\udce9")
    made = RunFolder.create(tmp_path, config, CONTENT, {"generator": config.generator})
    assert RunFolder.open(made.path).config == config
    assert made.settings == {"generator": "folder:caf?"}


def test_an_extension_waits_for_whoever_is_at_work(tmp_path):
    """Before: the checksums of the two were written over each other, and a good run refused."""
    folder, longer = create(tmp_path), small_config(n_rounds=7)
    with folder.lock():
        thread = threading.Thread(target=RunFolder.create, args=(tmp_path, longer, CONTENT, {}))
        thread.start()
        for _ in range(20):
            folder.save_picks([np.arange(3)])
            time.sleep(0.01)
        assert thread.is_alive() and RunFolder.open(folder.path).config.n_rounds < 7
    thread.join(30)
    extended = RunFolder.open(folder.path)
    assert extended.config.n_rounds == 7 and len(extended.picks()) == 1


@given(st.integers(0, 3), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_a_cut_row_is_dropped_and_the_rest_kept(tmp_path_factory, whole, cut):
    folder = create(tmp_path_factory.mktemp("r"), n_rounds=9)
    for r in range(whole):
        folder.append({"round": r, "accuracy": 0.5})
    line = json.dumps({"round": whole, "accuracy": 0.25}) + "\n"
    with (folder.path / "rounds.jsonl").open("a") as stream:
        stream.write(line[: min(cut, len(line) - 1)])
    before = (folder.path / "rounds.jsonl").read_bytes()
    assert [r["round"] for r in folder.rows()] == list(range(whole))
    assert (folder.path / "rounds.jsonl").read_bytes() == before  # a reader repairs nothing
    folder.rows(repair=True)
    folder.append({"round": whole, "accuracy": 0.25})
    assert len(folder.rows()) == whole + 1


def test_a_damaged_row_in_the_middle_is_an_error(tmp_path):
    folder = create(tmp_path)
    rows = "".join(json.dumps({"round": r}) + "\n" for r in (0, 2, 3))
    (folder.path / "rounds.jsonl").write_text(rows)
    with pytest.raises(UserError, match="line 2 is damaged"):
        folder.rows()


def test_more_rounds_go_on_where_fewer_ended(tmp_path):
    folder = create(tmp_path, n_rounds=1)
    for r in range(2):
        folder.append({"round": r})
    assert folder.finished
    longer = create(tmp_path, n_rounds=3)
    assert longer.path == folder.path and len(longer.rows()) == 2 and not longer.finished
    assert len(create(tmp_path, n_rounds=0).rows()) == 1


def test_a_shorter_run_that_comes_late_takes_no_round_away(tmp_path):
    """Of two that start at once, the shorter may get the lock after the longer."""
    longer = create(tmp_path, n_rounds=3)
    RunFolder(longer.path, small_config(n_rounds=1), CONTENT, {})._configure()
    assert RunFolder.open(longer.path).config.n_rounds == 3


def test_a_run_of_another_schema_is_not_read(tmp_path, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(results, "SCHEMA", 1)
        folder = create(tmp_path)
    with pytest.raises(UserError, match=f"by schema 1, this version reads {results.SCHEMA}"):
        RunFolder.open(folder.path)


def test_two_writers_are_noticed(tmp_path):
    folder = create(tmp_path)
    folder.append({"round": 0})
    with pytest.raises(UserError, match="another process is at work"):
        folder.append({"round": 0})
    assert len(folder.rows()) == 1


def test_a_copied_seed_does_not_count_twice(tmp_path):
    folder = create(tmp_path, seed=0)
    shutil.copytree(folder.path, folder.path.with_name("seed1"))
    with pytest.raises(UserError, match="altered or moved"):
        find_runs(tmp_path)


def test_environments_of_all_parts_are_kept(tmp_path):
    folder = create(tmp_path)
    for device in ("cpu", "cuda"):
        folder.save_environment({"device": device})
    parts = json.loads((folder.path / "env.json").read_text())["parts"]
    assert [p["device"] for p in parts] == ["cpu", "cuda"]


@pytest.mark.parametrize("damaged", ['{"parts": 3}', '{"parts": null}', "[]", "{", '"parts"'])
def test_a_damaged_environment_stops_no_run(tmp_path, damaged):
    folder = create(tmp_path)
    (folder.path / "env.json").write_text(damaged)
    folder.save_environment({"device": "cpu"})
    assert json.loads((folder.path / "env.json").read_text()) == {"parts": [{"device": "cpu"}]}


def test_a_run_is_found_by_any_path(tmp_path, monkeypatch):
    folder = create(tmp_path)
    monkeypatch.chdir(folder.path)
    assert RunFolder.open(Path(".")).config == folder.config


@pytest.mark.parametrize("where", ["config", "read", "content", "fingerprint"])
def test_an_altered_configuration_is_an_error(tmp_path, where):
    folder = create(tmp_path)
    file = folder.path / "config.json"
    record = json.loads(file.read_text())
    if where == "fingerprint":
        record[where] = "0" * 12
    else:
        record[where] |= {"lr": 0.123} if where != "content" else {"data": "other"}
    file.write_text(json.dumps(record))
    with pytest.raises(UserError, match="was altered"):
        RunFolder.open(folder.path)
    with pytest.raises(UserError, match="was altered"):
        create(tmp_path)


def test_unreadable_folders(tmp_path):
    with pytest.raises(UserError, match="no such results folder"):
        find_runs(tmp_path / "none")
    rows = tmp_path / "Digits" / "GALOT" / "0" / "seed0" / "rounds.jsonl"
    rows.parent.mkdir(parents=True)
    rows.touch()
    with pytest.raises(UserError, match=r"seed0: has no config.json"):
        find_runs(tmp_path)
    rows.unlink()
    with pytest.raises(UserError, match="no runs in it"):
        find_runs(tmp_path)
    folder = create(tmp_path)
    (folder.path / "config.json").write_text("{")
    with pytest.raises(UserError, match="no readable run configuration"):
        find_runs(tmp_path)


def test_journal_round_trip_and_damage(tmp_path):
    folder = create(tmp_path)
    assert folder.picks() == [] and not folder.has("text", 0)
    folder.save_picks([np.array([3, 1]), np.array([7])])
    assert [p.tolist() for p in folder.picks()] == [[3, 1], [7]]
    folder.save("text", 0, {"c": torch.arange(6.0).reshape(2, 3)})
    assert torch.equal(folder.load("text", 0)["c"], torch.arange(6.0).reshape(2, 3))
    folder.save("text", 1, dict.fromkeys(("c0", "c"), torch.ones(2)))  # c may be c0 itself
    folder.save("text", 1001, {"c": torch.zeros(2)})
    assert torch.equal(folder.load("text", 1)["c"], torch.ones(2))
    for name in ("state.npz", "text/round000.safetensors"):
        file = folder.path / name
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="state.npz: damaged, or of another run"):
        folder.picks()
    with pytest.raises(UserError, match="round000.safetensors: damaged, or of another run"):
        folder.load("text", 0)
    (folder.path / "seals.json").unlink()
    with pytest.raises(UserError, match="state.npz: damaged"):
        folder.picks()
    with pytest.raises(UserError, match="cannot be read"):
        folder.load("text", 0)


def test_classifier_carries_its_card(tmp_path):
    folder = create(tmp_path)
    folder.save_classifier({"w": torch.ones(2)}, {"round": 4, "class_names": ["ü"]})
    (folder.path / "classifier.json").write_text("{}")  # for people; it may be of another round
    state, card = folder.classifier()
    assert torch.equal(state["w"], torch.ones(2)) and card == {"round": 4, "class_names": ["ü"]}


def test_a_file_and_the_folder_with_its_name_are_synced(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def record(handle):
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    atomic_write(tmp_path / "a" / "b", b"x")
    append_line(tmp_path / "a" / "c", "x")
    assert synced[0].name.startswith(".b.") and synced[1:] == [tmp_path / "a", tmp_path / "a" / "c"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        create(tmp_path / "file")


def test_paths_and_seeds_are_not_in_the_fingerprint(tmp_path):
    a, b = create(tmp_path / "a", seed=0), create(tmp_path / "b", seed=1)
    assert a.path.parent.name == b.path.parent.name
    assert dataclasses.replace(a.config, seed=1) == b.config


# -- seals and the lock ----------------------------------------------------------------------------


def files_of(folder):
    """A run of two rounds with every file that is computed with."""
    for r in range(2):
        folder.save("text", r, {"c": torch.full((2, 3), float(r))})
        folder.save_picks([np.array([10 * folder.config.seed + i]) for i in range(r + 1)])
        folder.save_classifier({"w": torch.full((2,), float(r))}, {"round": r})
        folder.append({"round": r, "accuracy": 0.5 + r / 10 + folder.config.seed / 100})
    return folder


def read_all(path):
    folder = RunFolder.open(path)
    return folder.rows(), folder.picks(), folder.classifier(), folder.load("text", 1)


READ = ["config.json", "rounds.jsonl", "state.npz", "classifier.safetensors",
        "text/round001.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_no_bit_of_what_is_computed_with_flips_unnoticed(tmp_path, name):
    """Nor a byte; but for the last of a row, which ends it: what has no end does not count."""
    folder = files_of(create(tmp_path))
    file = folder.path / name
    whole = file.read_bytes()
    assert read_all(folder.path)
    end = len(whole) - (name == "rounds.jsonl")
    for at in range(0, end, max(1, end // 200)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        file.write_bytes(changed)
        with pytest.raises(UserError, match=f"{Path(name).name}: "):
            read_all(folder.path)


@pytest.mark.parametrize("name", READ)
def test_a_file_of_another_seed_is_noticed(tmp_path, name):
    ours, theirs = (files_of(create(tmp_path, seed=k)) for k in (0, 1))
    if name.startswith("text"):  # theirs are alike but for the round
        name = "text/round000.safetensors"
        shutil.copy(theirs.path / name, ours.path / "text/round001.safetensors")
    elif name == "classifier.safetensors":
        theirs.save_classifier({"w": torch.full((2,), 7.0)}, {"round": 1})
    if not name.startswith("text"):
        shutil.copy(theirs.path / name, ours.path / name)
    with pytest.raises(UserError):
        read_all(ours.path)


def test_a_kill_between_a_seal_and_its_file_spoils_nothing(tmp_path):
    """Twice even: what lies there is known, whatever was about to be written."""
    folder = files_of(create(tmp_path))
    expected = read_all(folder.path)[1]
    for attempt in range(3):
        folder.seals.expect("state.npz", b"%d" % attempt, (folder.path / "state.npz").read_bytes())
        for found, wanted in zip(folder.picks(), expected, strict=True):
            assert np.array_equal(found, wanted)


def test_a_kill_right_after_a_file_spoils_nothing(tmp_path, monkeypatch):
    """Its seal is on disk before it."""
    folder = files_of(create(tmp_path))

    class Killed(BaseException):
        pass

    def killed(path, data):
        atomic_write(path, data)
        if path.name == "state.npz":
            raise Killed

    monkeypatch.setattr(seals, "atomic_write", killed)
    with pytest.raises(Killed):
        folder.save_picks([np.arange(5)])
    assert folder.picks()[0].tolist() == list(range(5))


def test_an_older_version_of_a_file_is_noticed(tmp_path):
    folder = create(tmp_path)
    folder.save_picks([np.arange(1)])
    older = (folder.path / "state.npz").read_bytes()
    for n in (2, 3):
        folder.save_picks([np.arange(n)])
    (folder.path / "state.npz").write_bytes(older)
    with pytest.raises(UserError, match="state.npz: damaged, or of another run"):
        folder.picks()


HOLDER = """
import sys, time
from pathlib import Path
from deepal_galot.lock import one_at_a_time
with one_at_a_time(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_is_waited_for_and_dies_with_its_holder(tmp_path, capsys, monkeypatch):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "LOCK")], stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.01)
    looks = []
    monkeypatch.setattr(
        lock.time, "sleep", lambda _: looks.append(1) or (len(looks) == 3 and holder.kill())
    )
    with lock.one_at_a_time(tmp_path / "LOCK", "the run"):
        assert len(looks) >= 3
    holder.communicate()
    said = capsys.readouterr().err
    assert f"the run: process {holder.pid} on " in said and said.count("waiting for its end") == 1


def test_a_file_system_without_locks_is_worked_on_unlocked(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with lock.one_at_a_time(tmp_path / "LOCK", "a"), lock.one_at_a_time(tmp_path / "LOCK", "b"):
        pass
