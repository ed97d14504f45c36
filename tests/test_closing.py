"""What a job says at its end, of blends that are written down here."""

from dataclasses import asdict

import pandas as pd
import pytest

from facefold.ensemble.blend import Blend
from facefold.ensemble.closing import describe_gain, suggest_next
from facefold.task import LABEL, Task
from facefold.utils.files import write_json

GAIN = {"gain": 0.0123, "low": 0.001, "high": 0.0236}
BOARD = [("mean", "method"), ("lite0", "recipe"), ("best_single", "method"), ("face_svm", "recipe")]


def blend_of(*rows: tuple, picked: str = "mean", task: Task = LABEL, error: float = 5.0) -> Blend:
    board = pd.DataFrame(rows, columns=["name", "kind"])
    facts = {"picked": picked, "task": asdict(task), "gain_over_best_single": GAIN, "score": {task.metric: error}}
    return Blend(board, None, None, {}, facts)


def write_run(root, name: str, classifier: str = "", seed: int = 0) -> None:
    """Write two folds that took 120 and 180 seconds."""
    for fold, seconds in enumerate((120.0, 180.0)):
        facts = {"settings": {"classifier": classifier}, "seconds": seconds, "seed": seed}
        write_json(root / "runs" / name / f"fold_{fold}" / "run.json", facts)


@pytest.fixture
def root(tmp_path):
    write_run(tmp_path, "lite0")
    write_run(tmp_path, "face_svm", "svm")
    return tmp_path


def test_the_gain_counts_the_choice_of_both():
    assert describe_gain(blend_of(*BOARD)) == (
        "blending: +1.23 points of accuracy over the best recipe alone [+0.10, +2.36], both as other folds choose them"
    )
    number = Task(kind="regression", name="age", metric="mae")
    assert describe_gain(blend_of(*BOARD, task=number)).startswith("blending: +0.012 of mean absolute error over the")
    small = describe_gain(blend_of(*BOARD, task=number, error=0.05))
    assert small.startswith("blending: +0.0123 of mean absolute error over the best recipe alone [+0.0010, +0.0236]")
    assert describe_gain(blend_of(*BOARD, picked="best_single")) == "no blend beats lite0 alone by a real margin"
    assert describe_gain(blend_of(BOARD[1])) == "lite0 alone: there is nothing to blend it with"
    mate = ("mate (not verified here)", "added")
    assert describe_gain(blend_of(mate)) == "mate (not verified here) alone: there is nothing to blend it with"


def test_the_next_job_has_what_is_missing_first(root):
    blend, command = blend_of(*BOARD), "the same command with --recipes lite0,face_svm"
    late = suggest_next(root, blend, ["lite0"], ["cnn5", "lite1"], 2)
    assert late == "the same command with more time, for cnn5, lite1"
    assert (
        suggest_next(root, blend, ["lite0", "cnn5"], [], 2)
        == f"{command},cnn5, as another network errs elsewhere; its plan says for how long"
    )
    seed = f"{command},lite0#1, another seed of the best network: about"
    assert suggest_next(root, blend, ["lite0"], [], 2) == f"{seed} 3 min more"  # 300 s / 2
    assert suggest_next(root, blend, ["lite0"], [], 16) == f"{seed} 3 min more"  # there are two folds
    assert suggest_next(root, blend, ["lite0"], [], 1) == f"{seed} 5 min more"
    assert suggest_next(root, blend_of(*BOARD[2:]), ["face_svm"], [], 2) == (
        "look at the errors in the report: the recipes of this machine's profile are trained"
    )


def test_another_seed_is_one_that_no_run_has(root):
    write_run(root, "lite0+corrected", seed=1)
    write_run(root, "lite0#2", seed=2)
    blend = blend_of(("lite0+corrected", "recipe"), ("lite0#2", "recipe"))
    assert suggest_next(root, blend, [], [], 2).startswith("the same command with --recipes lite0,lite0#2,lite0#3, ")


def test_a_run_of_an_earlier_version_says_no_time(tmp_path):
    write_json(tmp_path / "runs" / "lite0" / "fold_0" / "run.json", {"seed": 0})
    assert suggest_next(tmp_path, blend_of(BOARD[1]), ["lite0"], [], 2) == (
        "the same command with --recipes lite0,lite0#1, another seed of the best network"
    )
