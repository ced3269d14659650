"""Files that a trial of DeepALPlus's demo writes: texts of its generated images, and its rows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from torch import Tensor, nn

from ..disk import atomic_write, json_bytes
from ..seals import Seals


class TextJournal:
    """A round's tensors on disk (galot.Journal), each with a hash of the classifier and labels.

    DeepALPlus starts every run from the beginning. When a run is repeated, a round takes its texts
    from here if its classifier and labels are exactly those that the texts were optimised against.
    On a CPU they are. Otherwise the texts are optimised anew.

    Attributes:
        against: hash of this round's classifier and labels; None finds nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.seals = Seals(folder)
        self.against: str | None = None

    def has(self, name: str, round: int) -> bool:
        """Whether the tensors are there, undamaged, and made against the same hash."""
        file = _file(name, round)
        try:
            with safetensors.safe_open(self.seals.folder / file, "pt") as opened:
                stored = opened.metadata() or {}
            data = (self.seals.folder / file).read_bytes()
        except (OSError, safetensors.SafetensorError):
            return False
        return stored.get("against") == self.against and self.seals.knows(file, data)

    def load(self, name: str, round: int) -> dict[str, Tensor]:
        """Read a round's tensors."""
        return safetensors.torch.load_file(self.seals.folder / _file(name, round))

    def save(self, name: str, round: int, tensors: dict[str, Tensor]) -> None:
        """Write a round's tensors."""
        own = {k: v.detach().cpu().clone() for k, v in tensors.items()}  # c may be c0 itself
        metadata = {"against": str(self.against)}
        data = safetensors.torch.save(own, metadata=metadata)
        self.seals.write(_file(name, round), data)


def _file(name: str, round: int) -> str:
    return f"{name}/round{round:03d}.safetensors"


def seen(classifier: nn.Module | None, labeled: np.ndarray) -> str:
    """Forty hex digits over a classifier's state and which images are labeled."""
    digest = hashlib.sha256(np.packbits(labeled).tobytes())
    state = {} if classifier is None else classifier.state_dict()
    for name, tensor in state.items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:40]


class Record:
    """config.json and rows.jsonl of a trial; a repeated trial writes them anew."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder, self.rows = folder, []
        atomic_write(folder / "config.json", json_bytes(config))

    def write(self, **columns: Any) -> None:
        """Add columns to the last row, or begin a new row if `round` is a new one."""
        if not self.rows or columns.get("round", self.rows[-1]["round"]) != self.rows[-1]["round"]:
            self.rows.append({})
        self.rows[-1] |= columns
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        atomic_write(self.folder / "rows.jsonl", lines.encode())
