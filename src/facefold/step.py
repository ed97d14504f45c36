"""What every step shares: the --root option, the exit codes, and how an error reaches a person.

Exit codes: 0 done, 2 bad input or usage, 130/143 stopped by a signal, 1 a fault of ours (with its traceback).
"""

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from facefold import files
from facefold.errors import InputError
from facefold.processes import STARTER, end_with_starter

PROJECT = Path(__file__).resolve().parents[2]


class Stopped(BaseException):
    """SIGTERM arrived. A BaseException, so that no handler for ordinary errors swallows it."""


def parser(doc: str) -> argparse.ArgumentParser:
    """An argument parser whose help is the step's docstring, with the --root option every step has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--root", type=Path, default=PROJECT, metavar="DIR",
                      help="the folder that holds competition/, folds/, runs/, submissions/ and cache/ (default: the project)")
    return made


@contextmanager
def at_work(root: Path, alone: bool = False) -> Iterator[None]:
    """Hold `root` for this step: alone, where it changes what all others read, or with others that share it. A step that a whole
    job started has no need to: the job holds it. `InputError` with the process id when another one is in the way."""
    if STARTER in os.environ or not (alone or root.is_dir()):
        yield
    else:
        with files.locked(root, shared=not alone):
            yield


def run(main: Callable[[], None]) -> None:
    """Run a step's `main` and leave the process with the house's exit codes."""
    def on_sigterm(_signum, _frame):
        raise Stopped

    signal.signal(signal.SIGTERM, on_sigterm)
    end_with_starter()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is not
            stream.reconfigure(errors="backslashreplace")  # the name of a file may not be UTF-8
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
    mends = {errno.ENOSPC: "make room", errno.EDQUOT: "make room", errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
             errno.EACCES: "change the permissions, or choose another --root",
             errno.EPERM: "change the permissions, or choose another --root", errno.EROFS: "choose a --root that can be written"}
    mend = mends.get(error.errno)
    return f"{error.strerror}: {error.filename or 'writing'}; {mend}, then run the same command again: nothing is lost" if mend else ""


def _stop(name: str, code: int) -> None:
    if STARTER not in os.environ:  # else the job says it, once
        print(f"\n{name}: stopped; nothing is lost, the same command goes on where this one ended", file=sys.stderr)
    raise SystemExit(code)
