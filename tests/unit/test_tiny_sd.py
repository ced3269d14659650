"""The embedded generator: small, font-trained, and it reads its prompt."""

import ast
import hashlib
import json
import time

import numpy as np
import pytest
import torch

from deepal_galot.classifiers.small_cnn import SmallCNN
from deepal_galot.galot import Galot
from deepal_galot.images import fit_to, to_uint8
from deepal_galot.learner import Learner
from deepal_galot.pool import Pool
from generators.image_store import ImageStore
from generators.tiny import Tiny
from helpers import ROOT, NoJournal, small_config

FOLDER = ROOT / "generators" / "tiny_sd"


def images_of(tiny, prompt, n=24):
    """[n·10, 32, 32] float grey images of all ten digits."""
    prompts = [prompt.format(label=name) for name in sorted(tiny.knows)]
    c = tiny.encode(prompts)
    seeds = list(range(n))
    return torch.cat([fit_to(tiny.sample(row.expand(n, -1, -1), seeds), (32, 32, 1)) for row in c])


def ink(images):
    """[B] mean brightness."""
    return images.mean((1, 2, 3))


def height(images):
    """[B] rows between the first and the last with a bright pixel."""
    rows = (images[:, 0] > 0.5).any(2).float()
    first = rows.argmax(1)
    last = 31 - rows.flip(1).argmax(1)
    return (last - first + 1).float()


def test_at_most_six_megabytes():
    files = [f for f in (FOLDER / "pipeline").rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 6_000_000
    assert not [f for f in files if f.suffix in (".bin", ".pt", ".pkl", ".ckpt")]


def test_weights_are_those_the_training_recorded():
    recorded = json.loads((FOLDER / "training.json").read_text())["weights_sha256"]
    assert len(recorded) == 3
    for name, sha256 in recorded.items():
        data = (FOLDER / "pipeline" / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == sha256


@pytest.mark.parametrize("name", ["fonts", "renders", "train", "judge"])
def test_training_touches_no_data_set(name):
    """No import of a data set library, no reading of stored arrays."""
    source = (FOLDER / f"{name}.py").read_text()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{a.name}" for a in node.names]
        for module in names:
            assert not module.startswith(("sklearn", "torchvision", "datasets", "deepal_galot"))
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("load_digits", "loadtxt", "genfromtxt", "memmap")
            assert ast.unparse(node) not in ("np.load", "numpy.load", "torch.load")
    assert ".npz" not in source and ".npy" not in source


def test_every_font_is_openly_licensed():
    fonts = json.loads((FOLDER / "fonts.json").read_text())
    faces = fonts["faces"] if isinstance(fonts, dict) else fonts
    assert len(faces) >= 60
    assert {f["licence"] for f in faces} <= {"OFL-1.1", "Apache-2.0", "UFL-1.0"}


def test_bold_has_more_ink_than_thin(tiny):
    bold = ink(images_of(tiny, "a bold handwritten digit {label}", 6)).mean()
    thin = ink(images_of(tiny, "a thin handwritten digit {label}", 6)).mean()
    assert bold > 1.3 * thin


def test_small_digits_are_smaller(tiny):
    small = height(images_of(tiny, "a small handwritten digit {label}", 6)).mean()
    large = height(images_of(tiny, "a large handwritten digit {label}", 6)).mean()
    assert large > 29 and small < 0.85 * large


def test_label_is_drawn_not_only_style(tiny):
    """Mean images of different labels differ more than those of different noise."""
    images = images_of(tiny, "a handwritten digit {label}").reshape(10, 24, -1)
    a, b = images[:, :12].mean(1), images[:, 12:].mean(1)
    distance = torch.cdist(a, b)
    assert (distance.argmin(1) == torch.arange(10)).all()


def accuracy_without_real_images(digits, folder, n, seed):
    """Test accuracy on real digits of small_cnn trained on n generated images."""
    config = small_config(
        strategy="GALOT", mode="gal", seed=seed, n_init=n, n_synthetic=1.0, epsilon=0.0,
        epochs=30, min_steps=200, n_rounds=0,
    )  # fmt: skip
    cpu, shape = torch.device("cpu"), digits.image_shape
    galot = Galot(
        config, Tiny(config, cpu), ImageStore(folder), NoJournal(), digits.class_names, shape
    )
    batch = galot.make_images(None, 0)
    pool, learner = Pool(digits), Learner(config, SmallCNN, shape, 10, cpu)
    pool.set_synthetic(batch.x, batch.y, accumulate=False)
    learner.fit(pool.training_set(real=False), 0)
    return pool.cal_test_acc(learner.predict(pool.get_test_data()))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "goal"), [(500, 0.84), (2000, 0.89)])
def test_generated_images_alone_teach_real_digits(digits, tmp_path, n, goal):
    scores = [accuracy_without_real_images(digits, tmp_path, n, seed) for seed in range(5)]
    sem = np.std(scores, ddof=1) / np.sqrt(5)
    print(f"{n} generated images: {np.mean(scores):.3f} ± {sem:.3f} on real digits, 5 seeds")
    assert np.mean(scores) >= goal


@pytest.mark.slow
def test_judges_of_real_digits_measure_the_domain_gap(digits, tiny):
    """How many images look like their label to small_cnn trained on all 1,347 real digits."""
    labels = np.repeat(np.arange(10), 100)
    c = tiny.encode([f"a handwritten digit {name}" for name in digits.class_names])
    images = [tiny.sample(row.expand(50, -1, -1), range(s, s + 50)) for row in c for s in (0, 50)]
    images = np.concatenate([to_uint8(fit_to(part, digits.image_shape)) for part in images])
    agreement = []
    for seed in range(3):
        config = small_config(epochs=30, min_steps=200, seed=seed)
        judge = Learner(config, SmallCNN, digits.image_shape, 10, torch.device("cpu"))
        pool = Pool(digits)
        pool.label_everything()
        judge.fit(pool.training_set(), 0)
        read = judge.predict(pool.get_new_data(images, labels)).numpy()
        agreement.append((read == labels).mean())
    sem = np.std(agreement, ddof=1) / np.sqrt(3)
    print(f"judges of real digits agree with {np.mean(agreement):.3f} ± {sem:.3f} of 1,000 labels")
    assert np.mean(agreement) > 0.75


@pytest.mark.slow
def test_images_per_second(tiny):
    c = tiny.encode(["a handwritten digit two"]).expand(64, -1, -1)
    tiny.sample(c, range(64))
    started = time.perf_counter()
    for k in range(5):
        tiny.sample(c, range(64 * k, 64 * k + 64))
    rate = 5 * 64 / (time.perf_counter() - started)
    print(f"{rate:.0f} images a second on {torch.get_num_threads()} threads")
    assert rate >= 50
