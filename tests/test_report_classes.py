"""The report on more than two classes: its numbers by hand, and the whole job of a drawn competition."""

import cv2
import numpy as np
import pandas as pd
import pytest

from command import run
from facefold.report import multiclass
from facefold.task import Task

NAMES = ("ant", "bee", "cow")
TASK = Task(kind="multiclass", classes=NAMES)
OOF = pd.DataFrame(
    {
        "id": list("abcdef"),
        "label": [0, 0, 0, 1, 1, 2],
        "prob_ant": [0.6, 0.1, 0.2, 0.7, 0.2, 0.3],
        "prob_bee": [0.3, 0.8, 0.5, 0.2, 0.5, 0.3],
        "prob_cow": [0.1, 0.1, 0.3, 0.1, 0.3, 0.4],
        "pred": [0, 1, 1, 0, 1, 2],
        "fold": [0, 0, 0, 1, 1, 1],
    }
)


def test_the_most_frequent_confusions_come_first():
    table = multiclass.frequent_confusions(OOF, NAMES)
    assert table.values.tolist() == [["ant", "bee", 2, 2 / 3], ["bee", "ant", 1, 0.5]]
    assert multiclass.frequent_confusions(OOF.assign(pred=OOF["label"]), NAMES).empty


def test_recall_and_precision_by_hand():
    table = multiclass.recall_by_class(OOF, (*NAMES, "dog"))
    assert table["rows"].tolist() == [3, 2, 1, 0]
    assert table["recall"].tolist()[:3] == [1 / 3, 0.5, 1] and np.isnan(table["recall"][3])
    assert table["precision"].tolist()[:3] == [0.5, 1 / 3, 1] and np.isnan(table["precision"][3])
    assert (table["low"] <= table["recall"].fillna(0)).all() and table.loc[3, ["low", "high"]].tolist() == [0, 1]


def test_the_most_wrong_has_the_least_probability_of_its_label():
    wrong = multiclass.most_wrong(OOF, TASK)
    assert wrong["id"].tolist() == ["b", "d", "c"]  # 0.1, 0.2 against 0.7, 0.2 against 0.5
    assert wrong["top"].tolist() == [0.8, 0.7, 0.5] and wrong["second"].tolist() == [0.1, 0.2, 0.2]
    assert multiclass.most_wrong(OOF[:1], TASK).empty


def test_the_margin_is_that_of_the_two_likeliest_classes():
    table = multiclass.with_margin(OOF, TASK)
    assert table["margin"].tolist() == pytest.approx([0.3, 0.7, 0.2, 0.5, 0.2, 0.1])
    assert table["runner_up"].tolist() == [1, 0, 2, 1, 2, 0]


def test_the_shares_of_the_classes():
    table = multiclass.class_balance(pd.Series([0, 0, 2, 2]), pd.Series([1]), NAMES)
    assert table.values.tolist() == [["ant", 2, 0.5, 0, 0.0], ["bee", 0, 0.0, 1, 1.0], ["cow", 2, 0.5, 0, 0.0]]


def test_each_class_against_the_rest_and_the_worst_curves():
    prob = OOF[list(TASK.columns)].to_numpy()
    curves = multiclass.one_against_rest(prob, OOF["label"].to_numpy(), NAMES)
    # cow: 0.4 is above all five others; bee: 0.2 and 0.5 against 0.3, 0.8, 0.5, 0.3: 0 and 2.5 of 4 each.
    assert curves["areas"]["cow"] == 1 and curves["areas"]["bee"] == pytest.approx(2.5 / 8)
    assert list(curves["roc"]) == list(NAMES)
    assert not multiclass.one_against_rest(prob, np.zeros(6, int), NAMES)["areas"]


def draw(root, train: int, test: int) -> None:
    """Draw noise whose brightness is the class, with ids that have their suffix, in folders of other names.

    The train images 0 and 1 are one picture, so that one of their labels is wrong.
    """
    rng = np.random.default_rng(0)
    tables = {}
    for split, count in (("train", train), ("test", test)):
        folder = root / f"{split}_images"
        folder.mkdir(parents=True)
        labels = np.arange(count) % 3
        for number, label in enumerate(labels):
            pixels = rng.integers(0, 80, (32, 32, 3)) + 80 * label
            cv2.imwrite(str(folder / f"{split}{number}.png"), pixels.astype(np.uint8))
        ids = [f"{split}{number}.png" for number in range(count)]
        tables[split] = pd.DataFrame({"image_id": ids, "animal": [NAMES[label] for label in labels]})
    (root / "train_images" / "train1.png").write_bytes((root / "train_images" / "train0.png").read_bytes())
    tables["train"].to_csv(root / "train.csv", index=False)
    tables["test"].assign(animal="ant").to_csv(root / "sample_submission.csv", index=False)


def test_a_competition_of_three_classes_from_the_download_to_the_report(tmp_path):
    draw(tmp_path / "data", 90, 15)
    root = tmp_path / "root"
    root.mkdir()
    for step, *options in [
        ("audit", "--data", tmp_path / "data"),
        ("split", "--folds", "2"),
        ("train", "--recipe", "demo_cnn@8"),
        ("blend",),
        ("report",),
        ("predict", tmp_path / "data" / "test_images" / "test1.png", "--no-detect"),
    ]:
        done = run(step, root, *options)
        assert done.returncode == 0, (step, done.stderr)
    submission = pd.read_csv(root / "submissions" / "submission.csv")
    assert list(submission) == ["image_id", "animal"]
    assert submission["image_id"].tolist() == [f"test{number}.png" for number in range(15)]
    assert (submission["animal"] == [NAMES[number % 3] for number in range(15)]).mean() > 0.6
    page = (root / "report.html").read_text()
    assert all(f"The most wrong of {name}" in page or f'<th scope="row">{name}</th>' in page for name in NAMES)
    assert "nested accuracy" in page and "Confusion matrix" in page
    done = run("clean", root, "--write-corrections", root / "corrections.csv", "--top", "2", "--action", "relabel")
    assert done.returncode == 0, done.stderr
    assert "2 in groups with different labels" in done.stdout
    suspects = pd.read_csv(root / "runs" / "label_issues.csv").head(2)
    assert set(suspects["id"]) == {"train0.png", "train1.png"} and set(suspects["label"]) == {"ant", "bee"}
    likely = suspects["suggested"][0]
    actions = pd.read_csv(root / "corrections.csv").set_index("id")["action"]
    assert sorted(actions) == ["keep", f"relabel:{likely}"]
    assert f"1. Label {suspects['label'][0]}; its probability is" in (root / "label_issues.html").read_text()
    predictions = pd.read_csv(root / "predictions.csv")
    assert predictions[list(TASK.columns)].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
