"""Cues that predict the label without the pixels are found if planted, and only then."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command import run
from facefold.data.audit import check_images, load_thumbnails
from facefold.data.competition import load_competition
from facefold.data.layout import install_competition
from facefold.data.leaks import Cue, cue_auc, find_cues, label_order_cue, labels_of_duplicates
from facefold.data.synthetic import write_synthetic_competition
from facefold.report.audit_text import audit_page, list_leaks
from facefold.utils.files import write_csv

SHARED = Path(__file__).resolve().parents[2] / "shared"


def measured(root):
    competition = load_competition(root)
    images = check_images(competition)
    return {cue.name: cue for cue in find_cues(competition, images, load_thumbnails(competition).headers)}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    root = tmp_path_factory.mktemp("clean")
    write_synthetic_competition(root, train=400, test=40, size=32)
    return root


@pytest.fixture
def copy(clean, tmp_path):
    shutil.copytree(clean / "competition", tmp_path / "competition")
    return tmp_path


def labelled(root):
    """Path and label of each train image."""
    train = load_competition(root).train
    return [(root / "competition" / "train" / f"{id}.jpg", label) for id, label in train.itertuples(index=False)]


def test_a_clean_competition_leaks_nothing(clean):
    assert [name for name, cue in measured(clean).items() if cue.leaks] == []
    assert list(measured(clean)) == ["order of the ids", "file size", "file time", "image size", "JPEG header"]


def test_padded_files_leak_by_their_size_alone(copy):
    rng = np.random.default_rng(0)
    for path, label in labelled(copy):
        path.write_bytes(path.read_bytes() + b"\0" * int(rng.integers(0, 400) + 500 * label))
    assert [name for name, cue in measured(copy).items() if cue.leaks] == ["file size"]
    assert measured(copy)["file size"].value > 0.8


def test_times_leak_where_one_label_was_written_first(copy):
    for path, label in labelled(copy):
        os.utime(path, (1e9 + 1000 * label, 1e9 + 1000 * label))
    assert [name for name, cue in measured(copy).items() if cue.leaks] == ["file time"]


@pytest.mark.parametrize("change", ["quality", "comment", "progressive"])
def test_the_header_leaks_where_labels_come_from_two_programs(copy, change):
    for path, label in labelled(copy):
        picture = cv2.imread(str(path))
        flags = {
            "quality": [cv2.IMWRITE_JPEG_QUALITY, 95 - label],
            "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, int(label)],
        }
        data = cv2.imencode(".jpg", picture, flags.get(change, []))[1].tobytes()
        if change == "comment":  # of one length: only what it says differs
            data = data[:2] + b"\xff\xfe\x00\x06" + (b"alfa" if label else b"beta") + data[2:]
        path.write_bytes(data)
    cue = measured(copy)["JPEG header"]
    assert cue.leaks and cue.value == pytest.approx(1)


def test_sizes_leak_where_labels_come_from_two_cameras(copy):
    for path, label in labelled(copy):
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (40, 32 + 8 * label)))
    leaking = {name for name, cue in measured(copy).items() if cue.leaks}
    assert "image size" in leaking and "JPEG header" not in leaking


def test_ids_that_are_no_numbers_have_no_order_but_the_other_cues(clean, tmp_path):
    folder = Path(shutil.copytree(clean / "competition", tmp_path / "competition"))
    train = pd.read_csv(folder / "train.csv", dtype=str)
    for id in train["id"]:
        (folder / "train" / f"{id}.jpg").rename(folder / "train" / f"x{id}.jpg")
    write_csv(folder / "train.csv", train.assign(id="x" + train["id"]))
    assert list(measured(tmp_path)) == ["file size", "file time", "image size", "JPEG header"]


def test_chance_is_that_of_mann_and_whitney_and_few_rows_say_nothing():
    labels = np.array([0] * 30 + [1] * 20)
    cue = cue_auc("x", np.zeros((50, 1)), labels)
    assert (cue.value, cue.centre) == (0.5, 0.5)
    assert cue.margin == pytest.approx(1.959963984540054 * (51 / (12 * 30 * 20)) ** 0.5)
    assert cue_auc("x", np.arange(4)[:, None], np.array([0, 0, 0, 1])).value == 0.5


def test_a_cue_of_more_than_two_classes_is_the_mean_of_each_against_the_rest():
    labels = np.repeat([0, 1, 3, 4], [100, 60, 40, 2])  # no row has class 2, and two rows are too few for five folds
    cue = cue_auc("x", labels[:, None], labels)
    margins = [1.959963984540054 * (201 / (12 * n * (200 - n))) ** 0.5 for n in (100, 60, 40)]
    assert cue.value == 1 and cue.margin == pytest.approx(np.mean(margins)) and cue.leaks
    assert cue_auc("x", np.zeros((202, 1)), labels).value == 0.5


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_noise_is_no_leak(seed):
    rng = np.random.default_rng(seed)
    assert not cue_auc("x", rng.normal(size=(4000, 3)), rng.permutation([0, 1] * 2000)).leaks


@pytest.mark.parametrize(
    "value, margin, leaking",
    [(0.59, 0.01, False), (0.61, 0.01, True), (0.61, 0.06, False), (0.3, 0.01, True), (0.41, 0.01, False)],
)
def test_a_leak_is_large_and_beyond_chance(value, margin, leaking):
    assert Cue("x", "AUC", value, 0.5, margin).leaks == leaking


def test_labels_that_alternate_are_a_leak(clean):
    cue = label_order_cue([str(number) for number in range(1, 401)], np.arange(400) % 2)
    assert cue.leaks and cue.value == pytest.approx(-1, abs=0.01)
    assert list_leaks(pd.DataFrame({"split": ["test"], "known": [0]}), [cue]) == [
        f"the order of the ids alone predicts the label (correlation {cue.value:.3f}, chance 0 +- 0.098)"
    ]
    competition = load_competition(clean)
    images = check_images(competition)
    groups = images[["split", "id"]].assign(group=images["sha256"])
    answers = labels_of_duplicates(groups, competition.train.set_index("id")["label"])
    cues = [cue, Cue("file size", "AUC", 0.46, 0.5, 0.02), Cue("file time", "AUC", 0.49, 0.5, 0.02)]
    page = audit_page(competition, images, groups, answers, cues, pd.DataFrame({"split": [], "id": []}), [])
    ends = [line.split("   ")[-1] for line in page.splitlines() if "chance 0" in line]
    assert ends == ["LEAK", "more than chance, no more than harmless traits of images give", "chance"]


def test_labels_in_a_period_are_a_leak_of_their_lag(clean):
    ids, labels = [str(number) for number in range(1, 401)], np.arange(400) // 2 % 2  # 0 0 1 1 0 0 1 1 ..
    assert not label_order_cue(ids, labels).leaks
    cue = label_order_cue(ids, labels, range(2, 9))
    # 398 products of -1/4 over 400 of 1/4; 2.69 standard deviations leave 0.05 / 14 above
    assert (cue.name, cue.value) == ("order 2 ids apart", pytest.approx(-398 / 400))
    assert cue.leaks and cue.margin == pytest.approx(2.6901 / 20, abs=1e-4)
    competition = load_competition(clean)
    order = np.argsort(competition.train["id"].astype(int).to_numpy())
    ordered = competition.train["label"].to_numpy().copy()
    ordered[order] = np.arange(len(order)) // 2 % 2
    periodic = replace(competition, train=competition.train.assign(label=ordered))
    cue, *_ = find_cues(periodic, check_images(competition), load_thumbnails(competition).headers)
    assert cue.name == "order 2 ids apart" and cue.leaks


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_shuffled_labels_have_no_period(seed):
    labels = np.random.default_rng(seed).permutation([0, 1] * 150)
    assert not label_order_cue([str(number) for number in range(300)], labels, range(2, 9)).leaks


def test_labels_of_duplicates_by_hand():
    groups = pd.DataFrame({"split": ["train"] * 6 + ["test"] * 3, "id": list("123456789"), "group": list("aaabbcabd")})
    answers = labels_of_duplicates(groups, pd.Series({"1": 0, "2": 1, "3": 1, "4": 0, "5": 1, "6": 1}))
    assert answers["zeros"].tolist() == [0, 1, 1, 0, 1, 0, 1, 1, 0]
    assert answers["ones"].tolist() == [2, 1, 1, 1, 0, 0, 2, 1, 0]
    assert answers["known"].tolist() == [2, 2, 2, 1, 1, 0, 3, 2, 0]
    assert answers["answer"].tolist() == [1, -1, -1, 1, 0, -1, 1, -1, -1]
    three = labels_of_duplicates(groups, pd.Series({"1": 2, "2": 2, "3": 0, "4": 0, "5": 1, "6": 1}))
    assert three["answer"].tolist() == [-1, -1, 2, 1, 0, -1, 2, -1, -1]
    known = labels_of_duplicates(groups, pd.Series({"3": 1, "4": 0}))  # the others' labels are not known
    assert known["answer"].tolist() == [1, 1, -1, -1, 0, -1, 1, 0, -1]
    assert (known["split"] + known["id"]).tolist() == (groups["split"] + groups["id"]).tolist()


def test_a_test_id_like_a_train_id_takes_no_label_from_it():
    groups = pd.DataFrame({"split": ["train", "test"], "id": ["1", "1"], "group": ["a", "b"]})
    assert labels_of_duplicates(groups, pd.Series({"1": 1}))[["zeros", "ones"]].to_numpy().tolist() == [[0, 0], [0, 0]]


def test_the_page_of_a_cue(clean):
    cues = [
        Cue("order of the ids", "correlation", 0.9754, 0, 0.0073),
        Cue("file size", "AUC", 0.511, 0.5, 0.0084),
        Cue("file time", "AUC", 0.5, 0.5, 0.0084),
    ]
    competition = load_competition(clean)
    images = check_images(competition)
    groups = images[["split", "id"]].assign(group=images["sha256"])
    answers = labels_of_duplicates(groups, competition.train.set_index("id")["label"])
    broken = pd.DataFrame({"split": "test", "id": [f"<{number}>" for number in range(12)], "why": "dark"})
    page = audit_page(competition, images, groups, answers, cues, broken, list("abcd")).splitlines()
    start = next(number for number, line in enumerate(page) if line.startswith("cues"))
    assert page[start + 3].startswith("broken      12 images may be broken, the worst first: test/<0> (dark), test/<1>")
    assert page[start + 3].endswith(", test/<9> (dark), and 2 more")
    assert page[start + 4] == "no row      4 images have no row in the csv and are not used: a, b, c, .."
    assert page[start + 5].startswith("to do       leaks say nothing") and page[-1].startswith(
        f"{'':12}look at the broken"
    )
    assert page[start : start + 3] == [
        "cues        order of the ids  correlation  0.975   chance 0 +- 0.007   LEAK",
        "            file size         AUC          0.511   chance 0.5 +- 0.008   "
        "more than chance, no more than harmless traits of images give",
        "            file time         AUC          0.500   chance 0.5 +- 0.008   chance",
    ]
    answers = pd.DataFrame({"split": ["test"], "known": [0]})
    assert list_leaks(answers, cues) == [
        "the order of the ids alone predicts the label (correlation 0.975, chance 0 +- 0.007)"
    ]


def test_strict_refuses_leaks_and_prints_the_page_all_the_same(copy):
    done = run("audit", copy, "--strict")
    assert done.returncode == 2 and "cues        order of the ids" in done.stdout
    assert done.stderr == (
        "audit.py: --strict: something other than the pixels gives labels away:\n"
        "  - 1 test images show a picture of train\n"
        "Ask the host of the competition for one without, or run the audit without --strict and know it.\n"
    )
    duplicate = next(
        path
        for path in (copy / "competition" / "test").iterdir()
        if path.read_bytes() == (copy / "competition" / "train" / "3.jpg").read_bytes()
    )
    duplicate.write_bytes(
        cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))[1].tobytes()
    )
    done = run("audit", copy, "--strict")
    assert done.returncode == 0, done.stderr
    assert "duplicates  no test image shows a picture of train" in done.stdout


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    if not (SHARED / "competition-mini.zip").exists():
        pytest.skip("../shared, with the mini competition, is not here")
    root = tmp_path_factory.mktemp("faces")
    install_competition(SHARED / "competition-mini.zip", root)
    for name, rows in (("train", 800), ("test", 100), ("sampleSubmit", 100)):  # enough, in a third of the time
        path = root / "competition" / f"{name}.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[: 1 + rows]))
    return root


def test_real_faces_leak_nothing_until_they_are_numbered_in_order_or_padded(faces, tmp_path):
    assert [name for name, cue in measured(faces).items() if cue.leaks] == []
    folder = tmp_path / "competition"
    shutil.copytree(faces / "competition", folder)
    train = pd.read_csv(folder / "train.csv", dtype=str)
    (folder / "train").rename(folder / "old")
    (folder / "train").mkdir()
    ordered = train.sort_values("label", kind="stable")["id"].tolist()
    for old, new in zip(ordered, train["id"], strict=True):
        (folder / "old" / f"{old}.jpg").rename(folder / "train" / f"{new}.jpg")
    write_csv(folder / "train.csv", pd.DataFrame({"id": train["id"], "label": sorted(train["label"])}))
    shutil.rmtree(folder / "old")
    cues = measured(tmp_path)
    assert [name for name, cue in cues.items() if cue.leaks] == ["order of the ids"]
    assert cues["order of the ids"].value > 0.99
    for path, label in labelled(tmp_path):
        path.write_bytes(path.read_bytes() + b"\0" * (3000 * label))
    assert [name for name, cue in measured(tmp_path).items() if cue.leaks] == ["order of the ids", "file size"]
