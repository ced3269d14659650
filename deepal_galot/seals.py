"""Checksums of a run's files: a flipped bit, a cut, or a file of another run is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from .disk import atomic_write
from .errors import UserError, said


class Seals:
    """`seals.json` of a folder: name -> the checksums that the file of that name may have.

    A checksum is on disk before its file is, beside that of the file as it stands: killed at any
    moment, what lies there has one of them. What has none is believed: a file that was put there
    by hand.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "seals.json"

    def write(self, name: str, data: bytes) -> None:
        """Replace a file of the folder by atomic_write, and know it again."""
        path = self.folder / name
        self.expect(name, data, path.read_bytes() if path.exists() else b"")
        atomic_write(path, data)

    def expect(self, name: str, new: bytes, now: bytes = b"") -> None:
        """Know what is about to be written, and what stands there now if it is known."""
        known = self._known()
        kept = [seal for seal in known.get(name, []) if seal == _seal(now)]
        atomic_write(self.file, json.dumps(known | {name: [*kept, _seal(new)]}, indent=1).encode())

    def read(self, name: str) -> bytes:
        """A file of the folder.

        Raises:
            UserError: it is not there, cannot be read, or is not as it was written.
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
        """Whether it may be so; read it before this is asked, its writer may be at work."""
        known = self._known()
        return name not in known or _seal(data) in known[name]

    def _known(self) -> dict[str, list[str]]:
        """
        Raises:
            UserError: the file is damaged.
        """
        try:
            known = json.loads(self.file.read_bytes())
            return {name: [str(seal) for seal in seals] for name, seals in known.items()}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except Exception as error:  # text, numbers and lists where they do not belong, or no JSON
            raise UserError(
                f"{self.file}: damaged ({said(error)}); move the run's folder away, or this file, "
                f"and the others are believed as they are"
            ) from error


def _seal(data: bytes) -> str:
    """Sixteen hex digits."""
    return hashlib.sha256(data).hexdigest()[:16]
