"""Picks of the uncertainty samplers against naive references, on random and adversarial logits."""

import numpy as np
import pytest
import torch

from deepal_galot import registry, seeding
from deepal_galot.pool import Pool
from helpers import small_config


class FixedLogits:
    """A learner that answers with given logits for the whole pool."""

    def __init__(self, logits, pool):
        self.logits, self.pool = logits, pool

    def predict_logits(self, data):
        return torch.from_numpy(self.logits[~self.pool.labeled_idxs])

    def predict_prob(self, data):
        return self.predict_logits(data).softmax(1)


def naive_picks(name, logits, unlabeled, n):
    """Rank one image at a time by the textbook formula; ties to the lower index."""
    ranked = []
    for i in unlabeled:
        p = np.exp(logits[i].astype(np.float64) - logits[i].max())
        p = np.sort(p / p.sum())[::-1]
        uncertainty = {
            "MarginSampling": -(p[0] - p[1]),
            "LeastConfidence": -p[0],
            "EntropySampling": -sum(q * np.log(q) for q in p if q > 0),
        }[name]
        ranked.append((-uncertainty, i))
    return [i for _, i in sorted(ranked)[:n]]


@pytest.mark.parametrize("name", ["MarginSampling", "LeastConfidence", "EntropySampling"])
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("seed", range(5))
def test_same_picks_as_the_formula(toy, name, spread, seed):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(60, 3)) * spread).astype(np.float32)
    pool = Pool(toy)
    pool.initialize_labels(10, seed)
    config = small_config(strategy=name)
    strategy = registry.strategies.get(name)(pool, FixedLogits(logits, pool), config, {})
    unlabeled = np.flatnonzero(~pool.labeled_idxs)
    picks = strategy.query(12).tolist()
    # Where float32 cannot tell two images apart, float64 may; their scores then agree to 1e-6.
    expected = naive_picks(name, logits, unlabeled, 12)
    assert len(set(picks) ^ set(expected)) <= (0 if spread < 30 else 2)


def test_random_sampling_is_uniform(toy):
    """Chi-square over 2,000 draws of 5 from 50: every image as likely as any other."""
    from scipy import stats

    pool = Pool(toy)
    pool.initialize_labels(10, 0)
    strategy = registry.strategies.get("RandomSampling")(pool, None, small_config(), {})
    counts = np.zeros(60)
    for draw in range(2000):
        seeding.seed_globals(draw, "query", 1)
        counts[strategy.query(5)] += 1
    assert counts[pool.labeled_idxs].sum() == 0
    assert stats.chisquare(counts[~pool.labeled_idxs]).pvalue > 1e-3
