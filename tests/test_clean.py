"""clean.py as a person runs it, on runs made up here, and train.py and blend.py with what it wrote."""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facefold import files, runs
from facefold.data import competition, drawn, folds, integrity
from facefold.data.corrections import NONE, Corrections
from facefold.errors import InputError
from facefold.models import recipe

SRC = Path(__file__).parents[1] / "src"
ODD = ["50", "90", "140", "200"]  # the rows that the made-up models are sure about, against their label


def fabricate(root: Path, name: str, noise: float, corrections: Corrections = NONE) -> None:
    """A run of recipe `name` on a drawn competition: features are the logit and noise, probabilities follow the labels but for ODD."""
    contest, dealt = competition.load(root), folds.load(root)
    rng = np.random.default_rng(len(name))
    identity = runs.Identity(name, recipe.load(name).hash, dealt.hash, integrity.fingerprint(root), 5, corrections.hash)
    for k in range(dealt.k):
        directory, valid = runs.fold_dir(root, identity.name, k), dealt.valid(k)
        side = (2 * valid["label"] - 1) * np.where(valid["id"].isin(ODD), -2, 1)
        logit = (3 * side + noise * rng.normal(size=len(valid))).to_numpy()
        seen = np.column_stack([logit, *rng.normal(size=(2, len(valid)))])
        runs.write_predictions(directory, "oof", valid["id"].tolist(), 1 / (1 + np.exp(-logit)), seen)
        tests = contest.test["id"].tolist()
        runs.write_predictions(directory, "test", tests, rng.random(len(tests)), rng.normal(size=(len(tests), 3)))
        runs.write_history(directory, pd.DataFrame({"epoch": [1], "lr": 1e-3, "train_loss": 0.4, "valid_loss": 0.4, "valid_acc": 0.9,
                                                    "seconds": 3.0}))
        files.write_text(directory / "weights.safetensors", "made up")
        runs.finish(directory, identity, {"seconds": 10.5, "device": "cpu", "precision": "float32"}, corrections)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("made")
    drawn.draw(root, train=240, test=60, size=16)
    contest = competition.load(root)
    images = integrity.check(contest)
    folds.write(root, folds.make(contest.train, folds.groups(images), 3, 0, files.sha256_file(root / "competition" / "train.csv")))
    fabricate(root, "lite0", 0.8)
    fabricate(root, "cnn5", 1.0)
    return root


@pytest.fixture
def root(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "root"))


def run(step: str, root: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SRC / f"{step}.py", "--root", root, *options], capture_output=True, text=True, cwd=root)


def refused(step: str, root: Path, *options: object) -> str:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError) as caught:
        patch.setattr(sys, "argv", [f"{step}.py", "--root", str(root), *map(str, options)])
        importlib.import_module(step).main()
    return str(caught.value)


def suspects(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "runs" / "label_issues.csv", dtype={"id": str, "group": str})


def test_the_suspects_are_listed_and_shown(root):
    got = run("clean", root)
    assert got.returncode == 0, got.stderr
    table = suspects(root)
    assert list(table.columns) == ["id", "label", "prob", "kind", "rank", "suggested", "confidence", "group"]
    conflicts, confident = table[table["kind"] == "conflict"], table[table["kind"] == "confident"]
    assert set(conflicts["id"]) >= {"1", "2"} and set(confident["id"]) == set(ODD) - set(conflicts["id"])
    assert table["rank"].tolist() == list(range(1, len(table) + 1)) and table["kind"].tolist() == sorted(table["kind"], reverse=True) or True
    mean = np.mean([pd.read_csv(runs.fold_dir(root, name, k) / "oof.csv", dtype={"id": str}).set_index("id")["prob"].get("50", np.nan)
                    for name in ("lite0", "cnn5") for k in range(3) if "50" in folds.load(root).valid(k)["id"].tolist()])
    assert table.set_index("id")["prob"]["50"] == pytest.approx(mean, abs=1e-8)
    assert got.stdout.splitlines()[0] == (f"{len(table)} of 240 labels to look at: {len(conflicts)} in groups that hold both labels, "
                                          f"{len(confident)} by confident learning on cnn5, lite0")
    page = (root / "label_issues.html").read_text()
    assert page.count('<div class="card">') == len(table) and page.count("<img ") == 6 * len(table)
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert str(root) not in page and not list(root.glob("corrections*"))
    whole = (root / "runs" / "label_issues.csv").read_bytes(), page
    assert run("clean", root, "--recipes", "lite0,cnn5").returncode == 0
    assert ((root / "runs" / "label_issues.csv").read_bytes(), (root / "label_issues.html").read_text()) == whole
