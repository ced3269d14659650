"""`python -m deepal_galot.speed train | query | generate` measures what it says."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from deepal_galot import cli, registry, timing
from deepal_galot.classifiers.resnet18 import ResNet18
from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.clustering import k_center
from deepal_galot.costs import network_of
from deepal_galot.errors import UserError
from deepal_galot.learner import Learner
from deepal_galot.pool import Pool
from deepal_galot.protocols import resolve
from deepal_galot.speed import query, train
from deepal_galot.speed.__main__ import main as speed
from deepal_galot.speed.generate import (
    MINIATURE,
    SD_21_BASE,
    count_flops,
    make_generator,
    plain_pipeline,
)
from deepal_galot.speed.train import fit_plainly
from helpers import small_config

SIZES = ["--pool", "300", "--dim", "16", "--picks", "20", "--device", "cpu"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(query, "SMALL_POOL", 200)
    monkeypatch.setattr(query, "SMALL_PICKS", 10)
    monkeypatch.setattr(timing, "MOST", 1)


def test_a_line_a_strategy_and_class_count(capsys):
    assert speed(["query", *SIZES, "--classes", "3", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in registry.strategies.names():
        expected = 0 if name in ("GAAL", "GALOT", "GALOTBasic", "GALOTMatched") else 2
        assert sum(f"classes  {name} " in line for line in lines) == expected, name
    assert sum(line.endswith("×") for line in lines) == len(query.PLAIN)


def test_errors_are_one_line(capsys):
    assert speed(["query", *SIZES, "--strategies", "CoreSett"]) == 2
    assert "did you mean CoreSet" in capsys.readouterr().err
    assert speed(["query", *SIZES, "--strategies", "GAAL", "BADGE"]) == 2
    assert "--strategies GAAL: makes images" in capsys.readouterr().err


@pytest.mark.parametrize("name", query.PLAIN)
def test_the_plain_ways_do_the_same_work(name):
    """As many distinct picks; of k-center, which draws nothing, the same ones."""
    problem = query.make_problem(200, 16, 3, 10, torch.device("cpu"))
    picks = query.PLAIN[name](problem)
    assert len(np.unique(picks)) == 10
    if name == "KCenterGreedy":
        _, labeled = problem.pool.get_labeled_data()
        _, unlabeled = problem.pool.get_unlabeled_data()
        points, centers = (problem.net.outputs(d).embeddings for d in (unlabeled, labeled))
        assert k_center(points, centers, 10).tolist() == list(picks)


def test_short_runs_are_warmed_up_and_repeated(monkeypatch):
    monkeypatch.setattr(timing, "MOST", 5)
    seconds = iter([0.9, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert timing.measured(lambda: next(seconds)) == [0.1, 0.2, 0.3, 0.4, 0.5]
    long = iter([15.0, 15.0, 15.0])
    assert timing.measured(lambda: next(long)) == [15.0, 15.0]
    assert timing.with_spread([1.0, 3.0, 2.0]) == "2 (1–3, n=3)"
    assert timing.with_spread([0.01234, 999.4, 23912.3]) == "999 (0.0123–23,912, n=3)"


def test_the_rate_of_a_device_is_measured_once(monkeypatch):
    timing.matrix_rate.cache_clear()
    works = []
    monkeypatch.setattr(timing, "seconds_of", lambda work, device: works.append(work) or [2.0, 4.0])
    cpu = torch.device("cpu")
    flops = 2 * 9 * 16 * 256 * 16 * 16 * 256  # of the convolution, in 3 s
    assert timing.matrix_rate(cpu) == timing.matrix_rate(cpu) == flops / 3 and len(works) == 2
    timing.matrix_rate.cache_clear()


# -- generate ----------------------------------------------------------------------------------


def test_the_architecture_is_the_published_one():
    """Parameters as on the hub; operations as DESIGN.md section 5 has them from another count."""
    parts = SD_21_BASE.components(torch.device("meta"))
    count = [sum(p.numel() for p in m.parameters()) for m in (parts.unet, parts.vae)]
    assert count == [865_910_724, 83_653_863]
    flops = count_flops(SD_21_BASE)
    assert flops.noise / 1e12 == pytest.approx(0.804, rel=0.01)
    assert flops.decode / 1e12 == pytest.approx(2.51, rel=0.01)
    assert flops.image(50, 2) / 1e12 == pytest.approx(82.9, rel=0.01)
    # Backwards through activations alone is as much as forwards, but for the text's own way.
    assert flops.chain(2) == pytest.approx(3 * flops.noise + 2 * flops.decode, rel=0.1)


def test_the_plain_call_does_the_same_work():
    cpu = torch.device("cpu")
    pipe = plain_pipeline(MINIATURE, cpu)
    generator = make_generator(MINIATURE, batch=2, device=cpu)
    generator.steps = 3
    c = MINIATURE.embeddings(2, seed=1)
    plain = pipe(
        prompt_embeds=c, negative_prompt_embeds=generator.encode([""]).expand(2, -1, -1),
        num_inference_steps=3, guidance_scale=7.5, output_type="pt",
        generator=[torch.Generator().manual_seed(s) for s in (5, 6)],
    ).images  # fmt: skip
    assert plain.std() > 0.01
    # Guidance 7.5 multiplies what other orders of summation round otherwise: 8e-5 with AVX-512.
    assert (generator.sample(c, [5, 6]) - plain).abs().max() < 1e-3


NUMBER = r"(\d[\d.,]*)"


def number(text):
    return float(text.replace(",", ""))


RATE = re.compile(rf"(plain|ours) +T=(\d+) +batch (\d+) +float32 +{NUMBER} \(.*n=1\) images/s +"
                  rf"{NUMBER} TFLOP/s +{NUMBER}% of {NUMBER}$")  # fmt: skip


def test_lines_of_generate(capsys):
    sizes = ["--small", "--steps", "3", "2", "--batch", "2", "--device", "cpu", "--checkpointing"]
    assert speed(["generate", *sizes]) == 0
    lines = capsys.readouterr().out.splitlines()
    rates = [m.groups() for m in map(RATE.match, lines) if m]
    assert [r[:3] for r in rates] == [
        ("plain", "3", "1"), ("plain", "3", "10"), ("plain", "2", "1"), ("plain", "2", "10"),
        ("ours", "3", "2"), ("ours", "2", "2"),
    ]  # fmt: skip
    flops = count_flops(MINIATURE)
    for _, steps, _, images, tflop, share, limit in rates:
        assert number(tflop) == pytest.approx(
            number(images) * flops.image(int(steps), 2) / 1e12, 0.02
        )
        assert number(share) / 100 == pytest.approx(number(tflop) / number(limit), 0.02, abs=6e-4)
    by = {r[:3]: number(r[3]) for r in rates}
    said = {
        t: float(x)
        for x, t in re.findall(r"ours is ([\d.]+)× plain .* at T=(\d)", "\n".join(lines))
    }
    for t in "32":
        assert said[t] == pytest.approx(by["ours", t, "2"] / by["plain", t, "10"], abs=0.02)
    gradient = "gradient  2 images, 2 at once, float32, checkpointed  "
    assert sum(line.startswith(gradient) for line in lines) == 1
    arrived = [line for line in lines if line.startswith("arrives")]
    assert arrived == lines[2:8]  # before what takes a GPU
    for line in arrived:
        ours, naive = (float(x) for x in re.findall(r"cosine ([\d.]+)", line))
        assert ours >= naive


# -- train -------------------------------------------------------------------------------------

TRAIN = re.compile(
    rf" *([\d,]+) images +batch (\d+) +ours {NUMBER} \(.*n=1\) +{NUMBER} TFLOP/s +([\d.]+)% of "
    rf"{NUMBER} +plain {NUMBER} \(.*n=1\) +ours is ([\d.]+)× plain$"
)


def test_lines_of_train(capsys):
    sizes = ["--batch", "8", "16", "--images", "24", "40", "--device", "cpu"]
    assert speed(["train", "--classifier", "small_cnn", "--protocol", "demo", *sizes]) == 0
    first, _, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("versions")
    found = [TRAIN.fullmatch(line).groups() for line in lines]
    assert [f[:2] for f in found] == [("24", "8"), ("24", "16"), ("40", "8"), ("40", "16")]
    flops = network_of(SmallCNN, (32, 32, 3), 10).train
    for _, _, ours, tflop, share, limit, plain, ratio in found:
        assert number(tflop) == pytest.approx(number(ours) * flops / 1e12, rel=0.02)
        share_of = number(tflop) / number(limit)
        assert number(share) / 100 == pytest.approx(share_of, rel=0.02, abs=0.001)
        assert number(ratio) == pytest.approx(number(ours) / number(plain), rel=0.02, abs=0.006)


@pytest.mark.slow
@pytest.mark.parametrize("flags, least", [
    (["--classifier", "small_cnn", "--dataset", "Digits", "--protocol", "demo", "--images", "1000",
      "--epochs", "3"], 1.5),
    (["--batch", "32"], 1.1),
])  # fmt: skip
def test_a_fit_is_faster_than_the_plain_loop_on_a_cpu(capsys, flags, least):
    assert speed(["train", "--device", "cpu", *flags]) == 0
    said = capsys.readouterr().out
    print(said)
    assert float(re.search(r"ours is ([\d.]+)× plain", said)[1]) >= least


def test_lines_of_fits_at_once(capsys):
    sizes = ["--batch", "8", "--images", "24", "--epochs", "2", "--device", "cpu", "--jobs", "2"]
    assert speed(["train", "--classifier", "small_cnn", "--protocol", "demo", *sizes]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    at_once = rf" *24 images +batch 8 +2 fits at once: {NUMBER} \(n=1\) in all +{NUMBER} TFLOP/s .*"
    rate, tflop = map(number, re.fullmatch(at_once, line).groups())
    flops = network_of(SmallCNN, (32, 32, 3), 10).train
    assert tflop == pytest.approx(rate * flops / 1e12, rel=0.02)


@pytest.mark.slow
def test_a_fit_at_once_that_fails_is_said():
    """The first to fail; the other would wait for it to get ready."""
    fields = {"protocol": "paper", "optimizer": "sgd", "lr": 1e9, "min_steps": 50, "epochs": 1}
    config = resolve("RandomSampling", "random", flags=fields)
    data = train._images(None, Path(), 64)
    fits = train._Fits(config, SmallCNN, data, torch.device("cpu"), False)
    with pytest.raises(UserError, match="64 images diverged"):
        train._at_once(fits, 2)


def test_precision_of_train_is_said_and_used(capsys):
    sizes = ["--classifier", "small_cnn", "--batch", "8", "--images", "16", "--device", "cpu"]
    assert speed(["train", *sizes, "--precision", "bfloat16"]) == 0
    assert "ours: bfloat16; plain: float32" in capsys.readouterr().out
    assert speed(["train", *sizes, "--precision", "bf16"]) == 2
    assert "--precision 'bf16'" in capsys.readouterr().err


def test_fits_are_compiled_on_a_gpu_alone(capsys):
    assert speed(["train", "--device", "cpu", "--compile"]) == 2
    said = "error: --compile: fits are compiled on a GPU alone; leave it out\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("flags", [
    ["--jobs", "0"], ["--batch", "x"], ["--images", "99999999999"], ["--workers", "-1"],
    ["--epochs", "1.5"], ["--what"],
])  # fmt: skip
def test_bad_flags_of_train_are_one_line(flags, capsys):
    assert speed(["train", *flags]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out
    assert flags[-1] in said.err and "_" not in said.err


@pytest.mark.parametrize("error, code, says", [
    (MemoryError("Unable to allocate 3 TiB"), 2,
     "error: out of memory (Unable to allocate 3 TiB): ask for less\n"),
    (RuntimeError("can't allocate memory"), 2,
     "error: out of memory (can't allocate memory): ask for less\n"),
    (KeyboardInterrupt(), 130, "\ninterrupted\n"),
])  # fmt: skip
def test_lost_memory_and_an_interrupt_are_one_line(capsys, monkeypatch, error, code, says):
    def fails(*args):
        raise error

    monkeypatch.setattr(train, "_images", fails)
    assert speed(["train", "--device", "cpu"]) == code
    assert capsys.readouterr().err == says


def test_a_compiler_that_is_missing_is_one_line(capsys, monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    draw = torch.compile(lambda x: x.sin() + 1, dynamic=False)
    monkeypatch.setattr(train, "_images", lambda *args: draw(torch.rand(3)))
    monkeypatch.setattr(cli, "_run", lambda args: draw(torch.rand(3)))
    for command in (speed, lambda flags: cli.main([])):
        assert command(["train", "--device", "cpu"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: --compile: ") and said.count("\n") == 1
        assert "no-such-compiler" in said and "without --compile the same command goes on" in said


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(train, "_images", lambda *args: 1 + "")
    with pytest.raises(TypeError):
        speed(["train", "--device", "cpu"])


def test_data_of_train_are_looked_for_where_it_is_said(capsys, tmp_path):
    flags = ["train", "--device", "cpu", "--dataset", "MNIST", "--data-dir", str(tmp_path)]
    (tmp_path / "MNIST.npz").write_bytes(b"nothing")
    assert speed(flags) == 2
    assert str(tmp_path / "MNIST.npz") in capsys.readouterr().err


def test_more_steps_than_the_model_has_are_one_line(capsys):
    assert speed(["generate", "--small", "--device", "cpu", "--steps", "50", "5000"]) == 2
    said = capsys.readouterr()
    assert said.err == "error: --steps 5000: the model has at most 1,000\n" and not said.out


def test_a_batch_that_no_memory_holds_is_one_line(capsys):
    """Before, the process was killed."""
    assert speed(["generate", "--small", "--device", "cpu", "--batch", "100000"]) == 2
    said = capsys.readouterr()
    assert said.err == "error: --batch 100000: at most 1,024\n" and not said.out


def test_operations_of_a_training_step():
    """ResNet18 at 32 px: 0.5564 G multiply-adds forwards, as published for this stem."""
    assert network_of(ResNet18, (32, 32, 3), 10).train == pytest.approx(3 * 2 * 0.5564e9, rel=0.01)


def test_the_plain_loop_trains_as_well(digits):
    """200 labels, demo: both are right on three test images of four."""
    config = small_config(epochs=10, min_steps=0, batch_size=32)
    pool = Pool(digits)
    pool.initialize_labels(200, 0)
    data, cpu = pool.training_set(), torch.device("cpu")
    learner = Learner(config, SmallCNN, digits.image_shape, 10, cpu)
    learner.fit(data, 0)
    torch.manual_seed(0)
    ours, learner.clf = learner.clf, fit_plainly(config, SmallCNN, data, cpu, 0).eval()
    plain = pool.cal_test_acc(learner.predict(pool.get_test_data()))
    learner.clf, learner._seen = ours, None
    assert min(plain, pool.cal_test_acc(learner.predict(pool.get_test_data()))) > 0.75


def test_work_in_turns(monkeypatch):
    monkeypatch.setattr(timing, "MOST", 3)
    done = []
    works = {"a": lambda: done.append("a"), "b": lambda: done.append("b")}
    seconds = timing.alternately(works, torch.device("cpu"), {"b": lambda: done.append("c")})
    assert "".join(done) == "acababab"  # the first of each is not counted
    assert {k: len(v) for k, v in seconds.items()} == {"a": 3, "b": 3}
