"""What only a CUDA device can show; run with `pytest -m gpu`."""

import copy
import re

import numpy as np
import pytest
import torch

from deepal_galot import auxiliary_norm, cuda_graph
from deepal_galot.classifiers.resnet18 import ResNet18
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.cli import main
from deepal_galot.compiled_layers import in_compiled_forms
from deepal_galot.experiments import TABLE1
from deepal_galot.learner import Learner
from deepal_galot.pool import Pool
from deepal_galot.speed.__main__ import main as speed
from deepal_galot.speed.query import make_problem, pool_strategies
from deepal_galot.timing import measured, with_spread
from generators import attention_kernel
from generators.networks import attend
from generators.text_optimization import score_gradient
from generators.tiny import Tiny
from helpers import QUICK, rows_of, run_benchmark, small_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True)
def as_in_a_run():
    """Convolutions in float32's own digits; and nothing of one test in the next."""
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.use_deterministic_algorithms(False)


def fitted(spec, device, architecture=SmallCNN, n=200, compiled_from=None, **recipe):
    config = small_config(epochs=20, min_steps=100, **recipe)
    learner = Learner(config, architecture, spec.image_shape, spec.n_classes, torch.device(device))
    learner.compiled_from = compiled_from
    pool = Pool(spec)
    pool.initialize_labels(n, 0)
    learner.fit(pool.training_set(), 0)
    return pool.cal_test_acc(learner.predict(pool.get_test_data()))


@pytest.mark.parametrize("architecture", [SmallCNN, ResNet18])
def test_bfloat16_learns_as_well_as_float32(digits, architecture):
    assert fitted(digits, "cuda", architecture) == pytest.approx(
        fitted(digits, "cpu", architecture), abs=0.03
    )


def test_a_graph_in_bfloat16_is_as_accurate_as_float32_without(digits):
    """ResNet18 on 200 digits, ten paired seeds, each way on the GPU."""
    ways = {"auto": ResNet18, "float32": type("Eager", (ResNet18,), {"capturable": False})}
    gaps = []
    for seed in range(10):
        a, b = (
            fitted(digits, "cuda", net, precision=precision, seed=seed)
            for precision, net in ways.items()
        )
        gaps.append(100 * (a - b))
    mean, sem = np.mean(gaps), np.std(gaps, ddof=1) / len(gaps) ** 0.5
    print(f"bfloat16 and graph − float32: {mean:+.2f} ± {sem:.2f} points (SEM, n=10)")
    assert sem < 0.6 and abs(mean) < 0.5 + 2.5 * sem


RECIPES = {
    "sgd": {"optimizer": "sgd", "schedule": "cosine", "lr": 0.05},
    "adam": {"optimizer": "adam", "schedule": "constant"},
    "all": {"optimizer": "adamw", "schedule": "onecycle", "label_smoothing": 0.1, "ema": 0.9,
            "rand_augment": 2, "head_dropout": 0.5, "flip": 1, "shift": 1},
}  # fmt: skip


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)


@pytest.fixture
def replays(monkeypatch):
    """The graph of each step that is replayed."""
    replayed, replay = [], torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda g: replayed.append(g) or replay(g))
    return replayed


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("precision", ["auto", "float32"])
@pytest.mark.parametrize("architecture", [SmallCNN, ResNet18])
def test_a_graph_changes_no_bit(
    digits, deterministic, replays, monkeypatch, recipe, precision, architecture
):
    """Beside the same steps as they are written: 205 images, so batches of 51 and 52; real ones and
    generated ones of other weight."""
    states, eager = [], cuda_graph.EAGER
    for calls in (eager, 1000):
        monkeypatch.setattr(cuda_graph, "EAGER", calls)
        config = small_config(batch_size=64, epochs=10, synthetic_weight=0.5, precision=precision,
                              reads=("head_dropout", "mc_noise"), **RECIPES[recipe])  # fmt: skip
        learner = Learner(config, architecture, digits.image_shape, 10, torch.device("cuda"))
        pool = Pool(digits)
        pool.initialize_labels(105, 0)
        pool.set_synthetic(digits.x_train[-100:], digits.y_train[-100:], accumulate=False)
        assert learner.fit(pool.training_set(), 0) == 40
        states.append(learner.state())
    assert len(replays) == 40 - 2 * eager and len(set(replays)) == 2
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


class Dropped(SmallCNN):
    """Draws on the device in each step."""

    capturable = True

    def __init__(self, image_shape, n_classes):
        super().__init__(image_shape, n_classes)
        self.neck = torch.nn.Sequential(self.neck, torch.nn.Dropout())


def test_a_graph_draws_what_a_network_draws_without(digits, deterministic, replays, monkeypatch):
    """Whatever was drawn before the fit."""
    states, eager = [], cuda_graph.EAGER
    for calls in (eager, eager, 1000):
        monkeypatch.setattr(cuda_graph, "EAGER", calls)
        torch.rand(7, device="cuda")
        config = small_config(batch_size=64, epochs=10)
        learner = Learner(config, Dropped, digits.image_shape, 10, torch.device("cuda"))
        pool = Pool(digits)
        pool.initialize_labels(205, 0)
        assert learner.fit(pool.training_set(), 0) == 40
        states.append(learner.state())
    assert len(replays) == 2 * (40 - 2 * eager)
    first, *others = states
    assert all(torch.equal(first[k], other[k]) for other in others for k in first)


@pytest.mark.parametrize("architecture", [SmallCNN, ResNet18])
def test_a_compiled_fit_learns_as_well(digits, monkeypatch, architecture):
    expected = fitted(digits, "cuda", architecture)
    compiled = []
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **k: compiled.append(1) or compile(*a, **k))
    assert fitted(digits, "cuda", architecture, compiled_from=0) == pytest.approx(
        expected, abs=0.03
    )
    assert compiled


@pytest.mark.parametrize("batch", [8, 100])
def test_a_compiled_step_has_the_gradients_of_a_plain_one(batch):
    """ResNet18 in float64, two steps without an optimiser's."""
    torch.manual_seed(0)
    plain = ResNet18((32, 32, 3), 10).double().train()
    plain.to("cuda", memory_format=torch.channels_last)
    twin = copy.deepcopy(plain)
    compiled = torch.compile(twin, dynamic=False)
    with in_compiled_forms(twin):
        for _ in range(2):
            x = torch.randn(batch, 3, 32, 32, device="cuda", dtype=torch.float64)
            x = x.contiguous(memory_format=torch.channels_last)
            for network in (plain, compiled):
                network(x)[0].square().mean().backward()
    expected = torch.cat([p.grad.flatten() for p in plain.parameters()])
    error = torch.cat([p.grad.flatten() for p in twin.parameters()]) - expected
    assert error.norm() < 1e-9 * expected.norm()


WAITS = """
from deepal_galot.classifiers.small_cnn import SmallCNN

class Waits(SmallCNN):
    \"""asks the CPU in each step\"""

    name = "waits"
    capturable = True

    def forward(self, x):
        return super().forward(x * float(x.abs().amax() > 0))
"""


def test_a_network_that_waits_for_the_device_is_told_how(tmp_path):
    """In a process of its own: torch's random numbers on the device are lost to one in which
    a graph could not be recorded."""
    (tmp_path / "waits.py").write_text(WAITS)
    done = run_benchmark(
        *QUICK, "--strategy", "RandomSampling", "--plugin", tmp_path / "waits.py", "--classifier",
        "waits", "--epochs", "5", "--device", "cuda", "--output", tmp_path / "out", check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "Waits with Objective" in done.stderr
    assert "leave `capturable` False in its" in done.stderr


def test_the_whole_recipe_learns_as_well_as_on_the_cpu(digits):
    recipe = {"optimizer": "adamw", "schedule": "onecycle", "label_smoothing": 0.1, "ema": 0.9,
              "rand_augment": 1, "rand_magnitude": 5.0}  # fmt: skip
    assert fitted(digits, "cuda", **recipe) == pytest.approx(
        fitted(digits, "cpu", **recipe), abs=0.05
    )


def test_runs_at_once_are_those_of_one_after_the_other(tmp_path):
    args = [*QUICK, "--strategy", "MarginSampling", "GALOT", "--seeds", "0", "1", "--device",
            "cuda", "--deterministic"]  # fmt: skip
    for jobs in (1, 2):
        done = run_benchmark(*args, "--jobs", jobs, "--output", tmp_path / str(jobs))
        assert "take turns" not in done.stderr
    assert rows_of(tmp_path / "1") == rows_of(tmp_path / "2")


def test_without_determinism_runs_at_once_are_alike_within_seed_noise(tmp_path):
    """The average accuracy of five seeds, paired."""
    args = ["--strategy", "MarginSampling", "--seeds", "0", "1", "2", "3", "4", "--device", "cuda"]
    averages = []
    for jobs in (1, 5):
        run_benchmark(*args, "--jobs", jobs, "--output", tmp_path / str(jobs))
        rows = rows_of(tmp_path / str(jobs))
        averages.append([np.mean([r["accuracy"] for r in rows[name]]) for name in sorted(rows)])
    gap = 100 * np.subtract(*averages)
    mean, sem = gap.mean(), gap.std(ddof=1) / len(gap) ** 0.5
    print(f"one after the other − five at once: {mean:+.2f} ± {sem:.2f} points (SEM, n=5)")
    assert abs(mean) < 0.5 + 3 * sem and sem < 1


def test_a_fit_is_faster_than_the_plain_loop(capsys):
    """ResNet18 at batch 32, 128 and 512 on 1,000 images."""
    assert speed(["train", "--device", "cuda", "--compile", "--images", "1000"]) == 0
    said = capsys.readouterr().out
    with capsys.disabled():
        print(f"\n{said}")
    ratios = [float(r) for r in re.findall(r"ours is ([\d.]+)× plain", said)]
    assert len(ratios) == 3 and min(ratios) >= 2


def test_images_are_the_cpus_within_one_grey_level():
    config = small_config()
    cpu, gpu = (Tiny(config, torch.device(d)) for d in ("cpu", "cuda"))
    c = cpu.encode([f"a handwritten digit {n}" for n in sorted(cpu.knows)])
    a, b = cpu.sample(c, range(10)), gpu.sample(c, range(10)).cpu()
    near = ((a - b).abs() <= 1 / 255).float().mean()
    print(f"{near:.5f} of pixels within a grey level")
    assert near >= 0.999


def test_ascent_gradient_is_the_cpus():
    config = small_config()
    gradients = []
    for device in ("cpu", "cuda"):
        generator = Tiny(config, torch.device(device))
        c = generator.encode(["a handwritten digit three", "a handwritten digit eight"])
        gradients.append(
            score_gradient(
                generator, c, lambda x, _: x[..., :16].mean((1, 2, 3)), [[1, 2], [3, 4]]
            )[0]
        )
    cosine = torch.cosine_similarity(*(g.flatten(1) for g in gradients))
    assert (cosine > 0.999).all()


OF_IMAGES = [
    "GALOT", "GALOT:align=pool", "GALOT:text_per=image", "GALOTMatched",
    "GALOT:keep=discriminator,oversample=2,synthetic_norm=separate",
    "GALOT:align=channels,keep=bald,oversample=2,epsilon=0",
]  # fmt: skip


@pytest.mark.parametrize(
    "strategy", [*OF_IMAGES, *(n for n in TABLE1 if not n.startswith("GALOT"))]
)
@pytest.mark.usefixtures("no_report")
def test_deterministic_runs_are_identical(tmp_path, strategy):
    args = [*QUICK, "--strategy", strategy, "--device", "cuda", "--deterministic", "--output"]
    for name in ("a", "b"):
        assert main([*args, str(tmp_path / name)]) == 0
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


def test_one_generated_image_of_one_value_a_channel_in_bfloat16():
    """Its BatchNorm has no variance to go by; weights are float32, the image is not."""
    clf = torch.nn.Sequential(torch.nn.BatchNorm2d(4)).cuda()
    rows = auxiliary_norm.set_apart(clf)
    rows.set(torch.tensor([False, True, False], device="cuda"))
    before = clf[0].auxiliary.running_var.clone()
    x = torch.randn(3, 4, 1, 1, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        out = clf(x)
    out.float().square().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    assert out[1].abs().max() < 1e-2  # the offset, 0
    assert torch.equal(clf[0].auxiliary.running_var, before)


def test_a_query_takes_at_most_two_seconds():
    """50,000 × 512 embeddings, 200 classes, 1,000 picks."""
    problem = make_problem(50_000, 512, 200, 1000, torch.device("cuda"))
    for name in pool_strategies():
        seconds = measured(lambda name=name: problem.query(name))
        print(f"{name}: {with_spread(seconds)} s")
        assert min(seconds) <= 2


def test_images_a_second_of_full_size_stable_diffusion(capsys):
    """On an H200; other devices have other numbers."""
    if "H200" not in torch.cuda.get_device_name():
        pytest.skip("the goals are an H200's")
    assert speed(["generate", "--device", "cuda", "--compile"]) == 0
    said = capsys.readouterr().out
    with capsys.disabled():
        print(f"\n{said}")
    ours = {int(t): float(x) for t, x in re.findall(r"ours +T=(\d+) .*?float16 +([\d.]+)", said)}
    assert ours[50] >= 5 and ours[20] >= 11
    ratios = re.findall(r"ours is ([\d.]+)× plain with batch 10 at T=(\d+)", said)
    assert len(ratios) == 2 and all(float(ratio) >= 1.4 for ratio, _ in ratios)


@pytest.mark.parametrize("dtype, off", [(torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
@pytest.mark.parametrize(
    "queries, heads, width, tokens", [(4096, 5, 64, 77), (200, 3, 40, 24), (7, 2, 16, 128)]
)
def test_the_attention_kernel_reads_both_parts(dtype, off, queries, heads, width, tokens):
    """Against float64; and the second part matters."""
    torch.manual_seed(0)
    q = torch.randn(3, queries, heads * width, device="cuda").to(dtype)
    text = torch.randn(3, 2, tokens, 4 * heads * width, device="cuda")
    text[:, 1] /= 8
    k, v = text.to(dtype)[..., : 2 * heads * width].chunk(2, -1)
    with torch.no_grad():
        answer = torch.compile(attend, fullgraph=True)(q, k, v, heads, True).double()
        expected = attend(*(x.double() for x in (q, k, v)), heads)
        of_one = attend(*(x.double() for x in (q, k[:, :1], v[:, :1])), heads)
    assert torch.equal(answer, attention_kernel.attend(q, k, v, heads).double())
    assert (answer - expected).norm() < off * expected.norm() < 0.1 * (of_one - expected).norm()


def test_sixteen_bits_draw_the_same_picture():
    cuda = torch.device("cuda")
    exact, half = (Tiny(small_config(dtype=d), cuda) for d in ("float32", "auto"))
    assert half.networks.dtype in (torch.bfloat16, torch.float16)
    c = exact.encode([f"a handwritten digit {n}" for n in sorted(exact.knows)])
    assert (exact.sample(c, range(10)) - half.sample(c, range(10))).abs().mean() < 1 / 255


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_compiled_images_are_the_plain_ones(dtype):
    config = small_config(dtype=dtype)
    plain, compiled = (Tiny(config, torch.device("cuda")) for _ in range(2))
    compiled.compile()
    c = plain.encode([f"a handwritten digit {n}" for n in sorted(plain.knows)])
    assert (plain.sample(c, range(10)) - compiled.sample(c, range(10))).abs().mean() < 1 / 255
