"""The reference classifier that labels synthetic queries."""

import numpy as np
import torch

from deepal_galot import oracle as oracle_module
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.oracle import ReferenceOracle
from helpers import small_config

CPU = torch.device("cpu")


def test_it_reads_digits_and_is_the_same_for_all_seeds(digits, monkeypatch):
    monkeypatch.setattr(oracle_module, "LEAST_IMAGES", 12_000)
    recipe = {"lr": 3e-3, "rotate": 0.0, "zoom": 0.0}
    first, second = (
        ReferenceOracle(digits, small_config(seed=seed, **recipe), SmallCNN, CPU) for seed in (0, 7)
    )
    assert first.config == second.config
    labels = first(digits.x_test)
    assert labels.dtype == np.int64 and first.accuracy == (labels == digits.y_test).mean() > 0.95


def test_it_depends_on_the_recipe_alone(digits):
    """A run that is extended later, or has another budget or strategy, asks the same one."""
    first, *others = (
        ReferenceOracle(digits, small_config(epochs=300, **fields), SmallCNN, CPU).config
        for fields in ({}, {"n_rounds": 9}, {"n_init": 7}, {"strategy": "GALOT", "epsilon": 0.0})
    )
    assert all(other == first for other in others)
    assert first.epochs == 30 and first.min_steps * first.batch_size >= 100_000
    assert ReferenceOracle(digits, small_config(lr=0.5), SmallCNN, CPU).config != first
