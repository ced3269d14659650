"""The Monte Carlo strategies and the passes they read, against naive references.

The strategies are fed fixed probabilities [T, N, K] and compared with the papers' formulas in
float64: scores to 1e-6, picks by their reference scores. The learner's own passes are compared with
the network written out by hand.
"""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import entr
from torch import nn

from deepal_galot import learner as learner_module
from deepal_galot import seeding
from deepal_galot.classifiers.resnet18 import ResNet18
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.learner import Learner
from deepal_galot.objective import dropout_masks
from deepal_galot.pool import Pool
from helpers import FixedLearner, indexed_pool, make_strategy, recorded_scores, small_config
from query_strategies.monte_carlo import MonteCarloStrategy

TOLERANCE = 1e-6
LABELED = range(0, 60, 3)


def top_two(p):
    return np.sort(p, axis=1)[:, ::-1][:, :2].T


# [T, N, K] float64 probabilities -> [N] scores, higher = more informative.
NAIVE = {
    "BALDDropout": lambda p: entr(p.mean(0)).sum(1) - entr(p).sum(2).mean(0),
    "MeanSTD": lambda p: np.std(p, axis=0).mean(1),
    "VarRatio": lambda p: 1 - stats.mode(p.argmax(2), axis=0).count / len(p),
    "EntropySamplingDropout": lambda p: entr(p.mean(0)).sum(1),
    "LeastConfidenceDropout": lambda p: 1 - p.mean(0).max(1),
    "MarginSamplingDropout": lambda p: np.subtract(*top_two(p.mean(0))[::-1]),
}


def check(name, passes, n=10):
    """Compare all scores and the picks with the reference; returns both."""
    passes = np.asarray(passes, np.float32)
    pool = indexed_pool(passes.shape[1], LABELED)
    strategy = make_strategy(name, pool, FixedLearner(passes=passes))
    seen = recorded_scores(strategy)
    seeding.seed_globals(0, "query", 1)
    picks = strategy.query(n)
    naive = NAIVE[name](passes.astype(np.float64))
    unlabeled = np.flatnonzero(~pool.labeled_idxs)
    assert torch.isfinite(seen[0]).all()
    np.testing.assert_allclose(seen[0], naive[unlabeled], rtol=0, atol=TOLERANCE)
    assert len(set(picks)) == min(n, len(unlabeled)) and not pool.labeled_idxs[picks].any()
    best = unlabeled[np.argsort(-naive[unlabeled], kind="stable")][:n]
    np.testing.assert_allclose(naive[picks], naive[best], rtol=0, atol=TOLERANCE)
    return picks.tolist(), best.tolist()


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize("concentration", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_random_passes(name, concentration, seed):
    rng = np.random.default_rng(seed)
    picks, best = check(name, rng.dirichlet(np.full(5, concentration), (8, 120)))
    if name != "VarRatio" and concentration > 0.1:  # then there are no ties
        assert picks == best


def adversarial(kind):
    """[6, 60, 4] probabilities at which careless arithmetic goes wrong."""
    rng = np.random.default_rng(0)
    one_hot = np.eye(4)
    return {
        "agreed one-hot": np.tile(one_hot[np.arange(60) % 4], (6, 1, 1)),
        "disagreeing one-hot": one_hot[rng.integers(0, 4, (6, 60))],
        "identical passes": np.tile(rng.dirichlet(np.ones(4), 60), (6, 1, 1)),
        "an impossible class": np.pad(rng.dirichlet(np.ones(3), (6, 60)), ((0, 0), (0, 0), (1, 0))),
        "uniform": np.full((6, 60, 4), 0.25),
        "nearly certain": rng.dirichlet([1e4, 1e-3, 1e-3, 1e-3], (6, 60)),
        "two passes": rng.dirichlet(np.ones(4), (2, 60)),
    }[kind]


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize(
    "kind",
    ["agreed one-hot", "disagreeing one-hot", "identical passes", "an impossible class", "uniform",
     "nearly certain", "two passes"],
)  # fmt: skip
@pytest.mark.parametrize("n", [7, 1000])
def test_adversarial_passes(name, kind, n):
    check(name, adversarial(kind), n)


@pytest.mark.parametrize("name", ["BALDDropout", "MeanSTD"])
def test_passes_that_agree_carry_no_information(name):
    """But for two roundings of float32."""
    passes = np.tile(np.random.default_rng(0).dirichlet(np.ones(4), 60), (6, 1, 1))
    strategy = make_strategy(name, indexed_pool(60), FixedLearner(passes=passes.astype(np.float32)))
    seen = recorded_scores(strategy)
    strategy.query(3)
    assert seen[0].abs().max() < 2.5e-7


# -- head dropout ------------------------------------------------------------------------------


def revealing(embeddings, **fields):
    """A learner whose passes show the dropped embeddings: logits (h · mask / (1 - p), 0)."""
    config = small_config(strategy="BALDDropout", reads=MonteCarloStrategy.reads, **fields)
    learner = FixedLearner(embeddings=embeddings, config=config)
    dim = embeddings.shape[1]
    learner.clf = nn.Module()
    learner.clf.head = nn.Linear(dim, dim + 1)
    with torch.no_grad():
        learner.clf.head.weight.copy_(torch.eye(dim + 1)[:, :dim])
        learner.clf.head.bias.zero_()
    return learner


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_pass_is_inverted_dropout_with_a_mask_for_each_image(p):
    """The share of zeros over 20 × 12 × 500 draws has a two-sided binomial p > 0.001. Of so few
    images each is a group of its own."""
    h = np.random.default_rng(0).uniform(0.1, 0.5, (12, 500))
    learner = revealing(h, head_dropout=p, mc_passes=20)
    torch.manual_seed(0)
    passes = learner.predict_prob_dropout_split(indexed_pool(12).get_unlabeled_data()[1])
    assert passes.shape == (20, 12, 501)
    shown = (passes[..., :-1] / passes[..., -1:]).log()
    dropped = shown.abs() < 1e-4
    expected = torch.where(dropped, 0.0, torch.tensor(h) / (1 - p))
    torch.testing.assert_close(shown.double(), expected, rtol=0, atol=1e-4)
    assert stats.binomtest(int(dropped.sum()), dropped.numel(), p).pvalue > 1e-3
    assert len({tuple(m.tolist()) for m in dropped.flatten(0, 1)}) == 20 * 12


def test_random_groups_of_a_large_pool_share_masks():
    """64 groups of 10, others each time."""
    h = np.random.default_rng(0).uniform(0.1, 0.5, (640, 500))
    learner, data, groups = revealing(h, mc_passes=2), None, []
    data = indexed_pool(640).get_unlabeled_data()[1]
    for _ in range(2):
        passes = learner.predict_prob_dropout_split(data)
        dropped = (passes[..., :-1] / passes[..., -1:]).log().abs() < 1e-4
        _, group, size = dropped[0].unique(dim=0, return_inverse=True, return_counts=True)
        assert size.tolist() == [10] * 64
        assert len(dropped[1].unique(dim=0)) == 64
        groups.append([set(torch.where(group == g)[0].tolist()) for g in range(64)])
    assert not any(g in groups[1] for g in groups[0])


def test_mean_over_passes_is_the_expectation_over_all_masks():
    """All 2^6 masks enumerated, against 4,000 passes: within five standard errors."""
    rng = np.random.default_rng(0)
    h, w, b = rng.uniform(0, 2, (9, 6)), rng.normal(size=(3, 6)), rng.normal(size=3)
    config = small_config(strategy="BALDDropout", reads=MonteCarloStrategy.reads, head_dropout=0.25)
    learner = FixedLearner(embeddings=h, config=config)
    learner.clf = nn.Module()
    learner.clf.head = nn.Linear(6, 3)
    learner.clf.head.load_state_dict({"weight": torch.tensor(w), "bias": torch.tensor(b)})
    expected, square = np.zeros((9, 3)), np.zeros((9, 3))
    for kept in itertools.product([0, 1], repeat=6):
        power = np.exp((h * np.array(kept) / 0.75) @ w.T + b)
        probability = power / power.sum(1, keepdims=True)
        chance = math.prod(0.75 if k else 0.25 for k in kept)
        expected += chance * probability
        square += chance * probability**2
    torch.manual_seed(0)
    mean = learner.predict_prob_dropout(indexed_pool(9).get_unlabeled_data()[1], 4000)
    error = np.sqrt((square - expected**2) / 4000)
    assert (np.abs(mean.numpy() - expected) < 5 * error + 1e-6).all()


def fitted(spec, architecture=SmallCNN, n_labeled=20, pool=None, **fields):
    """(a fitted learner, its pool's unlabeled images)."""
    config = small_config(strategy="BALDDropout", reads=MonteCarloStrategy.reads, **fields)
    learner = Learner(config, architecture, spec.image_shape, spec.n_classes, torch.device("cpu"))
    pool = pool or Pool(spec)
    pool.initialize_labels(n_labeled, 0)
    learner.fit(pool.training_set(), 0)
    return learner, pool.get_unlabeled_data()[1]


def test_head_dropout_equals_the_network_written_out(toy):
    """mask · embedding / (1 - p) through the head, on eval-mode embeddings, by numpy."""
    learner, data = fitted(toy, head_dropout=0.25, mc_passes=7)
    torch.manual_seed(3)
    passes = learner.predict_prob_dropout_split(data).numpy()
    torch.manual_seed(3)
    kept = np.empty((7, 40, 128))
    for i in torch.randperm(40).tolist():
        kept[:, i] = dropout_masks((7, 128), 0.25)
    x = torch.stack([data[i][0] for i in range(len(data))])
    with torch.no_grad():
        embeddings = copy.deepcopy(learner.clf).eval()(x)[1].double().numpy()
    w, b = (v.detach().double().numpy() for v in learner.clf.head.parameters())
    assert passes.shape == (7, 40, 3)
    for p, mask in zip(passes, kept, strict=True):
        powers = np.exp((mask * embeddings / 0.75) @ w.T + b)
        np.testing.assert_allclose(p, powers / powers.sum(1, keepdims=True), rtol=0, atol=1e-5)


@pytest.mark.parametrize("noise", ["head_dropout", "batchnorm"])
def test_passes_hold_no_graph_and_change_no_classifier(toy, noise):
    """Not one bit of it, running statistics included; and no pass keeps the ones before alive."""
    learner, data = fitted(toy, mc_noise=noise)
    before = {k: v.clone() for k, v in learner.clf.state_dict().items()}
    answer = learner.predict_logits(data).clone()
    assert not learner.apply_to_passes(data, lambda p: p.mean(0), 3).requires_grad
    assert all(torch.equal(v, before[k]) for k, v in learner.clf.state_dict().items())
    assert not any(m.training for m in learner.clf.modules())
    learner._seen = None
    assert torch.equal(learner.predict_logits(data), answer)


@pytest.mark.parametrize(("asked", "given"), [(None, 20), (3, 3)])
@pytest.mark.parametrize("noise", ["head_dropout", "batchnorm"])
def test_number_of_passes(toy, noise, asked, given):
    learner, data = fitted(toy, mc_noise=noise)
    asked_for = learner.apply_to_passes(data, lambda p: p.new_full(p.shape[1:2], len(p)), asked)
    assert set(asked_for.tolist()) == {given}


def test_ten_passes_where_the_strategy_does_not_ask_for_a_number(toy):
    """DeepALPlus's default, for strategies that are written for it."""
    learner = Learner(small_config(), SmallCNN, (8, 8, 1), 3, torch.device("cpu"))
    pool = Pool(toy)
    pool.initialize_labels(20, 0)
    learner.fit(pool.training_set(), 0)
    assert len(learner.predict_prob_dropout_split(pool.get_unlabeled_data()[1])) == 10


def test_each_round_trains_with_masks_of_its_own():
    config = small_config(strategy="BALDDropout", reads=MonteCarloStrategy.reads)

    def mask(round):
        learner = Learner(config, SmallCNN, (8, 8, 1), 3, torch.device("cpu"))
        learner._new_classifier(round)
        learner._use_dropout(round)
        return learner.objective.dropout.draw(4, 50)

    assert torch.equal(mask(1), mask(1)) and not torch.equal(mask(1), mask(2))
    rng = seeding.torch_rng(config.seed, "dropout", 1)
    assert torch.equal(mask(1), dropout_masks((4, 50), config.head_dropout, rng))


# -- BatchNorm noise ---------------------------------------------------------------------------


def test_batchnorm_noise_equals_a_copy_in_training_mode(toy, monkeypatch):
    """43 images in random batches of 11, 11, 11 and 10, other ones in each pass."""
    monkeypatch.setattr(learner_module, "NOISY_BATCH", 14)
    learner, data = fitted(toy, mc_noise="batchnorm", n_labeled=17)
    x = torch.stack([data[i][0] for i in range(43)])
    noisy = copy.deepcopy(learner.clf).train()
    torch.manual_seed(5)
    orders = [torch.randperm(43) for _ in range(3)]
    torch.manual_seed(5)
    passes = learner.predict_prob_dropout_split(data, 3)
    for p, order in zip(passes, orders, strict=True):
        with torch.no_grad():
            logits = torch.cat([noisy(x[part])[0] for part in order.split([11, 11, 11, 10])])
        torch.testing.assert_close(p[order], logits.softmax(1), rtol=0, atol=1e-5)
        assert not torch.allclose(p, learner.predict_prob(data), atol=1e-2)


@pytest.mark.parametrize("n_labeled", [17, 56])
def test_batchnorm_passes_differ(toy, n_labeled):
    """Without augmentation, and where the whole pool would fit into a batch."""
    learner, data = fitted(toy, mc_noise="batchnorm", n_labeled=n_labeled)
    first, second = learner.predict_prob_dropout_split(data, 2)
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("architecture", [SmallCNN, ResNet18])
def test_batchnorm_noise_of_a_pool_with_one_image(toy, architecture):
    """BatchNorm in training mode refuses a single value a channel."""
    learner, data = fitted(toy, architecture, mc_noise="batchnorm", n_labeled=59, epochs=1)
    p = learner.predict_prob_dropout(data, 1)
    assert p.shape == (1, 3) and torch.isfinite(p).all()
    torch.testing.assert_close(p.sum(), torch.tensor(1.0))
