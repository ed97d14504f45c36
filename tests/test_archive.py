"""Files of zips and folders: read as they are, and refused if the archive is damaged or not safe to unpack."""

import errno
import os
import stat
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archives import COMPLETE, CSV, write_folder, write_zip, zip_bytes
from facefold.data import archive
from facefold.data.archive import open_archive
from facefold.utils.errors import InputError


def content(source) -> dict[str, bytes]:
    """The files of an archive by their path."""
    with open_archive(source) as members:
        return {str(member.path): member.read() for member in members}


def refusal(source) -> str:
    with pytest.raises(InputError) as caught:
        content(source)
    return str(caught.value)


def test_a_zip_and_a_folder_have_the_same_files(tmp_path):
    ignored = {"__MACOSX/train/._1.jpg": b"x", "train/.DS_Store": b"x", ".git/x": b"x"}
    assert content(write_zip(tmp_path, {**COMPLETE, **ignored})) == COMPLETE
    assert content(write_folder(tmp_path, {**COMPLETE, **ignored})) == COMPLETE


@pytest.mark.parametrize("name", ["../train/1.jpg", "/train/1.jpg", "train/../../1.jpg", "C:/1.jpg", "..\\1.jpg"])
def test_members_that_would_leave_the_folder(tmp_path, name):
    assert f"c.zip: member {name!r} would leave the folder" in refusal(write_zip(tmp_path, {**COMPLETE, name: b"x"}))


def test_a_colon_in_a_name_is_no_drive(tmp_path):
    files = {**COMPLETE, "train/2020-01-01T10:00:00.jpg": b"x", "10:00.jpg": b"y"}
    assert content(write_zip(tmp_path, files)) == files


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("train/9.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "'train/9.jpg' is a symbolic link" in refusal(write_zip(tmp_path, {**COMPLETE, link: b"/etc/passwd"}))


def test_files_of_a_folder_that_must_not_be_used_are_members_that_cannot_be_read(tmp_path, monkeypatch):
    source = write_folder(tmp_path, {**COMPLETE, "locked/1.jpg": b"x"})
    (source / "venv" / "bin").mkdir(parents=True)
    (source / "venv" / "bin" / "python").symlink_to("/usr/bin/python3")
    (source / "linked").symlink_to("/etc")
    os.mkfifo(source / "train" / "9.jpg")
    scandir = os.scandir

    locked = source / "locked"

    def refuse_locked(path):
        if str(path) == str(locked):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_locked)
    with open_archive(source) as members:
        problems = {str(member.path): (member.problem, member.is_folder) for member in members if member.problem}
        assert {str(member.path): member.read() for member in members if not member.problem} == COMPLETE
        link = next(member for member in members if member.path.name == "python")
        with pytest.raises(InputError, match=f"^{source}/venv/bin/python is a symbolic link; use real files and fol"):
            link.copy(tmp_path / "copy")
    assert problems == {
        "venv/bin/python": ("is a symbolic link; use real files and folders only", False),
        "linked": ("is a symbolic link; use real files and folders only", True),
        "train/9.jpg": ("is no regular file (a pipe, socket or device); use real files only", False),
        "locked": ("cannot be read (Permission denied); change its permissions", True),
    }
    locked = source
    with pytest.raises(PermissionError):
        content(source)


def test_a_pipe_is_no_source(tmp_path):
    os.mkfifo(tmp_path / "c.zip")
    assert refusal(tmp_path / "c.zip").startswith(f"{tmp_path}/c.zip is neither a file nor a folder; use the zip")


def test_a_zip_bomb_is_refused(tmp_path):
    source = write_zip(tmp_path, {**COMPLETE, "train/9.jpg": b"\0" * (2 << 20)})
    assert "this looks like a zip bomb" in refusal(source)


def test_members_that_share_their_bytes_are_a_bomb_by_their_total(tmp_path):
    names = [f"train/{number:03}.jpg" for number in range(400)]
    data = zip_bytes(dict.fromkeys(names, b"\0" * (1 << 19)))
    local = data.index(b"PK\x03\x04", 1)  # the first member alone; the directory names it 400 times
    directory = data[data.index(b"PK\x01\x02") : data.rindex(b"PK\x05\x06")]
    entry = directory[: len(directory) // 400]
    end = bytearray(data[data.rindex(b"PK\x05\x06") :])
    end[16:20] = local.to_bytes(4, "little")
    source = write_zip(tmp_path, data[:local] + entry * 400 + bytes(end))
    assert "5,242,880 in all from a zip of" in refusal(source) and "this looks like a zip bomb" in refusal(source)


def test_an_honest_zip_of_30_gigabytes_is_no_bomb(tmp_path):
    data = bytearray(zip_bytes(COMPLETE))
    at = data.index(b"PK\x01\x02")
    for number in range(len(COMPLETE)):
        size = (4_000_000_000 + number).to_bytes(4, "little")
        data[at + 20 : at + 24] = data[at + 24 : at + 28] = size
        at = data.find(b"PK\x01\x02", at + 1)
    info = zipfile.ZipFile(write_zip(tmp_path, bytes(data)))
    sizes = [member.size for member in archive._zip_members(info, "c.zip", 24_000_000_000)]
    assert len(sizes) == len(COMPLETE) and sum(sizes) > 20 << 30


@pytest.mark.parametrize("method, name", [(9, "Deflate64"), (98, "method 98")])
def test_a_packing_that_zipfile_cannot_read_is_named(tmp_path, method, name):
    data = bytearray(zip_bytes(COMPLETE))
    at = data.rindex(b"PK\x01\x02") + 10
    data[at : at + 2] = method.to_bytes(2, "little")
    expected = f"c.zip/test/3.jpg is packed by {name}; repack it with another program, or unpack it and use the folder"
    assert refusal(write_zip(tmp_path, bytes(data))) == expected


def test_a_member_longer_than_it_says_is_refused(tmp_path):
    data = bytearray(zip_bytes(COMPLETE))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (2).to_bytes(4, "little")  # test/3.jpg holds five bytes and says two
    assert refusal(write_zip(tmp_path, bytes(data))).startswith("c.zip/test/3.jpg is damaged")


def test_an_encrypted_zip_is_refused(tmp_path):
    data = bytearray(zip_bytes(COMPLETE))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    assert "is encrypted; unpack it yourself" in refusal(write_zip(tmp_path, bytes(data)))


def without_flag(name: bytes) -> bytes:
    """A zip of one file whose name has these bytes, without the flag of UTF-8."""
    return zip_bytes({"x" * len(name): b"x"}).replace(b"x" * len(name), name)


def test_names_that_are_not_utf_8(tmp_path):
    data = zip_bytes({**COMPLETE, "train/é.jpg": b"x"})  # flagged as UTF-8
    damaged = write_zip(tmp_path, data.replace("é".encode(), b"\xe9\x28"))
    assert "is damaged, or packed in a way that is not known here" in refusal(damaged)
    assert content(write_zip(tmp_path, without_flag("é图.jpg".encode())))["é图.jpg"] == b"x"
    assert refusal(write_zip(tmp_path, without_flag("训练.jpg".encode("gbk")))) == (
        "c.zip/ѵ\ufffd\ufffd.jpg has a name that is not UTF-8; unpack the zip with a program that knows the encoding "
        "(unzip -O GBK), and use the folder"
    )
    source = write_folder(tmp_path, COMPLETE)
    (source / "train" / os.fsdecode(b"\xe9.jpg")).write_bytes(b"x")
    assert content(source)["train/" + os.fsdecode(b"\xe9.jpg")] == b"x"


def test_a_broken_download_another_format_and_nothing(tmp_path):
    broken = refusal(write_zip(tmp_path, zip_bytes(COMPLETE)[:-60]))
    assert "is not a complete zip (a download that broke off?)" in broken
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    assert "is neither a zip nor a folder" in refusal(tmp_path / "x.rar")
    assert "does not exist; use the zip" in refusal(tmp_path / "none.zip")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=6))
def test_damage_of_any_kind_is_refused_or_harmless(tmp_path_factory, changes):
    data = bytearray(zip_bytes(CSV))
    for at, value in changes:
        data[at % len(data)] = value
    try:
        content(write_zip(tmp_path_factory.mktemp("damaged"), bytes(data)))
    except InputError:
        return
