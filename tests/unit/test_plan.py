"""From what is asked for to configurations."""

import torch

from deepal_galot import registry
from deepal_galot.plan import configure, make_plan
from deepal_galot.request import Request
from generators.tiny import Tiny
from query_strategies.galot import GALOT


def test_a_strategy_that_is_defined_by_a_generator_has_that_ones_defaults(tmp_path):
    """Before, steps and guidance were those of the data set's own generator."""

    class OfTiny(GALOT):
        """images of the embedded generator, whatever the data set's"""

        fixed = {"generator": "tiny"}

    request = Request(("GALOT",), registry.datasets.get("FashionMNIST"), (0,), None, {},
                      tmp_path, tmp_path, torch.device("cpu"))  # fmt: skip
    ours = configure(request, OfTiny, "al+gal")
    asked = configure(request, GALOT, "al+gal", {"generator": "tiny"})
    read = ("generator", "steps", "guidance", "scheduler", "resolution", "dtype")
    assert [getattr(ours, f) for f in read] == [getattr(asked, f) for f in read]
    assert ours.steps != 50


def test_the_seeds_of_a_method_differ_in_nothing_else_and_are_planned_once(tmp_path, monkeypatch):
    """Before, each seed hashed the generator, or all images of the run that it borrows from."""
    hashed = []
    monkeypatch.setattr(Tiny, "content_hash", classmethod(lambda cls: hashed.append(cls) or "h"))
    request = Request(("GALOT",), registry.datasets.get("Digits"), (5, 0, 7), None, {},
                      tmp_path, tmp_path, torch.device("cpu"))  # fmt: skip
    runs = make_plan(request).runs
    assert [run.config.seed for run in runs] == [5, 0, 7] and len(hashed) == 1
    assert all(run == runs[0].with_seed(run.config.seed) for run in runs)
