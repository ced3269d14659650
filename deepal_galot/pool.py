"""The labeled and unlabeled pool, its labels, and the generated images beside the real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from . import seeding
from .datasets.base import DatasetSpec
from .errors import UserError, said
from .images import to_unit_float

UNKNOWN = -1  # the label of an image whose label has not been bought


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with labels and their normalisation, for training and scoring.

    Also a map-style torch dataset in DeepALPlus's form: item i is (image, label, i).

    Attributes:
        X: [N, H, W, C] uint8.
        Y: [N] int64; UNKNOWN where the label is hidden.
        mean, std: per channel, in units of [0, 1].
        augmented: whether scoring applies the training augmentation.
        n_generated: how many images are generated; they come last.
    """

    X: np.ndarray
    Y: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmented: bool = False
    n_generated: int = 0

    @classmethod
    def unlabeled(cls, x: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> ImageSet:
        """Images with all labels UNKNOWN."""
        return cls(x, torch.full((len(x),), UNKNOWN), mean, std)

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, i: int) -> tuple[Tensor, int, int]:
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.mean, self.std))
        return (to_unit_float(self.X[i][None])[0] - mean) / std, int(self.Y[i]), i


@dataclass(frozen=True, eq=False)
class SyntheticQuery:
    """Images made by a strategy to be labeled, instead of indices into the pool.

    Attributes:
        images: [n, H, W, C] uint8.
        labels: [n] int64, once they are bought.
    """

    images: np.ndarray
    labels: np.ndarray | None = None


class Pool:
    """Which images are labeled; the only place where annotation budget is spent.

    Has DeepALPlus's Data accessors with DeepALPlus's names, so that its strategies run here.
    Strategies cannot reach labels that were not bought: `Y_train` holds UNKNOWN for them.

    Attributes:
        X_train: [N, H, W, C] uint8, read-only.
        Y_train: [N] int64 tensor, UNKNOWN where unlabeled.
        labeled_idxs: [N] bool mask.
    """

    def __init__(self, spec: DatasetSpec, *, score_augmented: bool = False) -> None:
        self._spec = spec  # private: it holds the hidden labels
        self._score_augmented = score_augmented
        self.X_train, self.X_test = spec.x_train, spec.x_test
        self.n_pool, self.n_test = len(spec.x_train), len(spec.x_test)
        self.Y_train = torch.full((self.n_pool,), UNKNOWN)
        self.labeled_idxs = np.zeros(self.n_pool, dtype=bool)
        self._oracle = torch.as_tensor(spec.y_train)
        self._synthetic: list[ImageSet] = []
        self._answered: list[ImageSet] = []  # labeled synthetic queries

    # -- spending budget ---------------------------------------------------------------------

    def initialize_labels(self, n: int, seed: int) -> np.ndarray:
        """Label n images drawn uniformly from stream init_pool; returns their indices, sorted."""
        order = seeding.numpy_rng(seed, "init_pool").permutation(self.n_pool)
        idxs = np.sort(order[:n])
        self.label(idxs)
        return idxs

    def label(self, idxs: Sequence[int] | np.ndarray) -> None:
        """Buy the labels of these pool images.

        Raises:
            ValueError: an index is out of range, repeated or labeled already.
        """
        idxs = check_query(idxs, len(idxs), self.labeled_idxs)
        self.labeled_idxs[idxs] = True
        self.Y_train[idxs] = self._oracle[idxs]

    def label_synthetic(
        self, query: SyntheticQuery, oracle: Callable[[np.ndarray], np.ndarray]
    ) -> SyntheticQuery:
        """Buy labels for images that are not in the pool; they count as human labels.

        Args:
            oracle: [n, H, W, C] uint8 -> [n] int64.

        Returns:
            The query with its labels.

        Raises:
            ValueError: the images do not fit the pool's.
        """
        images = query.images
        if images.dtype != np.uint8 or images.shape[1:] != self._spec.image_shape:
            raise ValueError(
                f"synthetic queries must be uint8 [n, {', '.join(map(str, self._spec.image_shape))}"
                f"], not {images.dtype} {images.shape}"
            )
        answered = SyntheticQuery(images, np.asarray(oracle(images), np.int64))
        self._answered.append(self.get_new_data(answered.images, answered.labels))
        return answered

    def label_everything(self) -> None:
        """Buy every label: the fully supervised reference."""
        self.label(np.flatnonzero(~self.labeled_idxs))

    # -- the training set --------------------------------------------------------------------

    def set_synthetic(self, images: np.ndarray, labels: np.ndarray, *, accumulate: bool) -> None:
        """Add pseudo-labeled images to the training set; pool indices and budget do not change.

        Args:
            images: [M, H, W, C] uint8.
            labels: [M] int64 pseudo-labels.
            accumulate: keep the images of earlier rounds too.
        """
        if images.shape[1:] != self._spec.image_shape:
            raise ValueError(f"images {images.shape[1:]}, the pool's are {self._spec.image_shape}")
        if not accumulate:
            self._synthetic.clear()
        self._synthetic.append(self.get_new_data(images, labels))

    def training_set(self, *, real: bool = True) -> ImageSet:
        """Human-labeled images (unless real=False) followed by the pseudo-labeled ones."""
        together = self._together(([self.human_labeled()] if real else []) + self._synthetic)
        return replace(together, n_generated=self.n_synthetic)

    def human_labeled(self) -> ImageSet:
        """All images with bought labels: those of the pool, then those of synthetic queries."""
        return self._together([self.get_labeled_data()[1], *self._answered])

    def _together(self, parts: list[ImageSet]) -> ImageSet:
        return self.get_new_data(
            np.concatenate([p.X for p in parts]), torch.cat([p.Y for p in parts])
        )

    @property
    def n_labeled(self) -> int:
        """Human labels bought so far, those of synthetic queries included."""
        return int(self.labeled_idxs.sum()) + sum(map(len, self._answered))

    @property
    def n_synthetic(self) -> int:
        """Generated images now in the training set."""
        return sum(len(p) for p in self._synthetic)

    # -- DeepALPlus's accessors --------------------------------------------------------------

    def get_labeled_data(self) -> tuple[np.ndarray, ImageSet]:
        """(indices [L], their images with labels)."""
        idxs = np.flatnonzero(self.labeled_idxs)
        return idxs, self._subset(idxs)

    def get_unlabeled_data(self) -> tuple[np.ndarray, ImageSet]:
        """(indices [U], their images; every label is UNKNOWN)."""
        idxs = np.flatnonzero(~self.labeled_idxs)
        return idxs, self._subset(idxs)

    def get_train_data(self) -> tuple[np.ndarray, ImageSet]:
        """(a copy of the labeled mask [N], all pool images)."""
        return self.labeled_idxs.copy(), self._subset(np.arange(self.n_pool))

    def get_test_data(self) -> ImageSet:
        """The test images with their labels."""
        return self.get_new_data(self.X_test, torch.tensor(self._spec.y_test))

    def get_partial_labeled_data(self) -> tuple[np.ndarray, Tensor]:
        """(images, labels) of the labeled part."""
        _, part = self.get_labeled_data()
        return part.X, part.Y

    def get_partial_unlabeled_data(self) -> tuple[np.ndarray, Tensor]:
        """(images, UNKNOWN labels) of the unlabeled part."""
        _, part = self.get_unlabeled_data()
        return part.X, part.Y

    def get_unlabeled_data_by_idx(self, idx: np.ndarray) -> np.ndarray:
        """Images by position among the unlabeled ones."""
        return self.X_train[np.flatnonzero(~self.labeled_idxs)[idx]]

    def get_data_by_idx(self, idx: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """(images, labels) by pool index; UNKNOWN for labels that are not bought."""
        return self.X_train[idx], self.Y_train[idx]

    def get_new_data(self, X: np.ndarray, Y: np.ndarray | Tensor) -> ImageSet:
        """Any images and labels as an ImageSet with this data set's normalisation."""
        return ImageSet(X, torch.as_tensor(Y), self._spec.mean, self._spec.std)

    def cal_test_acc(self, preds: Tensor) -> float:
        """Share of test images predicted correctly, in [0, 1]."""
        return float((preds.cpu() == torch.as_tensor(self._spec.y_test)).double().mean())

    def cal_balanced_acc(self, preds: Tensor) -> float:
        """Recall, averaged over the classes that have test images, in [0, 1]."""
        from sklearn.metrics import recall_score

        y = self._spec.y_test
        return float(recall_score(y, preds.cpu(), labels=np.unique(y), average="macro"))

    def _subset(self, idxs: np.ndarray) -> ImageSet:
        part = self.get_new_data(self.X_train[idxs], self.Y_train[idxs])
        return replace(part, augmented=self._score_augmented)


def check_query(
    idxs: Sequence[int] | np.ndarray | SyntheticQuery, n: int, labeled: np.ndarray
) -> np.ndarray | SyntheticQuery:
    """Check a query's answer: returns [n] int64 indices, or the SyntheticQuery without labels.

    Args:
        idxs: the strategy's answer.
        n: how many were asked for.
        labeled: [N] bool mask of the pool.

    Raises:
        ValueError: not n distinct unlabeled pool indices or n images; names the broken rule.
    """
    if idxs is None:
        raise ValueError(f"asked for {n} indices, got None: return them")
    if isinstance(idxs, Tensor):
        if idxs.is_floating_point() or idxs.is_complex():
            raise ValueError(f"indices must be whole numbers, not {idxs.dtype}")
        if idxs.is_meta:
            raise ValueError("got a tensor on the meta device, which holds no numbers")
        idxs = idxs.detach().cpu()
    if isinstance(idxs, SyntheticQuery):
        if len(idxs.images) != n:
            raise ValueError(f"asked for {n} images, got {len(idxs.images)}")
        return SyntheticQuery(idxs.images)  # drops labels that the strategy set
    try:
        array = np.atleast_1d(np.asarray(idxs))  # indexing with a 1-element tensor gives a scalar
    except (TypeError, RuntimeError) as error:  # a sparse tensor, or a list of such on a device
        raise ValueError(f"asked for {n} indices, got what is no array ({said(error)})") from error
    if array.dtype == object:
        raise ValueError(f"asked for {n} indices, got {type(idxs).__name__}: return an array")
    if array.dtype == bool and array.ndim == 1:
        indices = "np.flatnonzero(mask)" if len(array) == len(labeled) else "indices[mask]"
        raise ValueError(
            f"asked for {n} indices, got a mask of {len(array)} truth values: return {indices}"
        )
    if array.ndim != 1 or len(array) != n:
        raise ValueError(f"asked for {n} indices, got an array of shape {array.shape}")
    if n and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"indices must be whole numbers, not {array.dtype}")
    array = array.astype(np.int64)
    if n and (array.min() < 0 or array.max() >= len(labeled)):
        raise ValueError(f"an index lies outside 0 … {len(labeled) - 1}")
    if len(np.unique(array)) != n:
        raise ValueError("an index is repeated")
    if labeled[array].any():
        raise ValueError(f"index {int(array[labeled[array]][0])} is labeled already")
    return array


def check_budget(spec: DatasetSpec, wanted: int, hint: str = "") -> None:
    """Check that the pool is large enough.

    Args:
        hint: further advice, the end of the error line.

    Raises:
        UserError: the run wants more labels than the pool has.
    """
    if wanted > len(spec.x_train):
        raise UserError(
            f"the budget of {wanted:,} labels (n-init + all queries) is larger than the pool of "
            f"{spec.name} ({len(spec.x_train):,} images): lower --n-init, --n-query, --n-rounds "
            f"or --quota{hint}"
        )
