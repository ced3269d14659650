"""`python -m deepal_galot.deepalplus`: run DeepALPlus's unmodified demo.py with GALOT added."""

from __future__ import annotations

import contextlib
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from ..device import compiler_fault
from ..errors import UserError, complain
from ..flags import Parser, set_environment
from ..stdio import mended_streams
from .bridges import cross
from .host import Host, check_folder, import_host, inside
from .plugin import Plugin, warn
from .settings import build_parser, parse_flags

# Packages that only some of DeepALPlus's data sets import: module -> package to install.
PACKAGES = {"cv2": "opencv-python-headless", "wilds": "wilds", "openml": "openml"}


@mended_streams()
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    set_environment()
    argv = list(sys.argv[1:] if argv is None else argv)
    with _interrupts() as heard:
        try:
            root, theirs, ours = split(argv)
            run(root, theirs, ours)
            return 0
        except (UserError, OSError) as error:  # OSError: e.g. a missing data file, a full disk
            return complain(error)
        except KeyboardInterrupt:
            heard.append(signal.SIGINT)
        except RuntimeError as error:
            fault = _fault(error)
            if fault is None:
                raise
            if not heard:
                return complain(fault)
    print("\ninterrupted: the same command starts again, and finds its images", file=sys.stderr)
    return 130


def _fault(error: RuntimeError) -> str | None:
    """The message for an error that the machine causes; None for a bug, which is raised again."""
    if "DataLoader worker" in str(error):
        return f"a process that loads images was killed, as happens when memory runs out: {error}"
    return compiler_fault(error)


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Record interrupts (SIGINT) in the list; they still raise KeyboardInterrupt.

    Ctrl-C also ends the processes that load images. torch may then raise a RuntimeError about them
    in place of KeyboardInterrupt, so the list shows that the user interrupted the run.
    """
    heard: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        signal.default_int_handler(number, frame)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)
    try:
        yield heard
    finally:
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, before)


def split(argv: Sequence[str]) -> tuple[Path, list[str], list[str]]:
    """(path of the checkout, DeepALPlus's flags, our flags). --help prints our flags and exits.

    Raises:
        UserError: --root without a path, or a flag of ours before the --.
    """
    theirs, ours = list(argv), []
    if "--" in theirs:
        at = theirs.index("--")
        theirs, ours = theirs[:at], theirs[at + 1 :]
    parser = build_parser()
    if {"-h", "--help"} & {*theirs, *ours}:
        parser.parse_args(["--help"])
    left = Parser(add_help=False, allow_abbrev=False)
    left.add_argument("--root", type=Path, default=Path.cwd())
    args, theirs = left.parse_known_args(theirs)
    for flag in theirs:
        if flag.partition("=")[0] in parser._option_string_actions:
            raise UserError(f"{flag} is GALOT's, not DeepALPlus's: write it behind a bare --")
    return args.root, theirs, ours


def run(
    root: Path,
    theirs: Sequence[str],
    ours: Sequence[str] = (),
    prepare: Callable[[Host], None] | None = None,
) -> None:
    """Run a checkout's demo.py.

    Args:
        root: the checkout.
        theirs: DeepALPlus's flags; ours: GALOT's.
        prepare: called with the imported modules before demo.py starts, e.g. to change args_pool.

    Raises:
        UserError: a fault that the user can mend.
    """
    flags = parse_flags(ours)
    check_folder(root)
    root = root.resolve()
    needed, bridges = cross(root)
    with bridges, inside(root):
        host = import_host()
        plugin = Plugin(host, flags, bool(ours))
        plugin.install()
        for bridge in needed:
            warn(f"bridge {bridge.name}: {bridge.reason}")
        if prepare is not None:
            prepare(host)
        sys.argv = ["demo.py", *theirs]
        try:
            # Not as __main__. Otherwise each loader worker that is spawned would run it again.
            runpy.run_path(str(root / "demo.py"), run_name="deepalplus_demo")
        except ModuleNotFoundError as error:
            if error.name not in PACKAGES:
                raise
            raise UserError(
                f"this data set of DeepALPlus is read with {error.name}, which is not installed: "
                f"pip install {PACKAGES[error.name]}"
            ) from error
