"""Faults in real commands: each command runs in a forked process in which one thing goes wrong.

A fork server has loaded the libraries, so that a process costs a second. Every process is hooked
where the phases of a run begin and where its files are written: it says on a board which phase it
is in, and at a chosen moment it does something to itself.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import QUICK, SVG, image_hashes, rows_of

ARGS = [*QUICK, "--strategy", "MarginSampling", "GALOT", "--device", "cpu"]
CALLS = {  # phase: the function whose call begins it
    "fit": "deepal_galot.training:Training._step",
    "query": "query_strategies.margin_sampling:MarginSampling.query",
    "ascent": "generators.text_optimization:score_gradient",
    "generation": "generators.base:Generator.draw",
    "report": "deepal_galot.report.write:_files",
}
FILES = {  # phase: the files that are written in it
    "config": r"/config\.json$",
    "seals": r"/seals\.json$",
    "picks": r"/state\.npz$",
    "text": r"/text/round\d+\.safetensors$",
    "shard": r"/images/.*\.npz$",
    "manifest": r"/images/.*\.json$",
    "classifier": r"/classifier\.safetensors$",
    "row": r"/rounds\.jsonl$",
    "done": r"/DONE$",
    "report files": r"/report/",
}
# Of a file: half of it written; all of it, before it has its name; after. A row has no second name.
TORN, UNNAMED, WRITTEN = "half written", "not yet renamed", "just written"
START = "start and end"  # the phase outside all others


@dataclass(frozen=True)
class Fault:
    """What happens in a process, and when.

    Attributes:
        kind: one of ACTIONS.
        phase: one of CALLS or FILES.
        nth: in the how manieth call or file of the phase.
        moment: TORN, UNNAMED or WRITTEN; of a call, nothing.
    """

    kind: str
    phase: str
    nth: int = 1
    moment: str = ""


@dataclass(frozen=True)
class Outcome:
    """
    Attributes:
        code: exit code, negative for a signal.
        said: what it wrote to stdout and stderr.
        phase: the one in which it ended.
        happened: whether the fault did.
    """

    code: int
    said: str
    phase: str
    happened: bool

    @property
    def errors(self) -> list[str]:
        return [line for line in self.said.splitlines() if line.startswith("error: ")]


# -- counting ------------------------------------------------------------------------------------

INJECTED: Counter[tuple[str, str]] = Counter()
SURVIVED: Counter[tuple[str, str]] = Counter()


@contextlib.contextmanager
def counted() -> Iterator[list[tuple[str, str]]]:
    """A list for the faults that happen, as (kind, where); they are survived if nothing is raised
    before the end of the block, where the caller has found all as it should be."""
    faults: list[tuple[str, str]] = []
    try:
        yield faults
        SURVIVED.update(faults)
    finally:
        INJECTED.update(faults)


def summary() -> list[str]:
    """A table: a row a kind, with the phases or files that it struck."""
    lines = []
    for kind in dict.fromkeys(kind for kind, _ in INJECTED):
        at = {w: n for (k, w), n in INJECTED.items() if k == kind}
        alive = sum(n for (k, _), n in SURVIVED.items() if k == kind)
        where = ", ".join(f"{w} {n:,}" for w, n in sorted(at.items()))
        lines.append(f"{kind}: {sum(at.values()):,} injected, {alive:,} survived ({where})")
    total, alive = sum(INJECTED.values()), sum(SURVIVED.values())
    return [*lines, f"in all: {total:,} injected, {alive:,} survived"]


# -- in the process ------------------------------------------------------------------------------


def _full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _no_memory() -> None:
    import torch

    torch.empty(2**50)  # the allocator's own refusal


ACTIONS: dict[str, Callable[[], None]] = {
    "kill -9": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "Ctrl-C": lambda: os.kill(os.getpid(), signal.SIGINT),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "full disk": _full_disk,
    "out of memory": _no_memory,
}


class Hooks:
    """Says on the board what the process is at, and lets the fault happen."""

    def __init__(self, board: Path, fault: Fault | None) -> None:
        self.board, self.fault, self.left = board, fault, fault.nth if fault else 0
        self.phases = [START]
        self._show()

    def _show(self, happened: bool = False) -> None:
        self.happened = happened or getattr(self, "happened", False)
        text = f"{self.phases[-1]}|{'happened' if self.happened else ''}".ljust(64)
        with self.board.open("r+b" if self.board.exists() else "wb", buffering=0) as stream:
            stream.write(text.encode())

    def reached(self, phase: str, moment: str = "", before: Callable[[], None] = int) -> None:
        """The process is there; `before` makes ready what the fault needs."""
        fault = self.fault
        if fault is None or (fault.phase, fault.moment) != (phase, moment):
            return
        self.left -= 1
        if self.left == 0:
            self._show(happened=True)
            before()
            ACTIONS[fault.kind]()

    def hook(self, phase: str, target: str) -> None:
        """Replace a function or method by one that says so."""
        module, _, path = target.partition(":")
        *owners, name = path.split(".")
        owner: Any = __import__(module, fromlist=["_"])
        for part in owners:
            owner = getattr(owner, part)
        function = getattr(owner, name)

        def hooked(*args: Any, **kwargs: Any) -> Any:
            self.phases.append(phase)
            self._show()
            try:
                self.reached(phase)
                return function(*args, **kwargs)
            finally:
                self.phases.pop()
                self._show()

        setattr(owner, name, hooked)

    def hook_files(self) -> None:
        """os.fsync and os.replace, through which every file goes."""
        fsync, replace = os.fsync, os.replace

        def hooked_fsync(handle: int) -> None:
            path = os.readlink(f"/proc/self/fd/{handle}")
            phase = phase_of(re.sub(r"\.([^/]+)\.[0-9a-f]{32}$", r"\1", path))
            if phase and os.path.isfile(path):
                self.phases.append(phase)
                self._show()
                self.reached(phase, TORN, lambda: _tear(handle, path))
            fsync(handle)
            if phase == "row":  # it has its name already
                self.reached(phase, WRITTEN)
            if phase and os.path.isfile(path):
                self.phases.pop()
                self._show()

        def hooked_replace(source: Any, target: Any) -> None:
            phase = phase_of(str(target))
            if phase:
                self.reached(phase, UNNAMED)
            replace(source, target)
            if phase:
                self.reached(phase, WRITTEN)

        os.fsync, os.replace = hooked_fsync, hooked_replace


def phase_of(path: str) -> str | None:
    """In which a file is written."""
    return next((phase for phase, pattern in FILES.items() if re.search(pattern, path)), None)


def _tear(handle: int, path: str) -> None:
    """Leave half of a file, or of the last line of rows."""
    data = Path(path).read_bytes()
    start = data[:-1].rfind(b"\n") + 1 if path.endswith(".jsonl") else 0
    os.truncate(path, start + (len(data) - start) // 2)


def _leave_out_what_is_slow() -> None:
    """Counting FLOP and drawing curves: most of a process's time, and not what is tested here.
    The report's files are written all the same."""
    from deepal_galot.report import page, write
    from generators.base import Size
    from generators.diffusion import DiffusionGenerator

    DiffusionGenerator.size = classmethod(lambda cls, config: Size(1e6, 1e6, 100))
    page.render = write.render = lambda draw, kinds, look=None: dict.fromkeys(kinds, SVG)


def _play(argv: list[str], log: str, board: str, fault: Fault | None) -> None:
    """In the forked process: the command, with its output in a file."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hooks = Hooks(Path(board), fault)
    for phase, target in CALLS.items():
        hooks.hook(phase, target)
    hooks.hook_files()
    _leave_out_what_is_slow()
    from deepal_galot.cli import main

    code = main(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


# -- from outside --------------------------------------------------------------------------------

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([
    "deepal_galot.cli", "deepal_galot.campaign", "deepal_galot.jobs", "deepal_galot.plan",
    "deepal_galot.report.command", "deepal_galot.report.write", "generators.diffusion", "diffusers",
    "diffusers.pipelines.stable_diffusion", "transformers.models.clip", "sklearn.datasets",
    "scipy.stats", "matplotlib.figure", "torchvision",
])  # fmt: skip


class Command:
    """A command in a process of its own, under way."""

    def __init__(self, scratch: Path, argv: Sequence[object], fault: Fault | None = None) -> None:
        """
        Args:
            scratch: an existing folder for its output and its board.
        """
        self.log, self.board = scratch / "log", scratch / "board"
        self.board.write_bytes(f"{START}|".encode().ljust(64))
        self.log.write_bytes(b"")
        args = ([str(a) for a in argv], str(self.log), str(self.board), fault)
        self.process = _context.Process(target=_play, args=args)
        self.process.start()
        self.started = time.perf_counter()

    def signal(self, number: int) -> bool:
        """Send it; whether it was still running."""
        if self.process.exitcode is None:
            os.kill(self.process.pid, number)
            return True
        return False

    def wait_for_work(self) -> None:
        """Until it is in a phase, or has ended."""
        while self.board.read_text().startswith(START) and self.process.exitcode is None:
            time.sleep(0.001)

    def wait(self, seconds: float = 300) -> Outcome:
        """Its end.

        Raises:
            TimeoutError: there is none; it is killed.
        """
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"no end after {seconds} s: {self.log.read_text()[-2000:]}")
        self.seconds = time.perf_counter() - self.started
        phase, _, happened = self.board.read_text().strip().partition("|")
        return Outcome(self.process.exitcode, self.log.read_text(), phase, bool(happened))


class Scenario:
    """A command line, what it gives when nothing goes wrong, and whether it gives that again.

    Attributes:
        seconds: that it takes.
    """

    def __init__(self, scratch: Path, args: Sequence[object]) -> None:
        self.scratch, self.args = scratch, list(args)
        self.whole = scratch / "whole"
        command = self.start(self.whole)
        done = command.wait()
        assert done.code == 0, done.said
        self.seconds = command.seconds
        self.rows, self.images = rows_of(self.whole), image_hashes(self.whole)
        assert self.rows

    def start(self, output: Path, fault: Fault | None = None) -> Command:
        return Command(self.scratch, [*self.args, "--output", output], fault)

    def play(self, output: Path, fault: Fault | None = None) -> Outcome:
        return self.start(output, fault).wait()

    def kept(self, output: Path, before: dict[str, list[dict]]) -> dict[str, list[dict]]:
        """The whole rows there, which must be those before and perhaps more, and right."""
        from deepal_galot.results import RunFolder

        now = {}
        for file in sorted(output.glob("*/*/*/seed*/config.json")):
            run = str(file.parent.relative_to(output))
            rows = RunFolder.open(file.parent).rows()
            now[run] = [{k: v for k, v in r.items() if "seconds" not in k} for r in rows]
            assert now[run] == self.rows[run][: len(now[run])]
        assert all(len(now[run]) >= len(rows) for run, rows in before.items()), "rows are lost"
        return now

    def ends_alike(self, output: Path) -> None:
        """The same command ends with the same rows and the same images."""
        done = self.play(output)
        assert done.code == 0, done.said
        assert rows_of(output) == self.rows
        assert image_hashes(output) == self.images
