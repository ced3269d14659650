"""Checkouts for the tests of the DeepALPlus plug-in: a stand-in, and a real one if there is one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deepal_galot.deepalplus.bridges import cross
from deepal_galot.deepalplus.host import Host, import_host, inside
from helpers import write_idx

STAND_IN = Path(__file__).parent / "deepalplus_host"
REAL = os.environ.get("DEEPALPLUS_ROOT")
HOSTS = [
    pytest.param("stand-in", id="stand-in"),
    pytest.param(
        "real", id="real",
        marks=pytest.mark.skipif(not REAL, reason="DEEPALPLUS_ROOT is not set: these tests ran "
                                 "against the stand-in host of tests/deepalplus_host alone"),
    ),
]  # fmt: skip


def make_checkout(host: str, folder: Path) -> Path:
    """A copy of the named host, with 300 + 100 digits of 28×28 as its MNIST and FashionMNIST."""
    source = STAND_IN if host == "stand-in" else Path(REAL)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__", ".git"))
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images.repeat(3, 1).repeat(3, 2) * 255 / 16).astype(np.uint8)
    x = np.pad(x, ((0, 0), (2, 2), (2, 2)))
    for name in ("MNIST", "FashionMNIST"):
        raw = folder / "data" / name / name / "raw"
        raw.mkdir(parents=True)
        for part, which in (("train", slice(300)), ("t10k", slice(300, 400))):
            write_idx(raw / f"{part}-images-idx3-ubyte", x[which])
            write_idx(raw / f"{part}-labels-idx1-ubyte", digits.target[which])
    return folder


@contextlib.contextmanager
def opened(root: Path) -> Iterator[Host]:
    """A checkout's modules, as the plug-in sees them."""
    _, bridges = cross(root)
    with bridges, inside(root):
        host = import_host()
        yield host


def quick(host: Host) -> None:
    """Two epochs, and no loader processes."""
    for task in host.parameters.args_pool.values():
        task["n_epoch"] = 2
        for loader in ("loader_tr_args", "loader_te_args"):
            task[loader]["num_workers"] = 0


def their_args(**changed) -> SimpleNamespace:
    """DeepALPlus's parsed arguments."""
    usual = {"ALstrategy": "GALOT", "dataset_name": "MNIST", "initseed": 20, "batch": 10,
             "quota": 20, "iteration": 1, "seed": 3}  # fmt: skip
    return SimpleNamespace(**usual | changed)
