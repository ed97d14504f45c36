"""What every step shares: the --root option, the exit codes, and how an error reaches a person.

Exit codes: 0 done, 2 bad input or usage, 130/143 stopped by a signal, 1 a fault of ours (with its traceback).
"""

import argparse
import errno
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from facefold.data.target import LABEL, Target
from facefold.errors import InputError
from facefold.processes import end_with_starter

PROJECT = Path(__file__).resolve().parents[2]


class Stopped(BaseException):
    """SIGTERM arrived. A BaseException, so that no handler for ordinary errors swallows it."""


def parser(doc: str) -> argparse.ArgumentParser:
    """An argument parser whose help is the step's docstring, with the --root option every step has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--root", type=Path, default=PROJECT, metavar="DIR",
                      help="the folder that holds competition/, folds/, runs/, submissions/ and cache/ (default: the project)")
    return made


def add_target(parser: argparse.ArgumentParser) -> None:
    """The option --target of the steps that work on one; everything made for it lies apart from the label's."""
    parser.add_argument("--target", type=Target, default=LABEL, metavar="COLUMN",
                        help="what is predicted: label (default), or a column of numbers of meta.csv, such as age, by regression")


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `1 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def run(main: Callable[[], None]) -> None:
    """Run a step's `main` and leave the process with the house's exit codes."""
    def on_sigterm(_signum, _frame):
        raise Stopped

    signal.signal(signal.SIGTERM, on_sigterm)
    end_with_starter()
    name = Path(sys.argv[0]).name
    try:
        main()
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(2)
    except KeyboardInterrupt:
        _stop(name, 130)
    except Stopped:
        _stop(name, 143)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nobody to tell, no traceback at exit
        raise SystemExit(1)
    except OSError as error:
        if not of_the_disk(error):
            raise
        print(f"{name}: {of_the_disk(error)}", file=sys.stderr)
        raise SystemExit(2)


def of_the_disk(error: OSError) -> str:
    """What a person can do about a full or locked disk; empty for another error."""
    mends = {errno.ENOSPC: "make room", errno.EDQUOT: "make room", errno.EACCES: "change the permissions, or choose another --root",
             errno.EPERM: "change the permissions, or choose another --root", errno.EROFS: "choose a --root that can be written"}
    mend = mends.get(error.errno)
    return f"{error.strerror}: {error.filename or 'writing'}; {mend}, then run the same command again: nothing is lost" if mend else ""


def _stop(name: str, code: int) -> None:
    print(f"\n{name}: stopped; nothing is lost, the same command goes on where this one ended", file=sys.stderr)
    raise SystemExit(code)
