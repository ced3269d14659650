"""The loop of one run: which fits it makes, what is whose time, and when it is done."""

import dataclasses
import time

import numpy as np
import pytest
import torch

from deepal_galot.classifiers.small_cnn import SmallCNN
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


def test_balanced_accuracy_is_the_mean_of_the_classes(toy, tmp_path):
    # Ten of class 0 and one of class 1 to test on, none of class 2.
    test = [*np.flatnonzero(toy.y_train == 0)[:10], np.flatnonzero(toy.y_train == 1)[0]]
    spec = dataclasses.replace(toy, x_test=toy.x_train[test], y_test=toy.y_train[test])
    played = trial(tmp_path, spec)
    played.learner.predict = lambda data: torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 1])
    assert played._tested() == {"accuracy": 9 / 11, "balanced_accuracy": pytest.approx(0.9)}
    nothing = dataclasses.replace(spec, x_test=spec.x_test[:0], y_test=spec.y_test[:0])
    assert trial(tmp_path / "none", nothing)._tested() == {"accuracy": None}


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
