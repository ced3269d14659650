"""The paper's tables and figures (arXiv 2412.16227), each as a campaign of ordinary runs; and
further experiments of this project.

An experiment names its arms in the form of --strategy. Runs that experiments share are played once.
Where the paper varies a number, an arm multiplies the value of the data set's protocol. So Table
4's ε = 10, twenty times the paper's 0.5, is twenty times the protocol's ε with any generator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from generators.prompts import TEMPLATES

from .config import usual_values
from .errors import UserError, did_you_mean
from .protocols import PROTOCOLS


@dataclass(frozen=True)
class Times:
    """A multiple of the arm's usual value."""

    factor: float


@dataclass(frozen=True)
class PerClass:
    """This many for each class of the data set."""

    count: int


@dataclass(frozen=True)
class Arm:
    """One row or curve.

    Attributes:
        label: its name in the exhibit; <epsilon> in it is replaced by the value of that setting.
        strategy: the strategy's name.
        settings: the strategy's, over the command line's.
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
        mirrors: the part of the paper, and its data sets.
        arms: in the paper's order.
        baseline: index of the arm that the others are compared with; None for the usual one, see
            Comparison.reference.
        cycles: most rounds to play; None for the protocol's number.
        budget: (n_init, n_query, n_rounds) in place of the protocol's.
        kind: see report.exhibit.
        reusing: arms that train on the images of the last arm, in a second campaign.
        judged: whether it needs a classifier of all real labels, as a judge.
        notes: missing or doubtful numbers in the paper, shown for its data sets.
    """

    title: str
    mirrors: str
    arms: tuple[Arm, ...]
    baseline: int | None = None
    cycles: int | None = None
    budget: tuple[int, int, int] | None = None
    kind: str = "curves"
    reusing: tuple[Arm, ...] = ()
    judged: bool = False
    notes: tuple[str, ...] = ()


def _galot(label: str, paper: tuple[str, str] | None = None, **settings: Any) -> Arm:
    return Arm(label, "GALOT", settings, paper)


# The rows of the paper's Table 1, with its names; the meaning of `--strategy all`.
TABLE1 = ("GAAL", "RandomSampling", "EntropySampling", "MarginSampling", "LeastConfidence", "BALD",
          "BADGE", "MeanSTD", "VarRatio", "KMeans", "CoreSet", "LossPrediction", "GALOT (basic)",
          "GALOT")  # fmt: skip


def _table1() -> tuple[Arm, ...]:
    """The paper's fourteen rows, and a control for the last."""
    # Not compared: the paper's GAAL is its SVM's accuracy, ours is the common network's.
    arms = (Arm(n, n, paper=None if n == "GAAL" else ("table1", n)) for n in TABLE1)
    return (*arms, CONTROL)


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
    """An arm for each multiple of ε, with its row of Table 4 if there is one."""
    return tuple(
        _galot("ε = <epsilon>", row and ("table4", row), epsilon=Times(factor), **settings)
        for factor, row in factors.items()
    )


def _pseudo_labels() -> tuple[Arm, ...]:
    """Ten images a class for each template and ε, with random directions."""
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

BANK = 4  # multiple of N_GAL
_BANK = {"epsilon": 0.0, "oversample": float(BANK)}


def _matched(budget: tuple[int, int, int]) -> Experiment:
    """Arms: plain images, the paper's ascent, a text for each image, and ways to choose from a
    bank."""
    return Experiment(
        "Generated images matched to the unlabeled pool",
        f"not in the paper: {budget[0]} + {budget[2]} × {budget[1]} labels, A_AL = Margin",
        (
            _galot("plain", epsilon=0.0),
            Arm("no image", "MarginSampling"),
            _galot("highest margin of the bank", keep="acquisition", **_BANK),
            _galot("nearest to the pool, not aligned", keep="pool", **_BANK),
            _galot("aligned, not chosen", epsilon=0.0, align="pool"),
            Arm("GALOTMatched", "GALOTMatched", {"oversample": float(BANK)}),
            _galot("all of the bank", epsilon=0.0, n_synthetic=Times(BANK)),
            _galot("all of the bank, aligned", epsilon=0.0, align="pool", n_synthetic=Times(BANK)),
            _galot("GALOT (paper)"),
            _galot("a text for each image", text_per="image"),
        ),
        baseline=0,
        budget=budget,
        judged=True,
    )


def _recipes() -> tuple[Arm, ...]:
    """The paper's recipe, and the changes of protocol modern in two steps."""
    modern = PROTOCOLS["modern"].sets
    kept = ("optimizer", "momentum", "weight_decay")
    paper = {key: usual_values()[key] for key in (*kept, *modern)}
    averaged = paper | {key: modern[key] for key in ("schedule", "lr", "ema")}
    return (
        Arm("the paper's recipe", "RandomSampling", paper),
        Arm("one-cycle and averaged weights", "RandomSampling", averaged),
        Arm("modern: label smoothing and RandAugment, too", "RandomSampling", paper | modern),
    )


EXPERIMENTS: dict[str, Experiment] = {
    "table1": Experiment(
        "GALOT beside twelve baselines", "Table 1 on CIFAR10, CIFAR100, TinyImageNet: all rows",
        _table1(), baseline=3,
        notes=("the paper's GAAL is its SVM's accuracy, a line of its own here: not compared",),
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
    "matched20": _matched((20, 20, 9)),
    "matched50": _matched((50, 50, 5)),
    "recipes": Experiment(
        "Training recipes, by random labels",
        "not in the paper: its recipe and what --protocol modern changes of it",
        _recipes(), baseline=0, cycles=1,
    ),
}  # fmt: skip
ALIASES = {"table9": ("fig4",), "matched": ("matched20", "matched50")}


def named(names: Sequence[str]) -> list[str]:
    """The experiments that --experiment names. "all" means all of them, the paper's first and in
    its order.

    Raises:
        UserError: an unknown name.
    """
    known = [*EXPERIMENTS, *ALIASES, "all"]
    chosen: list[str] = []
    for name in map(str.casefold, names):
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"--experiment {name!r}: {hint} (--list-experiments says what each is)")
        chosen += EXPERIMENTS if name == "all" else ALIASES.get(name, (name,))
    return list(dict.fromkeys(chosen))
