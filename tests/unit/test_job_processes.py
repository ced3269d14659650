"""What a process of --jobs does first."""

import signal
import sys
import threading

import pytest
import torch
from tqdm import tqdm

from deepal_galot import jobs, signals


def test_interrupts_are_heard_again_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError), signals.ignoring_signals():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        raise ValueError
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def memory(monkeypatch):
    """The shares that are asked of the GPU; everything else is put back."""
    asked, lock = [], tqdm.get_lock()
    before, threads = signal.getsignal(signal.SIGINT), torch.get_num_threads()
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *args: asked.append(args)
    )
    monkeypatch.setattr(jobs, "_leave_with_the_parent", lambda: None)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    yield asked
    signal.signal(signal.SIGINT, before)
    torch.set_num_threads(threads)
    tqdm.set_lock(lock)


@pytest.mark.parametrize("device, asked", [("cuda:1", [(0.25, 1)]), ("cpu", [])])
def test_each_process_has_its_share_of_the_gpus_memory(memory, device, asked):
    started = threading.Event()
    jobs._start(started, 1, torch.device(device), 0.25)
    assert memory == asked and started.is_set()
    assert not sys.stderr.isatty() and torch.get_num_threads() == 1
