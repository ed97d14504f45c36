import subprocess
import sys
from pathlib import Path

import environment

PROJECT = Path(__file__).resolve().parents[1]


def test_this_environment_has_what_is_pinned():
    done = subprocess.run(
        [sys.executable, str(PROJECT / "src" / "environment.py"), "pytest"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_what_is_missing_or_too_old_is_said():
    assert environment.shortfalls("x==1  # no_such_module>=1.0\n", ["nor_this"]) == ["no no_such_module", "no nor_this"]
    (found,) = environment.shortfalls("numpy==1  # numpy>=999.1\ntqdm==4  # tqdm>=4.0\n", [])
    assert found.startswith("numpy ") and found.endswith(", 999.1 or newer is needed")


def test_lines_without_a_comment_are_not_asked_for():
    assert environment.shortfalls("no-such-package==1\n# numpy>=999 in a sentence\n", []) == []


def test_an_import_that_fails_is_said(tmp_path, monkeypatch):
    (tmp_path / "torn_module.py").write_text("raise ImportError('libtorn.so is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    assert environment.shortfalls("t==1  # torn_module>=1\n", []) == [
        "an import fails: ImportError: libtorn.so is missing"
    ]


def test_numbers():
    assert environment.numbers("2.15.0+cu132") == (2, 15, 0) and environment.numbers("2.10") > environment.numbers(
        "2.9.1"
    )
    assert environment.numbers("unknown") == ()


def test_every_line_of_the_set_up_is_valid_bash():
    for script in ("run_all.sh", "run_tests.sh", "src/setup.sh", ".ci/run"):
        assert subprocess.run(["bash", "-n", str(PROJECT / script)]).returncode == 0
