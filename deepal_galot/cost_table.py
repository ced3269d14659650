"""The costs of planned runs as text: a table for --dry-run, a line for the start of a campaign."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from .costs import Cost, Work, size_of, totals
from .errors import UserError
from .generator_choice import weights_at_hand
from .probe import too_large, unprobed
from .timing import matrix_rate

LONG = 300.0  # seconds of work at the device's matrix rate


def hours_on_cpu(costs: Sequence[Cost], device: torch.device) -> str:
    """Text with the least time that runs with full-size generators take on this CPU; empty if there
    are no such runs."""
    large = [c for c in costs if too_large(c, device)]
    if not large:
        return ""
    flop, rate = sum(c.flop for c in large), matrix_rate(device)
    each = max(size_of(c.run).image for c in large)
    return (
        f"{large[0].run.config.generator} needs {each / 1e12:.0f} TFLOP an image, {_pflop(flop)} "
        f"PFLOP in all: at the {rate / 1e12:.2g} TFLOP/s of this machine's matrix products at "
        f"least {two_digits(flop / rate / 3600)} hours"
    )


def refuse_unasked_cpu(costs: Sequence[Cost], device: torch.device) -> None:
    """Refuse to run a full-size generator on a CPU that the user did not ask for.

    Raises:
        UserError: there is such a run.
    """
    warning = hours_on_cpu(costs, device)
    if warning:
        also = " or, untested, --device mps" if torch.backends.mps.is_available() else ""
        raise UserError(
            f"this machine has no GPU for CUDA, and {warning}; to go on, add --device cpu{also}"
        )


def is_long(costs: Sequence[Cost], device: torch.device) -> bool:
    """Whether the runs' minimum time is so long that a probe's seconds do not matter."""
    _, flop, _ = totals(costs)
    return flop is not None and flop > LONG * matrix_rate(device)


def summary(costs: Sequence[Cost], device: torch.device) -> str:
    """One line for the start of a campaign. Short campaigns have no time in it, because the
    progress bar shows it as soon."""
    work, flop, seconds = totals(costs)
    finished = sum(c.finished for c in costs)
    parts = [f"{len(costs)} run{'s' if len(costs) != 1 else ''}"]
    parts += [f"{finished} of them finished"] if finished else []
    parts += [f"{work.labels:,} labels", f"{work.images:,} images", f"{work.chains:,} chains"]
    parts += [f"{_pflop(flop)} PFLOP", _bytes(work.disk)]
    parts += [f"{_time(seconds)} one after the other"] if seconds is not None else []
    warning = hours_on_cpu(costs, device)
    return "to do: " + ", ".join(parts) + (f"; {warning}" if warning else "")


HEAD = ("run", "fits", "labels", "images", "chains", "PFLOP", "disk", "time", "folder")


def table(costs: Sequence[Cost], output: Path, device: torch.device) -> Iterator[str]:
    """Lines: a row for each run, the total, and notes on what is not counted."""
    rows = [HEAD]
    for c in costs:
        rounds, folder = f"{c.done}/{c.run.config.cycles}", c.run.folder(output)
        known = not c.run.makes_images or weights_at_hand(c.run.generator)
        where = str(folder.relative_to(output)) if known else "named by the weights"
        name = f"{c.run.label} seed {c.run.config.seed}"
        rows.append(
            (name, rounds, *_numbers(c.work, c.flop, 0 if c.finished else c.seconds), where)
        )
    rows.append(("total", "", *_numbers(*totals(costs)), f"in {output}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *cells, last = (
            text.ljust(w) if i in (0, len(row) - 1) else text.rjust(w)
            for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join((first, *cells, last)).rstrip()
    yield from _notes(costs, device)


def _notes(costs: Sequence[Cost], device: torch.device) -> Iterator[str]:
    pictures = sum(c.work.pictures for c in costs)
    if pictures:
        yield (
            f"chains: images of the text optimisation, each with a gradient. PFLOP and time also "
            f"hold {pictures:,} images that show c0 and c; what the store holds already is not "
            f"taken off."
        )
    yield (
        "time: one run after the other, without what a query computes or trains beyond its pass "
        "over the pool."
    )
    sources = (c.run.source.path for c in costs if c.run.source)
    yield from dict.fromkeys(f"The generated images are those of {path}." for path in sources)
    if any(c.finished for c in costs):
        yield "A finished run costs nothing."
    yield from dict.fromkeys(filter(None, (unprobed(c, device) for c in costs)))
    warning = hours_on_cpu(costs, device)
    if warning:
        yield f"{warning}; a run asks for --device cpu."


def _numbers(work: Work, flop: float | None, seconds: float | None) -> tuple[str, ...]:
    counts = (f"{n:,}" for n in (work.labels, work.images, work.chains))
    return (*counts, _pflop(flop), _bytes(work.disk), _time(seconds))


def _pflop(flop: float | None) -> str:
    return "?" if flop is None else two_digits(flop / 1e15)


def _time(seconds: float | None) -> str:
    """Text in hours, minutes or seconds."""
    if seconds is None:
        return "?"
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{two_digits(seconds / length)} {unit}"
    return f"{two_digits(seconds)} s"


def two_digits(x: float) -> str:
    """Text with two significant digits, or all digits before the point; never an exponent.

    >>> two_digits(0.00123), two_digits(4.56), two_digits(1234.5), two_digits(0)
    ('0.0012', '4.6', '1,234', '0')
    """
    if x == 0 or x >= 10:
        return f"{x:,.0f}"
    return f"{x:.{max(1, 1 - math.floor(math.log10(x)))}f}"


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{two_digits(n) if unit != 'B' else n} {unit}"
        n /= 1000
    return f"{two_digits(n)} TB"
