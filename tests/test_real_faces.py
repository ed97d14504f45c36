"""The steps on real faces, judged by answers that no step sees. Skipped where the data are not at hand."""

from pathlib import Path

import pandas as pd
import pytest

from command import apart

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.mark.skipif(
    not (SHARED / "competition-mini-solution.csv").exists(), reason="../shared, with the mini competition, is not here"
)
def test_two_small_folds_tell_most_real_faces_apart(tmp_path):
    for step, *options in [
        ("audit", "--data", SHARED / "competition-mini.zip"),
        ("split", "--folds", "2"),
        ("train", "--recipe", "demo_lite0"),
        ("blend",),
    ]:
        done = apart(step, tmp_path, *options)
        assert done.returncode == 0, done.stderr
    answers = pd.read_csv(SHARED / "competition-mini-solution.csv", dtype={"id": str}).set_index("id")["label"]
    submission = pd.read_csv(tmp_path / "submissions" / "submission.csv", dtype={"id": str}).set_index("id")["label"]
    assert set(submission.index) == set(answers.index)
    hidden = (submission == answers.reindex(submission.index)).mean()
    oof = pd.read_csv(tmp_path / "submissions" / "oof_blend.csv")
    assert hidden > 0.78
    # Three standard errors of 600 rows: OOF predicts the test score.
    assert abs(hidden - (oof["pred"] == oof["label"]).mean()) < 0.05
