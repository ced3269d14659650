"""Stopped at any moment, by any signal, the same command ends with the same rows and images."""

import contextlib
import os
import pty
import random
import signal
import subprocess
import sys
import time

import pytest
from harness import CALLS, FILES, TORN, UNNAMED, WRITTEN, Fault, Scenario, counted

from helpers import QUICK, ROOT, hear_signals, image_hashes, rows_of

FILE = (TORN, UNNAMED, WRITTEN)
ROW = (TORN, WRITTEN)  # it is appended, so it has no other name before


def moments(phase, which=FILE):
    return [(phase, 1, moment) for moment in which]


# In the order of the run, so that each attempt comes a little further than the one before it.
FIRST = [*moments("seals"), *moments("config"), *moments("picks"), ("fit", 1, ""), ("fit", 2, "")]
RECORD = [*moments("classifier"), *moments("row", ROW)]
BASELINE = [*FIRST, *RECORD, ("query", 1, ""), ("picks", 1, TORN), *RECORD, *moments("done")]
GENERATE = [
    ("ascent", 1, ""), ("ascent", 2, ""), *moments("text"), ("generation", 1, ""),
    *moments("shard"), *moments("manifest"), ("generation", 1, ""), ("shard", 3, UNNAMED),
    ("manifest", 2, TORN), ("fit", 1, ""),
]  # fmt: skip
GALOT = [*moments("picks"), ("fit", 2, ""), *GENERATE, *RECORD, ("query", 1, ""), *GENERATE[1:6]]
REPORT = [("report", 1, ""), *moments("report files")]
CHAIN = [*BASELINE, *GALOT, *REPORT]


@pytest.mark.faults
def test_killed_in_every_phase(scenario, tmp_path):
    """Where it hurts: half-way through a file, between its writing and its renaming, before what
    follows from it; one after another on one and the same results folder."""
    assert {phase for phase, _, _ in CHAIN} == set(CALLS) | set(FILES)
    with counted() as faults:
        rows = {}
        for phase, nth, moment in CHAIN:
            outcome = scenario.play(tmp_path, Fault("kill -9", phase, nth, moment))
            assert outcome.happened and outcome.code == -signal.SIGKILL, (phase, moment, outcome)
            faults.append(("kill -9, chosen moments", phase))
            rows = scenario.kept(tmp_path, rows)
        scenario.ends_alike(tmp_path)


@pytest.mark.faults
def test_killed_at_random_moments(scenario, tmp_path):
    """Of the clock, so anywhere; the seed is printed."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"\nseed of the moments: {seed}")
    rng, kills, number = random.Random(seed), 15, 0
    with counted() as faults:
        while len(faults) < kills:
            output, rows, number = tmp_path / str(number), {}, number + 1
            while len(faults) < kills:
                command = scenario.start(output)
                if rng.random() < 0.8:  # else while it loads, which is most of so short a run
                    command.wait_for_work()
                time.sleep(rng.uniform(0, 0.2 * scenario.seconds))
                command.signal(signal.SIGKILL)
                outcome = command.wait()
                if outcome.code == 0:
                    break
                assert outcome.code == -signal.SIGKILL
                faults.append(("kill -9, random moments", outcome.phase))
                rows = scenario.kept(output, rows)
            scenario.ends_alike(output)


STOPS = [
    ("picks", 1, TORN), ("fit", 2, ""), ("row", 1, TORN), ("query", 1, ""), ("ascent", 1, ""),
    ("text", 1, TORN), ("generation", 1, ""), ("shard", 2, UNNAMED), ("classifier", 1, UNNAMED),
    ("row", 1, WRITTEN), ("report", 1, ""), ("report files", 2, TORN),
]  # fmt: skip


def stopped_politely(outcome, code, word):
    """One line that says how to go on, and no temporary file of what was being written."""
    assert outcome.code == code, outcome
    line = f"{word}: the same command goes on where this one stopped"
    assert outcome.said.rstrip().splitlines()[-1] == line, outcome.said
    assert "Traceback" not in outcome.said and "Exception ignored" not in outcome.said


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "code", "word"), [("Ctrl-C", 130, "interrupted"), ("SIGTERM", 143, "ended")]
)
def test_asked_to_stop_in_every_phase(scenario, tmp_path, kind, code, word):
    with counted() as faults:
        rows = {}
        for phase, nth, moment in STOPS:
            outcome = scenario.play(tmp_path, Fault(kind, phase, nth, moment))
            assert outcome.happened, (phase, moment, outcome)
            stopped_politely(outcome, code, word)
            assert not [f for f in tmp_path.rglob(".*") if f.is_file()]
            faults.append((kind, phase))
            rows = scenario.kept(tmp_path, rows)
        scenario.ends_alike(tmp_path)


@pytest.mark.faults
def test_asked_to_stop_at_random_moments(scenario, tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    print(f"\nseed of the moments: {seed}")
    rng, rows = random.Random(seed), {}
    with counted() as faults:
        for number, code, word in [(signal.SIGINT, 130, "interrupted"),
                                   (signal.SIGTERM, 143, "ended")] * 3:  # fmt: skip
            command = scenario.start(tmp_path)
            time.sleep(rng.uniform(0.5, 0.2 * scenario.seconds))
            command.signal(number)
            outcome = command.wait()
            stopped_politely(outcome, code, word)
            faults.append((f"{'Ctrl-C' if code == 130 else 'SIGTERM'}, random", outcome.phase))
            rows = scenario.kept(tmp_path, rows)
        scenario.ends_alike(tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGTERM"])
def test_all_processes_of_a_command_asked_to_end(tmp_path, name):
    """As a terminal and Slurm do: once with tracebacks of multiprocessing's own process."""
    args = [*QUICK, "--strategy", "RandomSampling", "--seeds", "0", "1", "--jobs", "2"]
    args += ["--epochs", "100000", "--output", tmp_path]
    command = [sys.executable, str(ROOT / "run_benchmark.py"), *map(str, args)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear_signals
    )
    with counted() as faults:
        while len(list(tmp_path.rglob("state.npz"))) < 2:
            time.sleep(0.1)
            assert process.poll() is None
        os.killpg(process.pid, getattr(signal, name))
        said = process.communicate()[1]
        assert process.returncode == 128 + getattr(signal, name), said
        assert "Traceback" not in said and said.endswith(
            "\nended: the same command goes on where this one stopped\n"
        )
        faults.append((f"{name} to all processes of --jobs", "fit"))


# -- a few of them, for every run of the tests -----------------------------------------------------

FEW = [
    ("kill -9", "config", TORN), ("kill -9", "picks", UNNAMED), ("Ctrl-C", "fit", ""),
    ("kill -9", "row", TORN), ("SIGTERM", "query", ""), ("full disk", "classifier", TORN),
]  # fmt: skip


def test_some_stops_of_a_short_run(tmp_path):
    scenario = Scenario(tmp_path, [*QUICK, "--strategy", "MarginSampling", "--mode", "al"])
    codes = {"kill -9": -9, "Ctrl-C": 130, "SIGTERM": 143, "full disk": 2}
    output, rows = tmp_path / "stopped", {}
    with counted() as faults:
        for kind, phase, moment in FEW:
            outcome = scenario.play(output, Fault(kind, phase, 1, moment))
            assert (outcome.happened, outcome.code) == (True, codes[kind]), (phase, outcome)
            assert "Traceback" not in outcome.said
            faults.append((kind, phase))
            rows = scenario.kept(output, rows) if kind != "kill -9" or phase != "config" else rows
        scenario.ends_alike(output)
    assert rows_of(output) and not image_hashes(output)


LOADING = """
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "torch":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
import run_benchmark
sys.exit(run_benchmark.main())
"""


def test_interrupted_while_the_libraries_load():
    done = subprocess.run([sys.executable, "-c", LOADING], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr == "interrupted: nothing has begun\n"


def test_the_progress_bars_leave_a_clean_line(tmp_path):
    """On a terminal the last line is what to do, with no bar before or behind it."""
    master, slave = pty.openpty()
    args = [*QUICK, "--strategy", "RandomSampling", "--epochs", "100000", "--output", tmp_path]
    command = [sys.executable, str(ROOT / "run_benchmark.py"), *map(str, args)]
    process = subprocess.Popen(command, stdout=slave, stderr=slave, preexec_fn=hear_signals)
    os.close(slave)
    shown = b""
    while b"images" not in shown:  # the fit's bar
        shown += os.read(master, 4096)
    time.sleep(0.5)  # until it is made: some versions of tqdm complain of an interrupt before
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # what the end of a terminal reads as
        while part := os.read(master, 4096):
            shown += part
    assert process.wait() == 130
    *before, last = shown.decode().rstrip().splitlines()
    assert last == "interrupted: the same command goes on where this one stopped"
    assert b"Traceback" not in shown and "fit" not in before[-1].rpartition("\r")[2]
