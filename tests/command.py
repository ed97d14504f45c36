"""A step as a person runs it, but in this process: one of its own imports torch and the rest for seconds. test_run_all.py has them apart."""

import importlib
import io
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from facefold import step
from facefold.errors import InputError


@contextmanager
def _main(name: str, root: Path, options: tuple[object, ...]) -> Iterator[Callable[[], None]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", "--root", str(root), *map(str, options)])
        if root.is_dir():
            patch.chdir(root)
        yield importlib.import_module(name).main


def call(name: str, root: Path, *options: object) -> None:
    """A step's `main` in the folder `root`, where that is there; its errors are raised."""
    with _main(name, root, options) as main:
        main()


def refused(name: str, root: Path, *options: object) -> str:
    """The text of the `InputError` that a step ends with."""
    with pytest.raises(InputError) as caught:
        call(name, root, *options)
    return str(caught.value)


def run(name: str, root: Path, *options: object) -> CompletedProcess:
    """A step from its arguments to its exit code, likewise, with what it said; a fault of ours is raised."""
    code, handler = 0, signal.getsignal(signal.SIGTERM)
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with _main(name, root, options) as main, redirect_stdout(out), redirect_stderr(err):
        try:
            step.run(main)
        except SystemExit as ended:
            code = ended.code
        finally:
            signal.signal(signal.SIGTERM, handler)
    return CompletedProcess([name, *options], code, *(stream.buffer.getvalue().decode() for stream in (out, err)))
