"""One process at a time: a lock on a file, which the system drops when its holder dies."""

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
FAR_BYTE = 2**20  # Windows forbids reading what is locked; the holder's name comes before it
NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextlib.contextmanager
def one_at_a_time(file: Path, what: str) -> Iterator[None]:
    """Hold a lock; where another process holds it, say so once and wait for its end.

    It is flock(2) on a file that stays (were it removed, two could hold two files of one name).
    That holds between the processes of a machine on any local file system, and between machines on
    NFS since Linux 2.6.12 and on Lustre mounted with `flock`. A shared file system that is mounted
    with `localflock` or `nolock` has locks within each machine alone; one without any is worked on
    unlocked. There RunFolder.append still notices another writer, after the loss of a round.
    On Windows it is msvcrt.locking, which network drives have too.

    Args:
        file: is made; its folder must exist. Says who holds it.
        what: the line that is said while waiting begins with it.
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
        yield  # closing the file lets go


def _taken(stream: TextIO) -> bool:
    """Whether the lock is ours now; as good as ours where the file system has none."""
    try:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            stream.seek(FAR_BYTE)
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
    except BlockingIOError:
        return False
    except OSError as error:
        if fcntl is None:  # what Windows says of a lock that another holds
            return False
        if error.errno not in NO_LOCKS_HERE:
            raise
    return True
