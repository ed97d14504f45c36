"""What every step shares: the --root option, the exit codes, how an error reaches a person, and what it cost.

Exit codes: 0 done, 2 bad input or usage, 130/143 stopped by a signal, 1 a fault of ours (with its traceback).
"""

import argparse
import errno
import io
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from facefold.task import LABEL, Target
from facefold.utils.console import is_quiet
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory, read_json, write_json
from facefold.utils.processes import STARTER, end_with_starter, without_interrupt

PROJECT = Path(__file__).resolve().parents[2]
_TIMED = ("audit", "split", "train", "blend")  # the report's own time is not known when it is written


class Stopped(BaseException):
    """SIGTERM arrived. A BaseException, so that no handler for ordinary errors swallows it."""


def build_parser(doc: str) -> argparse.ArgumentParser:
    """An argument parser whose help is the step's docstring, with the --root option every step has."""
    made = _Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--root",
        type=Path,
        default=PROJECT,
        metavar="DIR",
        help="the folder that holds competition/, folds/, runs/, submissions/ and cache/ (default: the project)",
    )
    return made


def add_target_option(parser: argparse.ArgumentParser) -> None:
    """The option --target of the steps that work on one; everything made for it lies apart from the label's."""
    parser.add_argument(
        "--target",
        type=Target,
        default=LABEL,
        metavar="COLUMN",
        help="what is predicted: label (default), or a column of numbers of meta.csv, such as age, by regression",
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """The options of the steps that train on one machine or on a Ray cluster."""
    parser.add_argument(
        "--engine",
        default="local",
        choices=("local", "ray"),
        help="where folds are trained: on this machine (default), or ray",
    )
    parser.add_argument(
        "--address", default="auto", help="of the Ray cluster: auto (default), HOST:PORT, or local, begun for this step"
    )


def format_duration(seconds: float) -> str:
    """`42 s`, `7 min`, `1 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class _Parser(argparse.ArgumentParser):
    """Remembers the root that was asked for, or the target's place in it, for `run` to note there what the step cost."""

    root: Path | None = None

    def parse_args(self, *args, **kwargs):
        parsed = super().parse_args(*args, **kwargs)
        _Parser.root = getattr(parsed, "target", LABEL).directory(parsed.root)
        return parsed


@contextmanager
def hold_root(root: Path, alone: bool = False) -> Iterator[None]:
    """Hold `root` for this step: alone, where it changes what all others read, or with others that share it. A step that a whole
    job started has no need to: the job holds it. `InputError` with the process id when another one is in the way."""
    if STARTER in os.environ or not (alone or root.is_dir()):
        yield
    else:
        with lock_directory(root, shared=not alone):
            yield


def run_main(main: Callable[[], None]) -> None:
    """Run a step's `main` and leave the process with the house's exit codes."""

    def on_sigterm(_signum, _frame):
        raise Stopped

    signal.signal(signal.SIGTERM, on_sigterm)
    end_with_starter()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is not
            stream.reconfigure(errors="backslashreplace")  # the name of a file may not be UTF-8
    name = Path(sys.argv[0]).name
    started = time.perf_counter()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with _heard():
            main()
            _note(name.removesuffix(".py"), time.perf_counter() - started)
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(2)
    except KeyboardInterrupt:
        _stop(name, 130)
    except Stopped:
        _stop(name, 143)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the reader left: nobody to tell, no traceback at exit
        raise SystemExit(1)
    except OSError as error:
        if not disk_error_advice(error):
            raise
        print(f"{name}: {disk_error_advice(error)}", file=sys.stderr)
        raise SystemExit(2)


@contextmanager
def _heard() -> Iterator[None]:
    """A signal that arrives in a destructor, whose exceptions Python prints and forgets, arrives once more a moment later."""

    def again(lost) -> None:
        if not isinstance(lost.exc_value, (Stopped, KeyboardInterrupt)):
            return before(lost)

        def on_alarm(_signum, _frame):
            raise kind

        kind = lost.exc_type
        signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    before, sys.unraisablehook = sys.unraisablehook, again
    try:
        yield
    finally:
        sys.unraisablehook = before


def run_step(name: str, *options: object) -> float:
    """Run one step in a process of its own; returns its seconds. Leaves with the step's exit code when that is not 0."""
    started = time.perf_counter()
    print(f"\n== {name}", flush=True)
    with without_interrupt():  # until the step is in `run`: while it imports, Ctrl-C would be a traceback
        process = subprocess.Popen(
            [sys.executable, str(PROJECT / "src" / f"{name}.py"), *map(str, options)],
            stdout=subprocess.DEVNULL if is_quiet() else None,
            env={**os.environ, STARTER: str(os.getpid())},
        )
    try:
        code = process.wait()
    except BaseException as stop:
        if isinstance(
            stop, KeyboardInterrupt
        ):  # a terminal's Ctrl-C reached the step as well: its own line comes first
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
        process.terminate()
        process.wait()
        raise
    if code < 0:
        cause = ", often for want of memory" if code == -signal.SIGKILL else ""
        print(
            f"{name}.py was killed (signal {-code}{cause}); nothing is lost, the same command goes on where it ended",
            file=sys.stderr,
        )
    if code:
        raise SystemExit(code if code > 0 else 128 - code)
    return time.perf_counter() - started


def load_timings(root: Path) -> dict[str, dict]:
    """What each step cost when it was run to its end last, by its name: seconds, cpu_seconds (its processes' too),
    peak_memory_mb (of one process)."""
    found = {name: _timing(root, name) for name in _TIMED}
    return {name: read_json(path) for name, path in found.items() if path.exists()}


def _timing(root: Path, name: str) -> Path:
    return root / "cache" / "steps" / f"{name}.json"


def _note(name: str, seconds: float) -> None:
    if name in _TIMED and _Parser.root and _Parser.root.is_dir():
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        facts = {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(sum(part.ru_utime + part.ru_stime for part in used), 1),
            "peak_memory_mb": round(max(part.ru_maxrss for part in used) / unit),
        }
        write_json(_timing(_Parser.root, name), facts)


def disk_error_advice(error: OSError) -> str:
    """What a person can do about a full or locked disk; empty for another error."""
    mends = {
        errno.ENOSPC: "make room",
        errno.EDQUOT: "make room",
        errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
        errno.EACCES: "change the permissions, or choose another --root",
        errno.EPERM: "change the permissions, or choose another --root",
        errno.EROFS: "choose a --root that can be written",
    }
    mend = mends.get(error.errno)
    return (
        f"{error.strerror}: {error.filename or 'writing'}; {mend}, then run the same command again: nothing is lost"
        if mend
        else ""
    )


def _stop(name: str, code: int) -> None:
    if STARTER not in os.environ:  # else the job says it, once
        print(f"\n{name}: stopped; nothing is lost, the same command goes on where this one ended", file=sys.stderr)
    raise SystemExit(code)
