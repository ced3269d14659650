"""What a strategy is, and how one is added.

To add one, write a file in this folder (or a plug-in) with a subclass of Strategy that has a
`query`. Constructor, methods and shapes are DeepALPlus's, so its score- and embedding-based
strategies run unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from deepal_galot.config import RunConfig
from deepal_galot.galot import Galot, SyntheticBatch
from deepal_galot.learner import Learner
from deepal_galot.pool import ImageSet, Pool
from deepal_galot.registry import class_name


class Strategy:
    """Base class of strategies; the first docstring line is shown by --list.

    Class attributes:
        aliases: further names, e.g. the paper's.
        fixed: RunConfig fields that the strategy is defined by.
        generates: whether `synthesize` makes training images.

    Attributes:
        dataset: the pool; net: the learner; args_input: the RunConfig;
        args_task: {"num_class", "class_names", "image_shape"}.
    """

    aliases: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[Mapping[str, Any]] = {}
    generates: ClassVar[bool] = False

    def __init__(
        self, dataset: Pool, net: Learner, args_input: RunConfig, args_task: dict[str, Any]
    ) -> None:
        self.dataset, self.net = dataset, net
        self.args_input, self.args_task = args_input, args_task

    @classmethod
    def without_images(cls, config: RunConfig) -> str:
        """The name of the strategy that this one is in mode `al`, where no image is generated."""
        return class_name(cls)

    def query(self, n: int) -> np.ndarray:
        """n distinct pool indices of unlabeled images to be labeled.

        The global NumPy and torch generators are seeded from stream query(round) before the call.
        """
        raise TypeError(f"{type(self).__name__} defines no query(n)")

    def synthesize(self, galot: Galot, round: int) -> SyntheticBatch:
        """Make this round's pseudo-labeled images and put them beside the pool's real ones.

        Called after the labels are bought and before the fit, if `generates` and the mode wants it.
        """
        raise TypeError(f"{type(self).__name__} generates no images")

    def top(self, n: int, idxs: np.ndarray, scores: Tensor) -> np.ndarray:
        """The n indices of highest score; ties go to the lower index, NaN ranks last.

        Args:
            idxs: [U] pool indices; scores: [U] of the same images, higher = more informative.
        """
        scores = torch.nan_to_num(scores.double(), nan=-torch.inf)
        return idxs[scores.argsort(descending=True, stable=True)[:n].numpy()]

    # -- DeepALPlus's helpers ----------------------------------------------------------------

    def get_labeled_count(self) -> int:
        """Human labels bought so far."""
        return self.dataset.n_labeled

    def get_model(self) -> torch.nn.Module:
        """The current classifier."""
        return self.net.get_model()

    def update(self, pos_idxs: np.ndarray, neg_idxs: np.ndarray | None = None) -> None:
        """Buy the labels of pos_idxs. Labels cannot be given back, so neg_idxs must be empty."""
        if neg_idxs is not None and len(neg_idxs):
            raise ValueError("bought labels cannot be given back")
        self.dataset.label(pos_idxs)

    def train(self, data: ImageSet | None = None) -> None:
        """Fit the classifier, on the current training set if no other is given."""
        self.net.train(self.dataset.training_set() if data is None else data)

    def predict(self, data: ImageSet) -> Tensor:
        """[N] int64 predicted classes."""
        return self.net.predict(data)

    def predict_logits(self, data: ImageSet) -> Tensor:
        """[N, K] float32 logits."""
        return self.net.predict_logits(data)

    def predict_prob(self, data: ImageSet) -> Tensor:
        """[N, K] float32 class probabilities."""
        return self.net.predict_prob(data)

    def get_embeddings(self, data: ImageSet) -> Tensor:
        """[N, D] float32 embeddings."""
        return self.net.get_embeddings(data)
