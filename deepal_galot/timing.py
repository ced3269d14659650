"""Seconds of a piece of work, measured a few times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

ENOUGH_SECONDS = 20.0  # a measurement is repeated until it took so long, at most MOST times
MOST = 5


def measured(run: Callable[[], float]) -> list[float]:
    """Seconds of a few runs, fewer where one takes long; a first one warms up and is not counted
    if it is short."""
    seconds = [run()]
    if seconds[0] < 1:
        seconds.clear()
    while len(seconds) < MOST and sum(seconds) < ENOUGH_SECONDS:
        seconds.append(run())
    return seconds


def with_spread(seconds: Sequence[float]) -> str:
    """Median, range and n."""
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    return f"{middle:.3g} ({low:.3g}–{high:.3g}, n={len(seconds)})"


def seconds_of(work: Callable[[], object], device: torch.device) -> list[float]:
    """`measured`, and until the device is done; called once before, to compile and to choose."""

    def run() -> float:
        _wait_for(device)
        started = time.perf_counter()
        work()
        _wait_for(device)
        return time.perf_counter() - started

    return measured(run)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """FLOP a second of large square matrix products: more than any network gets."""
    n, times = (8192, 20) if device.type == "cuda" else (512, 4)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    seconds = seconds_of(lambda: [a @ b for _ in range(times)], device)
    return times * 2 * n**3 / statistics.median(seconds)
