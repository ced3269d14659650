"""Writing to disk so that a kill or a power cut leaves the old file or the new one, never half."""

from __future__ import annotations

import io
import os
import uuid
from pathlib import Path

import numpy as np


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


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; a no-op where folders cannot be opened (Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
