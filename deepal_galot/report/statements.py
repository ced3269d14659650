"""What may be said about a comparison in a sentence each."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import registry
from ..config import TRAINING, RunConfig, fields_of
from ..errors import readable
from ..protocols import resolve
from ..results import RunFolder, label_of
from ..strategy_entries import setting_text
from ..training import count_epochs
from .comparison import OWN, Comparison, Curve
from .exhibit import doubts
from .statistics import LEAST_SEEDS, PairedDifference, mean_sem, paired_difference
from .tables import paper_rows, signed, with_error

NUMBERED = re.compile(r"(.*)#[0-9a-f]{4}")  # labels that comparison.py tells apart by a hash


def statements(comparison: Comparison) -> list[str]:
    """The recipe, a baseline that is missing, changed networks, blank images, what strategies
    measured themselves, other base samplers than the baseline, the ε = 0 control, what is missing
    or not alike, too few seeds, other machines, and what is doubtful in the paper."""
    curves = comparison.curves
    remarks = dict.fromkeys(c.remark for c in curves if c.remark)
    lines = [_recipe_line(comparison), *_data_line(comparison), *_baseline_line(comparison)]
    lines += [f"† {', '.join(c.label for c in curves if c.remark == r)}: {r}" for r in remarks]
    lines += [line for curve in curves for line in _blank_lines(curve)]
    lines += [_own_line(curve, key) for curve in curves for key in curve.own_measures]
    lines += _own_sampler_lines(comparison) + _control_lines(comparison)
    lines += _missing_lines(comparison) + _unlike_lines(comparison)
    few = [c.label for c in comparison.learning if len(c.seeds) < LEAST_SEEDS]
    if few:
        whose = f" of {', '.join(few)}" if len(few) < len(comparison.learning) else ""
        lines.append(f"fewer than {LEAST_SEEDS} seeds{whose}: no spread can be claimed")
    lines += _machines_line(curves)
    if comparison.exhibit is not None:
        lines += comparison.exhibit.notes
        lines += [f"? {d}" for d in doubts([row for _, row in paper_rows(comparison)])]
    return lines


def headline(comparison: Comparison) -> str:
    """Which method has the highest average, and whether seeds tell it from the next; empty if there
    is nothing to compare."""
    budgets = comparison.common_budgets
    about_images = comparison.exhibit is not None and comparison.exhibit.kind != "curves"
    if not budgets or len(comparison.learning) < 2 or about_images:
        return ""
    averages = [(100 * c.average(budgets), c) for c in comparison.learning]
    (a, first), (b, second), *others = sorted(averages, key=lambda pair: -pair[0].mean())
    d = paired_difference(first, second, budgets)
    text = (
        f"Highest average accuracy: {first.label}, {with_error(*mean_sem(a))} %; next "
        f"{second.label}, {with_error(*mean_sem(b))} %. "
    )
    if d is None or np.isnan(d.half_width):
        return text + "Without three seeds in common nothing says whether they differ."
    if d.mean <= d.half_width:
        return text + f"Their common seeds do not tell them apart ({_points(d)})."
    picked = f"; not corrected for picking the best of {len(others) + 2}" if others else ""
    return text + f"Paired by seed they are apart ({_points(d)}{picked})."


def _recipe_line(comparison: Comparison) -> str:
    """What the runs have in common that their labels do not say; the arms of an exhibit may differ
    in some of it."""
    configs = [curve.folders[0].config for curve in comparison.learning]
    config = configs[0]
    whose = "" if comparison.exhibit is None else " of all"
    known = config.dataset in registry.datasets
    own = registry.datasets.get(config.dataset).defaults if known else {}
    flags = {"protocol": config.protocol}
    usual = resolve("", config.dataset, flags=flags, dataset_defaults=own)
    alike = [
        k
        for k in (*fields_of(TRAINING), "protocol", "n_init", "n_query")
        if len({getattr(c, k) for c in configs}) == 1
    ]
    changed = {
        k: setting_text(getattr(config, k))
        for k in fields_of(TRAINING)
        if k in alike and k != "classifier" and getattr(config, k) != getattr(usual, k)
    }
    said = [config.classifier] if "classifier" in alike else []
    said += [f"protocol {config.protocol}"] if "protocol" in alike else []
    given = f" with {label_of('', changed)}" if changed else ""
    decides = "min_steps" in alike and all(map(_min_steps_decides, comparison.learning))
    if "epochs" in changed and decides:
        given += f" (min_steps={config.min_steps} asks for more epochs in every round)"
    line = f"training{whose}: {', '.join(said)}{given}"
    if not comparison.learning[0].learns or not {"n_init", "n_query"} <= set(alike):
        return line
    if not any(curve.labels for curve in comparison.learning):
        return f"{line}; |L| = {config.n_init:,}, then {config.n_query:,} more a round; no labels"
    return f"{line}; {config.n_init:,} labels, then {config.n_query:,} a round"


def _min_steps_decides(curve: Curve) -> bool:
    """Whether every fit had more epochs than --epochs says."""
    config = curve.folders[0].config
    sizes = (row["labels"] + row["images"] for rows in curve.rows for row in rows)
    return all(count_epochs(config, n) > config.epochs for n in sizes)


def _data_line(comparison: Comparison) -> list[str]:
    """How many images there were, of which size, and where; unknown where env.json is gone."""
    runs = (folder for curve in comparison.curves for folder in curve.folders)
    for part in itertools.chain.from_iterable(map(_parts, runs)):
        match part.get("data"):
            case {"pool": int(pool), "test": int(test), "path": path} as data:
                where = f", of {readable(str(path))}" if path else ""
                of_class, size = _class_sizes(data), _image_size(data)
                return [
                    f"data: {pool:,} images to label{of_class}, {test:,} to test on{size}{where}"
                ]
    return []


def _class_sizes(data: Mapping[str, Any]) -> str:
    """The smallest and the largest class to label."""
    match data:
        case {"smallest_class": int(smallest), "largest_class": int(largest)} if largest:
            several = f"{smallest:,} to {largest:,}" if smallest < largest else f"{largest:,}"
            return f" ({several} a class)"
    return ""


def _image_size(data: Mapping[str, Any]) -> str:
    match data:
        case {"shape": [int(height), int(width), int(channels)]}:
            return f", {height}×{width} {'grey' if channels == 1 else 'RGB'}"
    return ""


def _baseline_line(comparison: Comparison) -> list[str]:
    """What others are compared with where the method that was asked for is not there."""
    if not comparison.missed or len(comparison.learning) < 2:
        return []
    reference = comparison.reference.label
    return [f"no finished run of {comparison.missed} here: compared with {reference}"]


def _missing_lines(comparison: Comparison) -> list[str]:
    """Arms of an exhibit without a finished run, and arms that are the run of another."""
    if comparison.exhibit is None:
        return []
    lines, arms = [], comparison.exhibit.arms
    by_folder: dict[str, list[str]] = {}
    for arm in arms:
        by_folder.setdefault(arm.folder, []).append(arm.label)
    shown = {curve.label for curve in comparison.curves}
    missing = [labels[0] for labels in by_folder.values() if labels[0] not in shown]
    if missing:
        lines.append(f"no finished run of {', '.join(missing)}")
    for first, *others in by_folder.values():
        if others:
            lines.append(f"one and the same run as {first}: {', '.join(others)}")
    return lines


def _twin_lines(curves: Sequence[Curve]) -> list[str]:
    """What tells methods apart that are called alike, as versions of a plug-in's file are."""
    lines = []
    alike: dict[str, list[Curve]] = {}
    for curve in curves:
        if apart := NUMBERED.fullmatch(curve.label):
            alike.setdefault(apart[1], []).append(curve)
    for twins in alike.values():
        if len(twins) < 2:
            continue
        runs = [twin.folders[0] for twin in twins]
        reads = [run.config.fields_read() for run in runs]  # what else differs changes nothing
        names = dict.fromkeys(name for read in reads for name in read)
        differ = [n for n in names if any(read.get(n) != reads[0].get(n) for read in reads)]
        kinds = dict.fromkeys(kind for run in runs for kind in run.content)
        differ += [f"the {k}" for k in kinds if len({run.content.get(k) for run in runs}) > 1]
        last = max(twins, key=lambda twin: max(map(_played, twin.folders)))
        lines.append(
            f"{', '.join(t.label for t in twins)} differ in {', '.join(differ)}; "
            f"{last.label} was played last"
        )
    return lines


def _played(folder: RunFolder) -> float:
    """When its last round was recorded."""
    return (folder.path / "rounds.jsonl").stat().st_mtime


def _unlike_lines(comparison: Comparison) -> list[str]:
    """Where methods have other seeds or budgets than each other, which what is said is about."""
    lines, learning = _twin_lines(comparison.curves), comparison.learning
    for curve in comparison.curves:
        if curve.cut:
            lines.append(
                f"{curve.label}: rounds that not all of its seeds have, {curve.cut} at most, are "
                f"left out, of its labels and costs too"
            )
    if len({c.seeds for c in learning}) > 1:
        lines.append("not all methods have the same seeds: see n; differences pair common seeds")
    if len({c.budgets for c in learning}) > 1:
        common = ", ".join(f"{b:,}" for b in comparison.common_budgets)
        lines.append(
            f"not all methods have the same budgets: average, area and differences are "
            f"over {common or 'none'}; labels, images and costs are up to each method's own last "
            f"budget"
        )
    return lines


def _blank_lines(curve: Curve) -> list[str]:
    """What came of images that the generator left blank, over all rounds and seeds."""
    retried, failed, mute = (
        sum(row.get(key, 0) for of_seed in curve.rows for row in of_seed)
        for key in ("images_retried", "images_failed", "ascent_failed")
    )
    lines = []
    if retried:
        left_out = f"; {failed:,} stayed blank and are left out" if failed else ""
        lines.append(
            f"{curve.label}: {retried:,} generated images came out blank and were drawn "
            f"again{left_out}"
        )
    if mute:
        lines.append(
            f"{curve.label}: {mute:,} images of the text optimisation, or their "
            f"gradients, were not finite and left out"
        )
    return lines


def _own_line(curve: Curve, key: str) -> str:
    """The average of a column that the strategy measured itself."""
    values = np.array([np.mean([row[key] for row in rows if key in row]) for rows in curve.rows])
    name = key.removeprefix(OWN).replace("_", " ")
    return f"{curve.label}: {name} {with_error(*mean_sem(100 * values))} % (average)"


def _difference_line(a: Curve, b: Curve, budgets: Sequence[int]) -> list[str]:
    d = paired_difference(a, b, budgets)
    return [] if d is None else [f"{a.label} − {b.label}: {_points(d)}"]


def _points(d: PairedDifference) -> str:
    interval = "" if np.isnan(d.half_width) else f" ± {100 * d.half_width:.2f} (95 % interval)"
    seeds = f"n = {d.n} seed{'s' * (d.n != 1)}"
    return f"{signed(100 * d.mean)}{interval} points of average, {seeds}"


def _own_sampler_lines(comparison: Comparison) -> list[str]:
    """Methods with generated images above their own base sampler, where the baseline is another
    method's."""
    lines, budgets = [], comparison.common_budgets
    if not any(comparison.reference.picks_for(curve) for curve in comparison.learning):
        return []
    for curve in comparison.learning:
        own = [c for c in comparison.learning if c.picks_for(curve) and not c.remark]
        nearest = max(own, key=lambda c: len(c.own_settings), default=None)
        if nearest is not None and nearest is not comparison.reference:
            difference = _difference_line(curve, nearest, budgets)
            lines += [f"above its own base sampler: {line}" for line in difference]
    return lines


def _control_lines(comparison: Comparison) -> list[str]:
    """GALOT beside itself with ε = 0, what the text optimisation adds, or what to run for that; and
    beside itself in random directions."""
    curves, budgets = comparison.curves, comparison.common_budgets
    lines, missing = [], {}
    for curve in curves:
        config = curve.folders[0].config
        if not curve.uses_generated_images or config.synthetic_from or config.epsilon == 0:
            continue
        control = next((c for c in curves if _same_but(curve, c, epsilon=0.0)), None)
        if control is None:
            missing[curve.label] = f'"{_control_entry(curve.folders[0])}"'
            continue
        what = "a random direction" if config.direction == "random" else "text optimisation"
        lines += [f"{what} adds: {line}" for line in _difference_line(curve, control, budgets)]
    for curve, other in itertools.permutations(curves, 2):
        if _same_but(curve, other, direction="random"):
            lines += [f"its direction adds: {x}" for x in _difference_line(curve, other, budgets)]
    if missing and comparison.exhibit is None:  # whose arms are what they are
        commands = ", ".join(dict.fromkeys(missing.values()))
        lines.append(
            f"what the text optimisation of {', '.join(missing)} adds is not known: run "
            f"{commands} too"
        )
    return lines


def _control_entry(run: RunFolder) -> str:
    """What --strategy would say for the control of a run."""
    read = _control_of(run.config).keys() | {"generator", "synthetic_from"}
    read |= dict(run.config.settings).keys()
    kept = {k: v for k, v in run.settings.items() if k in read and k != "epsilon"}
    return label_of(run.config.strategy, {"epsilon": "0"} | kept)


def _control_of(config: RunConfig) -> dict[str, Any]:
    """What a run with ε = 0 and everything else alike reads."""
    return dataclasses.replace(config, epsilon=0.0).fields_read()


def _same_but(curve: Curve, other: Curve, **changes: Any) -> bool:
    """Whether `other` is the same configuration, data and weights but for these fields."""
    if not (curve.uses_generated_images and other.uses_generated_images):
        return False
    ours, theirs = (c.folders[0] for c in (curve, other))
    same = dataclasses.replace(ours.config, **changes).fields_read() == theirs.config.fields_read()
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
        return {f"{p['device_name']} with torch {p['versions']['torch']}" for p in _parts(folder)}
    except (LookupError, TypeError):
        return set()


def _parts(folder: RunFolder) -> list[dict[str, Any]]:
    """What env.json holds of each part of a run; nothing if it is gone."""
    try:
        parts = json.loads((folder.path / "env.json").read_text(encoding="utf-8"))["parts"]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
