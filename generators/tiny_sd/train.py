"""Train the tiny text-to-image pipeline from font renders alone.

    python -m generators.tiny_sd.train --fonts DIR --out DIR

First an AutoencoderKL (32x32 RGB to 8x8x4) is trained, then a UNet2DConditionModel together with a
CLIPTextModel. The method is latent diffusion (Rombach et al. 2022) with v-prediction (Salimans and
Ho 2022) and min-SNR weights (Hang et al. 2023). The result is a diffusers StableDiffusionPipeline
folder. Its weights are stored in half precision and load as float32.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import os
import platform
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from generators.tiny_sd.fonts import FontError, font_files
from generators.tiny_sd.renders import (
    IMAGE_SIZE,
    NAMES,
    NOUNS,
    PREFIXES,
    STYLE_WORDS,
    Renders,
    load_glyphs,
    render,
)

TOKENS = 24  # length of a tokenised prompt
TEXT_WIDTH = 64
LATENT_SIZE = 8
N_RENDERS = 60_000
VAE_STEPS = 1_200
VAE_BATCH = 64
BATCH = 128
CAPTION_DROPOUT = 0.1
MIN_SNR = 5.0
EMA_DECAY = 0.999
KL_WEIGHT = 5e-4
# The noise schedule of Stable Diffusion. The default sampler is DPM-Solver++.
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "steps_offset": 1,
}
# Other words that are likely in prompts; like caption words, each becomes one token.
EXTRA_WORDS = ("an", "in", "on", "with", "and", "black", "white", "background", "image", "style")


@dataclass
class Models:
    """The three networks and the tokenizer of one pipeline."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Learn byte-pair merges (Sennrich et al. 2016) until every word is one token.

    Args:
        words: lower-case ASCII words.

    Returns:
        Merges in the order in which a tokenizer must apply them; a word's last letter has `</w>`.
    """
    pieces = [[*word[:-1], word[-1] + "</w>"] for word in sorted(set(words))]
    merges = []
    while any(len(piece) > 1 for piece in pieces):
        pairs = Counter(pair for piece in pieces for pair in zip(piece, piece[1:], strict=False))
        best = max(sorted(pairs), key=pairs.__getitem__)
        merges.append(best)
        pieces = [_merge(piece, best) for piece in pieces]
    return merges


def _merge(piece: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in piece:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def build_tokenizer() -> CLIPTokenizer:
    """Make a CLIP tokenizer: one token for each caption word, pieces or bytes for others."""
    text = " ".join([*PREFIXES, *STYLE_WORDS, *NOUNS, *NAMES, *EXTRA_WORDS])
    words = ["".join(c for c in word if "a" <= c <= "z") for word in text.split()]
    merges = learn_merges(word for word in words if len(word) > 1)
    letters = [_byte_symbol(byte) for byte in range(256)]
    symbols = letters + [letter + "</w>" for letter in letters]
    symbols += list(dict.fromkeys(a + b for a, b in merges))
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={symbol: i for i, symbol in enumerate(symbols)},
        merges=merges,
        model_max_length=TOKENS,
    )


def _byte_symbol(byte: int) -> str:
    """Name a byte as GPT-2's byte-level vocabulary does: printable Latin-1 stands for itself."""
    hidden = [b for b in range(256) if not (33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255)]
    return chr(256 + hidden.index(byte)) if byte in hidden else chr(byte)


def build_models() -> Models:
    """Make the untrained networks; torch's global generator draws the weights."""
    tokenizer = build_tokenizer()
    text_encoder = _build_text_encoder(tokenizer)
    # Attention only on the 4x4 grid and in the middle, because on 8x8 it doubles a step's time.
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
    )
    return Models(tokenizer, text_encoder, unet, vae)


def _build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def to_rgb(images: torch.Tensor) -> torch.Tensor:
    """Turn uint8 [B, 32, 32] into float32 [B, 3, 32, 32] in -1..1 with three equal channels."""
    return (images.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)


def _optimizer(
    modules: Iterable[nn.Module], rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    # 100 steps of linear warm-up, times a cosine from 1 to 0.02.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 100) * (0.51 + 0.49 * math.cos(math.pi * step / steps)),
    )
    return optimizer, schedule


def train_vae(vae: AutoencoderKL, images: torch.Tensor, steps: int, seed: int) -> list[float]:
    """Train the autoencoder; return the reconstruction error (mean square, -1..1) of each step.

    Args:
        vae: trained in place; its scaling factor is set so that latents have unit variance.
        images: uint8 [N, 32, 32] on the device of the vae.
        steps: batches of 64.
        seed: of batches and latent noise.
    """
    optimizer, schedule = _optimizer([vae], 2e-3, steps)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in tqdm(range(steps), desc="autoencoder", mininterval=5):
        pick = torch.randint(len(images), (VAE_BATCH,), generator=generator)
        batch = to_rgb(images[pick.to(images.device)])
        posterior = vae.encode(batch).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(batch.device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        error = (decoded - batch).square().mean()
        spread = posterior.mean.square() + posterior.var - 1 - posterior.logvar
        optimizer.zero_grad()
        (error + KL_WEIGHT * 0.5 * spread.mean()).backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(error.item())
    scale = 1 / encode(vae, images[:4096]).std().item()
    vae.register_to_config(scaling_factor=scale)
    return losses


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Encode uint8 [N, 32, 32] to the mean latents, float32 [N, 4, 8, 8], unscaled."""
    chunks = images.split(500)
    return torch.cat([vae.encode(to_rgb(chunk)).latent_dist.mean for chunk in chunks])


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Tokenize captions as the pipeline does: int64 [N, 24]."""
    batch = tokenizer(captions, padding="max_length", max_length=TOKENS, truncation=True)
    return torch.tensor(batch["input_ids"])


class DiffusionTrainer:
    """Trains the UNet and the text encoder on fixed latents and token ids.

    Args:
        models: networks on their device; the vae is not trained.
        latents: scaled latents, float32 [N, 4, 8, 8], on the device.
        tokens: int64 [N, 24], on the device.
        steps: batches of 128.
        seed: of batches, noise, timesteps and caption dropout.
    """

    def __init__(
        self, models: Models, latents: torch.Tensor, tokens: torch.Tensor, steps: int, seed: int
    ) -> None:
        self.models, self.latents, self.tokens, self.steps = models, latents, tokens, steps
        self.trained = nn.ModuleList([models.unet, models.text_encoder])
        self.average = copy.deepcopy(self.trained).requires_grad_(False)
        self.optimizer, self.schedule = _optimizer([self.trained], 1.5e-3, steps)
        self.generator = torch.Generator().manual_seed(seed)
        betas = DPMSolverMultistepScheduler(**SCHEDULE).alphas_cumprod
        self.alphas = betas.to(latents.device)
        self.empty = tokenize(models.tokenizer, [""]).to(latents.device)

    def step(self) -> float:
        """Take one optimiser step; return the weighted loss."""
        device, draw = self.latents.device, self.generator
        pick = torch.randint(len(self.latents), (BATCH,), generator=draw).to(device)
        noise = torch.randn((BATCH, *self.latents.shape[1:]), generator=draw).to(device)
        times = torch.randint(len(self.alphas), (BATCH,), generator=draw).to(device)
        drop = (torch.rand((BATCH, 1), generator=draw) < CAPTION_DROPOUT).to(device)
        text = self.models.text_encoder(torch.where(drop, self.empty, self.tokens[pick]))[0]
        alpha = self.alphas[times].view(-1, 1, 1, 1)
        clean = self.latents[pick]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        predicted = self.models.unet(noisy, times, text).sample
        snr = alpha.flatten() / (1 - alpha.flatten())
        # For v-prediction the min-SNR weight is min(SNR, 5) / (SNR + 1).
        weight = snr.clamp(max=MIN_SNR) / (snr + 1)
        loss = (weight * (predicted - target).square().mean(dim=(1, 2, 3))).mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self._average_weights()
        return loss.item()

    @torch.no_grad()
    def _average_weights(self) -> None:
        # A short memory at first. Otherwise the average would keep the random start for long.
        decay = min(EMA_DECAY, 1 - 10 / (10 + self.schedule.last_epoch))
        torch._foreach_lerp_(
            list(self.average.parameters()), list(self.trained.parameters()), 1 - decay
        )

    def averaged(self) -> Models:
        """Return the pipeline's networks with the averaged weights."""
        unet, text_encoder = self.average
        return Models(self.models.tokenizer, text_encoder, unet, self.models.vae)


def export(models: Models, out: Path, facts: dict[str, object]) -> None:
    """Write `out` (the pipeline folder) and `training.json` beside it.

    The folder is written under a temporary name and then renamed, so no reader sees half of it.

    Args:
        models: networks; they are stored in half precision.
        out: replaced if it exists; `parse_args` refuses other folders than pipelines.
        facts: entries of training.json, besides the hashes of the weights.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        pipeline = StableDiffusionPipeline(
            vae=copy.deepcopy(models.vae).half(),
            text_encoder=copy.deepcopy(models.text_encoder).half(),
            tokenizer=models.tokenizer,
            unet=copy.deepcopy(models.unet).half(),
            scheduler=DPMSolverMultistepScheduler(**SCHEDULE),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(scratch / "new")
        _save_vocabulary(scratch / "new" / "tokenizer")
        _declare_float32(scratch / "new" / "text_encoder" / "config.json")
        _save_scheduler(scratch / "new" / "scheduler" / "scheduler_config.json")
        if out.exists():
            out.rename(scratch / "old")
        (scratch / "new").rename(out)
    finally:
        shutil.rmtree(scratch)
    weights = {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*.safetensors"))
    }
    text = json.dumps({**facts, "weights_sha256": weights}, indent=2) + "\n"
    partial = out.with_name(".training.json.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(out.with_name("training.json"))


def _save_vocabulary(folder: Path) -> None:
    """Add the two files from which older versions of transformers build a CLIPTokenizer."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]) + "\n", encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])])
    (folder / "merges.txt").write_text(merges + "\n", encoding="utf-8")


def _declare_float32(config: Path) -> None:
    """Make transformers load the half-precision weights as float32, which it reads from here."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["dtype"] = "float32"
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _save_scheduler(config: Path) -> None:
    """Write only settings that are not defaults, so that other schedulers keep their own defaults.

    With these settings PNDM and DDIM step as in Stable Diffusion's own configuration. If
    DPM-Solver++'s `timestep_spacing` were written, their last step would have no effect.
    """
    settings = {"_class_name": "DPMSolverMultistepScheduler"} | SCHEDULE
    settings |= {"skip_prk_steps": True, "set_alpha_to_one": False}
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def describe_machine(device: torch.device) -> str:
    """Name the hardware: the GPU, or the number of CPU threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads ({platform.machine()})"


def describe_versions() -> dict[str, str]:
    """Name the versions of Python and of the libraries that the result depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


def make_renders(fonts: Path, n: int, seed: int) -> Renders:
    """Render the training set from the handwritten and the printed faces of a font folder."""
    glyphs = load_glyphs(font_files(fonts, "handwritten"), printed=False)
    glyphs += load_glyphs(font_files(fonts, "printed"), printed=True)
    return render(glyphs, n, seed)


def train(args: argparse.Namespace, renders: Renders) -> None:
    """Train both stages and export; `args` comes from `parse_args`."""
    started = time.monotonic()
    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    models = build_models()
    for module in (models.text_encoder, models.unet, models.vae):
        module.to(device)
    images = torch.from_numpy(renders.images).to(device)
    vae_losses = train_vae(models.vae, images, VAE_STEPS, args.seed + 1)
    facts = {
        "seed": args.seed,
        "renders": len(renders.images),
        "vae_steps": VAE_STEPS,
        "planned_steps": args.steps,
        "vae_mean_square_error": float(np.mean(vae_losses[-100:])),
        "hardware": describe_machine(device),
        "versions": describe_versions(),
    }
    latents = encode(models.vae, images) * models.vae.config.scaling_factor
    tokens = tokenize(models.tokenizer, renders.captions).to(device)
    trainer = DiffusionTrainer(models, latents, tokens, args.steps, args.seed + 2)
    losses: list[float] = []
    for step in (bar := tqdm(range(1, args.steps + 1), desc="diffusion", mininterval=5)):
        losses.append(trainer.step())
        if step % 100 == 0:
            bar.set_postfix(loss=f"{np.mean(losses[-100:]):.4f}", refresh=False)
        if step % args.snapshot_every == 0 or step == args.steps:
            facts["steps"] = step
            facts["seconds"] = round(time.monotonic() - started)
            facts["loss_every_500_steps"] = [
                round(float(np.mean(losses[i : i + 500])), 5) for i in range(0, step, 500)
            ]
            export(trainer.averaged(), args.out, facts)


def parse_args() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--fonts", type=Path, required=True, help="folder filled by generators.tiny_sd.fonts")
    add("--out", type=Path, required=True, help="pipeline folder to write")
    add("--steps", type=int, default=5600, help="diffusion batches of 128 (default 5600)")
    add("--seed", type=int, default=0, help="of renders, weights, batches and noise (default 0)")
    add(
        "--threads",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="CPU threads; more than there are idle cores is slower than one (default at most 2)",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    add(
        "--snapshot-every",
        type=int,
        default=1000,
        help="steps between writes of the pipeline folder (default 1000)",
    )
    args = parser.parse_args()
    if min(args.steps, args.snapshot_every, args.threads) < 1:
        parser.error("--steps, --snapshot-every and --threads must be at least 1")
    if args.out.exists() and not (args.out / "model_index.json").is_file():
        parser.error(f"--out {args.out} exists and is not a pipeline folder; it is not replaced")
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {args.device} cannot be used: {error}")
    return parser, args


def main() -> None:
    """Render, train, export."""
    parser, args = parse_args()
    torch.set_num_threads(args.threads)
    try:
        renders = make_renders(args.fonts, N_RENDERS, args.seed)
    except FontError as error:
        parser.error(str(error))
    train(args, renders)


if __name__ == "__main__":
    main()
