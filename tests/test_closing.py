"""What a job says at its end, of blends that are written down here."""

from dataclasses import asdict

import pandas as pd
import pytest

from facefold.ensemble.blend import Blend
from facefold.ensemble.closing import describe_gain, suggest_next
from facefold.task import LABEL, Task
from facefold.utils.files import write_json

GAINS = ("gain", "gain_low", "gain_high")
BOARD = [
    ("mean", "method", 0.0123, 0.001, 0.0236),
    ("lite0", "recipe", 0.0, 0.0, 0.0),
    ("best_single", "method", 0.0, 0.0, 0.0),
    ("face_svm", "recipe", -0.02, -0.03, -0.01),
]


def blend_of(*rows: tuple, picked: str = "mean", task: Task = LABEL) -> Blend:
    board = pd.DataFrame(rows, columns=["name", "kind", *GAINS])
    return Blend(board, None, None, {}, {"picked": picked, "task": asdict(task)})


@pytest.fixture
def root(tmp_path):
    """Two folds of a network that took 120 and 180 seconds, and of a classifier."""
    for name, classifier in (("lite0", ""), ("face_svm", "svm")):
        for fold, seconds in enumerate((120.0, 180.0)):
            path = tmp_path / "runs" / name / f"fold_{fold}" / "run.json"
            write_json(path, {"settings": {"classifier": classifier}, "seconds": seconds})
    return tmp_path


def test_the_gain_is_that_of_the_method_that_is_submitted():
    assert describe_gain(blend_of(*BOARD)) == (
        "blending: +1.23 points of accuracy over the best recipe alone [+0.10, +2.36]"
    )
    number = Task(kind="regression", name="age", metric="mae")
    assert describe_gain(blend_of(*BOARD, task=number)) == (
        "blending: +0.0123 of mean absolute error over the best recipe alone [+0.0010, +0.0236]"
    )
    assert describe_gain(blend_of(*BOARD, picked="best_single")) == "no blend beats lite0 alone by a real margin"
    assert describe_gain(blend_of(BOARD[1])) == "lite0 alone: there is nothing to blend it with"
    mate = ("mate (not verified here)", "added", 0.0, 0.0, 0.0)
    assert describe_gain(blend_of(mate)) == "mate (not verified here) alone: there is nothing to blend it with"


def test_the_next_job_has_what_is_missing_first(root):
    blend = blend_of(*BOARD)
    assert (
        suggest_next(root, blend, ["lite0"], ["cnn5", "lite1"], 2) == "the same command with more time, for cnn5, lite1"
    )
    assert suggest_next(root, blend, ["lite0", "cnn5"], [], 2) == (
        "the same command with --recipes lite0,face_svm,cnn5, as another network errs elsewhere"
    )
    assert suggest_next(root, blend, ["lite0"], [], 2) == (
        "the same command with --recipes lite0,face_svm,lite0#1, a second seed of the best network: about 3 min more"
    )
    assert suggest_next(root, blend_of(*BOARD[2:]), ["face_svm"], [], 2) == ""
