"""Playing the paper's experiments: their command lines, campaigns, exhibits and costs."""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .campaign import Campaign
from .config import RunConfig
from .cost_table import two_digits
from .costs import costs_of, totals
from .datasets.base import DatasetSpec, load_dataset
from .engines import play_all
from .errors import UserError, did_you_mean
from .experiments import ALIASES, EXPERIMENTS, Arm, Experiment, PerClass, Times, named
from .plan import Plan, Run, configure, default_mode, make_plan
from .report.exhibit import Exhibit, ExhibitArm, is_the_papers, save_real_examples
from .request import Request, request_of
from .results import RunFolder, label_of
from .strategy_entries import parse_entry, setting_text

# -- an experiment as a command line --------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A request for some arms of an experiment.

    Attributes:
        arms: the arms.
        entries: each arm in the form of --strategy.
        args: the whole command line that would do the same, with the judge's strategy.
        request: what that command line asks for.
        judge: the judge's entry; None if the experiment has none.
    """

    arms: tuple[Arm, ...]
    entries: tuple[str, ...]
    args: argparse.Namespace
    request: Request
    judge: str | None


def ask(name: str, args: argparse.Namespace, source: RunFolder | None = None) -> Asked:
    """The request for an experiment's arms under the command line's flags.

    Args:
        source: a run; if given, the request is for the reusing arms, which train on its images.

    Raises:
        UserError: a flag that the experiment sets itself, or a wrong flag.
    """
    experiment, arms = EXPERIMENTS[name], EXPERIMENTS[name].arms
    _check_flags(name, args)
    if source is not None:
        args = copy.copy(args)
        args.save_full_size = 0  # these make no images
        taken = {"synthetic_from": str(source.path)}
        arms = tuple(
            dataclasses.replace(arm, settings={**arm.settings, **taken})
            for arm in experiment.reusing
        )
    args = _with_defaults(experiment, args)
    request = request_of(args)
    entries = tuple(_entry(arm, request) for arm in arms)
    judge = label_of("GALOT", {"mode": "full"}) if experiment.judged else None
    args.once = (judge,) if judge else ()
    args.strategy = [*entries, *args.once]
    return Asked(arms, entries, args, request_of(args), judge)


def _check_flags(name: str, args: argparse.Namespace) -> None:
    """Check for flags that the experiment sets itself.

    Raises:
        UserError: there is one.
    """
    experiment = EXPERIMENTS[name]
    for flag in ("strategy", "mode"):
        if getattr(args, flag) is not None:
            raise UserError(f"--{flag}: --experiment {name} sets it; leave it out")
    if args.class_names is not None and args.dataset is None:
        raise UserError(f"--class-names FILE: --experiment {name} needs a data set: add --dataset")
    arms = (*experiment.arms, *experiment.reusing)
    own = {k for arm in arms for k, v in arm.settings.items() if not isinstance(v, Times)}
    for key in sorted(own):
        if getattr(args, f"config_{key}", None) is not None:
            flag = f"--{key.replace('_', '-')}"
            raise UserError(f"{flag}: --experiment {name} varies or fixes it; leave it out")


def _with_defaults(experiment: Experiment, args: argparse.Namespace) -> argparse.Namespace:
    """A copy of the flags, with the seeds and budget of the scale and the experiment as
    defaults."""
    args = copy.copy(args)
    args.strategy = ["RandomSampling"]
    small = args.scale == "small"
    if small and args.seeds is None and args.seed is None and args.trials is None:
        args.seeds = [0]
    for name, value in zip(("n_init", "n_query"), experiment.budget or (), strict=False):
        if getattr(args, f"config_{name}") is None:
            setattr(args, f"config_{name}", value)
    if args.config_n_rounds is None and args.config_quota is None:
        usual = _config(request_of(args), "RandomSampling").n_rounds
        rounds = experiment.budget[2] if experiment.budget else usual
        most = rounds if experiment.cycles is None else experiment.cycles - 1
        wanted = min(rounds, most, 1 if small else most)
        if wanted != usual:
            args.config_n_rounds = wanted
    return args


def _config(request: Request, entry: str) -> RunConfig:
    """The configuration of a strategy entry."""
    parsed = parse_entry(entry, request)
    return configure(request, parsed, parsed.mode or default_mode(parsed))


def _entry(arm: Arm, request: Request) -> str:
    """An arm in the form of --strategy."""
    plain = {k: v for k, v in arm.settings.items() if not isinstance(v, Times | PerClass)}
    usual = _config(request, _written(arm.strategy, plain))
    values = {}
    for key, value in arm.settings.items():
        if isinstance(value, Times):
            value = type(getattr(usual, key))(value.factor * getattr(usual, key))
        elif isinstance(value, PerClass):
            value = value.count * len(request.dataset.class_names)
        values[key] = value
    return _written(arm.strategy, values)


def _written(strategy: str, settings: Mapping[str, Any]) -> str:
    return label_of(strategy, {k: setting_text(v) for k, v in settings.items()})


def _label(arm: Arm, config: RunConfig) -> str:
    """The arm's label, with values in place of <field>."""

    def value(match: re.Match) -> str:
        found = getattr(config, match[1])
        return f"{found:g}" if isinstance(found, float) else str(found)

    return re.sub(r"<(\w+)>", value, arm.label)


# -- running them --------------------------------------------------------------------------------


def run_experiments(args: argparse.Namespace) -> tuple[list[RunFolder], list[Exhibit]]:
    """Play the unfinished runs of --experiment.

    Args:
        args: the command line's; its flags apply to every arm that does not vary them.

    Returns:
        The runs' folders, and the exhibits.

    Raises:
        UserError: an error of any run, or a flag that an experiment sets itself.
    """
    names = named(args.experiment)
    spec = _check_all(names, args)
    folders: list[RunFolder] = []
    exhibits = []
    for i, name in enumerate(names, start=1):
        title = EXPERIMENTS[name].title
        print(f"experiment {name} ({i} of {len(names)}): {title}", file=sys.stderr)
        played, exhibit = _run(name, args, spec)
        folders += played
        exhibits.append(exhibit)
    return list({folder.path: folder for folder in folders}.values()), exhibits


def _check_all(names: Sequence[str], args: argparse.Namespace) -> DatasetSpec:
    """Plan all experiments, so that errors show before the first run; returns their data.

    Raises:
        UserError: an error in planning, or --baseline is not the label of an arm.
    """
    labels, spec = [], None
    for name in names:
        asked = ask(name, args)
        plan = make_plan(asked.request, download=False, spec=spec)
        spec = plan.spec
        labels += [arm.label for arm in _arms(name, asked, plan)]
        labels += [arm.label for arm in EXPERIMENTS[name].reusing]
    if args.baseline is not None and args.baseline not in labels:
        hint = did_you_mean(args.baseline, labels)
        raise UserError(f"--baseline {args.baseline!r}: no such arm: {hint}")
    return spec


def _run(name: str, args: argparse.Namespace, spec: DatasetSpec) -> tuple[list[RunFolder], Exhibit]:
    """Play one experiment. Its exhibit is written before the runs, so that a report made meanwhile
    shows the finished ones. With reusing arms, it is written after the first campaign."""
    asked = ask(name, args)
    plan = make_plan(asked.request, spec=spec)
    if EXPERIMENTS[name].kind == "one_class":
        save_real_examples(plan.spec, args.output)
    exhibit = _exhibit(name, asked, plan)
    if not EXPERIMENTS[name].reusing:
        exhibit.save(args.output)
        return _play(asked, plan), exhibit
    folders = _play(asked, plan)
    again = ask(name, args, _source(asked, plan, args.output))
    plan = make_plan(again.request, spec=spec)
    exhibit = dataclasses.replace(exhibit, arms=exhibit.arms + _arms(name, again, plan))
    exhibit.save(args.output)
    return folders + _play(again, plan), exhibit


def _play(asked: Asked, plan: Plan) -> list[RunFolder]:
    campaign = Campaign(asked.request, plan)
    folders = play_all(campaign, asked.args)
    campaign.free()
    return folders


def _source(asked: Asked, plan: Plan, output: Path) -> RunFolder:
    """The run whose images are reused: the last arm's, with the first seed. It must be finished."""
    return RunFolder.open(plan.by_entry[asked.entries[-1]][0].folder(output))


def _exhibit(name: str, asked: Asked, plan: Plan) -> Exhibit:
    experiment, arms = EXPERIMENTS[name], _arms(name, asked, plan)
    baseline = None if experiment.baseline is None else arms[experiment.baseline].label
    judge = plan.by_entry[asked.judge][0] if asked.judge else None
    return Exhibit(
        name,
        experiment.title,
        experiment.kind,
        plan.spec.name,
        arms,
        baseline,
        _method_folder(judge, asked) if judge else None,
        experiment.notes if is_the_papers(plan.spec) else (),
    )


def _arms(name: str, asked: Asked, plan: Plan) -> tuple[ExhibitArm, ...]:
    """The arms with their folders, and with the paper's row if they may be compared with it."""
    made = []
    for arm, entry, alike in zip(asked.arms, asked.entries, comparable(name, asked), strict=True):
        run = plan.by_entry[entry][0]
        paper = arm.paper if alike and is_the_papers(plan.spec) else None
        made.append(ExhibitArm(_label(arm, run.config), _method_folder(run, asked), paper))
    return tuple(made)


def _method_folder(run: Run, asked: Asked) -> str:
    """<data set>/<strategy>/<fingerprint>."""
    output = asked.args.output
    return run.folder(output).parent.relative_to(output).as_posix()


def comparable(name: str, asked: Asked) -> list[bool]:
    """Whether each arm is what the paper ran: the same as without any flag but the data set."""
    plain = copy.copy(asked.args)
    for key in vars(plain):
        if key.startswith("config_"):
            setattr(plain, key, None)
    plain.protocol, plain.class_names, plain.scale = None, None, None
    request = request_of(_with_defaults(EXPERIMENTS[name], plain))
    theirs = [_identity(request, _entry(arm, request)) for arm in asked.arms]
    request = asked.request
    return [_identity(request, e) == t for e, t in zip(asked.entries, theirs, strict=True)]


def _identity(request: Request, entry: str) -> dict[str, Any]:
    """Everything that defines a run, except its seed, data and weights."""
    config = _config(request, entry)
    made_by = (config.generator, request.words) if config.uses_generated_images else None
    return config.fields_read() | {"protocol": config.protocol, "made by": made_by}


# -- costs ---------------------------------------------------------------------------------------


def list_experiments(args: argparse.Namespace) -> Iterator[str]:
    """Lines: for each experiment its title, the rows of the paper it mirrors, and its remaining
    cost on --dataset."""
    request = request_of(args)  # raises for an unknown data set, before the list starts
    said, spec = set(), None
    with contextlib.suppress(UserError):  # said with the first cost
        spec = load_dataset(request.dataset, request.data_dir)
    for name, experiment in EXPERIMENTS.items():
        alias = "".join(f" (or {a})" for a, of in ALIASES.items() if name in of)
        yield f"{name}{alias}: {experiment.title}"
        yield f"    {experiment.mirrors}"
        try:
            cost = _cost(name, args, spec)
        except UserError as error:  # mostly missing data; the list goes on
            again = str(error) in said
            said.add(str(error))
            cost = "cost not known" + ("" if again else f": {error}")
        yield f"    {cost}"
    yield ""
    yield (
        f"Costs: --dataset {args.dataset or 'Digits'}, --scale {args.scale or 'full'}; what is "
        f"finished in {args.output} is taken off, what several share is counted in each. The time "
        f"on this machine: --experiment NAME --dry-run."
    )


def _cost(name: str, args: argparse.Namespace, spec: DatasetSpec | None) -> str:
    """One line with the remaining work."""
    asked = ask(name, args)
    plan = make_plan(asked.request, download=False, spec=spec)
    counted = costs_of(plan, args.output)
    seeds = len(asked.request.seeds)
    reusing = EXPERIMENTS[name].reusing
    runs, done = len(counted) + len(reusing) * seeds, sum(c.finished for c in counted)
    work, flop, _ = totals(counted)
    more = " without the fits on reused images" if reusing else ""
    known = f"{two_digits(flop / 1e15)} PFLOP{more}" if flop is not None else "PFLOP not known"
    finished = f", {done} of them finished" if done else ""
    many = f"{runs} run{'s' * (runs > 1)} of {seeds} seed{'s' * (seeds > 1)}"
    return (
        f"{many}{finished}: {work.fits:,} fits, "
        f"{work.images:,} images, {work.chains:,} chains, {known}"
    )


def dry_run_experiments(args: argparse.Namespace) -> Iterator[str]:
    """The --dry-run table of each experiment."""
    spec = None
    for name in named(args.experiment):
        asked = ask(name, args)
        plan = make_plan(asked.request, download=False, spec=spec)
        spec = plan.spec
        yield f"{name}: {EXPERIMENTS[name].title}"
        yield from Campaign(asked.request, plan).dry_run()
        if EXPERIMENTS[name].reusing:
            more = len(EXPERIMENTS[name].reusing) * len(asked.request.seeds)
            yield f"and {more} runs that train on its images; no image is made for them."
        yield ""
