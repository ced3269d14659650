"""What is said of runs that are left out of a report because rounds of theirs are missing."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..results import RunFolder, label_of

MOST_NAMED = 4  # methods in a line


def unfinished_lines(folders: Sequence[RunFolder], of_exhibits: Collection[str] = ()) -> list[str]:
    """How many runs are left out, and what finishes or shows them. Those without a round are only
    counted: an interrupted command leaves folders of all that it planned.

    Args:
        folders: all runs, finished ones too.
        of_exhibits: methods that experiments, with numbers of rounds of their own, are made of.
    """
    missing = [f for f in folders if not f.finished]
    begun, planned, lines = [], [], []
    for folder in missing:
        (begun if folder.rows() else planned).append(folder)
    if begun:
        runs = f"{len(begun)} unfinished run{'s are' if len(begun) > 1 else ' is'}"
        advice = how_to_see(folders, of_exhibits)
        lines.append(f"{runs} left out, e.g. {begun[0].path} ({rounds_of(begun)}); {advice}")
    if planned:
        runs = f"{len(planned)} run{'s have' if len(planned) > 1 else ' has'}"
        lines.append(f"{runs} no round yet, e.g. {planned[0].path}")
    return lines


def rounds_of(folders: Sequence[RunFolder]) -> str:
    """How many of their rounds the runs of each method have."""
    by_method: dict[str, list[RunFolder]] = {}
    for folder in folders:
        by_method.setdefault(folder.method, []).append(folder)
    said = [_rounds(of) for of in list(by_method.values())[:MOST_NAMED]]
    return ", ".join(said) + (", …" if len(by_method) > MOST_NAMED else "")


def _rounds(of_method: Sequence[RunFolder]) -> str:
    first, counts = of_method[0], sorted(len(f.rows()) for f in of_method)
    some = str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    cycles = max(f.config.cycles for f in of_method)
    return f"{label_of(first.config.strategy, first.settings)}: {some} of {cycles} rounds"


def how_to_see(folders: Sequence[RunFolder], of_exhibits: Collection[str] = ()) -> str:
    """What finishes the unfinished of these runs, and what shows the rounds that they have."""
    text = "the command that began them finishes them"
    n = _rounds_at_hand(folders, of_exhibits)
    if n is None:
        return text
    return (
        f"{text}; the same command with --n-rounds {n} for its own number of rounds plays nothing "
        f"and shows what they have up to round {n}"
    )


def _rounds_at_hand(folders: Sequence[RunFolder], of_exhibits: Collection[str]) -> int | None:
    """The most rounds after round 0 that all unfinished runs have already; None if there are none,
    or if fewer rounds would make another run of one of the folders."""
    if not all(f.extendable and f.method not in of_exhibits for f in folders):
        return None
    rows = [f.rows() for f in folders if not f.finished]
    if any(not of_run or of_run[0].get("accuracy") is None for of_run in rows):
        return None
    return min(map(len, rows)) - 1
