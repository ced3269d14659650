"""Scores and picks of the uncertainty samplers against naive references, one image at a time.

The references are the papers' formulas in float64. The samplers compute in float32, so scores, all
of which lie in [-1, log K], agree to 1e-6; equal scores are ranked at random, so picks are compared
by their reference scores, and by index where the references are further apart than that.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from deepal_galot import seeding
from helpers import FixedLearner, indexed_pool, make_strategy, recorded_scores

NAMES = ["MarginSampling", "LeastConfidence", "EntropySampling"]
LABELED = range(0, 60, 3)
TOLERANCE = 1e-6


def softmax(logits):
    """One image's probabilities, largest first."""
    logits = [float(z) for z in logits]
    powers = [math.exp(z - max(logits)) for z in logits]
    return sorted((p / sum(powers) for p in powers), reverse=True)


def naive_score(name, logits):
    """One image's uncertainty by the paper's formula."""
    p = softmax(logits)
    if name == "MarginSampling":
        return -(p[0] - p[1])
    if name == "LeastConfidence":
        return sum(p[1:])
    return -sum(q * math.log(q) for q in p if q > 0)


def check(name, logits, n):
    """Compare all scores and the n picks with the reference; returns both kinds of picks."""
    logits = np.asarray(logits, np.float32)
    pool = indexed_pool(len(logits), LABELED)
    strategy = make_strategy(name, pool, FixedLearner(logits))
    seen = recorded_scores(strategy)
    seeding.seed_globals(0, "query", 1)
    picks = strategy.query(n)
    unlabeled = np.flatnonzero(~pool.labeled_idxs)
    naive = {int(i): naive_score(name, logits[i]) for i in unlabeled}
    assert torch.isfinite(seen[0]).all()
    np.testing.assert_allclose(seen[0], list(naive.values()), rtol=0, atol=TOLERANCE)
    best = sorted(naive, key=naive.get, reverse=True)[:n]
    assert len(set(picks)) == len(picks) == len(best) and set(picks) <= set(naive)
    in_order = ([naive[i] for i in chosen] for chosen in (picks, best))
    np.testing.assert_allclose(*in_order, rtol=0, atol=TOLERANCE)
    return picks.tolist(), best


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0, 300.0])
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("seed", range(3))
def test_random_logits(name, spread, classes, seed):
    logits = np.random.default_rng(seed).normal(size=(200, classes)) * spread
    picks, best = check(name, logits, 10)
    if spread == 3:  # no two of the best are as close as the tolerance
        assert picks == best


def adversarial(kind):
    """[60, 4] logits at which careless arithmetic goes wrong."""
    rng = np.random.default_rng(0)
    certain = np.eye(4)[rng.integers(0, 4, 60)]
    torn = np.tile([1.0, 1.0, -1.0, -1.0], (60, 1))
    some = (np.arange(60) % 7 == 0)[:, None]
    return {
        "all equal": np.zeros((60, 4)),
        "probabilities 0 and 1": 1e4 * certain,
        "0, 1 and exact halves": np.where(some, 1e38 * torn, 1e38 * certain),
        "float32's largest": np.where(some, 3e38 * torn, 6e38 * certain - 3e38),
        "few distinct values": rng.integers(0, 2, (60, 4)).astype(float),
        "duplicates": np.repeat(rng.normal(size=(6, 4)), 10, axis=0),
        "far from the origin": rng.normal(size=(60, 4)) + 1000,
        "nearly certain": 15 * certain + rng.normal(size=(60, 4)) / 10,
    }[kind]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "kind",
    ["all equal", "probabilities 0 and 1", "0, 1 and exact halves", "float32's largest",
     "few distinct values", "duplicates", "far from the origin", "nearly certain"],
)  # fmt: skip
@pytest.mark.parametrize("n", [1, 7, 40, 1000])
def test_adversarial_logits(name, kind, n):
    check(name, adversarial(kind), n)


def test_ties_are_broken_uniformly():
    """15 of 40 images share the best score: 5 picks, 1,000 times, chi-square p > 0.001."""
    logits = np.tile([9.0, 0.0, 0.0], (60, 1))
    logits[5:25] = 0.0
    pool = indexed_pool(60, LABELED)
    strategy = make_strategy("MarginSampling", pool, FixedLearner(logits))
    tied = [i for i in range(5, 25) if not pool.labeled_idxs[i]]
    counts = np.zeros(60)
    for draw in range(1000):
        seeding.seed_globals(draw, "query", 1)
        counts[strategy.query(5)] += 1
    assert counts[tied].sum() == counts.sum() == 5_000
    assert stats.chisquare(counts[tied]).pvalue > 1e-3


def test_random_sampling_is_uniform():
    """5 of 40 images, 1,000 times, chi-square p > 0.001: every image as likely as any other."""
    pool = indexed_pool(60, LABELED)
    strategy = make_strategy("RandomSampling", pool, FixedLearner(np.zeros((60, 3))))
    counts = np.zeros(60)
    for draw in range(1000):
        seeding.seed_globals(draw, "query", 1)
        counts[strategy.query(5)] += 1
    assert counts[pool.labeled_idxs].sum() == 0
    assert stats.chisquare(counts[~pool.labeled_idxs]).pvalue > 1e-3
