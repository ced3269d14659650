"""The parts of the DeepALPlus plug-in: arrays, transforms, gradients, random numbers, bridges."""

import argparse
import contextlib
import random
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from deepalplus_tools import HOSTS, make_checkout, opened, their_args
from torch import nn
from torchvision import transforms as T

from deepal_galot.datasets.tiny_imagenet_words import WORDS
from deepal_galot.deepalplus import bridges, command
from deepal_galot.deepalplus.journal import TextJournal, seen
from deepal_galot.deepalplus.layout import Layout
from deepal_galot.deepalplus.settings import (
    Settings,
    build_parser,
    check_numbers,
    parse_flags,
    read_fields,
    settle,
)
from deepal_galot.deepalplus.transform import differentiable
from deepal_galot.deepalplus.trial import Trial, evaluating, undisturbed
from deepal_galot.errors import UserError
from deepal_galot.images import fit_to, to_unit_float
from deepal_galot.protocols import PROTOCOLS, resolve
from helpers import FakeGenerator

N = 12
FORMS = {  # data set -> (its array's shape, whether it is a tensor, its handler)
    "MNIST": ((N, 28, 28), True, "MNIST_Handler"),
    "FashionMNIST": ((N, 28, 28), True, "MNIST_Handler"),
    "EMNIST": ((N, 28, 28), True, "MNIST_Handler"),
    "SVHN": ((N, 3, 32, 32), False, "SVHN_Handler"),
    "CIFAR10": ((N, 32, 32, 3), False, "CIFAR10_Handler"),
    "TinyImageNet": ((N, 64, 64, 3), False, "CIFAR10_Handler"),
    "PneumoniaMNIST": ((N, 224, 224), False, "CIFAR10_Handler"),
    "waterbirds": ((N, 255, 250, 3), False, "CIFAR10_Handler"),
    "BreakHis": ("objects", False, "CIFAR10_Handler"),
}


@pytest.fixture(scope="module", params=HOSTS)
def root(request, tmp_path_factory):
    return make_checkout(request.param, tmp_path_factory.mktemp("host") / "root")


@pytest.fixture
def host(root):
    with opened(root) as host:
        yield host


class TinyNet(nn.Module):
    """Any input -> (logits, embeddings), smooth, with BatchNorm and dropout."""

    def __init__(self, channels, classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 4, 5, stride=3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(36, classes)

    def forward(self, x):
        embedding = self.body(x)
        return self.head(embedding), embedding


class RecordingNet:
    """DeepALPlus's Net as far as GALOT uses it; keeps what it is given."""

    device = torch.device("cpu")

    def __init__(self, classes):
        self.classes, self.given = classes, []

    def train(self, data):
        self.given.append(data)
        x = data[0][0][None]
        self.clf = TinyNet(x.shape[1], self.classes).train()
        self.clf(torch.cat([x, -x]))  # BatchNorm's statistics are not the first ones


def images_of(name):
    rng = np.random.default_rng(0)
    shape, tensor, _ = FORMS[name]
    if shape == "objects":
        x = np.empty(N, object)
        for i in range(N):
            x[i] = rng.integers(0, 256, (230 + i % 2, 240, 3), dtype=np.uint8)
        return x
    x = rng.integers(0, 256, shape, dtype=np.uint8)
    return torch.from_numpy(x) if tensor else x


def task_of(host, name):
    grey = T.Compose([T.CenterCrop(224), T.ToTensor(), T.Normalize((0.5,), (0.2,))])
    return host.parameters.args_pool.get(name, {"transform": grey, "transform_train": grey})


def make_trial(host, name, tmp_path, **flags):
    """A trial on random images of a data set's form, with four labeled ones of two classes."""
    task = dict(task_of(host, name), num_class=2)
    handler = getattr(sys.modules["handlers"], FORMS[name][2])
    x, y = images_of(name), torch.arange(N) % 2
    dataset = sys.modules["data"].Data(x, y, x[:2], y[:2], handler, task)
    dataset.labeled_idxs[[1, 5, 6, 9]] = True
    chosen = {"n_init": 4, "n_query": 2, "n_rounds": 1, "epsilon": 0.5, "ascent_steps": 2,
              "ascent_samples": 2, **flags}  # fmt: skip
    config = resolve("GALOT", name, 7, mode="al+gal", flags=chosen)
    settings = Settings(config, ("cat", "dog"), FakeGenerator, tmp_path, False, False)
    net = RecordingNet(2)
    return Trial(dataset, net, task, settings, 0, FakeGenerator()), dataset, net


@pytest.mark.parametrize("name", FORMS)
def test_generated_images_are_in_the_data_sets_own_arrays(host, tmp_path, name):
    trial, dataset, net = make_trial(host, name, tmp_path)
    before = dataset.labeled_idxs.copy()
    trial.fit()
    warm_up, data = net.given
    assert len(warm_up) == 4 and len(data) == 8
    assert type(data.X) is type(dataset.X_train) and data.X.dtype == dataset.X_train.dtype
    assert data.X.shape[1:] == dataset.X_train.shape[1:] and data.Y.dtype == dataset.Y_train.dtype
    assert data.Y[:4].tolist() == [1, 1, 0, 1] and data.Y[4:].tolist() == [0, 0, 1, 1]
    for given, real in zip(data.X[:4], dataset.X_train[before], strict=True):
        assert np.array_equal(given, real)
    assert (dataset.labeled_idxs == before).all() and len(dataset.X_train) == N
    # As a person sees them they are what the store holds, which is the generator's by fit_to.
    batch = trial.galot.make_images(trial.logits, 0)
    assert np.array_equal(trial.layout.unpack(data.X[4:]), batch.x)


def test_rows_columns_and_colours_as_deepalplus_reads_them():
    """EMNIST's files are transposed, and OpenCV gives TinyImageNet blue first."""
    bright_row, red = np.zeros((1, 28, 28, 1), np.uint8), np.zeros((1, 64, 64, 3), np.uint8)
    bright_row[0, 0], red[..., 0] = 255, 255
    for name, column in (("EMNIST", True), ("MNIST", False)):
        stored = Layout.of(torch.zeros(2, 28, 28, dtype=torch.uint8), name).pack(bright_row)[0]
        assert stored[:, 0].min() == (255 if column else 0), name
    for name, channel in (("TinyImageNet", 2), ("CIFAR10", 0)):
        stored = Layout.of(np.zeros((2, 64, 64, 3), np.uint8), name).pack(red)[0]
        assert stored.argmax(2).max() == stored.argmax(2).min() == channel, name


def test_help_names_no_default_that_is_not_to_be_had_there():
    text = " ".join(build_parser().format_help().split())
    assert "MNIST: a small handwritten" in text
    assert not any(f"{who}: " in text for who in (*PROTOCOLS, " Digits"))


def test_grey_is_luma(host, tmp_path):
    trial, _, net = make_trial(host, "MNIST", tmp_path, epsilon=0)
    trial.fit()
    generator, galot = FakeGenerator(), trial.galot
    from deepal_galot import seeding

    seeds = [seeding.derive(7, "image", 0, 0, i, 0) for i in range(2)]
    colour = generator.sample(galot.c0[[0, 0]], seeds)
    luma = (colour * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    expected = (fit_to(luma, (28, 28, 1)) * 255).round()[:, 0]
    assert (net.given[0].X[4:6].float() - expected).abs().max() <= 1


@pytest.mark.parametrize("name", FORMS)
def test_the_gradient_sees_what_their_handler_gives(host, tmp_path, name):
    """On images of random pixels, to the rounding of PIL's resize where there is one."""
    trial, dataset, _ = make_trial(host, name, tmp_path)
    task = trial.task
    data = dataset.handler(dataset.X_train[:1], dataset.Y_train[:1], task["transform"])
    ours = trial.network_input(to_unit_float(trial.layout.unpack(dataset.X_train[:1])))
    theirs = data[0][0][None]
    assert ours.shape == theirs.shape
    stds = [s.std for s in task["transform"].transforms if isinstance(s, T.Normalize)]
    resized = any(isinstance(s, T.Resize) for s in task["transform"].transforms)
    rounding = (2 / 255 if resized else 1e-6) / (min(stds[0]) if stds else 1)
    assert (ours - theirs).abs().max() <= rounding


@pytest.mark.parametrize("name", ["MNIST", "EMNIST", "SVHN", "CIFAR10", "TinyImageNet",
                                  "PneumoniaMNIST"])  # fmt: skip
def test_gradients_against_finite_differences(host, tmp_path, name):
    trial, dataset, net = make_trial(host, name, tmp_path)
    height, width, channels = trial.layout.image_shape
    net.train(dataset.get_labeled_data()[1])
    net.clf.double()
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(1, channels, height, width, generator=rng, dtype=torch.float64) * 0.8 + 0.1
    with evaluating(net.clf):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(trial.logits(leaf)[0, 0], leaf)
        for _ in range(3):
            v = torch.randn(x.shape, generator=rng, dtype=torch.float64)
            ends = [trial.logits(x + s * 1e-5 * v)[0, 0] for s in (1, -1)]
            assert (ends[0] - ends[1]).item() / 2e-5 == pytest.approx(
                (gradient * v).sum().item(), rel=1e-6, abs=1e-9)  # fmt: skip
    assert gradient.abs().sum() > 0


def test_the_network_is_left_as_it_was(host, tmp_path):
    trial, dataset, net = make_trial(host, "CIFAR10", tmp_path)
    net.train(dataset.get_labeled_data()[1])
    net.clf.train()
    net.clf.body[1].eval()
    next(net.clf.parameters()).requires_grad_(False)
    state = {k: v.clone() for k, v in net.clf.state_dict().items()}
    modes = [m.training for m in net.clf.modules()]
    trial._make(0)
    assert modes == [m.training for m in net.clf.modules()]
    assert [p.requires_grad for p in net.clf.parameters()] == [False, *[True] * 5]
    assert all(p.grad is None for p in net.clf.parameters())
    for k, v in net.clf.state_dict().items():
        assert torch.equal(v, state[k]), k
    with evaluating(net.clf):  # no dropout, stored BatchNorm statistics
        x = torch.rand(2, 3, 32, 32)
        torch.testing.assert_close(trial.logits(x)[:1], trial.logits(x[:1]))


def test_their_random_numbers_are_left_alone(host, tmp_path):
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    expected = random.random(), np.random.rand(), torch.rand(1)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    with undisturbed(torch.device("cpu")):
        random.random(), np.random.rand(), torch.rand(3)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_images_follow_seed_round_class_and_index(host, tmp_path):
    trial, _, net = make_trial(host, "CIFAR10", tmp_path / "a", epsilon=0)
    trial.fit()
    again, _, other = make_trial(host, "CIFAR10", tmp_path / "b", epsilon=0, n_synthetic=2)
    again.fit()
    few, many = net.given[0], other.given[0]
    for k in (0, 1):
        first, more = (d.X[4:][(d.Y[4:] == k).numpy()] for d in (few, many))
        assert len(more) == 2 * len(first) == 4 and np.array_equal(first, more[:2])


def test_texts_made_against_another_classifier_are_not_taken(tmp_path):
    clf, labeled = TinyNet(3, 2), np.zeros(5, bool)
    journal = TextJournal(tmp_path)
    assert not journal.has("text", 0)
    journal.against = seen(clf, labeled)
    journal.save("text", 0, {"c": torch.ones(2)})
    assert journal.has("text", 0) and journal.load("text", 0)["c"].tolist() == [1, 1]
    labeled[0] = True
    journal.against = seen(clf, labeled)
    assert not journal.has("text", 0)
    labeled[0] = False
    with torch.no_grad():
        clf.head.bias += 1e-6
    journal.against = seen(clf, labeled)
    assert not journal.has("text", 0)
    (tmp_path / "text" / "round000.safetensors").write_bytes(b"damaged")
    assert not journal.has("text", 0)


def test_texts_of_a_damaged_file_are_not_taken(tmp_path):
    """One flipped bit of a number leaves a file that can be read."""
    journal = TextJournal(tmp_path)
    journal.against = seen(None, np.zeros(5, bool))
    journal.save("text", 0, {"c": torch.ones(2), "a": torch.zeros(3)})
    assert journal.has("text", 0)
    file = tmp_path / "text" / "round000.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-3] + bytes([data[-3] ^ 64]) + data[-2:])
    assert not journal.has("text", 0)


def test_transforms_without_a_gradient_are_refused(host, tmp_path):
    for step in (T.RandomCrop(8), T.ColorJitter(), T.Resize(9, T.InterpolationMode.NEAREST)):
        with pytest.raises(UserError, match="no\\s+gradient|gradient can be taken"):
            differentiable(T.Compose([T.Compose([step]), T.ToTensor()]))
    x = torch.rand(2, 3, 20, 30)
    both = differentiable(T.Compose([T.Resize(10), T.CenterCrop(8), T.Grayscale(), T.ToTensor()]))
    assert both(x).shape == (2, 1, 8, 8)


def test_a_handler_that_gives_something_else_is_refused(host, tmp_path, monkeypatch):
    handler = sys.modules["handlers"].CIFAR10_Handler
    get = handler.__getitem__

    def inverted(self, i):
        x, *rest = get(self, i)
        return (-x, *rest)

    monkeypatch.setattr(handler, "__getitem__", inverted)
    with pytest.raises(UserError, match="than the text optimisation would"):
        make_trial(host, "CIFAR10", tmp_path)
    make_trial(host, "CIFAR10", tmp_path, epsilon=0)  # which takes no gradient


def test_images_of_no_known_form(tmp_path):
    for x in (np.zeros((4, 7), np.uint8), np.zeros((4, 9, 9, 3), np.float32), torch.zeros(4, 16)):
        with pytest.raises(UserError, match="-d openml: its X_train is"):
            Layout.of(x, "openml")


@pytest.mark.parametrize("name", ["FashionMNIST", "EMNIST", "SVHN", "CIFAR10", "PneumoniaMNIST"])
def test_class_names_are_in_the_order_of_their_labels(host, name, tmp_path):
    flags = parse_flags(["--generator", "tiny", "--output", str(tmp_path)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepal_galot.deepalplus.settings.check_generator", lambda *a: None)
        settings = settle(host, flags, their_args(dataset_name=name))
    assert len(settings.class_names) == host.parameters.args_pool[name]["num_class"]
    torchvision_names = getattr(getattr(torchvision.datasets, name, None), "classes", None)
    if name == "EMNIST":  # the published order of "byclass"
        torchvision_names = torchvision.datasets.EMNIST.classes_split_dict["byclass"]
        assert [n[-1] for n in settings.class_names] == list(torchvision_names)
    if name == "FashionMNIST":
        assert settings.class_names[9] == torchvision_names[9].lower() == "ankle boot"
    if name == "CIFAR10":
        assert settings.class_names[0] == "airplane" and settings.class_names[9] == "truck"


def test_tiny_imagenet_is_labeled_by_wnids_txt(host, tmp_path):
    ids = list(WORDS)[::-1]
    file = host.root / "data" / "TinyImageNet" / "tiny-imagenet-200" / "wnids.txt"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(ids))
    flags = argparse.Namespace(**vars(parse_flags(["--generator", "tiny"])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepal_galot.deepalplus.settings.check_generator", lambda *a: None)
        settings = settle(host, flags, their_args(dataset_name="TinyImageNet"))
    assert settings.class_names == tuple(WORDS[wnid] for wnid in ids)


def test_settings_are_the_papers_on_their_budget(host, tmp_path):
    flags = parse_flags(["--output", str(tmp_path), "--epsilon-schedule", "constant"])
    args = their_args(initseed=100, batch=30, quota=100, seed=9)
    config = settle(host, flags, args).config
    assert [config.budget(r) for r in range(config.cycles)] == [100, 130, 160, 190]
    assert (config.seed, config.epsilon, config.ascent_steps, config.ascent_samples) == (
        9,
        0.5,
        10,
        6,
    )
    assert config.template == "a small handwritten digit {label}" and config.generator == "tiny"
    assert not {"epochs", "synthetic_weight", "classifier"} & read_fields(config).keys()


# -- bridges -------------------------------------------------------------------------------------


def crossed(root):
    needed, stack = bridges.cross(root)
    return {b.name for b in needed}, stack


def test_bridges_are_crossed_when_needed_and_taken_down(tmp_path, monkeypatch):
    cuda, faiss = torch.Tensor.cuda, sys.modules.get("faiss")
    names, stack = crossed(tmp_path)
    assert {"folders", "cuda"} <= names and "pretrained" not in names
    assert {p.name for p in tmp_path.iterdir()} == set(bridges.FOLDERS)
    with stack:
        if not torch.cuda.is_available():
            x, net = torch.ones(2), nn.Linear(2, 2)
            assert x.cuda() is x and net.cuda() is net
        assert "folders" not in crossed(tmp_path)[0]
    assert torch.Tensor.cuda is cuda and sys.modules.get("faiss") is faiss
    monkeypatch.setitem(sys.modules, "faiss", argparse)  # any module will do
    assert "faiss" not in crossed(tmp_path)[0]


def test_the_bridge_over_a_removed_torchvision_argument(tmp_path, monkeypatch):
    asked = []

    def resnet18(*, weights=None, progress=True):
        asked.append(weights)

    monkeypatch.setattr(torchvision.models, "resnet18", resnet18)
    names, stack = crossed(tmp_path)
    asked.clear()
    with stack:
        assert "pretrained" in names
        torchvision.models.resnet18(pretrained=False)
        torchvision.models.resnet18(pretrained=True)
    assert asked == [None, "DEFAULT"] and torchvision.models.resnet18 is resnet18


def test_every_bridge_has_a_reason():
    assert len({b.name for b in bridges.BRIDGES}) == len(bridges.BRIDGES)
    assert all(len(b.reason) > 30 for b in bridges.BRIDGES)


# -- interrupts and numbers ----------------------------------------------------------------------


@pytest.mark.parametrize("interrupted, code, says", [
    (True, 130, "interrupted: the same command"), (False, 2, "error: a process that loads images"),
])  # fmt: skip
def test_a_loader_that_dies_of_ctrl_c_is_an_interrupt(interrupted, code, says, monkeypatch, capsys):
    def run(*args):
        if interrupted:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        raise RuntimeError("DataLoader worker (pid(s) 1) exited unexpectedly")

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.default_int_handler)
    assert command.main([]) == code
    assert says in capsys.readouterr().err


def test_a_compiler_that_is_missing_is_one_line(monkeypatch, capsys):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    draw = torch.compile(lambda x: x.cos() + 1, dynamic=False)
    monkeypatch.setattr(command, "run", lambda *args: draw(torch.rand(3)))
    assert command.main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --compile: ") and said.count("\n") == 1
    assert "no-such-compiler" in said


@pytest.mark.parametrize("field, value, says", [
    ("iteration", 0, "-t 0: must be at least 1 trial"), ("batch", 0, "-b 0: must be at least 1"),
    ("quota", 4, "-q 4: must be at least 5 labels, one -b"), ("seed", -1, "--seed -1: must be at"),
    ("initseed", 0, "-s 0: must be at least 1 label"),
])  # fmt: skip
def test_numbers_that_leave_nothing_to_do_are_refused(field, value, says):
    theirs = {"iteration": 1, "initseed": 5, "batch": 5, "quota": 10, "seed": 0}
    check_numbers(SimpleNamespace(**theirs))
    with pytest.raises(UserError, match=says):
        check_numbers(SimpleNamespace(**theirs | {field: value}))
