"""Protocols, the named recipes, and combining all layers of settings into one RunConfig.

Several layers can set a field. The highest one that does so wins:

1. the strategy's definition (`fixed`)
2. the settings written behind the strategy's name
3. the command line
4. the strategy's preset
5. the protocol's values for this data set
6. the data set
7. the protocol
8. the generator
9. the field's default, which is the paper's value
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .config import (
    STRATEGY,
    RunConfig,
    check_range,
    field_type,
    fields_of,
    option_fields,
    usual_values,
)
from .errors import UserError, did_you_mean


@dataclass(frozen=True)
class Protocol:
    """A named recipe: a line of help, the fields it sets, and further fields for single data
    sets."""

    summary: str
    sets: Mapping[str, Any]
    datasets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


_CROP_AND_FLIP = {"shift": 4, "flip": 1}
PROTOCOLS: dict[str, Protocol] = {
    "paper": Protocol(
        "the paper's: 1,000 + 9 × 1,000 labels, ResNet18, SGD 0.01, cosine, 300 epochs, last epoch",
        {},
    ),
    "demo": Protocol(
        "minutes on two CPU cores: 20 + 4 × 20 labels, small_cnn; ε and N_GAL chosen on MNIST",
        {"n_init": 20, "n_query": 20, "n_rounds": 4, "classifier": "small_cnn",
         "optimizer": "adam", "lr": 3e-3, "weight_decay": 5e-4, "epochs": 30, "min_steps": 200,
         "batch_size": 32, "shift": 1, "flip": 0, "rotate": 10.0, "zoom": 0.1,
         "epsilon": 5.0, "ascent_steps": 5, "ascent_samples": 4, "n_synthetic": 3.0},
    ),
    "modern": Protocol(
        "the paper's, trained more strongly for every strategy alike: one-cycle 0.05, averaged "
        "weights, label smoothing, RandAugment",
        {"schedule": "onecycle", "lr": 0.05, "ema": 0.99, "label_smoothing": 0.1,
         "rand_augment": 1, "rand_magnitude": 9.0},
    ),
    "deepalplus": Protocol(
        "DeepALPlus's: 1,000 + 1,000 labels by 128, ResNet18 with max-pooling, Adam 1e-3, 20–40 "
        "epochs; Monte Carlo by BatchNorm noise, the pool scored under training augmentation",
        {"n_query": 128, "quota": 1000, "classifier": "resnet18_maxpool", "optimizer": "adam",
         "lr": 1e-3, "schedule": "constant", "weight_decay": 0.0, "batch_size": 128, "epochs": 20,
         "shift": 0, "flip": 0, "score_augmented": 1, "mc_noise": "batchnorm", "mc_passes": 10},
        {"CIFAR10": _CROP_AND_FLIP | {"epochs": 30},
         "CIFAR10_imb": _CROP_AND_FLIP | {"epochs": 30},
         "CIFAR100": _CROP_AND_FLIP | {"epochs": 40},
         "TinyImageNet": {"epochs": 40, "rotate": 20.0, "flip": 1},
         "PneumoniaMNIST": {"epochs": 10, "optimizer": "sgd", "momentum": 0.0, "batch_size": 32,
                            "rotate": 10.0, "flip": 1}},
    ),
}  # fmt: skip


def protocol(name: str) -> Protocol:
    """The protocol with this name.

    Raises:
        UserError: an unknown name; suggests the nearest.
    """
    if name not in PROTOCOLS:
        raise UserError(f"unknown --protocol {name!r}: {did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def over(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Layers of settings, the last one highest. Its quota takes the place of lower rounds, and its
    rounds that of a lower quota."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for own, other in (("quota", "n_rounds"), ("n_rounds", "quota")):
            if layer.get(own) is not None:
                merged.pop(other, None)
        merged |= layer
    return merged


def resolve(
    strategy: str,
    dataset: str,
    seed: int = 0,
    *,
    mode: str = "al",
    flags: Mapping[str, Any] | None = None,
    dataset_defaults: Mapping[str, Any] | None = None,
    generator_defaults: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    reads: Collection[str] = (),
) -> RunConfig:
    """Combine the layers into one RunConfig.

    Args:
        strategy, dataset: canonical names.
        mode: al, gal, al+gal or full.
        flags: set by the user, by field name (and "protocol").
        dataset_defaults: set by the data set (and "protocol").
        generator_defaults: steps, guidance, … that suit this generator.
        fixed: set by the strategy's definition; nothing overrides it.
        reads: fields of the group STRATEGY that this strategy reads; the others become None.

    Raises:
        UserError: an unknown protocol or a value out of range.
    """
    flags, dataset_defaults = dict(flags or {}), dict(dataset_defaults or {})
    chosen = flags.pop("protocol", dataset_defaults.pop("protocol", "paper"))
    recipe = protocol(chosen)
    values = over(
        usual_values(),
        generator_defaults or {},
        recipe.sets,
        dataset_defaults,
        recipe.datasets.get(dataset, {}),
        flags,
        fixed or {},
    )
    values |= {name: None for name in fields_of(STRATEGY) if name not in reads}
    if values["mc_noise"] == "batchnorm":
        values["head_dropout"] = None
    if "n_rounds" in flags and flags.get("quota") is not None:
        raise UserError("--quota sets the number of rounds; leave out --n-rounds")
    quota, n_query = values.get("quota"), values["n_query"]
    fields = {f.name: f for f in option_fields()}
    check_range(fields["quota"], quota)  # before the division below
    if quota is not None and n_query >= 1:
        values["n_rounds"] = -(-quota // n_query)  # rounds up; exact for whole numbers of any size
        if quota % n_query == 0:  # then n_rounds is enough, and the run can be extended
            values["quota"] = None
    values = {k: v if v is None else field_type(k)(v) for k, v in values.items()}
    return RunConfig(strategy, dataset, seed, mode, chosen, **values)
