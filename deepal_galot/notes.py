"""Notes before the first run: on flags that change nothing, on test images in the pool, and on
models that run with another scheduler than their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from generators.diffusion import DiffusionGenerator
from generators.weights import DEFAULT_SCHEDULER

from . import registry
from .costs import training_images
from .plan import Plan
from .request import Request
from .training import count_epochs


def unread_notes(request: Request, plan: Plan) -> list[str]:
    """Notes on given flags that change none of the runs, and on settings behind a strategy's name
    that do not change its runs."""
    configs = [run.config for run in plan.runs]
    read = {"protocol", "n_rounds", "quota"}.union(*(c.fields_read() for c in configs))
    if any(c.uses_generated_images for c in configs):
        read |= {"generator", "synthetic_from"}  # the fingerprint has their content hashes
    lines, apart = [], {"n_rounds", "quota", "generator", "synthetic_from"}
    for text, runs in plan.by_entry.items():
        entry = plan.entries[text]
        here = set(runs[0].config.fields_read())
        if entry.strategy.generates and runs[0].config.mode == "al":
            here.add("base_sampler")  # it is the run's strategy
        read |= here
        without = sorted(entry.fields.keys() - here - apart)
        if without:
            lines.append(f"note: {text}: {', '.join(without)} changes nothing there")
    unread = [f"--{name.replace('_', '-')}" for name in request.flags if name not in read]
    first = [f"note: {', '.join(unread)}: read by none of these runs"] if unread else []
    return first + lines


def leak_note(request: Request, plan: Plan) -> list[str]:
    """A note if test images are also in the pool; at most one line. Data sets that ship with the
    package are not checked, because they are published as they are."""
    name = registry.class_name(request.dataset)
    shipped = name in registry.datasets and not registry.datasets.sources(name)
    if shipped or not any(run.config.uses_real_images for run in plan.runs):
        return []
    n, pool = plan.spec.n_in_both, len(plan.spec.x_train)
    said = f"note: {n:,} of the {pool:,} images of {name} to label are in its test part, too"
    return [f"{said}; accuracies are too high by what is learned of them"] if n else []


def epochs_note(plan: Plan, flags: Mapping[str, Any]) -> list[str]:
    """A note if --epochs has no effect, because --min-steps asks for more."""
    fits = [
        (run.config, training_images(run.config, plan.spec, run.config.n_rounds))
        for run in plan.runs
    ]
    if "epochs" not in flags or not all(count_epochs(c, n) > c.epochs for c, n in fits):
        return []
    return [
        f"note: --epochs {flags['epochs']}: changes nothing, --min-steps "
        f"{fits[0][0].min_steps} asks for more in every round; add --min-steps 0"
    ]


def scheduler_notes(request: Request, plan: Plan) -> list[str]:
    """A note for each folder or hub id whose own scheduler is another than the run's, which nobody
    asked for."""
    lines = []
    for text, (run, *_) in plan.by_entry.items():
        c, given = run.config, request.flags.keys() | plan.entries[text].fields.keys()
        if not run.makes_images or c.generator in registry.generators or "scheduler" in given:
            continue
        if not issubclass(run.generator, DiffusionGenerator) or c.scheduler != DEFAULT_SCHEDULER:
            continue
        own = run.generator.own_scheduler()
        if own not in (None, c.scheduler):
            lines.append(
                f"note: {c.generator}: {c.steps} steps, guidance {c.guidance:g} and "
                f"{c.scheduler}; its own scheduler is {own}: change them with --steps, "
                f"--guidance and --scheduler {own}"
            )
    return list(dict.fromkeys(lines))
