"""CIFAR10's training images alone, as a plug-in: `--plugin tests/cifar10_validation.py`.

Recipes are compared on images that no result is reported on.
"""

from pathlib import Path

from deepal_galot.datasets.base import Dataset, DatasetSpec
from deepal_galot.datasets.torchvision_sets import CIFAR10

HELD_OUT = 5000


class CIFAR10Validation(Dataset):
    """45,000 of CIFAR10's training images, tested on the 5,000 others"""

    class_names = CIFAR10.class_names
    defaults = CIFAR10.defaults

    def load(self, data_dir: Path) -> DatasetSpec:
        whole = CIFAR10().load(data_dir)
        x, y = whole.x_train, whole.y_train
        return DatasetSpec(
            type(self).__name__, x[:-HELD_OUT], y[:-HELD_OUT], x[-HELD_OUT:], y[-HELD_OUT:],
            whole.class_names, whole.mean, whole.std,
        )  # fmt: skip
