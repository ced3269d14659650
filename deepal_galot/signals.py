"""Signals that ask a command to end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1")  # Windows has only the first
# SIGTERM: from clusters before they kill; SIGHUP: the terminal is closed; SIGUSR1: from Slurm with
# --signal=USR1@60.
ENDING = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Ended(KeyboardInterrupt):
    """Raised when a signal asks the command to end; has the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """Handle the signals of ENDING like Ctrl-C. Only in the main thread, where signals arrive. An
    ignored signal stays ignored, such as SIGHUP under nohup."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(number)

    here = threading.current_thread() is threading.main_thread()
    with _handled({n: end for n in ENDING if here and signal.getsignal(n) != signal.SIG_IGN}):
        yield


@contextlib.contextmanager
def ignoring_signals() -> Iterator[None]:
    """Processes started in this block ignore all ending signals except SIGTERM. A signal sent to
    all processes is meant for the command itself, and multiprocessing's helpers must live to clean
    up."""
    with _handled({n: signal.SIG_IGN for n in (signal.SIGINT, *ENDING) if n != signal.SIGTERM}):
        yield


@contextlib.contextmanager
def _handled(handlers: dict[int, object]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
