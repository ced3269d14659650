"""What is kept of generated images by asking the unlabeled pool, against loops and by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from deepal_galot import images, unlabeled
from deepal_galot.acquisition import mutual_information
from deepal_galot.alignment import moments_of
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.config import ASKS_POOL
from deepal_galot.datasets.base import DatasetSpec
from deepal_galot.learner import Learner, Outputs
from deepal_galot.pool import Pool
from deepal_galot.unlabeled import Unlabeled, most_diverse, nearest_to_pool
from helpers import small_config
from no_float64 import device_without_float64

COUNTS = (2, 3, 4)


def config(keep="pool"):
    chosen = {"keep": keep, "oversample": 4.0, "epsilon": 0.0}
    return small_config(strategy="GALOT", mode="al+gal", seed=3, **chosen)


def learner(keep="pool"):
    return Learner(config(keep), SmallCNN, (8, 8, 1), 3, torch.device("cpu"))


def bank(toy, n=45, seed=5):
    """Images like toy's, a third of each class, and as many for the bootstrap as are kept."""
    rng = np.random.default_rng(seed)
    y = np.sort(np.arange(n) % 3)
    x = rng.integers(0, 90, (n, 8, 8, 1))
    for k in range(3):
        x[y == k, :, 3 * k : 3 * k + 2] += 130
    plain = np.concatenate([np.flatnonzero(y == k)[:c] for k, c in enumerate(COUNTS)])
    return x.astype(np.uint8), y.astype(np.int64), plain


def chosen(toy, keep="pool", own=None):
    pool = Pool(toy)
    pool.label(np.arange(10))
    x, y, plain = bank(toy)
    return Unlabeled(pool, own or learner(keep)).choose(x, y, plain, COUNTS, round=1), y


@pytest.mark.parametrize("keep", ASKS_POOL)
def test_every_way_keeps_what_is_wanted_of_each_class_once_and_the_same_again(toy, keep):
    kept, y = chosen(toy, keep)
    assert np.bincount(y[kept]).tolist() == list(COUNTS)
    assert (np.diff(kept) > 0).all()  # the bank is in the order of its classes
    again, _ = chosen(toy, keep)
    assert np.array_equal(kept, again)


@pytest.mark.parametrize("keep", ASKS_POOL)
def test_no_hidden_label_is_read_and_the_learner_is_left_alone(toy, keep):
    own = learner(keep)
    own.fit(Pool(toy).get_test_data(), 0)
    before = own.state()
    kept, _ = chosen(toy, keep, own)
    assert all(torch.equal(v, own.state()[k]) for k, v in before.items())
    assert own.extra_train_seconds > 0  # the bootstrap's
    hidden = toy.y_train.copy()
    hidden[10:] = (hidden[10:] + 1) % 3
    other, _ = chosen(replace(toy, y_train=hidden), keep)
    assert np.array_equal(kept, other)


def test_the_bootstrap_is_what_the_round_would_fit_without_a_choice(toy, monkeypatch):
    fits, fit = [], Learner.fit

    def recorded(self, data, round):
        fits.append((data, round))
        return fit(self, data, round)

    monkeypatch.setattr(Learner, "fit", recorded)
    chosen(toy)
    ((data, round),), (x, y, plain) = fits, bank(toy)
    assert (len(data), data.n_generated, round) == (10 + 9, 9, 1)
    assert np.array_equal(data.X, np.concatenate([toy.x_train[:10], x[plain]]))
    assert data.Y.tolist() == [*toy.y_train[:10], *y[plain]]


def test_moments_are_of_the_whole_pool_in_every_round(toy):
    pool = Pool(toy)
    pool.label(np.arange(50))
    assert torch.equal(Unlabeled(pool, learner()).moments().mean, moments_of(toy.x_train).mean)


def test_a_class_is_held_against_the_pool_images_that_look_like_it(monkeypatch):
    """Images spell an embedding and the class that the bootstrap sees in them. Of class 0 the pool
    has 0 and 100, of class 1 only 200."""

    def spelled(*values):
        x = np.zeros((len(values), 8, 8, 1), np.uint8)
        x[:, 0, :2, 0] = values
        return x

    def outputs(data):
        embedding, of = torch.from_numpy(data.X[:, 0, :2, 0]).long().unbind(1)
        return Outputs(torch.nn.functional.one_hot(of, 3), embedding[:, None].float())

    x = spelled((0, 0), (100, 0), (200, 1))
    spec = DatasetSpec("spelled", x, np.arange(3), x[:0], np.zeros(0, int), tuple("abc"),
                       (0.3,), (0.3,))  # fmt: skip
    own = Unlabeled(Pool(spec), learner())
    monkeypatch.setattr(own, "_bootstrap", lambda *_, **__: SimpleNamespace(outputs=outputs))
    made, y = spelled(*((v, 2) for v in (50, 1, 99, 0, 100, 199))), np.array([0, 0, 0, 1, 1, 1])
    assert own.choose(made, y, np.arange(3), (2, 1, 0), round=0).tolist() == [1, 2, 5]


def test_each_center_takes_the_nearest_that_is_left():
    """As many centers as pool points are the points themselves; far apart, no order matters."""
    rng = np.random.default_rng(0)
    pool = torch.from_numpy(rng.permutation(10)[:, None] * 100.0) * torch.ones(1, 3)
    made = torch.from_numpy(rng.permutation(30)[:, None] * 100.0 + 7.0) * torch.ones(1, 3)
    torch.manual_seed(0)
    kept = nearest_to_pool(pool.float(), made.float(), 10)
    naive = {int(((made - p).square().sum(1)).argmin()) for p in pool}
    assert len(naive) == 10 and set(kept.tolist()) == naive


def test_a_pool_smaller_than_the_wish_is_asked_again():
    pool = torch.tensor([[0.0], [100.0]])
    made = torch.tensor([[1.0], [2.0], [3.0], [98.0], [97.0], [50.0]])
    torch.manual_seed(0)
    assert sorted(nearest_to_pool(pool, made, 4).tolist()) == [0, 1, 3, 4]


def test_without_a_pool_image_of_a_class_the_choice_is_random():
    made = torch.arange(50.0)[:, None]
    kept = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        kept.append(nearest_to_pool(made[:0], made, 5).tolist())
    assert all(len(set(k)) == 5 for k in kept) and kept[0] != kept[1]


def test_diversity_takes_one_of_each_group():
    made = torch.tensor([0.0, 0.1, 0.2, 50.0, 50.1, 99.0, 99.1, 99.2])[:, None]
    torch.manual_seed(0)
    groups = {(0, 1, 2), (3, 4), (5, 6, 7)}
    kept = most_diverse(made + 1000, made, 3).tolist()  # wherever the pool is
    assert all(sum(i in group for i in kept) == 1 for group in groups)


def test_a_pool_that_was_labeled_to_the_end_leaves_something_to_train_on(toy):
    pool = Pool(toy)
    pool.label_everything()
    x, y, plain = bank(toy)
    for keep in ASKS_POOL:
        kept = Unlabeled(pool, learner(keep)).choose(x, y, plain, COUNTS, round=0)
        assert np.bincount(y[kept]).tolist() == list(COUNTS)


def test_the_discriminator_keeps_what_looks_real(toy):
    """Half of the bank are the pool's own images, half are inverted."""
    pool = Pool(toy)
    pool.label(np.arange(10))
    real = np.arange(10, 46)
    x = np.concatenate([toy.x_train[real], 255 - toy.x_train[real]])
    y = np.tile(toy.y_train[real], 2)
    plain = np.arange(0, 72, 4)
    kept = Unlabeled(pool, learner("discriminator")).choose(x, y, plain, (5, 5, 5), round=0)
    assert (kept < len(real)).all()


def test_the_discriminator_converges(recwarn):
    """Features of very different sizes, turned: 126 iterations; it stopped at 100 and said so."""
    rng = torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(64, 64, generator=rng))
    sizes = torch.logspace(0, -3, 64)
    shift = 0.3 * torch.randn(64, generator=rng).sign()
    pool, bank = (torch.randn(1000, 64, generator=rng) + s for s in (0, shift))
    scores = unlabeled._realness(pool * sizes @ turn, bank * sizes @ turn)
    assert scores.mean() < 0
    assert not [w for w in recwarn.list if issubclass(w.category, ConvergenceWarning)]


def test_bald_keeps_the_highest_mutual_information(toy, monkeypatch):
    x, y, _ = bank(toy)
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.permutation(len(y)).astype(np.float32))
    asked = []

    def passes(self, data, function):
        asked.append((self.config.head_dropout, self.config.mc_noise, function))
        return scores

    monkeypatch.setattr(Learner, "apply_to_passes", passes)
    kept, _ = chosen(toy, "bald")
    for k, n in enumerate(COUNTS):
        of_class = np.flatnonzero(y == k)
        best = of_class[np.argsort(-scores.numpy()[of_class])[:n]]
        assert set(best) == set(kept[y[kept] == k])
    assert asked == [(0.5, "head_dropout", mutual_information)]


@pytest.mark.parametrize("at_once", [2**24, 500])  # values: all images, or some seven
def test_the_distance_is_that_of_a_loop(toy, monkeypatch, at_once):
    monkeypatch.setattr(images, "AT_ONCE", at_once)
    pool = Pool(toy)
    pool.label(np.arange(50))  # ten are left
    x, _, _ = bank(toy)
    sizes, nearest = [], unlabeled.nearest_distance
    monkeypatch.setattr(unlabeled, "nearest_distance",
                        lambda a, b: sizes.append(len(b)) or nearest(a, b))  # fmt: skip
    measured = Unlabeled(pool, learner()).distance(x, round=0)
    assert sum(sizes) == len(x) and max(sizes) <= at_once // 64 + 1
    nearest = [
        min(np.sqrt(np.mean((a / 255 - b / 255) ** 2)) for b in x.astype(float))
        for a in toy.x_train[50:].astype(float)
    ]
    assert measured == pytest.approx(np.mean(nearest), abs=1e-6)


def test_a_device_without_float64_measures_the_same(toy):
    own, (x, _, _) = Unlabeled(Pool(toy), learner()), bank(toy)
    expected = own.distance(x, round=0)
    with device_without_float64() as own.learner.device:
        assert own.distance(x, round=0) == expected


def test_of_a_large_pool_a_sample_is_measured_another_one_each_round(toy, monkeypatch):
    monkeypatch.setattr(unlabeled, "MEASURED", 5)
    own, (x, _, _) = Unlabeled(Pool(toy), learner()), bank(toy)
    assert own.distance(x, 0) == own.distance(x, 0)
    assert len({own.distance(x, round) for round in range(4)}) == 4


def test_without_an_image_to_measure_there_is_no_distance(toy):
    pool = Pool(toy)
    x, _, _ = bank(toy)
    assert Unlabeled(pool, learner()).distance(x[:0], round=0) is None
    pool.label_everything()
    assert Unlabeled(pool, learner()).distance(x, round=0) is None


@pytest.mark.slow
def test_a_large_pool_and_bank_take_no_matrix_of_their_product(capsys):
    """50,000 × 100,000 distances in float32 would be 20 GB."""
    import resource
    import time

    torch.manual_seed(0)
    pool, made = torch.randn(5_000, 512), torch.randn(10_000, 512)  # one of ten classes
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    kept = nearest_to_pool(pool, made, 1_000)
    seconds = time.perf_counter() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    with capsys.disabled():
        print(f"\n5,000 pool × 10,000 bank × 512, 1,000 kept: {seconds:.1f} s, +{grown:.2f} GB")
    assert len(kept.unique()) == 1_000 and grown < 0.2
