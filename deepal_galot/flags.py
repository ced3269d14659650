"""Every flag of the command line. The configuration's flags are made from its fields, and parsed
back."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import registry
from .config import (
    BUDGET,
    COMPILED_FROM,
    GALOT,
    GENERATOR,
    STRATEGY,
    TRAINING,
    RunConfig,
    field_type,
    option_fields,
)
from .errors import UserError, near
from .protocols import PROTOCOLS

SHORT = {"n_init": "-s", "n_query": "-b", "quota": "-q"}  # DeepALPlus's flags
PREFIX = "config_"  # of the configuration's fields among the parsed flags
DESCRIPTION = """\
Deep active learning with generated images (GALOT, arXiv 2412.16227) beside the classic strategies.
Without arguments: MarginSampling and GALOT on the embedded Digits, offline, in minutes."""
EPILOG = """\
A strategy may carry its own settings, so that variants stand in one table:
  run_benchmark.py --strategy MarginSampling GALOT GALOT:epsilon=0 GALOT:direction=random
Exit codes: 0 done; 2 bad input or a missing resource, said in one line; 130 interrupted (Ctrl-C);
143, 129, 138 asked to end (SIGTERM, SIGHUP, SIGUSR1); 141 nobody reads the output. After any of
them, kill -9 too, the same command goes on."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors of one line; an unknown flag gets a
    suggestion."""

    def error(self, message: str) -> None:
        raise UserError(message)

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = {flag.strip("-"): flag for flag in self._option_string_actions}
            hint = near(unknown[0].partition("=")[0].strip("-"), flags)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint and f': {hint}'}")
        return parsed


def build_parser() -> argparse.ArgumentParser:
    """The parser with all flags; those of the configuration get help, unit and default from its
    fields."""
    parser = Parser(
        prog="run_benchmark.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_what_to_run(parser.add_argument_group("what to run"))
    presets = {name: registry.strategies.get(name).preset for name in registry.strategies.names()}
    for title in (BUDGET, TRAINING, STRATEGY, GALOT, GENERATOR):
        add_fields(parser.add_argument_group(title), title, presets=presets)
    _add_where(parser.add_argument_group("where and how"))
    _add_report(parser.add_argument_group("what the report shows"))
    _add_instead(parser.add_argument_group("instead of running"))
    # once: strategies that an experiment plays with one seed; command: set by cli.main
    parser.set_defaults(once=(), command="")
    return parser


def _add_what_to_run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--strategy",
        "-a",
        nargs="+",
        metavar="NAME",
        help="strategies, or all: the fourteen of the paper's Table 1 (default: MarginSampling "
        "GALOT)",
    )
    add(
        "--dataset",
        "-d",
        metavar="NAME",
        help="data set: a name (see --list), a folder with train/CLASS/*.png and test/CLASS/*.png, "
        "or an .npz (default: Digits)",
    )
    add(
        "--class-names",
        metavar="FILE",
        type=Path,
        help="without --dataset: class names, one a line, in place of data; needs --mode gal and "
        "--image-size. With --dataset: words for its classes in prompts, one a line, or lines "
        "CLASS = WORD for some of them",
    )
    add(
        "--image-size",
        metavar="N",
        type=int,
        help="with --class-names, or a folder as --dataset: side of the classifier's input in "
        "pixels; images are resized to N×N",
    )
    add(
        "--test-data",
        metavar="FOLDER",
        type=Path,
        help="with --class-names: a sub-folder of test images for each class",
    )
    add("--seeds", nargs="+", metavar="K", type=_seed, help="run seeds (default: 0 1 2)")
    add("--seed", metavar="K", type=int, help="first of -t seeds K, K+1, …")
    add("-t", dest="trials", metavar="N", type=int, help="number of seeds, from --seed or 0")
    add(
        "--mode",
        metavar="MODE",
        help="what GALOT trains on: al (real), gal (generated), al+gal, or full (every label, one "
        "fit) (default: al+gal)",
    )
    add(
        "--protocol",
        metavar="NAME",
        help=f"{', '.join(PROTOCOLS)}: sets defaults (default: demo for Digits, else paper)",
    )
    add(
        "--experiment",
        nargs="+",
        metavar="NAME",
        help="tables and figures of the paper in place of --strategy, or all; see "
        "--list-experiments",
    )
    add(
        "--scale",
        choices=("full", "small"),
        help="of an experiment: small is one seed and two budgets, where --seeds and --n-rounds "
        "say nothing else (default: full)",
    )
    add(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file with a strategy, generator, data set or classifier; as NAME=FILE, what "
        "is in it gets that name; give it once for each file",
    )


def _add_where(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--output",
        metavar="DIR",
        type=_folder,
        default=Path("results"),
        help="results, image store and reports (default: results)",
    )
    add(
        "--data-dir",
        metavar="DIR",
        type=Path,
        default=Path("data"),
        help="data sets: downloads, or NAME.npz (default: data)",
    )
    add(
        "--save-full-size",
        metavar="N",
        type=int,
        default=0,
        help="keep the first N generated images of each class and round as the generator made "
        "them, as PNG below images/full/ (default: 0)",
    )
    add(
        "--device",
        metavar="NAME",
        default="auto",
        help="auto, cpu, cuda, cuda:1, mps (default: auto)",
    )
    add(
        "--jobs",
        metavar="N",
        type=int,
        help="runs at once, each in a process of its own with its share of the CPU's threads and "
        "of the GPU's memory; where each has as many threads, with the same bits (default: 1)",
    )
    _add_engine(add)
    add(
        "--deterministic",
        action="store_true",
        help="same bits on the same GPU, slower; a CPU always is",
    )
    add(
        "--compile",
        action="store_true",
        help=f"compile the generator, and on a GPU fits of {COMPILED_FROM:,} steps or more: faster "
        f"after minutes; needs a C++ compiler",
    )
    add(
        "--checkpointing",
        action="store_true",
        help="the ascent's gradient in less memory and more time",
    )


def _add_engine(add: Callable[..., object]) -> None:
    add(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="what plays the runs: this machine, or a Ray cluster whose nodes share --output, "
        "--data-dir and the models (default: local)",
    )
    add(
        "--address",
        metavar="HOST:PORT",
        help="with --engine ray: the cluster's, auto for the one that this node belongs to, or "
        "local for a new one of this machine alone (default: Ray's, auto or else local)",
    )
    add(
        "--gpus-per-run",
        metavar="X",
        type=float,
        help="with --engine ray: GPU of a run, or of an actor that draws; 0.5 puts two on one, "
        "each with its share of the memory (default: 1 if the cluster has GPUs, else 0)",
    )
    add(
        "--cpus-per-run",
        metavar="N",
        type=int,
        help="with --engine ray: CPU cores of each, which are its threads (default: 1)",
    )
    add(
        "--draw-actors",
        metavar="N",
        type=int,
        help="with --engine ray: actors, each with a pipeline and as much room as a run, among "
        "which the runs' images are drawn, with the same pixels; the text optimisation stays "
        "with the run, and with it all of --text-per image (default: none, a run draws its own)",
    )


def _add_report(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--baseline",
        metavar="LABEL",
        help="method that the others are compared with, as tables call it (default: the "
        "experiment's, or the base sampler of a method with generated images, RandomSampling, "
        "MarginSampling, the first by name)",
    )
    add(
        "--target-accuracy",
        nargs="+",
        type=percentage,
        metavar="X",
        default=[],
        help="say how many labels each method needs for X %% (default: the baseline's last)",
    )
    add(
        "--annotations",
        nargs="+",
        type=Path,
        metavar="FILE",
        default=[],
        help="marks that people saved on the page of --annotate",
    )


def _add_instead(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--list", action="store_true", help="name every strategy, generator, data set, … and leave")
    add("--dry-run", action="store_true", help="check everything, say what it costs, and leave")
    add(
        "--list-experiments",
        action="store_true",
        help="the paper's tables and figures: what each is and costs on --dataset",
    )
    add(
        "--report",
        nargs="*",
        type=Path,
        metavar="DIR",
        help="tables, pictures and a page of what lies in these results folders, of several "
        "machines too (default: --output); written below --output",
    )
    add(
        "--annotate",
        type=int,
        metavar="N",
        help="write a page on which a person marks N generated images of each class and method "
        "right or wrong; of the runs of --dataset and --experiment, in --output or --report DIR",
    )
    add(
        "--predict",
        metavar="FOLDER",
        type=Path,
        help="label a folder's images as CSV; needs --from",
    )
    add(
        "--from",
        dest="from_run",
        metavar="RUN",
        type=Path,
        help="with --predict: the run's seed folder",
    )


# -- values that are often typed wrong ----------------------------------------------------------


def _seed(text: str) -> int:
    """A seed from its text, with advice for a range or a list."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number: write 0 1 2 3 4, or -t 5 instead of --seeds"
        ) from None


def percentage(text: str) -> float:
    """A percentage from its text; refuses a share such as 0.4. argparse shows this function's name
    where the text is not a number."""
    value = float(text)
    if 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is in percent: did you mean {100 * value:g}?")
    return value


def _folder(text: str) -> Path:
    """The path of a folder, which need not exist."""
    if Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text} is a file, not a folder")
    return Path(text)


# -- the fields of the configuration ----------------------------------------------------------

Preferred = Mapping[str, Mapping[str, Any]]  # protocol, strategy, … -> field -> value


def add_fields(
    group: argparse._ArgumentGroup,
    title: str,
    without: Container[str] = (),
    presets: Preferred | None = None,
    elsewhere: Container[str] = (),
) -> None:
    """Add a flag for each field of a group, with its help, unit and defaults.

    Args:
        title: BUDGET, TRAINING, STRATEGY, GALOT or GENERATOR.
        without: names of fields that are left out.
        presets: of strategies, by name.
        elsewhere: protocols and data sets that this command does not have.
    """
    for f in option_fields():
        if f.metadata["group"] == title and f.name not in without:
            _add_field(group, f, _other_defaults(f, presets or {}, elsewhere))


def chosen_fields(args: argparse.Namespace) -> dict[str, Any]:
    """The fields set on the command line, by name."""
    return {
        name.removeprefix(PREFIX): value
        for name, value in vars(args).items()
        if name.startswith(PREFIX) and value is not None
    }


def _add_field(group: argparse._ArgumentGroup, f: Any, others: Sequence[str]) -> None:
    flag = f"--{f.name.replace('_', '-')}"
    names = [flag, SHORT[f.name]] if f.name in SHORT else [flag]
    unit = f" [{f.metadata['unit']}]" if f.metadata["unit"] else ""
    without = "the model's own" if f.metadata["group"] == GENERATOR else "none"
    usual = _usual(f)
    default = without if usual is None else f"{usual}"
    choices = f", one of {', '.join(f.metadata['choices'])}" if f.metadata["choices"] else ""
    defaults = ", ".join([default, *others])
    text = f"{f.metadata['help']}{choices}{unit} (default: {defaults})"
    kind = field_type(f.name)
    group.add_argument(
        *names,
        dest=f"{PREFIX}{f.name}",
        type=kind,
        help=text.replace("%", "%%"),
        metavar={int: "N", float: "X", str: "NAME"}[kind],
    )


def _usual(f: Any) -> Any:
    """The field's default. A generator's field has none; a model's folder or hub id has those of
    the default generator."""
    if f.metadata["usual"] is None and f.metadata["group"] == GENERATOR:
        return registry.generators.get(RunConfig.generator).all_defaults().get(f.name)
    return f.metadata["usual"]


def _other_defaults(f: Any, presets: Preferred, elsewhere: Container[str]) -> list[str]:
    """Texts "who: value" for each protocol, data set, generator and strategy with another
    default."""
    prefers = {p: protocol.sets for p, protocol in PROTOCOLS.items()}
    prefers |= {n: registry.datasets.get(n).defaults for n in registry.datasets.names()}
    prefers |= {n: registry.generators.get(n).all_defaults() for n in registry.generators.names()}
    prefers |= presets
    values = {who: sets[f.name] for who, sets in prefers.items() if f.name in sets}
    default = _usual(f)
    texts = [
        f"{who}: {value}"
        for who, value in values.items()
        if value != default and who not in elsewhere
    ]
    for name, protocol in PROTOCOLS.items():
        if name in elsewhere:
            continue
        usual = protocol.sets.get(f.name, default)
        for dataset, sets in protocol.datasets.items():
            if sets.get(f.name, usual) != usual:
                texts.append(f"{name} on {dataset}: {sets[f.name]}")
    return texts


def set_environment() -> None:
    """Set environment variables that libraries read when they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # --deterministic needs it
