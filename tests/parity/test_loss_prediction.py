"""LossPrediction (Yoo & Kweon 2019) against its formulas written out in loops and in one piece."""

import contextlib
import copy
import dataclasses
import importlib

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from deepal_galot import registry, seeding
from deepal_galot.acquisition import entropy
from deepal_galot.classifiers.resnet18 import ResNet18
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.datasets.digits import Digits
from deepal_galot.learner import Learner
from deepal_galot.objective import Batch
from deepal_galot.pool import Pool
from deepal_galot.protocols import resolve
from helpers import make_strategy, recorded_scores, small_config

MARGIN, WEIGHT, DETACH_AFTER = 1.0, 1.0, 0.6  # ξ, λ, and 120 of 200 epochs: the paper's


def module():
    """query_strategies.loss_prediction_loss, however the registry loaded it."""
    return importlib.import_module(registry.strategies.get("LossPredictionLoss").__module__)


def naive_ranking_loss(predicted, losses):
    """The paper's loss of pairs, first with last, second with last but one, …; their mean."""
    total, pairs = 0.0, len(predicted) // 2
    for i in range(pairs):
        j = len(predicted) - 1 - i
        sign = 1 if losses[i] > losses[j] else -1
        total += max(0.0, -sign * (predicted[i] - predicted[j]) + MARGIN)
    return total / max(1, pairs)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 128])
@pytest.mark.parametrize("kind", ["random", "few values", "equal", "zero and huge"])
def test_ranking_loss_equals_the_loop(n, kind):
    rng = np.random.default_rng(n)
    predicted = rng.normal(size=n)
    losses = {
        "random": rng.exponential(size=n),
        "few values": rng.integers(0, 2, n).astype(float),
        "equal": np.ones(n),
        "zero and huge": rng.choice([0.0, 1e30], n),
    }[kind]
    ours = module().ranking_loss(torch.tensor(predicted), torch.tensor(losses))
    assert ours.item() == pytest.approx(naive_ranking_loss(predicted, losses), rel=1e-12)


def test_ranking_loss_of_one_image_has_a_gradient_of_zero():
    predicted = torch.tensor([0.3], requires_grad=True)
    module().ranking_loss(predicted, torch.tensor([1.0])).backward()
    assert predicted.grad.tolist() == [0.0]


# -- the gradient ------------------------------------------------------------------------------


def objective_for(architecture):
    """(classifier, LearningLoss) in float64 and training mode, freshly initialised."""
    config = small_config(strategy="LossPredictionLoss")
    learner = Learner(config, architecture, (8, 8, 1), 3, torch.device("cpu"))
    objective = learner.objective = module().LearningLoss(learner)
    learner._new_classifier(0)
    return learner.clf.double().train(), objective.double()


def predicted_losses(objective, maps):
    """The loss module written out: average, linear, ReLU for each map; joined; linear."""
    hidden = []
    for (_, linear, _), m in zip(objective.branches, maps, strict=True):
        average = m.sum((2, 3)) / (m.shape[2] * m.shape[3])
        hidden.append((average @ linear.weight.T + linear.bias).clamp_min(0))
    return (torch.cat(hidden, 1) @ objective.last.weight.T + objective.last.bias).flatten()


def in_one_piece(clf, objective, x, y, detached):
    """Gradients of the mean cross-entropy + λ · ranking loss by one backward pass."""
    maps = clf.feature_maps(x)
    losses = F.cross_entropy(clf.head(clf.neck(maps[-1])), y, reduction="none")
    seen = [m.detach() for m in maps] if detached else maps
    predicted, pairs, ranking = predicted_losses(objective, seen), len(x) // 2, 0.0
    for i in range(pairs):
        j = len(x) - 1 - i
        sign = 1 if losses[i] > losses[j] else -1
        ranking = ranking + (MARGIN - sign * (predicted[i] - predicted[j])).clamp_min(0) / pairs
    (losses.mean() + WEIGHT * ranking).backward()


def gradients(*modules):
    return {f"{i}.{k}": p.grad for i, m in enumerate(modules) for k, p in m.named_parameters()}


@pytest.mark.parametrize(
    ("architecture", "n"), [(SmallCNN, 2), (SmallCNN, 7), (SmallCNN, 8), (ResNet18, 7)]
)
@pytest.mark.parametrize(("progress", "detached"), [(0.0, False), (0.599, False), (0.6, True)])
def test_split_backward_equals_the_loss_in_one_piece(architecture, n, progress, detached):
    """All gradients, of the classifier and of the loss module, to 1e-5 of each one's largest:
    the network runs in float64, the losses are rounded to float32."""
    clf, objective = objective_for(architecture)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, 8, 8, generator=rng, dtype=torch.float64)
    y = torch.randint(0, 3, (n,), generator=rng)
    reference = copy.deepcopy((clf, objective.branches, objective.last))
    objective.backward(clf, Batch(x, y), progress, contextlib.nullcontext)
    ours = gradients(clf, objective.branches, objective.last)
    clf, objective.branches, objective.last = reference
    in_one_piece(clf, objective, x, y, detached)
    for name, theirs in gradients(*reference).items():
        scale = theirs.abs().max().item() + 1e-8
        torch.testing.assert_close(ours[name], theirs, rtol=0, atol=1e-5 * scale, msg=name)
    assert ours["2.weight"].abs().max() > 1e-3  # the loss module learns, detached or not


@pytest.mark.parametrize("progress", [0.0, 0.7])
def test_after_the_detach_point_the_classifier_learns_by_cross_entropy_alone(progress):
    """Its gradient equals plain cross-entropy's to 1e-5 then, and only then."""
    clf, objective = objective_for(SmallCNN)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(8, 1, 8, 8, generator=rng, dtype=torch.float64)
    y = torch.randint(0, 3, (8,), generator=rng)
    plain = copy.deepcopy(clf)
    F.cross_entropy(plain(x)[0], y).backward()
    objective.backward(clf, Batch(x, y), progress, contextlib.nullcontext)
    close = [torch.allclose(a.grad, b.grad, rtol=0, atol=1e-5 * b.grad.abs().max().item())
             for a, b in zip(clf.parameters(), plain.parameters(), strict=True)]  # fmt: skip
    assert all(close) if progress >= DETACH_AFTER else not all(close)


# -- the picks ---------------------------------------------------------------------------------


def fitted(spec, **fields):
    """A LossPrediction strategy on 15 labels with its classifier and loss module trained."""
    pool = Pool(spec)
    pool.initialize_labels(15, 0)
    config = small_config(strategy="LossPredictionLoss", batch_size=8, **fields)
    learner = Learner(config, SmallCNN, spec.image_shape, spec.n_classes, torch.device("cpu"))
    strategy = make_strategy("LossPredictionLoss", pool, learner)
    learner.fit(pool.training_set(), 0)
    return strategy


def test_picks_have_the_largest_predicted_losses(toy):
    """Scores to 1e-5 of the module written out in eval mode; and no two are that close here."""
    strategy = fitted(toy)
    unlabeled, data = strategy.dataset.get_unlabeled_data()
    x = torch.stack([data[i][0] for i in range(len(data))])
    with torch.no_grad():
        maps = copy.deepcopy(strategy.net.clf).eval().feature_maps(x)
        naive = predicted_losses(strategy.objective, maps).numpy()
    seen = recorded_scores(strategy)
    seeding.seed_globals(0, "query", 1)
    picks = strategy.query(9)
    np.testing.assert_allclose(seen[0], naive, rtol=0, atol=1e-5)
    assert picks.tolist() == unlabeled[np.argsort(-naive)[:9]].tolist()


def test_the_loss_module_comes_back_with_the_classifier(toy):
    strategy = fitted(toy, epochs=1)
    learner = Learner(strategy.net.config, SmallCNN, (8, 8, 1), 3, torch.device("cpu"))
    again = make_strategy("LossPredictionLoss", strategy.dataset, learner)
    learner.load_state(strategy.net.state(), toy.mean, toy.std)
    _, data = strategy.dataset.get_unlabeled_data()
    ours, theirs = (s.net.apply(data, s.objective.predict) for s in (again, strategy))
    assert torch.equal(ours, theirs)


def test_predicted_losses_learn_to_rank(toy):
    """On the images it was trained on, where the losses differ: rank correlation above 0.5."""
    fields = {"lr": 3e-4, "epochs": 25, "shift": 0, "rotate": 0.0, "zoom": 0.0}
    rng = np.random.default_rng(0)
    noisy = rng.integers(0, 3, 60)  # labels at random cannot all be fitted at once
    strategy = fitted(dataclasses.replace(toy, y_train=noisy), **fields)
    _, data = strategy.dataset.get_labeled_data()
    predicted = strategy.net.apply(data, strategy.objective.predict)
    losses = F.cross_entropy(strategy.net.predict_logits(data), data.Y, reduction="none")
    assert stats.spearmanr(predicted, losses).statistic > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 60, 100])
def test_what_the_loss_module_learns_from_few_labels(digits, n):
    """Spearman's correlation of what it predicts with the true losses of the unlabeled digits, and
    that of the plain entropy, which is the higher one; mean ± SEM over 5 seeds, printed."""
    found = {"predicted loss": [], "entropy": []}
    for seed in range(5):
        config = resolve("LossPredictionLoss", "Digits", seed, dataset_defaults=Digits.defaults)
        pool = Pool(digits)
        pool.initialize_labels(n, seed)
        learner = Learner(config, SmallCNN, digits.image_shape, 10, torch.device("cpu"))
        strategy = make_strategy("LossPredictionLoss", pool, learner)  # before the fit it joins
        learner.fit(pool.training_set(), 0)
        idxs, images = pool.get_unlabeled_data()
        logits = learner.outputs(images).logits
        true = F.cross_entropy(logits, torch.tensor(digits.y_train[idxs]), reduction="none")
        predicted = learner.apply(images, strategy.objective.predict)
        for name, scores in (("predicted loss", predicted), ("entropy", entropy(logits))):
            found[name].append(stats.spearmanr(scores, true).statistic)
    for name, rho in found.items():
        print(f"{n} labels, {name}: {np.mean(rho):.2f} ± {stats.sem(rho):.2f}")
    assert np.mean(found["entropy"]) > np.mean(found["predicted loss"])


def test_the_loss_module_ranks_true_losses():
    """Weights of generated images and label smoothing change what the classifier learns alone."""
    found = []
    for weight, smoothing in ((None, 0.0), (torch.tensor([0.3, 1.7] * 4), 0.2)):
        clf, objective = objective_for(SmallCNN)
        objective.label_smoothing = smoothing
        rng = torch.Generator().manual_seed(0)
        x = torch.randn(8, 1, 8, 8, generator=rng, dtype=torch.float64)
        y = torch.randint(0, 3, (8,), generator=rng)
        objective.backward(clf, Batch(x, y, weight), 0.7, contextlib.nullcontext)
        found.append((gradients(objective.branches, objective.last), gradients(clf)))
    (module, classifier), (same_module, other_classifier) = found
    assert all(torch.equal(module[k], same_module[k]) for k in module)
    assert not torch.allclose(classifier["0.head.weight"], other_classifier["0.head.weight"])
