"""Named data sets: offline copies, the published formats, class names, and what is refused."""

import dataclasses
import gzip
import random
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from PIL import Image

from deepal_galot import registry
from deepal_galot.config import option_fields
from deepal_galot.datasets import published, tiny_imagenet
from deepal_galot.datasets.base import Dataset, DatasetSpec, load_dataset, pixel_statistics
from deepal_galot.datasets.tiny_imagenet_words import WORDS
from deepal_galot.errors import UserError
from deepal_galot.plugins import load_plugin
from deepal_galot.protocols import resolve
from helpers import ROOT, write_idx

NAMED = [n for n in registry.datasets.names() if n != "Digits"]
ALL = (
    "Digits MNIST FashionMNIST EMNIST SVHN CIFAR10 CIFAR10_imb CIFAR100 TinyImageNet PneumoniaMNIST"
)
CIFAR100_WORDS = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
RNG = np.random.default_rng(0)


def get(name):
    return registry.datasets.get(name)()


def arrays(n_classes, shape=(28, 28), per_class=2):
    """Random images of every class, in the keys of an offline copy."""
    y = np.arange(n_classes * per_class) % n_classes
    x = RNG.integers(0, 256, (len(y), *shape), np.uint8)
    return {"x_train": x, "y_train": y, "x_test": x[::-1], "y_test": y[::-1]}


def shape_of(name):
    grey = ("MNIST", "FashionMNIST", "EMNIST", "PneumoniaMNIST")
    return (28, 28) if name in grey else (64, 64, 3) if name == "TinyImageNet" else (32, 32, 3)


# -- what all of them keep ----------------------------------------------------------------------


def test_all_of_the_issue_are_there():
    assert registry.datasets.names() == sorted(
        [
            "Digits",
            "MNIST",
            "FashionMNIST",
            "EMNIST",
            "SVHN",
            "CIFAR10",
            "CIFAR10_imb",
            "CIFAR100",
            "TinyImageNet",
            "PneumoniaMNIST",
        ]
    )


@pytest.mark.parametrize("name", NAMED)
def test_an_offline_copy_is_read(tmp_path, name):
    cls = registry.datasets.get(name)
    given = arrays(len(cls.class_names), shape_of(name), per_class=1)
    np.savez(tmp_path / f"{name}.npz", **given)
    spec = get(name).load(tmp_path)
    assert (spec.name, spec.class_names) == (name, cls.class_names)
    assert (spec.x_train.squeeze() == given["x_train"]).all() and spec.x_train.ndim == 4
    assert (spec.y_test == given["y_test"]).all() and spec.y_test.dtype == np.int64
    assert spec.x_train.flags.c_contiguous  # the content hash and the GPU copy read it in order


@pytest.mark.parametrize("name", NAMED)
def test_a_missing_set_says_which_file_would_mend_it(tmp_path, monkeypatch, name):
    def no_network(*args, **kwargs):
        raise OSError("no network\nin this test")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(UserError) as error:
        get(name).load(tmp_path)
    stem = "CIFAR10" if name == "CIFAR10_imb" else name
    for word in (str(tmp_path / f"{stem}.npz"), "x_train, y_train", "--data-dir", "OSError"):
        assert word in str(error.value)
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.parametrize("name", registry.datasets.names())
def test_defaults_are_fields_that_a_run_accepts(name):
    defaults = dict(registry.datasets.get(name).defaults)
    assert set(defaults) <= {f.name for f in option_fields()} | {"protocol"}
    config = resolve("MarginSampling", name, dataset_defaults=defaults)
    assert "{label}" in config.template


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("MNIST", (0.1307,), (0.3081,)),
        ("FashionMNIST", (0.2860,), (0.3530,)),
        ("CIFAR10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ("CIFAR100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        ("SVHN", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
        ("TinyImageNet", (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
    ],
)
def test_published_statistics(name, mean, std):
    """Of the training images' pixels in [0, 1]."""
    dataset = registry.datasets.get(name)
    assert (dataset.mean, dataset.std) == (mean, std)


def test_what_suits_the_data():
    defaults = {n: registry.datasets.get(n).defaults for n in registry.datasets.names()}
    for name in ("MNIST", "EMNIST", "SVHN"):
        assert defaults[name]["flip"] == 0  # a mirrored 2 is no 2
    assert defaults["CIFAR100"] == {"batch_size": 128}
    tiny = {"batch_size": 128, "rotate": 20.0, "shift": 0, "flip": 1}
    assert defaults["TinyImageNet"] == tiny
    assert not defaults["CIFAR10"] and not defaults["CIFAR10_imb"]


# -- class names --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.datasets.names())
def test_class_names_are_prompt_words(name):
    for word in registry.datasets.get(name).class_names:
        assert re.fullmatch(r"[A-Za-z0-9][\w' -]*", word) and "_" not in word, word
        assert not re.match(r"(an?|the) ", word), word  # the template brings the article


@pytest.mark.parametrize(
    ("name", "index", "word"),
    [
        ("CIFAR10", 1, "car"), ("CIFAR10_imb", 9, "truck"), ("FashionMNIST", 9, "ankle boot"),
        ("EMNIST", 0, "digit 0"), ("EMNIST", 10, "uppercase letter A"),
        ("EMNIST", 36, "lowercase letter a"), ("EMNIST", 61, "lowercase letter z"),
        ("SVHN", 3, "three"), ("PneumoniaMNIST", 1, "lungs with pneumonia"),
        ("CIFAR100", 0, "apple"), ("CIFAR100", 16, "tin can"), ("CIFAR100", 19, "cow"),
        ("CIFAR100", 50, "mouse animal"), ("CIFAR100", 61, "dinner plate"),
        ("CIFAR100", 67, "stingray"), ("CIFAR100", 85, "army tank"), ("CIFAR100", 99, "worm"),
        ("TinyImageNet", 0, "goldfish"), ("TinyImageNet", 199, "acorn"),
    ],
)  # fmt: skip
def test_labels_keep_their_published_order(name, index, word):
    assert registry.datasets.get(name).class_names[index] == word


def test_cifar100_keeps_torchvisions_alphabetical_order():
    """Each name holds its published word, but for the two that were replaced."""
    published_words = sorted(CIFAR100_WORDS.split())
    names = registry.datasets.get("CIFAR100").class_names
    differs = [
        (old, new)
        for old, new in zip(published_words, names, strict=True)
        if old.replace("_", " ") not in new
    ]
    assert differs == [("cattle", "cow")]


def test_tiny_imagenet_words():
    assert len(WORDS) == 200 and list(WORDS) == sorted(WORDS)
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in WORDS)
    assert WORDS["n03126707"] == "construction crane" and WORDS["n07579787"] == "plate of food"
    assert WORDS["n02125311"] == "cougar or a mountain lion"
    for word in WORDS.values():
        for article, noun in re.findall(r" or (an?|the)? ?(\w+)", word):
            assert article == ("an" if noun[0] in "aeiouAEIOU" else "a"), word


# -- the published formats ----------------------------------------------------------------------


def write_idx_set(folder, prefixes, given):
    for part, prefix in prefixes.items():
        write_idx(folder / f"{prefix}-images-idx3-ubyte", given[f"x_{part}"])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", given[f"y_{part}"])


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_torchvisions_idx_files(tmp_path, name):
    given = arrays(10)
    write_idx_set(tmp_path / name / "raw", {"train": "train", "test": "t10k"}, given)
    spec = get(name).load(tmp_path)
    assert (spec.x_train[..., 0] == given["x_train"]).all()
    assert (spec.y_train == given["y_train"]).all() and (spec.y_test == given["y_test"]).all()


def test_emnist_stands_upright(tmp_path):
    """Its files hold each image with rows and columns swapped."""
    given = arrays(62)
    given["x_train"][:, :, :] = 0
    given["x_train"][:, 3, 20] = 255  # as published: row 3, column 20
    prefixes = {p: f"emnist-byclass-{p}" for p in ("train", "test")}
    write_idx_set(tmp_path / "EMNIST" / "raw", prefixes, given)
    spec = get("EMNIST").load(tmp_path)
    assert np.argwhere(spec.x_train[0, :, :, 0]).tolist() == [[20, 3]]
    assert (spec.y_train == given["y_train"]).all() and spec.n_classes == 62
    assert spec.mean == pixel_statistics(spec.x_train)[0]
    whole = spec.x_train.flags.c_contiguous and spec.x_test.flags.c_contiguous
    assert whole and spec.content_hash == dataclasses.replace(spec).content_hash


def test_svhn(tmp_path, monkeypatch):
    """Its .mat files hold [H, W, C, N] and call the digit 0 a 10."""
    given = arrays(10, (32, 32, 3))
    for part in ("train", "test"):
        file = tmp_path / "SVHN" / f"{part}_32x32.mat"
        file.parent.mkdir(exist_ok=True)
        y = np.where(given[f"y_{part}"] == 0, 10, given[f"y_{part}"])[:, None]
        scipy.io.savemat(file, {"X": given[f"x_{part}"].transpose(1, 2, 3, 0), "y": y})
    no_md5 = {k: [*v[:2], None] for k, v in torchvision.datasets.SVHN.split_list.items()}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", no_md5)
    spec = get("SVHN").load(tmp_path)
    assert (spec.x_train == given["x_train"]).all() and (spec.y_test == given["y_test"]).all()


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_cifar_of_torchvision(tmp_path, monkeypatch, name):
    given = arrays(len(registry.datasets.get(name).class_names), (32, 32, 3))

    class Fake:
        def __init__(self, root, train, download):
            assert root == tmp_path and download
            part = "train" if train else "test"
            self.data, self.targets = given[f"x_{part}"], given[f"y_{part}"].tolist()

    monkeypatch.setattr(torchvision.datasets, name, Fake)
    spec = get(name).load(tmp_path)
    assert (spec.x_test == given["x_test"]).all() and (spec.y_train == given["y_train"]).all()


def test_cifar10_imb_is_deepalplus_thinning_of_cifar10(tmp_path):
    given = arrays(10, (32, 32, 3), per_class=60)
    np.savez(tmp_path / "CIFAR10.npz", **given)
    random.seed(1)
    state = random.getstate()
    spec = get("CIFAR10_imb").load(tmp_path)
    assert random.getstate() == state  # its draws are its own
    random.seed(4666)
    keep = [random.random() < [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0][k]
            for k in given["y_train"]]  # fmt: skip
    assert (spec.x_train == given["x_train"][keep]).all()
    counts = np.bincount(spec.y_train)
    assert counts[9] == 60 and counts[0] < 15 and len(spec.x_test) == 600
    assert spec.content_hash != get("CIFAR10").load(tmp_path).content_hash


def pneumonia(labels_shape=(-1, 1)):
    parts = {"train": 6, "val": 4, "test": 5}
    found = {}
    for part, n in parts.items():
        found[f"{part}_images"] = RNG.integers(0, 256, (n, 28, 28), np.uint8)
        found[f"{part}_labels"] = (np.arange(n) % 2).astype(np.uint8).reshape(labels_shape)
    return found


def test_pneumonia_mnist_as_published(tmp_path):
    given = pneumonia()
    np.savez(tmp_path / "pneumoniamnist.npz", **given)
    spec = get("PneumoniaMNIST").load(tmp_path)
    assert len(spec.x_train) == 10 and len(spec.x_test) == 5  # train + val are the pool
    assert (spec.x_train[6:, ..., 0] == given["val_images"]).all()
    assert spec.y_train.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    # a file system that folds case finds the published file by our name
    (tmp_path / "pneumoniamnist.npz").rename(tmp_path / "PneumoniaMNIST.npz")
    assert get("PneumoniaMNIST").load(tmp_path).content_hash == spec.content_hash


def test_pneumonia_mnist_refuses_other_files(tmp_path):
    given = pneumonia()
    given["val_images"] = given["val_images"][:, :20]
    np.savez(tmp_path / "pneumoniamnist.npz", **given)
    with pytest.raises(UserError, match="train and val images do not fit together"):
        get("PneumoniaMNIST").load(tmp_path)
    del given["test_labels"]
    np.savez(tmp_path / "pneumoniamnist.npz", **given)
    with pytest.raises(UserError, match="holds neither x_train.* nor test_labels"):
        get("PneumoniaMNIST").load(tmp_path)


def test_a_download_is_checked_and_replaces_nothing_when_broken(tmp_path, monkeypatch):
    def fake_download(url, root, filename, md5):
        assert md5 == "28209eda62fecd6e6a2d98b1501bb15f" and "zenodo.org" in url
        np.savez(Path(root) / "made.npz", **pneumonia())
        (Path(root) / "made.npz").rename(Path(root) / filename)
        if broken:
            raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fake_download)
    broken = True
    with pytest.raises(UserError, match="corrupted.*pneumoniamnist.npz .https://zenodo"):
        get("PneumoniaMNIST").load(tmp_path)
    assert not (tmp_path / "pneumoniamnist.npz").exists()
    broken = False
    assert len(get("PneumoniaMNIST").load(tmp_path).x_train) == 10
    assert [f.name for f in tmp_path.iterdir()] == ["pneumoniamnist.npz"]


# -- TinyImageNet -------------------------------------------------------------------------------


def write_tiny_imagenet(root):
    """One train image a class, three val images; the first class's is grey."""
    wnids = list(WORDS)
    for k, wnid in enumerate(wnids):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        image = Image.new("L", (64, 64), 90) if k == 0 else Image.new("RGB", (64, 64), (k, 9, 250))
        image.save(folder / f"{wnid}_0.JPEG")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for i, wnid in enumerate((wnids[7], wnids[199], wnids[0])):
        Image.new("RGB", (64, 64), (0, 250, 0)).save(root / "val" / "images" / f"val_{i}.JPEG")
        lines.append(f"val_{i}.JPEG\t{wnid}\t1\t2\t3\t4\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(wnids)) + "\n")  # not sorted there, too


@pytest.fixture(scope="module")
def tiny_imagenet_folder(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    write_tiny_imagenet(data_dir / "tiny-imagenet-200")
    return data_dir


@pytest.fixture
def data_dir(tiny_imagenet_folder, tmp_path):
    """A copy to damage, by links."""
    source = tiny_imagenet_folder / "tiny-imagenet-200"
    for file in (f for f in source.rglob("*") if f.is_file()):
        copy = tmp_path / "tiny-imagenet-200" / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(file)
    return tmp_path


def replace(file, content):
    file.unlink()
    file.write_bytes(content)


def test_tiny_imagenet_from_folder_and_zip(tiny_imagenet_folder, tmp_path):
    spec = get("TinyImageNet").load(tiny_imagenet_folder)
    assert spec.x_train.shape == (200, 64, 64, 3) and spec.x_test.shape == (3, 64, 64, 3)
    assert spec.y_train.tolist() == list(range(200)) and spec.y_test.tolist() == [7, 199, 0]
    assert np.ptp(spec.x_train[0], axis=-1).max() == 0  # grey in all three channels
    red, green, blue = spec.x_train[30].reshape(-1, 3).mean(0)
    assert blue > 240 and abs(red - 30) < 4 and green < 20  # RGB, not BGR
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as z:
        for file in tiny_imagenet_folder.rglob("*"):
            z.write(file, file.relative_to(tiny_imagenet_folder))
    assert get("TinyImageNet").load(tmp_path).content_hash == spec.content_hash


ONE = next(iter(WORDS))


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("wnids.txt", b"n00000001\n", r"names 1 classes .* \(200 missing, 1 unknown\)"),
        ("wnids.txt", b"\xff\xfe\xff", "wnids.txt: missing or damaged"),
        ("val/val_annotations.txt", b"val_0.JPEG\n", "fewer than 2 columns"),
        ("val/val_annotations.txt", b"", "val_annotations.txt: empty"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn00000001\n", "labeled n00000001, which is no"),
        ("val/val_annotations.txt", b"val_9.JPEG\tn01443537\n", "val_9.JPEG: cannot be read"),
        (f"train/{ONE}/images/{ONE}_0.JPEG", b"\xff\xd8\xff nothing", "_0.JPEG: cannot be read"),
        (f"train/{ONE}/images/{ONE}_0.JPEG", "small", r"is 8×9 pixels, not 64×64"),
    ],
)
def test_a_damaged_tiny_imagenet(data_dir, tmp_path, file, content, says):
    if content == "small":
        Image.new("RGB", (8, 9)).save(tmp_path / "small.jpg")
        content = (tmp_path / "small.jpg").read_bytes()
    replace(data_dir / "tiny-imagenet-200" / file, content)
    with pytest.raises(UserError, match=says):
        get("TinyImageNet").load(data_dir)


def test_a_damaged_zip(tmp_path):
    file = tmp_path / "tiny-imagenet-200.zip"
    file.write_bytes(b"half a download")
    with pytest.raises(UserError, match="damaged or not a zip .*; delete it"):
        get("TinyImageNet").load(tmp_path)
    with zipfile.ZipFile(file, "w") as z:
        z.writestr("elsewhere/wnids.txt", "")
    with pytest.raises(UserError, match="tiny-imagenet-200/wnids.txt: missing"):
        get("TinyImageNet").load(tmp_path)
    assert tiny_imagenet.MD5 == "90528d7ca1a48142e341f4ef8d21d0de"


# -- damage -------------------------------------------------------------------------------------


def test_a_damaged_raw_download_is_named_so(tmp_path):
    write_idx_set(tmp_path / "MNIST" / "raw", {"train": "train", "test": "t10k"}, arrays(10))
    raw = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    raw.write_bytes(raw.read_bytes()[:-5])
    with pytest.raises(UserError, match="MNIST is not in .*could not be"):
        get("MNIST").load(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.update(x_train=a["x_train"] / 255), r"save \(x \* 255\).round"),
        (lambda a: a.update(x_train=a["x_train"].transpose(0, 3, 1, 2)), r"x.transpose\(0, 2, 3"),
        (lambda a: a.update(x_test=a["x_test"][:, :, :, [0, 1, 2, 0]]), "transparency"),
        (lambda a: a.update(x_test=a["x_test"][:, :16]), "train images are"),
        (lambda a: a.update(x_train=a["x_train"][..., :1], x_test=a["x_test"][..., :1]),
         "images have 1 channels, its mean"),
        (lambda a: a.update(y_train=a["y_train"][:, None]), r"save y.ravel\(\)"),
        (lambda a: a.update(y_train=np.eye(10)[a["y_train"]]), r"save y.argmax\(1\)"),
        (lambda a: a.update(y_train=a["y_train"].astype(float)), "whole-number labels"),
        (lambda a: a.update(y_train=a["y_train"][:-1]), r"need \[20\] whole-number labels"),
        (lambda a: a.update(y_train=a["y_train"] - 1), "labels run from -1 to 8"),
        (lambda a: a.update(y_test=a["y_test"] + 1), "labels run from 1 to 10"),
        (lambda a: a.update(y_train=a["y_train"] // 2 * 2), r"5 of 10 classes .*\(car, cat,"),
        (lambda a: a.update(x_train=a["x_train"][:0], y_train=a["y_train"][:0]),
         "CIFAR10, train part: no images"),
        (lambda a: a.update(x_test=a["x_test"][:0], y_test=a["y_test"][:0]), "test part: no"),
        (lambda a: a.update(x_train=np.array([None, 1])), "Python objects"),
        (lambda a: a.update(x_train=np.uint8(3)), r"not uint8 \[1\]: grey images may"),
        (lambda a: a.pop("x_test"), r"lacks \['x_test'\]"),
    ],
)  # fmt: skip
def test_a_wrong_offline_copy(tmp_path, change, says):
    given = arrays(10, (32, 32, 3))
    change(given)
    np.savez(tmp_path / "CIFAR10.npz", **given)
    with pytest.raises(UserError, match=says):
        get("CIFAR10").load(tmp_path)


def test_a_pool_of_gzipped_bytes_is_no_npz(tmp_path):
    (tmp_path / "MNIST.npz").write_bytes(gzip.compress(b"MNIST"))
    with pytest.raises(UserError, match="damaged or not an .npz"):
        get("MNIST").load(tmp_path)


# -- pixel statistics ---------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_statistics_are_exact(channels):
    x = RNG.integers(0, 256, (5000, 8, 9, channels), np.uint8)  # more than one chunk of counting
    mean, std = pixel_statistics(x)
    flat = x.reshape(-1, channels) / 255
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, flat.std(0), rtol=1e-12)


@pytest.mark.parametrize("level", [3, 7, 251])
def test_a_channel_that_never_varies_has_deviation_1(level):
    """Not what rounding leaves, 1e-18 of 30 images of level 3, by which padding became 1e15."""
    mean, std = pixel_statistics(np.full((30, 8, 8, 1), level, np.uint8))
    assert std == (1.0,) and mean == pytest.approx((level / 255,))


def test_a_channel_that_never_varies_is_not_divided_by_zero():
    x = RNG.integers(0, 256, (9, 8, 8, 3), np.uint8)
    x[..., 2] = 7
    mean, std = pixel_statistics(x)
    assert std[2] == 1.0 and std[0] < 1 and mean[2] == pytest.approx(7 / 255)


def test_a_random_split_is_the_same_each_time(tmp_path):
    """Where a `load` draws from the global generators: of it hangs which run a command goes on."""

    class Split(Dataset):
        class_names = ("a", "b")

        def load(self, data_dir):
            x = np.random.randint(0, 255, (30, 8, 8, 1)).astype(np.uint8)
            y = (torch.rand(30) + random.random() > 1).long().numpy()
            y[:2] = 0, 1
            return DatasetSpec("Split", x, y, x, y, self.class_names, (0.5,), (0.3,))

    first, second = (load_dataset(Split, tmp_path).content_hash for _ in range(2))
    assert first == second


def test_lists_and_numpys_numbers_are_the_same_data(toy):
    """Before, --synthetic-from told one's own data set from itself, and its hash was another."""
    one = dataclasses.replace(
        toy, class_names=list(toy.class_names), mean=np.array(toy.mean), std=list(toy.std)
    )
    assert one.content_hash == toy.content_hash
    assert (one.class_names, one.mean, one.std) == (toy.class_names, toy.mean, toy.std)


def test_published_sets_are_not_loaded_by_asking_for_their_names(monkeypatch):
    monkeypatch.setattr(published.PublishedSet, "load", None)
    assert all(registry.datasets.get(n).class_names for n in NAMED)


@pytest.mark.parametrize(
    ("file", "name", "base", "shape", "parts"),
    [("cifar10_validation.py", "CIFAR10Validation", "CIFAR10", (32, 32, 3), (
        slice(0, -5000), slice(-5000, None))),
     ("mnist_halves.py", "MNISTFirstHalf", "MNIST", (28, 28), (
        slice(0, 6000, 2), slice(6000, 10_000, 2))),
     ("mnist_halves.py", "MNISTSecondHalf", "MNIST", (28, 28), (
        slice(1, 6000, 2), slice(6001, 10_000, 2)))],
)  # fmt: skip
def test_parts_of_training_images_that_options_are_chosen_on(
    tmp_path, file, name, base, shape, parts
):
    """The plug-ins behind the README's numbers; no published test image is among theirs."""
    given = arrays(10, shape, per_class=1100)
    given["y_train"] = RNG.permutation(given["y_train"])
    np.savez(tmp_path / f"{base}.npz", **given)
    load_plugin(ROOT / "tests" / file)
    spec, (train, test) = get(name).load(tmp_path), parts
    for x, y, part in ((spec.x_train, spec.y_train, train), (spec.x_test, spec.y_test, test)):
        assert np.array_equal(x.squeeze(), given["x_train"][part])
        assert np.array_equal(y, given["y_train"][part])
    assert spec.class_names == registry.datasets.get(base).class_names
