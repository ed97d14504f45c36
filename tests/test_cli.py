"""What every step shares: it starts without heavy imports, and answers arguments with exit code 2."""

import argparse
import errno
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from argparse import Namespace
from pathlib import Path

import pytest

import blend
import run_all
import split
import train
from command import call, refused, run, words
from facefold import cli
from facefold.cli import path_argument
from facefold.data.fold_methods import GROUPINGS
from facefold.data.preprocessing import Shape
from facefold.ensemble.leaks import LEAKS
from facefold.ensemble.methods import METHOD_NAMES, REGRESSION_METHOD_NAMES
from facefold.models.recipe import CLASSIFIERS, PROFILES
from facefold.options import add_seed_option, add_size_option, check_engine_options
from facefold.utils.errors import InputError, disk_error_advice
from facefold.utils.files import write_text

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


@pytest.mark.parametrize(
    "options, message",
    [
        (("a.jpg", "--recipes", "lite0"), "--recipes belongs to --test; leave it out"),
        (("--test", "--out", "p.csv"), "--out belongs to photographs; leave it out"),
        (("--test", "--no-detect"), "--no-detect belongs to photographs; leave it out"),
    ],
)
def test_predict_refuses_options_that_would_do_nothing(options, message, tmp_path):
    assert refused("predict", tmp_path, *options) == message


def test_a_picture_that_is_missing_is_named_before_torch_is_imported(tmp_path):
    code, modules, error = imported(
        str(SRC / "predict.py"), "no/such.jpg", "--root", str(tmp_path / "r"), tmp_path=tmp_path
    )
    assert (code, error) == (2, "predict.py: these images cannot be read:\n  - no/such.jpg is missing\n")
    assert not modules & {"torch", "sklearn", "timm"}


def test_a_process_that_plans_and_starts_jobs_imports_no_torch(tmp_path):
    code, modules, error = imported(
        "-c",
        f"import sys; sys.path.insert(0, {str(SRC)!r}); from facefold import runs; "
        "from facefold.ensemble import metrics; from facefold.models import requirements; "
        "from facefold.training import jobs, plan, workers; workers.LocalWorkers('cpu', None)",
        tmp_path=tmp_path,
    )
    assert code == 0 and "facefold.training.jobs" in modules, error
    assert not modules & {"torch", "timm", "albumentations", "sklearn"}


def test_the_choices_of_the_options_are_those_of_the_library():
    assert set(blend.METHOD_CHOICES) == {*METHOD_NAMES, *REGRESSION_METHOD_NAMES} - {"auto"}
    assert tuple(LEAKS) == blend.LEAK_NAMES
    assert tuple(sorted(PROFILES)) == run_all.PROFILE_NAMES
    assert tuple(sorted(GROUPINGS)) == split.GROUPING_NAMES
    assert train.CLASSIFIER_NAMES == CLASSIFIERS


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


SEEDED = [
    ("split",),
    ("train", "--recipe", "cnn3"),
    ("run_all",),
    ("import_utkface", "x"),
    ("compare", "--backbones", "x"),
]


@pytest.mark.parametrize("step, options", [(step, options) for step, *options in SEEDED])
@pytest.mark.parametrize("seed", ["4294967296", "-1", "1.5", "\u0663", ""])
def test_a_seed_has_one_rule_in_all_steps(tmp_path, capsys, step, options, seed):
    with pytest.raises(SystemExit) as caught:
        call(step, tmp_path, *options, f"--seed={seed}")
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(
        f"error: argument --seed: {seed}: a seed is a whole number from 0 to 4294967295\n"
    )


@pytest.mark.parametrize("step", ["split", "run_all"])
@pytest.mark.parametrize("folds", ["1", "0", "-3", "2.5"])
def test_too_few_folds_are_refused_before_anything_is_read(tmp_path, capsys, step, folds):
    with pytest.raises(SystemExit) as caught:
        call(step, tmp_path, f"--folds={folds}")
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(
        f"error: argument --folds: {folds}: at least 2 folds are needed, 5 are usual\n"
    )


def test_a_size_is_a_number_or_height_and_width(capsys):
    parser = argparse.ArgumentParser()
    add_size_option(parser, "", 224)
    assert parser.parse_args([]).size == 224 and parser.parse_args(["--size", "96"]).size == 96
    assert parser.parse_args(["--size", "192x128"]).size == Shape(height=192, width=128)
    for text in ("192x", "x128", "192x128x3", "-96x1", "1.5", "big"):
        with pytest.raises(SystemExit):
            parser.parse_args([f"--size={text}"])
        assert capsys.readouterr().err.endswith(
            f"error: argument --size: {text}: a size is a number of pixels, or height and width as 192x128\n"
        )


def test_the_largest_seed_is_one():
    parser = argparse.ArgumentParser()
    add_seed_option(parser, "")
    assert parser.parse_args(["--seed", "4294967295"]).seed == 2**32 - 1 and parser.parse_args([]).seed == 0


URL = "is a URL; a path on this machine is needed (download it, or mount the bucket: docs/cluster.md)"
WINDOWS = r"is a path of Windows; this runs in Linux (WSL2), where C:\data is called /mnt/c/data"


@pytest.mark.parametrize(
    "path, problem",
    [
        ("http://host/root", f"http://host/root {URL}"),
        ("s3://bucket", f"s3://bucket {URL}"),
        (r"C:\faces", rf"C:\faces {WINDOWS}"),
        ("d:/faces", f"d:/faces {WINDOWS}"),
        (r"\\host\faces", rf"\\host\faces {WINDOWS}"),
        ("", "the path is empty (a variable of the shell that is not set?)"),
        ("$HOME/x", "$HOME/x: the shell does not replace $HOME in single quotes; use double quotes"),
        ("a/${DATA}", "a/${DATA}: the shell does not replace ${DATA} in single quotes; use double quotes"),
        ("~/faces", "~/faces: the shell does not replace a ~ in quotes; leave the quotes out, or write $HOME"),
    ],
)
@pytest.mark.parametrize("step, option", [("split", "--root"), ("audit", "--data"), ("predict", "--out")])
def test_a_path_that_is_none_here_is_named(tmp_path, capsys, path, problem, step, option):
    with pytest.raises(SystemExit) as caught:
        call(step, tmp_path, option, path)
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: argument {option}: {problem}\n")


def test_paths_that_look_like_another_kind_are_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = ["~faces", "$faces", "5$", "a:b", "c/d"]
    for text in texts[:2]:
        Path(text).mkdir()
    assert [path_argument(text) for text in texts] == [Path(text) for text in texts]


@pytest.mark.parametrize("step, options", [("run_all", ()), ("audit", ("--synthetic",)), ("split", ())])
def test_a_root_in_a_folder_that_is_not_there_is_refused_and_not_created(tmp_path, step, options):
    assert refused(step, tmp_path / "tpyo" / "root", *options) == (
        f"--root {tmp_path}/tpyo/root: there is no folder {tmp_path}/tpyo; create it, or fix the path"
    )
    assert not (tmp_path / "tpyo").exists()


@pytest.mark.parametrize("name", ["", "cache", "runs", "folds", "submissions", "competition", "targets/age/runs"])
@pytest.mark.parametrize("kind", ["file", "link to nothing"])
def test_a_file_where_a_folder_should_be_is_one_line(tmp_path, name, kind):
    path = tmp_path / "root" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to("nowhere")
    done = run("split", tmp_path / "root", *(["--target", "age"] if "age" in name else []))
    assert (done.returncode, done.stderr) == (
        2,
        f"split.py: {path} has to be a folder, and is a file or a link to nothing; move it away, or choose another "
        "--root\n",
    )
    assert kind == "link to nothing" or path.read_text() == "mine"


@pytest.mark.parametrize(
    "code, path, line",
    [
        (errno.ENOTDIR, "a/b", "Not a directory: a/b; a file is where a folder should be; move it away"),
        (errno.EEXIST, "a", "File exists: a; a file is where a folder should be; move it away"),
        (
            errno.EISDIR,
            "a",
            "Is a directory: a; a folder is where a file should be; move it away, or name another file",
        ),
        (errno.ENAMETOOLONG, "a", "File name too long: a; choose a --root with a shorter path, or a shorter name"),
        (errno.EIO, None, "Input/output error: writing; the disk reports a fault; check it"),
        (errno.ESTALE, None, "Stale file handle: writing; the network disk has lost it; check the mount"),
        (errno.ELOOP, "a", "Too many levels of symbolic links: a; a link leads back to itself; remove it"),
        (errno.EMFILE, "a", "Too many open files: a; raise the limit on open files (ulimit -n)"),
        (errno.ENOENT, b"caf\xe9", "No such file or directory: caf\\udce9; check it"),
    ],
)
def test_an_error_of_the_disk_is_one_line(tmp_path, monkeypatch, code, path, line):
    monkeypatch.setattr(split, "split", lambda _: (_ for _ in ()).throw(OSError(code, os.strerror(code), path)))
    done = run("split", tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f"split.py: {line}, then run the same command again: nothing is lost\n",
    )


def test_a_rename_that_fails_names_its_target(tmp_path):
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_text(tmp_path / "out.csv", "text")
    assert disk_error_advice(caught.value).startswith(f"Is a directory: {tmp_path}/out.csv; a folder is where")


def test_an_error_without_a_file_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(split, "split", lambda _: (_ for _ in ()).throw(OSError(errno.ECONNREFUSED, "refused")))
    with pytest.raises(OSError, match="refused"):
        run("split", tmp_path)


@pytest.fixture
def no_temporary_folder(monkeypatch):
    """Make every folder for temporary files unusable, as in a read-only container."""
    for name in ("TMPDIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "/nowhere")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", None)
    candidates = tempfile._candidate_tempdir_list
    monkeypatch.setattr(
        tempfile,
        "_candidate_tempdir_list",
        lambda: [path for path in candidates() if path == os.environ.get("TMPDIR")],
    )


def test_without_a_folder_for_temporary_files_the_cache_takes_them(tmp_path, no_temporary_folder):
    with pytest.raises(FileNotFoundError):
        tempfile.gettempdir()
    assert refused("split", tmp_path) != ""
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(tmp_path / "cache" / ".tmp")


@pytest.mark.parametrize("left", [[], ["file"]])
def test_the_folder_for_temporary_files_is_removed_if_it_is_empty(tmp_path, left):
    for name in left:
        (tmp_path / name).write_text("")
    cli._remove_if_empty(tmp_path)
    assert tmp_path.exists() == bool(left)


@pytest.mark.parametrize("step, options", [("predict", ["x.jpg"]), ("split", [])])
def test_where_no_file_can_be_written_a_step_says_so_and_leaves_nothing(tmp_path, step, options):
    command = ["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", *words(step, tmp_path, *options)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f"{step}.py: temporary files can be written neither in the system's folders nor in {tmp_path}/cache/.tmp: make "
        "room on the disk, raise the limit on file sizes (ulimit -f), or name a folder with TMPDIR\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", ["/nowhere", None])
def test_without_a_home_matplotlib_keeps_its_cache_in_the_root(tmp_path, monkeypatch, home):
    monkeypatch.setenv("MPLCONFIGDIR", "/nowhere")
    monkeypatch.delenv("MPLCONFIGDIR")
    if home:
        monkeypatch.setenv("HOME", home)
    else:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(
            os.path, "expanduser", lambda path: path
        )  # what Python answers for a user it has no name of
    refused("split", tmp_path)
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / "cache" / ".matplotlib")
    refused("split", tmp_path / "other")
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / "cache" / ".matplotlib")  # what is set stays


def test_a_step_in_a_thread_has_no_handler_and_no_traceback(tmp_path):
    done = []
    thread = threading.Thread(target=lambda: done.append(run("split", tmp_path)))
    thread.start()
    thread.join()
    assert done[0].returncode == 2 and done[0].stderr.startswith(f"split.py: {tmp_path}/competition")


def test_a_step_leaves_the_handler_of_sigterm(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run("split", tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_quiet_step_leaves_the_output_of_a_notebook(tmp_path):
    stdout = sys.stdout
    assert refused("run_all", tmp_path, "--quiet", "--recipes", "no_such") != ""
    assert sys.stdout is stdout


def test_a_step_without_a_standard_error_ends_with_its_code(tmp_path):
    command = f'"{sys.executable}" "{SRC}/split.py" --root "{tmp_path}" 2>&-'
    assert subprocess.run(["bash", "-c", command], capture_output=True).returncode == 2


@pytest.mark.parametrize(
    "option, meant",
    [("--folds", " (did you mean --fold?)"), ("--folds folds", " (did you mean --fold?)"), ("--xyz=1", "")],
)
def test_an_option_with_a_typing_error_names_the_one_that_was_meant(tmp_path, capsys, option, meant):
    with pytest.raises(SystemExit) as stopped:
        call("train", tmp_path, "--recipe", "demo_cnn", *option.split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith(f"train.py: error: unrecognized arguments: {option}{meant}\n")


def test_without_the_packages_a_step_says_how_to_get_them(tmp_path):
    command = [sys.executable, "-S", str(SRC / "blend.py"), "--root", str(tmp_path)]  # -S: without installed packages
    done = subprocess.run(command, capture_output=True, text=True)
    advice = r"run `source \.venv/bin/activate`, or `\./run_all\.sh` once, which installs it there\n"
    assert done.returncode == 2 and re.fullmatch(
        rf"blend\.py: this Python has no (numpy|pandas): {advice}", done.stderr
    )


def test_a_command_names_the_root_unless_it_is_the_project(tmp_path):
    assert cli.root_option(cli.PROJECT) == ""
    assert cli.root_option(Path("/data/face gender")) == " --root '/data/face gender'"
