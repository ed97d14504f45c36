"""What every step shares: the --root option, the exit codes, and how an error reaches a person.

Exit codes: 0 done, 2 bad input or usage, 130/143 stopped by a signal, 1 a fault of ours (with its traceback).
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from facefold.errors import InputError

PROJECT = Path(__file__).resolve().parents[2]


class Stopped(BaseException):
    """SIGTERM arrived. A BaseException, so that no handler for ordinary errors swallows it."""


def parser(doc: str) -> argparse.ArgumentParser:
    """An argument parser whose help is the step's docstring, with the --root option every step has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--root", type=Path, default=PROJECT, metavar="DIR",
                      help="the folder that holds competition/, folds/, runs/, submissions/ and cache/ (default: the project)")
    return made


def run(main: Callable[[], None]) -> None:
    """Run a step's `main` and leave the process with the house's exit codes."""
    def on_sigterm(_signum, _frame):
        raise Stopped

    signal.signal(signal.SIGTERM, on_sigterm)
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


def _stop(name: str, code: int) -> None:
    print(f"\n{name}: stopped; nothing is lost, the same command goes on where this one ended", file=sys.stderr)
    raise SystemExit(code)
