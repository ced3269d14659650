"""Making stdout and stderr safe if they are closed, full, without a reader, or cannot encode a
letter."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class IgnoresWriteErrors:
    """A stream that ignores write errors, because a run is worth more than its progress lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


@contextlib.contextmanager
def mended_streams() -> Iterator[None]:
    """Mend stdout and stderr while a command runs; also used as a decorator.

    A closed stream is replaced by the null device. A stderr that is full or gone does not stop the
    command. Letters that stdout cannot encode become "?".
    """
    before = sys.stdout, sys.stderr
    if None in before:
        _occupy_closed()
    sys.stdout, err = (stream or open(os.devnull, "w", encoding="utf-8") for stream in before)  # noqa: SIM115
    sys.stderr = IgnoresWriteErrors(err)  # stderr escapes such letters itself
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    ours = sys.stdout, err
    try:
        yield
    finally:
        for stream in ours:
            _let_go(stream)
        sys.stdout, sys.stderr = before


def _occupy_closed() -> None:
    """Open the null device on the closed handles 0 to 2, inherited by other processes.

    Otherwise the next opened file would get the number of stdout or stderr, and output of C
    libraries would go into it.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)


def _let_go(stream: TextIO) -> None:
    """Flush a stream. If that fails, drop the rest, because Python would end with code 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
