"""Measuring the seconds of a piece of work in a few repeats."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn import functional as F

from .device import synchronize

ENOUGH_SECONDS = 20.0  # repeat a measurement until it took this long, at most MOST times
MOST = 5


def measured(run: Callable[[], float]) -> list[float]:
    """Seconds of up to MOST runs, fewer if one takes long. The first run is a warm-up and not
    counted, unless it took a second or more."""
    seconds = [run()]
    if seconds[0] < 1:
        seconds.clear()
    while len(seconds) < MOST and sum(seconds) < ENOUGH_SECONDS:
        seconds.append(run())
    return seconds


def with_spread(values: Sequence[float]) -> str:
    """Text with median, range and n."""
    low, middle, high = map(three_digits, (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}–{high}, n={len(values)})"


def three_digits(x: float) -> str:
    """Text with three significant digits, or all digits before the point: 1,234 or 1.23."""
    return f"{x:,.0f}" if x >= 1000 else f"{x:.3g}"


def seconds_of(work: Callable[[], object], device: torch.device) -> list[float]:
    """`measured` seconds of some work, each until the device is done."""

    return measured(lambda: _timed(work, device))


def alternately(
    works: Mapping[str, Callable[[], object]],
    device: torch.device,
    before: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, list[float]]:
    """Seconds of several works, measured in turns, so that other load of the machine affects all
    equally. Each work is run once before, as a warm-up.

    Args:
        before: by name, another warm-up in place of that run.
    """
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
    """Text with FLOP a second, and their share of the device's own matrix rate in this dtype."""
    limit = matrix_rate(device, dtype)
    return f"{flops / 1e12:.3g} TFLOP/s  {flops / limit:.1%} of {limit / 1e12:.3g}"


@functools.cache
def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """FLOP a second of a product of large square matrices, measured once in a process.

    On a CPU the rate of a 3×3 convolution counts if it is higher. Another library computes it, and
    on AMD's CPUs that one uses wider instructions than the product's.
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
