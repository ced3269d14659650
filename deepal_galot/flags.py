"""What the command lines share: flags made of the configuration's fields, and back."""

from __future__ import annotations

import argparse
import os
from collections.abc import Container, Mapping
from typing import Any

from . import registry
from .config import GENERATOR, PROTOCOLS, field_type, option_fields
from .errors import UserError

SHORT = {"n_init": "-s", "n_query": "-b", "quota": "-q"}  # DeepALPlus's
PREFIX = "config_"  # of the fields among the parsed flags


class Parser(argparse.ArgumentParser):
    """Whose complaints are one line each."""

    def error(self, message: str) -> None:
        raise UserError(message)


Preferred = Mapping[str, Mapping[str, Any]]  # who prefers which values of which fields


def add_fields(
    group: argparse._ArgumentGroup, title: str, without: Container[str] = (),
    presets: Preferred | None = None,
) -> None:  # fmt: skip
    """A flag for each field of a group, with its help, unit and defaults.

    Args:
        title: BUDGET, TRAINING, STRATEGY, GALOT or GENERATOR.
        without: names of fields that are left out.
        presets: of strategies, by their names.
    """
    for f in option_fields():
        if f.metadata["group"] == title and f.name not in without:
            _add_field(group, f, presets or {})


def chosen_fields(args: argparse.Namespace) -> dict[str, Any]:
    """The fields that were set, by name."""
    return {
        name.removeprefix(PREFIX): value
        for name, value in vars(args).items()
        if name.startswith(PREFIX) and value is not None
    }


def _add_field(group: argparse._ArgumentGroup, f: Any, presets: Preferred) -> None:
    flag = f"--{f.name.replace('_', '-')}"
    names = [flag, SHORT[f.name]] if f.name in SHORT else [flag]
    unit = f" [{f.metadata['unit']}]" if f.metadata["unit"] else ""
    without = "the model's own" if f.metadata["group"] == GENERATOR else "none"
    usual = f.metadata["usual"]
    default = without if usual is None else f"{usual}"
    choices = f", one of {', '.join(f.metadata['choices'])}" if f.metadata["choices"] else ""
    defaults = ", ".join([default, *_other_defaults(f, presets)])
    text = f"{f.metadata['help']}{choices}{unit} (default: {defaults})"
    kind = field_type(f.name)
    group.add_argument(
        *names, dest=f"{PREFIX}{f.name}", type=kind, help=text.replace("%", "%%"),
        metavar={int: "N", float: "X", str: "NAME"}[kind],
    )  # fmt: skip


def _other_defaults(f: Any, presets: Preferred) -> list[str]:
    """ "who: value" of each protocol, data set, generator and strategy that prefers another."""
    prefers = {p: protocol.sets for p, protocol in PROTOCOLS.items()}
    prefers |= {n: registry.datasets.get(n).defaults for n in registry.datasets.names()}
    prefers |= {n: registry.generators.get(n).all_defaults() for n in registry.generators.names()}
    prefers |= presets
    values = {who: sets[f.name] for who, sets in prefers.items() if f.name in sets}
    default = f.metadata["usual"]
    texts = [f"{who}: {value}" for who, value in values.items() if value != default]
    for name, protocol in PROTOCOLS.items():
        usual = protocol.sets.get(f.name, default)
        for dataset, sets in protocol.datasets.items():
            if sets.get(f.name, usual) != usual:
                texts.append(f"{name} on {dataset}: {sets[f.name]}")
    return texts


def set_environment() -> None:
    """What libraries read from the environment when they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # --deterministic needs it
