"""What tests of the report share."""

import numpy as np
import pytest

from deepal_galot.report import page, write
from finished_runs import finished
from helpers import SVG


@pytest.fixture
def quick_pictures(monkeypatch):
    """Drawing is most of a report's time, and tested apart."""
    for module in (page, write):
        monkeypatch.setattr(module, "render", lambda draw, kinds, *_: dict.fromkeys(kinds, SVG))


@pytest.fixture
def two_methods(tmp_path):
    accuracy = np.random.default_rng(0).random((2, 5, 3))
    folders = [
        finished(tmp_path, accuracy[m, s].tolist(), strategy=name, seed=s)
        for m, name in enumerate(("MarginSampling", "RandomSampling"))
        for s in range(5)
    ]
    return accuracy, folders
