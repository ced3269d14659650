"""The paper's tables and figures (arXiv 2412.16227), each as a campaign of ordinary runs.

An experiment names its arms as --strategy would; what two experiments share is run once. Where the
paper varies a number, an arm varies it as a multiple of what the data set's protocol has, so that
Table 4's ε = 10, twenty times the paper's 0.5, is as far on any generator.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generators.prompts import TEMPLATES

from . import registry
from .campaign import Campaign, dry_run
from .config import RunConfig
from .cost_table import three
from .costs import costs_of, totals
from .errors import UserError
from .jobs import run_at_once
from .plan import Plan, Request, Run, configure, default_mode, make_plan, parse_strategy
from .report.exhibit import Exhibit, ExhibitArm, paper_numbers, save_real_examples
from .request import request_of
from .results import RunFolder, label_of

SCALES = ("full", "small")  # small: one seed, two budgets


@dataclass(frozen=True)
class Times:
    """A multiple of the value that the arm would have without."""

    factor: float


@dataclass(frozen=True)
class PerClass:
    """So many for each class of the data set."""

    count: int


@dataclass(frozen=True)
class Arm:
    """One row or curve.

    Attributes:
        label: what the exhibit calls it; <epsilon> in it stands for the value of that setting.
        strategy: its name.
        settings: of it, over the command line's.
        paper: (table, row) of the paper's numbers, if it prints any.
    """

    label: str
    strategy: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    paper: tuple[str, str] | None = None


@dataclass(frozen=True)
class Experiment:
    """A table or figure.

    Attributes:
        title: what it shows.
        mirrors: which part of the paper, on which data sets.
        arms: in the paper's order.
        baseline: number of the arm that the others are compared with; None for the first that
            learns from real images alone.
        cycles: at most so many; None for as many as the protocol has.
        kind: see report.exhibit.
        reusing: arms that train on the images of the arm before them, in a second campaign.
        judged: whether a classifier of all real labels belongs to it.
        notes: what is lost or doubtful in the paper, for its data sets.
    """

    title: str
    mirrors: str
    arms: tuple[Arm, ...]
    baseline: int | None = None
    cycles: int | None = None
    kind: str = "curves"
    reusing: tuple[Arm, ...] = ()
    judged: bool = False
    notes: tuple[str, ...] = ()


def _galot(label: str, paper: tuple[str, str] | None = None, **settings: Any) -> Arm:
    return Arm(label, "GALOT", settings, paper)


def _table1() -> tuple[Arm, ...]:
    """The paper's fourteen rows, and the control of the last."""
    names = ("GAAL", "RandomSampling", "EntropySampling", "MarginSampling", "LeastConfidence",
             "BALD", "BADGE", "MeanSTD", "VarRatio", "KMeans", "CoreSet", "LossPrediction",
             "GALOT (basic)", "GALOT")  # fmt: skip
    return (*(Arm(name, name, paper=("table1", name)) for name in names), CONTROL)


CONTROL = _galot("GALOT, ε = 0 (control)", epsilon=Times(0))
MARGIN = Arm("MarginSampling", "MarginSampling", paper=("table1", "MarginSampling"))
GALOT = _galot("GALOT", ("table1", "GALOT"))
ALL_LABELS = _galot("fully supervised", ("table1", "fully supervised"), mode="full")
LABEL = TEMPLATES["label"]
ELLIPSIS = "a recent color photograph of a {label}, ultra detailed, …"  # as the paper prints it


def _templates() -> Iterator[Arm]:
    for name, text in TEMPLATES.items():
        printed = ELLIPSIS if name == "detailed" else text
        yield _galot(printed, ("table3", printed), template=text)


def _epsilons(factors: Mapping[float, str | None], **settings: Any) -> tuple[Arm, ...]:
    """An arm for each multiple of ε, with its row of Table 4 if it has one."""
    return tuple(
        _galot("ε = <epsilon>", row and ("table4", row), epsilon=Times(factor), **settings)
        for factor, row in factors.items()
    )


def _pseudo_labels() -> tuple[Arm, ...]:
    """Ten images a class for each template and ε, moved in random directions."""
    fixed = {"mode": "gal", "direction": "random", "epsilon_schedule": "constant", "n_rounds": 1}
    fixed |= {"n_init": PerClass(5), "n_query": PerClass(5), "n_synthetic": 1.0}
    return tuple(
        _galot(f"{text}, ε = <epsilon>", template=text, epsilon=Times(factor), **fixed)
        for text in TEMPLATES.values()
        for factor in (0, 1, 2, 20)
    )


TARGETS = {"random": {"direction": "random"}, "entropy": {"text_target": "entropy"}, "margin": {},
           "least confidence": {"text_target": "least_confidence"}}  # fmt: skip
NETWORKS = {"vgg16": "VGG16", "densenet121": "DenseNet121", "mobilenetv2": "MobileNetv2",
            "dla": "DLA"}  # fmt: skip
EXAMPLES = "Random training images of random classes, from the last cycle of Table 1's GALOT"

EXPERIMENTS: dict[str, Experiment] = {
    "table1": Experiment(
        "GALOT beside twelve baselines", "Table 1 on CIFAR10, CIFAR100, TinyImageNet: all rows",
        _table1(), baseline=3,
    ),
    "fig3": Experiment(
        "Real images, generated images, both, and every label",
        "Figure 3: AL, GAL, AL+GAL, fully supervised, on the three data sets",
        (dataclasses.replace(MARGIN, label="AL"), _galot("GAL", mode="gal"),
         dataclasses.replace(GALOT, label="AL+GAL"), CONTROL, ALL_LABELS),
        notes=("the paper draws GAL as a curve only; the others' numbers are its Table 1's",),
    ),
    "table2": Experiment(
        "Images made for one network, used by others",
        "Table 2 on CIFAR10: VGG16, DenseNet121, MobileNetV2, DLA on ResNet18's images",
        (dataclasses.replace(MARGIN, paper=("table2", "MarginSampling")),
         Arm("LeastConfidence", "LeastConfidence", paper=("table2", "LeastConfidence")),
         _galot("<classifier>, which made the images", ("table2", "Baseline (Resnet 18)"))),
        reusing=tuple(_galot(f"{shown} on them", ("table2", shown), classifier=name)
                      for name, shown in NETWORKS.items()),
    ),
    "table3": Experiment(
        "Six templates", "Table 3 on CIFAR10: all rows", tuple(_templates()), baseline=2, cycles=5,
    ),
    "table4": Experiment(
        "ε of the text optimisation", "Table 4 on CIFAR10: ε = 0, 0.25, 0.5, 1, 10",
        _epsilons({0: "0", 0.5: "0.25", 1: "0.50", 2: "1.00", 20: "10.00"}), baseline=0, cycles=5,
    ),
    "fig4": Experiment(
        "Accuracy of the pseudo-labels, by template and ε",
        "Figure 4 and Table 9 on CIFAR10: six templates, 10 images a class, random directions",
        _pseudo_labels(), kind="pseudo_labels", judged=True,
        notes=("the three ε of the paper's Table 9 are lost: nothing of it is compared",),
    ),
    "fig5": Experiment(
        "What the text optimisation raises", "Figure 5 on CIFAR10: four A_GAL, A_AL = Margin",
        tuple(_galot(f"A_GAL = {name}", template=LABEL, **own) for name, own in TARGETS.items()),
        baseline=0, cycles=5, notes=("the paper draws curves only",),
    ),
    "fig6": Experiment(
        "How many images", "Figure 6 on CIFAR10: N_GAL × 0.5, × 1, × 2",
        tuple(_galot("N_GAL = <n_synthetic> |L|", template=LABEL, n_synthetic=Times(f))
              for f in (0.5, 1, 2)),
        baseline=1, cycles=5, notes=("the paper draws curves only",),
    ),
    "table5": Experiment(
        "Twice as many training steps", "Table 5 on CIFAR10: 300 and 600 epochs, GALOT",
        (Arm("MarginSampling, <epochs> epochs", "MarginSampling", {"epochs": Times(1)},
             ("table5", "MarginSampling (300 epochs)")),
         Arm("MarginSampling, <epochs> epochs", "MarginSampling",
             {"epochs": Times(2), "min_steps": Times(2)},
             ("table5", "MarginSampling (600 epochs)")),
         _galot("GALOT, <epochs> epochs", ("table5", "GALOT (300 epochs)"), epochs=Times(1))),
        baseline=0,
    ),
    "table6": Experiment(
        "Make 2|L|, keep |L|", "Table 6 on CIFAR10: both rows",
        (_galot("make <n_synthetic> |L|", ("table6", "Gen |L|/ Sample |L|"), n_synthetic=Times(1)),
         _galot("make twice that, keep half", ("table6", "Gen 2|L|/ Sample |L|"), oversample=2.0)),
        baseline=0, cycles=5,
    ),
    "table7": Experiment(
        "A_GAL = A_AL varied", "Table 7 on CIFAR10: margin, random, entropy",
        (_galot("MarginSampling", ("table7", "MarginSampling")),
         _galot("RandomSampling", ("table7", "RandomSampling"), base_sampler="RandomSampling",
                direction="random"),
         _galot("EntropySampling", ("table7", "EntropySampling"), base_sampler="EntropySampling",
                text_target="entropy")),
        baseline=0, cycles=5,
    ),
    "fig7": Experiment(
        "One class across ε", "Figure 7 on CIFAR10: generated beside real images",
        _epsilons(dict.fromkeys((0, 0.5, 1, 2, 20)), template=LABEL, n_rounds=0), baseline=0,
        kind="one_class",
    ),
    "fig8": Experiment(EXAMPLES, "Figure 8 on CIFAR10", (GALOT,), kind="examples"),
    "fig9": Experiment(EXAMPLES, "Figure 9 on CIFAR100", (GALOT,), kind="examples"),
    "fig10": Experiment(EXAMPLES, "Figure 10 on TinyImageNet", (GALOT,), kind="examples"),
}  # fmt: skip
ALIASES = {"table9": "fig4"}


# -- an experiment as the command line would ask for it -------------------------------------------


def named(names: Sequence[str]) -> list[str]:
    """The experiments that --experiment names; "all" is every one, in the order of the paper.

    Raises:
        UserError: an unknown name.
    """
    known = [*EXPERIMENTS, *ALIASES, "all"]
    chosen: list[str] = []
    for name in map(str.casefold, names):
        if name not in known:
            hint = registry.did_you_mean(name, known)
            raise UserError(f"--experiment {name!r}: {hint} (--list-experiments says what each is)")
        chosen += EXPERIMENTS if name == "all" else [ALIASES.get(name, name)]
    return list(dict.fromkeys(chosen))


@dataclass(frozen=True)
class Asked:
    """Some arms of an experiment, asked for.

    Attributes:
        arms: which.
        entries: of each, what --strategy would say.
        args: the whole command line that would do the same, the judge's strategy included.
        judge: the judge's entry; None if none belongs to it.
    """

    arms: tuple[Arm, ...]
    entries: tuple[str, ...]
    args: argparse.Namespace
    judge: str | None

    @property
    def request(self) -> Request:
        return request_of(self.args)


def ask(name: str, args: argparse.Namespace, source: RunFolder | None = None) -> Asked:
    """An experiment's arms under the flags of the command line.

    Args:
        source: the run whose images the reusing arms train on; then these are asked for.

    Raises:
        UserError: a flag that the experiment sets itself, or one that is wrong anyhow.
    """
    experiment, arms = EXPERIMENTS[name], EXPERIMENTS[name].arms
    _check_flags(name, args)
    if source is not None:
        taken = {"synthetic_from": str(source.path)}
        arms = tuple(
            dataclasses.replace(arm, settings={**arm.settings, **taken})
            for arm in experiment.reusing
        )
    args = _with_defaults(experiment, args)
    request = request_of(args)
    entries = tuple(_entry(arm, request) for arm in arms)
    judge = label_of("GALOT", {"mode": "full"}) if experiment.judged else None
    args.strategy = [*entries, *([judge] if judge else [])]
    return Asked(arms, entries, args, judge)


def _check_flags(name: str, args: argparse.Namespace) -> None:
    """
    Raises:
        UserError: a flag that speaks of what the experiment sets itself.
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
    """A copy with the seeds and rounds of the scale and the experiment, where none are given."""
    args = copy.copy(args)
    args.strategy, small = ["RandomSampling"], args.scale == "small"
    if small and args.seeds is None and args.seed is None and args.trials is None:
        args.seeds = [0]
    if args.config_n_rounds is None and args.config_quota is None:
        usual = _config(request_of(args), "RandomSampling").n_rounds
        most = 1 if small else usual if experiment.cycles is None else experiment.cycles - 1
        if most < usual:
            args.config_n_rounds = most
    return args


def _config(request: Request, entry: str) -> RunConfig:
    """What a strategy with its own settings would be."""
    cls, own = parse_strategy(entry)
    return configure(request, cls, own.pop("mode", default_mode(cls)), own)


def _entry(arm: Arm, request: Request) -> str:
    """What --strategy would say."""
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
    texts = {k: f"{v:.12g}" if isinstance(v, float) else str(v) for k, v in settings.items()}
    return label_of(strategy, texts)


def _label(arm: Arm, config: RunConfig) -> str:
    """The arm's label with the values that it names."""

    def value(match: re.Match) -> str:
        found = getattr(config, match[1])
        return f"{found:g}" if isinstance(found, float) else str(found)

    return re.sub(r"<(\w+)>", value, arm.label)


# -- running them --------------------------------------------------------------------------------


def run_experiments(args: argparse.Namespace) -> tuple[list[RunFolder], list[Exhibit]]:
    """Play what --experiment names, where it is not finished yet.

    Args:
        args: the command line's; its flags hold for every arm that does not vary them.

    Returns:
        The runs' folders, and what they show.

    Raises:
        UserError: of any run; or a flag that an experiment sets itself.
    """
    names = named(args.experiment)
    for name in names:  # what is wrong anywhere shows before the first run
        ask(name, args)
    folders: list[RunFolder] = []
    exhibits = []
    for i, name in enumerate(names, start=1):
        title = EXPERIMENTS[name].title
        print(f"experiment {name} ({i} of {len(names)}): {title}", file=sys.stderr)
        played, exhibit = _run(name, args)
        folders += played
        exhibits.append(exhibit)
    return list({folder.path: folder for folder in folders}.values()), exhibits


def _run(name: str, args: argparse.Namespace) -> tuple[list[RunFolder], Exhibit]:
    """One experiment; its exhibit is written as soon as all its arms are known, so that a report
    shows what is there."""
    asked = ask(name, args)
    plan = make_plan(asked.request)
    save_real_examples(plan.spec, args.output)
    exhibit = _exhibit(name, asked, plan)
    if not EXPERIMENTS[name].reusing:
        exhibit.save(args.output)
        return _play(asked, plan), exhibit
    folders = _play(asked, plan)
    again = ask(name, args, _source(asked, plan, args.output))
    plan = make_plan(again.request)
    exhibit = dataclasses.replace(exhibit, arms=exhibit.arms + _arms(name, again, plan))
    exhibit.save(args.output)
    return folders + _play(again, plan), exhibit


def _play(asked: Asked, plan: Plan) -> list[RunFolder]:
    campaign = Campaign(asked.request, plan)
    folders = campaign.run() if asked.args.jobs == 1 else run_at_once(campaign, asked.args)
    campaign.free()
    return folders


def _source(asked: Asked, plan: Plan, output: Path) -> RunFolder:
    """The last arm's run of the first seed, whose images are reused; it must be finished."""
    return RunFolder.open(plan.by_entry[asked.entries[-1]][0].folder(output))


def _exhibit(name: str, asked: Asked, plan: Plan) -> Exhibit:
    experiment, arms = EXPERIMENTS[name], _arms(name, asked, plan)
    baseline = None if experiment.baseline is None else arms[experiment.baseline].label
    judge = plan.by_entry[asked.judge][0] if asked.judge else None
    of_paper = any(dataset == plan.spec.name for _, dataset, _ in paper_numbers())
    return Exhibit(
        name, experiment.title, experiment.kind, plan.spec.name, arms, baseline,
        _method_folder(judge, asked) if judge else None, experiment.notes if of_paper else (),
    )  # fmt: skip


def _arms(name: str, asked: Asked, plan: Plan) -> tuple[ExhibitArm, ...]:
    """The arms as they lie on disk, with the paper's row where it may be compared."""
    made = []
    for arm, entry, alike in zip(asked.arms, asked.entries, comparable(name, asked), strict=True):
        run, paper = plan.by_entry[entry][0], arm.paper if alike else None
        made.append(ExhibitArm(_label(arm, run.config), _method_folder(run, asked), paper))
    return tuple(made)


def _method_folder(run: Run, asked: Asked) -> str:
    """<data set>/<strategy>/<fingerprint>."""
    output = asked.args.output
    return run.folder(output).parent.relative_to(output).as_posix()


def comparable(name: str, asked: Asked) -> list[bool]:
    """Whether each arm is what the paper ran: as it would be with no flag but the data set."""
    plain = copy.copy(asked.args)
    for key in vars(plain):
        if key.startswith("config_"):
            setattr(plain, key, None)
    plain.protocol, plain.class_names, plain.scale = None, None, "full"
    request = request_of(_with_defaults(EXPERIMENTS[name], plain))
    theirs = [_identity(request, _entry(arm, request)) for arm in asked.arms]
    request = asked.request
    return [_identity(request, e) == t for e, t in zip(asked.entries, theirs, strict=True)]


def _identity(request: Request, entry: str) -> dict[str, Any]:
    """What makes a run this one and no other, its seed, data and weights aside."""
    config = _config(request, entry)
    made_by = (config.generator, request.words) if config.uses_generated_images else None
    return config.fields_read() | {"protocol": config.protocol, "made by": made_by}


# -- what they cost ------------------------------------------------------------------------------


def list_experiments(args: argparse.Namespace) -> Iterator[str]:
    """Lines: of each experiment what it is, which rows of the paper it mirrors, and what is left
    to pay for it on --dataset."""
    known = True
    for name, experiment in EXPERIMENTS.items():
        alias = "".join(f" (or {a})" for a, of in ALIASES.items() if of == name)
        yield f"{name}{alias}: {experiment.title}"
        yield f"    {experiment.mirrors}"
        try:
            cost = _cost(name, args) if known else "cost not known"
        except UserError as error:  # most often data that are not here; the list is wanted anyhow
            known, cost = False, f"cost not known: {error}"
        yield f"    {cost}"
    yield ""
    yield (
        f"Costs: --dataset {args.dataset or 'Digits'}, --scale {args.scale}; what is finished in "
        f"{args.output} is taken off, what several share is counted in each. The time on this "
        f"machine: --experiment NAME --dry-run."
    )


def _cost(name: str, args: argparse.Namespace) -> str:
    """One line of what is left to do."""
    asked = ask(name, args)
    plan = make_plan(asked.request, download=False)
    counted = costs_of(plan, args.output)
    seeds = len(asked.request.seeds)
    reusing = EXPERIMENTS[name].reusing
    runs, done = len(counted) + len(reusing) * seeds, sum(c.finished for c in counted)
    work, flop, _ = totals(counted)
    more = " without the fits on reused images" if reusing else ""
    known = f"{three(flop / 1e15)} PFLOP{more}" if flop is not None else "PFLOP not known"
    finished = f", {done} of them finished" if done else ""
    many = f"{runs} run{'s' * (runs > 1)} of {seeds} seed{'s' * (seeds > 1)}"
    return (
        f"{many}{finished}: {work.fits:,} fits, "
        f"{work.images:,} images, {work.chains:,} chains, {known}"
    )


def dry_run_experiments(args: argparse.Namespace) -> Iterator[str]:
    """The table of --dry-run for each experiment."""
    for name in named(args.experiment):
        asked = ask(name, args)
        plan = make_plan(asked.request, download=False)
        yield f"{name}: {EXPERIMENTS[name].title}"
        yield from dry_run(Campaign(asked.request, plan))
        if EXPERIMENTS[name].reusing:
            more = len(EXPERIMENTS[name].reusing) * len(asked.request.seeds)
            yield f"and {more} runs that train on its images; no image is made for them."
        yield ""
