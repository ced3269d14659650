"""What only a CUDA device can show; run with `pytest -m gpu`."""

import pytest
import torch

from deepal_galot import registry
from deepal_galot.classifiers.resnet18 import ResNet18
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.cli import ALL, main
from deepal_galot.learner import Learner
from deepal_galot.pool import Pool
from deepal_galot.speed import NO_POOL_SCORES, make_problem, measured, with_spread
from generators.text_optimization import score_gradient
from generators.tiny import Tiny
from helpers import QUICK, rows_of, small_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def fitted(spec, device, architecture=SmallCNN, n=200):
    config = small_config(epochs=20, min_steps=100)
    learner = Learner(config, architecture, spec.image_shape, spec.n_classes, torch.device(device))
    pool = Pool(spec)
    pool.initialize_labels(n, 0)
    learner.fit(pool.training_set(), 0)
    return pool.cal_test_acc(learner.predict(pool.get_test_data()))


@pytest.mark.parametrize("architecture", [SmallCNN, ResNet18])
def test_bfloat16_learns_as_well_as_float32(digits, architecture):
    assert fitted(digits, "cuda", architecture) == pytest.approx(
        fitted(digits, "cpu", architecture), abs=0.03
    )


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
            score_gradient(generator, c, lambda x: x[..., :16].mean((1, 2, 3)), [[1, 2], [3, 4]])[0]
        )
    cosine = torch.cosine_similarity(*(g.flatten(1) for g in gradients))
    assert (cosine > 0.999).all()


@pytest.mark.parametrize("strategy", ["GALOT", *(n for n in ALL if not n.startswith("GALOT"))])
def test_deterministic_runs_are_identical(tmp_path, strategy):
    args = [*QUICK, "--strategy", strategy, "--device", "cuda", "--deterministic", "--output"]
    for name in ("a", "b"):
        assert main([*args, str(tmp_path / name)]) == 0
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


def test_a_query_takes_at_most_two_seconds():
    """50,000 × 512 embeddings, 200 classes, 1,000 picks."""
    problem = make_problem(50_000, 512, 200, 1000, torch.device("cuda"))
    for name in registry.strategies.names():
        if not registry.strategies.get(name).generates and name not in NO_POOL_SCORES:
            seconds = measured(lambda name=name: problem.query(name))
            print(f"{name}: {with_spread(seconds)} s")
            assert min(seconds) <= 2
