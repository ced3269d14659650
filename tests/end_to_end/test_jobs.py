"""Several runs at once: the rows they have alone, and what happens to a lost process."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from deepal_galot.cli import main
from helpers import FAILS, QUICK, ROOT, hear_signals, image_hashes, rows_of, run_benchmark

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def start(output, *args):
    command = [sys.executable, str(ROOT / "run_benchmark.py"), *QUICK, "--output", str(output)]
    return subprocess.Popen(
        [*command, *args, "--jobs", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=ONE_THREAD, preexec_fn=hear_signals,
    )  # fmt: skip


def workers_of(pid):
    """Processes below this one that play runs."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", "spawn_main"],
                           capture_output=True, text=True)  # fmt: skip
    return [int(p) for p in found.stdout.split()]


def is_alive(pid):
    """Neither gone nor a zombie, which has no executable."""
    return os.path.exists(f"/proc/{pid}/exe")


def wait_for_a_row(process, output):
    while process.poll() is None and not any(rows_of(output).values()):
        time.sleep(0.1)
    assert process.poll() is None


def test_runs_at_once_have_the_rows_they_have_alone(tmp_path, capsys):
    """Of two strategies, on one thread each; shown as they come, in one table."""
    args = [*QUICK, "--strategy", "MarginSampling", "GALOT"]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert main([*args, "--output", str(tmp_path / "1")]) == 0
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr()
    done = run_benchmark(*args, "--jobs", 2, "--output", tmp_path / "2", env=ONE_THREAD)
    assert done.stderr.count(" labels + ") == said.err.count(" labels + ") == 4
    assert "leaked" not in done.stderr
    assert all("points of average accuracy above" in out for out in (said.out, done.stdout))
    assert rows_of(tmp_path / "1") == rows_of(tmp_path / "2")
    assert len(rows_of(tmp_path / "2")) == 2
    assert image_hashes(tmp_path / "1") == image_hashes(tmp_path / "2")
    assert main([*args, "--jobs", "2", "--output", str(tmp_path / "2")]) == 0
    assert capsys.readouterr().err.count(" labels + ") == 0  # all of it is there


def test_data_that_come_out_differently_in_each_process(tmp_path):
    """Once a run was played under another address, and the report found none finished."""
    file = tmp_path / "unlike.py"
    file.write_text(
        "import numpy as np\n"
        "from deepal_galot.datasets.base import Dataset, DatasetSpec\n"
        "class Unlike(Dataset):\n"
        "    class_names = ('a', 'b')\n"
        "    def load(self, data_dir):\n"
        "        x = np.random.default_rng().integers(0, 255, (40, 8, 8, 1), np.uint8)\n"
        "        y = np.arange(40) % 2\n"
        "        return DatasetSpec('Unlike', x, y, x[:9], y[:9], self.class_names, (.5,), (.3,))\n"
    )
    args = ["--plugin", file, "--dataset", "Unlike", "--strategy", "RandomSampling", "--jobs", 2]
    done = run_benchmark(*QUICK, *args, "--seeds", 0, 1, "--output", tmp_path / "o", check=False)
    said = "error: --jobs 2: data of Unlike RandomSampling seed "
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.match(said + r"[01] came out differently", done.stderr.splitlines()[-1])


@pytest.mark.usefixtures("no_report")
def test_each_run_knows_the_command_as_it_was_given(tmp_path, monkeypatch):
    """To main(), in one process or several. Before, sys.argv stood there, which from Python is
    another program's."""
    monkeypatch.setattr(sys, "argv", ["notebook", "--of", "mine"])
    for jobs, output in (("1", tmp_path / "one"), ("2", tmp_path / "with space")):
        args = [*QUICK, "--strategy", "RandomSampling", "--seeds", "0", "1", "--jobs", jobs]
        args += ["--output", str(output)]
        assert main(args) == 0
        parts = [json.loads(f.read_text())["parts"] for f in output.rglob("env.json")]
        assert [shlex.split(part["command"]) for (part,) in parts] == [args, args]


def test_a_killed_process_is_one_line_and_nothing_is_lost(tmp_path):
    args = ["--strategy", "RandomSampling", "--seeds", "0", "1", "2", "--epochs", "300"]
    process = start(tmp_path, *args)
    wait_for_a_row(process, tmp_path)
    os.kill(workers_of(process.pid)[-1], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in said
    assert "error: --jobs 2: a process was killed, as happens when memory runs out" in said
    kept = {k: v for k, v in rows_of(tmp_path).items() if v}
    assert main([*QUICK, *args, "--output", str(tmp_path)]) == 0
    rows = rows_of(tmp_path)
    assert kept and all(rows[k][: len(v)] == v for k, v in kept.items())
    assert [len(v) for v in rows.values()] == [2, 2, 2]


UNGUARDED = """
import sys
from deepal_galot.cli import main

sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("given", ["file", "stdin"])
def test_a_script_whose_processes_would_run_it_again(tmp_path, given):
    """Before, memory was said to have run out."""
    (tmp_path / "mine.py").write_text(UNGUARDED)
    args = [*QUICK, "--strategy", "RandomSampling", "--seeds", "0", "1", "--jobs", "2"]
    command = [sys.executable, "mine.py" if given == "file" else "-", *args, "--output", "r"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, input=UNGUARDED,
        env=ONE_THREAD | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: --jobs 2: no process could start (see above): a script"), last
    assert last.endswith('must be a file, and needs if __name__ == "__main__": around main')


@pytest.mark.skipif(not Path("/proc").exists(), reason="tells dead processes by /proc")
@pytest.mark.parametrize(
    ("everyone", "number", "code"),
    [
        (True, signal.SIGINT, 130),
        pytest.param(False, signal.SIGINT, 130, marks=pytest.mark.faults),
        (False, signal.SIGTERM, 143),
    ],
)
def test_an_interrupt_leaves_no_process_behind(tmp_path, everyone, number, code):
    """Ctrl-C reaches the whole group; a signal to the parent alone goes through the parent."""
    process = start(tmp_path, "--strategy", "RandomSampling", "--seeds", "0", "1",
                    "--epochs", "3000")  # fmt: skip
    while len(workers_of(process.pid)) < 2:
        time.sleep(0.1)
    time.sleep(1)
    workers = workers_of(process.pid)
    (os.killpg if everyone else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in said, said
    assert f"{'interrupted' if code == 130 else 'ended'}: the same command goes on" in said
    assert len(workers) == 2 and not any(map(is_alive, workers))


@pytest.mark.skipif(not Path("/proc").exists(), reason="tells dead processes by /proc")
def test_no_process_outlives_a_killed_parent(tmp_path):
    process = start(tmp_path, "--strategy", "RandomSampling", "--seeds", "0", "1",
                    "--epochs", "300000")  # fmt: skip
    while len(list(tmp_path.glob("*/*/*/seed*/env.json"))) < 2:  # both have begun
        time.sleep(0.1)
        assert process.poll() is None
    workers = workers_of(process.pid)
    process.kill()
    process.communicate(timeout=60)
    for _ in range(100):
        if not any(map(is_alive, workers)):
            break
        time.sleep(0.1)
    assert len(workers) == 2 and not any(map(is_alive, workers))


def test_a_plugins_error_is_said_as_ever(tmp_path):
    (tmp_path / "fails.py").write_text(FAILS)
    plugin = ["--plugin", tmp_path / "fails.py", "--output", tmp_path / "r"]
    done = run_benchmark(*QUICK, "--strategy", "Fails", "RandomSampling", "--jobs", 2, *plugin,
                         check=False)  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "leaked" not in done.stderr
    assert "fails.py fails: KeyError: 'nothing here' (line 8)" in done.stderr


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--experiment", "table1"]])
def test_no_run_at_once_is_refused_before_anything_is_done(capsys, more):
    assert main(["--jobs", "0", *more]) == 2
    said = capsys.readouterr()
    assert said.err == "error: --jobs 0: at least 1 run at once\n" and not said.out
