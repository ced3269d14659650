"""Chest X-rays of the MedMNIST collection."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import UserError, said
from .arrays import NPZ_KEYS, Arrays, read_npz
from .published import PublishedSet

URL = "https://zenodo.org/records/10519652/files/pneumoniamnist.npz?download=1"
MD5 = "28209eda62fecd6e6a2d98b1501bb15f"
PUBLISHED_KEYS = tuple(
    f"{p}_{what}" for p in ("train", "val", "test") for what in ("images", "labels")
)


class PneumoniaMNIST(PublishedSet):
    """5,856 chest X-rays of children, healthy or not, 28×28 grey; pool 5,232, test 624

    Yang et al. 2023, "MedMNIST v2". Its train (4,708) and val (524) parts together are the pool,
    because nothing is held out for tuning here. The data's original source and DeepALPlus also
    train on both. Also reads `<data-dir>/pneumoniamnist.npz` as published.
    """

    class_names = ("healthy lungs", "lungs with pneumonia")
    defaults = {"template": "a chest X-ray of {label}"}

    def arrays(self, data_dir: Path) -> Arrays:
        # Either file may be in either format, because a case-insensitive file system finds the
        # published file by both names.
        for stem in ("PneumoniaMNIST", "pneumoniamnist"):
            if (data_dir / f"{stem}.npz").is_file():
                return _read(data_dir / f"{stem}.npz")
        return self.published(data_dir)

    def published(self, data_dir: Path) -> Arrays:
        return _read(self.download(URL, data_dir / "pneumoniamnist.npz", MD5))


def _read(file: Path) -> Arrays:
    """Read our four arrays, from a file that has them or from the six of the published file."""
    found = read_npz(file, (), (*NPZ_KEYS, *PUBLISHED_KEYS))
    if set(NPZ_KEYS) <= set(found):
        return {k: found[k] for k in NPZ_KEYS}
    missing = [k for k in PUBLISHED_KEYS if k not in found]
    if missing:
        raise UserError(f"{file}: holds neither {', '.join(NPZ_KEYS)} nor {', '.join(missing)}")
    try:
        x_train = np.concatenate([found["train_images"], found["val_images"]])
    except ValueError as error:
        raise UserError(
            f"{file}: train and val images do not fit together ({said(error)})"
        ) from error
    y = {k: found[f"{k}_labels"].ravel() for k in ("train", "val", "test")}  # from [N, 1]
    return {
        "x_train": x_train,
        "y_train": np.concatenate([y["train"], y["val"]]),
        "x_test": found["test_images"],
        "y_test": y["test"],
    }
