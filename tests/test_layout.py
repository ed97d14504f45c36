"""Known layouts are installed as competition/; what is there is never damaged; a synthetic one is replaced."""

import errno
import os
import shutil
import time
import zipfile
from collections import namedtuple
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archives import COMPLETE, CSV, write_folder, write_zip, zip_bytes
from facefold.data import class_folders
from facefold.data.audit import audit_competition
from facefold.data.competition import load_competition
from facefold.data.layout import install_competition
from facefold.data.synthetic import is_synthetic, write_synthetic_competition
from facefold.data.task_inference import Choices
from facefold.utils.errors import InputError


def installed_files(root):
    """The files in competition/, {path: bytes}; nothing else may be in the root."""
    assert [path.name for path in root.iterdir()] == ["competition"]
    folder = root / "competition"
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files.pop(".facefold").startswith(b"competition\n")
    return files


def refusal(source, root, changes="nothing"):
    """The text of the refusal, after which the root is as it was, but for the folder `changes`."""

    def content():
        return {path: path.is_file() and path.read_bytes() for path in root.rglob("*") if changes not in str(path)}

    before = content()
    with pytest.raises(InputError) as caught:
        install_competition(source, root)
    assert content() == before
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
    "csv files in a folder of their own": {
        **{f"labels/{name}": content for name, content in CSV.items()},
        "images/1.jpg": b"one",
        "train.zip": zip_bytes({"2.jpg": b"two"}),
        "test/3.jpg": b"three",
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
    assert installed_files(root) == with_meta


def test_another_meta_is_another_competition(tmp_path):
    source, root = write_real_competition(tmp_path / "real"), tmp_path / "root"
    (source / "meta.csv").write_text("id,age\n1,3\n")
    install_competition(source, root)
    (source / "meta.csv").write_text("id,age\n1,4\n")
    assert "not the same: meta.csv" in refusal(source, root, "cache")


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
    install_competition(write_real_competition(tmp_path / "real"), root)
    assert not audit_competition(root)[1].empty  # accepted
    (tmp_path / "real" / "competition" / "train.csv").write_text("id,label\n1,1\n2,0\n")
    text = refusal(tmp_path / "real" / "competition", root)
    assert text.startswith(f"{root / 'competition'} holds another competition; not the same: train.csv. Choose another")


def test_what_a_killed_run_left_and_an_empty_folder_are_no_obstacle(tmp_path):
    root = tmp_path / "root"
    (root / "competition").mkdir(parents=True)
    (root / "competition.part" / "train").mkdir(parents=True)
    (root / "competition.part" / "train" / "9.jpg").write_bytes(b"half")
    (root / "competition.part" / ".facefold").write_text("competition.part\n\n")
    install_competition(write_zip(tmp_path, COMPLETE), root)
    assert installed_files(root) == COMPLETE


def test_bad_csv_and_missing_files_are_left_to_the_audit(tmp_path):
    bad = {"train.csv": b"\xef\xbb\xbfid,label\r\n1,x\r\n7,1\r\n", "train/1.jpg": b""}
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
        ({**COMPLETE, "train/1.png": b"x"}, "c.zip/train/1.jpg and c.zip/train/1.png would both be train/1.jpg"),
        (
            {**COMPLETE, "train/\x1b[2J.JPG": b"x", "train/\x1b[2J.jpg": b"x"},
            "c.zip/train/\\x1b[2J.JPG and c.zip/train/\\x1b[2J.jpg would both be train/\\x1b[2J.jpg",
        ),
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


@pytest.mark.parametrize("name", ["train/1.jpg", "train.csv", "train.zip", "test", "train/train"])
def test_a_link_that_an_image_or_csv_needs_is_refused_by_name(tmp_path, name):
    source = write_folder(tmp_path, COMPLETE)
    if (source / name).exists():
        (source / name).rename(tmp_path / "elsewhere")
    (source / name).symlink_to(tmp_path / "elsewhere" if name.endswith(".csv") else "/etc")
    expected = f"{source}/{name} is a symbolic link; use real files and folders only"
    assert expected in refusal(source, tmp_path / "root")


def test_links_and_pipes_that_nothing_needs_are_ignored(tmp_path):
    source = write_folder(tmp_path, {**COMPLETE, "venv/bin/activate": b"x"})
    (source / "venv" / "bin" / "python").symlink_to("/usr/bin/python3")
    (source / "train" / "latest").symlink_to("1.jpg")
    (source / "train" / "8.jpg").symlink_to("nowhere")
    (source / "test" / "9.jpg").symlink_to("/etc/passwd")
    os.mkfifo(source / "log")
    os.mkfifo(source / "train" / "9.jpg")
    assert install_competition(source, tmp_path / "root")
    assert installed_files(tmp_path / "root") == COMPLETE
    assert not install_competition(source, tmp_path / "root")


def test_a_pipe_in_place_of_an_image_is_refused(tmp_path):
    source = write_folder(tmp_path, COMPLETE)
    (source / "train" / "1.jpg").unlink()
    os.mkfifo(source / "train" / "1.jpg")
    assert refusal(source, tmp_path / "root") == (
        "the images of this competition cannot be installed:\n"
        f"  - {source}/train/1.jpg is no regular file (a pipe, socket or device); use real files only\n"
        "Fix these, or download the competition again."
    )


def test_a_folder_of_images_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    source, scandir = write_folder(tmp_path, COMPLETE), os.scandir

    def refuse_train(path):
        if str(path) == str(source / "train"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_train)
    text = refusal(source, tmp_path / "root")
    assert f"  - {source}/train cannot be read (Permission denied); change its permissions\n" in text


def test_a_linked_folder_that_hides_the_competition_is_named(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "gender").symlink_to(tmp_path)
    text = refusal(tmp_path / "source", tmp_path / "root")
    assert text.endswith(f"; {tmp_path}/source/gender is a symbolic link; use real files and folders only")


def test_other_sources_that_cannot_be_installed(tmp_path):
    assert "does not exist; use the zip" in refusal(tmp_path / "none", tmp_path / "root")


def test_a_name_that_is_not_utf_8_is_installed(tmp_path):
    source = write_folder(tmp_path, COMPLETE)
    (source / "train" / os.fsdecode(b"\xe9.jpg")).write_bytes(b"x")
    assert install_competition(source, tmp_path / "root")  # an image without a row: the audit names it
    assert (tmp_path / "root" / "competition" / "train" / os.fsdecode(b"\xe9.jpg")).exists()


NEAR = {
    "double suffix": ("train/1.jpg.jpg", "train/1.jpg.jpg"),
    "a GIF": ("train_images/1.GIF", "train_images/1.GIF"),
    "the other split": ("test_images/1.jpg", "test_images/1.jpg"),
    "a JPEG by another suffix": ("train/1.jfif", "train/1.jfif"),
    "a JPEG with a second image": ("train/1.mpo", "train/1.mpo"),
    "leading zeros": ("train/00001.jpg", "train/00001.jpg"),
}


@pytest.mark.parametrize("kind", NEAR)
def test_the_nearest_file_of_a_missing_image_is_named(tmp_path, kind):
    member, nearest = NEAR[kind]
    files = {name: content for name, content in COMPLETE.items() if name != "train/1.jpg"}
    source = write_zip(tmp_path, {**files, member: b"one", "other/9.jpg": b"x"})
    left_out = ", ".join(repr(name) for name in sorted([member, "other/9.jpg"]))
    assert refusal(source, tmp_path / "root") == (
        f"{source} has the images of these rows elsewhere, or as other files (1 are missing):\n"
        f"  - train/1.jpg (train.csv, row 2) is missing; the nearest file is {nearest}\n"
        f"Images and zips in {source} that are of no row, and were left out: 2 ({left_out}).\n"
        "Name them as their ids are, name their folders with --images train=DIR,test=DIR, or move them to train/ and "
        "test/, then run the same command again. Nothing was installed."
    )


ELSEWHERE = {  # where the image of the train row 1 may be, and what it becomes
    "folder of a class": ({"train/0/1.jpg": b"one"}, "train/1.jpg"),
    "one folder": ({"images/1.jpg": b"one"}, "train/1.jpg"),
    "folder of the split": ({"train_images/1.jpg": b"one"}, "train/1.jpg"),
    "folder in a folder": ({"jpeg/train/1.jpeg": b"one"}, "train/1.jpg"),
    "another suffix": ({"train_images/1.PNG": b"one"}, "train/1.PNG"),
    "the better folder": ({"stage1_train/1.png": b"one", "images/1.jpg": b"x", "test_2/1.jpg": b"x"}, "train/1.png"),
    "a folder in train.zip": ({"train.zip": zip_bytes({"images/1.jpg": b"one"})}, "train/1.jpg"),
    "another zip": ({"images.zip": zip_bytes({"1.jpg": b"one"})}, "train/1.jpg"),
}


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_images_are_found_in_any_folder(tmp_path, kind):
    files, name = ELSEWHERE[kind]
    rest = {name: content for name, content in COMPLETE.items() if name != "train/1.jpg"}
    for number, write in enumerate((write_zip, write_folder)):
        assert install_competition(write(tmp_path, {**rest, **files}), tmp_path / f"root{number}")
        assert installed_files(tmp_path / f"root{number}") == {**rest, name: b"one"}


def test_two_images_of_one_row_are_refused_unless_a_person_names_the_folder(tmp_path):
    files = {name: content for name, content in COMPLETE.items() if name != "train/1.jpg"}
    source = write_folder(tmp_path, {**files, "large/1.jpg": b"one", "small/1.jpg": b"x", "large/2.jpg": b"two"})
    assert refusal(source, tmp_path / "root") == (
        "the images of this competition cannot be installed:\n"
        f"  - {source}/large/1.jpg and {source}/small/1.jpg would both be train/1.jpg; name their folder with --images "
        "train=DIR\nFix these, or download the competition again."
    )
    assert install_competition(source, tmp_path / "root", image_folders={"train": "large"})
    assert installed_files(tmp_path / "root") == COMPLETE


@pytest.mark.parametrize("csv", ["c/", "labels/"])
@pytest.mark.parametrize("large", ["c/large", "large"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_of_images_may_be_named_from_the_source_or_from_the_csv_files(tmp_path, csv, large, zipped):
    files = {f"{csv}{name}": content for name, content in CSV.items()}
    train = {"1.jpg": b"one", "2.jpg": b"two"}
    images = {"c/large.zip": zip_bytes(train)} if zipped else {f"c/large/{name}": train[name] for name in train}
    images |= {f"c/small/{name}": b"x" for name in train} | {"c/test/3.jpg": b"three"}
    source, root = write_folder(tmp_path, {**files, **images}), tmp_path / "root"
    named = f"{large}.zip" if zipped else large
    if csv == "labels/" and large == "large":
        with pytest.raises(InputError) as caught:
            install_competition(source, root, image_folders={"train": named})
        assert str(caught.value) == (
            f"--images train={named}: {source} holds no such folder or zip of images; it has "
            f"c/large{'.zip' * zipped}, c/small, c/test"
        )
        return
    install_competition(source, root, image_folders={"train": named})
    assert installed_files(root) == COMPLETE


def test_of_many_folders_some_are_named_if_that_of_a_person_is_not_there(tmp_path):
    source = write_folder(tmp_path, {**COMPLETE, **{f"more/{number}/7.jpg": b"x" for number in range(1, 9)}})
    with pytest.raises(InputError) as caught:
        install_competition(source, tmp_path / "root", image_folders={"test": "tset"})
    assert str(caught.value) == (
        f"--images test=tset: {source} holds no such folder or zip of images; it has more/1, more/2, more/3, more/4, "
        "more/5, more/6, more/7, more/8 and 2 more"
    )


def test_a_zip_next_to_the_folder_it_was_unpacked_to_is_refused_unless_a_person_names_the_folder(tmp_path):
    zipped = zip_bytes({"1.jpg": b"one", "2.jpg": b"two"})
    source = write_folder(tmp_path, {**COMPLETE, "train.zip": zipped, "test/3.png": b"x"})
    both = f"{source}/train/{{0}}.jpg and {source}/train.zip/{{0}}.jpg would both be train/{{0}}.jpg".format
    assert refusal(source, tmp_path / "root").splitlines()[:4] == [
        "the images of this competition cannot be installed:",
        f"  - {both(1)}; name their folder with --images train=DIR",
        f"  - {both(2)}; name their folder with --images train=DIR",
        f"  - {source}/test/3.jpg and {source}/test/3.png would both be test/3.jpg",
    ]
    (source / "test" / "3.png").unlink()
    assert install_competition(source, tmp_path / "root", image_folders={"train": "train"})
    assert installed_files(tmp_path / "root") == COMPLETE


@pytest.mark.parametrize("id", ["1.jpg", "a/1.jpg", "a/1"])
def test_an_id_may_have_a_suffix_and_a_folder(tmp_path, id):
    files = {**COMPLETE, "train.csv": f"id,label\n{id},0\n2,1\n".encode()}
    assert install_competition(write_folder(tmp_path, files), tmp_path / "root")
    assert installed_files(tmp_path / "root") == files
    competition = load_competition(tmp_path / "root")
    assert competition.image_path("train", id) == tmp_path / "root" / "competition" / "train" / "1.jpg"


PATHS = ["train/00001/img.jpg", "train/00002/img.jpg"]


@pytest.mark.parametrize("suffix", [".jpg", ""])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("top", ["", "CheXpert-small/"])
def test_ids_that_are_paths_have_the_image_of_their_path(tmp_path, suffix, in_place, top):
    """Their ids may begin with the folder of the csv files, as those of CheXpert do."""
    ids = [f"{top}{path.removesuffix('.jpg')}{suffix}" for path in [*PATHS, "train/00003/front.jpg"]]
    tests = [f"{top}valid/00001/img{suffix}", f"{top}valid/00002/img{suffix}"]
    rows = [f"{id},{row % 2}\n" for row, id in enumerate(ids)]
    files = {f"{top}train.csv": ("id,label\n" + "".join(rows)).encode()}
    files[f"{top}test.csv"] = ("id\n" + "\n".join(tests) + "\n").encode()
    for id in [*ids, *tests]:
        path = f"{id.removesuffix('.jpg')}.jpg"
        files[path] = path.encode()
    root = tmp_path / "root"
    assert install_competition(write_folder(tmp_path, files), root, in_place=in_place)
    competition = load_competition(root)
    for split, of in (("train", ids), ("test", tests)):
        for id in of:
            assert competition.image_path(split, id).read_bytes() == f"{id.removesuffix('.jpg')}.jpg".encode()
    if not in_place:
        folders = f"{top}train".replace("/", "__")
        names = [f"{folders}__00001__img.jpg", f"{folders}__00002__img.jpg", "front.jpg"]
        assert sorted(path.name for path in (root / "competition" / "train").iterdir()) == sorted(names)


def test_images_may_be_in_folders_of_any_depth(tmp_path):
    files = {**CSV, "a/b/c/d/e/f/train/1.jpg": b"one", "train/a/b/c/d/e/f/2.jpg": b"two", "test/3.jpg": b"three"}
    for number, write in enumerate((write_zip, write_folder)):
        assert install_competition(write(tmp_path, files), tmp_path / f"root{number}")
        assert installed_files(tmp_path / f"root{number}") == COMPLETE


def test_an_id_that_is_a_path_does_not_get_the_image_of_another(tmp_path):
    """The last name of the id a/1.jpg is that of the id b/1.jpg as well, so it says nothing."""
    files = {**COMPLETE, "train.csv": b"id,label\na/1.jpg,0\nb/1.jpg,1\n"}
    assert refusal(write_folder(tmp_path, files), tmp_path / "root").splitlines()[1:3] == [
        "  - train/a/1.jpg.jpg (train.csv, row 2) is missing; the nearest file is train/1.jpg",
        "  - train/b/1.jpg.jpg (train.csv, row 3) is missing; the nearest file is train/1.jpg",
    ]


@pytest.mark.parametrize("where", ["source", "root/competition"])
def test_ids_that_train_and_test_share_are_refused_with_what_to_do(tmp_path, where):
    """CIFAR-10 has 1.png in train/ and another 1.png in test/; the advice is followed at the source, and in place."""
    files = {**CSV, "test.csv": b"id\n1\n3\n", "sampleSubmit.csv": b"id,label\n1,0\n3,0\n"}
    images = {"train/1.png": b"one", "train/2.png": b"two", "test/1.png": b"other", "test/3.png": b"three"}
    source, root = write_folder(tmp_path, {**files, **images}), tmp_path / "root"
    install_competition(source, root)
    with pytest.raises(InputError) as caught:
        load_competition(root)
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == ["  - competition/test.csv, row 2: id '1' is also a train id (row 2)"]
    assert lines[-1].endswith(
        "then run `python src/audit.py` again. If train and test have different images of the same ids, write train/ "
        "before the ids of train.csv (1 becomes train/1), also in meta.csv: the images keep their names, and the "
        "submission its ids."
    )
    (tmp_path / where / "train.csv").write_text("id,label\ntrain/1,0\ntrain/2,1\n")
    install_competition(tmp_path / where, root)
    competition = load_competition(root)
    images = [competition.image_path("train", id).read_bytes() for id in ("train/1", "train/2")]
    assert images == [b"one", b"two"] and competition.test["id"].tolist() == ["1", "3"]
    assert [competition.image_path("test", id).read_bytes() for id in ("1", "3")] == [b"other", b"three"]


def test_the_nearest_file_of_a_row_is_in_the_folder_of_its_id(tmp_path):
    files = {**CSV, "train.csv": b"id,label\nA/1.jpg,0\nB/1.jpg,1\n", "test/3.jpg": b"x"}
    files |= {"train/a/1.jpg": b"first", "train/b/1.jpg": b"second"}
    assert refusal(write_folder(tmp_path, files), tmp_path / "root").splitlines()[1:3] == [
        "  - train/A/1.jpg.jpg (train.csv, row 2) is missing; the nearest file is train/a/1.jpg",
        "  - train/B/1.jpg.jpg (train.csv, row 3) is missing; the nearest file is train/b/1.jpg",
    ]


def test_two_rows_that_would_have_one_image_are_refused(tmp_path):
    files = {**CSV, "train.csv": b"id,label\n1,0\n1.jpg,1\n", "test.csv": b"id\ntest/1\n", "images/1.jpg": b"one"}
    name = tmp_path / "source" / "images" / "1.jpg"
    assert refusal(write_folder(tmp_path, files), tmp_path / "root") == (
        "the images of this competition cannot be installed:\n"
        f"  - {name} would be the image of the train id '1' and of the train id '1.jpg'; each row needs a file of its "
        f"own\n  - {name} would be the image of the train id '1' and of the test id 'test/1'; each row needs a file of "
        "its own\nFix these, or download the competition again."
    )


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(
    "id, name", [("1.jpg", "1.JPG"), ("1.JPG", "1.jpg"), ("1.PNG", "1.png"), ("1.JPG", "1.JPG.jpg")]
)
def test_the_suffix_of_an_id_may_have_another_case_than_that_of_its_file(tmp_path, id, name, in_place):
    files = {**COMPLETE, "train.csv": f"id,label\n{id},0\n2,1\n".encode(), f"train/{name}": b"first"}
    files |= {} if name == "1.jpg" else {"test/1.jpg": b"x"}
    source = write_folder(tmp_path, files)
    if name != "1.jpg":
        (source / "train" / "1.jpg").unlink()
    assert install_competition(source, tmp_path / "root", in_place=in_place)
    assert load_competition(tmp_path / "root").image_path("train", id).read_bytes() == b"first"


def test_the_file_of_the_very_name_counts_before_one_of_another_case(tmp_path):
    files = {**CSV, "train.csv": b"id,label\n1.jpg,0\n2,1\n"}
    files |= {"train/a/1.JPG": b"of no row", "train/b/1.jpg": b"first", "train/b/2.jpg": b"second", "test/3.jpg": b"x"}
    root = tmp_path / "root"
    assert install_competition(write_folder(tmp_path, files), root, image_folders={"train": "train/b"}, in_place=True)
    (root / "competition" / "task.toml").write_text(
        (root / "competition" / "task.toml").read_text().replace("/train/b", "/train")
    )
    assert load_competition(root).image_path("train", "1.jpg").read_bytes() == b"first"


def test_an_image_of_no_row_does_not_take_the_place_of_one(tmp_path):
    """a__1.jpg is what the image of a/1 is called where b/1 is a row as well."""
    files = {**CSV, "train.csv": b"id,label\na/1,0\nb/2,1\n", "test.csv": b"id\n3\n", "test/3.jpg": b"x"}
    files |= {"train/a/1.jpg": b"first", "train/b/2.jpg": b"second", "train/a__1.jpg": b"of no row"}
    assert install_competition(write_folder(tmp_path, files), tmp_path / "root")
    assert load_competition(tmp_path / "root").image_path("train", "a/1").read_bytes() == b"first"


def test_a_csv_file_may_be_in_a_zip_of_its_own_or_have_another_name(tmp_path):
    files = {name: content for name, content in COMPLETE.items() if name not in ("train.csv", "sampleSubmit.csv")}
    files |= {"train_labels.csv.zip": zip_bytes({"train_labels.csv": CSV["train.csv"]}), "labels.csv": b"x"}
    source = write_zip(tmp_path, {**files, "sample_submission.csv": CSV["sampleSubmit.csv"]})
    assert install_competition(source, tmp_path / "root")
    assert installed_files(tmp_path / "root") == COMPLETE


def write_classes(folder, names):
    return write_folder(folder, {name: name.encode() for name in names})


def test_folders_of_classes_become_a_train_csv(tmp_path):
    source = write_classes(tmp_path, ["train/dog/b.1.jpg", "train/cat/a.jpg", "train/dog/c.PNG", "test/7.jpg"])
    assert install_competition(source, tmp_path / "root")
    files = installed_files(tmp_path / "root")
    assert files == {
        "train.csv": b"id,label\na,cat\nb.1,dog\nc,dog\n",
        "test.csv": b"id\n7\n",
        "train/a.jpg": b"train/cat/a.jpg",
        "train/b.1.jpg": b"train/dog/b.1.jpg",
        "train/c.PNG": b"train/dog/c.PNG",
        "test/7.jpg": b"test/7.jpg",
    }
    assert not install_competition(source, tmp_path / "root")
    competition = load_competition(tmp_path / "root")
    assert competition.task.classes == ("cat", "dog") and competition.train["label"].tolist() == [0, 1, 1]
    assert competition.sample.to_dict("list") == {"id": ["7"], "label": [""]}
    (source / "train" / "dog" / "d.jpg").write_bytes(b"new")
    assert install_competition(source, tmp_path / "root")  # no audit had accepted the first one


def test_ids_of_folders_of_classes_are_as_long_as_they_have_to_be(tmp_path):
    numbered = ["train/cat/1.jpg", "train/dog/1.jpg", "train/dog/2.jpg", "test/2.jpg"]
    install_competition(write_classes(tmp_path / "a", numbered), tmp_path / "root")
    files = installed_files(tmp_path / "root")
    assert files["train.csv"] == b"id,label\ncat_1.jpg,cat\ndog_1.jpg,dog\ndog_2.jpg,dog\n"
    assert files["train/dog_1.jpg"] == b"train/dog/1.jpg" and files["test/test_2.jpg"] == b"test/2.jpg"
    sample = {"sample_submission.csv": b"file,species\n7.png,x\n"}
    images = {"train/cat/1.png": b"1", "train/dog/2.png": b"2", "test/7.png": b"7"}
    install_competition(write_folder(tmp_path / "b", {**images, **sample}), tmp_path / "other")
    files = installed_files(tmp_path / "other")
    assert files["train.csv"] == b"file,species\n1.png,cat\n2.png,dog\n" and "test.csv" not in files


CLASS_NAMES = {  # the train images, and the class of each
    "like a split": (
        ["train/bus/1", "train/car/2", "train/testudo/3", "train/train_station/4"],
        "bus car testudo train_station",
    ),
    "train itself": (["train/bus/1", "train/car/2", "train/train/3"], "bus car train"),
    "train in train": (["train/train/bus/1", "train/train/test_bench/2"], "bus test_bench"),
    "folders in a class": (["train/bus/images/1", "train/train/images/2"], "bus train"),
    "an only folder": (["train/images/bus/1", "train/images/test/2"], "bus test"),
}


@pytest.mark.parametrize("kind", CLASS_NAMES)
@pytest.mark.parametrize("top", ["", "training_data/"])
@pytest.mark.parametrize("sample", [False, True])
def test_a_class_may_be_called_like_a_split(tmp_path, kind, top, sample):
    names, classes = CLASS_NAMES[kind]
    source = write_classes(tmp_path, [*(f"{top}{name}.jpg" for name in names), f"{top}test/4.png"])
    if sample:
        (source / "sample_submission.csv").write_text("id,label\n4.png,bus\n")
    install_competition(source, tmp_path / "root")
    competition = load_competition(tmp_path / "root")
    labels = [competition.task.classes[label] for label in competition.train["label"]]
    assert labels == classes.split()
    (id,) = competition.test["id"]
    assert competition.image_path("test", id).read_bytes() == f"{top}test/4.png".encode()


def test_the_names_of_folders_are_read_once_each_however_many_one_holds(monkeypatch):
    names, called = [], class_folders._called
    monkeypatch.setattr(class_folders, "_called", lambda name: names.append(name) or called(name))
    paths = [PurePosixPath(f"train/patient{number}/{view}.jpg") for number in range(100) for view in "ab"]
    places = class_folders.place_images(paths)
    assert places[paths[-1]] == ("train", "patient99")
    assert sorted(names) == sorted(["train", *(f"patient{number}" for number in range(100))])


@pytest.mark.parametrize("content", [b"file,age\n9,1\n7,2\n", b"file\n9.png\n7.png\n"])
def test_the_test_csv_next_to_folders_of_classes_stays(tmp_path, content):
    images = {f"{name}.png": name.encode() for name in ("train/cat/1", "train/dog/7", "test/7", "test/8", "test/9")}
    install_competition(write_folder(tmp_path, {**images, "test.csv": content}), tmp_path / "root")
    assert installed_files(tmp_path / "root")["test.csv"] == content
    competition = load_competition(tmp_path / "root")
    assert (competition.task.id_column, competition.task.label_columns) == ("file", ("label",))
    first, second = competition.test["id"]
    assert competition.image_path("test", first).read_bytes() == b"test/9"
    assert competition.image_path("test", second).read_bytes() == b"test/7"
    assert competition.image_path("train", competition.train["id"][1]).read_bytes() == b"train/dog/7"


def test_a_test_csv_next_to_folders_of_classes_is_read_as_any_other(tmp_path):
    files = {f"{name}.png": name.encode() for name in ("train/cat/1", "train/dog/2", "test/7")}
    source = write_folder(tmp_path, {**files, "test.csv": b"\xef\xbb\xbffile\r7.png\r"})
    install_competition(source, tmp_path / "root")
    assert installed_files(tmp_path / "root")["train.csv"] == b"file,label\n1.png,cat\n2.png,dog\n"
    for content, line in {
        b"file\n\xff.png\n": ", row 2: not UTF-8 (byte 0xff); save it as UTF-8",
        b"": " is empty",
        b"file;age\n7.png;3\n": ", row 1: the cells are separated by semicolons, not by commas; save the file with "
        "commas",
    }.items():
        (source / "test.csv").write_bytes(content)
        assert refusal(source, tmp_path / "other") == (
            f"the ids of the test images cannot be read:\n  - {source}/test.csv{line}\n"
            "Fix the file, then run the same command again."
        )


def test_images_of_classes_may_be_in_a_zip_inside(tmp_path):
    inner = zip_bytes({"train/cat/1.jpg": b"one", "train/dog/2.jpg": b"two"})
    source = write_zip(tmp_path, {"c/train.zip": inner, "c/test.zip": zip_bytes({"3.jpg": b"three"})})
    assert install_competition(source, tmp_path / "root")
    files = installed_files(tmp_path / "root")
    assert files["train.csv"] == b"id,label\n1,cat\n2,dog\n" and files["test/3.jpg"] == b"three"


def test_a_folder_of_classes_may_be_next_to_a_sample_or_below_it(tmp_path):
    images = {"train/cat/1.jpg": b"one", "train/dog/2.jpg": b"two", "test/3.jpg": b"three"}
    sample = {"sample_submission.csv": b"img,cat,dog\n3.jpg,0.5,0.5\n"}
    for name, files in {
        "same": {f"pets/{name}": content for name, content in {**images, **sample}.items()},
        "below": {**{f"imgs/{name}": content for name, content in images.items()}, **sample},
    }.items():
        install_competition(write_folder(tmp_path / name, files), tmp_path / f"root {name}")
        competition = load_competition(tmp_path / f"root {name}")
        assert competition.train["id"].tolist() == ["1.jpg", "2.jpg"] and competition.task.classes == ("cat", "dog")
        assert competition.image_path("test", "3.jpg").read_bytes() == b"three"


def test_a_second_try_with_the_column_of_the_ids_takes_their_images(tmp_path):
    csv = {"train.csv": b"row,image,label\n0,1,0\n1,2,1\n", "sampleSubmit.csv": b"row,image,label\n0,3,0\n"}
    images = {name: content for name, content in COMPLETE.items() if name.endswith(".jpg")}
    away = {f"imgs/{name}": content for name, content in images.items()}
    source, root = write_zip(tmp_path, {**csv, **away}), tmp_path / "root"
    for choices in (Choices(), Choices(id_column="image")):
        try:
            install_competition(source, root, choices)
        except InputError:
            assert not choices.any
    assert {name for name in installed_files(root) if name.endswith(".jpg")} == set(images)


def test_images_may_stay_where_they_are(tmp_path):
    files = {"train/cat/1.jpg": b"one", "train/dog/2.png": b"two", "test/3.jpg": b"three"}
    source, root = write_folder(tmp_path, files), tmp_path / "root"
    assert install_competition(source, root, in_place=True)
    assert sorted(installed_files(root)) == ["task.toml", "test.csv", "train.csv"]
    for _ in range(2):
        competition = load_competition(root)
        assert competition.task.train_images == str(source / "train")
        assert competition.image_path("train", "2").read_bytes() == b"two"
        assert competition.image_path("test", "3") == source / "test" / "3.jpg"
        assert not install_competition(source, root)
    mixed = {**CSV, "a/1.jpg": b"one", "a/2.jpg": b"two", "b/1.jpg": b"x", "test/3.jpg": b"three"}
    source = write_folder(tmp_path / "mixed", {f"images/{name}": content for name, content in mixed.items()})
    with pytest.raises(InputError, match="would both be train/1.jpg; name their folder with --images train=DIR"):
        install_competition(source, tmp_path / "other", in_place=True)
    install_competition(source, tmp_path / "other", image_folders={"train": "a"}, in_place=True)
    assert load_competition(tmp_path / "other").image_path("train", "1").read_bytes() == b"one"
    (source / "images" / "train.csv").write_bytes(b"id,label\na/1,0\nb/1,1\n")
    install_competition(source, tmp_path / "paths", in_place=True)
    competition = load_competition(tmp_path / "paths")
    assert [competition.image_path("train", id).read_bytes() for id in ("a/1", "b/1")] == [b"one", b"x"]
    with pytest.raises(InputError, match="^--in-place needs a folder, which .*/c.zip is not: unpack it, or leave"):
        install_competition(write_zip(tmp_path, COMPLETE), tmp_path / "third", in_place=True)


def test_images_inside_a_zip_cannot_stay_where_they_are(tmp_path):
    zipped = zip_bytes({"1.jpg": b"one", "2.jpg": b"two"})
    source = write_folder(tmp_path, {**CSV, "train.zip": zipped, "test/3.jpg": b"three"})
    with pytest.raises(InputError) as caught:
        install_competition(source, tmp_path / "root", in_place=True)
    assert str(caught.value) == f"{source}/train.zip/1.jpg is inside a zip: unpack it, or leave --in-place out"
    assert not list((tmp_path / "root").iterdir())


def test_a_name_in_two_unicode_forms_is_one_image(tmp_path):
    composed, decomposed = "caf\u00e9.jpg", "cafe\u0301.jpg"
    csv = {**CSV, "train.csv": "id,label\n1,0\ncaf\u00e9,1\n".encode()}
    files = {**csv, "train/1.jpg": b"one", "test/3.jpg": b"three"}
    assert install_competition(write_zip(tmp_path, {**files, f"train/{decomposed}": b"x"}), tmp_path / "root")
    text = refusal(
        write_zip(tmp_path, {**files, f"train/{decomposed}": b"x", f"train/{composed}": b"y"}), tmp_path / "other"
    )
    assert f"c.zip/train/{decomposed} and c.zip/train/{composed} would both be train/{composed}" in text


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


def write_real_competition(root, seed=0):
    """Write a competition that is not marked as synthetic; return its folder."""
    write_synthetic_competition(root, train=24, test=10, size=32, seed=seed)
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


@pytest.mark.parametrize("name", ["competition.old", "competition.part"])
def test_a_folder_that_a_person_moved_to_a_name_of_ours_is_refused(tmp_path, name):
    root, source = tmp_path / "root", write_real_competition(tmp_path / "real")
    install_competition(source, root)
    (root / "competition").rename(root / name)
    for install in (lambda: refusal(source, root), lambda: write_error(root)):
        assert install().startswith(f"{root / name} was not written by this program, which needs the name while")


def write_error(root, size=32):
    """The text of the refusal to write a synthetic competition, of which one of another `size` is another."""
    with pytest.raises(InputError) as caught:
        write_synthetic_competition(root, train=20, test=10, size=size)
    return str(caught.value)


def test_what_a_kill_left_of_a_replaced_competition_is_removed(tmp_path):
    root, source = tmp_path / "root", write_real_competition(tmp_path / "real")
    (root / "competition.old" / "train").mkdir(parents=True)
    (root / "competition.old" / ".facefold").write_text("competition.old\n\n")
    assert install_competition(source, root)
    assert [path.name for path in root.iterdir()] == ["competition"]


@pytest.mark.parametrize("name", ["notes.txt", "train/notes.txt", "raw/1.jpg", "train/raw/1.jpg"])
def test_a_file_of_a_person_in_a_synthetic_competition_is_refused(tmp_path, name):
    root, source = tmp_path / "root", write_real_competition(tmp_path / "real")
    write_synthetic_competition(root, train=20, test=10, size=32)
    (root / "competition" / name).parent.mkdir(exist_ok=True)
    (root / "competition" / name).write_text("mine")
    named = root / "competition" / (name.removesuffix("/1.jpg"))
    for text in (refusal(source, root), write_error(root, size=40)):
        assert text == (
            f"{root / 'competition'} is to be replaced, and holds files that are no part of a competition:\n"
            f"  - {named}\nMove them away, then run the same command again. Nothing was changed."
        )


def test_hidden_files_are_no_competition_and_stay(tmp_path):
    root, source = tmp_path / "root", write_real_competition(tmp_path / "real")
    (root / "competition" / ".ipynb_checkpoints").mkdir(parents=True)
    for name in (".DS_Store", ".ipynb_checkpoints/notes.ipynb"):
        (root / "competition" / name).write_text("mine")
    assert install_competition(source, root)
    assert (root / "competition" / ".ipynb_checkpoints" / "notes.ipynb").read_text() == "mine"
    assert (root / "competition" / ".DS_Store").read_text() == "mine"


def test_foreign_results_are_refused_by_name_before_anything_is_removed(tmp_path):
    root, source = tmp_path / "root", write_real_competition(tmp_path / "real")
    foreign = ["cache/pip/http/1", "runs/detect/train/weights.pt", "targets/model.tgt", "tensorboard/exp/events.out"]
    for name in foreign:
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("mine")
    write_synthetic_competition(root, train=20, test=10, size=32)
    assert refusal(source, root) == (
        f"{root} holds files that no step wrote, in folders that are removed with the synthetic competition:\n"
        + "".join(f"  - {root / name}\n" for name in foreign)
        + "Move them away, or choose another folder with --root. Nothing was changed."
    )
    assert is_synthetic(root)


def test_a_source_inside_what_would_be_removed_is_refused(tmp_path):
    write_synthetic_competition(tmp_path, train=20, test=10, size=32)
    source = write_real_competition(tmp_path / "cache")
    with pytest.raises(InputError, match="which is removed with the synthetic competition; move it out first"):
        install_competition(source, tmp_path)
    assert is_synthetic(tmp_path) and source.exists()


def sound(root):
    """Whether the audit accepts the competition."""
    try:
        audit_competition(root)
    except InputError:
        return False
    return True


@pytest.mark.parametrize("name, content", [("train.csv", b"id,label\n1,x\n"), ("test.csv", b"id\n25\n99\n")])
def test_a_refused_competition_does_not_keep_its_place(tmp_path, name, content):
    root, source = tmp_path / "root", write_real_competition(tmp_path / "real")
    repaired = (source / name).read_bytes()
    (source / name).write_bytes(content)
    assert install_competition(source, root) and not sound(root)
    (source / name).write_bytes(repaired)
    assert install_competition(source, root) and sound(root)
    (source / name).write_bytes(content)
    assert f"holds another competition; not the same: {name}." in refusal(source, root)


def test_what_a_person_changed_in_a_refused_competition_keeps_its_place(tmp_path):
    root, source = tmp_path / "root", write_real_competition(tmp_path / "real")
    (source / "train" / "2.jpg").write_bytes(b"broken")
    install_competition(source, root)
    time.sleep(0.02)  # the clock of a file system ticks that slowly
    path = root / "competition" / "train.csv"
    path.write_text(path.read_text().replace("2,1\n", "").replace("2,0\n", ""))
    assert "holds another competition; not the same: train.csv." in refusal(source, root, "cache")


def test_a_competition_once_accepted_keeps_its_place(tmp_path):
    root, source = tmp_path / "root", write_real_competition(tmp_path / "real")
    assert install_competition(source, root) and sound(root)
    (root / "competition" / "train" / "1.jpg").unlink()
    other = write_real_competition(tmp_path / "other", seed=1)
    assert "holds another competition; not the same: train.csv." in refusal(other, root)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_repaired_image_replaces_the_installed_one(tmp_path, zipped, capsys):
    root, folder = tmp_path / "root", write_real_competition(tmp_path / "real")
    repaired = (folder / "train" / "2.jpg").read_bytes()

    def source():
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.[cj]*")}
        return write_zip(tmp_path, files) if zipped else folder

    (folder / "train" / "2.jpg").write_bytes(repaired[:-200])
    install_competition(source(), root)
    assert not sound(root)
    (folder / "train" / "2.jpg").write_bytes(repaired)
    assert not install_competition(source(), root) and sound(root)
    assert capsys.readouterr().out.splitlines() == [
        f"{root / 'competition'}: images taken from the source, where they differ: 1 (train/2.jpg)"
    ]
    assert not install_competition(source(), root) and not capsys.readouterr().out


def test_an_image_that_a_person_repaired_in_place_stays(tmp_path, capsys):
    root, source = tmp_path / "root", write_real_competition(tmp_path / "real")
    install_competition(source, root)
    time.sleep(0.02)
    path = root / "competition" / "train" / "2.jpg"
    path.write_bytes((source / "train" / "3.jpg").read_bytes())
    for _ in range(2):
        assert not install_competition(source, root)
        assert capsys.readouterr().out.splitlines() == [
            f"{root / 'competition'}: images kept, as they were changed here, or are broken in the source: 1 "
            "(train/2.jpg)"
        ]
    assert path.read_bytes() == (source / "train" / "3.jpg").read_bytes()


def test_a_sound_image_is_not_replaced_by_one_that_broke_in_the_source(tmp_path):
    root, source = tmp_path / "root", write_real_competition(tmp_path / "real")
    install_competition(source, root)
    installed = root / "competition" / "train" / "2.jpg"
    before = installed.read_bytes()
    (source / "train" / "2.jpg").write_bytes(before[:-200])
    assert not install_competition(source, root)
    assert installed.read_bytes() == before and not list((root / "competition").glob(".facefold.tmp"))


def test_what_a_person_changed_counts_after_all_times_have_changed(tmp_path):
    """`chmod -R` and `cp -a` give every file a new ctime, in any order."""
    root, source = tmp_path / "root", write_real_competition(tmp_path / "real")
    (source / "train" / "2.jpg").write_bytes(b"broken")
    install_competition(source, root)
    path = root / "competition" / "train.csv"
    path.write_text(path.read_text().replace("2,1\n", "").replace("2,0\n", ""))
    time.sleep(0.02)
    (root / "competition" / ".facefold").chmod(0o644)
    assert "holds another competition; not the same: train.csv." in refusal(source, root, "cache")


def test_a_competition_behind_a_link_is_refused(tmp_path):
    root, disk = tmp_path / "root", tmp_path / "disk"
    root.mkdir()
    disk.mkdir()
    (root / "competition").symlink_to(disk)
    message = refusal(write_real_competition(tmp_path / "real"), root)
    assert message.startswith(f"{root / 'competition'} is a link, and would be replaced by a folder; ")
    assert (root / "competition").is_symlink() and not list(disk.iterdir())


def test_an_empty_folder_that_a_kill_left_is_no_obstacle(tmp_path):
    root = tmp_path / "root"
    (root / "competition.part").mkdir(parents=True)
    assert install_competition(write_real_competition(tmp_path / "real"), root) and sound(root)


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
