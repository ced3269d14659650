"""Checksums of a run's files, to notice a flipped bit, a cut, or a file of another run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from .disk import atomic_write
from .errors import UserError, said


class Seals:
    """`seals.json` of a folder: file name -> the checksums that the file may have.

    The new checksum is written before the new file, and the old one is kept beside it. After a kill
    the file matches one of the two. A file without a checksum is accepted, because somebody put it
    there by hand.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "seals.json"

    def write(self, name: str, data: bytes) -> None:
        """Replace a file of the folder by atomic_write, and record its checksum."""
        path = self.folder / name
        self.expect(name, data, path.read_bytes() if path.exists() else b"")
        atomic_write(path, data)

    def expect(self, name: str, new: bytes, now: bytes = b"") -> None:
        """Record the checksum of the new content, before it is written. The current content's
        checksum stays if it was recorded."""
        known = self.known()
        kept = [seal for seal in known.get(name, []) if seal == _seal(now)]
        atomic_write(self.file, json.dumps(known | {name: [*kept, _seal(new)]}, indent=1).encode())

    def read(self, name: str) -> bytes:
        """A file of the folder.

        Raises:
            UserError: it is not there, cannot be read, or does not match its checksum.
        """
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({said(error)})") from error
        if not self.knows(name, data):
            raise UserError(
                f"{path}: damaged, or of another run; restore it, or move the run's folder away"
            )
        return data

    def knows(self, name: str, data: bytes) -> bool:
        """Whether the content matches a checksum, or has none. Read the file before this call,
        because another process may be writing it."""
        return fits(self.known(), name, data)

    def known(self) -> dict[str, list[str]]:
        """The checksums in seals.json.

        Raises:
            UserError: the file is damaged.
        """
        try:
            known = json.loads(self.file.read_bytes())
            return {name: [str(seal) for seal in seals] for name, seals in known.items()}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except Exception as error:  # wrong types, or not JSON
            raise UserError(
                f"{self.file}: damaged ({said(error)}); move the run's folder away, or this file, "
                f"and the others are believed as they are"
            ) from error


def fits(known: Mapping[str, Sequence[str]], name: str, data: bytes) -> bool:
    """Whether the content matches one of the known checksums of this name, or has none."""
    return name not in known or _seal(data) in known[name]


def _seal(data: bytes) -> str:
    """Sixteen hex digits."""
    return hashlib.sha256(data).hexdigest()[:16]
