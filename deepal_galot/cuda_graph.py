"""Work on a CUDA device recorded as a graph: one launch instead of hundreds.

With small batches, Python takes longer to start a training step's kernels than the GPU to run them.
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

EAGER = 3  # calls before recording: libraries choose kernels, optimisers make buffers


class Captured:
    """A function of tensors whose calls are replayed from a CUDA graph, one graph for each input
    shape.

    The first EAGER calls of a shape run as written. The next one is recorded; it and all later ones
    are replayed. No call is a dry run. Therefore the function must not ask the CPU for anything
    (`.item()`, `nonzero`), must not have Python side effects that every call needs, and must find
    all other data that it reads at the same addresses. Graphs keep their memory while other shapes
    run as written.
    """

    def __init__(self, function: Callable[[Inputs], None], what: str) -> None:
        """
        Args:
            function: called on the current stream, which must not be the default one.
            what: name of the work, for the error that it cannot be recorded.
        """
        self.function, self.what = function, what
        self._calls: Counter[tuple] = Counter()
        self._graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, Inputs]] = {}
        self._memory = torch.cuda.graph_pool_handle()  # shared: one graph runs at a time

    def __call__(self, inputs: Inputs) -> None:
        shapes = tuple(v.shape for v in inputs.values())
        self._calls[shapes] += 1
        if self._calls[shapes] <= EAGER:
            with warnings.catch_warnings():  # optimisers are capturable from the start
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
        """A recorded graph, and the tensors that it reads."""
        graph, own = torch.cuda.CUDAGraph(), {k: v.clone() for k, v in inputs.items()}
        stream = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, self._memory, stream, capture_error_mode="thread_local"):
                self.function(own)
        except RuntimeError as error:
            first = error.__context__ or error  # `error` only says that recording failed
            if is_out_of_memory(first) or is_out_of_memory(error):
                raise
            raise UserError(
                f"{self.what} cannot be recorded as a CUDA graph: leave `capturable` False in its "
                f"class ({str(first).splitlines()[0]})"
            ) from error
        return graph, own


@contextlib.contextmanager
def stream_for_graphs(device: torch.device) -> Iterator[None]:
    """Make a side stream current. The default stream cannot be recorded; it waits for the side
    stream at the end."""
    stream = _stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        torch.cuda.current_stream(device).wait_stream(stream)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all fits, because libraries keep memory for each stream."""
    return torch.cuda.Stream(device)
