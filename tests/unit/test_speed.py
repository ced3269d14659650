"""`python -m deepal_galot.speed query` measures what it says."""

import numpy as np
import pytest
import torch

from deepal_galot import registry, speed
from deepal_galot.selection import k_center

SIZES = ["--pool", "300", "--dim", "16", "--picks", "20", "--device", "cpu"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(speed, "SMALL_POOL", 200)
    monkeypatch.setattr(speed, "SMALL_PICKS", 10)
    monkeypatch.setattr(speed, "MOST", 1)


def test_a_line_a_strategy_and_class_count(capsys):
    assert speed.main(["query", *SIZES, "--classes", "3", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in registry.strategies.names():
        cls = registry.strategies.get(name)
        expected = 0 if cls.generates or name in speed.NO_POOL_SCORES else 2
        assert sum(f"classes  {name} " in line for line in lines) == expected, name
    assert sum(line.endswith("×") for line in lines) == len(speed.PLAIN)


def test_errors_are_one_line(capsys):
    assert speed.main(["query", *SIZES, "--strategies", "CoreSett"]) == 2
    assert "did you mean CoreSet" in capsys.readouterr().err


@pytest.mark.parametrize("name", speed.PLAIN)
def test_the_plain_ways_do_the_same_work(name):
    """As many distinct picks; of k-center, which draws nothing, the same ones."""
    problem = speed.make_problem(200, 16, 3, 10, torch.device("cpu"))
    picks = speed.PLAIN[name](problem)
    assert len(np.unique(picks)) == 10
    if name == "KCenterGreedy":
        _, labeled = problem.pool.get_labeled_data()
        _, unlabeled = problem.pool.get_unlabeled_data()
        points, centers = (problem.net.outputs(d).embeddings for d in (unlabeled, labeled))
        assert k_center(points, centers, 10).tolist() == list(picks)


def test_short_runs_are_warmed_up_and_repeated(monkeypatch):
    monkeypatch.setattr(speed, "MOST", 5)
    seconds = iter([0.9, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert speed.measured(lambda: next(seconds)) == [0.1, 0.2, 0.3, 0.4, 0.5]
    long = iter([15.0, 15.0, 15.0])
    assert speed.measured(lambda: next(long)) == [15.0, 15.0]
    assert speed.with_spread([1.0, 3.0, 2.0]) == "2 (1–3, n=3)"
