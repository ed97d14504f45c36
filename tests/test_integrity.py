import os
import re

import cv2
import numpy as np
import pandas as pd
import pytest

from facefold.data import audit as audit_module
from facefold.data import images
from facefold.data.competition import load_competition
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file, write_json, write_text


def jpeg(shade, width=12, height=10):
    return cv2.imencode(".jpg", np.full((height, width, 3), shade, np.uint8))[1].tobytes()


@pytest.fixture
def found(tmp_path):
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


def test_table_has_a_row_for_each_image_in_the_order_of_the_csv(found):
    table = audit_module.check_images(found)
    assert (table["split"] + "/" + table["id"]).tolist() == ["train/02", "train/1", "train/7", "test/3", "test/4"]
    assert table["sha256"][0] == table["sha256"][2] == sha256_file(found.image_path("train", "02"))
    assert table["sha256"][1] == table["sha256"][3] != table["sha256"][4]
    assert table["bytes"][4] == len(jpeg(200))
    assert (table["width"] == 12).all() and (table["height"] == 10).all()


def test_a_second_check_opens_no_image_and_says_the_same(found, monkeypatch):
    first = audit_module.check_images(found)
    monkeypatch.setattr(images, "inspect_image", never)
    pd.testing.assert_frame_equal(audit_module.check_images(found), first)


@pytest.mark.parametrize("damage", ["table", "stamp", "table lost"])
def test_a_damaged_result_is_made_again(found, damage):
    first = audit_module.check_images(found)
    path = found.root / "cache" / ("images.json" if damage == "stamp" else "images.csv")
    path.unlink() if damage == "table lost" else path.write_text("split,id\n")
    pd.testing.assert_frame_equal(audit_module.check_images(found), first)


def test_a_changed_image_is_seen(found):
    before = audit_module.check_images(found)
    mark = audit_module.load_images_hash(found.root)
    found.image_path("test", "3").write_bytes(jpeg(91, width=16))
    after = audit_module.check_images(found)
    assert after["width"].tolist() == [12, 12, 12, 16, 12] and after["sha256"][3] != before["sha256"][3]
    assert audit_module.load_images_hash(found.root) != mark


def test_the_fingerprint_is_that_of_the_content_not_of_the_time(found):
    audit_module.check_images(found)
    mark = audit_module.load_images_hash(found.root)
    os.utime(found.image_path("test", "3"), (1, 1))
    audit_module.check_images(found)
    assert audit_module.load_images_hash(found.root) == mark


def test_no_fingerprint_before_the_check(tmp_path):
    with pytest.raises(
        InputError, match=re.escape("the images were not checked yet. Run `python src/audit.py` first.")
    ):
        audit_module.load_images_hash(tmp_path)


def test_all_unsound_images_are_told_at_once(found):
    found.image_path("train", "02").write_bytes(b"")
    found.image_path("train", "7").write_bytes(jpeg(7)[:-9])
    found.image_path("test", "3").unlink()
    found.image_path("test", "4").write_bytes(cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes())
    for _ in range(2):  # a failure is not kept as if it were a result
        with pytest.raises(InputError) as caught:
            audit_module.check_images(found)
        assert str(caught.value).split("\n")[:-1] == [
            "some images cannot be used:",
            "  - competition/train/02.jpg (train.csv, row 2) is empty",
            "  - competition/train/7.jpg (train.csv, row 4) is truncated",
            "  - competition/test/3.jpg (test.csv, row 2) is missing",
            "  - competition/test/4.jpg (test.csv, row 3) is a PNG file (RGB), not a JPEG; renaming does not convert it",
        ]
    assert not (found.root / "cache").exists()


def test_findings_in_csv_files_and_images_come_together(found):
    write_text(found.root / "competition" / "train.csv", "id,label\n02,0\n1,x\n\n../7,0\n7,0\n7,0\n8,1\n")
    found.image_path("train", "7").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        audit_module.audit_competition(found.root)
    assert [line for line in str(caught.value).split("\n") if line.startswith("  - ")] == [
        "  - competition/train.csv, row 4 is blank",
        "  - competition/train.csv, row 5: id '../7' would leave the folder",
        "  - competition/train.csv, row 7: id '7' stands in row 6 already",
        "  - competition/train.csv, row 3: label 'x' is not 0 or 1",
        "  - competition/train/7.jpg (train.csv, row 6) is empty",
        "  - competition/train/8.jpg (train.csv, row 8) is missing",
    ]


def test_load_of_a_good_one_and_of_none(found, tmp_path):
    got, table = audit_module.audit_competition(found.root)
    pd.testing.assert_frame_equal(got.train, found.train)
    assert len(table) == 5
    with pytest.raises(InputError, match="there is no competition yet"):
        audit_module.audit_competition(tmp_path / "none")


def test_no_folder_of_images_at_all(found):
    for path in (found.root / "competition" / "train").iterdir():
        path.unlink()
    (found.root / "competition" / "train").rmdir()
    with pytest.raises(InputError, match=re.escape("competition/train/02.jpg (train.csv, row 2) is missing")):
        audit_module.check_images(found)


def test_images_without_a_row_are_named_not_refused(found):
    assert audit_module.images_without_row(found) == []
    for name in ("train/8.jpg", "test/02.JPG", "test/notes.txt"):
        (found.root / "competition" / name).write_bytes(b"")
    assert audit_module.images_without_row(found) == ["train/8.jpg", "test/02.JPG"]
    assert len(audit_module.check_images(found)) == 5


def test_a_name_that_is_not_utf_8_is_an_image_without_a_row(found):
    (found.root / "competition" / "train" / os.fsdecode(b"\xe9.jpg")).write_bytes(b"x")
    assert len(audit_module.check_images(found)) == 5 and audit_module.images_without_row(found) == [
        f"train/{os.fsdecode(bytes([0xE9]))}.jpg"
    ]


def test_many_processes_say_what_one_says(found, monkeypatch):
    alone = audit_module.check_images(found)
    write_json(found.root / "cache" / "images.json", {})
    monkeypatch.setattr(audit_module, "_CHUNK", 1)
    monkeypatch.setattr(audit_module, "_CHUNKS_A_WORKER", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    pd.testing.assert_frame_equal(audit_module.check_images(found), alone)
