"""Signals that ask a command to end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1")  # Windows has the first alone
# Of clusters before they kill, of a terminal that is gone, and of Slurm's --signal=USR1@60.
ENDING = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Ended(KeyboardInterrupt):
    """Asked to end by a signal, whose number it has."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """ENDING are heard as Ctrl-C is, where signals are heard: in the main thread. One that is
    ignored stays so, as SIGHUP under nohup."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(number)

    here = threading.current_thread() is threading.main_thread()
    with _handled({n: end for n in ENDING if here and signal.getsignal(n) != signal.SIG_IGN}):
        yield


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """Nothing ends what begins in this block but SIGTERM: a signal to all of a command's processes
    is for the command, and what multiprocessing cleans up with must live on."""
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
