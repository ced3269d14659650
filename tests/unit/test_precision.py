"""16-bit weights beside their masters: the bits of a fit, and who gets which gradient."""

import copy

import pytest
import torch
from torch import nn

from deepal_galot import training
from deepal_galot.classifiers.resnet18 import ResNet18
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.learner import Learner
from deepal_galot.pool import Pool
from deepal_galot.precision import WorkingCopies
from deepal_galot.training import batches_counted_at_once
from helpers import small_config

CPU = torch.device("cpu")
RECIPES = {
    "sgd": {"optimizer": "sgd", "schedule": "cosine", "lr": 0.05},
    "adam": {"optimizer": "adam", "schedule": "constant"},
    "all": {"optimizer": "adamw", "schedule": "onecycle", "label_smoothing": 0.1, "ema": 0.9,
            "rand_augment": 1, "head_dropout": 0.5, "synthetic_weight": 0.5},
    "own norms": {"synthetic_norm": "separate"},
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("architecture", [SmallCNN, ResNet18])
def test_copies_change_no_bit_of_a_fit(toy, monkeypatch, architecture, recipe):
    """17 images, so batches of 5 and 6; the classifier that does not allow them is autocast's."""
    made, states = [], []
    own = training.WorkingCopies
    monkeypatch.setattr(training, "WorkingCopies", lambda *a: made.append(own(*a)) or made[-1])
    for capturable in (True, False):
        monkeypatch.setattr(architecture, "capturable", capturable)
        config = small_config(batch_size=6, epochs=3, precision="bfloat16",
                              reads=("head_dropout", "mc_noise"), **RECIPES[recipe])  # fmt: skip
        learner = Learner(config, architecture, toy.image_shape, 3, CPU)
        pool = Pool(toy)
        pool.initialize_labels(9, 0)
        pool.set_synthetic(toy.x_train[-8:], toy.y_train[-8:], accumulate=False)
        assert learner.fit(pool.training_set(), 0) == 9
        states.append(learner.state())
    assert len(made) == 1
    assert all(p.dtype == torch.float32 for p in learner.clf.parameters())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_layers_hold_the_copies_in_the_block_alone():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    masters = dict(model.named_parameters())
    copies = WorkingCopies(model, torch.bfloat16)
    with pytest.raises(KeyboardInterrupt), copies.in_place():
        assert model[0].weight.dtype == model[0].bias.dtype == torch.bfloat16
        assert model[1].weight is masters["1.weight"]
        raise KeyboardInterrupt
    assert all(p is masters[name] for name, p in model.named_parameters())


def test_a_step_by_hand():
    """w = 1, x = 3, loss = w·x: the gradient is 3, and w ← w - 0.1·3 makes the copy bf16(0.7)."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    copies, master = WorkingCopies(model, torch.bfloat16), model.weight
    with copies.in_place():
        model(torch.tensor([[3.0]], dtype=torch.bfloat16)).sum().backward()
        assert master.grad is None
        copies.hand_over_gradients()
        assert master.grad.item() == 3 and model.weight.grad is None
        master.data -= 0.1 * master.grad
        copies.follow()
        assert model.weight.item() == torch.tensor(0.7).bfloat16().item()
    assert model.weight.item() == pytest.approx(0.7)


def test_what_got_no_gradient_keeps_none():
    model = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    copies, unused = WorkingCopies(model, torch.bfloat16), model[1].weight
    with copies.in_place():
        copies.hand_over_gradients()  # of nothing
        model[0](torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        copies.hand_over_gradients()
    assert unused.grad is None and model[0].weight.grad is not None


def test_a_weight_of_two_layers_has_one_copy():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    with WorkingCopies(model, torch.bfloat16).in_place():
        assert model[0].weight is model[1].weight
    assert model[0].weight is model[1].weight


def test_a_weight_that_is_also_used_itself_gets_both_gradients():
    """d(w·3 + w²)/dw at w = 1."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    copies, master = WorkingCopies(model, torch.bfloat16), model.weight
    with copies.in_place():
        product = model(torch.tensor([[3.0]], dtype=torch.bfloat16)).sum()
        (product + master.square().sum()).backward()
        copies.hand_over_gradients()
    assert master.grad.item() == 5


def test_frozen_layers_stay_frozen():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    copies = WorkingCopies(model, torch.bfloat16)
    with copies.in_place():
        model(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
        copies.hand_over_gradients()
    assert model[0].weight.grad is None and model[1].weight.grad is not None


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_a_weight_that_is_computed_is_computed_in_float32():
    model = nn.utils.weight_norm(nn.Linear(2, 2))
    with WorkingCopies(model, torch.bfloat16).in_place():
        assert model.weight_g.dtype == model.weight_v.dtype == torch.float32


def test_a_model_without_such_layers():
    copies = WorkingCopies(nn.Embedding(2, 2), torch.bfloat16)
    with copies.in_place():
        copies.hand_over_gradients()
        copies.follow()


class Standardised(nn.Conv2d):
    """Calculates with its weight itself, so float32 must stay float32."""


def test_layers_of_other_classes_are_left_alone():
    model = nn.Sequential(Standardised(1, 1, 1), nn.Embedding(2, 2))
    with WorkingCopies(model, torch.bfloat16).in_place():
        assert all(p.dtype == torch.float32 for p in model.parameters())


def test_batches_are_counted_as_if_in_each_step():
    """Not those of a norm that averages over all batches, which reads its counter."""
    layers = [nn.BatchNorm1d(2), nn.BatchNorm1d(2, momentum=None)]
    layers.append(nn.BatchNorm1d(2, track_running_stats=False))
    model, plain = nn.Sequential(*layers), nn.Sequential(*copy.deepcopy(layers))
    with batches_counted_at_once(model, 5):
        for step in range(5):
            x = torch.randn(4, 2, generator=torch.Generator().manual_seed(step))
            model(x), plain(x)
            assert model[0].num_batches_tracked is None
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), plain.buffers(), strict=True))
    assert list(model.state_dict()) == list(plain.state_dict())
