"""Shared fixtures: the embedded generator, a fake one, a small data set."""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in the suite needs the network

import numpy as np
import pytest
import torch
from torch import Tensor

from deepal_galot.config import RunConfig, resolve
from deepal_galot.datasets.base import DatasetSpec
from deepal_galot.datasets.digits import Digits
from generators.base import Generator
from generators.tiny import Tiny


def small_config(**fields) -> RunConfig:
    """A configuration that fits in a second."""
    quick = {"n_init": 10, "n_query": 5, "n_rounds": 2, "epochs": 2, "min_steps": 0}
    defaults = dict(Digits.defaults)
    names = {k: fields.pop(k) for k in ("strategy", "dataset", "seed", "mode") if k in fields}
    return resolve(
        names.pop("strategy", "MarginSampling"),
        names.pop("dataset", "Digits"),
        names.pop("seed", 0),
        **names,
        flags=quick | fields,
        dataset_defaults=defaults,
        generator_defaults=Tiny.defaults,
    )


@pytest.fixture(scope="session")
def digits() -> DatasetSpec:
    return Digits().load(None)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny(small_config(), torch.device("cpu"))


class FakeGenerator(Generator):
    """Images 16×16 whose brightness pattern is a fixed linear map of c plus seeded noise."""

    batch_size = 4
    identity = {"weights": "fake"}

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self.map = torch.randn(3 * 16 * 16, 6 * 5, generator=rng)
        self.calls: list[list[int]] = []

    @classmethod
    def content_hash(cls) -> str:
        return "fake"

    def encode(self, prompts: Sequence[str]) -> Tensor:
        return torch.stack([
            torch.randn(6, 5, generator=torch.Generator().manual_seed(len(p) + ord(p[-1])))
            for p in prompts
        ])  # fmt: skip

    def sample(self, c: Tensor, seeds: Sequence[int], graph: str = "none") -> Tensor:
        self.calls.append(list(seeds))
        noise = torch.stack([
            torch.randn(3 * 16 * 16, generator=torch.Generator().manual_seed(s)) for s in seeds
        ]).to(c)  # fmt: skip
        c = c.detach() if graph == "none" else c
        return torch.sigmoid(c.flatten(1) @ self.map.T.to(c) / 5 + noise).reshape(-1, 3, 16, 16)


@pytest.fixture
def fake_generator() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def toy() -> DatasetSpec:
    """60 + 20 images 8×8 grey of three classes, told apart by which third is bright."""
    rng = np.random.default_rng(0)
    y = np.arange(80) % 3
    x = rng.integers(0, 60, (80, 8, 8, 1))
    for k in range(3):
        x[y == k, :, 3 * k : 3 * k + 2] += 150
    x, y = x.astype(np.uint8), y.astype(np.int64)
    return DatasetSpec(
        "toy", x[:60], y[:60], x[60:], y[60:], ("one", "two", "three"), (0.3,), (0.3,)
    )
