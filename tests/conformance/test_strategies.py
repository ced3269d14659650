"""What every registered strategy must keep, whoever wrote it; runs over the registry."""

import dataclasses

import numpy as np
import pytest
import torch

from deepal_galot import registry, seeding
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.errors import UserError
from deepal_galot.galot import Galot
from deepal_galot.learner import Learner
from deepal_galot.pool import Pool, SyntheticQuery, check_query
from deepal_galot.results import RunFolder
from generators.image_store import ImageStore
from helpers import FakeGenerator, small_config

NAMES = registry.strategies.names()
GENERATING = [n for n in NAMES if registry.strategies.get(n).generates]


@pytest.fixture(autouse=True)
def short_gan(monkeypatch):
    """Poor images do here."""
    monkeypatch.setattr(registry.strategies.get("GAAL"), "gan_steps", 3)


def ready(spec, name, **fields):
    """A strategy with a fitted classifier on a pool with 12 labels."""
    cls = registry.strategies.get(name)
    config = small_config(
        strategy=name, mode="al+gal", batch_size=8, reads=cls.reads, **fields | dict(cls.fixed)
    )
    pool = Pool(spec)
    pool.initialize_labels(12, 0)
    learner = Learner(config, SmallCNN, spec.image_shape, spec.n_classes, torch.device("cpu"))
    task = {"num_class": spec.n_classes, "class_names": spec.class_names,
            "image_shape": spec.image_shape}  # fmt: skip
    strategy = cls(pool, learner, config, task)  # before the fit, whose objective it may set
    learner.fit(pool.training_set(), 0)
    return strategy


def query(strategy, n):
    """A list of what it picked: indices, or the bytes of the images that it made."""
    seeding.seed_globals(0, "query", 1)
    picks = check_query(strategy.query(n), n, strategy.dataset.labeled_idxs)
    if isinstance(picks, SyntheticQuery):
        return [image.tobytes() for image in picks.images]
    return picks.tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 48])
def test_query_gives_n_distinct_unlabeled_images(toy, name, n):
    assert len(set(query(ready(toy, name), n))) == n


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_picks(toy, name):
    assert query(ready(toy, name), 7) == query(ready(toy, name), 7)


@pytest.mark.parametrize("name", NAMES)
def test_query_changes_nothing(toy, name):
    strategy = ready(toy, name)
    weights = {k: v.clone() for k, v in strategy.net.state().items()}
    labeled = strategy.dataset.labeled_idxs.copy()
    query(strategy, 7)
    assert all(torch.equal(v, weights[k]) for k, v in strategy.net.state().items())
    assert np.array_equal(labeled, strategy.dataset.labeled_idxs)


@pytest.mark.parametrize("name", NAMES)
def test_hidden_labels_are_not_peeked_at(toy, name):
    """Other labels under the unlabeled images, same picks."""
    honest = ready(toy, name)
    labels = toy.y_train.copy()
    unlabeled = ~honest.dataset.labeled_idxs
    labels[unlabeled] = (labels[unlabeled] + 1) % 3
    other = dataclasses.replace(toy, y_train=labels)
    assert query(honest, 9) == query(ready(other, name), 9)


@pytest.mark.parametrize("name", NAMES)
def test_first_docstring_line_explains_it(name):
    text = registry.strategies.get(name).__doc__
    assert len(text.split("\n")[0]) > 20
    assert "Time" in text and "emory" in text


@pytest.mark.parametrize("name", GENERATING)
def test_synthesize_adds_images_and_spends_no_label(toy, name, tmp_path):
    fields = {"ascent_steps": 2, "ascent_samples": 2, "n_synthetic": 0.5}
    strategy = ready(toy, name, **fields)
    folder = RunFolder.create(tmp_path, strategy.args_input, {"data": "d"}, {})
    galot = Galot(strategy.args_input, FakeGenerator(), ImageStore(tmp_path / "images"), folder,
                  toy.class_names, toy.image_shape)  # fmt: skip
    before = strategy.dataset.labeled_idxs.copy()
    batch = strategy.synthesize(galot, 0)
    n = strategy.args_input.n_synthetic_at(0)
    assert batch.x.shape == (n, *toy.image_shape) and batch.x.dtype == np.uint8
    assert sorted(np.bincount(batch.y, minlength=3)) == [1, 2, 2]
    assert strategy.dataset.n_synthetic == n
    assert np.array_equal(before, strategy.dataset.labeled_idxs)


def test_deepalplus_helpers_buy_labels_and_train_on_all_there_is(toy, monkeypatch):
    strategy = ready(toy, "RandomSampling")
    unlabeled = np.flatnonzero(~strategy.dataset.labeled_idxs)
    with pytest.raises(ValueError, match="cannot be given back"):
        strategy.update(unlabeled[:2], unlabeled[2:3])
    strategy.update(unlabeled[:2], [])
    assert strategy.get_labeled_count() == 14 and strategy.dataset.labeled_idxs[unlabeled[:2]].all()
    trained = []
    monkeypatch.setattr(strategy.net, "train", lambda data, member: trained.append(data))
    strategy.dataset.set_synthetic(toy.x_test[:3], toy.y_test[:3], accumulate=False)
    strategy.train()
    assert len(trained[0]) == 14 + 3


def test_scores_are_ranked_from_the_highest(toy):
    strategy = ready(toy, "MarginSampling")
    idxs = np.array([10, 20, 30, 40])
    scores = torch.tensor([0.1, 0.9, -float("inf"), 0.8])
    assert strategy.top(3, idxs, scores).tolist() == [20, 40, 10]
    scores[1] = float("nan")
    with pytest.raises(UserError, match="MarginSampling: 1 of 4 scores are NaN"):
        strategy.top(3, idxs, scores)
