"""What every step shares: the option --root, the exit codes, how an error reaches a person, and what the step cost.

Exit codes: 0 done, 2 bad input or usage or a file that the disk refuses, 130/143 stopped by a signal, 1 a fault of ours
(with its traceback).

Nothing heavy is imported here, nor by a step before its arguments are known: `--help` and errors in arguments answer at
once. Steps import what they work with inside their functions.
"""

import argparse
import atexit
import difflib
import io
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from facefold.task import LABEL, load_task
from facefold.training.trackers import CLIENT_VARIABLES
from facefold.utils.console import is_quiet
from facefold.utils.errors import InputError, disk_error_advice
from facefold.utils.files import lock_directory, read_json, write_json
from facefold.utils.processes import (
    STARTER,
    end_with_starter,
    kept_environment,
    open_standard_streams,
    stop_server,
    without_interrupt,
)

PROJECT = Path(__file__).resolve().parents[2]
_FOLDERS = ("competition", "folds", "runs", "submissions", "cache")
_TIMED = ("audit", "split", "train", "blend")  # the report's own time is not known when it is written


class Stopped(BaseException):
    """SIGTERM arrived. A BaseException, so that no handler for ordinary errors swallows it."""


class StepParser(argparse.ArgumentParser):
    """Check the folders, and remember the root or the target's folder, in which `run_main` records the step's cost."""

    target_root: Path | None = None
    keywords: Mapping[str, object] | None = None  # of a call from Python, in place of a command line

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and the message, with the option that was probably meant if it is about an unknown one.

        In a call from Python raise `InputError` instead: a notebook goes on.
        """
        _, unrecognized, words = message.partition("unrecognized arguments: ")
        if unrecognized:
            known = [name for action in self._actions for name in action.option_strings]
            options = [word.partition("=")[0] for word in words.split() if word.startswith("-")]
            meant = [name for option in options for name in difflib.get_close_matches(option, known, 1)]
            message += f" (did you mean {', '.join(meant)}?)" if meant else ""
        if StepParser.keywords is not None:
            raise InputError(message)
        super().error(message)

    def _command_line(self, keywords: Mapping[str, object]) -> list[str]:
        """Return the words of a command line for the keyword arguments of a call from Python.

        `no_detect=True` is --no-detect, `recipe=["a", "b"]` is --recipe a,b and `settings={"size": 160}` is -o
        size=160; an option that may be repeated is, for each of several values. None and False leave it out.
        """
        words = []
        for name, value in keywords.items():
            option = f"--{name.replace('_', '-')}"
            action = next((one for one in self._actions if name == one.dest or option in one.option_strings), None)
            if action and (value is None or value is False):
                continue
            option = action.option_strings[0] if action else option
            if value is True:
                words.append(option)
            elif action and isinstance(action.default, list):
                words += [f"{option}={text}" for text in _as_texts(value)]
            else:
                words.append(f"{option}={','.join(_as_texts(value))}")
        return words

    def parse_args(self, *args, **kwargs):
        if StepParser.keywords is not None:
            args = (self._command_line(StepParser.keywords),)
        parsed = super().parse_args(*args, **kwargs)
        if "target" in parsed:
            parsed.target = load_task(parsed.root, parsed.target)
        target_root = getattr(parsed, "target", LABEL).directory(parsed.root)
        parent = os.path.dirname(os.path.realpath(parsed.root))
        if not os.path.lexists(parsed.root) and not Path(parent).is_dir():
            raise InputError(f"--root {parsed.root}: there is no folder {parent}; create it, or fix the path")
        for base in (parsed.root, target_root):
            for folder in (base, *(base / name for name in _FOLDERS)):
                if os.path.lexists(folder) and not folder.is_dir():
                    raise InputError(
                        f"{folder} has to be a folder, and is a file or a link to nothing; move it away, or choose "
                        "another --root"
                    )
        _use_writable_folders(parsed.root)
        StepParser.target_root = target_root
        return parsed


def _as_texts(value: object) -> list[str]:
    """Return the values of an option as on a command line: `a`, `b` of a list, `a=1`, `b=true` of a dictionary."""
    if isinstance(value, Mapping):
        return [f"{key}={','.join(_as_texts(item))}" for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    return [str(value).lower() if isinstance(value, bool) else str(value)]


def _use_writable_folders(root: Path) -> None:
    """Keep temporary files and matplotlib's cache in root/cache where the system's own folders cannot be written.

    They are hidden there, as they are no results of a step.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        folder = (root / "cache" / ".tmp").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        atexit.register(_remove_if_empty, folder, folder.parent)
        os.environ["TMPDIR"] = str(folder)
        _require_temporary_files(folder)
    if not os.access(os.path.expanduser("~"), os.W_OK):
        os.environ.setdefault("MPLCONFIGDIR", str((root / "cache" / ".matplotlib").resolve()))


def _remove_if_empty(*folders: Path) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _require_temporary_files(folder: Path) -> None:
    """Raise `InputError` unless temporary files can be written: torch, for one, cannot be imported without."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise InputError(
            f"temporary files can be written neither in the system's folders nor in {folder}: make room on the disk, "
            "raise the limit on file sizes (ulimit -f), or name a folder with TMPDIR"
        ) from None


def build_parser(doc: str) -> StepParser:
    """Return an argument parser whose help is the step's docstring, with the option --root that every step has."""
    parser = StepParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root",
        type=path_argument,
        default=PROJECT,
        metavar="DIR",
        help="the folder of competition/, folds/, runs/, submissions/ and cache/ (default: the project)",
    )
    return parser


def root_option(root: Path) -> str:
    """Return what a command for this root has after the step's name: nothing if the root is the project."""
    return "" if root == PROJECT else f" --root {shlex.quote(str(root))}"


def path_argument(text: str) -> Path:
    """Return the path that an option names. Refuse what is none on this machine, for the type of an argument."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty (a variable of the shell that is not set?)")
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is a URL; a path on this machine is needed (download it, or mount the bucket: docs/cluster.md)"
        )
    if re.match(r"[A-Za-z]:[\\/]|\\\\", text):
        raise argparse.ArgumentTypeError(
            rf"{text} is a path of Windows; this runs in Linux (WSL2), where C:\data is called /mnt/c/data"
        )
    if text.startswith("~") and not os.path.lexists(text):
        raise argparse.ArgumentTypeError(
            f"{text}: the shell does not replace a ~ in quotes; leave the quotes out, or write $HOME"
        )
    variable = re.search(r"\$(\w+|\{\w+\})", text)
    if variable and not os.path.lexists(text):
        raise argparse.ArgumentTypeError(
            f"{text}: the shell does not replace {variable[0]} in single quotes; use double quotes"
        )
    return Path(text)


@contextmanager
def hold_root(root: Path, alone: bool = False) -> Iterator[None]:
    """Hold `root` for this step: alone if it changes what all others read, else with others that share it.

    A step that a whole job started does nothing, for the job holds the root. Raise `InputError` with the process id if
    another one is in the way.
    """
    if STARTER in os.environ or not (alone or root.is_dir()):
        yield
    else:
        with lock_directory(root, shared=not alone):
            yield


def run_main(main: Callable[[], object]) -> None:
    """Run a step's `main` and exit with the documented exit codes."""
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is not
            stream.reconfigure(errors="backslashreplace")  # the name of a file may not be UTF-8
    name = Path(sys.argv[0]).name
    try:
        with _stop_at_sigterm(), step_in_progress(name.removesuffix(".py")):
            end_with_starter()
            main()
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        _exit_stopped(name, 130)
    except Stopped:
        _exit_stopped(name, 143)
    except BrokenPipeError:
        # The reader left: nobody to tell, no traceback at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def call_main(name: str, main: Callable[[], object], keywords: Mapping[str, object]) -> object:
    """Call the `main` of the step `name` from Python with these arguments, and return what it returns.

    What it raises is raised: nothing exits. Its arguments are checked by its own parser, and what a step changes of the
    process is as it was afterwards.
    """
    argv, sys.argv, StepParser.keywords = sys.argv, [f"{name}.py"], keywords
    try:
        with kept_environment(CLIENT_VARIABLES), step_in_progress(name):
            return main()
    finally:
        sys.argv, StepParser.keywords = argv, None


@contextmanager
def step_in_progress(name: str) -> Iterator[None]:
    """Do what a step needs around its `main`, run as a command or called from Python, and record its cost.

    Raise `InputError` in place of an error of the disk, and of one that says that a package is missing.
    """
    started, cpu_started = time.perf_counter(), _cpu_seconds()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        with _signals_in_destructors():
            yield
            _write_cost(name, started, cpu_started)
    except ModuleNotFoundError as error:
        if (error.name or "facefold").startswith("facefold"):
            raise
        raise InputError(
            f"this Python has no {error.name}: run `source .venv/bin/activate`, or `./run_all.sh` once, which installs "
            "it there"
        ) from None
    except OSError as error:
        if not disk_error_advice(error):
            raise
        raise InputError(disk_error_advice(error)) from None


@contextmanager
def _stop_at_sigterm() -> Iterator[None]:
    """Raise `Stopped` at SIGTERM. Not in a notebook's thread: Python allows handlers in the main one alone."""

    def on_sigterm(_signum, _frame):
        raise Stopped

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _signals_in_destructors() -> Iterator[None]:
    """Raise a signal again a moment later if it arrives in a destructor, whose exceptions Python only prints."""

    def again(lost) -> None:
        if not isinstance(lost.exc_value, (Stopped, KeyboardInterrupt)):
            return before(lost)

        def on_alarm(_signum, _frame):
            raise kind

        kind = lost.exc_type
        signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        return None

    before, sys.unraisablehook = sys.unraisablehook, again
    try:
        yield
    finally:
        sys.unraisablehook = before


def run_step(name: str, *options: object) -> float:
    """Run one step in a process of its own; return its seconds. Exit with its exit code if that is not 0."""
    started = time.perf_counter()
    print(f"\n== {name}", flush=True)
    with without_interrupt():  # until the step is in `run_main`: while it imports, Ctrl-C would be a traceback
        process = subprocess.Popen(
            [sys.executable, str(PROJECT / "src" / f"{name}.py"), *map(str, options)],
            stdout=subprocess.DEVNULL if is_quiet() else None,
            env={**os.environ, STARTER: str(os.getpid())},
        )
    try:
        code = process.wait()
    except BaseException as stop:
        if isinstance(stop, KeyboardInterrupt):  # a terminal's Ctrl-C reached the step too: its own line comes first
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
        process.terminate()
        process.wait()
        raise
    if code < 0:
        cause = ", often for want of memory" if code == -signal.SIGKILL else ""
        print(
            f"{name}.py was killed (signal {-code}{cause}); nothing is lost, the same command continues where it ended",
            file=sys.stderr,
        )
    if code:
        raise SystemExit(code if code > 0 else 128 - code)
    return time.perf_counter() - started


def load_step_costs(root: Path) -> dict[str, dict]:
    """Return what each step cost when it last ran to its end, by its name.

    seconds, cpu_seconds (of its processes too), peak_memory_mb (of one process).
    """
    paths = {name: _cost_path(root, name) for name in _TIMED}
    return {name: read_json(path) for name, path in paths.items() if path.exists()}


def _cost_path(root: Path, name: str) -> Path:
    return root / "cache" / "steps" / f"{name}.json"


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process so far, and of those that it started and that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in usage)


def _write_cost(name: str, started: float, cpu_started: float) -> None:
    """Record what the step `name` cost since it started, by `time.perf_counter` and `_cpu_seconds`."""
    root = StepParser.target_root
    if name not in _TIMED or not root or not root.is_dir():
        return
    stop_server()
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cost = {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(_cpu_seconds() - cpu_started, 1),
        "peak_memory_mb": round(max(peaks) / (1 << 20 if sys.platform == "darwin" else 1 << 10)),
    }
    write_json(_cost_path(root, name), cost)


def _exit_stopped(name: str, code: int) -> None:
    if STARTER not in os.environ:  # else the job says it, once
        print(f"\n{name}: stopped; nothing is lost, the same command continues where this one ended", file=sys.stderr)
    raise SystemExit(code)
