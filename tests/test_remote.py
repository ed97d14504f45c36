"""Roots at a URL: a local folder's, and S3 as moto's server speaks it on loopback."""

import importlib
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from facefold import cli
from facefold.data.synthetic import write_synthetic_competition
from facefold.remote import FOLDER, Mirror, Url, mirror, place
from facefold.training import fold as fold_module
from facefold.training import workers
from facefold.utils.errors import InputError
from facefold.utils.files import write_text


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "copies"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def written(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        write_text(root / name.replace("__", "/"), text)


def names(folder: Path) -> list[str]:
    """Of the files in it, but for the one that marks a copy."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != ".copy"
    )


def test_what_differs_is_fetched_and_sent(home, tmp_path):
    written(home, folds__a="1", runs__r__b="2")
    copy = mirror(f"file://{home}/")
    assert copy.root.parent == tmp_path / "copies" and names(copy.root) == ["folds/a", "runs/r/b"]
    written(copy.root, folds__a="changed", folds__new="3")
    (copy.root / "runs" / "r" / "b").unlink()
    copy.push()
    assert names(home) == ["folds/a", "folds/new"] and (home / "folds" / "a").read_text() == "changed"
    copy.push()
    written(home, folds__a="by another machine", folds__new="4")
    written(copy.root, folds__a="lost", folds__own="5")
    (home / "folds" / "new").unlink()
    again = mirror(f"file://{home}")
    assert again.root == copy.root and names(again.root) == ["folds/a", "folds/own"]
    assert (again.root / "folds" / "a").read_text() == "by another machine"
    again.push()
    assert names(home) == ["folds/a", "folds/own"]


def test_a_copy_that_was_deleted_deletes_nothing(home):
    written(home, folds__a="1")
    shutil.rmtree(mirror(f"file://{home}").root)
    again = mirror(f"file://{home}")
    assert names(again.root) == ["folds/a"]
    again.push()
    assert names(home) == ["folds/a"]


def test_a_copy_that_is_removed_while_a_step_works_removes_nothing(home):
    written(home, folds__a="1", competition__train="2")
    copy = mirror(f"file://{home}")
    shutil.rmtree(copy.root)
    with pytest.raises(
        InputError,
        match=f"the copy of file://{home}, was removed while the step worked in it; nothing was removed there",
    ):
        copy.push()
    assert names(home) == ["competition/train", "folds/a"]


def test_locks_hidden_files_and_activations_stay_here(home):
    copy = mirror(f"file://{home}")
    for name in (
        "a.lock",
        ".part",
        "cache/.x/y",
        "cache/frozen/r/k/train_plain.npy",
        "cache/kept",
        "targets/age/cache/frozen/r/v",
    ):
        write_text(copy.root / name, "")
    copy.push()
    assert names(home) == ["cache/kept"]


def test_the_seal_of_a_run_is_sent_last_and_removed_first(home, monkeypatch):
    copy, calls = mirror(f"file://{home}"), []
    for method in ("put", "remove"):
        real = getattr(Url, method)
        monkeypatch.setattr(
            Url,
            method,
            lambda store, *args, real=real, method=method: (calls.append((method, str(args[-1]))), real(store, *args))[
                1
            ],
        )
    written(copy.root, **{"runs__r__fold_0__run.json": "1", "runs__r__fold_0__zzz": "1"})
    copy.push()
    assert calls == [("put", "runs/r/fold_0/zzz"), ("put", "runs/r/fold_0/run.json")]
    written(copy.root, **{"runs__r__fold_0__run.json": "22", "runs__r__fold_0__zzz": "22"})
    copy.push()
    assert calls[2:] == [("remove", "runs/r/fold_0/run.json"), *calls[:2]]


def test_an_exact_copy_of_a_part(home, tmp_path):
    written(home, runs__r__fold_0__a="1", runs__r__fold_1__a="1", cache__train_32px_x="2", cache__train_64px_x="3")
    copy = Mirror(tmp_path / "copy", Url(f"file://{home}"))
    for name in ("runs/r/fold_0/stale", "runs/r/fold_1/other", "cache/frozen/r/mine"):
        write_text(copy.root / name, "")
    copy.pull("runs/r/fold_0/", "cache/train_32px_", "cache/frozen/r/", exact=True)
    assert names(copy.root) == ["cache/frozen/r/mine", "cache/train_32px_x", "runs/r/fold_0/a", "runs/r/fold_1/other"]


def test_a_name_that_would_leave_the_folder_is_refused(home, monkeypatch):
    monkeypatch.setattr(Url, "names", lambda store, prefix: {"../outside": "1"})
    with pytest.raises(
        InputError, match=f"^file://{home}: the name '../outside' would leave the folder; remove that file there$"
    ):
        mirror(f"file://{home}")


def test_a_transfer_that_comes_short_is_told_and_leaves_nothing(home, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    written(home, folds__a="whole")
    monkeypatch.setattr(LocalFileSystem, "get_file", lambda system, there, here, **_: Path(here).write_text("w"))
    with pytest.raises(
        InputError, match=f"^file://{home}: folds/a came with other than its 5 bytes; run the same command again$"
    ):
        mirror(f"file://{home}")
    assert names(place(f"file://{home}", home)) == []


def test_the_steps_of_a_job_are_given_the_url(home, monkeypatch):
    url, calls = f"file://{home}", []
    monkeypatch.setattr(cli._Parser, "mirror", mirror(url))
    monkeypatch.setattr(
        cli.subprocess, "Popen", lambda arguments, **_: calls.append(arguments[2:]) or SimpleNamespace(wait=lambda: 0)
    )
    root = cli._Parser.mirror.root
    written(root, folds__a="1")
    cli.run_step("split", "--root", root, "--budget", root / "file")
    assert calls == [["--root", url, "--budget", str(root / "file")]] and names(home) == ["folds/a"]


def test_a_url_that_nothing_speaks_to(home):
    with pytest.raises(InputError, match="^zz://faces: Protocol not known: zz. It should be like s3://bucket/folder$"):
        mirror("zz://faces")


@pytest.fixture(scope="module")
def s3():
    """The URL of an empty bucket."""
    pytest.importorskip("s3fs", reason="the package s3fs is not installed: pip install -r requirements-cluster.txt")
    server = pytest.importorskip(
        "moto.server", reason="moto's server is not installed: pip install -r requirements-cluster.txt"
    )
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{running.get_host_and_port()[1]}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        import fsspec

        there = fsspec.filesystem("s3")
        if there.exists("bucket"):  # of an earlier set-up in this process, where pytest-xdist came back to this file
            there.rm(there.find("bucket"))
        else:
            there.mkdir("bucket")
        yield "s3://bucket/faces"
        fsspec.filesystem("s3").clear_instance_cache()
    running.stop()


def do(monkeypatch, name: str, root: object, *options: object, ended: bool = True) -> None:
    """A step in this process, its folds too. ended: False leaves it as a kill does, with nothing sent at the end."""
    monkeypatch.setattr(workers, "run_jobs", lambda jobs, places, work, *_: [work(job, places[0], 0) for job in jobs])
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--root", str(root), *map(str, options)])
    main, handler = importlib.import_module(name).main, signal.getsignal(signal.SIGTERM)
    try:
        cli.run_main(main) if ended else main()
    finally:
        signal.signal(signal.SIGTERM, handler)


class Lost(BaseException):
    """The machine is gone."""


@pytest.mark.usefixtures("one_thread")
def test_the_steps_on_s3_on_machines_that_are_lost_end_with_the_same_bytes(s3, tmp_path, monkeypatch):
    import fsspec

    write_synthetic_competition(tmp_path / "data", train=60, test=20, size=48)
    train = ("train", "--recipe", "demo_cnn@3", "--device", "cpu", "--workers", "1")
    for name, *options in (
        ("audit", "--data", tmp_path / "data" / "competition"),
        ("split", "--folds", "2"),
        train,
        ("blend",),
    ):
        do(monkeypatch, name, tmp_path / "here", *options)

    machines = (tmp_path / f"machine_{number}" for number in range(9))
    monkeypatch.setenv(FOLDER, str(next(machines)))
    do(monkeypatch, "audit", s3, "--data", tmp_path / "data" / "competition")
    do(monkeypatch, "split", s3, "--folds", "2")
    real, steps = fold_module.train_step, []

    def lost(*args):
        steps.append(1)
        if len(steps) == 5:  # of one batch each: fold 0 is sealed, fold 1 in its second epoch
            raise Lost
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(Lost):
        patch.setattr(fold_module, "train_step", lost)
        do(patch, train[0], s3, *train[1:], ended=False)
    there = fsspec.filesystem("s3")
    there.invalidate_cache()
    left = [path.removeprefix("bucket/faces/runs/demo_cnn@3/") for path in there.find("bucket/faces/runs")]
    assert "fold_0/run.json" in left and "fold_0/checkpoint.safetensors" not in left
    assert [name for name in left if name.startswith("fold_1")] == ["fold_1/checkpoint.safetensors"]
    monkeypatch.setenv(FOLDER, str(next(machines)))
    do(monkeypatch, train[0], s3, *train[1:])
    monkeypatch.setenv(FOLDER, str(next(machines)))
    do(monkeypatch, "blend", s3)
    there.invalidate_cache()
    got = {path.removeprefix("bucket/faces/"): there.cat(path) for path in there.find("bucket/faces")}
    for name in (
        "submissions/submission.csv",
        "runs/demo_cnn@3/oof.csv",
        *(
            f"runs/demo_cnn@3/fold_{fold}/{name}"
            for fold in range(2)
            for name in ("weights.safetensors", "oof.csv", "test.csv")
        ),
    ):
        assert got[name] == (tmp_path / "here" / name).read_bytes(), name
    assert not [name for name in got if "checkpoint" in name or "/." in name]


def test_s3_errors_are_a_sentence(s3, monkeypatch, tmp_path, capsys):
    import fsspec

    monkeypatch.setenv(FOLDER, str(tmp_path))
    with pytest.raises(SystemExit, match="2"):
        do(monkeypatch, "split", "s3://nobucket/faces")
    assert (
        capsys.readouterr().err
        == "split.py: s3://nobucket/faces: The specified bucket does not exist. Create the bucket first, or correct its name\n"
    )
    fsspec.filesystem("s3").clear_instance_cache()
    for name in [name for name in os.environ if name.startswith("AWS_") and "KEY" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        InputError,
        match="^s3://bucket/faces: Unable to locate credentials. Give credentials that may read and write there",
    ):
        mirror(s3)
    fsspec.filesystem("s3").clear_instance_cache()
