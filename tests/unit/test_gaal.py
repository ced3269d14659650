"""GAAL's parts: the distance to the boundary, the descent to it, the GAN, the SVM's odd cases."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC
from torch.nn import functional as F

from deepal_galot import seeding
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.images import to_uint8, to_unit_float
from deepal_galot.learner import Learner
from deepal_galot.pool import ImageSet, Pool
from helpers import small_config
from query_strategies import gaal
from query_strategies.gaal import (
    GAAL,
    Discriminator,
    GANGenerator,
    LinearSVM,
    descend,
    fit_svm,
    train_gan,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def short_gan(monkeypatch):
    monkeypatch.setattr(GAAL, "gan_steps", 3)


def gaal_on(spec, labeled):
    """The strategy on a pool with these labels."""
    pool, config = Pool(spec), small_config(strategy="GAAL")
    pool.label(labeled)
    learner = Learner(config, SmallCNN, spec.image_shape, spec.n_classes, CPU)
    return GAAL(pool, learner, config, {})


def of_classes(spec, *classes):
    """Indices of six images of each of these classes."""
    return np.concatenate([np.flatnonzero(spec.y_train == k)[:6] for k in classes])


def random_svm(n_classes, channels, n_pixels):
    rng = torch.Generator().manual_seed(0)
    weights = torch.randn(n_classes, channels * n_pixels, generator=rng)
    biases, mean = (torch.randn(k, generator=rng) for k in (n_classes, channels))
    std = torch.rand(channels, generator=rng) + 0.1
    return LinearSVM(weights, biases, torch.arange(n_classes), mean[:, None, None],
                     std[:, None, None])  # fmt: skip


@pytest.fixture(scope="module")
def trained(digits):
    """(a generator of Digits that has learned something, an SVM on 40 of them)."""
    pool = Pool(digits)
    pool.initialize_labels(40, 0)
    return train_gan(digits.x_train, 150, 0, CPU), fit_svm(pool.training_set(), CPU)


# -- the distance ------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_distance_is_the_formula(n_classes):
    """|f_a - f_b| / ‖w_a - w_b‖ of the two leading classes, naively in float64."""
    svm = random_svm(n_classes, 3, 20)
    images = torch.rand(9, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    w, b, mean, std = (v.numpy().astype(np.float64) for v in (
        svm.weights, svm.biases, svm.mean, svm.std))  # fmt: skip
    for image, distance in zip(images, svm.distance(images), strict=True):
        x = ((image.numpy().astype(np.float64) - mean) / std).reshape(-1) / np.sqrt(60)
        f = [w[k] @ x + b[k] for k in range(n_classes)]
        second, first = np.argsort(f)[-2:]
        expected = (f[first] - f[second]) / np.sqrt(((w[first] - w[second]) ** 2).sum())
        assert float(distance) == pytest.approx(expected, rel=1e-4)


def test_distance_is_that_to_a_point_on_the_boundary():
    """Going that far against w_a - w_b makes the two values equal."""
    svm = random_svm(4, 1, 6)
    image = torch.rand(1, 1, 2, 3, generator=torch.Generator().manual_seed(2))
    values, (a, b) = svm.decide(image)[0], svm.decide(image)[0].topk(2).indices
    normal = (svm.weights[a] - svm.weights[b]) / (svm.weights[a] - svm.weights[b]).norm()
    step = normal * svm.distance(image) * np.sqrt(6) * svm.std.flatten()
    moved = svm.decide(image - step.reshape(1, 1, 2, 3))[0]
    assert values[a] - values[b] > 0.01
    assert float(moved[a]) == pytest.approx(float(moved[b]), abs=1e-5)


# -- the SVM -----------------------------------------------------------------------------------


def test_is_the_svm_that_scikit_learn_finds(digits):
    data = gaal_on(digits, np.arange(300)).dataset.training_set()
    x = (to_unit_float(data.X).flatten(1).numpy() - data.mean[0]) / data.std[0] / 8
    theirs = LinearSVC(C=gaal.SVM_C, random_state=0, tol=1e-8, max_iter=100_000).fit(x, data.Y)
    values = fit_svm(data, CPU).decide(to_unit_float(data.X))
    np.testing.assert_allclose(values, theirs.decision_function(x), atol=2e-3)


def test_two_classes_are_at_the_binary_svms_distance(toy):
    """A single decision value f describes it: the distance is |f| / ‖w‖."""
    strategy = gaal_on(toy, of_classes(toy, 0, 2))
    data = strategy.dataset.training_set()
    x = (to_unit_float(data.X).flatten(1).numpy() - data.mean[0]) / data.std[0] / 8
    binary = LinearSVC(C=gaal.SVM_C, random_state=0, tol=1e-8, max_iter=100_000).fit(x, data.Y)
    expected = np.abs(binary.decision_function(x)) / np.linalg.norm(binary.coef_)
    distance = strategy.svm().distance(to_unit_float(data.X))
    np.testing.assert_allclose(distance, expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(strategy.svm().predict(data.X), torch.as_tensor(binary.predict(x)))


@pytest.mark.parametrize("classes", [(0, 1, 2), (0, 2), (1,)])
def test_predicts_the_classes_that_have_a_label(toy, classes):
    svm = gaal_on(toy, of_classes(toy, *classes)).svm()
    right = np.isin(toy.y_test, classes)
    predicted = svm.predict(toy.x_test).numpy()
    assert set(predicted) <= set(classes)
    assert (predicted[right] == toy.y_test[right]).all()  # the toy classes are far apart


def test_with_a_single_class_the_queries_are_plain_samples(toy):
    strategy = gaal_on(toy, of_classes(toy, 1))
    torch.manual_seed(5)
    images = strategy.query(3).images
    torch.manual_seed(5)
    samples = strategy.generator(torch.randn(3, gaal.LATENT))
    assert np.array_equal(images, to_uint8(samples))
    assert strategy.measure() == {"svm_accuracy": pytest.approx((toy.y_test == 1).mean())}


def test_is_fitted_anew_only_to_new_labels(toy):
    strategy = gaal_on(toy, of_classes(toy, 0, 1))
    first = strategy.svm()
    assert strategy.svm() is first
    query = strategy.query(4)
    assert strategy.svm() is first
    strategy.dataset.label_synthetic(query, lambda images: np.full(len(images), 2))
    assert strategy.svm().classes.tolist() == [0, 1, 2]


# -- the descent -------------------------------------------------------------------------------


def test_descent_ends_nearer_to_the_boundary_than_it_starts(trained):
    generator, svm = trained
    z = torch.randn(100, gaal.LATENT, generator=torch.Generator().manual_seed(3))
    start, end = generator(z), descend(generator, svm, z)
    before, after = svm.distance(start), svm.distance(end)
    assert (after <= before).all()
    assert after.mean() < before.mean() / 50
    rounded = svm.distance(to_unit_float(to_uint8(end)))
    assert rounded.mean() < before.mean() / 20


def test_queries_are_nearer_to_the_boundary_than_random_samples(digits, trained):
    generator, _ = trained
    strategy = gaal_on(digits, of_classes(digits, *range(10)))
    strategy.generator = generator
    torch.manual_seed(1)
    queries = strategy.svm().distance(to_unit_float(strategy.query(50).images))
    samples = strategy.svm().distance(generator(torch.randn(50, gaal.LATENT)))
    assert queries.mean() < samples.mean() / 20 and queries.max() < samples.median()


def test_latents_keep_their_length(trained):
    generator, svm = trained
    lengths = []

    def watched(z):
        lengths.append(z.detach().norm(dim=1))
        return generator(z)

    descend(watched, svm, torch.randn(5, gaal.LATENT, generator=torch.Generator().manual_seed(0)))
    assert len(lengths) > gaal.DESCENT_STEPS
    torch.testing.assert_close(torch.stack(lengths), lengths[0].expand(len(lengths), -1))


@pytest.mark.parametrize("n", [1, 4, 5, 11])
def test_batches_of_any_size_make_the_same_images(digits, trained, monkeypatch, n):
    strategy = gaal_on(digits, of_classes(digits, *range(10)))
    strategy.generator = trained[0]
    torch.manual_seed(0)
    together = strategy.query(n).images
    monkeypatch.setattr(gaal, "DESCENT_BATCH", 4)
    torch.manual_seed(0)
    apart = strategy.query(n).images
    assert apart.shape == (n, 8, 8, 1) and apart.dtype == np.uint8
    assert (np.abs(apart.astype(int) - together) <= 1).mean() > 0.99


# -- the GAN -----------------------------------------------------------------------------------


def test_two_steps_of_the_gan_are_goodfellows(toy):
    """The discriminator's cross-entropy, then the non-saturating loss −log D(G(z)), as PyTorch's
    binary cross-entropy writes them."""
    ours = train_gan(toy.x_train, 2, 5, CPU)
    rng = seeding.torch_rng(5, "model", 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive(5, "model", 0))
        nets = GANGenerator(toy.image_shape), Discriminator(toy.image_shape)
    generator, discriminator = (net.train() for net in nets)
    first, second = (torch.optim.Adam(net.parameters(), 1e-3, (0.5, 0.999)) for net in nets)
    cross_entropy = F.binary_cross_entropy_with_logits
    yes, no = torch.ones(gaal.GAN_BATCH), torch.zeros(gaal.GAN_BATCH)
    x = torch.tensor(toy.x_train).permute(0, 3, 1, 2) / 255
    for _ in range(2):
        real = x[torch.randint(len(x), (gaal.GAN_BATCH,), generator=rng)]
        made = generator(torch.randn(gaal.GAN_BATCH, gaal.LATENT, generator=rng))
        second.zero_grad()
        both = cross_entropy(discriminator(real), yes) + cross_entropy(
            discriminator(made.detach()), no
        )
        both.backward()
        second.step()
        first.zero_grad()
        cross_entropy(discriminator(made), yes).backward()
        first.step()
    for name, tensor in generator.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, msg=name)


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 11, 1), (28, 28, 1), (32, 32, 3), (64, 64, 3)])
def test_images_of_any_size_from_a_pool_smaller_than_a_batch(monkeypatch, shape):
    monkeypatch.setattr(gaal, "GAN_BATCH", 8)
    pool = np.random.default_rng(0).integers(0, 256, (5, *shape), dtype=np.uint8)
    generator = train_gan(pool, 1, 0, CPU)
    images = generator(torch.randn(3, gaal.LATENT))
    assert images.shape == (3, shape[2], *shape[:2])
    assert 0 <= images.min() < images.max() <= 1


def test_the_centre_is_cut_from_an_odd_size():
    """9 × 11 of 10 × 12: one pixel less at the end of each side."""
    even, odd = GANGenerator((10, 12, 1)).eval(), GANGenerator((9, 11, 1)).eval()
    odd.load_state_dict(even.state_dict())
    z = torch.randn(2, gaal.LATENT)
    assert torch.equal(odd(z), even(z)[:, :, :9, :11])


def test_training_repeats_itself_and_leaves_the_global_generators_alone(toy):
    seeding.seed_globals(7, "query", 1)
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = train_gan(toy.x_train, 3, 0, CPU).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpys, np.random.get_state()[1])
    torch.manual_seed(99)
    again, other = (train_gan(toy.x_train, 3, seed, CPU).state_dict() for seed in (0, 1))
    assert all(torch.equal(v, again[k]) for k, v in first.items())
    assert not torch.equal(first["last.weight"], other["last.weight"])


def test_its_first_weights_are_the_seeds(toy):
    first, other = (train_gan(toy.x_train, 0, seed, CPU).state_dict() for seed in (0, 1))
    assert not torch.equal(first["last.weight"], other["last.weight"])


@pytest.mark.parametrize(("side", "steps"), [(8, 1), (28, 1), (32, 4), (64, 16)])
def test_each_doubling_beyond_28_pixels_takes_four_times_the_steps(monkeypatch, side, steps):
    updates = []
    monkeypatch.setattr(gaal, "GAN_BATCH", 2)
    monkeypatch.setattr(gaal, "update", lambda optimizer, loss: updates.append(loss))
    train_gan(np.zeros((2, side, side, 1), np.uint8), 1, 0, CPU)
    assert len(updates) == 2 * steps  # of both networks


def test_samples_come_to_look_like_the_pool(digits, trained):
    """Their mean image, and how much the pixels vary, against those of an untrained GAN."""
    z = torch.randn(500, gaal.LATENT, generator=torch.Generator().manual_seed(0))
    pool = to_unit_float(digits.x_train)

    def far(generator):
        images = generator(z)
        return sum(float((f(images) - f(pool)).abs().mean()) for f in (
            lambda x: x.mean(0), lambda x: x.std(0)))  # fmt: skip

    assert far(trained[0]) < far(train_gan(digits.x_train, 0, 0, CPU)) / 3


# -- what it costs -----------------------------------------------------------------------------


def test_training_is_timed_and_the_descent_is_not(toy, monkeypatch):
    strategy = gaal_on(toy, of_classes(toy, 0, 1, 2))
    strategy.query(2)
    trained = strategy.net.extra_train_seconds
    assert trained > 0
    strategy.query(2)
    strategy.measure()
    assert strategy.net.extra_train_seconds == trained


def test_without_a_test_set_or_labels_nothing_is_measured(toy):
    """Mode gal buys no label."""
    assert gaal_on(toy, []).measure() == {}
    empty = dataclasses.replace(toy, x_test=toy.x_test[:0], y_test=toy.y_test[:0])
    assert gaal_on(empty, of_classes(toy, 0, 1)).measure() == {}


def test_learns_nothing_from_pseudo_labels(toy):
    """GALOT with GAAL as its base sampler: the SVM sees human labels only."""
    strategy = gaal_on(toy, of_classes(toy, 0, 1))
    strategy.dataset.set_synthetic(toy.x_test[:7], np.full(7, 2), accumulate=False)
    assert strategy.svm().classes.tolist() == [0, 1]


def test_statistics_may_be_of_double_precision(toy):
    data = ImageSet(toy.x_train, torch.as_tensor(toy.y_train), (np.float64(0.3),), (0.3,))
    assert fit_svm(data, CPU).decide(to_unit_float(toy.x_train)).dtype == torch.float32
