"""What every registered classifier, data set and generator must keep."""

import numpy as np
import pytest
import torch

from deepal_galot import registry

CLASSIFIERS = registry.classifiers.names()


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
def test_classifier_shapes(name, shape):
    net = registry.classifiers.get(name)(shape, 7)
    logits, embedding = net(torch.rand(2, shape[2], *shape[:2]))
    assert logits.shape == (2, 7) and embedding.shape == (2, net.get_embedding_dim())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_draws_only_from_the_global_generator(name):
    def weights():
        torch.manual_seed(5)
        net = registry.classifiers.get(name)((8, 8, 1), 3)
        return torch.cat([p.flatten() for p in net.parameters()])

    assert torch.equal(weights(), weights())


@pytest.mark.parametrize(("name", "parameters"), [("resnet18", 11_173_962)])
def test_known_parameter_counts(name, parameters):
    """ResNet18 with a 3×3 stem at 10 classes, as widely published for CIFAR-10."""
    net = registry.classifiers.get(name)((32, 32, 3), 10)
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize("name", registry.datasets.names())
def test_dataset_declares_itself(name):
    cls = registry.datasets.get(name)
    assert len(cls.class_names) == len(set(cls.class_names)) >= 2
    if "generator" in cls.defaults:
        generator = registry.generators.get(cls.defaults["generator"])
        generator.check_classes(cls.class_names, name)


def test_digits_is_what_it_says(digits):
    assert digits.x_train.shape == (1347, 8, 8, 1) and digits.x_test.shape == (450, 8, 8, 1)
    counts = np.bincount(digits.y_test)
    assert counts.min() >= 43 and counts.max() <= 46  # stratified
    assert digits.x_train.max() == 255
    from sklearn.datasets import load_digits

    both = np.concatenate([digits.x_train, digits.x_test]).reshape(1797, 64)
    original = np.rint(load_digits().data * 255 / 16)
    assert sorted(map(tuple, both)) == sorted(map(tuple, original.astype(int)))


@pytest.mark.parametrize("name", registry.generators.names())
def test_generator_declares_itself(name):
    cls = registry.generators.get(name)
    assert {"steps", "guidance", "scheduler"} <= set(cls.defaults)
