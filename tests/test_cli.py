"""What every step shares: it starts without heavy imports, and answers arguments with exit code 2."""

import importlib.util
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

import blend
import run_all
import split
from facefold.cli import check_engine_options
from facefold.data.folds import GROUPINGS
from facefold.ensemble.leaks import LEAKS
from facefold.ensemble.methods import METHOD_NAMES, REGRESSION_METHOD_NAMES
from facefold.models.recipe import PROFILES
from facefold.utils.errors import InputError

SRC = Path(__file__).resolve().parents[1] / "src"
STEPS = sorted(path.stem for path in SRC.glob("*.py"))
HEAVY = ("torch", "torchvision", "timm", "sklearn", "scipy", "pandas", "numpy", "cv2", "albumentations", "matplotlib")
REPORT = "\nimport atexit, sys\natexit.register(lambda: print('imported', *sorted(sys.modules)))\n"


def imported(*command: str, tmp_path: Path) -> tuple[int, set[str], str]:
    """Run a step; return its exit code, the modules that it imported, and what it printed to standard error."""
    (tmp_path / "sitecustomize.py").write_text(REPORT)
    env = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env, timeout=300)
    line = next(line for line in done.stdout.splitlines() if line.startswith("imported "))
    return done.returncode, set(line.split()[1:]), done.stderr


@pytest.mark.parametrize("step", STEPS)
def test_help_imports_nothing_heavy(step, tmp_path):
    code, modules, _ = imported(str(SRC / f"{step}.py"), "--help", tmp_path=tmp_path)
    assert code == 0 and not modules & set(HEAVY)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("train",), "--recipe"),
        (("train", "--recipe", "lite0", "--device", "tpu"), "invalid choice: 'tpu'"),
        (("run_all", "--budget", "90"), "a number and a unit are needed"),
        (("run_all", "--profile", "big"), "invalid choice: 'big'"),
        (("blend", "--method", "best"), "invalid choice: 'best'"),
        (("predict",), "name photographs or folders of them"),
        (("submit",), "say what to do"),
        (("clean", "--top", "3"), "--top belongs to --write-corrections FILE"),
    ],
)
def test_errors_about_arguments_import_nothing_heavy(arguments, message, tmp_path):
    step, *options = arguments
    code, modules, error = imported(str(SRC / f"{step}.py"), *options, "--root", str(tmp_path / "r"), tmp_path=tmp_path)
    assert code == 2 and message in error and not modules & set(HEAVY)


def test_the_choices_of_the_options_are_those_of_the_library():
    assert set(blend.METHOD_CHOICES) == {*METHOD_NAMES, *REGRESSION_METHOD_NAMES} - {"auto"}
    assert tuple(LEAKS) == blend.LEAK_NAMES
    assert tuple(sorted(PROFILES)) == run_all.PROFILE_NAMES
    assert tuple(sorted(GROUPINGS)) == split.GROUPING_NAMES


def test_options_of_one_machine_are_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(
        InputError, match="^--engine ray: the cluster decides what runs side by side and when; leave --workers out$"
    ):
        check_engine_options(Namespace(engine="ray"), {"--workers": 2, "--budget": None})
    check_engine_options(Namespace(engine="local"), {"--workers": 2})


def test_the_engine_ray_without_its_package_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        InputError,
        match="^--engine ray needs the package ray, which is not installed: `pip install -r requirements-cluster.txt`",
    ):
        check_engine_options(Namespace(engine="ray"), {})
