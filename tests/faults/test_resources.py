"""Disks that fill up, folders that cannot be written, memory that runs out, clocks, neighbours."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from harness import ARGS, TORN, Fault, Scenario, counted, phase_of

from helpers import QUICK, ROOT, image_hashes, rows_of, run_benchmark

pytestmark = pytest.mark.faults
SHORT = [*QUICK, "--strategy", "MarginSampling", "--mode", "al"]


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A run without images, in a second."""
    return Scenario(tmp_path_factory.mktemp("short"), SHORT)


# -- disks ---------------------------------------------------------------------------------------

WRITES = ["seals", "config", "picks", "classifier", "row", "text", "shard", "manifest", "done",
          "report files"]  # fmt: skip


def test_a_write_that_fails_anywhere(scenario, tmp_path):
    """Half of the file is written, then there is no space: one line, and the rest another time."""
    with counted() as faults:
        rows = {}
        for phase in WRITES:
            outcome = scenario.play(tmp_path, Fault("full disk", phase, 1, TORN))
            assert outcome.happened and outcome.code == 2, (phase, outcome)
            assert "Traceback" not in outcome.said
            (line,) = outcome.errors
            assert "No space left on device" in line and str(tmp_path) in line, line
            faults.append(("failing write", phase))
            rows = scenario.kept(tmp_path, rows)
        assert not [f for f in tmp_path.rglob(".*") if f.is_file()]
        scenario.ends_alike(tmp_path)


@pytest.fixture
def mount(tmp_path):
    """Mounts a file system, or skips; what is mounted is unmounted."""
    mounted = []

    def mount(*args):
        if os.geteuid() != 0 or not shutil.which("mount"):
            pytest.skip("needs root, to mount a small file system")
        done = subprocess.run(["mount", *map(str, args)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot mount here: {done.stderr.strip()}")
        mounted.append(args[-1])

    yield mount
    for where in set(mounted):
        while os.path.ismount(where):
            subprocess.run(["umount", "-l", where], check=True)


def test_a_full_disk(scenario, tmp_path, mount):
    """A real one, that gets a little larger each time."""
    output = tmp_path / "disk"
    output.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", output)
    with counted() as faults:
        rows, size = {}, 64
        while (outcome := scenario.play(output)).code != 0:
            assert outcome.code == 2 and "Traceback" not in outcome.said, outcome
            (line,) = outcome.errors
            assert "No space left on device" in line, line
            faults.append(("full disk (tmpfs)", phase_of(line.split("'")[1]) or "other"))
            rows = scenario.kept(output, rows)
            size = size * 3 // 2
            mount("-o", f"remount,size={size}k", output)
        assert len(faults) >= 4
        scenario.ends_alike(output)


def test_a_folder_that_becomes_read_only(scenario, tmp_path, mount):
    """As a file system does after an error; root may write anything else."""
    output = tmp_path / "disk"
    output.mkdir()
    mount("-t", "tmpfs", "tmpfs", output)
    with counted() as faults:
        mount("-o", "remount,ro", output)
        outcome = scenario.play(output)
        assert outcome.code == 2 and len(outcome.errors) == 1
        assert f"--output {output}: cannot be written" in outcome.errors[0]
        faults.append(("read-only folder", "new"))
        mount("-o", "remount,rw", output)
        scenario.play(output, Fault("kill -9", "generation", 2))
        rows = scenario.kept(output, {})
        mount("-o", "remount,ro", output)
        outcome = scenario.play(output)
        assert outcome.code == 2 and "Traceback" not in outcome.said
        assert len(outcome.errors) == 1 and "Read-only file system" in outcome.errors[0]
        faults.append(("read-only folder", "half a run"))
        assert scenario.kept(output, rows) == rows
        mount("-o", "remount,rw", output)
        scenario.ends_alike(output)
        mount("-o", "remount,ro", output)
        outcome = scenario.play(output)  # there is nothing to do, and no place for the report
        assert outcome.code == 2 and "/report/" in outcome.errors[0], outcome
        assert f"--report {output} --output ELSEWHERE shows" in outcome.errors[0]
        assert run_benchmark("--report", output, "--output", tmp_path / "elsewhere")
        faults.append(("read-only folder", "whole run"))


# -- memory --------------------------------------------------------------------------------------


def test_a_fit_that_runs_out_of_memory(scenario, tmp_path):
    with counted() as faults:
        for nth in (1, 2):
            outcome = scenario.play(tmp_path, Fault("out of memory", "fit", nth))
            (line,) = outcome.errors
            assert outcome.code == 2 and "Traceback" not in outcome.said
            for word in ("out of memory: a fit of small_cnn on", "--batch-size 32", "goes on"):
                assert word in line
            faults.append(("out of memory", "fit"))
        scenario.ends_alike(tmp_path)


@pytest.mark.parametrize("phase", ["query", "generation"])
def test_anything_else_that_runs_out_of_memory(scenario, tmp_path, phase):
    """Outside what can be cut into smaller parts: one line, and the same end another time."""
    with counted() as faults:
        outcome = scenario.play(tmp_path, Fault("out of memory", phase))
        (line,) = outcome.errors
        assert outcome.code == 2 and "Traceback" not in outcome.said
        assert "out of memory (" in line and "the same command goes on" in line
        faults.append(("out of memory", phase))
        scenario.ends_alike(tmp_path)


@pytest.mark.parametrize("phase", ["denoising", "gradient"])
def test_a_generator_that_runs_out_of_memory_goes_on_with_less(tmp_path, phase, monkeypatch):
    """The first batch does not fit; half of it does."""
    import torch

    from deepal_galot.cli import main
    from generators import text_optimization
    from generators.diffusion import DiffusionGenerator

    owner, name, rows = {
        "denoising": (DiffusionGenerator, "_denoise", lambda args: len(args[1])),
        "gradient": (text_optimization, "score_gradient", None),
    }[phase]
    real, failed = getattr(owner, name), []

    def denoise(*args, **kwargs):
        if rows(args) > 8:
            failed.append(1)
            torch.empty(2**50)
        return real(*args, **kwargs)

    def gradient(generator, c, score, seeds, *args, **kwargs):
        def small(images, rows):
            if len(rows) > 4:
                failed.append(1)
                torch.empty(2**50)
            return score(images, rows)

        return real(generator, c, small, seeds, *args, **kwargs)

    monkeypatch.setattr(owner, name, denoise if rows else gradient)
    with counted() as faults:
        args = [*QUICK, "--strategy", "GALOT", "--output", str(tmp_path), "--device", "cpu"]
        assert main(args) == 0
        assert failed and len(*rows_of(tmp_path).values()) == 2 and image_hashes(tmp_path)
        faults.append(("out of memory", phase))


# -- two processes, and the clock ------------------------------------------------------------------


def one_behind_the_other(tmp_path, output):
    """Two commands on the same runs; the second begins when the first plays one: it has picked."""
    from harness import Command

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    args = [*ARGS, "--output", output]
    first = Command(tmp_path / "a", args)
    while not list(output.rglob("state.npz")):
        time.sleep(0.01)
    return first, Command(tmp_path / "b", args)


def test_two_processes_on_the_same_runs(scenario, tmp_path):
    """The second waits for each run that the first is at, and finds it done."""
    output = tmp_path / "out"
    with counted() as faults:
        first, second = one_behind_the_other(tmp_path, output)
        for outcome in (first.wait(), second.wait()):
            assert outcome.code == 0, outcome.said
        waited = outcome.said
        assert f"process {first.process.pid} on " in waited
        assert "is at work on it; waiting for its end" in waited
        assert rows_of(output) == scenario.rows and image_hashes(output) == scenario.images
        faults.append(("two processes on a run", "both to the end"))


def test_a_process_that_waits_goes_on_where_the_other_was_killed(scenario, tmp_path):
    output = tmp_path / "out"
    with counted() as faults:
        first, second = one_behind_the_other(tmp_path, output)
        while "waiting" not in (tmp_path / "b" / "log").read_text():
            time.sleep(0.01)
            assert second.process.exitcode is None
        assert first.signal(signal.SIGKILL)
        first.wait()
        outcome = second.wait()
        assert outcome.code == 0, outcome.said
        assert rows_of(output) == scenario.rows and image_hashes(output) == scenario.images
        faults.append(("two processes on a run", "first killed"))


BACKWARDS = """
import datetime, itertools, sys, time
from deepal_galot import cli, campaign
real, hour = time.time, itertools.count()
time.time = lambda: real() - 3600 * next(hour)
formatted = time.strftime
time.strftime = lambda f, *t: formatted(f, time.gmtime(1e9 - 3600 * next(hour)))
class Back(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(time.time(), tz)
from generators import image_store
image_store.datetime = Back
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_clock_that_goes_back(scenario, tmp_path):
    """An hour each time that it is asked; and files of tomorrow."""
    with counted() as faults:
        scenario.play(tmp_path, Fault("kill -9", "generation", 2))
        for file in tmp_path.rglob("*"):
            os.utime(file, (2**32, 2**32))
        command = [sys.executable, "-c", BACKWARDS, *ARGS, "--output", str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert rows_of(tmp_path) == scenario.rows and image_hashes(tmp_path) == scenario.images
        faults.append(("clock going back", "whole run"))


def test_fresh_processes_give_what_forked_ones_give(scenario, tmp_path):
    """The harness forks; a command that somebody types does not. With as many threads."""
    threads = str(torch.get_num_threads())
    run_benchmark(*ARGS, "--output", tmp_path, env=os.environ | {"OMP_NUM_THREADS": threads})
    assert rows_of(tmp_path) == scenario.rows and image_hashes(tmp_path) == scenario.images
