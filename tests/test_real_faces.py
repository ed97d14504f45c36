"""The steps on real faces, judged by answers that no step sees. Skipped where the data are not at hand."""

from pathlib import Path
from zipfile import ZipFile

import pandas as pd
import pytest

from command import run

SHARED = Path(__file__).resolve().parents[2] / "shared"
TRAIN_ROWS = 800  # of 2,000: enough to tell most faces apart, in less than half the time


@pytest.mark.skipif(
    not (SHARED / "competition-mini-solution.csv").exists(), reason="../shared, with the mini competition, is not here"
)
def test_two_small_folds_tell_most_real_faces_apart(tmp_path):
    with ZipFile(SHARED / "competition-mini.zip") as archive:
        archive.extractall(tmp_path / "data")
    train = next((tmp_path / "data").rglob("train.csv"))
    train.write_text("".join(train.read_text().splitlines(keepends=True)[: 1 + TRAIN_ROWS]))
    for step, *options in [
        ("audit", "--data", tmp_path / "data"),
        ("split", "--folds", "2"),
        ("train", "--recipe", "demo_cnn~size=32@6"),
        ("blend",),
    ]:
        done = run(step, tmp_path, *options)
        assert done.returncode == 0, done.stderr
    answers = pd.read_csv(SHARED / "competition-mini-solution.csv", dtype={"id": str}).set_index("id")["label"]
    submission = pd.read_csv(tmp_path / "submissions" / "submission.csv", dtype={"id": str}).set_index("id")["label"]
    assert set(submission.index) == set(answers.index)
    hidden = (submission == answers.reindex(submission.index)).mean()
    oof = pd.read_csv(tmp_path / "submissions" / "oof_blend.csv")
    assert hidden > 0.7
    # OOF predicts the test score: three standard errors of the difference, of 800 and 600 rows.
    assert abs(hidden - (oof["pred"] == oof["label"]).mean()) < 0.07
