"""Locks for a disk on which flock does not work (NFS without its lock service, Lustre, some FUSE): files with names.

.lock-<alone|shared>-<process id>-<host>   in the folder that is held

Each process writes its own file before it looks for those of others, so that of two at once both may be refused, but
never both go on. A file that an ended process left is removed on its own host, which alone knows that it has ended.
"""

import errno
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from facefold.utils.errors import InputError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # what flock answers there
_ANNOUNCED = "FACEFOLD_LOCK_FILES"  # in the environment, so that all processes of a job say it once


@contextmanager
def hold_lock_file(directory: Path, wait: bool, shared: bool) -> Iterator[None]:
    """Hold `directory` as `files.lock_directory` does, by a file; say once that locks do not work there."""
    if _ANNOUNCED not in os.environ:
        os.environ[_ANNOUNCED] = "1"
        print(f"{directory}: locks do not work on this disk; files named .lock-* say who works there", flush=True)
    own = directory / f".lock-{'shared' if shared else 'alone'}-{os.getpid()}-{os.uname().nodename}"
    announced = False
    while others := _holders(directory, shared) or _holders_after(own, shared):
        path, process = others[0]
        text = f"{directory} is in use by {process}"
        if not wait:
            raise InputError(
                f"{text}; wait for it, or end it, then run the same command again. If it has ended already, delete "
                f"{path}"
            )
        if not announced:
            print(f"{text}, which is waited for; if it has ended already, delete {path}", flush=True)
        announced = True
        time.sleep(random.uniform(0.1, 0.3))  # so that two that wait do not meet at every turn
    try:
        yield
    finally:
        own.unlink(missing_ok=True)


def _holders_after(own: Path, shared: bool) -> list[tuple[Path, str]]:
    """Write the file `own`, and take it back if there are others by now; return these."""
    own.touch()
    others = _holders(own.parent, shared)
    if others:
        own.unlink(missing_ok=True)
    return others


def _holders(directory: Path, shared: bool) -> list[tuple[Path, str]]:
    """Return the files of other processes that are in the way, and whose they are; remove what ended ones left."""
    this_host, holders = os.uname().nodename, []
    for path in sorted(directory.glob(".lock-*")):
        match = re.fullmatch(r"\.lock-(alone|shared)-(\d{1,9})-(.+)", path.name)
        if not match or (shared and match[1] == "shared"):
            continue
        pid, host = int(match[2]), match[3]
        if host == this_host and not _is_running(pid):
            path.unlink(missing_ok=True)
        elif (pid, host) != (os.getpid(), this_host):  # else an earlier process of this id left it, as in a container
            holders.append((path, f"process {pid} on {host}"))
    return holders


def _is_running(pid: int) -> bool:
    try:
        with suppress(PermissionError):  # another user's
            os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
