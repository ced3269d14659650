"""GALOT: a pool sampler queries real images, and generated images are added to them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from deepal_galot.config import RunConfig
from deepal_galot.galot import Galot, SyntheticBatch
from deepal_galot.learner import Learner
from deepal_galot.pool import Pool, SyntheticQuery
from deepal_galot.registry import strategies

from .strategy import Strategy


class GALOT(Strategy):
    """any base sampler + pseudo-labeled images from optimised text embeddings; arXiv 2412.16227

    Time: the base sampler's + the images of the ascent, each with the gradient of its last
    denoising step + N_GAL images. The ascent makes ascent_steps·ascent_samples images for each
    class and template, or ascent_steps for each image made, if each image has a text of its own.
    Memory: the base sampler's + the images, N_GAL·H·W·C bytes.
    """

    generates = True

    def __init__(
        self, dataset: Pool, net: Learner, args_input: RunConfig, args_task: dict[str, Any]
    ) -> None:
        super().__init__(dataset, net, args_input, args_task)
        self.base: Strategy | None = None  # mode gal picks no real images
        if args_input.uses_real_images:
            base = strategies.get(args_input.base_sampler)
            self.base = base(dataset, net, args_input, args_task)

    @classmethod
    def without_images(cls, config: RunConfig) -> str:
        return config.base_sampler

    @property
    def picker(self) -> Strategy:
        passes_on = type(self).query is GALOT.query and self.base is not None
        return self.base if passes_on else self

    def query(self, n: int) -> np.ndarray | SyntheticQuery:
        return self.base.query(n)

    def measure(self) -> dict[str, float]:
        return self.base.measure() if self.base else {}

    def state_dict(self) -> dict[str, np.ndarray | Tensor]:
        return self.base.state_dict() if self.base else {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.base.load_state_dict(state)

    def synthesize(self, galot: Galot, round: int) -> SyntheticBatch:
        logits = None if self.net.clf is None else self.net.logits
        batch = galot.make_images(logits, round)
        accumulate = self.args_input.synthetic == "accumulate"
        self.dataset.set_synthetic(batch.x, batch.y, accumulate=accumulate)
        return batch
