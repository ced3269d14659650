"""The user's request, from parsed flags."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import registry
from .datasets.base import Dataset
from .datasets.class_names import names_only, prompt_words
from .datasets.user_data import dataset_at, is_path
from .device import pick_device
from .errors import UserError
from .experiments import TABLE1
from .flags import chosen_fields
from .results import split_label

MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        strategies: names, each with optional settings of its own:
            "GALOT:epsilon=5,direction=random".
        dataset: a data set class, from the registry or made for a path.
        words: names of the classes in prompts; None for the data set's names.
        seeds: run seeds.
        mode: the mode for strategies that generate; None for each strategy's own.
        flags: RunConfig fields set on the command line.
        output, data_dir: folders.
        device: resolved; device_named: whether the user chose it.
        deterministic: forbid kernels whose result depends on timing.
        compile: compile the generator, and fits that are long enough.
        checkpointing: the ascent's gradient with less memory.
        save_full_size: how many images a class and round to keep as the generator made them.
        once: strategies that are played with the first seed only.
        command: the command line, quoted for a shell.
    """

    strategies: tuple[str, ...]
    dataset: type[Dataset]
    seeds: tuple[int, ...]
    mode: str | None
    flags: Mapping[str, Any]
    output: Path
    data_dir: Path
    device: torch.device
    deterministic: bool = False
    compile: bool = False
    checkpointing: bool = False
    device_named: bool = True
    words: tuple[str, ...] | None = None
    save_full_size: int = 0
    once: tuple[str, ...] = ()
    command: str = ""


def request_of(args: argparse.Namespace) -> Request:
    """The Request of a command line; strategy `all` means the paper's Table 1.

    Raises:
        UserError: flags that do not go together, or an unknown name.
    """
    flags = chosen_fields(args)
    if args.protocol is not None:
        flags["protocol"] = args.protocol
    asked = args.strategy or ["MarginSampling", "GALOT"]
    _check_commas(asked)
    strategies = [name for s in asked for name in (TABLE1 if s == "all" else [s])]
    words = None
    if args.class_names is not None and args.dataset is None:
        dataset = _class_names_only(args)
        if args.strategy is None:
            strategies = ["GALOT"]
    else:
        dataset = _dataset(args)
        if args.class_names is not None:
            words = prompt_words(args.class_names, dataset.class_names)
    return Request(
        strategies=tuple(strategies),
        dataset=dataset,
        seeds=_seeds(args),
        mode=args.mode,
        flags=flags,
        output=args.output,
        data_dir=args.data_dir,
        device=pick_device(args.device),
        deterministic=args.deterministic,
        device_named=args.device != "auto",
        words=words,
        compile=args.compile,
        checkpointing=args.checkpointing,
        save_full_size=args.save_full_size,
        once=args.once,
        command=args.command,
    )


def _check_commas(asked: Sequence[str]) -> None:
    """Check that no text holds several strategies.

    Raises:
        UserError: one does.
    """
    for text in asked:
        names = split_label(text)[0].replace(",", " ").split()
        if "," in split_label(text)[0] and all(n in registry.strategies for n in names):
            raise UserError(f"--strategy {text!r}: separate names by spaces: {' '.join(names)}")


def _dataset(args: argparse.Namespace) -> type[Dataset]:
    """The data set class for --dataset, from the registry or made for a path."""
    source = args.dataset or "Digits"
    if args.test_data is not None:
        raise UserError("--test-data belongs to --class-names FILE without --dataset")
    if is_path(source):
        _check_image_size(args.image_size)
        return dataset_at(source, args.image_size)
    if args.image_size is not None:
        raise UserError(
            f"--image-size {args.image_size}: belongs to --class-names FILE or a folder as "
            f"--dataset; the images of {source} have a size"
        )
    return registry.datasets.get(source, f"; nor is there a folder {source} here")


def _check_image_size(side: int | None) -> None:
    if side is not None and not 8 <= side <= 1024:
        raise UserError(f"--image-size {side}: must be from 8 to 1024 pixels")


def _class_names_only(args: argparse.Namespace) -> type[Dataset]:
    if args.mode != "gal":
        raise UserError("--class-names FILE has no real images: add --mode gal, or --dataset NAME")
    if args.image_size is None:
        raise UserError("--class-names FILE needs --image-size N, from 8 to 1024 pixels")
    _check_image_size(args.image_size)
    return names_only(args.class_names, args.image_size, args.test_data)


def _seeds(args: argparse.Namespace) -> tuple[int, ...]:
    """The seeds of --seeds; or -t seeds starting at --seed, as DeepALPlus counts trials."""
    if args.seeds is not None:
        if args.seed is not None or args.trials is not None:
            raise UserError("--seeds names them all; leave out --seed and -t")
        seeds = tuple(dict.fromkeys(args.seeds))
    elif args.seed is None and args.trials is None:
        seeds = (0, 1, 2)
    else:
        trials = 1 if args.trials is None else args.trials
        if trials < 1:
            raise UserError(f"-t {trials}: at least 1 seed")
        if trials > MOST_SEEDS:
            raise UserError(f"-t {trials}: at most {MOST_SEEDS:,} seeds at once")
        seeds = tuple(range(args.seed or 0, (args.seed or 0) + trials))
    if min(seeds) < 0:
        raise UserError(f"--seeds {min(seeds)}: a seed is a whole number ≥ 0")
    if max(seeds) >= 2**63:
        raise UserError(f"--seeds {max(seeds)}: a seed is a whole number below 2^63")
    return seeds
