"""The Multi-Process Service of a --jobs command, with a stand-in for its control program."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from deepal_galot import gpu_sharing
from deepal_galot.gpu_sharing import CONTROL, LOGS, PIPES, side_by_side
from helpers import ROOT

GPU = torch.device("cuda")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="the service is Linux's")


@pytest.fixture
def control(tmp_path, monkeypatch):
    """Installs a program that notes its arguments, pipes, devices and input; the notes."""
    notes = tmp_path / "notes"

    def install(fails=False, client="pass", first=""):
        monkeypatch.setattr(gpu_sharing, "CONNECT", client)
        program = tmp_path / "bin" / CONTROL
        program.parent.mkdir()
        ends = "echo no such device >&2; exit 1" if fails else "exit 0"
        program.write_text(
            f'#!/bin/sh\necho "$* pipes=${PIPES} devices=$CUDA_VISIBLE_DEVICES said=$(cat)" '
            f'>> "{notes}"\n{first}\n{ends}\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    monkeypatch.delenv(PIPES, raising=False)
    install.said = lambda: notes.read_text().splitlines() if notes.exists() else []
    return install


def test_a_daemon_serves_the_block_and_is_told_to_quit(control, monkeypatch):
    control()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")  # which its clients read
    monkeypatch.setenv(LOGS, "/var/log/mine")
    with pytest.raises(KeyboardInterrupt), side_by_side(GPU):
        pipes = os.environ[PIPES]
        assert Path(pipes).is_dir() and os.environ[LOGS] == pipes
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
        assert control.said() == [f"-d pipes={pipes} devices= said="]
        raise KeyboardInterrupt
    assert control.said()[1:] == [f" pipes={pipes} devices= said=quit -t 5"]
    assert PIPES not in os.environ and os.environ[LOGS] == "/var/log/mine"
    assert not Path(pipes).exists()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGINT"])
def test_what_ends_the_daemon_is_deaf_to_a_clusters_signals(control, monkeypatch, name):
    """Slurm may send them to each process; before, the daemon and its folder were left."""
    control()
    guards, start = [], subprocess.Popen

    def noted(command, **kwargs):
        guards.append(start(command, **kwargs))
        return guards[-1]

    monkeypatch.setattr(gpu_sharing.subprocess, "Popen", noted)
    with side_by_side(GPU):
        pipes = os.environ[PIPES]
        guards[0].send_signal(getattr(signal, name))
        time.sleep(0.2)
        assert guards[0].poll() is None
    assert control.said()[1:] == [f" pipes={pipes} devices= said=quit -t 5"]
    assert not Path(pipes).exists()


def test_it_ends_with_a_command_that_is_killed(control):
    control()
    code = (
        "import os, torch; from deepal_galot import gpu_sharing as g; g.CONNECT = 'pass'\n"
        "with g.side_by_side(torch.device('cuda')):\n"
        "    print(os.environ[g.PIPES], flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    for _ in range(100):
        if not Path(done.stdout.strip()).exists():
            break
        time.sleep(0.1)
    assert [line.split("=")[-1] for line in control.said()] == ["", "quit -t 5"]


def test_one_that_is_there_already_is_used(control, monkeypatch):
    control()
    monkeypatch.setenv(PIPES, "/run/mps")
    with side_by_side(GPU):
        assert os.environ[PIPES] == "/run/mps"
    assert control.said() == [] and os.environ[PIPES] == "/run/mps"


def test_without_it_the_runs_take_turns_and_it_says_so(capsys, monkeypatch):
    monkeypatch.delenv(PIPES, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with side_by_side(GPU):
        assert PIPES not in os.environ
    assert "take turns on the GPU: nvidia-cuda-mps-control: is not on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fails, client, why",
    [
        (True, "pass", "no such device"),
        (False, "import sys; sys.exit('CUDA error ' + sys.argv[1])", "CUDA error 3"),
        (False, "import time; time.sleep(60)", "a client waited 1 seconds"),
    ],
)
def test_a_daemon_that_serves_nobody_is_ended(control, capsys, monkeypatch, fails, client, why):
    control(fails, client)
    monkeypatch.setattr(gpu_sharing, "PATIENCE", 1)
    with side_by_side(torch.device("cuda:3")):
        assert PIPES not in os.environ
        assert [line.split("=")[-1] for line in control.said()] == ["", "quit -t 5"]
    assert f"take turns on the GPU: nvidia-cuda-mps-control: {why}" in capsys.readouterr().err


def test_a_daemon_that_is_slow_to_start_is_not_waited_for(control, capsys, monkeypatch):
    """Before, one that hangs was waited for without end."""
    control(first="sleep 9")
    monkeypatch.setattr(gpu_sharing, "PATIENCE", 1)
    started = time.monotonic()
    with side_by_side(GPU):
        assert PIPES not in os.environ
    assert time.monotonic() - started < 8
    assert "nvidia-cuda-mps-control: it did not start within 1 seconds" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without the driver")
def test_a_client_without_a_driver_fails(control, capsys):
    control(client=gpu_sharing.CONNECT)
    with side_by_side(GPU):
        assert PIPES not in os.environ
    assert "libcuda.so.1" in capsys.readouterr().err


def test_a_cpu_needs_none(control):
    control()
    with side_by_side(torch.device("cpu")):
        assert PIPES not in os.environ
    assert control.said() == []
