"""What a classifier is, and how one is added.

To add one, write a file in this folder (or a plug-in) with a subclass of Classifier.
"""

from __future__ import annotations

from torch import Tensor, nn


class Classifier(nn.Module):
    """Base class of classifiers; the first docstring line is shown by --list.

    A subclass is made as `cls(image_shape, n_classes)` with image_shape = (H, W, C), and sets
    `embedding_dim`, the D of its embeddings. All its randomness comes from torch's global
    generator, which the learner seeds.
    """

    embedding_dim: int

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] normalised images -> (logits [B, K], embedding [B, D])."""
        raise TypeError(f"{type(self).__name__} defines no forward(x)")

    def get_embedding_dim(self) -> int:
        """D, by DeepALPlus's name."""
        return self.embedding_dim
