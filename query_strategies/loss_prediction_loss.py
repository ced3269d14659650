"""Learning loss: a module that predicts each image's loss, trained beside the classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepal_galot.classifiers.base import Classifier, GlobalAverage
from deepal_galot.config import RunConfig
from deepal_galot.learner import Learner
from deepal_galot.objective import Batch, Context, Objective
from deepal_galot.pool import Pool

from .strategy import Strategy

WIDTH = 128  # outputs of each branch of the loss module
MARGIN = 1.0  # ξ
WEIGHT = 1.0  # λ
DETACH_AFTER = 120 / 200  # share of the fit, as published: 120 of 200 epochs


class LossPredictionLoss(Strategy):
    """largest predicted loss; the predictor is trained jointly; Yoo & Kweon 2019

    Time: a pool pass + O(N log N), and the loss module in each training step. Its seconds are in
    the results' column of extra training. Memory: O(N).
    """

    aliases = ("LossPrediction",)
    remark = "loss module trained jointly"

    def __init__(
        self, dataset: Pool, net: Learner, args_input: RunConfig, args_task: dict[str, Any]
    ) -> None:
        super().__init__(dataset, net, args_input, args_task)
        self.objective = net.objective = LearningLoss(net)

    def query(self, n: int) -> np.ndarray:
        idxs, images = self.dataset.get_unlabeled_data()
        return self.top(n, idxs, self.net.apply(images, self.objective.predict))


class LearningLoss(Objective):
    """Cross-entropy + λ times the ranking loss of the predicted losses.

    The loss module averages each stage's feature map and maps it to WIDTH numbers. A last linear
    layer maps all of them to one loss. After DETACH_AFTER of the fit the module's gradients no
    longer reach the classifier.
    """

    def __init__(self, net: Learner) -> None:
        super().__init__()
        self.net = net

    def build(self, clf: Classifier, image_shape: tuple[int, int, int]) -> None:
        height, width, channels = image_shape
        was_training = clf.training
        with torch.no_grad():
            maps = clf.eval().feature_maps(torch.zeros(1, channels, height, width))
        clf.train(was_training)
        self.branches = nn.ModuleList(
            nn.Sequential(GlobalAverage(), nn.Linear(m.shape[1], WIDTH), nn.ReLU()) for m in maps
        )
        self.last = nn.Linear(WIDTH * len(maps), 1)

    def predict(self, x: Tensor) -> Tensor:
        """[B, C, H, W] normalised images -> [B] predicted losses of the current classifier."""
        return self.score(self.net.clf.feature_maps(x))

    def score(self, maps: list[Tensor]) -> Tensor:
        """Feature maps of B images -> [B] predicted losses."""
        branches = [branch(m) for branch, m in zip(self.branches, maps, strict=True)]
        return self.last(torch.cat(branches, 1))[:, 0]

    def backward(self, clf: Classifier, batch: Batch, progress: float, autocast: Context) -> None:
        with autocast():
            maps = clf.feature_maps(batch.x)
            logits = clf.head(clf.neck(maps[-1]))
            losses = self.losses(logits, batch)
        true_losses = F.cross_entropy(logits.detach().float(), batch.y, reduction="none")
        with self.net.extra_training():
            # Detached copies of the maps, so that the module's time is measured by itself.
            copies = [m.detach().requires_grad_() for m in maps]
            with autocast():
                predicted = self.score(copies).float()
            (WEIGHT * ranking_loss(predicted, true_losses)).backward()
        if progress < DETACH_AFTER:
            torch.autograd.backward([losses.mean(), *maps], [None, *(m.grad for m in copies)])
        else:
            losses.mean().backward()


def ranking_loss(predicted: Tensor, losses: Tensor) -> Tensor:
    """Mean over pairs of max(0, ξ - s·(p_i - p_j)) with s = 1 if l_i > l_j, else -1 (also for equal
    losses, as published).

    Image i is paired with image B - 1 - i. With an odd B the middle image has no partner. A single
    image gives 0.

    Args:
        predicted, losses: [B] predicted and true losses of one batch.
    """
    pairs = len(predicted) // 2
    if pairs == 0:
        return predicted.sum() * 0
    gap, true_gap = (v[:pairs] - v.flip(0)[:pairs] for v in (predicted, losses))
    return F.relu(MARGIN - torch.where(true_gap > 0, gap, -gap)).mean()
