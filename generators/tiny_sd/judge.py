"""Ask a network that never saw the training fonts whether generated digits show their label.

    python -m generators.tiny_sd.judge --fonts DIR [--n 100]

The judge is trained on renders of the held-out handwriting faces only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from torch import nn
from tqdm import tqdm

from generators.tiny_sd.fonts import FontError, font_files
from generators.tiny_sd.renders import NAMES, Glyph, load_glyphs, render

PROMPT = "a handwritten digit {label}"
STEPS = 10
GUIDANCE = 2.0
BATCH = 50
JUDGE_RENDERS = 8_000
JUDGE_EPOCHS = 6


def generate(
    pipeline: StableDiffusionPipeline, prompts: list[str], seed: int, guidance: float = GUIDANCE
) -> np.ndarray:
    """Generate one image for each prompt, with DPM-Solver++ in ten steps.

    Args:
        pipeline: the tiny pipeline, on any device.
        prompts: N texts.
        seed: of the noise, which is drawn on the CPU.
        guidance: scale of classifier-free guidance; 1 switches it off.

    Returns:
        Grey images, uint8 [N, 32, 32]: the mean of the three channels.
    """
    noise = torch.Generator().manual_seed(seed)
    batches = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
    images = [
        pipeline(
            batch,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            generator=noise,
            output_type="np",
        ).images
        for batch in tqdm(batches, desc="images", mininterval=5)
    ]
    return np.rint(np.concatenate(images).mean(axis=3) * 255).astype(np.uint8)


def _network() -> nn.Sequential:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    head = [nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 4 * 4, 10)]
    return nn.Sequential(*block(1, 16), *block(16, 32), *block(32, 64), *head)


def _inputs(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images)[:, None].float() / 255


def train_judge(glyphs: list[Glyph], seed: int) -> nn.Module:
    """Train the judge on 8,000 renders; return it in eval mode.

    Args:
        glyphs: of the held-out faces.
        seed: of renders, weights and batches.
    """
    renders = render(glyphs, JUDGE_RENDERS, seed)
    torch.manual_seed(seed)
    network = _network()
    images, labels = _inputs(renders.images), torch.from_numpy(renders.labels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, JUDGE_EPOCHS)
    for _ in tqdm(range(JUDGE_EPOCHS), desc="judge"):
        for pick in torch.randperm(len(labels)).split(100):
            loss = F.cross_entropy(network(images[pick]), labels[pick])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def agreement(judge: nn.Module, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return for each image whether the judge predicts its label: bool [N].

    Args:
        judge: from `train_judge`.
        images: uint8 [N, 32, 32].
        labels: int [N], 0..9.
    """
    chunks = [judge(chunk).argmax(dim=1) for chunk in _inputs(images).split(500)]
    return torch.cat(chunks).numpy() == labels


def main() -> None:
    """Print the judge's accuracy on its own fonts and its agreement with generated labels."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--fonts", type=Path, required=True, help="folder filled by generators.tiny_sd.fonts")
    add("--n", type=int, default=100, help="generated images a class (default 100)")
    add("--seed", type=int, default=0, help="of judge and images (default 0)")
    args = parser.parse_args()
    if args.n < 1:
        parser.error("--n must be at least 1")
    try:
        glyphs = load_glyphs(font_files(args.fonts, "held_out"), printed=False)
    except FontError as error:
        parser.error(str(error))
    judge = train_judge(glyphs, args.seed)
    fresh = render(glyphs, 2_000, args.seed + 1)
    own = agreement(judge, fresh.images, fresh.labels).mean()
    pipeline = StableDiffusionPipeline.from_pretrained(
        Path(__file__).with_name("pipeline"), local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    labels = np.repeat(np.arange(10), args.n)
    prompts = [PROMPT.format(label=NAMES[label]) for label in labels]
    right = agreement(judge, generate(pipeline, prompts, args.seed), labels)
    print(f"judge on 2,000 fresh renders of its fonts: {own:.3f}")
    for label, name in enumerate(NAMES):
        print(f"  {name:6s} {right[labels == label].mean():.3f}")
    error = np.sqrt(right.mean() * (1 - right.mean()) / len(right))
    print(f"agreement: {right.mean():.4f} +- {error:.4f} ({len(right)} images, {PROMPT!r})")


if __name__ == "__main__":
    main()
