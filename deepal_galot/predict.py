"""Apply a finished run's classifier to image files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import registry
from .errors import UserError
from .images import image_files, load_image
from .learner import Learner
from .pool import ImageSet
from .results import RunFolder


def predict_folder(
    folder: Path, run: Path, device: torch.device
) -> Iterator[tuple[Path, str, float]]:
    """Label the images of a folder.

    Args:
        folder: image files; sub-folders are not read.
        run: a run's seed folder, with classifier.safetensors.

    Yields:
        (file, class name, probability in [0, 1]), by file name.

    Raises:
        UserError: no images, no classifier, or a file that cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"--predict {folder}: no such folder")
    files = image_files(folder)
    if not files:
        raise UserError(f"--predict {folder}: no image files in it (sub-folders are not read)")
    if not (run / "classifier.safetensors").is_file():
        raise UserError(
            f"--from {run}: no classifier.safetensors in it; give a run's seed folder, "
            f"<output>/<data set>/<strategy>/<id>/seed<k>"
        )
    learner, card = load_classifier(RunFolder.open(run), device)
    images = np.stack([load_image(f, tuple(card["image_shape"])) for f in files])
    best = learner.predict_prob(ImageSet.unlabeled(images, card["mean"], card["std"])).max(1)
    for file, label, p in zip(files, best.indices.tolist(), best.values.tolist(), strict=True):
        yield file, card["class_names"][label], p


def load_classifier(run: RunFolder, device: torch.device) -> tuple[Learner, dict[str, Any]]:
    """A run's last classifier, and its card (class names, image shape, normalisation).

    Raises:
        UserError: there is none, it is damaged, or its architecture is not known here.
    """
    state, card = run.classifier()
    architecture = registry.classifiers.get(card["classifier"])
    shape, n_classes = tuple(card["image_shape"]), len(card["class_names"])
    learner = Learner(run.config, architecture, shape, n_classes, device)
    learner.load_state(state, card["mean"], card["std"])
    return learner, card
