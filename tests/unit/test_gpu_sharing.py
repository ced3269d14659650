"""The Multi-Process Service of a --jobs command, with a stand-in for its control program."""

import os
from pathlib import Path

import pytest
import torch

from deepal_galot import gpu_sharing
from deepal_galot.gpu_sharing import CONTROL, LOGS, PIPES, side_by_side

GPU = torch.device("cuda")


@pytest.fixture
def control(tmp_path, monkeypatch):
    """Installs a program that notes its arguments, pipes and input; the notes."""
    notes = tmp_path / "notes"

    def install(exit_code=0, client="pass"):
        monkeypatch.setattr(gpu_sharing, "CONNECT", client)
        program = tmp_path / "bin" / CONTROL
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\necho "$* pipes=${PIPES} said=$(cat)" >> "{notes}"\n'
            f"echo no such device >&2\nexit {exit_code}\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    monkeypatch.delenv(PIPES, raising=False)
    install.said = lambda: notes.read_text().splitlines() if notes.exists() else []
    return install


def test_a_daemon_serves_the_block_and_is_told_to_quit(control):
    control()
    with pytest.raises(KeyboardInterrupt), side_by_side(GPU):
        pipes = os.environ[PIPES]
        assert Path(pipes).is_dir() and os.environ[LOGS] == pipes
        assert control.said() == [f"-d pipes={pipes} said="]
        raise KeyboardInterrupt
    assert control.said()[1:] == [f" pipes={pipes} said=quit -t 5"]
    assert PIPES not in os.environ and LOGS not in os.environ and not Path(pipes).exists()


def test_one_that_is_there_already_is_used(control, monkeypatch):
    control()
    monkeypatch.setenv(PIPES, "/run/mps")
    with side_by_side(GPU):
        assert os.environ[PIPES] == "/run/mps"
    assert control.said() == [] and os.environ[PIPES] == "/run/mps"


def test_without_it_the_runs_take_turns_and_it_says_so(control, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with side_by_side(GPU):
        assert PIPES not in os.environ
    assert "take turns on the GPU: nvidia-cuda-mps-control is not on" in capsys.readouterr().err


def test_a_daemon_that_does_not_start_is_named(control, capsys):
    control(exit_code=1)
    with side_by_side(GPU):
        assert PIPES not in os.environ
    assert "take turns on the GPU: nvidia-cuda-mps-control: no such device" in (
        capsys.readouterr().err
    )


def test_a_daemon_that_serves_nobody_is_ended(control, capsys):
    control(client="import sys; sys.exit('a client gets CUDA error ' + sys.argv[1])")
    with side_by_side(torch.device("cuda:3")):
        assert PIPES not in os.environ
        assert [line.split()[-1] for line in control.said()] == ["said=", "5"]
    assert "take turns on the GPU: nvidia-cuda-mps-control: a client gets CUDA error 3" in (
        capsys.readouterr().err
    )


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
