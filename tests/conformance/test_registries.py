"""What every registered data set and generator must keep; classifiers: test_classifiers.py."""

import numpy as np
import pytest

from deepal_galot import registry


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
