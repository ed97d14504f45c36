"""The steps on real faces, judged by answers that no step sees. Skipped where the data are not at hand."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared"


@pytest.mark.skipif(not (SHARED / "competition-mini-solution.csv").exists(), reason="../shared, with the mini competition, is not here")
def test_two_small_folds_tell_most_real_faces_apart(tmp_path):
    for step, *options in [("audit", "--data", SHARED / "competition-mini.zip"), ("split", "--folds", "2"), ("train", "--recipe", "demo_lite0"),
                           ("blend",)]:
        done = subprocess.run([sys.executable, PROJECT / "src" / f"{step}.py", "--root", tmp_path, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    answers = pd.read_csv(SHARED / "competition-mini-solution.csv", dtype={"id": str}).set_index("id")["label"]
    given = pd.read_csv(tmp_path / "submissions" / "submission.csv", dtype={"id": str}).set_index("id")["label"]
    assert set(given.index) == set(answers.index)
    hidden = (given == answers.reindex(given.index)).mean()
    oof = pd.read_csv(tmp_path / "submissions" / "oof_blend.csv")
    assert hidden > 0.78
    assert abs(hidden - (oof["pred"] == oof["label"]).mean()) < 0.05  # three standard errors of 600 rows: OOF tells what the test will say
