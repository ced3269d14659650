"""Our denoising loop against the stock pipeline, image by image; and what it refuses."""

import contextlib
import gc
import json
import shutil
import weakref

import pytest
import torch

from deepal_galot.cli import main
from deepal_galot.config import COMPILED_FROM
from deepal_galot.errors import UserError
from deepal_galot.training import Training
from generators.diffusion import DiffusionGenerator, pick_dtype
from generators.networks import KeysAndValues, Networks
from generators.text_optimization import score_gradient
from generators.tiny import Tiny
from generators.weights import find_weights, hash_weights
from helpers import QUICK, changed_pipeline, small_config

CPU = torch.device("cpu")
PROMPTS = ["a handwritten digit three", "a bold printed digit eight", ""]
SCHEDULERS = [
    "PNDMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
]  # fmt: skip


def stock_images(scheduler, steps, guidance, seeds, folder=Tiny.source):
    import diffusers

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, requires_safety_checker=False, dtype=torch.float32
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


@pytest.mark.parametrize(("steps", "guidance"), [(2, 8.0), (4, 1.0)])
def test_a_model_that_is_told_the_guidance_scale(tmp_path, steps, guidance):
    """As latent consistency models are: no unconditional branch, whatever the scale."""
    folder = changed_pipeline(
        tmp_path / "lcm", {"time_cond_proj_dim": 32}, _class_name="LCMScheduler"
    )
    config = small_config(scheduler="LCMScheduler", steps=steps, guidance=guidance)
    generator, seeds = DiffusionGenerator.at(folder)(config, CPU), [1, 2, 3]
    ours = generator.sample(generator.encode(PROMPTS), seeds)
    stock = stock_images("LCMScheduler", steps, guidance, seeds, folder)
    assert (ours - stock).abs().max() < 1e-5


@pytest.mark.parametrize("steps", [1, 2])
def test_a_model_of_one_or_two_steps_without_guidance(tmp_path, steps):
    """As SD-Turbo is."""
    folder = changed_pipeline(
        tmp_path / "turbo", _class_name="EulerDiscreteScheduler", timestep_spacing="trailing"
    )
    config = small_config(scheduler="EulerDiscreteScheduler", steps=steps, guidance=0.0)
    generator, seeds = DiffusionGenerator.at(folder)(config, CPU), [1, 2, 3]
    ours = generator.sample(generator.encode(PROMPTS), seeds)
    stock = stock_images("EulerDiscreteScheduler", steps, 0.0, seeds, folder)
    assert (ours - stock).abs().max() < 1e-5


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


def test_the_text_encoder_is_gone_when_the_prompts_are_encoded(monkeypatch):
    loaded = []
    load = Tiny.load

    def recorded(self, *parts):
        pipe = load(self, *parts)
        loaded.extend(weakref.ref(m) for m in (getattr(pipe, "text_encoder", None),) if m)
        return pipe

    monkeypatch.setattr(Tiny, "load", recorded)
    generator = Tiny(small_config(), CPU)
    first = generator.encode(["two"])
    gc.collect()
    assert len(loaded) == 2 and all(encoder() is None for encoder in loaded)
    assert torch.equal(first, generator.encode(["two"]))


@pytest.mark.parametrize(
    ("fields", "changed"),
    [({"steps": 3}, "steps"), ({"guidance": 3.0}, "guidance"), ({"dtype": "bfloat16"}, "dtype"),
     ({"scheduler": "DDIMScheduler"}, "scheduler"), ({"resolution": 64}, "latent"),
     ({}, "batch_size")],
)  # fmt: skip
def test_identity_follows_what_an_image_depends_on(tiny, monkeypatch, fields, changed):
    """What it left out would be taken from the store as if it were alike."""
    before = tiny.identity
    json.dumps(before)
    if changed == "batch_size":
        monkeypatch.setattr(Tiny, "batch_size", 3)
    after = Tiny(small_config(**fields), CPU).identity
    assert {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)} == {changed}


# -- 16 bits -----------------------------------------------------------------------------------


def test_dtype_of_a_device(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    for has, auto in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **kwargs: has)
        assert pick_dtype("auto", cuda) == auto
    assert pick_dtype("auto", CPU) == torch.float32
    assert pick_dtype("float32", cuda) == pick_dtype("float32", CPU) == torch.float32
    assert pick_dtype("float16", CPU) == torch.float16


@pytest.fixture(scope="module")
def tiny16():
    return Tiny(small_config(dtype="bfloat16"), CPU)


def test_sixteen_bits_draw_the_same_picture(tiny, tiny16):
    c = tiny.encode(PROMPTS)
    a, b = tiny.sample(c, [1, 2, 3]), tiny16.sample(c, [1, 2, 3])
    assert a.dtype == b.dtype == torch.float32
    assert 0 < (a - b).abs().mean() < 1 / 255


def dtypes_seen(generator, monkeypatch, graph):
    """The dtype of each call of a UNet or VAE, and how often the text was multiplied out."""
    seen, texts = [], []
    for name in ("noise", "images"):
        original = getattr(Networks, name)

        def call(self, x, *args, original=original):
            output = original(self, x, *args)
            seen.append((self.dtype, x.dtype, output.dtype))
            return output

        monkeypatch.setattr(Networks, name, call)
    original_text = KeysAndValues.forward
    monkeypatch.setattr(
        KeysAndValues, "forward", lambda self, c: texts.append(1) or original_text(self, c)
    )
    generator.sample(torch.zeros(1, 24, 64), [0], graph)
    assert {dtype for _, *around in seen for dtype in around} == {torch.float32}
    assert len(texts) == 1
    return [network for network, *_ in seen]


@pytest.mark.parametrize(
    ("graph", "exact"),  # of the last three calls: conditional, unconditional, decoder
    [("none", 0), ("last", 3), ("all", None)],
)
def test_what_has_a_graph_is_float32(tiny16, monkeypatch, graph, exact):
    seen = dtypes_seen(tiny16, monkeypatch, graph)
    exact = len(seen) if exact is None else exact
    assert seen == [torch.bfloat16] * (len(seen) - exact) + [torch.float32] * exact


def test_the_gradient_in_sixteen_bits_is_that_of_float32(tiny):
    """T = 1: the one step is the last one."""
    one, half = (Tiny(small_config(steps=1, dtype=d), CPU) for d in ("float32", "bfloat16"))
    c = tiny.encode(PROMPTS[:2])
    score = lambda x, rows: x[..., :16].mean((1, 2, 3))  # noqa: E731
    expected, of_half = (score_gradient(g, c, score, [[1, 2], [3, 4]])[0] for g in (one, half))
    assert expected.norm() > 0
    torch.testing.assert_close(of_half, expected, rtol=1e-5, atol=1e-8)


def test_the_unconditional_branch_has_no_graph(tiny, monkeypatch):
    """It does not depend on c, and its activations would be kept for nothing."""
    seen, noise = [], Networks.noise

    def call(self, *args):
        answer = noise(self, *args)
        seen.append(answer.requires_grad)
        return answer

    monkeypatch.setattr(Networks, "noise", call)
    tiny.sample(tiny.encode(PROMPTS[:1]).requires_grad_(), [0], "last")
    assert seen == [False] * (len(seen) - 1) + [True]


def test_float32_keeps_one_copy_of_the_networks(tiny):
    assert tiny._exact is tiny.networks


# -- one batch size ----------------------------------------------------------------------------


def compiled_calls(monkeypatch, **fields):
    """(plain generator, compiled one, how many rows each call of its UNet and decoder had)."""
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: function)
    monkeypatch.setattr(Tiny, "batch_size", 4)
    config = small_config(steps=3, **fields)
    plain, compiled = Tiny(config, CPU), Tiny(config, CPU)
    compiled.compile()
    sizes, decoded = [], []
    networks = compiled.networks
    networks.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    networks.vae.decoder.register_forward_pre_hook(lambda _, args: decoded.append(len(args[0])))
    return plain, compiled, sizes, decoded


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_compiled_batches_are_padded_to_one_size(monkeypatch, guidance):
    plain, compiled, sizes, decoded = compiled_calls(monkeypatch, guidance=guidance)
    c = plain.encode([PROMPTS[i % 2] for i in range(6)])
    images = compiled.sample(c, range(6))
    assert (images - plain.sample(c, range(6))).abs().max() < 1e-5
    assert sizes == [4 if guidance == 1 else 8] * 6  # two parts of three steps
    assert decoded == [Tiny.decoded_at_once]
    assert len(images) == 6


@pytest.mark.parametrize("rows", [4, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_batches_of_a_gradient_are_as_large_as_its_parts(monkeypatch, dtype, rows):
    """Before, each had the UNet work on as many rows as sampling has, however many were wanted,
    so that in float32 a part that did not fit did not when it was halved."""
    plain, compiled, sizes, decoded = compiled_calls(monkeypatch, guidance=2.0, dtype=dtype)
    compiled.gradients.rows = rows
    c = plain.encode([PROMPTS[0]]).requires_grad_()
    images = compiled.sample(c, [7], "last")
    torch.testing.assert_close(images, plain.sample(c, [7], "last"), rtol=0, atol=1e-5)
    exact = dtype == "float32"  # else the last step and the decoder are other networks'
    assert sizes == [2 * rows, 2 * rows, *[rows, rows] * exact]  # its branches are apart
    assert decoded == [rows] * exact
    gradients = [torch.autograd.grad(x[..., :16].mean(), c)[0] for x in
                 (images, plain.sample(c, [7], "last"))]  # fmt: skip
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-8)


def test_a_scheduler_that_makes_its_own_noise_makes_each_images(tiny, monkeypatch):
    """As DPMSolverSDEScheduler does, of another library, by one global number for all images."""
    from diffusers import DDIMScheduler

    class Own(DDIMScheduler):
        noise_sampler_seed = None

        def step(self, output, t, x):
            noise = [torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(s))
                     for s in self.noise_sampler_seed]  # fmt: skip
            return super().step(output, t, x + 0.1 * torch.stack(noise))

    generator = Tiny(small_config(steps=2), CPU)
    generator._scheduler = Own.from_config(generator._scheduler.config)
    c = generator.encode(PROMPTS)
    together = generator.sample(c, [1, 2, 3])
    alone = torch.cat([generator.sample(c[i : i + 1], [i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_checkpointing_keeps_less_for_the_same_gradient(tiny):
    """Bytes that autograd saves in the last step and the decoder."""
    gradients, kept = [], []
    for asked in (False, True):
        generator = Tiny(small_config(dtype="bfloat16", steps=2), CPU)
        if asked:
            generator.checkpoint()
        c, saved = tiny.encode(PROMPTS[:2]).requires_grad_(), []

        def save(tensor, saved=saved):
            saved.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            score = generator.sample(c, [1, 2], "last")[..., :16].mean()
        kept.append(sum(saved))
        gradients.append(torch.autograd.grad(score, c)[0])
    assert torch.equal(*gradients) and gradients[0].norm() > 0
    assert kept[1] < 0.5 * kept[0]


def test_compile_is_asked_for_and_names_the_same_run(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: asked.append(1) or function)
    monkeypatch.setattr(Tiny, "checkpoint", lambda self: asked.append("checkpointing"))
    fit = Training.run
    monkeypatch.setattr(Training, "run", lambda self, *a: asked.append(a[-1]) or fit(self, *a))
    run = [*QUICK, "--strategy", "GALOTBasic", "--device", "cpu", "--output", str(tmp_path)]
    assert main([*run, "--compile", "--checkpointing"]) == 0
    assert {1, "checkpointing", COMPILED_FROM} <= set(asked)
    capsys.readouterr()
    assert main([*run, "--dry-run"]) == 0
    assert " 2/2 " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no compiler")
def test_compiled_images_are_the_plain_ones(monkeypatch):
    monkeypatch.setattr(Tiny, "batch_size", 2)
    config = small_config(steps=2)
    plain, compiled = Tiny(config, CPU), Tiny(config, CPU)
    compiled.compile()
    c = plain.encode(PROMPTS)
    assert (compiled.sample(c, [1, 2, 3]) - plain.sample(c, [1, 2, 3])).abs().max() < 1e-4


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


def test_a_scheduler_without_its_library(monkeypatch):
    import diffusers

    def missing(config):
        raise ImportError("DPMSolverSDEScheduler requires the torchsde library\nbut it is not here")

    monkeypatch.setattr(diffusers.DPMSolverSDEScheduler, "from_config", missing)
    with pytest.raises(UserError, match="--scheduler DPMSolverSDEScheduler: .* torchsde library"):
        Tiny(small_config(scheduler="DPMSolverSDEScheduler"), CPU)


@pytest.mark.parametrize("name", ["LCMScheduler", "TCDScheduler"])
def test_the_schedulers_of_distilled_models_fit_any_model(name):
    """No model's own scheduler lists them."""
    generator = Tiny(small_config(scheduler=name, steps=4, guidance=1.0), torch.device("cpu"))
    c = generator.encode(["a handwritten digit three"])
    image = generator.sample(c, [0])
    assert image.isfinite().all() and image.std() > 0.05
