"""From what is asked for to configurations."""

import pytest
import torch

from deepal_galot import registry
from deepal_galot.errors import UserError
from deepal_galot.plan import configure, make_plan
from deepal_galot.request import Request
from deepal_galot.strategy_entries import Entry
from generators.tiny import Tiny
from query_strategies.galot import GALOT

CPU = torch.device("cpu")


def test_a_strategy_that_is_defined_by_a_generator_has_that_ones_defaults(tmp_path):
    """Before, steps and guidance were those of the data set's own generator."""

    class OfTiny(GALOT):
        """images of the embedded generator, whatever the data set's"""

        fixed = {"generator": "tiny"}

    request = Request(("GALOT",), registry.datasets.get("FashionMNIST"), (0,), None, {},
                      tmp_path, tmp_path, CPU)  # fmt: skip
    ours = configure(request, Entry(OfTiny), "al+gal")
    asked = configure(request, Entry(GALOT, fields={"generator": "tiny"}), "al+gal")
    read = ("generator", "steps", "guidance", "scheduler", "resolution", "dtype")
    assert [getattr(ours, f) for f in read] == [getattr(asked, f) for f in read]
    assert ours.steps != 50


def test_the_seeds_of_a_method_differ_in_nothing_else_and_are_planned_once(tmp_path, monkeypatch):
    """Before, each seed hashed the generator, or all images of the run that it borrows from."""
    hashed = []
    monkeypatch.setattr(Tiny, "content_hash", classmethod(lambda cls: hashed.append(cls) or "h"))
    request = Request(("GALOT",), registry.datasets.get("Digits"), (5, 0, 7), None, {},
                      tmp_path, tmp_path, CPU)  # fmt: skip
    runs = make_plan(request).runs
    assert [run.config.seed for run in runs] == [5, 0, 7] and len(hashed) == 1
    assert all(run == runs[0].with_seed(run.config.seed) for run in runs)


def test_spellings_of_defaults_are_one_as_those_of_flags_are(tmp_path):
    """Before, a data set's "photo" was another run than --template photo, and its "none" none."""
    written = {"template": "photo", "text_target": "EntropySampling", "schedule": "none"}
    digits = registry.datasets.get("Digits")

    class Own(digits):
        """digits with settings of their own"""

        name = "Digits"
        defaults = {**digits.defaults, **written}

    def asked(dataset, flags, cls=GALOT):
        request = Request(("GALOT",), dataset, (0,), None, flags, tmp_path, tmp_path, CPU)
        return configure(request, Entry(cls), "al+gal").fields_read()

    class Fixed(GALOT):
        """GALOT with settings of its own"""

        fixed = written

    as_flags = asked(digits, written)
    assert asked(Own, {}) == as_flags and as_flags["schedule"] == "constant"
    assert asked(digits, {}, Fixed) | {"strategy": "GALOT"} == as_flags


def test_the_highest_of_quota_and_rounds_wins(tmp_path):
    """Before, --quota beside a strategy's own rounds asked to leave out a flag nobody gave."""

    class Short(GALOT):
        """GALOT of one round"""

        preset = {"n_rounds": 1}

    def rounds(flags, cls=GALOT, **fields):
        request = Request(("GALOT",), registry.datasets.get("Digits"), (0,), None, flags, tmp_path,
                          tmp_path, CPU)  # fmt: skip
        c = configure(request, Entry(cls, fields=fields), "al+gal")
        return c.n_rounds, c.budget(c.n_rounds) - c.n_init

    assert rounds({}, Short) == (1, 20)
    assert rounds({"quota": 40}, Short) == (2, 40)
    assert rounds({"quota": 40}, n_rounds=3) == (3, 60)
    assert rounds({"n_rounds": 3}, quota=40) == (2, 40)
    with pytest.raises(UserError, match="leave out --n-rounds"):
        rounds({"n_rounds": 3, "quota": 40})
