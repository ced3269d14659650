"""Data sets that torchvision downloads: handwriting, clothes, house numbers, small photographs."""

from __future__ import annotations

import random
import string
from pathlib import Path

import numpy as np

from ..registry import class_name
from .arrays import Arrays
from .digits import DIGIT_NAMES
from .published import PublishedSet


class _TorchvisionSet(PublishedSet):
    """Base of the data sets that torchvision has under the same name. torchvision checks the md5 of
    their archives."""

    def published(self, data_dir: Path) -> Arrays:
        try:
            (x_train, y_train), (x_test, y_test) = (
                self.part(data_dir, train) for train in (True, False)
            )
        except Exception as error:  # urllib, ssl, OSError, RuntimeError: the download failed
            raise self.missing(data_dir, error) from error
        return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}

    def part(self, data_dir: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
        """Load one part: images [N, H, W] or [N, H, W, C], and labels [N]."""
        import torchvision

        cls = getattr(torchvision.datasets, class_name(type(self)))
        data = cls(data_dir, train=train, download=True)
        return np.asarray(data.data), np.asarray(data.targets)


class MNIST(_TorchvisionSet):
    """70,000 handwritten digits, 28×28 grey; pool 60,000, test 10,000. LeCun et al. 1998"""

    class_names = DIGIT_NAMES
    mean, std = (0.1307,), (0.3081,)
    defaults = {"generator": "tiny", "template": "a small handwritten digit {label}", "flip": 0}


class FashionMNIST(_TorchvisionSet):
    """70,000 clothes from a shop, 28×28 grey; pool 60,000, test 10,000. Xiao et al. 2017"""

    class_names = (
        "T-shirt",
        "pair of trousers",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "button-up shirt",
        "sneaker",
        "handbag",
        "ankle boot",
    )
    mean, std = (0.2860,), (0.3530,)
    defaults = {"template": "a black and white product photo of a {label} on a black background"}


class EMNIST(_TorchvisionSet):
    """814,255 handwritten digits and letters, 62 classes, 28×28 grey; pool 697,932, test 116,323

    Cohen et al. 2017, the split "byclass", as in DeepALPlus. In its files rows and columns of the
    images are swapped. Here they are upright, and they must be upright in an offline EMNIST.npz.
    """

    class_names = tuple(
        f"{kind} {character}"
        for kind, characters in (
            ("digit", string.digits),
            ("uppercase letter", string.ascii_uppercase),
            ("lowercase letter", string.ascii_lowercase),
        )
        for character in characters
    )
    defaults = {"template": "a small handwritten {label}", "flip": 0}

    def part(self, data_dir: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
        import torchvision

        data = torchvision.datasets.EMNIST(data_dir, split="byclass", train=train, download=True)
        return np.asarray(data.data).swapaxes(1, 2), np.asarray(data.targets)


class SVHN(_TorchvisionSet):
    """99,289 house numbers from street photographs, 32×32 RGB; pool 73,257, test 26,032

    Netzer et al. 2011; without the "extra" part, as in DeepALPlus.
    """

    class_names = DIGIT_NAMES
    mean, std = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)
    defaults = {"template": "a close-up photo of the digit {label} on a house number", "flip": 0}

    def part(self, data_dir: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
        import torchvision

        # It gets its own folder, because the names of its files do not show what they are.
        data = torchvision.datasets.SVHN(
            data_dir / "SVHN", "train" if train else "test", download=True
        )
        return data.data.transpose(0, 2, 3, 1), data.labels


class CIFAR10(_TorchvisionSet):
    """60,000 photographs in 10 classes, 32×32 RGB; pool 50,000, test 10,000; Krizhevsky 2009"""

    class_names = (
        "airplane",
        "car",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class CIFAR10_imb(CIFAR10):
    """CIFAR10 with an unbalanced pool of 27,499: 10 % of the airplanes … all of the trucks

    DeepALPlus's rule, which gives the same images as there. For each pool image, in the published
    order, Python's generator with seed 4666 draws one number in [0, 1). An image of class k stays
    if its number is below (k + 1) / 10. The test part stays balanced. An offline CIFAR10.npz is
    thinned in the same way. An offline CIFAR10_imb.npz must already be thinned.
    """

    def published(self, data_dir: Path) -> Arrays:
        arrays = CIFAR10().arrays(data_dir)
        rng = random.Random(4666)
        keep = [rng.random() < (label + 1) / 10 for label in arrays["y_train"].tolist()]
        return arrays | {k: arrays[k][keep] for k in ("x_train", "y_train")}


class CIFAR100(_TorchvisionSet):
    """60,000 photographs in 100 classes, 32×32 RGB; pool 50,000, test 10,000; Krizhevsky 2009

    The fine labels in their published (alphabetical) order. Words that are ambiguous, or read badly
    after "a photo of a", are replaced by what the images show: ray -> stingray, cattle -> cow.
    """

    # fmt: off
    class_names = (
        "apple", "aquarium fish", "baby", "bear", "beaver", "bed", "bee", "beetle insect",
        "bicycle", "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "tin can",
        "castle", "caterpillar", "cow", "chair", "chimpanzee", "clock", "cloud", "cockroach",
        "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
        "forest", "fox", "girl", "hamster", "house", "kangaroo", "computer keyboard", "lamp",
        "lawn mower", "leopard", "lion", "lizard", "lobster", "man", "maple tree", "motorcycle",
        "mountain", "mouse animal", "mushroom", "oak tree", "orange fruit", "orchid flower",
        "otter", "palm tree", "pear", "pickup truck", "pine tree", "grassy plain", "dinner plate",
        "poppy flower", "porcupine", "possum", "rabbit", "raccoon", "stingray", "road",
        "space rocket", "rose flower", "sea", "seal animal", "shark", "shrew animal", "skunk",
        "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower",
        "sweet pepper", "table", "army tank", "telephone", "television", "tiger", "tractor",
        "railway train", "trout fish", "tulip", "turtle", "wardrobe cabinet", "whale",
        "willow tree", "wolf", "woman", "worm",
    )
    # fmt: on
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    defaults = {"batch_size": 128}
