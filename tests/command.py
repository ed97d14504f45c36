"""Run a step as a user does: in this process, which saves the seconds of importing torch, or in its own."""

import importlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from facefold import cli
from facefold.cli import run_main
from facefold.ensemble import methods
from facefold.models import recipe as recipes
from facefold.models import requirements
from facefold.training import workers
from facefold.utils import processes
from facefold.utils.console import QUIET_VARIABLE
from facefold.utils.errors import InputError

SRC = Path(__file__).resolve().parents[1] / "src"
RECIPE = """
backbone = "cnn3"
size = 16
width = 8
batch = 8
epochs = 2
augment = "none"
"""


def words(name: str, root: Path, *options: object) -> list[str]:
    """Return the command line of a step."""
    return [sys.executable, str(SRC / f"{name}.py"), "--root", str(root), *map(str, options)]


def apart(name: str, root: Path, *options: object, **more: str) -> CompletedProcess:
    """Run a step in its own process, in the folder `root`; `more` are further environment variables."""
    return subprocess.run(
        words(name, root, *options), capture_output=True, text=True, timeout=900, cwd=root, env={**os.environ, **more}
    )


@contextmanager
def _main(name: str, root: Path, options: tuple[object, ...]) -> Iterator[Callable[[], None]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words(name, root, *options)[1:])
        patch.setenv(QUIET_VARIABLE, "0")  # so that what --quiet puts there is gone afterwards
        for module in (cli, processes):
            patch.setattr(module, "stop_server", lambda: None)  # the next step of the tests takes the same one
        if root.is_dir():
            patch.chdir(root)
        yield importlib.import_module(name).main


def call(name: str, root: Path, *options: object) -> None:
    """Run a step's `main` in the folder `root`, if it exists; its errors are raised."""
    with _main(name, root, options) as main:
        main()


def train_here(folder: Path, patch: pytest.MonkeyPatch, **recipe_texts: str) -> None:
    """Write these recipes as the only ones, and train in this process."""
    folder.mkdir()
    for name, text in recipe_texts.items():
        (folder / f"{name}.toml").write_text(text)
    patch.setattr(recipes, "RECIPES_DIR", folder)
    work_here(patch)


def work_here(patch: pytest.MonkeyPatch) -> None:
    """Do what a step does in processes of its own in this process, which saves the seconds of each start."""
    for step in ("train", "sweep"):
        patch.setattr(importlib.import_module(step), "start_server", lambda: None)
    patch.setattr(workers, "run_jobs", run_jobs_here)
    patch.setattr(requirements, "_call_apart", call_here)


def run_jobs_here(jobs: list, devices: list[str], after: dict | None = None, may_start: Callable | None = None) -> None:
    """Do the jobs one after the other, each if it may start."""
    for job in jobs:
        if may_start is None or may_start(job, []):
            job.run(torch.device("cpu"), 0)


def few_methods(patch: pytest.MonkeyPatch) -> None:
    """Blend two classes by few methods, which saves the seconds of all others where a test is not about them."""
    few = {name: methods.METHODS[name] for name in ("mean", "best_single", "second_pass")}
    patch.setitem(methods.METHODS_OF_KIND, "binary", few)


def call_here(function: Callable, calls: list[tuple]) -> list:
    """Return what `requirements._call_apart` has a process return."""
    return [function(*call) for call in calls]


def refused(name: str, root: Path, *options: object) -> str:
    """Return the text of the `InputError` that a step ends with."""
    with pytest.raises(InputError) as caught:
        call(name, root, *options)
    return str(caught.value)


def run(name: str, root: Path, *options: object) -> CompletedProcess:
    """Run a step in this process; return its exit code and output. Other errors are raised, warnings go to pytest."""
    code = 0
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with _main(name, root, options) as main, redirect_stdout(out), redirect_stderr(err):
        try:
            run_main(main)
        except SystemExit as exit:
            code = exit.code
    return CompletedProcess([name, *options], code, *(stream.buffer.getvalue().decode() for stream in (out, err)))
