import errno
import os
import re
import resource
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facefold.utils import files, lock_files
from facefold.utils.errors import InputError


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "a.txt"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError):
        with files.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def put(folder: Path, content: str) -> None:
    """Write three files that belong together."""
    for name in ("a.csv", "b.csv", "c.json"):
        files.write_text(folder / name, content)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def test_staged_files_take_the_place_of_the_others_together_and_obsolete_ones_go(tmp_path):
    put(tmp_path, "old")
    (tmp_path / "order.csv").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    with files.staged_files(tmp_path, "c.json", obsolete=["order.csv", "never.csv"]) as staged:
        put(staged, "new")
    assert contents(tmp_path) == {"a.csv": "new", "b.csv": "new", "c.json": "new", "notes.txt": "mine"}


def test_staged_files_that_cannot_be_written_change_nothing(tmp_path):
    put(tmp_path, "old")
    with pytest.raises(OSError, match="full"), files.staged_files(tmp_path, "c.json", obsolete=["a.csv"]) as staged:
        files.write_text(staged / "a.csv", "new")
        raise OSError("full")
    assert contents(tmp_path) == {"a.csv": "old", "b.csv": "old", "c.json": "old"}


def test_the_last_of_the_staged_files_is_the_old_one_until_all_others_are_new(tmp_path, monkeypatch):
    put(tmp_path, "old")
    seen, replace = [], os.replace

    def watch(source, target):
        if Path(target).parent == tmp_path:
            seen.append((Path(target).name, (tmp_path / "c.json").read_text(), (tmp_path / "order.csv").exists()))
        replace(source, target)

    (tmp_path / "order.csv").write_text("old")
    monkeypatch.setattr(os, "replace", watch)
    with files.staged_files(tmp_path, "c.json", obsolete=["order.csv"]) as staged:
        put(staged, "new")
    assert sorted(seen[:2]) == [("a.csv", "old", True), ("b.csv", "old", True)]
    assert seen[2:] == [("c.json", "old", False)]


def test_what_a_killed_process_staged_is_no_part_of_the_next_files(tmp_path):
    (tmp_path / ".staged.part").mkdir()
    (tmp_path / ".staged.part" / "z.csv").write_text("of a killed one")
    with files.staged_files(tmp_path, "c.json") as staged:
        put(staged, "new")
    assert sorted(contents(tmp_path)) == ["a.csv", "b.csv", "c.json"]


def test_csv_comes_back_with_ids_as_text_and_nine_digits(tmp_path):
    table = pd.DataFrame({"id": ["0042", "NA"], "prob": [0.123456789123, 1.0]})
    files.write_csv(tmp_path / "a.csv", table)
    assert (tmp_path / "a.csv").read_bytes() == b"id,prob\n0042,0.123456789\nNA,1\n"
    assert files.read_csv(tmp_path / "a.csv", {"id": str, "prob": float})["id"].tolist() == ["0042", "NA"]


@pytest.mark.parametrize("content", ["id\n1\n", "id,prob\n1,x\n", "", "id,prob\n1,0.5,3,4\n"])
def test_a_damaged_csv_is_named(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'a.csv'} is damaged (")):
        files.read_csv(tmp_path / "a.csv", {"id": str, "prob": float})


def test_missing_and_torn_files_are_named(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01")
    for read, name, message in [
        (files.read_json, "b.json", "is missing"),
        (files.read_json, "a.json", "is not readable as json"),
        (files.read_npy, "b.npy", "is missing"),
        (files.read_npy, "a.npy", "is damaged"),
    ]:
        with pytest.raises(InputError, match=re.escape(f"{tmp_path / name} {message}")):
            read(tmp_path / name)


def test_npy_and_json_come_back(tmp_path):
    files.write_npy(tmp_path / "a.npy", np.arange(3, dtype=np.float16))
    assert files.read_npy(tmp_path / "a.npy").tolist() == [0, 1, 2]
    files.write_json(tmp_path / "a.json", {"b": 1, "a": [2]})
    assert files.read_json(tmp_path / "a.json") == {"a": [2], "b": 1}


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path):
    with files.lock_directory(tmp_path / "fold_0"):
        with pytest.raises(InputError) as caught:
            with files.lock_directory(tmp_path / "fold_0", shared=True):
                pass
    assert re.fullmatch(
        rf"{tmp_path}/fold_0 is in use by (process {os.getpid()}|another process); wait for it, or end it, then run "
        "the same command again",
        str(caught.value),
    )
    with files.lock_directory(tmp_path / "fold_0"):
        assert os.listdir(tmp_path / "fold_0") == []


def test_a_folder_may_be_shared(tmp_path):
    with files.lock_directory(tmp_path, shared=True), files.lock_directory(tmp_path, shared=True):
        with pytest.raises(InputError, match="is in use by "):
            with files.lock_directory(tmp_path):
                pass


HOLD = """import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from facefold.utils.files import lock_directory
with lock_directory(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the system does not report who holds a lock")
def test_the_holder_is_named_and_its_lock_ends_with_it(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(Path(files.__file__).parents[2]), str(tmp_path)], stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match=f" is in use by process {holder.pid}"):
        with files.lock_directory(tmp_path):
            pass
    holder.kill()
    holder.wait()
    with files.lock_directory(tmp_path):
        assert os.listdir(tmp_path) == []


def test_a_file_that_differs_from_its_checksum_is_named(tmp_path, capsys):
    path = tmp_path / "a.npy"
    assert not files.is_intact(path) and capsys.readouterr().out == ""
    path.write_bytes(b"12345")
    assert not files.is_intact(path)  # it has no checksum yet
    files.write_checksum(path)
    assert capsys.readouterr().out == f"{path} is not what was written (its checksum differs): it is computed again\n"
    assert files.is_intact(path) and capsys.readouterr().out == ""
    path.write_bytes(b"12365")
    assert not files.is_intact(path)


def test_a_disk_without_room_is_reported_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: namedtuple("Usage", "total used free")(10e9, 8e9, 2e9))
    assert files.require_disk_space(tmp_path / "cache" / "deeper", 1.9e9, "the cache") == 2e9
    with pytest.raises(InputError) as caught:
        files.require_disk_space(tmp_path / "cache", 1.95e9, "the cache")
    assert str(caught.value) == (
        f"{tmp_path}/cache: 1.9 GB are needed there for the cache and 2.0 GB are free; make room, or choose another "
        "disk with --root"
    )


@pytest.fixture
def small_files():
    """Writing more than 1,000 bytes to a file fails, as on a full disk."""
    ignored, old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: files.write_text(path, "a" * 2000),
        lambda path: files.write_npy(path, np.zeros(2000)),
        lambda path: files.write_csv(path, pd.DataFrame({"a": range(2000)})),
    ],
    ids=["text", "npy", "csv"],
)
def test_a_failed_write_names_its_file_and_keeps_the_old_one(tmp_path, write, request):
    files.write_text(tmp_path / "a", "old")
    request.getfixturevalue("small_files")
    with pytest.raises(OSError) as caught:
        write(tmp_path / "a")
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_a_name_that_is_not_utf8_is_written_as_it_is_on_the_disk(tmp_path):
    files.write_csv(tmp_path / "a.csv", pd.DataFrame({"file": [os.fsdecode(b"caf\xe9.jpg")], "prob": [0.5]}))
    assert (tmp_path / "a.csv").read_bytes() == b"file,prob\ncaf\xe9.jpg,0.5\n"


def test_a_disk_that_refuses_permissions_is_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "chmod", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EPERM, "not permitted")))
    files.write_text(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text" and os.listdir(tmp_path) == ["a"]


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def no_locks(request, monkeypatch):
    """Make flock fail as on a disk that has no locks."""
    monkeypatch.setattr(files.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(request.param, "no locks")))
    monkeypatch.setenv("FACEFOLD_LOCK_FILES", "so that it is gone afterwards")
    monkeypatch.delenv("FACEFOLD_LOCK_FILES")


def lock_file(folder: Path, kind: str, pid: int, host: str) -> Path:
    path = folder / f".lock-{kind}-{pid}-{host}"
    path.touch()
    return path


HOST = os.uname().nodename


def test_where_locks_do_not_work_a_file_holds_the_folder(tmp_path, no_locks, capsys):
    with files.lock_directory(tmp_path / "a"):
        assert os.listdir(tmp_path / "a") == [f".lock-alone-{os.getpid()}-{HOST}"]
        with files.lock_directory(tmp_path / "b", shared=True):
            assert os.listdir(tmp_path / "b") == [f".lock-shared-{os.getpid()}-{HOST}"]
    assert os.listdir(tmp_path / "a") == os.listdir(tmp_path / "b") == []
    assert capsys.readouterr().out == (
        f"{tmp_path}/a: locks do not work on this disk; files named .lock-* say who works there\n"
    )


@pytest.mark.parametrize(
    "kind, shared, free",
    [("alone", False, False), ("alone", True, False), ("shared", False, False), ("shared", True, True)],
)
@pytest.mark.parametrize("pid, host", [(os.getppid(), HOST), (1, "another-host")])
def test_a_folder_held_by_a_file_is_refused(tmp_path, no_locks, kind, shared, free, pid, host):
    theirs = lock_file(tmp_path, kind, pid, host)
    if free:
        with files.lock_directory(tmp_path, shared=shared):
            assert len(os.listdir(tmp_path)) == 2
    else:
        with pytest.raises(InputError) as caught:
            with files.lock_directory(tmp_path, shared=shared):
                pass
        assert str(caught.value) == (
            f"{tmp_path} is in use by process {pid} on {host}; wait for it, or end it, then run the same command "
            f"again. If it has ended already, delete {theirs}"
        )
    assert os.listdir(tmp_path) == [theirs.name]


def test_a_file_of_an_ended_process_holds_nothing(tmp_path, no_locks):
    ended = subprocess.Popen(["true"])
    ended.wait()
    lock_file(tmp_path, "alone", ended.pid, HOST)
    lock_file(tmp_path, "shared", os.getpid(), HOST)  # of an earlier process of this id, as in a container
    (tmp_path / ".lock-of-the-user").touch()
    with files.lock_directory(tmp_path):
        assert f".lock-alone-{os.getpid()}-{HOST}" in os.listdir(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".lock-of-the-user", f".lock-shared-{os.getpid()}-{HOST}"]


def test_of_two_that_lock_at_once_not_both_go_on(tmp_path, no_locks, monkeypatch):
    touch = Path.touch

    def other_first(path):
        touch(tmp_path / f".lock-alone-1-{HOST}")  # between the look and the file
        touch(path)

    monkeypatch.setattr(Path, "touch", other_first)
    with pytest.raises(InputError, match=" is in use by process 1 on "):
        with files.lock_directory(tmp_path):
            pass
    assert os.listdir(tmp_path) == [f".lock-alone-1-{HOST}"]


def test_a_file_of_another_host_is_waited_for(tmp_path, no_locks, monkeypatch, capsys):
    theirs, waits = lock_file(tmp_path, "alone", 7, "elsewhere"), []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            theirs.unlink()

    monkeypatch.setattr(lock_files.time, "sleep", sleep)
    with files.lock_directory(tmp_path, wait=True):
        assert len(waits) == 3
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{tmp_path} is in use by process 7 on elsewhere, which is waited for; if it has ended already, delete {theirs}"
    ]


def test_another_error_of_a_lock_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(
        files.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error"))
    )
    with pytest.raises(OSError) as caught:
        with files.lock_directory(tmp_path):
            pass
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path))
