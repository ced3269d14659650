"""One GPU for several processes at the same time.

Without help a GPU runs one process's kernels, then another's, and those of a small batch leave most
of it idle. NVIDIA's Multi-Process Service, which comes with the driver, runs them side by side.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import torch

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
QUIT = "quit -t 5\n"  # seconds that clients have to end


@contextlib.contextmanager
def side_by_side(device: torch.device) -> Iterator[None]:
    """Processes that begin in this block and use the device run their kernels side by side.

    A daemon of this block's own serves them, unless the environment names one already. Where there
    is none to be had, they take turns, and a line says so.
    """
    if device.type != "cuda" or PIPES in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="mps", ignore_cleanup_errors=True) as folder:
        own = {PIPES: folder, LOGS: folder}
        missing = _control(["-d"], own)
        if missing:
            print(f"the runs take turns on the GPU: {missing}", file=sys.stderr)
            yield
            return
        os.environ.update(own)
        try:
            yield
        finally:
            for name in own:
                del os.environ[name]
            _control([], own, QUIT)


def _control(arguments: list[str], own: dict[str, str], said: str = "") -> str | None:
    """Run the daemon's control program; what is wrong, or None."""
    program = shutil.which(CONTROL)
    if program is None:
        return f"{CONTROL} is not on the PATH"
    try:
        done = subprocess.run(
            [program, *arguments], input=said, env=os.environ | own, text=True, timeout=30,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{CONTROL}: {error}"
    return f"{CONTROL}: {done.stderr.strip() or done.returncode}" if done.returncode else None
