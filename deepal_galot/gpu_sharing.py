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
from collections.abc import Iterator, Sequence

import torch

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
QUIT = "quit -t 5\n"  # seconds that clients have to end
# What a client does first; argument: the device's number.
CONNECT = """
import ctypes, sys
cuda, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
number = cuda.cuInit(0) or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), int(sys.argv[1]))
sys.exit(f"a client gets CUDA error {number}" if number else 0)
"""


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
        missing = _run([CONTROL, "-d"], own)
        if missing is None:
            missing = _run([sys.executable, "-c", CONNECT, str(device.index or 0)], own)
            if missing is not None:
                _run([CONTROL], own, QUIT)
        if missing is not None:
            print(f"the runs take turns on the GPU: {missing}", file=sys.stderr)
            yield
            return
        os.environ.update(own)
        try:
            yield
        finally:
            for name in own:
                del os.environ[name]
            _run([CONTROL], own, QUIT)


def _run(command: Sequence[str], own: dict[str, str], said: str = "") -> str | None:
    """Run a program of the service; what is wrong, or None."""
    program = shutil.which(command[0])
    if program is None:
        return f"{command[0]} is not on the PATH"
    try:
        done = subprocess.run(
            [program, *command[1:]], input=said, env=os.environ | own, text=True, timeout=30,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{CONTROL}: {error}"
    wrong = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return f"{CONTROL}: {wrong[-1]}" if done.returncode else None
