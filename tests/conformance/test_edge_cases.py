"""Every registered strategy at the edges: what it picks, what it holds, how often it looks.

A strategy that brings images of its own (SyntheticQuery) is told apart by what its query returns.
"""

import dataclasses
import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deepal_galot import clustering, registry, seeding
from deepal_galot import learner as learner_module
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.errors import UserError
from deepal_galot.learner import Learner
from deepal_galot.pool import Pool, SyntheticQuery, check_query
from helpers import FixedLearner, indexed_pool, make_strategy, recorded_scores, small_config
from query_strategies.monte_carlo import MonteCarloStrategy

# GALOT picks by its base sampler, which is among the others; GAAL's queries are of its own images.
NAMES = [n for n in registry.strategies.names()
         if not registry.strategies.get(n).generates and n != "GAAL"]  # fmt: skip
READS = {n: registry.strategies.get(n).reads for n in NAMES}
SEVERAL_PASSES = [n for n in NAMES if issubclass(registry.strategies.get(n), MonteCarloStrategy)]
NOISES = [(n, "head_dropout") for n in NAMES] + [(n, "batchnorm") for n in SEVERAL_PASSES]


def ready(spec, name, labeled=range(12), **fields):
    """A strategy with a fitted classifier, these images being labeled."""
    config = small_config(strategy=name, reads=READS[name], batch_size=8, epochs=1, **fields)
    pool = Pool(spec, score_augmented=bool(config.score_augmented))
    pool.label(np.array(labeled))
    learner = Learner(config, SmallCNN, spec.image_shape, spec.n_classes, torch.device("cpu"))
    task = {"num_class": spec.n_classes, "class_names": spec.class_names,
            "image_shape": spec.image_shape}  # fmt: skip
    strategy = registry.strategies.get(name)(pool, learner, config, task)
    learner.fit(pool.training_set(), 0)
    return strategy


def query(strategy, n):
    """A checked answer: min(n, unlabeled) distinct unlabeled indices; all scores are numbers."""
    scores = recorded_scores(strategy)
    seeding.seed_globals(0, "query", 1)
    picks = strategy.query(n)
    assert not isinstance(picks, SyntheticQuery)
    labeled = strategy.dataset.labeled_idxs
    assert len(picks) == len(set(picks.tolist())) == min(n, int((~labeled).sum()))
    assert picks.dtype == np.int64 and not labeled[picks].any()
    assert all(torch.isfinite(s).all() for s in scores)
    return picks


@pytest.mark.parametrize(("name", "noise"), NOISES)
@pytest.mark.parametrize("n", [48, 49, 1000])
def test_a_query_for_all_or_more_gives_each_unlabeled_image_once(toy, name, noise, n):
    picks = query(ready(toy, name, mc_noise=noise), n)
    assert sorted(picks) == list(range(12, 60))


@pytest.mark.parametrize(("name", "noise"), NOISES)
@pytest.mark.parametrize("n", [0, 1, 7])
def test_nothing_left_to_label(toy, name, noise, n):
    assert len(query(ready(toy, name, range(60), mc_noise=noise), n)) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_query_for_nothing(toy, name):
    assert len(query(ready(toy, name), 0)) == 0


@pytest.mark.parametrize(("name", "noise"), NOISES)
def test_one_image_left(toy, name, noise):
    assert query(ready(toy, name, range(59), mc_noise=noise), 1).tolist() == [59]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 59])
def test_one_labeled_image(toy, name, n):
    query(ready(toy, name, [17]), n)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_without_a_label(toy, name):
    """Images 0, 3, 6, … are of class 0: two of three classes are never seen in training."""
    query(ready(toy, name, range(0, 30, 3)), 20)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_missing_from_the_pool(toy, name):
    """Every image of it is labeled."""
    strategy = ready(toy, name)
    strategy.dataset.label(np.flatnonzero((toy.y_train == 2) & ~strategy.dataset.labeled_idxs))
    query(strategy, 20)


@pytest.mark.parametrize(("name", "noise"), NOISES)
@pytest.mark.parametrize("n", [20, 48])
def test_all_images_are_duplicates(toy, name, noise, n):
    spec = dataclasses.replace(toy, x_train=np.repeat(toy.x_train[:1], 60, axis=0))
    query(ready(spec, name, mc_noise=noise), n)


@pytest.mark.parametrize("name", NAMES)
def test_duplicates_of_labeled_images(toy, name):
    spec = dataclasses.replace(toy, x_train=np.tile(toy.x_train[:12], (5, 1, 1, 1)))
    query(ready(spec, name), 20)


@pytest.mark.parametrize(("name", "noise"), NOISES)
@pytest.mark.parametrize("weight", [0.0, 1e6, 1e18])
def test_probabilities_of_exactly_0_and_1(toy, name, noise, weight):
    """A head so large, or so small, that each image's probabilities are 0 and 1, or all equal."""
    strategy = ready(toy, name, mc_noise=noise)
    with torch.no_grad():
        strategy.net.clf.head.weight.mul_(weight)
        strategy.net.clf.head.bias.mul_(weight)
    _, data = strategy.dataset.get_unlabeled_data()
    extreme = strategy.net.predict_prob(data).amax(1)
    assert (extreme == 1).all() if weight == 1e18 else (weight > 0 or (extreme < 0.34).all())
    query(strategy, 20)


# -- what a query costs ------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "noise"), NOISES)
def test_one_pass_over_the_pool(toy, name, noise):
    """Images that go through the body: at most each one once; by BatchNorm noise once a pass."""
    strategy = ready(toy, name, mc_noise=noise)
    seen = []
    strategy.net.clf.stages[0].register_forward_hook(lambda *args: seen.append(len(args[1][0])))
    query(strategy, 7)
    assert sum(seen) <= (20 * 48 if noise == "batchnorm" else 60)


class Footprint(TorchDispatchMode):
    """The largest tensor that operations make meanwhile, and the most they hold at a time.

    Attributes:
        largest: in elements; most: in bytes, of all storages that are alive and were made here.
    """

    def __init__(self):
        super().__init__()
        self.largest, self.most, self.alive = 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        own = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs))
               if isinstance(t, torch.Tensor)}  # fmt: skip
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in own:
                self.largest = max(self.largest, t.numel())
                self._watch(t.untyped_storage())
        self.most = max(self.most, sum(self.alive.values()))
        return out

    def _watch(self, storage):
        key = storage._cdata
        self.alive[key] = storage.nbytes()
        weakref.finalize(storage, self.alive.pop, key, None)


def footprint(name, n_pool, dim, classes, n):
    """A query on fixed logits and embeddings; LossPrediction reads neither, so it is not asked."""
    rng = np.random.default_rng(0)
    config = small_config(strategy=name, reads=READS[name])
    logits, embeddings = rng.normal(size=(n_pool, classes)), rng.normal(size=(n_pool, dim))
    learner = FixedLearner(logits, embeddings, config=config)
    learner.clf = torch.nn.Module()
    learner.clf.head = torch.nn.Linear(dim, classes)
    strategy = make_strategy(name, indexed_pool(n_pool, range(100)), learner)
    with Footprint() as held:
        picks = strategy.query(n)
    assert len(set(picks.tolist())) == n
    return held


@pytest.mark.parametrize("name", [n for n in NAMES if n != "LossPredictionLoss"])
def test_memory_is_that_of_logits_and_embeddings(name, monkeypatch):
    """N = 4,000, D = 32, K = 40, 200 picks, blocks of 2^16 elements instead of 2^22 and 2^20: in
    units of N (K + D), no tensor of more than 2 and no more than 8 float32 held at a time.

    N×N would be 55, the dense gradients 18, the 20 passes at once 11, with their graph 12 to 39.
    """
    monkeypatch.setattr(clustering, "CHUNK", 2**16)
    monkeypatch.setattr(learner_module, "MC_BLOCK", 2**16)
    held = footprint(name, 4000, 32, 40, 200)
    unit = 4000 * (32 + 40)
    assert held.largest <= 2 * unit
    assert held.most <= 8 * unit * 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_network_gives_valid_picks_or_a_clear_error(toy, name, value):
    strategy = ready(toy, name)
    with torch.no_grad():
        strategy.net.clf.neck[-2].bias.fill_(value)
    seeding.seed_globals(0, "query", 1)
    try:
        picks = strategy.query(20)
    except UserError as error:
        assert "not finite" in str(error) or "scores are NaN" in str(error)
    else:
        assert len(check_query(picks, 20, strategy.dataset.labeled_idxs)) == 20
