"""The loop of one run: query, label, synthesize, fit, record. Knows no strategy by name."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from query_strategies.strategy import Strategy

from . import seeding
from .classifiers.base import Classifier
from .config import RunConfig
from .datasets.base import DatasetSpec
from .errors import UserError
from .galot import Galot, SyntheticBatch
from .learner import Learner
from .oracle import ReferenceOracle
from .plugins import why_not
from .pool import Pool, SyntheticQuery, check_query
from .results import Row, RunFolder
from .unlabeled import Unlabeled


class Trial:
    """One strategy, one data set, one seed; starts where its folder says it stopped.

    In mode `gal` no labels are bought; the budget n_init + r·n_query takes the place of |L|. In
    mode `full` all labels are bought and there is one fit.
    """

    def __init__(
        self,
        folder: RunFolder,
        spec: DatasetSpec,
        strategy: type[Strategy],
        architecture: type[Classifier],
        device: torch.device,
        oracle: ReferenceOracle,
        make_galot: Callable[[Unlabeled], Galot] | None = None,
    ) -> None:
        """
        Args:
            folder: the run's folder; its config defines the run.
            oracle: labels the images that a strategy makes as queries.
            make_galot: called once, with the unlabeled pool, if the run trains on generated images.
        """
        self.folder, self.spec = folder, spec
        self.config: RunConfig = folder.config
        self.pool = Pool(spec, score_augmented=bool(self.config.score_augmented))
        self.oracle = oracle
        self.learner = Learner(self.config, architecture, spec.image_shape, spec.n_classes, device)
        self.strategy = _make(strategy, self.pool, self.learner, spec)
        self.seconds: Counter[str] = Counter()  # of this round, by activity
        self.unlabeled, self.galot = Unlabeled(self.pool, self.learner), None
        if make_galot and self.config.uses_generated_images:
            self.galot = make_galot(self.unlabeled)
        self.picks = folder.picks()
        remembered = folder.remembered()
        if remembered:
            self.strategy.load_state_dict(remembered)

    def run(self, on_round: Callable[[Row], None] = lambda row: None) -> list[Row]:
        """Play the rounds that are not recorded yet; call `on_round` after each."""
        rows = self.folder.rows(repair=True)
        self.folder.mark_done(False)
        for done in range(len(rows)):
            self._replay(done)
        for round in range(len(rows), self.config.cycles):
            row = self.play(round)
            self.folder.append(row)
            rows.append(row)
            on_round(row)
        self.folder.mark_done()
        return rows

    def play(self, round: int) -> Row:
        """Play one round and return its row. Everything but the row is recorded here."""
        self.seconds.clear()
        self.learner.extra_train_seconds = 0.0
        self._buy_labels(round)
        batch = None
        if self.galot is not None:
            if self.galot.needs_classifier(round):
                with self._timed("train"):
                    self._restore_classifier(round)
            with self._timed("generate"):
                batch = self._synthesize(round)
        with self._timed("train"):
            data = self.pool.training_set(real=self.config.uses_real_images)
            steps = self.learner.fit(data, round)
        tested = self._tested()
        measured = _checked(self.strategy) | self._oracle_accuracy(round)
        self.folder.save_classifier(self.learner.state(), self._card(round))
        return {
            "round": round,
            "budget": self.pool.n_labeled
            if self.config.mode == "full"
            else self.config.budget(round),
            "labels": self.pool.n_labeled if self.config.uses_real_images else 0,
            "images": self.pool.n_synthetic,
            **tested,
            "steps": steps,
            **self._costs_of(batch, round),
            **{f"own_{name}": value for name, value in measured.items()},
            "query_seconds": rounded_seconds(self.seconds["query"]),
            "train_seconds": rounded_seconds(self.seconds["train"]),
            "extra_train_seconds": rounded_seconds(self.learner.extra_train_seconds),
            "generate_seconds": rounded_seconds(self.seconds["generate"]),
        }

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        """Add the block's seconds to this round's, without extra training."""
        started, extra = time.perf_counter(), self.learner.extra_train_seconds
        yield
        self.seconds[what] += time.perf_counter() - started
        self.seconds[what] -= self.learner.extra_train_seconds - extra

    # -- labels ------------------------------------------------------------------------------

    def _buy_labels(self, round: int) -> None:
        """Buy this round's labels. After a restart, the recorded picks are bought again."""
        config = self.config
        if config.mode == "gal":
            return
        if config.mode == "full":
            self.pool.label_everything()
            return
        if round < len(self.picks):
            self._label(self.picks[round])
            return
        if round == 0:
            picks = self.pool.initialize_labels(config.n_init, config.seed)
        else:
            picks = self._label(self._query(round))
        self.picks.append(picks)
        self.folder.save_picks(self.picks, self._remembered() if round > 0 else {})

    def _query(self, round: int) -> np.ndarray | SyntheticQuery:
        self._restore_classifier(round)
        n, labeled = self.config.query_size(round), self.pool.labeled_idxs.copy()
        labels = self.pool.Y_train.clone()
        seeding.seed_globals(self.config.seed, "query", round)
        with self._contained(), self._timed("query"):
            picks = self.strategy.query(n)
        if not np.array_equal(labeled, self.pool.labeled_idxs):
            raise UserError(f"{_name_of_picker(self.strategy)}.query labeled images itself")
        if not torch.equal(labels, self.pool.Y_train):
            raise UserError(f"{_name_of_picker(self.strategy)}.query wrote into Y_train")
        try:
            return check_query(picks, n, labeled)
        except ValueError as error:
            raise UserError(f"{_name_of_picker(self.strategy)}.query({n}): {error}") from error

    @contextlib.contextmanager
    def _contained(self) -> Iterator[None]:
        """Undo side effects of a query.

        Restores torch's gradient mode and default dtype. If the run generates images, also restores
        the classifier, so that the text is optimised against the trained one, with or without a
        restart.
        """
        state = self.learner.state() if self.galot is not None else None
        gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
        try:
            yield
        finally:
            torch.set_grad_enabled(gradients)
            torch.set_default_dtype(dtype)
        if state is not None:
            self.learner.load_state(state, self.spec.mean, self.spec.std)

    def _remembered(self) -> dict[str, np.ndarray]:
        """The strategy's state_dict() as NumPy arrays.

        Raises:
            UserError: it is not a dict of numeric arrays by name.
        """
        state, who = self.strategy.state_dict(), f"{type(self.strategy).__name__}.state_dict()"
        if not isinstance(state, Mapping):
            raise UserError(f"{who} gave {type(state).__name__}, not a dict of arrays")
        arrays = {}
        for name, value in state.items():
            try:
                array = np.asarray(value.detach().cpu() if torch.is_tensor(value) else value)
            except (TypeError, ValueError):  # bfloat16, ragged lists
                array = np.array(None)
            if array.dtype.kind not in "biufc":
                what = getattr(value, "dtype", type(value).__name__)
                raise UserError(f"{who}: {name} is {what}, not an array of numbers")
            arrays[str(name)] = array
        return arrays

    def _label(self, picks: np.ndarray | SyntheticQuery) -> np.ndarray | SyntheticQuery:
        """Buy the labels (known already after a restart); returns the record for the journal."""
        if not isinstance(picks, SyntheticQuery):
            self.pool.label(picks)
            return picks
        known = picks.labels
        return self.pool.label_synthetic(picks, self.oracle if known is None else lambda _: known)

    # -- generated images --------------------------------------------------------------------

    def _synthesize(self, round: int) -> SyntheticBatch:
        batch = self.strategy.synthesize(self.galot, round)
        if not isinstance(batch, SyntheticBatch):
            raise UserError(
                f"{type(self.strategy).__name__}.synthesize() gave {type(batch).__name__}, not "
                f"the SyntheticBatch that galot.make_images() gives"
            )
        return batch

    # -- restarting --------------------------------------------------------------------------

    def _replay(self, round: int) -> None:
        """Restore the labels of a recorded round, and its images if later rounds train on them."""
        if self.config.mode != "full":
            self._buy_labels(round)
        if self.galot is not None and self.config.synthetic == "accumulate":
            self._synthesize(round)

    def _restore_classifier(self, round: int) -> None:
        """Make the previous round's classifier available: from memory or from disk. In round 0
        there is no previous one, so one is fitted on the initial labels."""
        if self.learner.clf is not None:
            return
        if round == 0:
            self.learner.fit(self.pool.training_set(), 0)
            return
        state, card = self.folder.classifier()
        if card["round"] != round - 1:
            raise UserError(
                f"{self.folder.path}: holds the classifier of round {card['round']}, round "
                f"{round - 1} is needed; move the folder away to run again"
            )
        self.learner.load_state(state, card["mean"], card["std"])

    # -- row and card ------------------------------------------------------------------------

    def _tested(self) -> Row:
        """Accuracies of this round's classifier on the test images; None if there are no test
        images."""
        if self.pool.n_test == 0:
            return {"accuracy": None}
        predicted = self.learner.predict(self.pool.get_test_data())
        return {
            "accuracy": self.pool.cal_test_acc(predicted),
            "balanced_accuracy": self.pool.cal_balanced_acc(predicted),
        }

    def _oracle_accuracy(self, round: int) -> Row:
        """Test accuracy of the oracle classifier, in rounds in which it labeled images; else
        empty."""
        asked = round < len(self.picks) and isinstance(self.picks[round], SyntheticQuery)
        return {"oracle_accuracy": self.oracle.accuracy} if asked and self.pool.n_test else {}

    def _costs_of(self, batch: SyntheticBatch | None, round: int) -> Row:
        if batch is None:
            return {"images_made": 0, "ascent_images": 0, "seconds_stored": 0.0}
        distance = self.unlabeled.distance(batch.x, round) if self.config.uses_real_images else None
        return {
            "epsilon": self.galot.config.epsilon_at(round),
            **batch.columns,
            **({} if distance is None else {"pool_distance": distance}),
        }

    def _card(self, round: int) -> dict[str, Any]:
        """Everything needed to use the classifier without this run, and the prompts of its
        generated images."""
        return {
            "classifier": self.config.classifier,
            "round": round,
            "class_names": list(self.spec.class_names),
            "prompts": list(self.galot.prompts) if self.galot else [],
            "image_shape": list(self.spec.image_shape),
            "mean": list(self.spec.mean),
            "std": list(self.spec.std),
        }


def _make(strategy: type[Strategy], pool: Pool, learner: Learner, spec: DatasetSpec) -> Strategy:
    """Construct a strategy. If its parameters have DeepALPlus's names, they are passed by name,
    because one DeepALPlus strategy has them in another order.

    Raises:
        UserError: its constructor takes other parameters, or does not call the base class's.
    """
    config, signature = learner.config, inspect.signature(strategy)
    task = {
        "num_class": spec.n_classes,
        "class_names": spec.class_names,
        "image_shape": spec.image_shape,
    }
    given = {"dataset": pool, "net": learner, "args_input": config, "args_task": task}
    by_name = given.keys() <= signature.parameters.keys()
    call = ((), given) if by_name else (tuple(given.values()), {})
    try:
        signature.bind(*call[0], **call[1])
    except TypeError as error:
        name = strategy.__name__
        raise UserError(f"the strategy {name} cannot be made: {error}{why_not([name])}") from error
    seeding.seed_globals(config.seed, "query", 0)  # for constructors that draw
    made = strategy(*call[0], **call[1])
    _check_initialised(made)
    _check_initialised(made.picker)
    return made


def _check_initialised(strategy: Strategy) -> None:
    """
    Raises:
        UserError: it has none of the attributes that Strategy.__init__ sets.
    """
    if not any(hasattr(strategy, name) for name in ("dataset", "net", "args_input", "args_task")):
        raise UserError(
            f"{type(strategy).__name__}.__init__ does not call "
            f"super().__init__(dataset, net, args_input, args_task), which keeps them"
        )


def _name_of_picker(strategy: Strategy) -> str:
    """Whose query it is: a base sampler's that a strategy passes on."""
    name, picker = type(strategy).__name__, strategy.picker
    return name if picker is strategy else f"{name}'s base sampler {type(picker).__name__}"


def _checked(strategy: Strategy) -> dict[str, float]:
    """The numbers from the strategy's own measure().

    Raises:
        UserError: they are not numbers in [0, 1] by name.
    """
    measured = strategy.measure()
    try:
        numbers = {str(name): float(value) for name, value in measured.items()}
    except (AttributeError, TypeError, ValueError, RuntimeError):
        numbers = {"": np.nan}
    if not all(0 <= value <= 1 for value in numbers.values()):
        raise UserError(
            f"{type(strategy).__name__}.measure() gave {str(measured)[:200]}, not numbers in "
            f"[0, 1] by column name"
        )
    return numbers


def rounded_seconds(seconds: float) -> float:
    """Seconds rounded to three digits after the point; further digits are noise."""
    return round(seconds, 3)
