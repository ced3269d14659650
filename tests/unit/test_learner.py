"""Exactness of the harness: every image in every epoch, no leaks, same bits from the same seed."""

import itertools

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from deepal_galot.classifiers.base import Classifier
from deepal_galot.classifiers.resnet18 import ResNet18
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.errors import UserError
from deepal_galot.learner import Learner
from deepal_galot.pool import Pool
from deepal_galot.training import Training, split_batches
from helpers import small_config
from query_strategies.strategy import Strategy

CPU = torch.device("cpu")


def learner_for(spec, architecture=SmallCNN, **fields):
    config = small_config(**{"batch_size": 8} | fields)
    return Learner(config, architecture, spec.image_shape, spec.n_classes, CPU)


def labeled(spec, n):
    pool = Pool(spec)
    pool.initialize_labels(n, 0)
    return pool.training_set()


@given(st.integers(1, 300), st.integers(1, 64))
def test_batches_cover_everything_once_and_none_is_single(n, size):
    slices = split_batches(n, size)
    covered = [i for s in slices for i in range(n)[s]]
    assert covered == list(range(n))
    lengths = [s.stop - s.start for s in slices]
    assert max(lengths) <= size + (size == 2 and n % 2 and n > 1)
    if n > 1 and size > 1:
        assert min(lengths) > 1
    assert max(lengths) - min(lengths) <= 1 and len(lengths) <= -(-n // size)


@pytest.mark.slow
def test_a_short_last_batch_does_not_spoil_the_running_statistics(digits):
    """100 images by 32 once ended in a batch of 4; the median accuracy of 5 seeds was 92.4 %, and
    94.9 % with 99 of them by 33."""
    accuracy = {}
    for n, size in ((100, 32), (99, 33)):
        runs = []
        for seed in range(5):
            learner = learner_for(digits, seed=seed, epochs=30, min_steps=200, batch_size=size)
            pool = Pool(digits)
            pool.initialize_labels(n, seed)
            learner.fit(pool.training_set(), 0)
            runs.append(pool.cal_test_acc(learner.predict(pool.get_test_data())))
        accuracy[n] = np.median(runs)
    assert accuracy[100] > accuracy[99] - 0.02, accuracy


@pytest.mark.parametrize("n", [1, 2, 5, 8, 9, 17])
@pytest.mark.parametrize("architecture", [SmallCNN, ResNet18])
def test_trains_on_sets_of_any_size(toy, n, architecture):
    learner = learner_for(toy, architecture, epochs=1)
    learner.fit(labeled(toy, n), 0)
    probabilities = learner.predict_prob(Pool(toy).get_test_data())
    assert torch.isfinite(probabilities).all()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(20))


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_every_image_is_seen_in_every_epoch(toy, monkeypatch):
    learner, seen = learner_for(toy, epochs=3), []
    monkeypatch.setattr(Training, "_step", lambda self, inputs: seen.append(inputs["order"]))
    steps = learner.fit(labeled(toy, 17), 0)
    assert torch.cat(seen).bincount().tolist() == [3] * 17 and len(seen) == steps == 9


def test_each_round_and_epoch_has_an_order_of_its_own(toy, monkeypatch):
    seen = []
    monkeypatch.setattr(Training, "_step", lambda self, inputs: seen.append(inputs["order"]))
    for seed, round in ((0, 1), (0, 1), (0, 2), (1, 1)):
        learner_for(toy, epochs=2, seed=seed).fit(labeled(toy, 17), round)
    first, again, *others = torch.cat(seen).view(4, 2, 17).tolist()
    assert first == again and len({tuple(order) for of in (first, *others) for order in of}) == 6


def test_progress_is_the_share_of_the_steps_that_are_done(toy, monkeypatch):
    learner, seen = learner_for(toy, epochs=2), []
    monkeypatch.setattr(Training, "_step", lambda self, inputs: seen.append(self.progress))
    learner.fit(labeled(toy, 10), 0)
    assert seen == [0, 0.25, 0.5, 0.75]


def test_a_fit_leaves_the_global_generator_alone(toy):
    learner, before = learner_for(toy), torch.get_rng_state()
    learner.fit(labeled(toy, 20), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_answers_are_remembered_until_the_next_fit(toy):
    learner, data = learner_for(toy), Pool(toy).get_test_data()
    learner.fit(labeled(toy, 20), 0)
    first = learner.outputs(data)
    assert learner.outputs(data) is first
    kept = first.logits.clone(), first.embeddings.clone()
    learner.predict_logits(data).zero_(), learner.get_embeddings(data).zero_()
    assert all(map(torch.equal, kept, learner.outputs(data)))  # whoever asked has copies
    others = labeled(toy, len(data))
    assert not torch.equal(learner.outputs(others).logits, first.logits)
    learner.fit(labeled(toy, 20), 1)
    assert not torch.equal(learner.outputs(data).logits, first.logits)


def test_extra_training_adds_up(toy, monkeypatch):
    learner, times = learner_for(toy), iter([0.0, 2.0, 10.0, 13.0])
    monkeypatch.setattr(learner, "clock", lambda: next(times))
    for _ in range(2):
        with learner.extra_training():
            pass
    assert learner.extra_train_seconds == 5


def test_min_steps_adds_epochs(toy, monkeypatch):
    learner = learner_for(toy, epochs=2, min_steps=40)
    assert learner.fit(labeled(toy, 17), 0) == 42  # 14 epochs of 3 batches


def test_learns_what_can_be_learned(toy):
    learner = learner_for(toy, epochs=20, shift=0, rotate=0.0, zoom=0.0)
    learner.fit(labeled(toy, 30), 0)
    test = Pool(toy)
    assert test.cal_test_acc(learner.predict(test.get_test_data())) == 1.0


def test_same_seed_same_weights_other_round_other_weights(toy):
    """Before the first step too, where no batch has told them apart."""

    def weights(round, seed=0):
        learner = learner_for(toy, seed=seed)
        torch.rand(3)  # what others draw must not matter
        learner._new_classifier(round)
        before = learner.state()["head.weight"]
        learner.fit(labeled(toy, 20), round)
        return before, learner.state()["head.weight"]

    runs = weights(1), weights(1), weights(2), weights(1, seed=1)
    for first, again, *others in zip(*runs, strict=True):
        assert torch.equal(first, again)
        assert not any(torch.equal(first, other) for other in others)


class Noisy(SmallCNN):
    """A network of a user's, which draws from torch's global generator while it is trained."""

    def forward(self, x):
        return super().forward(F.dropout(x, 0.5, self.training))


@pytest.mark.parametrize("fields", [{}, {"head_dropout": 0.5}])
def test_members_of_a_committee_differ_and_come_again(toy, fields):
    """Every training was round 0's: three members of a committee were one network. The first
    member is what train() alone gives."""
    strategy = Strategy(Pool(toy), learner := learner_for(toy, **fields), learner.config, {})
    strategy.dataset.initialize_labels(12, 0)
    images = strategy.dataset.get_test_data()

    def trained(**which):
        strategy.train(**which)
        return strategy.predict_logits(images)

    members = [trained(member=m) for m in (0, 1, 2)]
    for a, b in itertools.combinations(members, 2):
        assert (a - b).abs().max() > 1e-3
    again = [trained(member=2), trained(member=1), trained()]
    assert all(map(torch.equal, members, reversed(again)))


def test_a_network_that_draws_numbers_draws_the_same_ones_again(toy):
    """Before, what the query had drawn changed the fit, so that a run which went on had others."""
    learner, weights = learner_for(toy, Noisy), []
    for before, round in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(before)
        state = torch.get_rng_state()
        learner.fit(labeled(toy, 20), round)
        assert torch.equal(torch.get_rng_state(), state)
        weights.append(learner.clf.head.weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("shape", "at_most"), [
    ((8, 8, 1), 1024), ((32, 32, 3), 1024), ((64, 64, 3), 256), ((224, 224, 3), 20),
    ((4000, 4000, 3), 1),
])  # fmt: skip
def test_larger_images_are_scored_fewer_at_once_on_a_gpu(toy, monkeypatch, shape, at_most):
    learner = learner_for(toy)
    learner.image_shape, learner.device = shape, torch.device("cuda")
    monkeypatch.setattr(learner, "_batch", lambda data, part: data[part])
    sizes = [part.stop - part.start for part, _ in learner._eval_batches(range(3000))]
    assert max(sizes) <= at_most and len(sizes) == -(-3000 // at_most)


def test_one_step_equals_plain_pytorch(toy):
    """One batch, no augmentation: cross-entropy and SGD written out by hand."""
    fields = {"optimizer": "sgd", "epochs": 1, "shift": 0, "rotate": 0.0, "zoom": 0.0,
              "lr": 0.1, "momentum": 0.0, "weight_decay": 0.01}  # fmt: skip
    learner, data = learner_for(toy, **fields), labeled(toy, 8)
    learner._new_classifier(0)
    reference = learner.clf
    learner.fit(data, 0)
    x = torch.stack([data[i][0] for i in range(8)])
    reference.train()
    F.cross_entropy(reference(x)[0], data.Y).backward()
    for (name, ours), p in zip(learner.clf.named_parameters(), reference.parameters(), strict=True):
        expected = p - 0.1 * (p.grad + 0.01 * p)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_scoring_and_gradients_leave_the_classifier_alone(toy):
    learner = learner_for(toy)
    learner.fit(labeled(toy, 20), 0)
    before = {k: v.clone() for k, v in learner.state().items()}
    x = torch.rand(4, 1, 8, 8, requires_grad=True)
    learner.logits(x).sum().backward()
    learner.predict_logits(Pool(toy).get_test_data())
    learner.get_embeddings(Pool(toy).get_test_data())
    assert x.grad.abs().sum() > 0
    assert all(torch.equal(v, before[k]) for k, v in learner.state().items())
    assert all(p.grad is None or not p.grad.isnan().any() for p in learner.clf.parameters())
    assert all(p.requires_grad for p in learner.clf.parameters())


def test_gradient_path_sees_what_scoring_sees(toy):
    learner = learner_for(toy)
    learner.fit(labeled(toy, 20), 0)
    data = Pool(toy).get_test_data()
    images = torch.tensor(data.X).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(learner.logits(images), learner.predict_logits(data))


class Tied(Classifier):
    """The same weights twice."""

    embedding_dim = 64

    def __init__(self, image_shape, n_classes):
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.head = torch.nn.Linear(64, n_classes)

    def forward(self, x):
        embedding = self.second(self.first(x.flatten(1)).relu())
        return self.head(embedding), embedding


def test_tied_weights_are_stored_and_come_back(toy):
    """Before, safetensors refused them at the end of the first round."""
    learner = learner_for(toy, Tied)
    data = labeled(toy, 12)
    learner.fit(data, 0)
    stored = safetensors.torch.load(safetensors.torch.save(learner.state()))
    other = learner_for(toy, Tied)
    other.load_state(stored, toy.mean, toy.std)
    assert other.clf.second.weight is other.clf.first.weight
    assert torch.equal(other.predict_logits(data), learner.predict_logits(data))


def test_state_round_trip(toy):
    learner = learner_for(toy)
    learner.fit(labeled(toy, 20), 0)
    other = learner_for(toy)
    other.load_state(learner.state(), toy.mean, toy.std)
    data, images = Pool(toy).get_test_data(), torch.rand(3, 1, 8, 8)
    assert torch.equal(other.logits(images), learner.logits(images))  # in eval mode at once
    assert torch.equal(other.predict_logits(data), learner.predict_logits(data))


class ForwardOnly(Classifier):
    """As a plug-in may be written: a forward and nothing else."""

    embedding_dim = 64

    def __init__(self, image_shape, n_classes):
        super().__init__()
        self.last = torch.nn.Linear(64, n_classes)

    def forward(self, x):
        return self.last(x.flatten(1)), x.flatten(1)


def test_a_classifier_with_a_forward_alone_trains_and_says_what_it_lacks(toy):
    learner = learner_for(toy, ForwardOnly)
    learner.fit(labeled(toy, 20), 0)
    assert learner.predict_prob(Pool(toy).get_test_data()).shape[1] == 3
    with pytest.raises(UserError, match="has no `stages`"):
        learner.clf.feature_maps(torch.rand(1, 1, 8, 8))
    with pytest.raises(UserError, match="has no `head`"):
        learner_for(toy, ForwardOnly, strategy="BALDDropout", reads=("head_dropout",)).fit(
            labeled(toy, 20), 0
        )


def test_a_loaded_classifier_seeds_no_generator(toy, monkeypatch):
    """Before, a GPU's global generator stood at the same place after every query of GALOT."""
    learner = learner_for(toy)
    learner.fit(labeled(toy, 20), 0)
    state, before = learner.state(), torch.get_rng_state()
    monkeypatch.setattr(torch, "manual_seed", None)
    learner.load_state(state, toy.mean, toy.std)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("layer", ["head", "neck"])  # logits alone; embeddings alone
def test_outputs_that_are_not_finite_are_an_error(toy, layer, value):
    learner = learner_for(toy)
    learner.fit(labeled(toy, 20), 0)
    with torch.no_grad():
        if layer == "head":
            learner.clf.head.bias[0] = value
        else:
            learner.clf.head.weight.zero_()
            learner.clf.head.forward = lambda h: torch.zeros(len(h), 3)
            learner.clf.neck[-2].bias[0] = value
    data = Pool(toy).get_test_data()
    words = f"not finite for {len(data)} of {len(data)} images: its forward is at fault, or its fit"
    with pytest.raises(UserError, match=words):
        learner.predict(data)


class OfThree(SmallCNN):
    """Gives one row for more than two images, in eval mode."""

    def forward(self, x):
        logits, embedding = super().forward(x)
        n = 1 if len(x) > 2 and not self.training else len(x)
        return logits[:n], embedding


def test_outputs_of_another_shape_are_an_error_at_any_number_of_images(toy):
    """Once a row was taken for all images of a batch."""
    learner, data = learner_for(toy, OfThree), labeled(toy, 12)
    learner.fit(data, 0)
    with pytest.raises(UserError, match=r"logits of shape \[1, 3\], not \[12, 3\], of 12 images"):
        learner.outputs(data)


def test_the_clock_waits_for_what_the_device_has_to_do(toy, monkeypatch):
    waited, learner = [], learner_for(toy)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(device.type))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    for kind in ("cpu", "cuda", "mps"):
        learner.device = torch.device(kind)
        learner.clock()
    assert waited == ["cuda", "mps"]
