"""The unlabeled pool as a measure of generated images: which of them look like real ones.

In pool-based active learning these images are free. No labels of the pool are read. A bootstrap
classifier learns from bought labels and generated images; it is discarded after the choice.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from . import seeding
from .acquisition import mutual_information
from .alignment import Moments, moments_of
from .clustering import k_means, nearest_distance, nearest_points
from .config import usual_values
from .device import float64
from .image_counts import best_of_each
from .images import in_parts, to_unit_float
from .learner import Learner
from .pool import Pool

MEASURED = 1000  # pool images whose distance to the nearest generated image is recorded
ITERATIONS = 20  # of Lloyd's algorithm; the points nearest to the centers hardly change after that


class Unlabeled:
    """Everything a run may ask of the unlabeled images."""

    def __init__(self, pool: Pool, learner: Learner) -> None:
        self.pool, self.learner = pool, learner

    def moments(self) -> Moments:
        """Moments of all pool images. Labeled ones are included, so that they are the same in all
        rounds."""
        return moments_of(self.pool.X_train)

    def distance(self, x: np.ndarray, round: int) -> float | None:
        """Mean distance from MEASURED unlabeled images to the nearest of x, in [0, 1]; None if
        either set is empty.

        The distance of two images is the root mean square difference over pixels and channels.

        Args:
            x: [N, H, W, C] uint8.
            round: names the random stream of the measured images.
        """
        idxs, device = np.flatnonzero(~self.pool.labeled_idxs), self.learner.device
        if not len(idxs) or not len(x):
            return None
        rng = seeding.numpy_rng(self.learner.config.seed, "measured", round)
        shown = self.pool.X_train[rng.permutation(idxs)[:MEASURED]]
        real = to_unit_float(shown).flatten(1).to(device)
        squared = torch.full((len(real),), torch.inf, device=device)
        for part in in_parts(x):
            made = to_unit_float(part).flatten(1).to(device)
            torch.minimum(squared, nearest_distance(real, made), out=squared)
        return float64((squared / real.shape[1]).sqrt()).mean().item()

    def choose(
        self, x: np.ndarray, y: np.ndarray, plain: np.ndarray, counts: tuple[int, ...], round: int
    ) -> np.ndarray:
        """Choose from a bank the images to train on, by the configuration's `keep`.

        `bald` is in-sample for the plain images, to which its bootstrap classifier was fitted: it
        takes fewer of them than of the others.

        Args:
            x: [M, H, W, C] uint8 bank; y: [M] int64 pseudo-labels.
            plain: positions in the bank of as many images chosen at random, for the bootstrap
                classifier.
            counts: how many images of each class are wanted.
            round: names the random streams.

        Returns:
            Positions in the bank, class by class, sorted within each class. A class may have fewer
            than wanted.
        """
        keep = self.learner.config.keep
        net = self._bootstrap(x[plain], y[plain], round, dropout=keep == "bald")
        bank = self.pool.get_new_data(x, y)
        _, unlabeled = self.pool.get_unlabeled_data()
        seeding.seed_globals(self.learner.config.seed, "chosen", round)
        if keep == "bald":
            scores = net.apply_to_passes(bank, mutual_information).cpu().numpy()
            return best_of_each(y, counts, scores)
        logits, pool_features = net.outputs(unlabeled)
        of_class, features = logits.argmax(1), net.outputs(bank).embeddings
        if keep == "discriminator":
            return best_of_each(y, counts, _realness(pool_features, features))
        choice = nearest_to_pool if keep == "pool" else most_diverse
        kept = []
        for k, n in enumerate(counts):
            where = np.flatnonzero(y == k)
            chosen = choice(pool_features[of_class == k], features[where], min(n, len(where)))
            kept.append(np.sort(where[chosen.cpu().numpy()]))
        return np.concatenate(kept)

    def _bootstrap(self, x: np.ndarray, y: np.ndarray, round: int, dropout: bool) -> Learner:
        """The classifier that a plain-generation run would have after this round, with the same
        random streams, but without a strategy's own objective.

        Args:
            dropout: train with head dropout, as for a Monte Carlo strategy.
        """
        own, config = self.learner, self.learner.config
        if dropout:
            fields = ("head_dropout", "mc_noise", "mc_passes")
            config = replace(config, **{f: usual_values()[f] for f in fields})
        net = Learner(config, own.architecture, own.image_shape, own.n_classes, own.device)
        real = self.pool.human_labeled()
        together = self.pool.get_new_data(
            np.concatenate([real.X, x]), torch.cat([real.Y, torch.from_numpy(y)])
        )
        with own.extra_training():
            net.fit(replace(together, n_generated=len(y)), round)
        return net


def nearest_to_pool(pool: Tensor, bank: Tensor, n: int) -> Tensor:
    """For each of n k-means centers of the pool, the nearest bank image that is not taken yet.

    If the pool has fewer than n points, the centers are used again for their next nearest images.
    If it has none, the choice is random. Time O(n·(P + M)·D), memory O((P + M)·D), for P pool and M
    bank images.
    """
    if n == 0 or not len(pool):
        return torch.randperm(len(bank))[:n]
    centers = k_means(pool, min(n, len(pool)), ITERATIONS)
    return nearest_points(bank, centers[torch.arange(n, device=centers.device) % len(centers)])


def most_diverse(pool: Tensor, bank: Tensor, n: int) -> Tensor:
    """For each of the bank's own n k-means centers, the nearest bank image that is not taken
    yet."""
    if n == 0:
        return torch.empty(0, dtype=torch.int64)
    return nearest_points(bank, k_means(bank, n, ITERATIONS))


def _realness(pool: Tensor, bank: Tensor) -> np.ndarray:
    """[M] log-odds of being real, from a logistic regression between the features of both sets.

    The log-odds are in-sample: the regression was fitted to the same images.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not len(pool):
        return np.zeros(len(bank))
    both = torch.cat([pool, bank]).cpu().double().numpy()
    real = np.arange(len(both)) < len(pool)
    # The default of 100 iterations may not converge.
    regression = LogisticRegression(class_weight="balanced", max_iter=1000)
    fitted = make_pipeline(StandardScaler(), regression).fit(both, real)
    return fitted.decision_function(both[len(pool) :])
