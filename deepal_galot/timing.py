"""Seconds of a piece of work, measured a few times."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn import functional as F

from .device import synchronize

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


def with_spread(values: Sequence[float]) -> str:
    """Median, range and n."""
    low, middle, high = map(three_digits, (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}–{high}, n={len(values)})"


def three_digits(x: float) -> str:
    """1,234 or 1.23: three digits, or all before the point."""
    return f"{x:,.0f}" if x >= 1000 else f"{x:.3g}"


def seconds_of(work: Callable[[], object], device: torch.device) -> list[float]:
    """`measured`, and until the device is done."""

    return measured(lambda: _timed(work, device))


def alternately(
    works: Mapping[str, Callable[[], object]],
    device: torch.device,
    before: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, list[float]]:
    """Seconds of a few pieces of work, one after the other in turns, so that what else the machine
    does meets all of them; each is done once before, or what `before` has in its place."""
    for work in (dict(works) | dict(before or {})).values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(MOST):
        for name, work in works.items():
            seconds[name].append(_timed(work, device))
        if sum(map(sum, seconds.values())) > len(works) * ENOUGH_SECONDS:
            break
    return seconds


def _timed(work: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def share_of_peak(flops: float, device: torch.device, dtype: torch.dtype) -> str:
    """FLOP a second, and what part they are of the device's own matrix rate in this dtype."""
    limit = matrix_rate(device, dtype)
    return f"{flops / 1e12:.3g} TFLOP/s  {flops / limit:.1%} of {limit / 1e12:.3g}"


@functools.cache
def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """FLOP a second of a large product of square matrices, measured once in a process.

    On a CPU a 3×3 convolution counts if it is faster: another library does it, with the wider
    instructions that the product's does not use on AMD's.
    """
    cuda = device.type == "cuda"
    n, times = (8192, 20) if cuda else (512, 4)
    a, b, out = (torch.randn(n, n, device=device).to(dtype) for _ in range(3))

    def multiply() -> None:
        for _ in range(times):
            torch.mm(a, b, out=out)

    rates = [_rate(multiply, times * 2 * n**3, device)]
    if not cuda:
        x, weight = torch.randn(16, 256, 16, 16).to(dtype), torch.randn(256, 256, 3, 3).to(dtype)
        x, weight = (v.to(device, memory_format=torch.channels_last) for v in (x, weight))
        flops = 2 * 9 * x.numel() * len(weight)
        rates.append(_rate(lambda: F.conv2d(x, weight, padding=1), flops, device))
    return max(rates)


def _rate(work: Callable[[], object], flops: int, device: torch.device) -> float:
    return flops / statistics.median(seconds_of(work, device))
