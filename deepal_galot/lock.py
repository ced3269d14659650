"""A lock on a file for one process at a time. The system releases it when the process dies."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

LOOK_SECONDS = 0.5
FAR_BYTE = 2**20  # Windows forbids reading locked bytes; the holder's name is before them
NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextlib.contextmanager
def one_at_a_time(file: Path, what: str) -> Iterator[None]:
    """Hold a lock. If another process holds it, say so once and wait for its end.

    Uses flock(2) on a file that is never removed. Otherwise two processes could lock two files of
    one name. This works between processes of a machine on any local file system; and between
    machines on NFS since Linux 2.6.12 and on Lustre mounted with `flock`. A shared file system
    mounted with `localflock` or `nolock` has locks only within each machine. On one without locks,
    the run is played unlocked. In both cases RunFolder.append still notices another writer, after
    the loss of a round. On Windows it uses msvcrt.locking, which also works on network drives.

    Args:
        file: the lock file, made if missing; its folder must exist. Contains the holder's name.
        what: start of the line that is shown while waiting.
    """
    with file.open("a+", encoding="utf-8") as stream:
        if not _taken(stream):
            holder = file.read_text(encoding="utf-8").strip() or "another process"
            tqdm.write(f"{what}: {holder} is at work on it; waiting for its end", file=sys.stderr)
            while not _taken(stream):
                time.sleep(LOOK_SECONDS)
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {platform.node()}\n")
        stream.flush()
        yield  # closing the file releases the lock


def _taken(stream: TextIO) -> bool:
    """Try to take the lock; whether we hold it now. Also True if the file system has no locks."""
    try:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            stream.seek(FAR_BYTE)
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
    except BlockingIOError:
        return False
    except OSError as error:
        if fcntl is None:  # Windows' error if another process holds the lock
            return False
        if error.errno not in NO_LOCKS_HERE:
            raise
    return True
