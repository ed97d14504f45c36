"""Files of zips and folders: read as they are, and refused if the archive is damaged or not safe to unpack."""

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


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("train/9.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "'train/9.jpg' is a symbolic link" in refusal(write_zip(tmp_path, {**COMPLETE, link: b"/etc/passwd"}))
    source = write_folder(tmp_path, COMPLETE)
    (source / "train" / "9.jpg").symlink_to("/etc/passwd")
    assert f"{source}/train/9.jpg is a symbolic link" in refusal(source)


def test_a_zip_bomb_is_refused(tmp_path):
    source = write_zip(tmp_path, {**COMPLETE, "train/9.jpg": b"\0" * (2 << 20)})
    assert "this looks like a zip bomb" in refusal(source)


def test_an_absurd_total_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_TOTAL", 40)
    assert "this looks like a zip bomb" in refusal(write_zip(tmp_path, COMPLETE))


def test_a_member_longer_than_it_says_is_refused(tmp_path):
    data = bytearray(zip_bytes(COMPLETE))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (2).to_bytes(4, "little")  # test/3.jpg holds five bytes and says two
    assert refusal(write_zip(tmp_path, bytes(data))).startswith("c.zip/test/3.jpg is damaged")


def test_an_encrypted_zip_is_refused(tmp_path):
    data = bytearray(zip_bytes(COMPLETE))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    assert "is encrypted; unpack it yourself" in refusal(write_zip(tmp_path, bytes(data)))


def test_names_that_are_not_utf_8(tmp_path):
    data = zip_bytes({**COMPLETE, "train/é.jpg": b"x"})  # flagged as UTF-8
    damaged = write_zip(tmp_path, data.replace("é".encode(), b"\xe9\x28"))
    assert "is damaged, or packed in a way that is not known here" in refusal(damaged)
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
