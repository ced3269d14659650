"""From the value of --generator to an available generator that suits the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from generators.base import Generator
from generators.diffusion import DiffusionGenerator
from generators.folder import FolderGenerator
from generators.pipeline_folder import read_configs
from generators.prompts import templates
from generators.weights import configs_at_hand, find_weights

from . import registry
from .acquisition import canonical_text_target
from .config import FOLDER, RunConfig
from .errors import UserError
from .image_counts import image_counts


def generator_class(source: str) -> type[Generator]:
    """The class for a registered name, a folder, a hub id, or "folder:" and a path of images. A
    registered name takes precedence over a folder with the same name.

    Raises:
        UserError: an empty text, or an unknown name.
    """
    if not source.removeprefix(FOLDER).strip():
        raise UserError(
            f"--generator {source!r}: is empty; give a name (see --list), a model's folder or hub "
            f"id, or folder:PATH of images"
        )
    if source.startswith(FOLDER):
        return FolderGenerator.at(source.removeprefix(FOLDER))
    if source not in registry.generators and ("/" in source or Path(source).exists()):
        return DiffusionGenerator.at(source)
    return registry.generators.get(source, f"; nor is there a model's folder {source} here")


def canonical(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with one spelling for values that have several: generator names, templates,
    text-target, and schedule none, which becomes constant.

    Raises:
        UserError: an unknown text-target, or an invalid template.
    """
    settings = dict(settings)
    if settings.get("generator", "") in registry.generators:
        settings["generator"] = registry.class_name(registry.generators.get(settings["generator"]))
    if "template" in settings:
        settings["template"] = " | ".join(templates(settings["template"]))
    if settings.get("schedule") == "none":
        settings["schedule"] = "constant"
    if "text_target" in settings:
        settings["text_target"] = canonical_text_target(settings["text_target"])
    return settings


def weights_at_hand(generator: type[Generator], download: bool = False) -> bool:
    """Whether a generator's weights are on this machine.

    Args:
        download: fetch them if they are not.

    Raises:
        UserError: they cannot be fetched, there is no such model, or it is one that cannot be used.
    """
    if not issubclass(generator, DiffusionGenerator):
        return True
    if download:
        read_configs(find_weights(generator.source))  # checks them
        return True
    return configs_at_hand(generator.source) is not None


def load_generator(
    kind: type[Generator], config: RunConfig, device: torch.device, compile: bool, checkpoint: bool
) -> Generator:
    """Load a generator's weights.

    Args:
        compile: compile its networks.
        checkpoint: take gradients with less memory, more slowly.
    """
    generator = kind(config, device)
    if compile:
        generator.compile()
    if checkpoint:
        generator.checkpoint()
    return generator


def check_generator(
    generator: type[Generator], config: RunConfig, class_names: Sequence[str]
) -> None:
    """Check that a generator suits the configuration and the classes.

    Raises:
        UserError: it does not know the classes, has no text to optimise, or has too few images.
    """
    generator.check_classes(class_names, config.dataset)
    if not generator.reads_text and config.epsilon > 0:
        raise UserError(
            f"--generator {config.generator}: its images follow no text that could be optimised: "
            f"add --epsilon 0"
        )
    made = [image_counts(config, len(class_names), r)[1] for r in range(config.cycles)]
    for name, *wanted in zip(class_names, *made, strict=True):
        supply = generator.supply(name)
        if supply is not None and max(wanted) > supply:
            raise UserError(
                f"--generator {config.generator}: a round wants {max(wanted):,} images of "
                f"{name!r}, there are {supply:,}: add some, or lower --n-synthetic, --oversample "
                f"or the budget"
            )
