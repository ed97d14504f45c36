import os
import runpy
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from facefold.utils import environment

PROJECT = Path(__file__).resolve().parents[1]


def test_this_environment_has_what_is_asked_for():
    command = [sys.executable, str(PROJECT / "src" / "facefold" / "utils" / "environment.py"), "pytest"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_is_missing_or_too_old_is_reported():
    assert environment.find_shortfalls(["no-such-package>=1.0", "nor-this"]) == ["no no-such-package", "no nor-this"]
    expected = [f"numpy {version('numpy')}, 999.1 or newer is needed"]
    assert environment.find_shortfalls(["numpy>=999.1", "tqdm>=4.0"]) == expected


def test_an_older_python_is_named_though_it_lacks_tomllib(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    monkeypatch.setattr(sys, "version", "3.10.13 (main)")
    with pytest.raises(SystemExit, match="^1$"):
        runpy.run_path(environment.__file__, run_name="__main__")
    monkeypatch.undo()
    assert capsys.readouterr().out == "Python 3.10.13, 3.11 to 3.13 is needed\n"


def test_another_distribution_of_opencv_counts(monkeypatch):
    monkeypatch.setitem(environment.ALTERNATIVES, "no-such-package", ("nor-this", "numpy"))
    assert environment.find_shortfalls(["no-such-package>=1.0"]) == []


def test_versions_are_compared_by_number():
    assert environment.parse_version("2.15.0+cu132") == (2, 15, 0)
    assert environment.parse_version("2.10") > environment.parse_version("2.9.1")
    assert environment.parse_version("unknown") == ()


def test_the_pins_satisfy_the_floors():
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    for requirement in tomllib.loads(environment.PYPROJECT.read_text())["project"]["dependencies"]:
        name, _, minimum = requirement.partition(">=")
        assert environment.parse_version(pins[name]) >= environment.parse_version(minimum)


def test_every_line_of_the_setup_is_valid_bash():
    for script in ("run_all.sh", "run_tests.sh", "src/setup.sh", ".ci/run"):
        assert subprocess.run(["bash", "-n", str(PROJECT / script)]).returncode == 0


@pytest.fixture
def elsewhere(tmp_path):
    """Copy the scripts, with stand-ins for the environment and the job, which says how it was called."""
    project = tmp_path / "the project"
    (project / "src").mkdir(parents=True)
    shutil.copy(PROJECT / "run_all.sh", project)
    (project / "src" / "setup.sh").write_text(
        'project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)\nset_up() { PYTHON=echo; }\n'
    )
    return project


@pytest.mark.parametrize("shell", [["sh"], ["bash"], ["bash", "--posix"], []])
def test_the_script_runs_by_any_shell_and_by_a_link(elsewhere, tmp_path, shell):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "run_all").symlink_to("../the project/run_all.sh")
    for script in (elsewhere / "run_all.sh", tmp_path / "bin" / "run_all"):
        done = subprocess.run([*shell, script, "--root", "a b"], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == (f"{elsewhere}/src/run_all.py --root a b\n", "")


@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="not a clone")
def test_scripts_keep_the_line_ends_that_bash_reads():
    done = subprocess.run(
        [
            "git",
            "-C",
            PROJECT,
            "check-attr",
            "eol",
            "--",
            "run_all.sh",
            "src/setup.sh",
            "docs/cluster/slurm.sh",
            ".ci/run",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and all(line.endswith(": eol: lf") for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    "complete, active, used",
    [
        ("1", {"VIRTUAL_ENV": "/e"}, "bin/python3"),
        ("1", {"CONDA_PREFIX": "/e"}, "bin/python3"),
        ("1", {}, "the project/.venv/bin/python"),  # a Python in PATH that nobody activated
        ("", {"VIRTUAL_ENV": "/e"}, "the project/.venv/bin/python"),
    ],
)
def test_an_active_environment_with_the_packages_is_used_also_if_there_is_a_venv(
    elsewhere, tmp_path, complete, active, used
):
    shutil.copy(PROJECT / "src" / "setup.sh", elsewhere / "src")
    for name in ("requirements.txt", "requirements-weights.txt"):
        (elsewhere / name).write_text("")
    (elsewhere / ".venv").mkdir()
    (elsewhere / ".venv" / ".installed").write_text("4294967295 0\n")  # what cksum prints of nothing
    pythons = {elsewhere / ".venv" / "bin" / "python": "exit 0", tmp_path / "bin" / "python3": "test $ALL"}
    for python, line in pythons.items():
        python.parent.mkdir()
        python.write_text(f"#!/bin/sh\n{line}\n")
        python.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euc", 'source "$1/src/setup.sh"; set_up; echo "$PYTHON"', "bash", elsewhere],
        env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "ALL": complete, **active},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (f"{tmp_path / used}\n", "")
