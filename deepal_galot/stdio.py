"""stdout and stderr as a command finds them: closed, full, read by nobody, of few letters."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Patient:
    """A stream that leaves out what cannot be written: a run is worth more than its progress."""

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
    """While a command runs, and as a decorator of it: what is closed leads nowhere, a stderr that
    is full or gone stops nothing, and stdout has a ? for a letter that its encoding lacks."""
    before = sys.stdout, sys.stderr
    if None in before:
        _occupy_closed()
    sys.stdout, err = (stream or open(os.devnull, "w", encoding="utf-8") for stream in before)  # noqa: SIM115
    sys.stderr = Patient(err)  # it has escapes for such letters
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
    """Else the next file that is opened has the number of stdout or stderr, and what libraries in C
    write goes into it; other processes inherit what is taken here."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)


def _let_go(stream: TextIO) -> None:
    """Write what waits; what cannot be is dropped, over which Python would end with code 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
