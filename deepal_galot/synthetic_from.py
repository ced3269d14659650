"""Another run's generated images as training data: checks, and the settings taken over from it.

This is the paper's Table 2: images optimised against one network are used to train another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import registry
from .config import BUDGET, GALOT, GENERATOR, RunConfig, fields_of
from .datasets.base import DatasetSpec
from .errors import UserError, some_of
from .generator_choice import generator_class
from .results import RunFolder

# Settings of the training on the images; they do not change the images.
OWN = {"base_sampler", "synthetic", "synthetic_from"}


def open_source(path: str) -> RunFolder:
    """The run that --synthetic-from names.

    Raises:
        UserError: no run there, it is unfinished or of an older version, or it did not generate its
            images itself.
    """
    if not (Path(path) / "config.json").is_file():
        raise UserError(
            f"--synthetic-from {path}: no run in it; give a run's seed folder, "
            f"<output>/<data set>/<strategy>/<id>/seed<k>"
        )
    source = RunFolder.open(Path(path))
    if not source.config.uses_generated_images:
        raise UserError(f"--synthetic-from {path}: this run generated no images")
    if source.config.synthetic_from is not None:
        raise UserError(
            f"--synthetic-from {path}: this run trained on the images of "
            f"{source.config.synthetic_from}; name that one"
        )
    rows, cycles = source.rows(), source.config.cycles
    if len(rows) < cycles:
        raise UserError(
            f"--synthetic-from {path}: unfinished, {len(rows)} of {cycles} rounds are done; the "
            f"command that started it goes on where it stopped"
        )
    if not all("images_key" in row for row in rows):
        raise UserError(
            f"--synthetic-from {path}: a row of its rounds.jsonl does not say which images are its "
            f"own (images_key)"
        )
    return source


def inherited(
    source: RunFolder, chosen: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(fields that define the source's images, fields that default to the source's, the settings of
    its base sampler; empty if another is chosen).

    Args:
        chosen: fields set by the user or the strategy, by name.

    Raises:
        UserError: a chosen field would make other images, or a class of the source's is not known.
    """
    made_by = {
        name: getattr(source.config, name)
        for name in fields_of(GALOT, GENERATOR)
        if name not in OWN
    }
    for key, value in made_by.items():
        if key in chosen and chosen[key] != value:
            raise UserError(
                f"--synthetic-from: its images were made with {key}={value}; leave out "
                f"{key}={chosen[key]}"
            )
    usual = (*fields_of(BUDGET), "base_sampler", "synthetic")
    _class_of(source, "generator", generator_class)
    settings = {}
    if "base_sampler" not in chosen:
        declared = _class_of(source, "base_sampler", registry.strategies.get).all_settings()
        settings = {k: v for k, v in source.config.settings if k in declared}
    return made_by, {name: getattr(source.config, name) for name in usual}, settings


def _class_of(source: RunFolder, field: str, named: Callable[[str], type]) -> type:
    """The class that the source names in this field.

    Raises:
        UserError: it is not known to this command.
    """
    try:
        return named(getattr(source.config, field))
    except UserError as error:
        raise UserError(
            f"--synthetic-from {source.path}: the {field.replace('_', ' ')} of that run: {error}"
        ) from error


def check_source(source: RunFolder, config: RunConfig, spec: DatasetSpec) -> None:
    """Check that a source run's images suit this run.

    Raises:
        UserError: its classes, image size or numbers of labels are different, or it has fewer
            rounds.
    """
    where, card = f"--synthetic-from {config.synthetic_from}", source.classifier()[1]
    if tuple(card["class_names"]) != spec.class_names:
        raise UserError(
            f"{where}: its classes are {some_of(card['class_names'])}, those of {spec.name} "
            f"{some_of(spec.class_names)}"
        )
    if tuple(card["image_shape"]) != spec.image_shape:
        theirs, ours = ("×".join(map(str, s)) for s in (card["image_shape"], spec.image_shape))
        raise UserError(f"{where}: its images are {theirs}, those of {spec.name} {ours}")
    if config.cycles > source.config.cycles:
        theirs = source.config.n_rounds
        rounds = f"{theirs} round{'s' * (theirs != 1)}"
        raise UserError(
            f"{where}: it has {rounds} after round 0, this run wants {config.n_rounds}: lower "
            f"--n-rounds"
        )
    for round in range(config.cycles):
        theirs, ours = source.config.budget(round), config.budget(round)
        if theirs != ours:
            raise UserError(
                f"{where}: its images of round {round} go with {theirs:,} labels, this run would "
                f"have {ours:,}: leave out --n-init, --n-query and --quota"
            )


def source_hash(source: RunFolder, cycles: int) -> str:
    """Sixteen hex digits over the source's configuration and seed, and the texts and choices of its
    first `cycles` rounds."""
    digest = hashlib.sha256(f"{source.path.parent.name}/{source.path.name}".encode())
    for round in range(cycles):
        for what in filter(lambda what: source.has(what, round), ("text", "alignment", "kept")):
            for name, tensor in sorted(source.load(what, round).items()):
                digest.update(repr((name, tuple(tensor.shape), str(tensor.dtype))).encode())
                digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
