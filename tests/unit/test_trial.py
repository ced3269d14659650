"""The loop of one run: which fits it makes, what is whose time, and when it is done."""

import dataclasses
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deepal_galot import registry, seeding
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.errors import UserError
from deepal_galot.galot import Galot
from deepal_galot.learner import Learner
from deepal_galot.objective import Objective
from deepal_galot.pool import SyntheticQuery
from deepal_galot.results import RunFolder
from deepal_galot.trial import Trial
from generators.image_store import ImageStore
from helpers import FakeGenerator, small_config
from query_strategies.galot import GALOT
from query_strategies.random_sampling import RandomSampling


def trial(output, spec, strategy=RandomSampling, **fields):
    config = small_config(strategy=strategy.__name__, **{"n_rounds": 1, "epochs": 1} | fields)
    folder = RunFolder.create(output, config, {"data": "d"}, {})

    def galot(unlabeled):
        return Galot(config, FakeGenerator(), ImageStore(output / "images"), folder,
                     spec.class_names, spec.image_shape, unlabeled)  # fmt: skip

    return Trial(folder, spec, strategy, SmallCNN, torch.device("cpu"), None, galot)


@pytest.fixture
def clock(monkeypatch):
    """Hours that have passed on it are added to its list."""
    real, hours = time.perf_counter, []
    monkeypatch.setattr(time, "perf_counter", lambda: real() + 3600 * sum(hours))
    return hours


def test_an_extension_is_not_done_before_its_last_round(toy, tmp_path):
    done = trial(tmp_path, toy).folder.path / "DONE"
    trial(tmp_path, toy).run()
    assert done.exists()
    seen = []
    trial(tmp_path, toy, n_rounds=3).run(lambda row: seen.append(done.exists()))
    assert seen == [False, False] and done.exists()


def test_what_a_constructor_draws_is_the_seeds(toy, tmp_path):
    class Drawing(RandomSampling):
        def __init__(self, *args):
            super().__init__(*args)
            self.drawn = np.random.rand(), torch.rand(1).item()

    drawn = [trial(tmp_path, toy, Drawing, seed=seed).strategy.drawn for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_every_stream_of_a_run_is_of_its_seed_and_round(toy, tmp_path, monkeypatch):
    """Expectations by hand with seed 0 or in round 0 would not tell."""
    addresses, derive = set(), seeding.derive
    monkeypatch.setattr(seeding, "derive", lambda *a: addresses.add(a) or derive(*a))
    fields = {"mode": "al+gal", "keep": "pool", "oversample": 2.0, "base_sampler": "BALDDropout"}
    fields |= {"reads": ("mc_passes", "mc_noise", "head_dropout"), "batch_size": 64}
    fields |= {"ascent_steps": 1, "ascent_samples": 1, "n_synthetic": 0.5}
    trial(tmp_path, toy, GALOT, seed=5, n_rounds=2, **fields).run()
    assert {seed for seed, *_ in addresses} == {5}
    rounds = {}
    for _, stream, *key in addresses:
        rounds.setdefault(stream, set()).update(key[:1])
    not_drawn_from = {"load", "model", "direction", "folder"}
    once = set(seeding.STREAMS) - not_drawn_from
    assert rounds == {s: {0, 1, 2} if s != "init_pool" else set() for s in once}


def test_picks_are_drawn_from_the_runs_streams(toy, tmp_path):
    played = trial(tmp_path, toy, seed=3, n_rounds=2)
    played.run()
    first, *others = played.picks
    assert first.tolist() == sorted(seeding.numpy_rng(3, "init_pool").permutation(60)[:10])
    left = np.setdiff1d(np.arange(60), first)
    for round, picks in enumerate(others, 1):
        seeding.seed_globals(3, "query", round)
        assert picks.tolist() == np.random.choice(left, 5, replace=False).tolist()
        left = np.setdiff1d(left, picks)


def test_seconds_are_those_of_their_round(toy, tmp_path, clock):
    class Slow(RandomSampling):
        def query(self, n):
            clock.append(1)
            return super().query(n)

    rows = trial(tmp_path, toy, Slow, n_rounds=2).run()
    assert [round(row["query_seconds"] / 3600) for row in rows] == [0, 1, 1]


def test_extra_training_is_neither_the_querys_time_nor_the_fits(toy, tmp_path, clock):
    class Slow(RandomSampling):
        def __init__(self, dataset, net, *args):
            super().__init__(dataset, net, *args)
            net.objective = SlowObjective()
            net.objective.net = net

        def query(self, n):
            with self.net.extra_training():
                clock.append(1)
            return super().query(n)

    class SlowObjective(Objective):
        def backward(self, *args):
            with self.net.extra_training():
                clock.append(1)
            super().backward(*args)

    rows = trial(tmp_path, toy, Slow, batch_size=64).run()
    assert all(row[f"{what}_seconds"] < 1800 for row in rows for what in ("query", "train"))
    hours = [round(row["extra_train_seconds"] / 3600) for row in rows]
    assert hours == [1, 2]  # a fit of one step each, and one query


def test_what_a_choice_trains_is_not_the_time_of_generating(toy, tmp_path, clock):
    class Choosy(GALOT):
        def synthesize(self, galot, round):
            with self.net.extra_training():
                clock.append(1)
            return super().synthesize(galot, round)

    (row,) = trial(tmp_path, toy, Choosy, mode="al+gal", epsilon=0.0, n_rounds=0).run()
    assert all(row[f"{what}_seconds"] < 1800 for what in ("generate", "train"))
    assert row["extra_train_seconds"] >= 3600


def test_labels_that_were_bought_before_a_restart_are_not_asked_for_again(toy, tmp_path):
    bought = SyntheticQuery(toy.x_test[:2], np.array([2, 1]))
    assert trial(tmp_path, toy)._label(bought).labels.tolist() == [2, 1]  # there is no oracle


def test_the_oracles_accuracy_is_recorded_where_it_was_asked(toy, tmp_path):
    class Makes(RandomSampling):
        def query(self, n):
            return SyntheticQuery(toy.x_test[:n])

    class Oracle(SimpleNamespace):
        def __call__(self, images):
            return np.zeros(len(images), np.int64)

    played = trial(tmp_path, toy, Makes)
    played.oracle = Oracle(accuracy=0.25)
    assert [row.get("own_oracle_accuracy") for row in played.run()] == [None, 0.25]


def test_balanced_accuracy_is_the_mean_of_the_classes(toy, tmp_path):
    # Ten of class 0 and one of class 1 to test on, none of class 2.
    test = [*np.flatnonzero(toy.y_train == 0)[:10], np.flatnonzero(toy.y_train == 1)[0]]
    spec = dataclasses.replace(toy, x_test=toy.x_train[test], y_test=toy.y_train[test])
    played = trial(tmp_path, spec)
    played.learner.predict = lambda data: torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 1])
    assert played._tested() == {"accuracy": 9 / 11, "balanced_accuracy": pytest.approx(0.9)}
    nothing = dataclasses.replace(spec, x_test=spec.x_test[:0], y_test=spec.y_test[:0])
    assert trial(tmp_path / "none", nothing)._tested() == {"accuracy": None}


def test_blank_images_are_recorded_as_what_became_of_them(toy, tmp_path):
    class Blank(GALOT):
        def synthesize(self, galot, round):
            return dataclasses.replace(super().synthesize(galot, round), retried=3, failed=2)

    (row,) = trial(tmp_path, toy, Blank, mode="al+gal", epsilon=0.0, n_rounds=0).run()
    assert (row["images_retried"], row["images_failed"]) == (3, 2)


def test_accumulated_images_are_there_again_after_a_restart(toy, tmp_path):
    class Stopped(Exception):
        pass

    def stop(row):
        if row["round"] == 1:
            raise Stopped

    fields = {"mode": "al+gal", "epsilon": 0.0, "synthetic": "accumulate", "n_rounds": 2}
    whole = trial(tmp_path / "whole", toy, GALOT, **fields).run()
    with pytest.raises(Stopped):
        trial(tmp_path / "again", toy, GALOT, **fields).run(stop)
    again = trial(tmp_path / "again", toy, GALOT, **fields).run()
    assert [row["images"] for row in again] == [row["images"] for row in whole] == [30, 75, 135]
    assert again[2]["accuracy"] == whole[2]["accuracy"]


def test_the_first_ascent_is_against_round_0s_fit_on_the_initial_labels(
    toy, tmp_path, monkeypatch
):  # fmt: skip
    fits, fit = [], Learner.fit

    def record(self, data, round):
        fits.append((round, len(data)))
        return fit(self, data, round)

    monkeypatch.setattr(Learner, "fit", record)
    fields = {"mode": "al+gal", "ascent_steps": 1, "ascent_samples": 1, "n_synthetic": 2.0}
    trial(tmp_path, toy, GALOT, **fields).run()
    assert fits == [(0, 10), (0, 10 + 20), (1, 15 + 30)]


class Remembers(RandomSampling):
    """picks by an average over rounds of what it saw"""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen, self.average = 0, torch.zeros(60)

    def query(self, n):
        idxs, images = self.dataset.get_unlabeled_data()
        self.seen += 1
        self.average[idxs] += self.net.predict_prob(images)[:, 0] / self.seen
        return self.top(n, idxs, self.average[idxs])

    def state_dict(self):
        return {"seen": self.seen, "average": self.average}

    def load_state_dict(self, state):
        self.seen, self.average = int(state["seen"]), torch.from_numpy(state["average"])


@pytest.mark.parametrize("strategy", [Remembers, GALOT])
def test_what_a_strategy_remembers_is_there_after_a_restart(
    toy, tmp_path, strategy, monkeypatch
):  # fmt: skip
    """As a base sampler of GALOT, too. Before, a longer run began again with an empty memory."""
    monkeypatch.setitem(registry.strategies._discovered(), "Remembers", Remembers)
    fields = {"batch_size": 64, "base_sampler": "Remembers"}
    whole = trial(tmp_path / "whole", toy, strategy, n_rounds=4, **fields)
    whole.run()
    for n_rounds in (1, 3, 4):
        part = trial(tmp_path / "parts", toy, strategy, n_rounds=n_rounds, **fields)
        part.run()
    assert [p.tolist() for p in part.folder.picks()] == [p.tolist() for p in whole.folder.picks()]
    kept = part.folder.remembered()
    assert kept["seen"] == 4 and kept["average"].shape == (60,)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"word": "text"}, "word is str, not an array"),
        ({"late": None}, "late is NoneType, not an array"),
        ({"half": torch.zeros(2, dtype=torch.bfloat16)}, "half is torch.bfloat16, not an array"),
        ({"ragged": [[1], [1, 2]]}, "ragged is list, not an array"),
        (None, "gave NoneType, not a dict of arrays"),
    ],
)
def test_only_numbers_are_remembered(toy, tmp_path, state, says):
    """And only from the first query on."""

    class Remembering(RandomSampling):
        def state_dict(self):
            return state

    played = trial(tmp_path, toy, Remembering)
    played._buy_labels(0)
    assert played.folder.remembered() == {}
    with pytest.raises(UserError, match=rf"Remembering.state_dict\(\):? {says}"):
        trial(tmp_path, toy, Remembering).run()


class Meddles(RandomSampling):
    """spoils what it is lent"""

    def query(self, n):
        picks = super().query(n)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        classifier = self.net.get_model().train().double()
        classifier.more = torch.nn.Linear(2, 2)
        for parameter in classifier.parameters():
            parameter.data.zero_()
        return picks


def test_a_query_leaves_the_classifier_and_torch_as_they_were(toy, tmp_path, monkeypatch):
    """Before, GALOT's text was optimised against what a base sampler had left, and after a restart
    against the classifier that was trained."""
    monkeypatch.setitem(registry.strategies._discovered(), "Meddles", Meddles)
    fields = {"mode": "al+gal", "epsilon": 0.0, "base_sampler": "Meddles"}
    played = trial(tmp_path, toy, GALOT, **fields)
    played.play(0)
    before = played.learner.state()
    played._buy_labels(1)
    after = played.learner.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert not played.learner.clf.training and torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


def test_a_baselines_query_leaves_torch_as_it_was(toy, tmp_path):
    rows = trial(tmp_path, toy, Meddles).run()
    assert len(rows) == 2 and torch.get_default_dtype() == torch.float32


def test_a_query_that_writes_into_the_labels_is_refused(toy, tmp_path):
    class Cheats(RandomSampling):
        def query(self, n):
            self.dataset.Y_train[:] = 1
            return super().query(n)

    with pytest.raises(UserError, match="Cheats.query wrote into Y_train"):
        trial(tmp_path, toy, Cheats).run()


class Repeats(RandomSampling):
    """the same image again and again"""

    def query(self, n):
        return super().query(1).repeat(n)


class NoInit(RandomSampling):
    """forgets its base class"""

    def __init__(self, dataset, net, args_input, args_task):
        self.width = 3


@pytest.fixture
def own_samplers(monkeypatch):
    for cls in (Repeats, NoInit):
        monkeypatch.setitem(registry.strategies._discovered(), cls.__name__, cls)


WITH_IMAGES = {"mode": "al+gal", "epsilon": 0.0}


@pytest.mark.usefixtures("own_samplers")
def test_the_base_sampler_is_named_whose_query_it_is(toy, tmp_path):
    """Before, GALOT was."""

    class Own(GALOT):
        def query(self, n):
            return self.base.query(n)

    fields = WITH_IMAGES | {"base_sampler": "Repeats"}
    for strategy, who in (
        (GALOT, "^GALOT's base sampler Repeats"),
        (Repeats, "^Repeats"),
        (Own, "^Own"),
    ):
        played = trial(tmp_path, toy, strategy, **(fields if strategy is not Repeats else {}))
        played.play(0)
        with pytest.raises(UserError, match=rf"{who}\.query\(5\): an index is repeated"):
            played._buy_labels(1)


@pytest.mark.usefixtures("own_samplers")
@pytest.mark.parametrize(
    ("strategy", "fields"), [(NoInit, {}), (GALOT, WITH_IMAGES | {"base_sampler": "NoInit"})]
)
def test_a_forgotten_constructor_is_said_before_the_first_fit(toy, tmp_path, strategy, fields):
    """Before, an AttributeError after it."""
    with pytest.raises(UserError, match=r"^NoInit.__init__ does not call super\(\).__init__\("):
        trial(tmp_path, toy, strategy, **fields)


@pytest.mark.parametrize(
    "measured", [None, {"x": 5.0}, {"x": float("nan")}, {"x": "high"}, {"x": torch.zeros(2)}, [1.0]]
)
def test_a_measure_that_is_not_numbers_by_name_is_refused(toy, tmp_path, measured):
    """Before, a text was recorded, and every report of the folder failed."""

    class Measures(RandomSampling):
        def measure(self):
            return measured

    with pytest.raises(UserError, match=r"Measures.measure\(\) gave .*, not numbers in \[0, 1\]"):
        trial(tmp_path, toy, Measures).run()


def test_a_measure_may_be_any_kind_of_number(toy, tmp_path):
    class Measures(RandomSampling):
        def measure(self):
            return {"a": torch.tensor(0.5), "b": np.float32(1), "c": 0}

    row = trial(tmp_path, toy, Measures).run()[0]
    assert [row[f"own_{name}"] for name in "abc"] == [0.5, 1.0, 0.0]


def test_scores_are_one_for_each_image(toy, tmp_path):
    """Before, too few of them picked wrong images without a word."""
    strategy, idxs = trial(tmp_path, toy).strategy, np.arange(10, 60)
    for scores in (torch.zeros(49), torch.zeros(51), torch.zeros(50, 1)):
        with pytest.raises(UserError, match=r"RandomSampling: scores of shape .* for 50 images"):
            strategy.top(3, idxs, scores)
    best = strategy.top(3, idxs.tolist(), np.arange(50))
    assert best.tolist() == [59, 58, 57]
