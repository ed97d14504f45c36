import io
import os
import re
import shutil
import stat
import zipfile
from collections import namedtuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facefold.data import archive
from facefold.data.synthetic import write_synthetic_competition, is_synthetic
from facefold.utils.errors import InputError

CSV = {"train.csv": b"id,label\n1,0\n2,1\n", "test.csv": b"id\n3\n", "sampleSubmit.csv": b"id,label\n3,0\n"}
IMAGES = {"train/1.jpg": b"one", "train/2.jpg": b"two", "test/3.jpg": b"three"}
WHOLE = {**CSV, **IMAGES}


def packed(members):
    """Zip bytes of {name or ZipInfo: content}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def put_zip(tmp_path, members):
    (tmp_path / "c.zip").write_bytes(members if isinstance(members, bytes) else packed(members))
    return tmp_path / "c.zip"


def put_folder(tmp_path, members):
    for name, content in members.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "source"


def tree(root):
    """What lies in competition/, {path: bytes}; nothing else may lie in the root."""
    assert [path.name for path in root.iterdir()] == ["competition"]
    folder = root / "competition"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(source, root):
    """The text of the refusal, after which the root is as it was."""
    before = sorted(root.rglob("*")) if root.exists() else []
    with pytest.raises(InputError) as caught:
        archive.install_competition(source, root)
    assert (sorted(root.rglob("*")) if root.exists() else []) == before
    return str(caught.value)


LAYOUTS = {
    "plain": WHOLE,
    "one folder down": {f"face gender/{name}": content for name, content in WHOLE.items()},
    "twice the folder": {**CSV, "train/train/1.jpg": b"one", "train/train/2.jpg": b"two", "test/test/3.jpg": b"three"},
    "upper case": {
        "Train.csv": CSV["train.csv"],
        "TEST.CSV": CSV["test.csv"],
        "Sample_Submission.csv": CSV["sampleSubmit.csv"],
        "Train/1.JPG": b"one",
        "train/2.Jpeg": b"two",
        "TEST/3.jpeg": b"three",
    },
    "zips inside": {
        **CSV,
        "train.zip": packed({"train/1.jpg": b"one", "train/2.jpg": b"two"}),
        "test.zip": packed({"3.jpg": b"three"}),
    },
    "zips inside a folder": {
        **{f"c/{name}": content for name, content in CSV.items()},
        "c/train.zip": packed({"train/train/1.jpg": b"one", "2.jpg": b"two"}),
        "c/test/3.jpg": b"three",
    },
    "with litter": {
        **WHOLE,
        "__MACOSX/train/._1.jpg": b"x",
        "train/.DS_Store": b"x",
        "train/._1.jpg": b"x",
        "readme.txt": b"x",
        "__MACOSX/train.csv": b"x",
        "train/Thumbs.db": b"x",
        "more/9.jpg": b"x",
    },
    "backslashes": {name.replace("/", "\\"): content for name, content in WHOLE.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_known_layout_of_a_zip(tmp_path, layout):
    assert archive.install_competition(put_zip(tmp_path, LAYOUTS[layout]), tmp_path / "root")
    assert tree(tmp_path / "root") == WHOLE


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "backslashes"])
def test_every_known_layout_of_a_folder(tmp_path, layout):
    assert archive.install_competition(put_folder(tmp_path, LAYOUTS[layout]), tmp_path / "root")
    assert tree(tmp_path / "root") == WHOLE


def test_meta_comes_along_also_later(tmp_path):
    root = tmp_path / "root"
    archive.install_competition(put_zip(tmp_path, WHOLE), root)
    with_meta = {**WHOLE, "meta.csv": b"id,age\n1,3\n"}
    assert not archive.install_competition(put_zip(tmp_path, with_meta), root)
    assert tree(root) == with_meta


def test_the_same_again_is_nothing_to_do_and_mended_images_stay(tmp_path):
    root = tmp_path / "root"
    source = put_zip(tmp_path, WHOLE)
    archive.install_competition(source, root)
    (root / "competition" / "train" / "1.jpg").write_bytes(b"mended")
    assert not archive.install_competition(source, root)
    assert not archive.install_competition(root / "competition", root)
    assert tree(root)["train/1.jpg"] == b"mended"


def test_another_competition_is_refused(tmp_path):
    root = tmp_path / "root"
    archive.install_competition(put_zip(tmp_path, WHOLE), root)
    said = refusal(put_zip(tmp_path, {**WHOLE, "train.csv": b"id,label\n1,1\n2,0\n"}), root)
    assert said.startswith(f"{root / 'competition'} holds another competition; not the same: train.csv. Choose another")


def test_what_a_killed_run_left_and_an_empty_folder_are_no_obstacle(tmp_path):
    root = tmp_path / "root"
    (root / "competition").mkdir(parents=True)
    (root / "competition.part" / "train").mkdir(parents=True)
    (root / "competition.part" / "train" / "9.jpg").write_bytes(b"half")
    archive.install_competition(put_zip(tmp_path, WHOLE), root)
    assert tree(root) == WHOLE


def test_bad_csv_and_missing_files_are_left_to_the_check(tmp_path):
    bad = {"train.csv": b"\xef\xbb\xbfid,label\r\n1,x\r\n", "train/1.jpg": b""}
    assert archive.install_competition(put_zip(tmp_path, bad), tmp_path / "root")
    assert tree(tmp_path / "root") == bad


@pytest.mark.parametrize("name", ["../train/1.jpg", "/train/1.jpg", "train/../../1.jpg", "C:/1.jpg", "..\\1.jpg"])
def test_members_that_would_leave_the_folder(tmp_path, name):
    assert f"c.zip: member {name!r} would leave" in refusal(put_zip(tmp_path, {**WHOLE, name: b"x"}), tmp_path / "root")
    inside = {**CSV, "train.zip": packed({name: b"x"})}
    assert f"c.zip/train.zip: member {name!r} would leave" in refusal(put_zip(tmp_path, inside), tmp_path / "root")


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("train/9.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "'train/9.jpg' is a symbolic link" in refusal(
        put_zip(tmp_path, {**WHOLE, link: b"/etc/passwd"}), tmp_path / "root"
    )
    source = put_folder(tmp_path, WHOLE)
    (source / "train" / "9.jpg").symlink_to("/etc/passwd")
    assert f"{source}/train/9.jpg is a symbolic link" in refusal(source, tmp_path / "root")


def test_a_zip_bomb_is_refused(tmp_path):
    source = put_zip(tmp_path, {**WHOLE, "train/9.jpg": b"\0" * (2 << 20)})
    assert "this looks like a zip bomb" in refusal(source, tmp_path / "root")


def test_a_total_that_is_absurd_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_TOTAL", 40)
    assert "this looks like a zip bomb" in refusal(put_zip(tmp_path, WHOLE), tmp_path / "root")


def test_a_member_longer_than_it_says_is_refused(tmp_path):
    data = bytearray(packed(WHOLE))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (2).to_bytes(4, "little")  # test/3.jpg holds five bytes and says two
    assert refusal(put_zip(tmp_path, bytes(data)), tmp_path / "root").startswith("c.zip/test/3.jpg is damaged")


def test_an_encrypted_zip_is_refused(tmp_path):
    data = bytearray(packed(WHOLE))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    assert "is encrypted; unpack it yourself" in refusal(put_zip(tmp_path, bytes(data)), tmp_path / "root")


def test_names_that_are_not_utf_8(tmp_path):
    data = packed({**WHOLE, "train/é.jpg": b"x"})  # flagged as UTF-8
    assert "is damaged, or packed in a way that is not known here" in refusal(
        put_zip(tmp_path, data.replace("é".encode(), b"\xe9\x28")), tmp_path / "root"
    )
    source = put_folder(tmp_path, WHOLE)
    (source / "train" / os.fsdecode(b"\xe9.jpg")).write_bytes(b"x")
    assert archive.install_competition(source, tmp_path / "root")  # an image without a row: the audit names it
    assert (tmp_path / "root" / "competition" / "train" / os.fsdecode(b"\xe9.jpg")).exists()


def test_no_control_character_of_a_name_reaches_the_terminal(tmp_path):
    said = refusal(put_zip(tmp_path, {**WHOLE, "train/\x1b[2J.png": b"x"}), tmp_path / "root")
    assert "c.zip/train/\\x1b[2J.png is not a .jpg; convert it" in said and "\x1b" not in said


def test_a_download_that_broke_off(tmp_path):
    assert "is no whole zip (a download that broke off?)" in refusal(
        put_zip(tmp_path, packed(WHOLE)[:-60]), tmp_path / "root"
    )


@pytest.mark.parametrize(
    "members, message",
    [
        ({"readme.txt": b""}, "holds no train.csv, neither at the top nor one folder down"),
        ({"a/train.csv": b"", "b/train.csv": b""}, "holds several competitions (a, b); name one folder with --data"),
        ({**WHOLE, "Test.csv": b"id\n3\n"}, "holds test.csv twice: c.zip/test.csv and c.zip/Test.csv; remove one"),
        ({**WHOLE, "train/1.JPG": b"x"}, "c.zip/train/1.jpg and c.zip/train/1.JPG would both be train/1.jpg"),
        ({**WHOLE, "train/9.png": b"x"}, "c.zip/train/9.png is not a .jpg; convert it"),
        ({**WHOLE, "train.zip": b"x"}, "c.zip/train.zip is damaged"),
    ],
)
def test_zips_that_are_no_competition(tmp_path, members, message):
    assert message in refusal(put_zip(tmp_path, members), tmp_path / "root")


def test_no_source_and_no_zip(tmp_path):
    assert "does not exist; --data takes" in refusal(tmp_path / "none.zip", tmp_path / "root")
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    assert "is neither a zip nor a folder" in refusal(tmp_path / "x.rar", tmp_path / "root")


def test_a_full_disk_is_told_before_it_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "total used free")(10, 8, 2))
    said = refusal(put_zip(tmp_path, WHOLE), tmp_path / "root")
    assert re.search(
        r"0 MB are needed there for the images and 0 MB are free; make room, or choose another disk with --root", said
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=6))
def test_damage_of_any_kind_is_told_or_harmless(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("damaged")
    data = bytearray(packed({**CSV, "test/3.jpg": b"three", "train.zip": packed({"1.jpg": b"one", "2.jpg": b"two"})}))
    for at, value in changes:
        data[at % len(data)] = value
    try:
        archive.install_competition(put_zip(folder, bytes(data)), folder / "root")
    except InputError:
        return
    assert "train.csv" in tree(folder / "root")


def test_a_drawn_competition_makes_room_once_the_real_one_is_complete(tmp_path):
    root, real = tmp_path / "root", tmp_path / "real"
    write_synthetic_competition(root, train=20, test=10, size=32)
    write_synthetic_competition(real, train=24, test=10, size=32)
    (real / "competition" / "DRAWN.txt").unlink()
    (root / "runs" / "demo_cnn").mkdir(parents=True)
    (tmp_path / "torn.zip").write_bytes(b"PK")
    with pytest.raises(InputError):
        archive.install_competition(tmp_path / "torn.zip", root)
    assert is_synthetic(root) and (root / "runs").exists()
    assert archive.install_competition(real / "competition", root)
    assert not is_synthetic(root) and [path.name for path in root.iterdir()] == ["competition"]


def test_the_readme_of_a_folder_is_no_competition_and_stays(tmp_path):
    root, real = tmp_path / "root", tmp_path / "real"
    kept = {root / name / "README.md" for name in ("competition", "folds", "submissions")}
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_text(path.parent.name)
    assert write_synthetic_competition(root, train=20, test=10, size=32)
    (root / "folds" / "folds.csv").write_text("of the drawn one")
    (root / "submissions" / "old").mkdir()
    write_synthetic_competition(real, train=24, test=10, size=32)
    (real / "competition" / "DRAWN.txt").unlink()
    assert archive.install_competition(real / "competition", root) and not archive.install_competition(
        real / "competition", root
    )
    assert all(path.read_text() == path.parent.name for path in kept)
    assert [path.name for name in ("folds", "submissions") for path in (root / name).iterdir()] == ["README.md"] * 2


def test_a_source_inside_what_makes_room_is_refused(tmp_path):
    write_synthetic_competition(tmp_path, train=20, test=10, size=32)
    write_synthetic_competition(tmp_path / "cache", train=24, test=10, size=32)
    with pytest.raises(InputError, match="which makes room with the drawn competition; move it out first"):
        archive.install_competition(tmp_path / "cache" / "competition", tmp_path)
    assert is_synthetic(tmp_path) and (tmp_path / "cache" / "competition").exists()


def test_files_keep_the_times_they_were_packed_with(tmp_path):
    stamped = {zipfile.ZipInfo(name, (2020, 10, 1, 2, 3, 4)): content for name, content in WHOLE.items()}
    archive.install_competition(put_zip(tmp_path, stamped), tmp_path / "a")
    source = put_folder(tmp_path, WHOLE)
    os.utime(source / "train" / "1.jpg", (1000.5, 1000.5))
    archive.install_competition(source, tmp_path / "b")
    assert (tmp_path / "a" / "competition" / "train" / "1.jpg").stat().st_mtime == 1601517784  # in UTC
    assert (tmp_path / "b" / "competition" / "train" / "1.jpg").stat().st_mtime == 1000.5


def test_a_zip_with_a_month_that_is_none_is_unpacked(tmp_path):
    stamped = {zipfile.ZipInfo(name, (1980, 0, 0, 0, 0, 0)): content for name, content in WHOLE.items()}
    archive.install_competition(put_zip(tmp_path, stamped), tmp_path / "a")
    assert tree(tmp_path / "a") == WHOLE
