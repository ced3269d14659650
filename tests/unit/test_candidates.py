"""The plug-in behind the README's explanations."""

import numpy as np
import pytest
import torch

from deepal_galot import seeding
from deepal_galot.acquisition import entropy
from deepal_galot.plugins import load_plugin
from helpers import ROOT, FixedLearner, indexed_pool, make_strategy


@pytest.fixture
def plugin():
    return load_plugin(ROOT / "tests" / "candidates.py")


def test_the_highest_of_ten_n_random_candidates(plugin):
    logits = np.random.default_rng(0).normal(size=(200, 3))
    learner, asked = FixedLearner(logits=logits), []
    answer = learner.outputs
    learner.outputs = lambda data: asked.append(data) or answer(data)
    pool = indexed_pool(200, range(20))
    strategy = make_strategy("EntropyCandidates", pool, learner)
    seeding.seed_globals(0, "query", 1)
    picks = strategy.query(3)
    shown = np.array([256 * int(x[0, 0, 0]) + int(x[0, 1, 0]) for x in asked[0].X])
    assert len(shown) == len(set(shown)) == 30 and (shown >= 20).all()
    assert (np.diff(shown) < 0).any()  # a random choice
    best = shown[entropy(torch.tensor(logits[shown])).argsort(descending=True)[:3]]
    assert picks.tolist() == best.tolist() and strategy.dataset is pool


def test_random_picks_on_another_network(plugin):
    pool = indexed_pool(60, range(20))
    strategy = make_strategy("RandomDropout", pool, FixedLearner(logits=np.zeros((60, 3))))
    picks = {tuple(strategy.query(5)) for _ in range(20)}
    assert len(picks) == 20 and min(map(min, picks)) >= 20
