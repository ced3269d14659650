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


def test_it_is_trained_as_long_as_the_longest_fit(digits):
    config = small_config(n_init=1000, n_query=1000, n_rounds=9, epochs=300, batch_size=32)
    steps = ReferenceOracle(digits, config, SmallCNN, CPU).config.min_steps
    assert steps == -(-10_000 * 300 // 128)
