"""Base class of strategies.

To add one, write a file in this folder (or a plug-in) with a subclass of Strategy that has a
`query`. Constructor, methods and shapes are the same as in DeepALPlus, so DeepALPlus's score- and
embedding-based strategies run unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from deepal_galot.config import RunConfig
from deepal_galot.errors import UserError
from deepal_galot.galot import Galot, SyntheticBatch
from deepal_galot.learner import Learner
from deepal_galot.pool import ImageSet, Pool, SyntheticQuery
from deepal_galot.registry import class_name, merged


class Strategy:
    """Base class of strategies; the first docstring line is shown by --list.

    Docstrings of strategies state time and memory for N unlabeled and L labeled images, n queries,
    K classes, embeddings of length D and T Monte Carlo passes. A pool pass is one forward pass over
    the unlabeled images.

    Class attributes:
        aliases: further names, e.g. the paper's.
        fixed: RunConfig fields that define the strategy; the user cannot change them.
        preset: RunConfig fields that the strategy sets unless the user does.
        reads: RunConfig fields that only some strategies read, see --help.
        settings: the strategy's own hyper-parameters, numbers or text, name -> default. On the
            command line they follow the strategy's name: `Mine:width=5`.
        generates: whether `synthesize` makes training images.
        picks_real: whether `query` returns images of the pool. A base sampler must do so.
        remark: how its network or training differs from the other strategies', for the tables.

    A constructor of one's own must call this class's.

    Attributes:
        dataset: the pool; net: the learner; args_input: the RunConfig;
        args_task: {"num_class", "class_names", "image_shape"};
        settings: the hyper-parameters' values in this run.
    """

    aliases: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[Mapping[str, Any]] = {}
    preset: ClassVar[Mapping[str, Any]] = {}
    reads: ClassVar[tuple[str, ...]] = ()
    settings: Mapping[str, int | float | str] = {}
    generates: ClassVar[bool] = False
    picks_real: ClassVar[bool] = True
    remark: ClassVar[str] = ""

    def __init__(
        self, dataset: Pool, net: Learner, args_input: RunConfig, args_task: dict[str, Any]
    ) -> None:
        self.dataset, self.net = dataset, net
        self.args_input, self.args_task = args_input, args_task
        chosen = dict(args_input.settings)
        self.settings = {k: chosen.get(k, default) for k, default in self.all_settings().items()}

    @classmethod
    def all_settings(cls) -> dict[str, int | float | str]:
        """`settings` of this class over those of its bases."""
        return merged(cls, "settings")

    @classmethod
    def without_images(cls, config: RunConfig) -> str:
        """Name of the equivalent strategy in mode `al`, where no images are generated."""
        return class_name(cls)

    @property
    def picker(self) -> Strategy:
        """The strategy whose `query` answers, for messages: another where it is only passed on."""
        return self

    def query(self, n: int) -> np.ndarray | SyntheticQuery:
        """n distinct pool indices of unlabeled images to label; all, if fewer than n are left.

        A strategy that makes its own queries returns n images instead. Before the call, the global
        NumPy and torch generators are seeded from stream query(round).
        """
        raise TypeError(f"{type(self).__name__} defines no query(n)")

    def synthesize(self, galot: Galot, round: int) -> SyntheticBatch:
        """Make this round's pseudo-labeled images and add them to the pool's training set.

        Called after the labels are bought and before the fit, if `generates` is true and the mode
        uses generated images.
        """
        raise TypeError(f"{type(self).__name__} generates no images")

    def measure(self) -> dict[str, float]:
        """Further columns of a round's row, name -> number in [0, 1]; called after the fit."""
        return {}

    def state_dict(self) -> dict[str, np.ndarray | Tensor]:
        """State that `query` keeps between rounds, name -> array of numbers.

        Called after each query. A run that is resumed or extended goes on with this state.
        """
        return {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Restore the state; called after the constructor, if state_dict() returned any."""

    def top(self, n: int, idxs: np.ndarray, scores: Tensor | np.ndarray) -> np.ndarray:
        """The n indices of highest score.

        Ties are broken at random, from stream query(round). Otherwise, because many images may
        share a score, the first classes of a sorted pool would win.

        Args:
            idxs: [U] pool indices; scores: [U] of the same images, higher = more informative.

        Raises:
            UserError: a score is NaN, or the number of scores is not the number of images.
        """
        idxs, scores = np.asarray(idxs), torch.as_tensor(scores).detach().cpu().double()
        if scores.shape != idxs.shape:
            raise UserError(
                f"{type(self).__name__}: scores of shape {list(scores.shape)} for {len(idxs):,} "
                f"images; top(n, idxs, scores) needs one for each"
            )
        if scores.isnan().any():
            raise UserError(
                f"{type(self).__name__}: {int(scores.isnan().sum()):,} of {len(scores):,} scores "
                f"are NaN"
            )
        shuffle = torch.randperm(len(scores))
        ranked = shuffle[scores[shuffle].argsort(descending=True, stable=True)]
        return idxs[ranked[:n].numpy()]

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

    def train(self, data: ImageSet | None = None, *, member: int = 0) -> None:
        """Fit a new classifier, which takes the place of the current one, on `data`; default: the
        current training set.

        Args:
            member: which of a committee. Each starts from weights of its own and has its own order
                of batches; the same member is the same network again.
        """
        data = self.dataset.training_set() if data is None else data
        self.net.train(data, member=member)

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

    def get_grad_embeddings(self, data: ImageSet) -> np.ndarray:
        """[N, K·D] float32 gradients of the last layer at the predicted labels."""
        return self.net.get_grad_embeddings(data)

    def predict_prob_dropout(self, data: ImageSet, n_drop: int | None = None) -> Tensor:
        """[N, K] float32, the mean of n_drop Monte Carlo passes."""
        return self.net.predict_prob_dropout(data, n_drop)

    def predict_prob_dropout_split(self, data: ImageSet, n_drop: int | None = None) -> Tensor:
        """[n_drop, N, K] float32, each Monte Carlo pass."""
        return self.net.predict_prob_dropout_split(data, n_drop)
