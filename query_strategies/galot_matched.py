"""GALOT with images that are matched to the unlabeled pool instead of optimised."""

from .galot import GALOT


class GALOTMatched(GALOT):
    """GALOT with plain images, aligned to the unlabeled pool, of which the nearest to it are kept

    Not in arXiv 2412.16227. A recipe of GALOT's options, each of which can be set otherwise:
    `align` gives all images the pool's moments; `keep=pool` takes, of `oversample` times N_GAL, for
    each k-means center of the unlabeled images of a predicted class the nearest of that class, by
    the features of a bootstrap classifier. In mode gal, without a pool, plain images remain.
    Time: GALOT's without the ascent + the bootstrap's fit + O(N_GAL·(P + M)·D / C) for P unlabeled
    and M generated images. Memory: O((P + M)·D).
    """

    preset = {"epsilon": 0.0, "align": "pool", "keep": "pool", "oversample": 4.0}
