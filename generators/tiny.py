"""The embedded generator: Stable Diffusion's format at 2.6 million parameters."""

from __future__ import annotations

from pathlib import Path

from deepal_galot.datasets.digits import DIGIT_NAMES

from .diffusion import DiffusionGenerator


class Tiny(DiffusionGenerator):
    """embedded 2.6 M-parameter Stable Diffusion of digits, offline; for Digits and MNIST

    Trained on renders of openly licensed fonts, see tiny_sd/README.md; it has seen no data set.
    """

    name = "tiny"
    source = Path(__file__).parent / "tiny_sd" / "pipeline"
    # So small that float32 costs nothing. In float32 a GPU draws the same images as a CPU.
    defaults = {
        "steps": 10,
        "guidance": 2.0,
        "scheduler": "DPMSolverMultistepScheduler",
        "dtype": "float32",
    }
    knows = frozenset(DIGIT_NAMES)
    batch_size = 64
    decoded_at_once = 64

    @classmethod
    def serves(cls) -> str:
        return "it serves Digits and MNIST (the classes zero … nine)."
