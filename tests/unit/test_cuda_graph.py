"""Which calls of a captured function run, are recorded and are replayed; graphs are stood in for.

That a replay computes what the function does is tests/gpu's.
"""

import contextlib

import pytest
import torch

from deepal_galot.cuda_graph import EAGER, Captured
from deepal_galot.errors import UserError

recording = []


class Graph:
    """Records the function's last inputs, and calls it on them again."""

    def replay(self):
        self.function(self.inputs)


@pytest.fixture
def log(monkeypatch):
    """What the function was called with, values at the time of the call."""
    calls = []

    @contextlib.contextmanager
    def record(graph, memory, stream, capture_error_mode):
        recording.append(graph)
        try:
            yield
        finally:
            recording.pop()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    return calls


def captured(calls, fails=""):
    def function(inputs):
        if not recording:
            calls.append({k: v.tolist() for k, v in inputs.items()})
        elif fails:
            raise RuntimeError(fails)
        else:
            recording[-1].function, recording[-1].inputs = function, inputs

    return Captured(function, "a training step of Net")


def test_every_call_is_done_once_with_its_own_values(log):
    """Of two shapes, mixed: first as written, then replayed from tensors of the graph's own."""
    work = captured(log)
    asked = [{"x": [i] * (2 + i % 2), "flip": [i % 3 == 0]} for i in range(4 * EAGER)]
    for inputs in asked:
        work({k: torch.tensor(v) for k, v in inputs.items()})
    assert log == asked
    assert len(work._graphs) == 2


@pytest.mark.parametrize("calls, graphs", [(EAGER, 0), (EAGER + 1, 1)])
def test_few_calls_are_not_recorded(log, calls, graphs):
    work = captured(log)
    for _ in range(calls):
        work({"x": torch.zeros(3)})
    assert len(log) == calls and len(work._graphs) == graphs


def test_what_cannot_be_recorded_is_named(log):
    work = captured(log, fails="operation not permitted\nwhen stream is capturing")
    with pytest.raises(UserError, match="step of Net cannot .* in its class .operation not perm"):
        for _ in range(EAGER + 1):
            work({"x": torch.zeros(3)})
    assert len(log) == EAGER


def test_lost_memory_is_left_to_the_caller(log):
    work = captured(log, fails="DefaultCPUAllocator: can't allocate memory")
    with pytest.raises(RuntimeError, match="can't allocate"):
        for _ in range(EAGER + 1):
            work({"x": torch.zeros(3)})
    assert len(log) == EAGER
