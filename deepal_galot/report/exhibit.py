"""A table or figure of the paper as it was run: its arms, and where their runs lie.

<output>/exhibits/<data set>/<name>-<hash of the arms>.json; the runs themselves are ordinary ones.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..datasets.base import DatasetSpec
from ..disk import atomic_write, json_bytes, npz_bytes
from ..errors import UserError, said
from .html import asset

SCHEMA = 1
REAL = 4  # real images a class that are kept
KINDS = ("curves", "pseudo_labels", "one_class", "examples")


@dataclass(frozen=True)
class ExhibitArm:
    """One row or curve.

    Attributes:
        label: what the exhibit calls it.
        folder: <data set>/<strategy>/<fingerprint>, with a folder for each seed.
        paper: (table, row) of the paper's numbers that it may stand beside; None where data,
            protocol or generator are others, or the paper has none.
    """

    label: str
    folder: str
    paper: tuple[str, str] | None = None


@dataclass(frozen=True)
class Exhibit:
    """
    Attributes:
        name: as --experiment takes it.
        title: what it shows.
        kind: which tables and pictures it has, one of KINDS.
        dataset: the data set's name.
        arms: in the paper's order.
        baseline: label of the arm that the others are compared with; None for the
            usual one, see Comparison.reference.
        judge: folder of the classifier that was trained on every real label, if one belongs to it.
        notes: what is known of the paper's version, for people.
    """

    name: str
    title: str
    kind: str
    dataset: str
    arms: tuple[ExhibitArm, ...]
    baseline: str | None = None
    judge: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def number(self) -> str:
        """Table 1, Figure 3, … of the paper; the name of what is not in it."""
        found = re.fullmatch(r"(table|fig)(\d+)", self.name)
        words = {"table": "Table", "fig": "Figure"}
        return f"{words[found[1]]} {found[2]}" if found else self.name

    @property
    def file_name(self) -> str:
        """Alike for the same arms, so that running it again writes the same file."""
        digest = hashlib.sha256(repr([a.folder for a in self.arms]).encode()).hexdigest()[:6]
        return f"{self.name}-{self.dataset}-{digest}"

    def save(self, output: Path) -> Path:
        """Write it below a results folder; returns the file."""
        file = output / "exhibits" / self.dataset / f"{self.file_name}.json"
        atomic_write(file, json_bytes({"schema": SCHEMA, **asdict(self)}))
        return file

    @classmethod
    def open(cls, file: Path) -> Exhibit:
        """
        Raises:
            UserError: not an exhibit of this version.
        """
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            if record.pop("schema") != SCHEMA or record["kind"] not in KINDS:
                raise UserError("of another version")
            arms = tuple(
                ExhibitArm(a["label"], a["folder"], a["paper"] and tuple(a["paper"]))
                for a in record.pop("arms")
            )
            exhibit = cls(**record | {"arms": arms, "notes": tuple(record["notes"])})
            exhibit._check()
            return exhibit
        except (OSError, ValueError, LookupError, TypeError, AttributeError, UserError) as error:
            raise UserError(f"{file}: no readable exhibit ({said(error)})") from error

    def _check(self) -> None:
        """
        Raises:
            UserError: something else than words where words belong, or a name that no file
                can have.
        """
        words = [self.name, self.title, self.dataset, *self.notes]
        for arm in self.arms:
            words += [arm.label, arm.folder, *(arm.paper or ())]
        words += [w for w in (self.baseline, self.judge) if w is not None]
        if not all(isinstance(w, str) for w in words):
            raise UserError("not all of its names are text")
        if any(arm.paper is not None and len(arm.paper) != 2 for arm in self.arms):
            raise UserError("a row of the paper is a table and a row")
        if not re.fullmatch(r"\w+", self.name) or Path(self.dataset).name != self.dataset:
            raise UserError(f"{self.name!r} on {self.dataset!r}")


def find_exhibits(output: Path) -> list[Exhibit]:
    """Every exhibit below a results folder: tables, then figures, by number."""
    found = [Exhibit.open(file) for file in sorted(output.glob("exhibits/*/*.json"))]

    def place(exhibit: Exhibit) -> tuple:
        number = re.search(r"\d+", exhibit.name)
        return exhibit.dataset, exhibit.name[:1] != "t", int(number[0]) if number else 0

    return sorted(found, key=place)


def save_real_examples(spec: DatasetSpec, output: Path) -> None:
    """Keep the first training images of each class, for people to compare generated ones with."""
    classes = [np.flatnonzero(spec.y_train == k)[:REAL] for k in range(spec.n_classes)]
    if min(map(len, classes)) == REAL:
        images = np.stack([spec.x_train[where] for where in classes])
        atomic_write(_real_file(output, spec.name), npz_bytes(images=images))


def real_examples(output: Path, dataset: str) -> np.ndarray | None:
    """[K, REAL, H, W, C] uint8 of what was kept; None if nothing was, or it is damaged."""
    try:
        with np.load(_real_file(output, dataset), allow_pickle=False) as npz:
            return npz["images"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _real_file(output: Path, dataset: str) -> Path:
    return output / "exhibits" / dataset / "real.npz"


PAPER_SIZES = {"CIFAR10": (50_000, 10_000), "CIFAR100": (50_000, 10_000),
               "TinyImageNet": (100_000, 10_000)}  # fmt: skip


def is_the_papers(spec: DatasetSpec) -> bool:
    """Whether a data set is one of the paper's by its name and its numbers of images."""
    return PAPER_SIZES.get(spec.name) == (len(spec.x_train), len(spec.x_test))


# -- the paper's numbers -------------------------------------------------------------------------


@dataclass(frozen=True)
class PaperRow:
    """One printed row.

    Attributes:
        accuracy: |L| -> test accuracy in [0, 1]; also under "average" and "all labels".
        doubtful: keys of numbers that contradict another part of the paper.
        doubt: why.
    """

    accuracy: Mapping[int | str, float]
    doubtful: frozenset[int | str]
    doubt: str


@cache
def paper_numbers() -> Mapping[tuple[str, str, str], PaperRow]:
    """(table, data set, row) -> the numbers that arXiv 2412.16227 prints."""
    text = asset("paper.csv")
    rows = {}
    for record in csv.DictReader(text.splitlines()):
        address = record.pop("table"), record.pop("dataset"), record.pop("row")
        doubt = record.pop("doubt")
        cells = {int(k) if k.isdigit() else k: v for k, v in record.items() if v}
        accuracy = {k: float(v.rstrip("?").split("±")[0]) for k, v in cells.items()}
        doubtful = frozenset(k for k, v in cells.items() if v.endswith("?"))
        rows[address] = PaperRow(accuracy, doubtful, doubt)
    return rows


def doubts(rows: Sequence[PaperRow]) -> list[str]:
    """Why numbers of these rows are doubtful, each reason once."""
    return list(dict.fromkeys(row.doubt for row in rows if row.doubt))
