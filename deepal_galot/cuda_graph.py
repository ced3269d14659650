"""A piece of work on a CUDA device as a graph: one launch in place of hundreds.

The kernels of a training step on a small batch are shorter than Python needs to start them.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

from .device import is_out_of_memory
from .errors import UserError

Inputs = dict[str, Tensor]

EAGER = 3  # calls before one is recorded: libraries choose their kernels, optimisers make buffers


class Captured:
    """A function of tensors whose calls are replayed from a graph for each shape of them.

    No call is for show: the first EAGER of a shape run as written, then one is recorded and, like
    all that follow, replayed. So the function must ask nothing of the CPU while it runs (`.item()`,
    `nonzero`), do nothing in Python that is to happen in each call, and find what it reads beside
    its inputs where it was. Recorded calls keep their memory while others run as written.
    """

    def __init__(self, function: Callable[[Inputs], None], what: str) -> None:
        """
        Args:
            function: called on the stream that is current, not the default one.
            what: the work, for the error that says that it cannot be recorded.
        """
        self.function, self.what = function, what
        self._calls: Counter[tuple] = Counter()
        self._graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, Inputs]] = {}
        self._memory = torch.cuda.graph_pool_handle()  # one graph runs at a time, so all share it

    def __call__(self, inputs: Inputs) -> None:
        shapes = tuple(v.shape for v in inputs.values())
        self._calls[shapes] += 1
        if self._calls[shapes] <= EAGER:
            with warnings.catch_warnings():  # optimisers are made for a graph from the start
                warnings.filterwarnings("ignore", ".*capturable=True")
                self.function(inputs)
            return
        if shapes not in self._graphs:
            self._graphs[shapes] = self._record(inputs)
        graph, own = self._graphs[shapes]
        for name, value in inputs.items():
            own[name].copy_(value)
        graph.replay()

    def _record(self, inputs: Inputs) -> tuple[torch.cuda.CUDAGraph, Inputs]:
        """The graph, and the tensors that it reads."""
        graph, own = torch.cuda.CUDAGraph(), {k: v.clone() for k, v in inputs.items()}
        stream = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, self._memory, stream, capture_error_mode="thread_local"):
                self.function(own)
        except RuntimeError as error:
            first = error.__context__ or error  # leaving the block says only that something failed
            if is_out_of_memory(first) or is_out_of_memory(error):
                raise
            raise UserError(
                f"{self.what} cannot be recorded as a CUDA graph: leave `capturable` False in its "
                f"class ({str(first).splitlines()[0]})"
            ) from error
        return graph, own


@contextlib.contextmanager
def stream_for_graphs(device: torch.device) -> Iterator[None]:
    """A stream beside the default one, which cannot be recorded and waits for it."""
    stream = _stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        torch.cuda.current_stream(device).wait_stream(stream)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all, because libraries keep memory for each."""
    return torch.cuda.Stream(device)
