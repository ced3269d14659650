"""The paper's Algorithm 1 beside a plain loop over diffusers' own pipeline.

The reference shares with the package only the classifier, the text encoder's padding and the seeds
of the noise. It writes out guidance, denoising with a gradient through the last step, the
resize, the score, the step, the ball, and ε of the round.
"""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from torch.nn import functional as F

from deepal_galot import seeding
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.galot import Galot
from deepal_galot.learner import Learner
from deepal_galot.pool import Pool
from generators.image_store import ImageStore
from generators.tiny import Tiny
from helpers import NoJournal, small_config

CPU = torch.device("cpu")
SEED, ROUND, ROUNDS = 4, 1, 4
EPSILON, ETA, K, M, T, GUIDANCE = 5.0, 0.8, 3, 2, 4, 2.0
NAMES = ("0", "1", "2")


@pytest.fixture(scope="module")
def learner(digits):
    """A classifier of forty images."""
    pool = Pool(digits)
    pool.initialize_labels(40, SEED)
    config = small_config(epochs=10, min_steps=100)
    made = Learner(config, SmallCNN, digits.image_shape, digits.n_classes, CPU)
    made.fit(pool.training_set(), 0)
    return made


@pytest.fixture(scope="module")
def pipe():
    pipe = StableDiffusionPipeline.from_pretrained(
        Tiny.source, safety_checker=None, requires_safety_checker=False
    )
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    return pipe


def encoded(pipe, texts):
    """[P, L, D] embeddings, without a gradient."""
    length = pipe.tokenizer.model_max_length
    padded = pipe.tokenizer(texts, padding="max_length", max_length=length, return_tensors="pt")
    with torch.no_grad():
        return pipe.text_encoder(padded.input_ids)[0]


def image(pipe, c, empty, seed):
    """[1, 3, S, S] in [0, 1] from one embedding; only the last denoising step has a gradient."""
    scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(T)
    size, channels = pipe.unet.config.sample_size, pipe.unet.config.in_channels
    noise = torch.randn(channels, size, size, generator=torch.Generator().manual_seed(seed))
    x = noise[None] * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
        with torch.set_grad_enabled(i == T - 1):
            scaled = scheduler.scale_model_input(x, t)
            plain = pipe.unet(scaled, t, encoder_hidden_states=empty).sample
            guided = pipe.unet(scaled, t, encoder_hidden_states=c[None]).sample
            x = scheduler.step(plain + GUIDANCE * (guided - plain), t, x).prev_sample
    return (pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def acquisition(target, p, k):
    """A(f(x)) of the probabilities p of an image that was made for class k."""
    first, second = p.sort(descending=True).values[:2]
    return {
        "margin": second - first,
        "entropy": -(p * p.log()).sum(),
        "least_confidence": 1 - first,
        "max_loss": -p[k].log(),
    }[target]


def climbed(pipe, learner, digits, direction, norm, target):
    """[classes, L, D] c - c0 after K steps, class by class and image by image."""
    c0, empty = encoded(pipe, [f"a digit {n}" for n in NAMES]), encoded(pipe, [""])
    epsilon = EPSILON * (ROUND + 1) / ROUNDS
    luma = torch.tensor([0.299, 0.587, 0.114])[None, :, None, None]
    moved = []
    for k, start in enumerate(c0):
        c = start.clone()
        for step in range(K):
            mean = torch.zeros_like(c)
            for i in range(M):
                at = c.clone().requires_grad_()
                seed = seeding.derive(SEED, "ascent", ROUND, k, step, i)
                grey = (image(pipe, at, empty, seed) * luma).sum(1, keepdim=True)
                small = F.interpolate(grey, (8, 8), mode="bilinear", antialias=True).clamp(0, 1)
                logits = learner.clf((small - digits.mean[0]) / digits.std[0])[0]
                score = acquisition(target, logits.softmax(1)[0], k)
                mean += torch.autograd.grad(score, at)[0] / M
            d = mean.sign() if direction == "sign" else mean
            d[0] = 0  # the first token says nothing of the text
            d = d / (d.norm() if norm == "l2" else d.abs().max())
            delta = c + ETA * epsilon * d - start
            if norm == "l2":
                delta *= min(1.0, epsilon / delta.norm().item())
            else:
                delta = delta.clamp(-epsilon, epsilon)
            c = start + delta
        moved.append(c - start)
    return torch.stack(moved)


@pytest.mark.parametrize(
    ("direction", "norm", "target"),
    [
        ("gradient", "l2", "margin"),
        ("sign", "l2", "least_confidence"),
        ("gradient", "linf", "entropy"),
        ("gradient", "l2", "max_loss"),
    ],
)
def test_the_whole_ascent(tmp_path, digits, learner, pipe, direction, norm, target):
    config = small_config(
        strategy="GALOT", mode="al+gal", seed=SEED, n_rounds=ROUNDS - 1, epsilon=EPSILON, eta=ETA,
        ascent_steps=K, ascent_samples=M, direction=direction, norm=norm, text_target=target,
        template="a digit {label}", steps=T, guidance=GUIDANCE,
        scheduler="DPMSolverMultistepScheduler",
    )  # fmt: skip
    store = ImageStore(tmp_path)
    galot = Galot(config, Tiny(config, CPU), store, NoJournal(), NAMES, digits.image_shape)
    ours = galot.optimize_text(learner.logits, ROUND)
    theirs = climbed(pipe, learner, digits, direction, norm, target)
    length = {"l2": theirs.flatten(1).norm(dim=1), "linf": theirs.flatten(1).abs().amax(1)}[norm]
    epsilon = EPSILON * (ROUND + 1) / ROUNDS
    assert length.max().item() == pytest.approx(epsilon, rel=1e-4)  # the ball was reached
    torch.testing.assert_close(ours.c - ours.c0, theirs, rtol=0, atol=2e-4 * epsilon)
