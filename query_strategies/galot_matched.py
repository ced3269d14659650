"""GALOT with images that are matched to the unlabeled pool; no text is optimised."""

from .galot import GALOT


class GALOTMatched(GALOT):
    """GALOT without text optimisation; images aligned to the unlabeled pool, the nearest to it kept

    Not in arXiv 2412.16227. A preset of GALOT's options, each of which the user can change:
    `align` gives all images the pool's moments. `oversample` makes 4 times N_GAL images, of which
    `keep=pool` keeps N_GAL. It runs k-means on the unlabeled images of each predicted class and
    keeps, for each center, the nearest generated image of this class, by the features of a
    bootstrap classifier. In mode gal there is no pool, so plain images remain.
    Time: as GALOT without the ascent + the bootstrap's fit + O(N_GAL·(P + M)·D / K) for P unlabeled
    and M generated images. Memory: O((P + M)·D).
    """

    preset = {"epsilon": 0.0, "align": "pool", "keep": "pool", "oversample": 4.0}
