"""What a long step says while it works: bars on a terminal, plain lines elsewhere, nothing where it is told to be quiet."""

import fcntl
import os
import sys
import threading
from contextlib import suppress

from tqdm import tqdm

QUIET_VARIABLE = "FACEFOLD_QUIET"  # in the environment, so that the processes which a step starts are quiet as well
_ERASE = "\r\x1b[2K"  # the terminal's line, which may show the bar of another process


def be_quiet() -> None:
    """From now on no bar and no line on what is under way, here and in processes started from here."""
    os.environ[QUIET_VARIABLE] = "1"


def silence() -> object:
    """`be_quiet`, and print nothing at all from now on; returns the output that there was, for what is to be said still."""
    be_quiet()
    kept, sys.stdout = sys.stdout, open(os.devnull, "w")
    return kept


def is_quiet() -> bool:
    return os.environ.get(QUIET_VARIABLE) == "1"


def no_bar() -> bool | None:
    """tqdm's `disable`: True where it is to be quiet, else None, which shows a bar on a terminal only."""
    return True if is_quiet() else None


def print_progress(line: str, bar: tqdm | None = None) -> None:
    """A line on what is under way, above the bars where there are any."""
    if is_quiet():
        return
    if bar is None or bar.disable:
        print(line, flush=True)
    else:
        bar.write(_ERASE + line)


class TerminalLock:
    """tqdm's lock for the bars of processes that share a terminal: one draws at a time.

    A lock on the terminal's own file, which ends with its process, however that ends: a lock in shared memory would leave the
    others waiting for a process that was killed. Without a terminal that can be opened it is a lock of this process
    alone.
    """

    def __init__(self) -> None:
        self._threads, self._depth, self._terminal = threading.RLock(), 0, None
        if not sys.stderr.isatty():
            return
        with suppress(OSError):  # in a container, or as another user, the terminal's file may be out of reach
            self._terminal = os.open(os.ttyname(sys.stderr.fileno()), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)

    def acquire(self, *_, **__) -> bool:
        self._threads.acquire()
        self._depth += 1
        if self._depth == 1 and self._terminal is not None:
            fcntl.flock(self._terminal, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0 and self._terminal is not None:
            fcntl.flock(self._terminal, fcntl.LOCK_UN)
        self._threads.release()

    def __enter__(self) -> "TerminalLock":
        self.acquire()
        return self

    def __exit__(self, *_) -> None:
        self.release()
