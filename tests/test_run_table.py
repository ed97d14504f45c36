"""runs.py: all runs as a table, what is said of those that cannot be used, and the predictions of the others."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from command import refused, run
from facefold.data.folds import Folds, load_folds
from facefold.ensemble.run_table import RunState, export_predictions, make_run_table
from facefold.runs import Member, fold_dir
from facefold.task import Task
from facefold.utils.files import STAGED
from test_blend_report import fabricate


def fabricated(target: Task, name: str, seed: int, rows: int = 60) -> tuple[Member, Folds]:
    """Return a run, without files, of `rows` rows on three folds, and its folds."""
    draw, ids = np.random.default_rng(seed), [f"r{row}" for row in range(rows)]
    labels = np.arange(rows) % 3 if target.multiclass else np.arange(rows) * 0.5
    columns = list(target.columns)

    def predict(labels: np.ndarray) -> np.ndarray:
        if target.regression:
            return labels[:, None] + draw.normal(size=(len(labels), 1))
        scores = draw.random((len(labels), 3)) + np.eye(3)[labels]
        return scores / scores.sum(axis=1, keepdims=True)

    table = pd.DataFrame({"id": ids, "label": labels, "group": ids, "fold": np.arange(rows) // 2 % 3})
    oof = pd.DataFrame(predict(labels), index=ids, columns=columns)
    test = {k: pd.DataFrame(predict(labels[:9]), index=ids[:9], columns=columns) for k in range(3)}
    if target.regression:
        oof, test = oof["pred"], {k: one["pred"] for k, one in test.items()}
    return Member(name, oof, pd.concat(test, axis="columns"), [{}]), Folds(table, 3, 0, "", "", "", target)


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_competition) -> Path:
    root = tmp_path_factory.mktemp("run_table")
    make_competition(root, 60, 10, 16, 3)
    fabricate(root, {"lite0": 1.0, "cnn5": 2.0, "lite1": 1.0, "demo_cnn": 1.0, "lite2": 1.0})
    (fold_dir(root, "lite1", 2) / "run.json").unlink()
    path = fold_dir(root, "demo_cnn", 1) / "run.json"
    path.write_text(path.read_text().replace('"recipe_hash": "', '"recipe_hash": "0'))
    (fold_dir(root, "lite2", 0) / "history.csv").write_text("epoch\n")
    return root


def test_complete_incomplete_stale_and_damaged_runs(root):
    done = run("runs", root, "--csv", "runs.csv", "--export", "out")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["run", "state", "accuracy", "low", "high", "seconds", "device", "epochs"]
    states = dict(line.replace(" of 3 folds", "_of_3_folds").split()[:2] for line in lines[1:6])
    expected = {
        "lite0": "complete",
        "cnn5": "complete",
        "demo_cnn": "stale",
        "lite1": "2_of_3_folds",
        "lite2": "damaged",
    }
    assert states == expected and list(states) == list(expected)
    assert lines[6].startswith(
        f"demo_cnn: {fold_dir(root, 'demo_cnn', 1)} is stale: it was trained with another version"
    )
    assert lines[7].startswith(f"lite2: {fold_dir(root, 'lite2', 0) / 'history.csv'} is missing or not the file")
    assert lines[8:] == ["wrote runs.csv", "wrote oof.csv and test.csv of cnn5, lite0 into out"]
    table = pd.read_csv(root / "runs.csv").set_index("run")
    labels = load_folds(root).table.set_index("id")["label"]
    oof = pd.concat([pd.read_csv(fold_dir(root, "lite0", k) / "oof.csv", dtype={"id": str}) for k in range(3)])
    oof = oof.set_index("id")["prob"].loc[labels.index]
    right = (oof >= 0.5).astype(int) == labels
    assert table.loc["lite0", "accuracy"] == pytest.approx(right.mean(), abs=1e-8)
    assert table.loc["lite0", "low"] < table.loc["lite0", "accuracy"] < table.loc["lite0", "high"]
    assert table["seconds"].to_dict() == {"lite0": 31.5, "cnn5": 31.5, "demo_cnn": 31.5, "lite1": 21, "lite2": 31.5}

    exported = pd.read_csv(root / "out" / "oof.csv", dtype={"id": str})
    assert exported.columns.tolist() == ["id", "label", "fold", "cnn5", "lite0"]
    assert exported.set_index("id")["lite0"].equals(oof.rename("lite0"))
    tests = [pd.read_csv(fold_dir(root, "cnn5", k) / "test.csv", dtype={"id": str})["prob"] for k in range(3)]
    assert pd.read_csv(root / "out" / "test.csv")["cnn5"].to_numpy() == pytest.approx(np.mean(tests, axis=0), abs=1e-15)
    before = (root / "out" / "oof.csv").read_bytes()
    assert run("runs", root, "--export", "out").returncode == 0 and (root / "out" / "oof.csv").read_bytes() == before


def test_an_export_that_finds_no_room_changes_nothing(root, tmp_path, monkeypatch):
    def full(path: Path, text: str) -> None:
        if path.name == "test.csv":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        path.write_text(text)

    for name in ("oof.csv", "test.csv"):
        (tmp_path / name).write_text("former")
    (tmp_path / STAGED).mkdir()  # of a killed export
    with monkeypatch.context() as patch:
        patch.setattr("facefold.ensemble.run_table.write_text", full)
        assert "No space left on device" in run("runs", root, "--export", tmp_path).stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"oof.csv": "former", "test.csv": "former"}


def test_no_file_of_anything_else_is_replaced(root, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (root / "competition", root / "runs/lite0", root / "runs/lite0/fold_0", tmp_path / "file"):
        message = f"--export {folder}: it holds other files; name a new folder"
        assert refused("runs", root, "--export", folder) == message
    assert refused("runs", root, "--csv", "runs.txt") == "--csv runs.txt: the name of a csv file ends in .csv"
    for name in ("competition", "folds", "cache"):
        shutil.copytree(root / name, tmp_path / name)
    assert refused("runs", tmp_path) == "runs/ holds no runs. Run `python src/train.py --recipe NAME`."
    shutil.copytree(root / "runs" / "lite1", tmp_path / "runs" / "lite1")
    message = "--export: no run is complete, so that there is nothing to export"
    assert refused("runs", tmp_path, "--export", tmp_path / "new") == message and not (tmp_path / "new").exists()


def test_only_settings_that_differ_are_columns(root):
    folds = load_folds(root)

    def state(name: str, **settings: object) -> RunState:
        return RunState(name, "1 of 3 folds", [{"settings": {"name": name, "lr": 0.1, **settings}, "epochs_run": 3}])

    table = make_run_table(
        [state("a", size=96, ema=True), state("b", size=128, ema=False), RunState("c", "damaged", [])], folds
    )
    assert table.columns.tolist()[-3:] == ["epochs", "size", "ema"]
    assert table[["size", "ema"]].to_numpy().tolist() == [["96", "true"], ["128", "false"], ["", ""]]
    assert table["seconds"].isna().all() and table["epochs"].tolist() == ["3", "3", ""]


def test_of_more_classes_there_is_a_column_for_each(tmp_path):
    target = Task(kind="multiclass", classes=("ant", "bee", "cow"))
    member, folds = fabricated(target, "lite0", 0)
    ids = member.test.index.tolist()
    states = [RunState("lite0", "complete", [], member)]
    assert export_predictions(tmp_path / "out", states, folds, ids) == ["lite0"]
    oof, test = (pd.read_csv(tmp_path / "out" / f"{part}.csv") for part in ("oof", "test"))
    assert oof.columns.tolist() == ["id", "label", "fold", "lite0:ant", "lite0:bee", "lite0:cow"]
    assert oof["label"].tolist()[:4] == ["ant", "bee", "cow", "ant"]
    assert test.loc[0, "lite0:bee"] == pytest.approx(np.mean([member.test[k]["prob_bee"].iloc[0] for k in range(3)]))
    assert make_run_table(states, folds)["run"].tolist() == ["lite0"]
