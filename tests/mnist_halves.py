"""MNIST's training images in two halves, as a plug-in: `--plugin tests/mnist_halves.py`.

Options are chosen on the first half and reported on the second. Each gives its first 5,000 images,
3,000 as the pool and 2,000 as the test set.
"""

from pathlib import Path

from deepal_galot.datasets.base import Dataset, DatasetSpec
from deepal_galot.datasets.torchvision_sets import MNIST


class _Half(Dataset):
    class_names = MNIST.class_names
    defaults = MNIST.defaults | {"protocol": "demo"}

    def load(self, data_dir: Path) -> DatasetSpec:
        whole = MNIST().load(data_dir)
        x, y = whole.x_train[self.first :: 2], whole.y_train[self.first :: 2]
        return DatasetSpec(
            type(self).__name__, x[:3000], y[:3000], x[3000:5000], y[3000:5000],
            whole.class_names, whole.mean, whole.std,
        )  # fmt: skip


class MNISTFirstHalf(_Half):
    """3,000 + 2,000 of MNIST's training images with even numbers"""

    first = 0


class MNISTSecondHalf(_Half):
    """3,000 + 2,000 of MNIST's training images with odd numbers"""

    first = 1
