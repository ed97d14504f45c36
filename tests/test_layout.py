"""Known layouts are installed as competition/; what is there is never damaged; a synthetic one is replaced."""

import os
import shutil
import zipfile
from collections import namedtuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archives import COMPLETE, CSV, write_folder, write_zip, zip_bytes
from facefold.data.layout import install_competition
from facefold.data.synthetic import is_synthetic, write_synthetic_competition
from facefold.utils.errors import InputError


def installed_files(root):
    """The files in competition/, {path: bytes}; nothing else may be in the root."""
    assert [path.name for path in root.iterdir()] == ["competition"]
    folder = root / "competition"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(source, root):
    """The text of the refusal, after which the root is as it was."""
    before = sorted(root.rglob("*")) if root.exists() else []
    with pytest.raises(InputError) as caught:
        install_competition(source, root)
    assert (sorted(root.rglob("*")) if root.exists() else []) == before
    return str(caught.value)


LAYOUTS = {
    "plain": COMPLETE,
    "one folder down": {f"face gender/{name}": content for name, content in COMPLETE.items()},
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
        "train.zip": zip_bytes({"train/1.jpg": b"one", "train/2.jpg": b"two"}),
        "test.zip": zip_bytes({"3.jpg": b"three"}),
    },
    "zips inside a folder": {
        **{f"c/{name}": content for name, content in CSV.items()},
        "c/train.zip": zip_bytes({"train/train/1.jpg": b"one", "2.jpg": b"two"}),
        "c/test/3.jpg": b"three",
    },
    "with litter": {
        **COMPLETE,
        "__MACOSX/train/._1.jpg": b"x",
        "train/.DS_Store": b"x",
        "train/._1.jpg": b"x",
        "readme.txt": b"x",
        "__MACOSX/train.csv": b"x",
        "train/Thumbs.db": b"x",
        "more/9.jpg": b"x",
    },
    "backslashes": {name.replace("/", "\\"): content for name, content in COMPLETE.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_known_layout_of_a_zip(tmp_path, layout):
    assert install_competition(write_zip(tmp_path, LAYOUTS[layout]), tmp_path / "root")
    assert installed_files(tmp_path / "root") == COMPLETE


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "backslashes"])
def test_each_known_layout_of_a_folder(tmp_path, layout):
    assert install_competition(write_folder(tmp_path, LAYOUTS[layout]), tmp_path / "root")
    assert installed_files(tmp_path / "root") == COMPLETE


def test_meta_is_installed_also_later(tmp_path):
    root = tmp_path / "root"
    install_competition(write_zip(tmp_path, COMPLETE), root)
    with_meta = {**COMPLETE, "meta.csv": b"id,age\n1,3\n"}
    assert not install_competition(write_zip(tmp_path, with_meta), root)
    assert installed_files(root) == with_meta
    assert not install_competition(write_zip(tmp_path, COMPLETE), root)
    assert "not the same: meta.csv" in refusal(write_zip(tmp_path, {**COMPLETE, "meta.csv": b"id\n1\n"}), root)
    assert installed_files(root) == with_meta


def test_the_same_again_does_nothing_and_fixed_images_stay(tmp_path):
    root = tmp_path / "root"
    source = write_zip(tmp_path, COMPLETE)
    install_competition(source, root)
    (root / "competition" / "train" / "1.jpg").write_bytes(b"fixed")
    assert not install_competition(source, root)
    assert not install_competition(root / "competition", root)
    assert installed_files(root)["train/1.jpg"] == b"fixed"


def test_another_competition_is_refused(tmp_path):
    root = tmp_path / "root"
    install_competition(write_zip(tmp_path, COMPLETE), root)
    text = refusal(write_zip(tmp_path, {**COMPLETE, "train.csv": b"id,label\n1,1\n2,0\n"}), root)
    assert text.startswith(f"{root / 'competition'} holds another competition; not the same: train.csv. Choose another")


def test_what_a_killed_run_left_and_an_empty_folder_are_no_obstacle(tmp_path):
    root = tmp_path / "root"
    (root / "competition").mkdir(parents=True)
    (root / "competition.part" / "train").mkdir(parents=True)
    (root / "competition.part" / "train" / "9.jpg").write_bytes(b"half")
    install_competition(write_zip(tmp_path, COMPLETE), root)
    assert installed_files(root) == COMPLETE


def test_bad_csv_and_missing_files_are_left_to_the_audit(tmp_path):
    bad = {"train.csv": b"\xef\xbb\xbfid,label\r\n1,x\r\n", "train/1.jpg": b""}
    assert install_competition(write_zip(tmp_path, bad), tmp_path / "root")
    assert installed_files(tmp_path / "root") == bad


def longer_than_it_says():
    data = bytearray(zip_bytes(COMPLETE))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (2).to_bytes(4, "little")  # test/3.jpg holds five bytes and says two
    return bytes(data)


@pytest.mark.parametrize(
    "members, message",
    [
        ({"readme.txt": b""}, "holds no train.csv, neither at the top nor one folder down"),
        ({"a/train.csv": b"", "b/train.csv": b""}, "holds several competitions (a, b); name one folder with --data"),
        ({**COMPLETE, "Test.csv": b"id\n3\n"}, "holds test.csv twice: c.zip/test.csv and c.zip/Test.csv; remove one"),
        ({**COMPLETE, "train/1.JPG": b"x"}, "c.zip/train/1.jpg and c.zip/train/1.JPG would both be train/1.jpg"),
        ({**COMPLETE, "train/9.png": b"x"}, "c.zip/train/9.png is not a .jpg; convert it"),
        ({**COMPLETE, "train/\x1b[2J.png": b"x"}, "c.zip/train/\\x1b[2J.png is not a .jpg; convert it"),
        ({**COMPLETE, "train.zip": b"x"}, "c.zip/train.zip is damaged"),
        ({**COMPLETE, "../train/1.jpg": b"x"}, "c.zip: member '../train/1.jpg' would leave the folder"),
        ({**CSV, "train.zip": zip_bytes({"C:/1.jpg": b"x"})}, "c.zip/train.zip: member 'C:/1.jpg' would leave"),
        ({**COMPLETE, "train/9.jpg": b"\0" * (2 << 20)}, "this looks like a zip bomb"),
        (longer_than_it_says(), "c.zip/test/3.jpg is damaged"),
        (zip_bytes(COMPLETE)[:-60], "is not a complete zip (a download that broke off?)"),
    ],
)
def test_zips_that_cannot_be_installed(tmp_path, members, message):
    text = refusal(write_zip(tmp_path, members), tmp_path / "root")
    assert message in text and "\x1b" not in text


def test_folders_that_cannot_be_installed(tmp_path):
    source = write_folder(tmp_path, COMPLETE)
    (source / "train" / "9.jpg").symlink_to("/etc/passwd")
    assert f"{source}/train/9.jpg is a symbolic link" in refusal(source, tmp_path / "root")
    assert "does not exist; use the zip" in refusal(tmp_path / "none", tmp_path / "root")


def test_a_name_that_is_not_utf_8_is_installed(tmp_path):
    source = write_folder(tmp_path, COMPLETE)
    (source / "train" / os.fsdecode(b"\xe9.jpg")).write_bytes(b"x")
    assert install_competition(source, tmp_path / "root")  # an image without a row: the audit names it
    assert (tmp_path / "root" / "competition" / "train" / os.fsdecode(b"\xe9.jpg")).exists()


def test_a_full_disk_is_an_error_before_it_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "total used free")(10, 8, 2))
    text = refusal(write_zip(tmp_path, COMPLETE), tmp_path / "root")
    assert (
        "0 MB are needed there for the images and 0 MB are free; make room, or choose another disk with --root" in text
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=6))
def test_damage_of_any_kind_is_refused_or_harmless(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("damaged")
    inner = zip_bytes({"1.jpg": b"one", "2.jpg": b"two"})
    data = bytearray(zip_bytes({**CSV, "test/3.jpg": b"three", "train.zip": inner}))
    for at, value in changes:
        data[at % len(data)] = value
    try:
        install_competition(write_zip(folder, bytes(data)), folder / "root")
    except InputError:
        return
    assert "train.csv" in installed_files(folder / "root")


def write_real_competition(root):
    """Write a competition that is not marked as synthetic; return its folder."""
    write_synthetic_competition(root, train=24, test=10, size=32)
    (root / "competition" / "SYNTHETIC.txt").unlink()
    return root / "competition"


def test_a_synthetic_competition_is_replaced_once_the_real_one_is_complete(tmp_path):
    root, source = tmp_path / "root", write_real_competition(tmp_path / "real")
    write_synthetic_competition(root, train=20, test=10, size=32)
    (root / "runs" / "demo_cnn").mkdir(parents=True)
    (tmp_path / "torn.zip").write_bytes(b"PK")
    with pytest.raises(InputError):
        install_competition(tmp_path / "torn.zip", root)
    assert is_synthetic(root) and (root / "runs").exists()
    assert install_competition(source, root)
    assert not is_synthetic(root) and [path.name for path in root.iterdir()] == ["competition"]


def test_the_readme_of_a_folder_is_no_competition_and_stays(tmp_path):
    root, source = tmp_path / "root", write_real_competition(tmp_path / "real")
    readmes = {root / name / "README.md" for name in ("competition", "folds", "submissions")}
    for path in readmes:
        path.parent.mkdir(parents=True)
        path.write_text(path.parent.name)
    assert write_synthetic_competition(root, train=20, test=10, size=32)
    (root / "folds" / "folds.csv").write_text("of the synthetic one")
    (root / "submissions" / "old").mkdir()
    assert install_competition(source, root) and not install_competition(source, root)
    assert all(path.read_text() == path.parent.name for path in readmes)
    assert [path.name for name in ("folds", "submissions") for path in (root / name).iterdir()] == ["README.md"] * 2


def test_a_source_inside_what_would_be_removed_is_refused(tmp_path):
    write_synthetic_competition(tmp_path, train=20, test=10, size=32)
    source = write_real_competition(tmp_path / "cache")
    with pytest.raises(InputError, match="which is removed with the synthetic competition; move it out first"):
        install_competition(source, tmp_path)
    assert is_synthetic(tmp_path) and source.exists()


def test_files_keep_their_times(tmp_path):
    stamped = {zipfile.ZipInfo(name, (2020, 10, 1, 2, 3, 4)): content for name, content in COMPLETE.items()}
    install_competition(write_zip(tmp_path, stamped), tmp_path / "a")
    source = write_folder(tmp_path, COMPLETE)
    os.utime(source / "train" / "1.jpg", (1000.5, 1000.5))
    install_competition(source, tmp_path / "b")
    assert (tmp_path / "a" / "competition" / "train" / "1.jpg").stat().st_mtime == 1601517784  # in UTC
    assert (tmp_path / "b" / "competition" / "train" / "1.jpg").stat().st_mtime == 1000.5


def test_a_zip_with_an_impossible_month_is_installed(tmp_path):
    stamped = {zipfile.ZipInfo(name, (1980, 0, 0, 0, 0, 0)): content for name, content in COMPLETE.items()}
    install_competition(write_zip(tmp_path, stamped), tmp_path / "a")
    assert installed_files(tmp_path / "a") == COMPLETE
