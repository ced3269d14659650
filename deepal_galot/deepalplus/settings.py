"""Make GALOT's configuration in a DeepALPlus run from GALOT's and DeepALPlus's flags."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generators.base import Generator

from .. import registry
from ..config import FOLDER, GALOT, GENERATOR, RunConfig, fields_of
from ..datasets.class_names import prompt_words
from ..datasets.tiny_imagenet_words import WORDS
from ..errors import UserError, did_you_mean
from ..flags import Parser, add_fields, chosen_fields
from ..generator_choice import canonical, check_generator, generator_class, weights_at_hand
from ..plugins import NEEDS_MORE
from ..protocols import PROTOCOLS, resolve
from .host import Host

NAME = "GALOT"
# DeepALPlus's training loop weights all images alike, and its runs leave no images to reuse.
NOT_HERE = ("synthetic_weight", "synthetic_norm", "synthetic_from", "align")
ELSEWHERE = (*PROTOCOLS, "Digits")  # not in --help: recipe and data are DeepALPlus's
READ = ("dataset_name", "initseed", "batch", "quota", "seed")  # of DeepALPlus's arguments
WNIDS = Path("data", "TinyImageNet", "tiny-imagenet-200", "wnids.txt")
PROG = "python -m deepal_galot.deepalplus"
DESCRIPTION = """\
DeepALPlus's own demo with GALOT among its strategies. Run it in a DeepALPlus checkout as you would
run demo.py; its flags are the same (python demo.py --help), and GALOT's follow a bare --:
  python -m deepal_galot.deepalplus -a GALOT -d CIFAR10 -s 1000 -b 1000 -q 9000 -- --epsilon 0.5
  python -m deepal_galot.deepalplus --root PATH -a MarginSampling -d CIFAR10"""


@dataclass(frozen=True)
class Settings:
    """Settings of one DeepALPlus run with GALOT.

    Attributes:
        config: configuration of the first trial, with DeepALPlus's budget.
        class_names: the words for prompts.
        generator: the class; it is not loaded yet.
        output: the results folder.
        compile, checkpointing: how the generator runs.
    """

    config: RunConfig
    class_names: tuple[str, ...]
    generator: type[Generator]
    output: Path
    compile: bool
    checkpointing: bool


def build_parser() -> argparse.ArgumentParser:
    """The parser of GALOT's flags, which follow the bare --."""
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} [--root PATH] DEEPALPLUS'S FLAGS [-- GALOT'S FLAGS]",
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for title in (GALOT, GENERATOR):
        add_fields(parser.add_argument_group(title), title, NOT_HERE, elsewhere=ELSEWHERE)
    group = parser.add_argument_group("where and how")
    group.add_argument(
        "--class-names",
        metavar="FILE",
        type=Path,
        help="words for the classes in prompts, one a line in the order of the labels",
    )
    group.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help="images, texts and rows (default: results, in the checkout)",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile the generator: faster after minutes; needs a C++ compiler",
    )
    group.add_argument(
        "--checkpointing",
        action="store_true",
        help="the ascent's gradient in less memory and more time",
    )
    return parser


def parse_flags(flags: Sequence[str]) -> argparse.Namespace:
    """Parse GALOT's flags. Paths become absolute, because the demo runs in its own folder.

    Raises:
        UserError: an unknown flag or a value that does not parse.
    """
    args = build_parser().parse_args(list(flags))
    for name in ("class_names", "output"):
        if getattr(args, name) is not None:
            setattr(args, name, getattr(args, name).absolute())
    source = args.config_generator
    if source and source.startswith(FOLDER) and source != FOLDER:
        args.config_generator = FOLDER + str(Path(source.removeprefix(FOLDER)).absolute())
    elif source and source not in registry.generators and Path(source).is_dir():
        args.config_generator = str(Path(source).absolute())
    return args


def settle(host: Host, flags: argparse.Namespace, theirs: Any) -> Settings:
    """Make the settings, and check everything that can be checked before data are read.

    Args:
        flags: from parse_flags.
        theirs: DeepALPlus's parsed arguments.

    Raises:
        UserError: a value out of range, an unknown name, classes without names, or a generator that
            does not know the classes or cannot be had.
    """
    missing = [field for field in READ if not hasattr(theirs, field)]
    if missing:
        raise UserError(f"DeepALPlus's arguments have no {', '.join(missing)}, which GALOT reads")
    check_numbers(theirs)
    name = theirs.dataset_name
    check_base_sampler(host, flags.config_base_sampler or RunConfig.base_sampler)
    names = _class_names(host, name, flags.class_names)
    chosen = _budget(theirs) | canonical(chosen_fields(flags))
    defaults: Mapping[str, Any] = {}
    if known_as(name) in registry.datasets:
        defaults = canonical(registry.datasets.get(known_as(name)).defaults)
    generator = generator_class((defaults | chosen).get("generator", RunConfig.generator))
    config = resolve(
        NAME,
        known_as(name),
        theirs.seed,
        mode="al+gal",
        flags=chosen,
        dataset_defaults=defaults,
        generator_defaults=canonical(generator.all_defaults()),
    )
    if config.asks_pool:
        raise UserError(
            f"--keep {config.keep}: asks a classifier that DeepALPlus's loop has no place for; "
            f"here it is random or acquisition"
        )
    check_generator(generator, config, names)
    weights_at_hand(generator, download=True)
    output = flags.output or host.root / "results"
    return Settings(config, names, generator, output, flags.compile, flags.checkpointing)


def read_fields(config: RunConfig) -> dict[str, Any]:
    """The fields that matter in a DeepALPlus run. Training fields do not, because DeepALPlus has
    its own."""
    read = config.fields_read()
    kept = ("n_init", "n_query", "n_rounds", *fields_of(GALOT, GENERATOR))
    return {name: read[name] for name in kept if name in read and name not in NOT_HERE}


def known_as(dataset: str) -> str:
    """The data set's name without DeepALPlus's suffix _pretrain, which only names the network."""
    return dataset.removesuffix("_pretrain")


def check_strategy(host: Host, name: str) -> None:
    """
    Raises:
        UserError: DeepALPlus has no such strategy.
    """
    if name not in host.strategies and name != NAME and "CEALSampling" not in name:
        known = [*host.strategies, NAME]
        raise UserError(f"unknown strategy -a {name}: {did_you_mean(name, known)}")


def check_dataset(host: Host, name: str) -> None:
    """
    Raises:
        UserError: DeepALPlus has no such data set.
    """
    if name not in host.parameters.args_pool:
        raise UserError(
            f"unknown data set -d {name}: {did_you_mean(name, host.parameters.args_pool)}"
        )


def check_base_sampler(host: Host, name: str) -> None:
    """
    Raises:
        UserError: DeepALPlus has no such sampler, or it cannot be A_AL.
    """
    if name in NEEDS_MORE:
        raise UserError(f"--base-sampler {name}: {NEEDS_MORE[name]}; use e.g. MarginSampling")
    if name not in host.samplers:
        raise UserError(
            f"unknown --base-sampler {name!r}: of DeepALPlus's, {did_you_mean(name, host.samplers)}"
        )


def check_numbers(theirs: Any) -> None:
    """
    Raises:
        UserError: one of DeepALPlus's numbers leaves nothing to do.
    """
    batch = getattr(theirs, "batch", 1)
    for flag, field, least, what in (
        ("-t", "iteration", 1, "trial"),
        ("-s", "initseed", 1, "label"),
        ("-b", "batch", 1, "label"),
        ("-q", "quota", batch, "labels, one -b"),
        ("--seed", "seed", 0, ""),
    ):
        value = getattr(theirs, field, None)
        if value is not None and value < least:
            raise UserError(f"{flag} {value}: must be at least {least} {what}".rstrip())


def _budget(theirs: Any) -> dict[str, int]:
    """DeepALPlus's budget as our RunConfig fields."""
    rounds = theirs.quota // theirs.batch  # demo.py drops the remainder, too
    return {"n_init": theirs.initseed, "n_query": theirs.batch, "n_rounds": rounds}


def _class_names(host: Host, name: str, file: Path | None) -> tuple[str, ...]:
    """Prompt words of the data set's classes.

    Raises:
        UserError: the class names are not known.
    """
    check_dataset(host, name)
    if name == "openml":
        raise UserError("-d openml: its data are tables; images can be generated for images only")
    n = host.parameters.args_pool[name]["num_class"]
    known = _known_names(host.root, known_as(name))
    if file is not None:
        known = known if known and len(known) == n else tuple(f"class {k}" for k in range(n))
        return prompt_words(file, known)
    if known is None or len(known) != n:
        raise UserError(
            f"-d {name}: the names of its {n} classes are not known here: write them into a file, "
            f"one a line in the order of its labels 0 … {n - 1}, and add -- --class-names FILE"
        )
    return known


def _known_names(root: Path, name: str) -> tuple[str, ...] | None:
    """Prompt words in the order of DeepALPlus's labels; None for an unknown data set."""
    if name == "TinyImageNet":  # DeepALPlus's labels follow wnids.txt, which is not sorted
        if not (root / WNIDS).is_file():
            raise UserError(f"-d TinyImageNet: {root / WNIDS} is not there; unzip the data set")
        ids = (root / WNIDS).read_text(encoding="utf-8").split()
        unknown = [wnid for wnid in ids if wnid not in WORDS]
        if unknown:
            raise UserError(f"{root / WNIDS}: {unknown[0]} is not a class of TinyImageNet")
        return tuple(WORDS[wnid] for wnid in ids)
    return registry.datasets.get(name).class_names if name in registry.datasets else None
