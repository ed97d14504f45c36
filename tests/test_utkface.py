"""UTKFace becomes a competition: what the names say and no more, ids that say nothing, answers kept apart."""

import os
import zipfile
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command import run
from facefold.data.audit import audit_competition
from facefold.data.utkface import install_utkface, parse_file_names, split_faces
from facefold.utils.errors import InputError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "utkface-400.zip"


def jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def name(number: int) -> str:
    return f"{number}_{number % 2}_{number % 5}_2017010400{number:07d}.jpg.chip.jpg"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """20 faces, 10 of each gender, in UTKFace/, some once more in crop_part1/, and names that say too little."""
    for folder, numbers in (("UTKFace", range(20)), ("crop_part1", range(5))):
        (tmp_path / "source" / folder).mkdir(parents=True)
        for number in numbers:
            (tmp_path / "source" / folder / name(number)).write_bytes(jpeg(number))
    for wrong in ("61_1_20170109142408075.jpg.chip.jpg", "117_0_0_20170109142408075.jpg.chip.jpg", "notes.txt"):
        (tmp_path / "source" / "UTKFace" / wrong).write_bytes(jpeg(99))
    return tmp_path / "source"


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    return path


def test_every_image_keeps_what_its_name_says(source, tmp_path):
    imported = install_utkface(source, tmp_path / "root", 6, 0)
    competition, _ = audit_competition(tmp_path / "root")
    assert imported.new and imported.repeated == 5
    assert imported.malformed == [
        "UTKFace/117_0_0_20170109142408075.jpg.chip.jpg",
        "UTKFace/61_1_20170109142408075.jpg.chip.jpg",
    ]
    solution = pd.read_csv(tmp_path / "root" / "solution.csv", dtype={"id": str})
    assert solution.columns.tolist() == ["id", "label", "age", "race"] and solution["label"].tolist().count(1) == 3
    facts = {id: (label, age, race) for id, label, age, race in solution.itertuples(index=False)}
    meta = competition.meta.astype({"age": int, "race": int}).merge(competition.train, on="id")
    facts |= {row.id: (row.label, row.age, row.race) for row in meta.itertuples()}
    numbers = {jpeg(number): number for number in range(20)}
    for split in ("train", "test"):
        for id in getattr(competition, split)["id"]:
            number = numbers.pop(competition.image_path(split, id).read_bytes())
            assert facts[id] == (number % 2, number, number % 5)
    assert not numbers and sorted(map(int, facts)) == list(range(1, 21))
    assert (
        competition.sample["label"].unique().tolist() == ["0"]
        and competition.meta["id"].tolist() == competition.train["id"].tolist()
    )


def test_all_images_have_one_time_and_zip_and_folder_give_the_same_bytes(source, tmp_path):
    archive = zipped(source, tmp_path / "utk.zip")
    install_utkface(source, tmp_path / "a", 6, 0)
    install_utkface(archive, tmp_path / "b", 6, 0)
    for root in ("a", "b"):
        assert len({path.stat().st_mtime for path in (tmp_path / root / "competition").glob("*/*.jpg")}) == 1
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 26
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_a_competition_that_is_there_is_kept(source, tmp_path):
    install_utkface(source, tmp_path, 6, 0)
    before = (tmp_path / "competition" / "train.csv").read_bytes()
    assert not install_utkface(source, tmp_path, 6, 0).new
    with pytest.raises(InputError) as error:
        install_utkface(source, tmp_path, 6, 1)
    assert str(error.value) == (
        f"{tmp_path / 'competition'} holds another competition and is left as it is; choose another folder with --root"
    )
    assert (tmp_path / "competition" / "train.csv").read_bytes() == before


def test_answers_that_are_there_are_kept(source, tmp_path):
    (tmp_path / "solution.csv").write_text("id,label\n1,1\n")
    with pytest.raises(InputError, match="holds other answers; move it away"):
        install_utkface(source, tmp_path, 6, 0)
    assert not (tmp_path / "competition").exists()


@pytest.mark.parametrize(
    ("test_size", "message"),
    [
        (1, "--test-size 1: there are 20 faces here, so it is 2 to 16; --test-size 5 holds out a quarter"),
        (17, "--test-size 17: there are 20 faces here, so it is 2 to 16; --test-size 5 holds out a quarter"),
    ],
)
def test_sizes_that_cannot_be(source, tmp_path, test_size, message):
    with pytest.raises(InputError) as error:
        install_utkface(source, tmp_path, test_size, 0)
    assert str(error.value) == message


def test_a_zip_whose_member_leaves_the_folder_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(f"../{name(1)}", jpeg(1))
    with pytest.raises(InputError, match="would leave the folder it is unpacked to"):
        install_utkface(tmp_path / "bad.zip", tmp_path / "root", 2, 0)
    (tmp_path / "torn.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match="is not a complete zip"):
        install_utkface(tmp_path / "torn.zip", tmp_path / "root", 2, 0)
    assert not (tmp_path / "root").exists() and not list(tmp_path.glob("*.jpg"))


def test_names_that_are_not_utf8(source, tmp_path):
    strange = os.fsdecode(b"caf\xe9.jpg")
    (source / "UTKFace" / strange).write_bytes(jpeg(98))
    (source / os.fsdecode(b"f\xe9vrier")).mkdir()
    (source / os.fsdecode(b"f\xe9vrier") / name(20)).write_bytes(jpeg(20))
    done = run("import_utkface", tmp_path / "root", source, "--test-size", 6)
    assert done.returncode == 0 and "  - UTKFace/caf\\udce9.jpg\n" in done.stdout
    assert len(pd.read_csv(tmp_path / "root" / "competition" / "train.csv")) == 15


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("24_0_1_20170116220224657 .jpg.chip.jpg", (24, 0, 1)),
        ("1_1_4_2016.JPG", (1, 1, 4)),
        ("116_0_0_2016.jpg", (116, 0, 0)),
        ("61_3_2_2017.jpg", None),
        ("39_1_20170116174525125.jpg.chip.jpg", None),
        ("39_1_5_2017.jpg", None),
        ("53__0_2017.jpg", None),
        ("-1_0_0_2017.jpg", None),
        ("5_0_0.jpg", None),
        ("5_0_0_x.jpg", None),
        ("5_0_0_2017 (1).jpg", None),
    ],
)
def test_names(text, fact):
    path, other = PurePosixPath("UTKFace") / text, PurePosixPath("UTKFace") / name(7)
    table, malformed, _ = parse_file_names([path, other])
    parsed = table[table["path"] == path]
    assert [tuple(row) for row in parsed[["age", "label", "race"]].to_numpy()] == ([fact] if fact else [])
    assert malformed == ([] if fact else [str(path)])


def test_a_face_cropped_and_not_is_refused():
    with pytest.raises(InputError, match="^1 faces are there both cropped"):
        parse_file_names([PurePosixPath("a/7_1_2_2017.jpg"), PurePosixPath("b/7_1_2_2017.jpg.chip.jpg")])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 50), test_size=st.integers(2, 36))
def test_ids_are_a_permutation_and_the_test_rows_stratified(seed, test_size):
    faces = pd.DataFrame({"path": [str(number) for number in range(40)], "label": [0] * 30 + [1] * 10})
    split = split_faces(faces, test_size, seed)
    test = split[split["split"] == "test"]
    assert split["id"].tolist() == [str(number) for number in range(1, 41)]
    assert len(test) == test_size and abs(test["label"].sum() - test_size / 4) < 1
    assert sorted(split["path"], key=int) == faces["path"].tolist() and split["path"].tolist() != faces["path"].tolist()


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/utkface-400.zip is not there")
def test_the_real_faces_pass_the_audit(tmp_path):
    assert (
        "train    300 faces, share of label 1: 0.5000, ages 1 to "
        in run("import_utkface", tmp_path, SHARED, "--test-size", 100).stdout
    )
    assert "nothing breaks the rules" in run("audit", tmp_path, "--strict").stdout
