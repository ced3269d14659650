"""What one trial of DeepALPlus's demo leaves behind of its generated images."""

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


class TextJournal:
    """A round's tensors on disk (galot.Journal), each with what it was made against.

    DeepALPlus starts every run from nothing. Played again, a round finds its texts here if it has
    come to the very classifier and labels that they were optimised against, as it does on a CPU;
    if it has not, they are made anew.

    Attributes:
        against: hash of the classifier and the labels of this round; None knows nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.against: str | None = None

    def has(self, name: str, round: int) -> bool:
        """Whether it is there, undamaged, and made against the same."""
        try:
            with safetensors.safe_open(self._file(name, round), "pt") as opened:
                return (opened.metadata() or {}).get("against") == self.against
        except (OSError, safetensors.SafetensorError):
            return False

    def load(self, name: str, round: int) -> dict[str, Tensor]:
        """What was saved."""
        return safetensors.torch.load_file(self._file(name, round))

    def save(self, name: str, round: int, tensors: dict[str, Tensor]) -> None:
        """Keep a round's tensors."""
        own = {k: v.detach().cpu().clone() for k, v in tensors.items()}  # c may be c0 itself
        metadata = {"against": str(self.against)}
        atomic_write(self._file(name, round), safetensors.torch.save(own, metadata=metadata))

    def _file(self, name: str, round: int) -> Path:
        return self.folder / name / f"round{round:03d}.safetensors"


def seen(classifier: nn.Module | None, labeled: np.ndarray) -> str:
    """Forty hex digits over a classifier and the labels it knows."""
    digest = hashlib.sha256(np.packbits(labeled).tobytes())
    state = {} if classifier is None else classifier.state_dict()
    for name, tensor in state.items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:40]


class Record:
    """config.json and rows.jsonl of a trial; played again, they are written anew."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder, self.rows = folder, []
        atomic_write(folder / "config.json", json_bytes(config))

    def write(self, **columns: Any) -> None:
        """Begin a round's row, or add to it: a row has one value of a column."""
        if not self.rows or columns.get("round", self.rows[-1]["round"]) != self.rows[-1]["round"]:
            self.rows.append({})
        self.rows[-1] |= columns
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        atomic_write(self.folder / "rows.jsonl", lines.encode())
