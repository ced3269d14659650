"""The stand-in for the human who labels images that no data set has a label for."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from .classifiers.base import Classifier
from .config import RunConfig
from .datasets.base import DatasetSpec
from .learner import Learner
from .pool import Pool

LEAST_IMAGES = 100_000  # that it is trained on, repeats included


class ReferenceOracle:
    """Labels synthetic queries by a classifier trained on every label of the pool.

    It is the one reader of hidden labels besides the pool's own oracle. It is fixed: the same for
    all rounds, seeds and strategies of one recipe, trained on first use for as many images as the
    run's longest fit, at least LEAST_IMAGES.
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
            config: a run that asks it; only its recipe is used.
        """
        self.spec, self.architecture, self.device = spec, architecture, device
        longest = max(config.epochs * config.budget(config.n_rounds),
                      config.min_steps * config.batch_size)  # fmt: skip
        batch = max(config.batch_size, 128)
        self.config = replace(
            config, strategy="ReferenceOracle", seed=0, mode="full", head_dropout=None,
            batch_size=batch, epochs=2, min_steps=math.ceil(max(longest, LEAST_IMAGES) / batch),
        )  # fmt: skip

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
        unknown = np.full(len(images), -1)
        return self._learner.predict(Pool(self.spec).get_new_data(images, unknown)).numpy()

    @cached_property
    def accuracy(self) -> float:
        """Share of the test images that it labels right, in [0, 1]; NaN without test images."""
        pool = Pool(self.spec)
        if pool.n_test == 0:
            return math.nan
        return pool.cal_test_acc(self._learner.predict(pool.get_test_data()))
