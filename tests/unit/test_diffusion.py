"""Our denoising loop against the stock pipeline, image by image; and what it refuses."""

import json
import shutil

import pytest
import torch

from deepal_galot.errors import UserError
from generators.diffusion import DiffusionGenerator
from generators.tiny import Tiny
from generators.weights import find_weights, hash_weights
from helpers import small_config

CPU = torch.device("cpu")
PROMPTS = ["a handwritten digit three", "a bold printed digit eight", ""]
SCHEDULERS = [
    "PNDMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
]  # fmt: skip


def stock_images(scheduler, steps, guidance, seeds):
    import diffusers

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        Tiny.source, safety_checker=None, requires_safety_checker=False, dtype=torch.float32
    )
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    rngs = [torch.Generator().manual_seed(s) for s in seeds]
    return pipe(
        PROMPTS, num_inference_steps=steps, guidance_scale=guidance, generator=rngs,
        output_type="pt",
    ).images  # fmt: skip


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(("steps", "guidance"), [(7, 2.0), (4, 1.0)])
def test_loop_equals_the_stock_pipeline(scheduler, steps, guidance):
    config = small_config(scheduler=scheduler, steps=steps, guidance=guidance)
    generator, seeds = Tiny(config, CPU), [11, 12, 13]
    ours = generator.sample(generator.encode(PROMPTS), seeds)
    stock = stock_images(scheduler, steps, guidance, seeds)
    error = (ours - stock).abs().max().item()
    print(f"{scheduler} T={steps} guidance={guidance}: largest difference {error:.1e}")
    assert error < 1e-5


def test_an_image_depends_on_its_own_text_and_seed_alone(tiny):
    c = tiny.encode(["a handwritten digit two", "a handwritten digit nine"])
    many = tiny.sample(c[[0, 1, 1, 0, 1]], [5, 6, 7, 8, 9])
    alone = tiny.sample(c[[1]], [7])
    swapped = tiny.sample(c[[1, 0]], [7, 5])
    grey = 1 / 255
    for image in (alone[0], swapped[0]):
        assert (many[2] - image).abs().max() < grey
    assert torch.equal(many, tiny.sample(c[[0, 1, 1, 0, 1]], [5, 6, 7, 8, 9]))
    assert (many[1] - many[2]).abs().max() > 0.1


def test_text_embeddings_are_the_encoders(tiny):
    c = tiny.encode(["two", "three"])
    assert c.dtype == torch.float32 and c.shape[0] == 2 and c.dim() == 3
    assert torch.equal(c[0, 0], c[1, 0])  # BOS sees nothing after it
    assert not torch.equal(c[0], c[1])


def test_a_prompt_that_would_be_cut_is_refused(tiny):
    long = "a very long and winding description of something that in the end shows the digit two"
    with pytest.raises(UserError, match=r"tokens, this generator reads 24"):
        tiny.encode(["two", long + " which nobody would ever read to its very end"])


def test_identity_follows_what_an_image_depends_on(tiny):
    other = Tiny(small_config(steps=3), CPU)
    assert other.identity != tiny.identity
    assert {k for k in tiny.identity if other.identity[k] != tiny.identity[k]} == {"steps"}
    json.dumps(tiny.identity)


def test_resolution(tiny):
    big = Tiny(small_config(resolution=64), CPU)
    assert big.sample(big.encode(["two"]), [0]).shape == (1, 3, 64, 64)
    with pytest.raises(UserError, match="multiple of 4"):
        Tiny(small_config(resolution=33), CPU)


def test_unknown_scheduler():
    with pytest.raises(UserError, match="did you mean .*DDIMScheduler"):
        Tiny(small_config(scheduler="DDIMSheduler"), CPU)


def test_a_folder_by_path_and_its_hash(tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(Tiny.source, copy)
    by_path = DiffusionGenerator.at(copy)(small_config(), CPU)
    assert by_path.identity["weights"] == hash_weights(find_weights(Tiny.source))
    file = copy / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text() + " ")
    other = tmp_path / "changed"
    shutil.copytree(copy, other)
    assert hash_weights(other) != by_path.identity["weights"]


@pytest.mark.parametrize(
    ("source", "says"),
    [("nowhere/at/all", "no such folder"), ("./gone", "no such folder"),
     ("someone/some-model", "could not be downloaded")],
)  # fmt: skip
def test_weights_that_cannot_be_had(source, says):
    with pytest.raises(UserError, match=says) as caught:
        find_weights(source)
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_pipeline(tmp_path):
    with pytest.raises(UserError, match=r"no model_index\.json"):
        find_weights(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(Tiny.source, broken)
    shutil.rmtree(broken / "vae")
    with pytest.raises(UserError, match="cannot be loaded"):
        DiffusionGenerator.at(broken)(small_config(), CPU)


def test_classes_the_generator_does_not_know():
    with pytest.raises(UserError, match="serves Digits and MNIST.*--generator"):
        Tiny.check_classes(("airplane", "car"), "CIFAR10")
    Tiny.check_classes(("two", "one"), "anything")
