"""Writing files so that a kill or a power cut leaves the old or the new content, never a part."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UserError, said


def atomic_write(path: Path, data: bytes) -> None:
    """Write a synced temporary file, then rename it. Makes the parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as stream:  # default permissions
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:  # a full disk's error has no file name
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    _sync_folder(path.parent)


def json_bytes(record: Mapping[str, Any]) -> bytes:
    """Indented JSON in UTF-8. In paths that are not UTF-8, Python represents a byte by a surrogate;
    it is escaped here, so that reading gives the same path."""
    text = json.dumps(dict(record), indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")


def npz_bytes(**arrays: np.ndarray) -> bytes:
    """The bytes of `np.savez` for numeric arrays; the same bytes for the same arrays."""
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


REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)  # errors of missing permission


def check_writable(output: Path) -> None:
    """
    Raises:
        UserError: nothing can be written into the results folder, or it cannot be made.
    """
    there = next(p for p in (output, *output.parents) if p.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        unnamed = OSError(error.errno, os.strerror(error.errno), str(there))
        raise UserError(not_written(output, unnamed)) from error


def not_written(output: Path, error: OSError) -> str:
    """Error line for a results folder that cannot be written, with a remedy."""
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
    """Make a rename durable; does nothing where folders cannot be opened (Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
