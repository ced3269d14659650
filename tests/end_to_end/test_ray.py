"""A campaign on a local Ray cluster: the rows and images of one machine, whatever is lost."""

import _thread
import contextlib
import json
import os
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

from deepal_galot import cli
from deepal_galot.campaign import Campaign
from deepal_galot.engines import play_all
from deepal_galot.plan import make_plan
from deepal_galot.request import request_of
from helpers import FAILS, QUICK, image_hashes, rows_of

ray = pytest.importorskip("ray", reason='needs Ray: pip install -e ".[ray]"')
pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(not Path("/proc").exists(), reason="tells Ray's processes apart by /proc"),
]
FAST = [*QUICK, "--steps", "1", "--guidance", "1", "--ascent-steps", "1"]
ON_RAY = ["--engine", "ray"]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each; this process is the driver."""
    from ray.cluster_utils import Cluster

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as the workers have
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    torch.set_num_threads(threads)


@pytest.fixture
def third_node(cluster):
    """One more, and what makes it die as when its power is cut."""
    node, there = cluster.add_node(num_cpus=1), [True]

    def remove(graceful=False):
        cluster.remove_node(node, allow_graceful=graceful)
        there.clear()

    yield remove
    if there:
        remove(graceful=True)
    wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == 2)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of the test's own to type commands in; Ray's processes are told by it."""
    monkeypatch.chdir(tmp_path)


def run(*args):
    return cli.main([str(a) for a in args])


def play(*args):
    """The same without a report."""
    args = cli.build_parser().parse_args([str(a) for a in args])
    request = request_of(args)
    play_all(Campaign(request, make_plan(request)), args)


def processes(title, folder):
    """Ray's processes that do this in this folder now."""
    found = subprocess.run(["pgrep", "-f", f"^ray::{title}"], capture_output=True, text=True)
    here = []
    for pid in map(int, found.stdout.split()):
        with contextlib.suppress(OSError):
            if Path(os.readlink(f"/proc/{pid}/cwd")) == folder.resolve():
                here.append(pid)
    return here


@contextlib.contextmanager
def meanwhile(action):
    """Runs beside the block; what it returned is in the list afterwards."""
    done = []
    thread = threading.Thread(target=lambda: done.append(action()), daemon=True)
    thread.start()
    yield done
    thread.join(timeout=60)


def wait_for(condition, seconds=90):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
    return found


def parts(output):
    """How often each run was begun."""
    files = output.glob("*/*/*/seed*/env.json")
    return {str(f.parent.relative_to(output)): len(json.loads(f.read_text())["parts"])
            for f in files}  # fmt: skip


def under_way(output):
    """Rows of the runs that were begun and are not finished; their rounds take seconds."""
    begun = parts(output)
    return [rows for name, rows in rows_of(output).items() if name in begun and len(rows) < 2]


def test_a_lost_worker_changes_nothing(cluster, tmp_path, capsys):
    """Six runs, two at once; a worker is killed while both play and one has a row."""
    args = [*FAST, "--strategy", "MarginSampling", "GALOT", "--seeds", "0", "1", "2"]
    play(*args, "--output", "local")
    capsys.readouterr()

    def kill():
        def both():
            rows = under_way(tmp_path / "ray")
            return len(rows) == 2 and any(rows) and processes("play", tmp_path)

        (worker, *others) = wait_for(both)
        os.kill(worker, signal.SIGKILL)
        return len(others)

    with meanwhile(kill) as others:
        assert run(*args, *ON_RAY, "--output", "ray") == 0
    said = capsys.readouterr()
    assert others == [1] and sorted(parts(tmp_path / "ray").values()) == [1, 1, 1, 1, 1, 2]
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "local")
    assert len(rows_of(tmp_path / "ray")) == 6
    assert image_hashes(tmp_path / "ray") == image_hashes(tmp_path / "local")
    assert (
        "room for 2 runs of 1 CPU at once, on 2 nodes with 2 CPUs and 0 GPUs" in said.err
        and said.err.count(" labels + ") == 12
    )
    assert "points of average accuracy above MarginSampling" in said.out
    commands = {json.loads(f.read_text())["parts"][-1]["command"]
                for f in (tmp_path / "ray").glob("*/*/*/seed*/env.json")}  # fmt: skip
    assert commands == {shlex.join([*args, *ON_RAY, "--output", "ray"])}
    play(*args, *ON_RAY, "--output", "ray")
    assert capsys.readouterr().err.count(" labels + ") == 0  # all of it is there


@pytest.mark.slow
def test_images_drawn_by_two_actors_are_the_same(cluster, third_node, tmp_path):
    """Of which one is killed while it draws."""
    args = [*FAST, "--n-rounds", "0", "--strategy", "GALOT", "--n-synthetic", "60"]
    args += ["--save-full-size", "1"]
    play(*args, "--output", "local")

    def kill():
        wait_for(lambda: list((tmp_path / "ray/images").rglob("*.npz")))
        drawing = wait_for(lambda: processes("Drawer.draw", tmp_path))
        before = {*drawing, *processes("Drawer", tmp_path)}
        os.kill(drawing[0], signal.SIGKILL)
        return len(before), len(wait_for(lambda: set(processes("Drawer", tmp_path)) - before))

    with meanwhile(kill) as actors:
        play(*args, *ON_RAY, "--draw-actors", 2, "--output", "ray")
    assert actors == [(2, 1)]  # and another in its place
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "local")
    assert image_hashes(tmp_path / "ray") == image_hashes(tmp_path / "local")
    ours, theirs = (
        {f.name: f.read_bytes() for f in (tmp_path / name / "images/full").rglob("*.png")}
        for name in ("ray", "local")
    )
    assert len(ours) == 10 and ours == theirs
    wait_for(lambda: not processes("Drawer", tmp_path), seconds=10)


def test_a_runs_error_is_one_line(cluster, tmp_path, capsys):
    Path("fails.py").write_text(FAILS)
    args = [*FAST, "--strategy", "Fails", "RandomSampling", "--plugin", "fails.py"]
    assert run(*args, *ON_RAY) == 2
    said = capsys.readouterr().err.splitlines()
    (error,) = [line for line in said if line.startswith("error:")]
    assert "fails.py fails: KeyError: 'nothing here' (line 8)" in error and said[-1] == error


def test_without_room_nothing_waits_forever(cluster, capsys):
    assert run(*FAST, *ON_RAY, "--draw-actors", 2) == 2
    asked = "error: --engine ray: no room for a run and 2 actors, each of 1 CPU, on 2 nodes with 2"
    assert asked in capsys.readouterr().err
    assert run(*FAST, *ON_RAY, "--gpus-per-run", 0.5) == 2
    assert "no room for a run of 1 CPU and 0.5 GPU, on 2 nodes" in capsys.readouterr().err
    assert run(*FAST, *ON_RAY, "--cpus-per-run", 2) == 2
    assert "no room for a run of 2 CPU, on 2 nodes" in capsys.readouterr().err


def test_an_interrupt_cancels_the_runs_and_their_folders_go_on(cluster, tmp_path, capsys):
    args = [*FAST, "--strategy", "RandomSampling", "--seeds", "0", "1", "--epochs", "100"]
    args += ["--n-rounds", "2", "--output", "ray"]

    def interrupt():  # as soon as one has a row: on a busy machine the other may not have begun
        wait_for(lambda: any(rows_of(tmp_path / "ray").values()))
        _thread.interrupt_main()
        return True

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has none
    try:
        with meanwhile(interrupt) as interrupted:
            assert run(*args, *ON_RAY) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert interrupted and "the same command goes on" in capsys.readouterr().err
    wait_for(lambda: not processes("play", tmp_path), seconds=10)
    kept = rows_of(tmp_path / "ray")
    play(*args)  # the folders are those of any engine
    rows = rows_of(tmp_path / "ray")
    assert [len(r) for r in rows.values()] == [3, 3] and any(kept.values())
    assert all(rows[name][: len(k)] == k for name, k in kept.items())


@pytest.mark.slow
def test_a_node_that_dies_costs_its_round(cluster, third_node, tmp_path, capsys):
    args = [*FAST, "--strategy", "RandomSampling", "--seeds", "0", "1", "2", "--epochs", "100"]
    args += ["--n-rounds", "2"]
    play(*args, "--output", "local")
    capsys.readouterr()

    def kill():
        rows = lambda: rows_of(tmp_path / "ray").values()  # noqa: E731
        wait_for(lambda: len(rows()) == 3 and all(rows()))
        before = sum(map(len, rows()))
        third_node()
        return before

    with meanwhile(kill) as rows:
        play(*args, *ON_RAY, "--output", "ray")
    assert 3 <= rows[0] < 9 and sorted(parts(tmp_path / "ray").values()) == [1, 1, 2]
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "local")
    assert capsys.readouterr().err.count(" labels + ") == 9  # no round was recorded twice
