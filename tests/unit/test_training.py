"""A fit's recipe: rates, optimisers, smoothing, weights, averages and auxiliary norms."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from deepal_galot import auxiliary_norm, seeding, training
from deepal_galot.classifiers.resnet18 import ResNet18
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.compiled_layers import SummedBatchNorm2d
from deepal_galot.errors import UserError
from deepal_galot.learner import Learner
from deepal_galot.objective import Batch, HeadDropout, Objective
from deepal_galot.pool import Pool
from deepal_galot.training import WeightAverage, make_optimizer, rate_share, split_batches
from helpers import small_config

CPU = torch.device("cpu")
STILL = {"shift": 0, "flip": 0, "rotate": 0.0, "zoom": 0.0}


def trained(spec, n_real=12, n_generated=0, architecture=SmallCNN, **fields):
    """A learner after one fit, and its training set; generated images are the pool's, inverted."""
    config = small_config(**{"batch_size": 8} | fields)
    pool = Pool(spec)
    pool.initialize_labels(max(n_real, 1), 0)
    if n_generated:
        pool.set_synthetic(
            255 - spec.x_train[-n_generated:], np.arange(n_generated) % 3, accumulate=False
        )
    learner = Learner(config, architecture, spec.image_shape, spec.n_classes, CPU)
    data = pool.training_set(real=n_real > 0)
    assert (len(data), data.n_generated) == (n_real + n_generated, n_generated)
    learner.fit(data, 0)
    return learner, data


# -- learning rate and optimiser ---------------------------------------------------------------


@pytest.mark.parametrize("per_epoch, epochs", [(1, 2), (1, 5), (5, 1), (30, 7), (1000, 1)])
def test_one_cycle_is_pytorchs(per_epoch, epochs):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=per_epoch * epochs, cycle_momentum=False
    )
    for step in range(per_epoch * epochs):
        # Theirs ends at 4e-6.
        rate = rate_share("onecycle", step, per_epoch, epochs)
        assert rate == pytest.approx(theirs.get_last_lr()[0], abs=5e-6)
        optimizer.step()
        theirs.step()
    assert rate == 0


def test_rates_at_their_turning_points():
    assert rate_share("onecycle", 0, 100, 10) == pytest.approx(1 / 25)
    assert rate_share("onecycle", 299, 100, 10) == pytest.approx(1)
    assert rate_share("onecycle", 649, 100, 10) == pytest.approx(0.5)
    assert 0 < rate_share("onecycle", 0, 1, 1) < 1  # PyTorch's is 0
    cosine = [rate_share("cosine", step, 10, 4) for step in (0, 9, 20, 25)]
    assert cosine == pytest.approx([1, 1, 0.5, 0.5])
    assert rate_share("constant", 37, 10, 4) == 1


def test_adamw_shrinks_the_weights_apart_from_the_gradient():
    """First step of Loshchilov & Hutter 2019: w ← (1 - lr·λ)·w - lr·sign(g)."""
    for name, expected in (("adamw", (1 - 0.1 * 0.5) * 2 - 0.1), ("adam", 2 - 0.1)):
        layer = nn.Linear(1, 1, bias=False)
        layer.weight.data.fill_(2.0)
        config = small_config(optimizer=name, lr=0.1, weight_decay=0.5)
        optimizer = make_optimizer(config, layer)
        (3 * layer.weight).sum().backward()
        optimizer.step()
        assert layer.weight.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "constant"])
def test_a_whole_fit_is_that_of_plain_pytorch(digits, schedule):
    """Seven epochs of SGD with momentum, weight decay and smoothing in float64, in the order of the
    stream; PyTorch's own optimiser and schedules."""
    n, size, epochs, lr = 50, 16, 7, 0.05
    config = small_config(
        optimizer="sgd", lr=lr, momentum=0.9, weight_decay=5e-4, schedule=schedule, epochs=epochs,
        label_smoothing=0.1, batch_size=size, **STILL,
    )  # fmt: skip
    pool = Pool(digits)
    pool.initialize_labels(n, 0)
    data = pool.training_set()
    learner = Learner(config, SmallCNN, digits.image_shape, digits.n_classes, CPU)
    learner._new_classifier(0)
    reference = copy.deepcopy(learner.clf).double().train()
    learner.fit(data, 0)
    x, parts = torch.stack([data[i][0] for i in range(n)]).double(), split_batches(n, size)
    sgd = torch.optim.SGD(reference.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    rates = torch.optim.lr_scheduler
    scheduler = {
        "cosine": lambda: rates.CosineAnnealingLR(sgd, epochs),
        "onecycle": lambda: rates.OneCycleLR(
            sgd, lr, total_steps=epochs * len(parts), cycle_momentum=False
        ),
        "constant": lambda: rates.ConstantLR(sgd, 1.0),
    }[schedule]()
    rng = seeding.torch_rng(config.seed, "batches", 0)
    for _ in range(epochs):
        order = torch.randperm(n, generator=rng)
        for part in parts:
            sgd.zero_grad()
            logits, y = reference(x[order[part]])[0], data.Y[order[part]]
            F.cross_entropy(logits, y, label_smoothing=0.1).backward()
            sgd.step()
            if schedule == "onecycle":
                scheduler.step()
        if schedule != "onecycle":
            scheduler.step()
    theirs = reference.state_dict()
    for name, tensor in learner.clf.state_dict().items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=0, atol=2e-5, check_dtype=False, msg=name
        )


def test_a_fit_that_diverges_says_so(toy):
    with pytest.raises(UserError, match="12 images diverged: .* lower --lr 1e[+]09"):
        trained(toy, optimizer="sgd", lr=1e9, min_steps=50)


# -- the loss ----------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5]))
@settings(max_examples=25, deadline=None)
def test_losses_are_those_written_out(seed, smoothing):
    """−Σ_k q_k log p_k with q = (1 − s)·onehot + s/K, in float64; times the weight."""
    rng = torch.Generator().manual_seed(seed)
    logits, y = 5 * torch.randn(6, 4, generator=rng), torch.randint(4, (6,), generator=rng)
    weight = torch.rand(6, generator=rng)
    objective = Objective()
    objective.label_smoothing = smoothing
    q = (1 - smoothing) * F.one_hot(y, 4).double() + smoothing / 4
    p = logits.double().exp() / logits.double().exp().sum(1, keepdim=True)
    expected = -(q * p.log()).sum(1)
    blank = torch.zeros(6, 1, 1, 1)
    close = {"rtol": 1e-4, "atol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(objective.losses(logits, Batch(blank, y)), expected, **close)
    weighted = objective.losses(logits, Batch(blank, y, weight))
    torch.testing.assert_close(weighted, expected * weight, **close)


@pytest.mark.parametrize("architecture", [SmallCNN, ResNet18])
def test_a_weighted_step_is_that_of_the_weighted_mean(toy, architecture):
    """One batch of 5 real and 3 generated images: Σ w·loss / Σ w, and SGD written out."""
    fields = STILL | {"optimizer": "sgd", "epochs": 1, "lr": 0.1, "momentum": 0.0,
                      "weight_decay": 0.0, "synthetic_weight": 0.25}  # fmt: skip
    learner, data = trained(toy, 5, 3, architecture, **fields)
    after = {k: p.detach().clone() for k, p in learner.clf.named_parameters()}
    learner._new_classifier(0)
    reference = learner.clf.train()
    x = torch.stack([data[i][0] for i in range(8)])
    losses = F.cross_entropy(reference(x)[0], data.Y, reduction="none")
    weight = torch.tensor([1.0] * 5 + [0.25] * 3)
    ((losses * weight).sum() / weight.sum()).backward()
    for name, p in reference.named_parameters():
        torch.testing.assert_close(after[name], p - 0.1 * p.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_where_all_images_are_alike_their_weight_is_one(toy):
    for n_real, n_generated in ((8, 0), (0, 8)):
        plain, weighted = (
            trained(toy, n_real, n_generated, synthetic_weight=w, synthetic_norm=norm)[0].state()
            for w, norm in ((1.0, "shared"), (0.1, "separate"))
        )
        assert all(torch.equal(plain[k], weighted[k]) for k in plain)


def test_head_dropout_drops_and_scales_in_training():
    """The gradients of a step on kept · embedding / (1 - p), written out."""
    clf = SmallCNN((8, 8, 1), 3).train()
    reference, objective = copy.deepcopy(clf), Objective()
    objective.dropout = HeadDropout(0.25, torch.Generator().manual_seed(0))
    x, y = torch.randn(6, 1, 8, 8), torch.arange(6) % 3
    kept = objective.dropout.draw(6, clf.embedding_dim)
    objective.backward(clf, Batch(x, y, kept=kept), 0.0, contextlib.nullcontext)
    F.cross_entropy(reference.head(kept * reference(x)[1] / 0.75), y).backward()
    for ours, theirs in zip(clf.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


# -- averaged weights --------------------------------------------------------------------------


def test_the_average_is_the_recursion_written_out():
    model = nn.BatchNorm1d(3)
    average, naive = WeightAverage(model, 0.7), None
    rng = np.random.default_rng(0)
    for t in range(20):
        w = rng.normal(size=3)
        naive = np.ones(3) if naive is None else naive  # what the weight starts as
        model.weight.data = model.weight.data.copy_(torch.tensor(w))
        average.update()
        d = min(0.7, (1 + t) / (10 + t))
        naive = naive + (1 - d) * (np.float32(w).astype(np.float64) - naive)
    average.give_back()
    np.testing.assert_allclose(model.weight.detach(), naive, rtol=1e-5)


def test_a_fit_ends_with_the_average_of_what_it_went_through(toy):
    """With decay 0.0001 those are the last weights; with 0.99 they are others, statistics too."""
    last, nearly, averaged = (
        trained(toy, ema=decay, epochs=6, schedule="constant")[0].state()
        for decay in (0.0, 1e-4, 0.99)
    )
    for key, value in last.items():
        if value.is_floating_point():
            torch.testing.assert_close(nearly[key], value, rtol=1e-3, atol=1e-4)
            assert not torch.allclose(averaged[key], value, rtol=1e-3, atol=1e-4), key


# -- auxiliary norms ---------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [SmallCNN, ResNet18])
def test_the_classifier_keeps_the_real_images_statistics(toy, architecture):
    """After one step its first BatchNorm holds a tenth of the real half's mean."""
    learner, data = trained(toy, 5, 3, architecture, **STILL, epochs=1, synthetic_norm="separate")
    after = learner.state()
    learner._new_classifier(0)
    fresh = learner.clf
    assert list(fresh.state_dict()) == list(after)  # nothing auxiliary is left
    name, norm = next((k, m) for k, m in fresh.named_modules() if isinstance(m, nn.BatchNorm2d))
    seen = []
    norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        fresh.train()(torch.stack([data[i][0] for i in range(5)]))
    expected = 0.1 * seen[0].mean((0, 2, 3))
    torch.testing.assert_close(after[f"{name}.running_mean"], expected, rtol=1e-3, atol=1e-5)


def test_each_kind_is_normalised_by_its_own_batch():
    """Rows of two kinds, interleaved, against two BatchNorms called on each kind alone."""
    clf = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.BatchNorm1d(8))
    plain = copy.deepcopy(clf)
    rows = auxiliary_norm.set_apart(clf)
    generated = torch.tensor([False, True, True, False, True])
    rows.set(generated)
    x = torch.randn(5, 2, 2, 2, requires_grad=True)
    out = clf(x)
    expected = torch.empty_like(out)
    expected[~generated] = copy.deepcopy(plain)(x[~generated])
    expected[generated] = copy.deepcopy(plain)(x[generated])
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    auxiliary_norm.join(clf)
    assert list(clf.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("generated", [[True, True], [False, False], [True, False], [True]])
def test_batches_with_one_or_no_image_of_a_kind(generated):
    clf = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.BatchNorm1d(8))
    rows = auxiliary_norm.set_apart(clf)
    rows.set(torch.tensor(generated))
    out = clf(torch.randn(len(generated), 2, 2, 2))
    assert out.shape == (len(generated), 8) and out.isfinite().all()
    before = clf[0].main.running_mean if all(generated) else clf[0].auxiliary.running_mean
    if len(set(generated)) == 1:
        assert torch.equal(before, torch.zeros(2))


@pytest.mark.parametrize("layer, shape", [
    (nn.BatchNorm1d(4), (3, 4)), (nn.BatchNorm2d(4), (3, 4, 1, 1)),
])  # fmt: skip
def test_one_value_a_channel_leaves_the_statistics_alone(layer, shape):
    """Two real images and a generated one; a larger map of one image has a variance."""
    clf = nn.Sequential(copy.deepcopy(layer))
    rows = auxiliary_norm.set_apart(clf)
    rows.set(torch.tensor([False, True, False]))
    nn.init.constant_(clf[0].auxiliary.bias, 0.5)
    before = copy.deepcopy(clf[0].auxiliary.state_dict())
    out = clf(torch.randn(shape))
    torch.testing.assert_close(out[1], torch.full_like(out[1], 0.5), rtol=0, atol=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in clf[0].auxiliary.state_dict().items())
    assert clf[0].main.num_batches_tracked == 1 and (clf[0].main.running_var != 1).all()
    if len(shape) == 4:
        clf(torch.randn(3, 4, 2, 2))
        assert clf[0].auxiliary.num_batches_tracked == 1


# -- graphs and compilers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, compiled_from, wanted",
    [
        ({}, None, "graph"),
        ({}, 6, "graph compiled"),
        ({}, 7, "graph"),
        ({"synthetic_norm": "separate"}, 6, ""),  # counts its rows
        ({"capturable": False}, 6, ""),
        ({"loss": "own"}, 6, ""),
    ],
)
def test_which_fits_are_graphs_and_compiled(toy, monkeypatch, fields, compiled_from, wanted):
    """Three epochs of two batches, on what says that it is a GPU; both are stood in for."""
    done = []

    class OnGpu(torch.Tensor):
        is_cuda = True

    class OwnLoss(Objective):
        def losses(self, logits, batch):
            return super().losses(logits, batch)

    monkeypatch.setattr(torch, "compile", lambda clf, **kw: done.append("compiled") or clf.forward)
    monkeypatch.setattr(
        training, "Captured", lambda step, what: done.append("graph") or (lambda x: step(x))
    )
    monkeypatch.setattr(training, "stream_for_graphs", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(training, "make_optimizer", lambda *a: make_optimizer(*a[:2]))
    monkeypatch.setattr(SmallCNN, "capturable", fields.pop("capturable", True))
    objective = OwnLoss() if fields.pop("loss", None) else Objective()
    config = small_config(batch_size=8, epochs=3, **fields)
    x = torch.tensor(toy.x_train[:16]).permute(0, 3, 1, 2).as_subclass(OnGpu)
    clf = SmallCNN(toy.image_shape, toy.n_classes)
    norms = set()  # what the first is while the steps are made
    y = torch.from_numpy(toy.y_train[:16])
    fit = training.Training(
        clf, objective, config, lambda x: norms.add(type(clf.stages[0][1])) or x, x, y, 8
    )
    assert fit.run(torch.Generator(), compiled_from) == 6
    assert sorted(done) == sorted(wanted.split())
    assert (norms == {SummedBatchNorm2d}) == ("compiled" in wanted)
    assert type(clf.stages[0][1]) is torch.nn.BatchNorm2d


def test_a_network_says_for_itself_that_it_can_be_a_graph():
    class Own(SmallCNN):
        """Its Python state would be frozen into a graph."""

    assert SmallCNN.capturable and not Own.capturable


# -- precision ---------------------------------------------------------------------------------


def test_bfloat16_learns_what_float32_learns(digits):
    """200 labels, 3 seeds: other bits, the same accuracy to a point + 3 standard errors."""
    accuracy, heads = {}, {}
    for precision in ("float32", "bfloat16"):
        for seed in range(3):
            config = small_config(epochs=10, batch_size=32, seed=seed, precision=precision)
            learner = Learner(config, SmallCNN, digits.image_shape, 10, CPU)
            pool = Pool(digits)
            pool.initialize_labels(200, seed)
            learner.fit(pool.training_set(), 0)
            assert all(p.dtype == torch.float32 for p in learner.clf.parameters())
            test = pool.cal_test_acc(learner.predict(pool.get_test_data()))
            accuracy.setdefault(precision, []).append(test)
            heads[precision] = learner.clf.head.weight
    assert not torch.equal(heads["float32"], heads["bfloat16"])
    gap = np.subtract(accuracy["float32"], accuracy["bfloat16"])
    assert abs(gap.mean()) < 0.01 + 3 * gap.std(ddof=1) / 3**0.5, accuracy
