"""What may be said about a comparison in a sentence each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..config import RunConfig
from ..results import RunFolder, label_of
from .comparison import OWN, Comparison, Curve
from .exhibit import doubts
from .statistics import PairedDifference, mean_sem, paired_difference
from .tables import paper_rows, with_error


def statements(comparison: Comparison) -> list[str]:
    """Changed networks, blank images, what strategies measured themselves, paired differences, the
    ε = 0 control, too few seeds, other machines, and what is doubtful in the paper."""
    curves = comparison.curves
    remarks = dict.fromkeys(c.remark for c in curves if c.remark)
    lines = [f"† {', '.join(c.label for c in curves if c.remark == r)}: {r}" for r in remarks]
    lines += [line for curve in curves for line in _blank_lines(curve)]
    lines += [_own_line(curve, key) for curve in curves for key in curve.own_measures]
    reference = comparison.reference
    for curve in curves:
        if curve is not reference:
            lines += _difference_line(curve, reference)
    for curve in curves:
        config = curve.folders[0].config
        made_here = curve.uses_generated_images and config.synthetic_from is None
        if made_here and config.epsilon > 0:
            lines += _control_line(curve, curves)
    if min(len(c.seeds) for c in curves) < 3:
        lines.append("fewer than 3 seeds: no spread can be claimed")
    lines += _machines_line(curves)
    if comparison.exhibit is not None:
        lines += comparison.exhibit.notes
        lines += [f"? {d}" for d in doubts([row for _, row in paper_rows(comparison)])]
    return lines


def _blank_lines(curve: Curve) -> list[str]:
    """What came of images that the generator left blank, over all rounds and seeds."""
    rows = [row for of_seed in curve.rows for row in of_seed]
    retried, failed = (sum(r.get(f"images_{k}", 0) for r in rows) for k in ("retried", "failed"))
    if not retried:
        return []
    left_out = f"; {failed:,} stayed blank and are left out" if failed else ""
    return [f"{curve.label}: {retried:,} generated images came out blank and were drawn again"
            f"{left_out}"]  # fmt: skip


def _own_line(curve: Curve, key: str) -> str:
    """The average of a column that the strategy measured itself."""
    values = np.array([np.mean([row[key] for row in rows if key in row]) for rows in curve.rows])
    name = key.removeprefix(OWN).replace("_", " ")
    return f"{curve.label}: {name} {with_error(*mean_sem(100 * values))} % (average)"


def _difference_line(a: Curve, b: Curve) -> list[str]:
    d = paired_difference(a, b)
    return [] if d is None else [f"{a.label} − {b.label}: {_points(d)}"]


def _points(d: PairedDifference) -> str:
    interval = "" if np.isnan(d.half_width) else f" ± {100 * d.half_width:.2f} (95 % interval)"
    return f"{100 * d.mean:+.2f}{interval} points of average, n = {d.n} seeds"


def _control_line(curve: Curve, curves: Sequence[Curve]) -> list[str]:
    """GALOT beside itself with ε = 0: what the text optimisation adds."""
    for other in curves:
        if other.uses_generated_images and _is_control(curve, other):
            random = curve.folders[0].config.direction == "random"
            what = "a random direction adds: " if random else "text optimisation adds: "
            return [what + line for line in _difference_line(curve, other)]
    first = curve.folders[0]
    read = _control_of(first.config).keys() | {"generator", "synthetic_from"}
    kept = {k: v for k, v in first.settings.items() if k in read and k != "epsilon"}
    control = label_of(first.config.strategy, {"epsilon": "0"} | kept)
    return [f'what the text optimisation of {curve.label} adds is not known: run "{control}" too']


def _control_of(config: RunConfig) -> dict[str, Any]:
    """What a run with ε = 0 and everything else alike reads."""
    return dataclasses.replace(config, epsilon=0.0).fields_read()


def _is_control(curve: Curve, other: Curve) -> bool:
    """Whether `other` is the same configuration, data and weights but for ε = 0."""
    ours, theirs = (c.folders[0] for c in (curve, other))
    same = _control_of(ours.config) == theirs.config.fields_read()
    return same and ours.content == theirs.content


def _machines_line(curves: Sequence[Curve]) -> list[str]:
    """Which devices and versions the runs had, if not all the same."""
    found = {m for curve in curves for folder in curve.folders for m in _machines(folder)}
    if len(found) < 2:
        return []
    return [f"the runs are of different machines or versions: {'; '.join(sorted(found))}"]


def _machines(folder: RunFolder) -> set[str]:
    """Device and torch version of every part of a run; empty if its env.json is gone."""
    try:
        parts = json.loads((folder.path / "env.json").read_text(encoding="utf-8"))["parts"]
        return {f"{p['device_name']} with torch {p['versions']['torch']}" for p in parts}
    except (OSError, ValueError, LookupError, TypeError):
        return set()
