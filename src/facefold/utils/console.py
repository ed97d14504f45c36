"""What a long step prints while it works: bars on a terminal, plain lines elsewhere, nothing if it is to be quiet."""

from __future__ import annotations

import fcntl
import math
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from facefold.utils.errors import InputError

if TYPE_CHECKING:
    from tqdm import tqdm

QUIET_VARIABLE = "FACEFOLD_QUIET"  # in the environment, so that the processes a step starts are quiet as well
_ERASE = "\r\x1b[2K"  # the terminal's line, which may show the bar of another process


@contextmanager
def quiet(on: bool = True) -> Iterator[None]:
    """Show no bar and no progress in the block if `on`, here and in processes started from here."""
    before = os.environ.get(QUIET_VARIABLE)
    if on:
        os.environ[QUIET_VARIABLE] = "1"
    try:
        yield
    finally:  # a notebook goes on
        if on and before is None:
            del os.environ[QUIET_VARIABLE]
        elif on:
            os.environ[QUIET_VARIABLE] = before


@contextmanager
def silence(on: bool = True) -> Iterator[TextIO]:
    """Be quiet and print nothing at all in the block if `on`; yield the standard output of before."""
    stdout = sys.stdout
    with quiet(on), open(os.devnull, "w") as nothing, redirect_stdout(nothing if on else stdout):
        yield stdout


def is_quiet() -> bool:
    return os.environ.get(QUIET_VARIABLE) == "1"


def no_bar() -> bool | None:
    """Return tqdm's `disable`: True if it is to be quiet, else None, which shows a bar on a terminal only."""
    return True if is_quiet() else None


def progress_bar(items: Iterable, total: int, desc: str, unit: str = "img") -> tqdm:
    """Return `items` with a bar, which fewer than 1,000 do not need.

    Args:
        items: What is iterated over.
        total: Their number.
        desc: What the bar is called.
        unit: What one of them is.
    """
    from tqdm import tqdm

    return tqdm(items, total=total, desc=desc, unit=unit, disable=total < 1000 or no_bar())


def print_progress(line: str, bar: tqdm | None = None) -> None:
    """Print a line unless it is to be quiet; above the bars if there are any."""
    if is_quiet():
        return
    try:
        if bar is None or bar.disable:
            print(line, flush=True)
        else:
            bar.write(_ERASE + line)
    except BrokenPipeError:  # as in `train.py | head`: nobody reads on, and the work goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def short_path(path: Path) -> Path:
    """Return an absolute path as seen from the working directory, if it is below that."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def format_duration(seconds: float) -> str:
    """Return a duration as `42 s`, `7 min` or `1 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of cells as lines of text, each column as wide as its widest cell."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def parse_budget(text: str, option: str = "--budget") -> float:
    """Return the seconds that `90m`, `1.5h`, `8h30m` or `45s` means. Raise `InputError` for anything else."""
    match = re.fullmatch(r"(?:(\d+)h(?=\d+m))?(\d+|\d*\.\d+)([smh])", text)
    seconds = float(match[2]) * {"s": 1, "m": 60, "h": 3600}[match[3]] + 3600 * int(match[1] or 0) if match else 0.0
    if not seconds:
        raise InputError(f"{option} {text}: a number and a unit are needed, such as 90m, 1.5h, 8h30m or 600s")
    return seconds


class TerminalLock:
    """tqdm's lock for the bars of processes that share a terminal: one draws at a time.

    It is a lock on the terminal's own file, which ends with its process, however that ends: a lock in shared memory
    would leave the others waiting for a process that was killed. Without a terminal that can be opened it is a lock of
    this process alone.
    """

    def __init__(self) -> None:
        self._threads, self._depth, self._terminal = threading.RLock(), 0, None
        if sys.stderr is None or not sys.stderr.isatty():
            return
        with suppress(OSError):  # in a container, or as another user, the terminal's file may be out of reach
            self._terminal = os.open(os.ttyname(sys.stderr.fileno()), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)

    def acquire(self, *_, **__) -> bool:
        self._threads.acquire()
        self._depth += 1
        if self._depth == 1 and self._terminal is not None:
            with suppress(OSError):  # where locks do not work, bars may overlap
                fcntl.flock(self._terminal, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0 and self._terminal is not None:
            with suppress(OSError):
                fcntl.flock(self._terminal, fcntl.LOCK_UN)
        self._threads.release()

    def __enter__(self) -> TerminalLock:
        self.acquire()
        return self

    def __exit__(self, *_) -> None:
        self.release()
