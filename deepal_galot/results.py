"""The files of a run, and how runs are found again.

<output>/<data set>/<strategy>/<fingerprint>/seed<k>/
    config.json               the run's configuration; must hash to the folder's name
    env.json                  versions, device, determinism of the machine that ran it
    code/                     copies of the user's own files that its classes are made of
    state.npz                 the picks of each round (indices, or images that the strategy made
                              and their labels), written before the next step
    text/round<r>.safetensors text embeddings, ascent and probe pictures of round r
    kept/, alignment/         which generated images were chosen, and the map applied to all
    rounds.jsonl              one row a finished round
    classifier.safetensors    the last classifier; classifier.json describes its input and output
    DONE                      the last round was recorded
    seals.json                checksums of all files that later computations read
    LOCK                      held by the process that is playing the run
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from torch import Tensor

from .config import SCHEMA, RunConfig, fingerprint
from .disk import append_line, atomic_write, json_bytes, not_written, npz_bytes
from .errors import UserError, readable, said
from .lock import one_at_a_time
from .pool import SyntheticQuery
from .seals import Seals, fits

Row = dict[str, Any]
REMEMBERED = "strategy."  # prefix of arrays from a strategy's state_dict()


class RunFolder:
    """One run's folder. Rows are appended; every other file is replaced atomically.

    Attributes:
        path: the seed's folder.
        config: the run.
        content: hashes of the data, weights and plug-ins that the run reads.
        settings: how the strategy's settings differ from its default on this data set, for tables.
        remark: how its network or training differs from other strategies', for tables.
    """

    def __init__(
        self,
        path: Path,
        config: RunConfig,
        content: Mapping[str, str],
        settings: Mapping[str, str],
        remark: str = "",
    ) -> None:
        self.path, self.config = path, config
        self.content, self.settings, self.remark = dict(content), dict(settings), remark
        self.seals = Seals(path)

    def __repr__(self) -> str:
        """What a notebook shows; of a damaged folder, too."""
        try:
            done = f"{len(self.rows())} of {self.config.cycles} rounds"
        except Exception:  # rows() says what is wrong
            done = "damaged"
        return f"<{type(self).__name__} {self.path}: {done}>"

    @property
    def output(self) -> Path:
        """The results root that contains this folder."""
        return self.path.parents[3]

    @property
    def method(self) -> str:
        """`<data set>/<strategy>/<fingerprint>`, common to all seeds; the same on every machine."""
        return "/".join(self.path.parts[-4:-1])

    @property
    def key(self) -> tuple[str, str]:
        """(method, name of the seed's folder)."""
        return self.method, self.path.name

    @classmethod
    def create(
        cls,
        output: Path,
        config: RunConfig,
        content: Mapping[str, Any],
        settings: Mapping[str, str],
        remark: str = "",
        code: Mapping[str, bytes] | None = None,
    ) -> RunFolder:
        """This run's folder: made if it is new, checked if it exists.

        Args:
            output: the results root.
            code: path below code/ -> content of a file to keep in a new folder; never read again.
                For the others see the class.

        Raises:
            UserError: the folder cannot be written, or holds another configuration.
        """
        path = folder_of(output, config, content)
        new = cls(path, config, content, settings, remark)
        if not (path / "config.json").exists():
            try:
                path.mkdir(parents=True, exist_ok=True)
                new._configure(code)
            except OSError as error:
                raise UserError(not_written(output, error)) from error
        stored = cls.open(path)
        if config.n_rounds > stored.config.n_rounds:  # an extension; readers must see it
            new._configure()
        return cls(path, config, stored.content, stored.settings, stored.remark)

    def _configure(self, code: Mapping[str, bytes] | None = None) -> None:
        """Write the configuration, unless one with at least as many rounds is there; for a new run
        the code first. Takes the lock, because seals.json is written as well."""
        with self.lock():
            if (self.path / "config.json").exists():
                stored = self.open(self.path)
                if stored.config.n_rounds < self.config.n_rounds:
                    stored._write_config(self.config.n_rounds)
            else:
                for name, data in (code or {}).items():
                    atomic_write(self.path / "code" / name, data)
                self._write_config(self.config.n_rounds)

    def _write_config(self, n_rounds: int) -> None:
        config = replace(self.config, n_rounds=n_rounds)
        record = {
            "schema": SCHEMA,
            "fingerprint": fingerprint(config, self.content),
            "settings": self.settings,
            "remark": self.remark,
            "content": self.content,
            "read": config.fields_read(),
            "config": asdict(config),
        }
        self.seals.write("config.json", json_bytes(record))

    def lock(self) -> AbstractContextManager[None]:
        """The lock for playing this run; waits while another process holds it. See
        lock.one_at_a_time.

        Hold it before reading the state from which the run continues.
        """
        return one_at_a_time(self.path / "LOCK", str(self.path))

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run's folder.

        Args:
            path: the seed's folder.

        Raises:
            UserError: no run there, unreadable, or its configuration was altered.
        """
        path = path.resolve()
        file = path / "config.json"
        try:
            data = file.read_bytes()
            record = json.loads(data)
            config = RunConfig(**record["config"])
            schema, stored, content = record["schema"], record["fingerprint"], record["content"]
            settings = {str(k): readable(str(v)) for k, v in record["settings"].items()}
            remark = str(record["remark"])
            now, as_read = fingerprint(config, content), record["read"] == config.fields_read()
        except Exception as error:  # any type may be wrong in the JSON
            raise UserError(f"{file}: no readable run configuration ({said(error)})") from error
        if schema != SCHEMA:
            raise UserError(
                f"{file}: written by schema {schema}, this version reads {SCHEMA}; move its folder "
                f"away, or use another --output"
            )
        same = now == stored == path.parent.name and path.name == f"seed{config.seed}"
        if not (same and as_read):
            raise UserError(
                f"{file}: was altered or moved; it describes {now}/seed{config.seed}, its folder "
                f"is {path.parent.name}/{path.name}. Restore it, or move the folder away"
            )
        if not Seals(path).knows("config.json", data):
            raise UserError(
                f"{file}: was altered, it is not what seals.json has a checksum of. Restore it, or "
                f"move the folder away"
            )
        return cls(path, config, content, settings, remark)

    # -- rows --------------------------------------------------------------------------------

    def rows(self, *, repair: bool = False) -> list[Row]:
        """The rows of the finished rounds, in order, up to the configuration's n_rounds.

        A last line that was cut short by a kill is ignored; its round is played again.

        Args:
            repair: also remove such a line from the file; for the process that will append rows.

        Raises:
            UserError: a line that is not the next round.
        """
        file, rows, good = self.path / "rounds.jsonl", [], 0
        data = file.read_bytes() if file.exists() else b""
        known = self.seals.known()  # after the rows, because another process may be adding one
        for line in data.splitlines(keepends=True):
            try:
                row = json.loads(line)
                intact = line.endswith(b"\n") and row["round"] == len(rows)
                intact = intact and fits(known, _row_name(len(rows)), line)
            except (ValueError, KeyError, TypeError, RecursionError):
                intact = False
            if not intact:
                break
            rows.append(row)
            good += len(line)
        if data[good:].count(b"\n") > 0:
            line = len(rows) + 1
            raise UserError(f"{file}: line {line} is damaged; move the run's folder away")
        if repair and good < len(data):
            atomic_write(file, data[:good])
        return rows[: self.config.cycles]

    def append(self, row: Row) -> None:
        """Append a finished round's row and sync it to disk.

        Raises:
            UserError: another process has recorded this round meanwhile.
        """
        if row["round"] != len(self.rows()):
            raise UserError(
                f"{self.path}: another process is at work on this run; it goes on there"
            )
        line = json.dumps(row)
        self.seals.expect(_row_name(row["round"]), f"{line}\n".encode())
        append_line(self.path / "rounds.jsonl", line)

    @property
    def finished(self) -> bool:
        """Whether every round of the configuration is recorded."""
        return len(self.rows()) == self.config.cycles

    @property
    def extendable(self) -> bool:
        """Whether a run of more or fewer rounds is the same run. Not where ε, the last query or the
        images of another run depend on the number of rounds."""
        fixed = "n_rounds" in self.config.fields_read() or self.config.quota is not None
        return not fixed and "synthetic_from" not in self.content

    @property
    def done(self) -> bool:
        """Whether the run is finished and the DONE file is there."""
        return self.finished and (self.path / "DONE").exists()

    def mark_done(self, done: bool = True) -> None:
        """Write the DONE file; or remove it, while an extension runs."""
        if done:
            atomic_write(self.path / "DONE", b"")
        else:
            (self.path / "DONE").unlink(missing_ok=True)

    # -- the journal: decisions that a restart must not make again ---------------------------

    def picks(self) -> list[np.ndarray | SyntheticQuery]:
        """The labels bought in each round so far: [n] int64 pool indices, or images with labels.

        Raises:
            UserError: the state file is damaged.
        """
        arrays = self._state()
        return [
            arrays[f"picks{r}"]
            if f"picks{r}" in arrays
            else SyntheticQuery(arrays[f"images{r}"], arrays[f"labels{r}"])
            for r in range(sum(name.startswith(("picks", "images")) for name in arrays))
        ]

    def remembered(self) -> dict[str, np.ndarray]:
        """The strategy's state_dict() after its last query.

        Raises:
            UserError: the state file is damaged.
        """
        arrays = self._state()
        return {
            k.removeprefix(REMEMBERED): v for k, v in arrays.items() if k.startswith(REMEMBERED)
        }

    def _state(self) -> dict[str, np.ndarray]:
        file = self.path / "state.npz"
        if not file.exists():
            return {}
        data = self.seals.read(file.name)
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as npz:
                return dict(npz)
        except Exception as error:  # zipfile, zlib and numpy raise many kinds
            raise UserError(
                f"{file}: damaged ({said(error)}); move the run's folder away"
            ) from error

    def save_picks(
        self,
        picks: list[np.ndarray | SyntheticQuery],
        remembered: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Journal the picks of all rounds so far, and the strategy's state_dict()."""
        arrays = {f"{REMEMBERED}{name}": array for name, array in (remembered or {}).items()}
        for r, p in enumerate(picks):
            synthetic = isinstance(p, SyntheticQuery)
            arrays |= (
                {f"images{r}": p.images, f"labels{r}": p.labels} if synthetic else {f"picks{r}": p}
            )
        self.seals.write("state.npz", npz_bytes(**arrays))

    def has(self, name: str, round: int) -> bool:
        """Whether this round's tensors with this name are in the journal."""
        return (self.path / _tensor_file(name, round)).exists()

    def load(self, name: str, round: int) -> dict[str, Tensor]:
        """A round's journaled tensors. For "text" see galot.TextState."""
        file = _tensor_file(name, round)
        return _tensors(self.path / file, self.seals.read(file))

    def save(self, name: str, round: int, tensors: dict[str, Tensor]) -> None:
        """Journal a round's tensors under a name."""
        own = {k: v.detach().cpu().clone() for k, v in tensors.items()}  # c may be c0
        self.seals.write(_tensor_file(name, round), safetensors.torch.save(own))

    # -- the classifier ----------------------------------------------------------------------

    def save_classifier(self, state: dict[str, Tensor], card: Mapping[str, Any]) -> None:
        """Save this round's classifier, and a card with what is needed to use it elsewhere.

        The card is also stored inside the weights file, so that weights and card are always of the
        same round.
        """
        text = json.dumps(dict(card))
        data = safetensors.torch.save(state, metadata={"card": text})
        self.seals.write("classifier.safetensors", data)
        atomic_write(self.path / "classifier.json", json_bytes(card))

    def classifier(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, card) of the last saved classifier.

        Raises:
            UserError: there is none, or it is damaged.
        """
        name = "classifier.safetensors"
        data = self.seals.read(name)
        tensors = _tensors(self.path / name, data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        try:
            return tensors, json.loads(header["__metadata__"]["card"])
        except (LookupError, ValueError) as error:
            raise UserError(f"{self.path / name}: has no card ({said(error)})") from error

    def save_environment(self, environment: Mapping[str, Any]) -> None:
        """Add the machine of this session to env.json, after those of earlier sessions."""
        file = self.path / "env.json"
        try:
            parts = list(json.loads(file.read_text(encoding="utf-8"))["parts"])
        except (OSError, ValueError, LookupError, TypeError):
            parts = []  # none yet, or unreadable; nothing is computed from them
        atomic_write(file, json_bytes({"parts": [*parts, dict(environment)]}))


def folder_of(output: Path, config: RunConfig, content: Mapping[str, Any]) -> Path:
    """The path of a run's folder."""
    name = fingerprint(config, content)
    return output / config.dataset / config.strategy / name / f"seed{config.seed}"


def split_label(label: str) -> tuple[str, list[str]]:
    """Split a label of label_of into the method's name and its "key=value" texts."""
    name, colon, settings = label.partition(":")
    return name, re.split(r",(?=[\w-]+=)", settings) if colon else []


def label_of(strategy: str, settings: Mapping[str, str]) -> str:
    """A run's name in tables, in the form --strategy takes: "GALOT:epsilon=0,norm=linf"."""
    return ":".join(filter(None, (strategy, ",".join(f"{k}={v}" for k, v in settings.items()))))


def find_runs(output: str | Path) -> list[RunFolder]:
    """Every run below a results folder, sorted by path.

    Raises:
        UserError: no such folder, no run in it, or a run that cannot be read.
    """
    output = Path(output)
    if not output.is_dir():
        raise UserError(f"{output}: no such results folder")
    for rows in sorted(output.glob("*/*/*/seed*/rounds.jsonl")):
        if not (rows.parent / "config.json").exists():
            raise UserError(
                f"{rows.parent}: has no config.json, which says what ran; the command "
                f"that made them writes it anew, or move the folder away"
            )
    runs = [RunFolder.open(f.parent) for f in sorted(output.glob("*/*/*/seed*/config.json"))]
    if not runs:
        raise UserError(f"{output}: no runs in it (expected <data set>/<strategy>/<id>/seed<k>)")
    return runs


def _tensor_file(name: str, round: int) -> str:
    return f"{name}/round{round:03d}.safetensors"


def _row_name(round: int) -> str:
    """Name of a row in seals.json."""
    return f"rounds.jsonl {round}"


def _tensors(file: Path, data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file, sorted by name.

    Raises:
        UserError: it is damaged.
    """
    try:
        return dict(sorted(safetensors.torch.load(data).items()))  # the order is not fixed
    except Exception as error:  # SafetensorError, or torch's for shapes and types
        raise UserError(f"{file}: cannot be read ({said(error)})") from error
