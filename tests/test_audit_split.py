import json
import re
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import command
from facefold.data.synthetic import write_synthetic_competition


def run(step, root, *options, code=0):
    """Standard output of a step (its errors, where it should fail)."""
    done = command.run(step, root, *options)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    return root, run("audit", root, "--synthetic")


def test_audit_describes_what_is_there(synthetic):
    root, text = synthetic
    labels = pd.read_csv(root / "competition" / "train.csv")["label"]
    assert "this competition is SYNTHETIC" in text
    assert "rows        600 train, 200 test\n" in text
    assert f"share of 1 is {labels.mean():.4f}\n" in text
    assert "images      width 64 / 64 / 64, height 64 / 64 / 64 pixels (min / median / max)\n" in text
    for kind in ("identical", "near"):
        assert (
            f"{kind:12}5 groups in all (10 images); 3 inside train (6 rows), 1 of them with both labels;\n"
            "            1 test images are also in train, 2 have a duplicate inside test\n"
        ) in text
    labels = pd.read_csv(root / "competition" / "train.csv", dtype=str).set_index("id")["label"]
    assert f"            both labels: train/1 ({labels['1']}) and train/2 ({labels['2']})\n" in text
    ones = "1 label 1" if labels["3"] == "1" else "0 label 1"  # the last test row is a duplicate of the third train row
    assert f"test images label 0, {ones}, and contradict each other for 0;\n" in text
    assert "            of 6 train images with such duplicates, 4 have the label of these\n" in text
    assert "cues        order of the ids  correlation " in text and "LEAK" not in text
    assert "broken      no image is far darker, brighter or emptier than the rest\n" in text
    assert "to do       leaks say nothing about new images: blend.py uses none without" in text
    assert "nothing breaks the rules" in text.splitlines()[-1]
    assert len(text.splitlines()) < 25


def test_audit_takes_a_zip_once(synthetic, tmp_path):
    source = synthetic[0] / "competition"
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        for path in sorted(source.rglob("*.[cj]*")):
            archive.write(path, path.relative_to(source))
    root = tmp_path / "root"
    assert f"was installed as {root / 'competition'}" in run("audit", root, "--data", str(tmp_path / "c.zip"))
    assert f"is already in {root / 'competition'}" in run("audit", root, "--data", str(tmp_path / "c.zip"))
    (root / "competition" / "test" / "601.jpg").unlink()
    text = run("audit", root, code=2)
    assert text.startswith(
        "audit.py: some images cannot be used:\n  - competition/test/601.jpg (test.csv, row 2) is missing\n"
    )


def test_without_data_audit_says_how_to_get_some(tmp_path):
    assert "--data ZIP|DIR" in run("audit", tmp_path, code=2)


def test_split_writes_folds_once(synthetic):
    root = synthetic[0]
    text = run("split", root, "--folds", "3")
    assert text.startswith(
        f"3 folds, seed 0, written to {root / 'folds'}\n"
        "6 rows are in 3 groups of near-duplicates; these folds divide 0 of the groups\n"
        "fold 0     200 rows to validate  share of label 1: 0."
    )
    assert run("split", root).startswith("3 folds, seed 0, already in")
    (root / "runs" / "cnn5" / "fold_0").mkdir(parents=True)
    before = (root / "folds" / "folds.csv").read_bytes()
    assert "runs depend on them (cnn5)" in run("split", root, "--seed", "1", code=2)
    assert (root / "folds" / "folds.csv").read_bytes() == before
    run("split", root, "--seed", "1", "--force")
    assert len(list((root / "folds").iterdir())) == 8  # 3 folds, as there were


def test_folds_of_identical_bytes_divide_near_duplicates_and_stay_until_others_are_asked_for(synthetic, tmp_path):
    root = Path(shutil.copytree(synthetic[0] / "competition", tmp_path / "root" / "competition")).parent
    for id in range(101, 201):
        picture = cv2.imread(str(root / "competition" / "train" / f"{id - 100}.jpg"))
        cv2.imwrite(str(root / "competition" / "train" / f"{id}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 60])
    text = run("split", root, "--groups", "bytes").splitlines()
    assert re.fullmatch(
        r"20\d rows are in 10\d groups of near-duplicates; these folds divide [6-9]\d of the groups", text[1]
    )
    (root / "runs" / "cnn5" / "fold_0").mkdir(parents=True)
    assert run("split", root).splitlines() == [text[0].replace("written to", "already in"), *text[1:]]
    text = run("split", root, "--groups", "near", "--force").splitlines()
    assert text[1].endswith("these folds divide 0 of the groups")
    method = json.loads((root / "folds" / "folds.json").read_text())["method"]
    assert method.endswith("group: near-duplicate images")


def test_a_picture_of_two_thirds_of_the_rows_is_named_with_what_to_do(tmp_path):
    root = tmp_path / "root"
    write_synthetic_competition(root, train=60, test=20, size=64)
    grey = cv2.imencode(".jpg", np.full((64, 64, 3), 128, np.uint8))[1].tobytes()
    for id in range(11, 51):
        (root / "competition" / "train" / f"{id}.jpg").write_bytes(grey)
    text = run("split", root).splitlines()
    advice = "`--groups none` (every row by itself: rows of one picture then judge models that have seen it)."
    assert text[2] == (
        "note: 40 of 60 rows show the picture of train/11.jpg or nearly so, and a group is never divided: the folds "
        "are unequal, for one of 5 should have 12 rows. Look at it: if it stands for images that are missing, take "
        f"these rows out; to divide them, use {advice}"
    )
    assert run("split", root).splitlines()[2] == text[2]  # also of folds that are kept
    assert sum(line.startswith("fold ") for line in text) == 5
    text = run("split", root, "--groups", "none").splitlines()
    assert [line[:34].split()[2] for line in text if line.startswith("fold ")] == ["12"] * 5
    assert not any(line.startswith("note") for line in text)
    method = json.loads((root / "folds" / "folds.json").read_text())["method"]
    assert method == "StratifiedGroupKFold(shuffle=True) of scikit-learn; group: each image by itself"
    for number, id in enumerate(range(11, 51)):  # the same picture in other bytes
        (root / "competition" / "train" / f"{id}.jpg").write_bytes(
            (root / "competition" / "train" / "1.jpg").read_bytes() + bytes([number])
        )
    text = run("split", root, "--groups", "near")
    assert "\nnote: 4" in text and "train/1.jpg or nearly so" in text
    assert f"use `--groups bytes` (together stays what has the same bytes) or {advice}\n" in text
    assert "\nnote: " not in run("split", root, "--groups", "bytes")


def test_usage_is_exit_2(tmp_path):
    assert "not allowed with" in run("audit", tmp_path, "--synthetic", "--data", "x", code=2)


def test_folds_by_columns_by_time_and_of_a_file_stay_until_others_are_asked_for(synthetic, tmp_path):
    root = Path(shutil.copytree(synthetic[0] / "competition", tmp_path / "root" / "competition")).parent
    ids = pd.read_csv(root / "competition" / "train.csv", dtype=str)["id"]
    facts = pd.DataFrame({"id": ids, "patient": np.arange(600) // 6, "day": np.arange(600) // 2})
    facts.to_csv(root / "competition" / "meta.csv", index=False)

    def method_and_folds():
        facts = json.loads((root / "folds" / "folds.json").read_text())
        return facts["method"], pd.read_csv(root / "folds" / "folds.csv", dtype={"id": str})

    text = run("split", root, "--group", "patient").splitlines()
    method, folds = method_and_folds()
    assert method.endswith('; group: near-duplicate images; and equal values of ["patient"]')
    assert (folds.groupby(np.arange(600) // 6)["fold"].nunique() == 1).all()
    assert text[1].endswith("these folds divide 0 of the groups") and text[2].startswith("fold 0 ")
    assert run("split", root).splitlines() == [text[0].replace("written to", "already in"), *text[1:]]

    text = run("split", root, "--time", "day", "--folds", "3").splitlines()
    method, folds = method_and_folds()
    assert method == 'blocks in the order of "day"' and folds["fold"].tolist() == [0] * 200 + [1] * 200 + [2] * 200
    assert text[2] == (
        "note: fold 0 is the earliest by day; every row is held out once, so the rows that train a fold include later "
        "ones"
    )
    assert run("split", root, "--seed", "4").startswith("3 folds, seed 4, written to")
    assert method_and_folds()[1].equals(folds)

    own = tmp_path / "own.csv"
    pd.DataFrame({"id": ids[::-1], "fold": np.arange(600) % 2}).to_csv(own, index=False)
    text = run("split", root, "--folds-file", own, "--group", "patient").splitlines()
    method, folds = method_and_folds()
    assert method.startswith("as in the file with the sha256 ") and folds["fold"].tolist() == [1, 0] * 300
    first = ids[0]
    assert text[0].startswith("2 folds, seed 4, written to")
    assert text[2].startswith(f"warning: these folds divide groups, named by their first row: {first} (folds 0, 1), ")
    own.unlink()
    assert run("split", root, "--force").startswith("2 folds, seed 4, already in")

    assert run("split", root, "--group", "").startswith("2 folds, seed 4, written to")
    assert method_and_folds()[0].endswith("; group: near-duplicate images")


@pytest.mark.parametrize(
    "options, message",
    [
        (("--time", "x", "--group", "y"), "--time alone says how rows are divided; leave --group out"),
        (
            ("--folds-file", "run_all.sh", "--folds", "3"),
            "--folds-file alone says how rows are divided; leave --folds out",
        ),
        (("--folds-file", "none.csv"), "none.csv: there is no such file"),
        (("--group", "site"), "--group site: neither train.csv nor meta.csv has that column"),
    ],
)
def test_what_split_cannot_do_is_exit_2(synthetic, options, message):
    assert message in run("split", synthetic[0], *options, code=2)
