"""The embedded data set: scikit-learn's load_digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .base import Dataset, DatasetSpec, pixel_statistics

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Digits(Dataset):
    """1,797 handwritten digits, 8×8 grey, in scikit-learn; pool 1,347, test 450; offline

    Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI. The split is
    stratified and fixed; pixels 0 … 16 are scaled to 0 … 255.
    """

    class_names = DIGIT_NAMES
    defaults = {"protocol": "demo", "generator": "tiny", "template": "a handwritten digit {label}"}

    def load(self, data_dir: Path) -> DatasetSpec:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        x, y = load_digits(return_X_y=True)
        x = np.rint(x * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        train, test = train_test_split(np.arange(len(y)), test_size=450, random_state=0, stratify=y)
        mean, std = pixel_statistics(x[train])
        y = y.astype(np.int64)
        return DatasetSpec(
            "Digits", x[train], y[train], x[test], y[test], self.class_names, mean, std
        )
