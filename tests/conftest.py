"""Shared fixtures: the embedded generator, a fake one, small data sets."""

from __future__ import annotations

import itertools
import os
import sys
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in the suite needs the network
if "PYTEST_XDIST_WORKER" in os.environ:  # a thread each; two that wait for each other are slower
    os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from hypothesis import settings

from deepal_galot import registry
from deepal_galot.datasets.base import DatasetSpec
from deepal_galot.datasets.digits import Digits
from deepal_galot.report import write
from generators import image_store
from generators.tiny import Tiny
from helpers import FakeGenerator, small_config

settings.register_profile("ours", deadline=None)  # a busy machine is no fault of what is tested
settings.load_profile("ours")


@pytest.fixture(autouse=True)
def forget_plugins():
    """Keep what one test registers from the next."""
    before = {k: (dict(r._discovered()), dict(r.plugin_files)) for k, r in registry.ALL.items()}
    modules = set(sys.modules)
    yield
    for k, r in registry.ALL.items():
        r._classes, r.plugin_files = before[k]
    for name in [m for m in set(sys.modules) - modules if m.startswith("query_strategies.")]:
        del sys.modules[name]


@pytest.fixture
def no_report(monkeypatch):
    """A run without the pictures and the page at its end, a quarter of a short one's time."""
    import deepal_galot.report.command  # noqa: F401  keeps what write_report is when it is first imported

    monkeypatch.setattr(write, "write_report", lambda *args: "")


@pytest.fixture(scope="session")
def digits() -> DatasetSpec:
    return Digits().load(None)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny(small_config(), torch.device("cpu"))


@pytest.fixture
def fake_generator() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def a_second_a_batch(monkeypatch):
    """As long as drawing one takes, by the image store's clock."""
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr(image_store, "time", clock)


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
