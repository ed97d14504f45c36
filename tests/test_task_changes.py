"""What follows from another task.toml, another train.csv or another option, after there are folds and a blend."""

import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from command import refused, run
from facefold.data.audit import check_images
from facefold.data.competition import load_competition
from facefold.data.folds import load_fold_settings, load_folds
from facefold.ensemble.blend import require_same_task
from facefold.ensemble.submission import write_submission
from facefold.task import LABEL, Task, load_task
from facefold.training.fold_task import hold_out_monitor
from facefold.utils.errors import InputError
from test_report_classes import draw


@pytest.fixture
def root(tmp_path):
    """An audited competition of three classes, 30 train rows with the column site, and folds that keep sites whole."""
    draw(tmp_path / "data", 30, 6)
    table = pd.read_csv(tmp_path / "data" / "train.csv")
    table["site"] = [f"s{row // 3}" for row in range(30)]
    table.to_csv(tmp_path / "data" / "train.csv", index=False)
    root = tmp_path / "root"
    root.mkdir()
    for step, *options in (("audit", "--data", tmp_path / "data"), ("split", "--folds", "3", "--group", "site")):
        done = run(step, root, *options)
        assert done.returncode == 0, done.stderr
    return root


def edit(root, old: str, new: str) -> None:
    path = root / "competition" / "task.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_folds_of_other_classes_are_refused_and_written_again(root):
    assert load_folds(root, load_task(root)).table["label"].tolist()[:3] == [0, 1, 2]
    edit(root, '["ant", "bee", "cow"]', '["cow", "bee", "ant"]')
    with pytest.raises(InputError, match="folds.json was written for other labels: competition/task.toml has other cl"):
        load_folds(root, load_task(root))
    assert run("audit", root).returncode == 0
    done = run("split", root)
    assert done.returncode == 0 and "3 folds, seed 0, written to" in done.stdout
    assert load_folds(root, load_task(root)).table["label"].tolist()[:3] == [2, 1, 0]


def test_the_labels_of_the_house_have_no_key_of_their_own():
    assert LABEL.label_key == replace(LABEL, metric="auc", submission="probabilities").label_key == ""
    keys = {replace(LABEL, **change).label_key for change in ({"label_columns": ("other",)}, {"id_column": "name"})}
    assert len(keys) == 2 and "" not in keys


def test_another_train_csv_keeps_the_settings_of_the_folds(root):
    settings, path = load_fold_settings(root, load_task(root)), root / "competition" / "train.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    done = run("split", root)
    assert done.returncode == 0 and done.stdout.startswith("3 folds, seed 0, written to")
    assert load_fold_settings(root, load_task(root)) == settings and "site" in settings[2]
    table = load_folds(root, load_task(root)).table.assign(site=[f"s{row // 3}" for row in range(29)])
    assert (table.groupby("site")["fold"].nunique() == 1).all()


def test_folds_of_a_file_are_asked_for_again(root, tmp_path):
    ids = load_competition(root).ids("train")
    rows = "".join(f"{id},{number % 2}\n" for number, id in enumerate(ids))
    (tmp_path / "folds.csv").write_text("id,fold\n" + rows)
    assert run("split", root, "--folds-file", tmp_path / "folds.csv").returncode == 0
    path = root / "competition" / "train.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert refused("split", root) == (
        "the folds came from a file and do not suit the competition any more: name the file for this one with "
        "--folds-file, or draw folds with --groups near"
    )


def test_one_column_cannot_hold_the_probabilities_of_three_classes(root):
    edit(root, 'metric = "accuracy"\nsubmission = "labels"', 'metric = "log_loss"\nsubmission = "probabilities"')
    with pytest.raises(InputError, match=r"has one column \(animal\) next to the ids, which cannot hold the probab"):
        load_competition(root)


def test_a_task_that_is_not_utf_8_is_named(root):
    path = root / "competition" / "task.toml"
    path.write_bytes(path.read_bytes().replace(b"ant", b"caf\xe9"))
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))} is not UTF-8 \(byte \d+\); save it as UTF-8$"):
        load_task(root)


def test_other_ids_are_checked_again(tmp_path):
    draw(tmp_path / "data", 6, 3)
    train = pd.read_csv(tmp_path / "data" / "train.csv")
    test = pd.read_csv(tmp_path / "data" / "sample_submission.csv")[["image_id"]]
    (tmp_path / "data" / "sample_submission.csv").unlink()
    for name, table in (("train", train), ("test", test)):
        stem = table["image_id"].str.removesuffix(".png")
        table.assign(stem=stem).to_csv(tmp_path / "data" / f"{name}.csv", index=False)
    root = tmp_path / "root"
    root.mkdir()
    assert run("audit", root, "--data", tmp_path / "data").returncode == 0
    assert check_images(load_competition(root))["id"].tolist()[0] == "train0.png"
    assert run("audit", root, "--id-column", "stem").returncode == 0
    assert check_images(load_competition(root))["id"].tolist()[0] == "train0"
    assert run("split", root, "--folds", "2").returncode == 0


def test_a_blend_of_before_another_metric_is_refused():
    blend = SimpleNamespace(facts={"task": asdict(LABEL)})
    require_same_task(blend, LABEL)
    with pytest.raises(InputError) as caught:
        require_same_task(blend, replace(LABEL, metric="auc"))
    assert str(caught.value) == (
        "the blend is for metric accuracy, and competition/task.toml has auc now. Run `python src/blend.py` again."
    )


def test_the_value_that_is_wrong_is_named(tmp_path):
    task = Task(kind="multiclass", classes=("a", "b", "c"), metric="log_loss", submission="probabilities")
    competition = SimpleNamespace(task=task, sample=pd.DataFrame({"id": ["1", "2"]}))
    table = pd.DataFrame({"id": ["1", "2"], "prob_a": [2.0, 0.2], "prob_b": [0.0, 0.3], "prob_c": [0.0, 7.0]})
    with pytest.raises(InputError) as caught:
        write_submission(competition, table, tmp_path / "s.csv")
    assert "id '1': prob_a 2.0 is not" in str(caught.value) and "id '2': prob_c 7.0 is not" in str(caught.value)


@pytest.mark.parametrize("seed", range(8))
def test_the_monitor_has_rows_however_few_there_are(seed):
    train = pd.DataFrame({"id": list("abcd"), "label": np.arange(4), "group": list("abcd")})
    learn, monitor = hold_out_monitor(train, 0.2, seed)
    assert len(monitor) and len(learn) + len(monitor) == 4
