"""Each image is checked once, all findings come at once, and what is kept is the same again."""

import os
import re

import cv2
import numpy as np
import pandas as pd
import pytest

from facefold.data import audit
from facefold.data.audit import (
    THUMBNAIL_SIDE,
    Thumbnails,
    audit_competition,
    check_images,
    find_broken_images,
    images_without_row,
    load_images_hash,
    load_thumbnails,
)
from facefold.data.competition import load_competition
from facefold.data.task_inference import Choices
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file, write_json, write_text


def jpeg(shade, width=12, height=10, quality=95):
    pixels = np.full((height, width, 3), shade, np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


@pytest.fixture
def competition(tmp_path):
    folder = tmp_path / "competition"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
    write_text(folder / "train.csv", "id,label\n02,0\n1,1\n7,0\n")
    write_text(folder / "test.csv", "id\n3\n4\n")
    write_text(folder / "sampleSubmit.csv", "id,label\n3,0\n4,0\n")
    for name, shade in {"train/02": 10, "train/1": 90, "train/7": 10, "test/3": 90, "test/4": 200}.items():
        (folder / f"{name}.jpg").write_bytes(jpeg(shade))
    return load_competition(tmp_path)


def never(_path):
    raise AssertionError("an image was opened")


def test_table_has_a_row_for_each_image_in_the_order_of_the_csv(competition):
    table = check_images(competition)
    assert (table["split"] + "/" + table["id"]).tolist() == ["train/02", "train/1", "train/7", "test/3", "test/4"]
    assert table["sha256"][0] == table["sha256"][2] == sha256_file(competition.image_path("train", "02"))
    assert table["sha256"][1] == table["sha256"][3] != table["sha256"][4]
    assert table["bytes"][4] == len(jpeg(200))
    assert (table["width"] == 12).all() and (table["height"] == 10).all()


def test_a_second_check_opens_no_image_and_returns_the_same(competition, monkeypatch):
    first = check_images(competition)
    monkeypatch.setattr(audit, "inspect_image", never)
    pd.testing.assert_frame_equal(check_images(competition), first)


@pytest.mark.parametrize("damage", ["table", "stamp", "table lost"])
def test_a_damaged_result_is_written_again(competition, damage):
    first = check_images(competition)
    path = competition.root / "cache" / ("images.json" if damage == "stamp" else "images.csv")
    path.unlink() if damage == "table lost" else path.write_text("split,id\n")
    pd.testing.assert_frame_equal(check_images(competition), first)


def test_a_changed_image_is_seen(competition):
    before = check_images(competition)
    sha256 = load_images_hash(competition.root)
    competition.image_path("test", "3").write_bytes(jpeg(91, width=16))
    after = check_images(competition)
    assert after["width"].tolist() == [12, 12, 12, 16, 12] and after["sha256"][3] != before["sha256"][3]
    assert load_images_hash(competition.root) != sha256


def test_the_fingerprint_is_that_of_the_content_not_of_the_time(competition):
    check_images(competition)
    sha256 = load_images_hash(competition.root)
    os.utime(competition.image_path("test", "3"), (1, 1))
    check_images(competition)
    assert load_images_hash(competition.root) == sha256


def test_no_fingerprint_before_the_check(tmp_path):
    with pytest.raises(
        InputError, match=re.escape("the images were not checked yet. Run `python src/audit.py` first.")
    ):
        load_images_hash(tmp_path)


def test_all_unsound_images_are_listed_at_once(competition):
    competition.image_path("train", "02").write_bytes(b"")
    competition.image_path("train", "7").write_bytes(jpeg(7)[:-9])
    competition.image_path("test", "3").unlink()
    competition.image_path("test", "4").write_text("no image")
    for _ in range(2):  # a failure is not kept as if it were a result
        with pytest.raises(InputError) as caught:
            check_images(competition)
        assert str(caught.value).split("\n")[:-1] == [
            "some images cannot be used:",
            "  - competition/train/02.jpg (train.csv, row 2) is empty",
            "  - competition/train/7.jpg (train.csv, row 4) is truncated",
            "  - competition/test/3.jpg (test.csv, row 2) is missing",
            "  - competition/test/4.jpg (test.csv, row 3) is not an image",
        ]
    assert not (competition.root / "cache").exists()


def test_two_rows_do_not_have_one_image(competition):
    folder = competition.root / "competition"
    write_text(folder / "train.csv", "id,label\n02,0\na/1,1\nb/1,0\n")
    with pytest.raises(InputError) as caught:
        audit_competition(competition.root)
    assert str(caught.value).split("\n")[:-1] == [
        "some images cannot be used:",
        "  - competition/train/1.jpg (train.csv, row 4) is the image of an earlier row as well; each needs its own "
        "(that of the id a/1.jpg may be called a__1.jpg)",
    ]
    (folder / "train" / "b__1.jpg").write_bytes(jpeg(50))
    table = audit_competition(competition.root)[1].set_index("id")
    assert table["sha256"]["b/1"] == sha256_file(folder / "train" / "b__1.jpg")
    assert table["sha256"]["a/1"] == sha256_file(folder / "train" / "1.jpg")


def test_the_nearest_file_of_a_missing_image_is_named_and_what_no_row_uses_counted(competition):
    folder = competition.root / "competition"
    (folder / "train" / "0").mkdir()
    for id, near in (("02", "train/2.jpg"), ("7", "train/0/7.png")):
        competition.image_path("train", id).rename(folder / near)
    (folder / "notes.txt").write_text("")
    with pytest.raises(InputError) as caught:
        check_images(competition)
    lines = str(caught.value).split("\n")
    assert lines[1:4] == [
        "  - competition/train/02.jpg (train.csv, row 2) is missing; the nearest file is competition/train/2.jpg",
        "  - competition/train/7.jpg (train.csv, row 4) is missing; the nearest file is competition/train/0/7.png",
        f"Images and zips in {folder} that are of no row, and were left out: 2 ('train/0/7.png', 'train/2.jpg').",
    ]


def test_an_image_that_is_a_pipe_does_not_hang_the_audit(competition):
    competition.image_path("train", "02").unlink()
    os.mkfifo(competition.image_path("train", "02"))
    with pytest.raises(InputError, match=re.escape("(train.csv, row 2) is a folder, pipe or device, not a file")):
        check_images(competition)


def test_a_name_in_another_unicode_form_is_checked_and_no_image_without_row(competition):
    write_text(competition.root / "competition" / "test.csv", "id\ncaf\u00e9\n4\n")
    write_text(competition.root / "competition" / "sampleSubmit.csv", "id,label\ncaf\u00e9,0\n4,0\n")
    path = competition.image_path("test", "3")
    path.rename(path.with_name("cafe\u0301.jpg"))
    competition = load_competition(competition.root)
    assert check_images(competition)["id"].tolist()[3:] == ["caf\u00e9", "4"]
    assert images_without_row(competition) == []


def test_files_of_a_person_in_the_cache_stay(competition):
    check_images(competition)
    for name in ("thumbnails_of_mine.csv", "thumbnails_1_0123456789ab.csv"):
        write_text(competition.root / "cache" / name, "")
    load_thumbnails(competition)
    assert (competition.root / "cache" / "thumbnails_of_mine.csv").exists()
    assert not (competition.root / "cache" / "thumbnails_1_0123456789ab.csv").exists()


def test_findings_in_csv_files_and_images_come_together(competition):
    write_text(competition.root / "competition" / "train.csv", "id,label\n02,0\n1,x\n\n../7,0\n7,0\n7,0\n8,1\n")
    competition.image_path("train", "7").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        audit_competition(competition.root)
    assert [line for line in str(caught.value).split("\n") if line.startswith("  - ")] == [
        "  - competition/train.csv, row 4 is blank",
        "  - competition/train.csv, row 5: id '../7' would leave the folder",
        "  - competition/train.csv, row 7: id '7' appears twice, first in row 6",
        "  - competition/train.csv, row 3: label 'x' is not 0 or 1",
        "  - competition/train/7.jpg (train.csv, row 6) is empty",
        "  - competition/train/8.jpg (train.csv, row 8) is missing",
    ]


def test_images_are_those_of_the_column_that_a_person_names_as_the_ids(competition):
    """Both columns could be the ids; row 3 of train.csv is at fault, and so is the image of row 2."""
    folder = competition.root / "competition"
    write_text(folder / "train.csv", "row,image,label\n0,02,0\n1,1,\n2,7,0\n")
    write_text(folder / "test.csv", "row,image\n3,3\n4,4\n")
    write_text(folder / "sampleSubmit.csv", "row,image,label\n3,3,0\n4,4,0\n")
    (folder / "train" / "02.jpg").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        audit_competition(competition.root, Choices(id_column="image", label_column="label"))
    lines = [line for line in str(caught.value).splitlines() if line.startswith("  - ")]
    assert lines[-1] == "  - competition/train/02.jpg (train.csv, row 2) is empty"
    assert not any("missing" in line for line in lines)


def test_a_good_competition_and_none(competition, tmp_path):
    loaded, table = audit_competition(competition.root)
    pd.testing.assert_frame_equal(loaded.train, competition.train)
    assert len(table) == 5
    with pytest.raises(InputError, match="there is no competition yet"):
        audit_competition(tmp_path / "none")


def test_no_folder_of_images_at_all(competition):
    for path in (competition.root / "competition" / "train").iterdir():
        path.unlink()
    (competition.root / "competition" / "train").rmdir()
    with pytest.raises(InputError, match=re.escape("competition/train/02.jpg (train.csv, row 2) is missing")):
        check_images(competition)


def test_images_without_a_row_are_named_not_refused(competition):
    assert images_without_row(competition) == []
    for name in ("train/8.jpg", "test/02.JPG", "test/notes.txt"):
        (competition.root / "competition" / name).write_bytes(b"")
    assert images_without_row(competition) == ["train/8.jpg", "test/02.JPG"]
    assert len(check_images(competition)) == 5


def test_a_name_that_is_not_utf_8_is_an_image_without_a_row(competition):
    (competition.root / "competition" / "train" / os.fsdecode(b"\xe9.jpg")).write_bytes(b"x")
    assert len(check_images(competition)) == 5 and images_without_row(competition) == [
        f"train/{os.fsdecode(bytes([0xE9]))}.jpg"
    ]


def test_many_processes_return_what_one_returns(competition, monkeypatch):
    alone = check_images(competition)
    write_json(competition.root / "cache" / "images.json", {})
    monkeypatch.setattr(audit, "_CHUNK", 1)
    monkeypatch.setattr(audit, "_CHUNKS_PER_WORKER", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    pd.testing.assert_frame_equal(check_images(competition), alone)


def test_thumbnails_are_written_again_if_half_of_them_is_lost(competition):
    check_images(competition)
    first = load_thumbnails(competition)
    grey, headers = np.array(first.grey), first.headers
    next((competition.root / "cache").glob("thumbnails_*.csv")).unlink()
    again = load_thumbnails(competition)
    assert np.array_equal(again.grey, grey) and again.headers.equals(headers)
    assert again.grey.shape == (5, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    assert (headers["split"] + "/" + headers["id"]).tolist() == ["train/02", "train/1", "train/7", "test/3", "test/4"]


def test_thumbnails_have_the_headers_of_their_files(competition):
    competition.image_path("test", "3").write_bytes(jpeg(90, quality=50))
    check_images(competition)
    headers = load_thumbnails(competition).headers
    assert headers["tables"][1] == headers["tables"][4] != headers["tables"][3]
    assert headers["coarseness"][3] > headers["coarseness"][1]


def test_an_image_that_broke_since_the_check_is_named(competition):
    check_images(competition)
    competition.image_path("train", "1").write_bytes(b"nothing")
    with pytest.raises(
        InputError, match=re.escape("1.jpg cannot be decoded (UnidentifiedImageError). Run `python src/audit.py`")
    ):
        load_thumbnails(competition)
    assert not list((competition.root / "cache").glob("*thumbnails*"))


def test_a_blurred_a_black_and_a_white_image_look_broken_and_the_worst_is_first():
    rng = np.random.default_rng(0)
    grey = np.clip(rng.normal(120, 30, (300, 32, 32)), 0, 255).astype(np.uint8)
    grey[7] = cv2.GaussianBlur(grey[7], (0, 0), 6)
    grey[100] = grey[100] // 16
    grey[200] = 255 - grey[200] // 16
    grey[250] = 120
    headers = pd.DataFrame({"split": "train", "id": [str(n) for n in range(300)]})
    broken = find_broken_images(Thumbnails(headers, grey))
    assert set(broken["id"]) == {"7", "100", "200", "250"} and broken["far"].is_monotonic_decreasing
    assert broken["id"][0] == "250" and broken.set_index("id")["why"]["7"] == "no detail"
    assert len(find_broken_images(Thumbnails(headers[:7], grey[:7]))) == 0
    dark = np.clip(rng.normal(10, 3, (9, 32, 32)), 0, 255).astype(np.uint8)
    assert set(find_broken_images(Thumbnails(headers[:9], dark))["why"]) == {"very dark"}
