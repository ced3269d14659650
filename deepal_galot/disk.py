"""Writing to disk so that a kill or a power cut leaves the old file or the new one, never half."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import said


def atomic_write(path: Path, data: bytes) -> None:
    """Write through a synced temporary file and a rename; makes the parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as stream:  # with the permissions of any other new file
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:  # writing to a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    _sync_folder(path.parent)


def json_bytes(record: Mapping[str, Any]) -> bytes:
    """For people to read, and in UTF-8. Python takes a byte of a path that is none for half of a
    letter (a surrogate); that is escaped, and read again as it was."""
    text = json.dumps(dict(record), indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")


def npz_bytes(**arrays: np.ndarray) -> bytes:
    """What `np.savez` of numeric arrays writes; the same bytes for the same arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def append_line(path: Path, line: str) -> None:
    """Append one line and sync it."""
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)  # until somebody allows it


def not_written(output: Path, error: OSError) -> str:
    """The line about a results folder that cannot be written, and what helps."""
    file = Path(str(error.filename))
    if file.is_symlink() and not file.exists():
        target = os.readlink(file)
        return f"--output {output}: {file} is a link to {target}, which is not there; make it"
    line = f"--output {output}: cannot be written ({said(error)})"
    if error.errno not in REFUSED:
        return line
    where = shlex.quote(str(output))
    there = f"; --report {where} --output ELSEWHERE shows what is there" if output.is_dir() else ""
    return f"{line}: take another --output{there}"


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; a no-op where folders cannot be opened (Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
