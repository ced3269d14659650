"""A classifier in place of the human, for generated images that no data set has a label for."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch

from .classifiers.base import Classifier
from .config import TRAINING, RunConfig, fields_of
from .datasets.base import DatasetSpec
from .learner import Learner
from .pool import ImageSet, Pool

LEAST_IMAGES = 100_000  # images seen in training, repeats included
SHARE_OF_EPOCHS = 0.1  # of the recipe's epochs, over the whole pool


class ReferenceOracle:
    """Labels synthetic queries with a classifier trained on every label of the pool.

    Besides the pool's own labels, only this class reads hidden labels. It is the same for all
    rounds, budgets, seeds and strategies of one recipe. It is trained on first use, for
    SHARE_OF_EPOCHS of the recipe's epochs over the whole pool, at least 2 epochs and LEAST_IMAGES.

    Attributes:
        config: defines the oracle; runs with equal ones may share it.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        config: RunConfig,
        architecture: type[Classifier],
        device: torch.device,
    ) -> None:
        """
        Args:
            config: of a run that uses the oracle; only its training recipe is read.
        """
        self.spec, self.architecture, self.device = spec, architecture, device
        recipe = {name: getattr(config, name) for name in fields_of(TRAINING)}
        batch = max(config.batch_size, 128)
        recipe |= {
            "batch_size": batch,
            "min_steps": math.ceil(LEAST_IMAGES / batch),
            "epochs": max(2, round(SHARE_OF_EPOCHS * config.epochs)),
        }
        self.config = RunConfig("ReferenceOracle", config.dataset, mode="full", **recipe)

    @cached_property
    def _learner(self) -> Learner:
        spec = self.spec
        learner = Learner(
            self.config, self.architecture, spec.image_shape, spec.n_classes, self.device
        )
        pool = Pool(spec)
        pool.label_everything()
        learner.fit(pool.training_set(), 0)
        return learner

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """[n, H, W, C] uint8 -> [n] int64 labels."""
        asked = ImageSet.unlabeled(images, self.spec.mean, self.spec.std)
        return self._learner.predict(asked).numpy()

    @cached_property
    def accuracy(self) -> float:
        """Share of the test images labeled correctly, in [0, 1]."""
        pool = Pool(self.spec)
        return pool.cal_test_acc(self._learner.predict(pool.get_test_data()))
