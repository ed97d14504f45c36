"""Whether predictions know their labels: the two numbers by hand, and whom they never accuse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facefold.ensemble.members import OofMatrix
from facefold.ensemble.trust import describe_added, judge_added, judge_predictions
from facefold.task import LABEL, Task, task_named

AGE, THREE = task_named("age"), Task(kind="multiclass", classes=("a", "b", "c"))


def wrong_on(labels: np.ndarray, rows: slice) -> np.ndarray:
    prob = np.where(labels == 1, 0.9, 0.1)
    prob[rows] = 1 - prob[rows]
    return prob


@pytest.mark.parametrize(
    "own, others, error, difference, knows",
    [
        (slice(0, 0), slice(0, 20), 0.0, 0.2, True),  # right wherever the runs are wrong
        (slice(0, 0), slice(0, 9), 0.0, 0.09, True),  # 0.09 > 3 * sqrt(0.09 * 0.91 / 99)
        (slice(0, 0), slice(0, 8), 0.0, 0.08, False),  # 0.08 < 3 * sqrt(0.08 * 0.92 / 99)
        (slice(0, 6), slice(0, 20), 0.06, 0.14, False),  # a better model that errs where the runs err
        (slice(50, 51), slice(0, 20), 0.01, 0.21, True),  # 0.21 - 4 * 0.01 = 0.17 > 3 * 0.0497
        (slice(20, 25), slice(0, 20), 0.05, 0.25, False),  # five errors, of which the runs have none
    ],
)
def test_errors_and_differences_by_hand(own, others, error, difference, knows):
    labels = np.arange(100) % 2
    found = judge_predictions(wrong_on(labels, own), wrong_on(labels, others), labels, LABEL)
    assert found == {"error": error, "difference": difference, "knows_labels": knows}


def test_of_three_classes_the_likeliest_counts_and_of_a_number_the_distance():
    labels = np.arange(60) % 3
    right = np.eye(3)[labels]
    others = np.roll(right, 1, axis=1)
    others[30:] = right[30:]
    assert judge_predictions(right, others, labels, THREE) == {"error": 0, "difference": 0.5, "knows_labels": True}
    values = np.arange(10.0)
    off = np.where(np.arange(10) % 2, 1.0, -1.0)
    found = judge_predictions(values + 0.1 * off, values + 2 * off, values, AGE)
    assert found == {"error": pytest.approx(0.1), "difference": pytest.approx(1.9), "knows_labels": True}
    assert not judge_predictions(values + off, values - off, values, AGE)["knows_labels"]  # 2 < 4 * 1


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_an_error_of_a_third_is_never_accused(rows):
    wrong, others = np.array(rows).T
    labels = np.zeros(len(rows), np.int64)
    found = judge_predictions(wrong.astype(float), others.astype(float), labels, LABEL)
    assert not (found["knows_labels"] and 3 * wrong.sum() >= others.sum())


def matrix(names: list[str], added: tuple[str, ...], *prob: np.ndarray) -> OofMatrix:
    rows = len(prob[0])
    ids, test = [str(row) for row in range(rows)], np.zeros((2, 1, len(names)))
    labels = np.arange(rows) % 2
    return OofMatrix(ids, labels, labels, np.array(ids), names, np.stack(prob, axis=1), ["t"], test, LABEL, added)


def test_runs_are_the_measure_and_without_any_the_other_added_members():
    labels = np.arange(100) % 2
    perfect, poor = wrong_on(labels, slice(0, 0)), wrong_on(labels, slice(0, 30))
    judged = judge_added(matrix(["run", "x", "y"], ("x", "y"), poor, perfect, perfect))
    assert judged["x"] == judged["y"] == {"error": 0, "difference": 0.3, "knows_labels": True}
    judged = judge_added(matrix(["x", "y"], ("x", "y"), perfect, poor))
    assert judged["x"]["knows_labels"] and not judged["y"]["knows_labels"]
    assert judge_added(matrix(["x"], ("x",), perfect)) == {"x": {}}


def test_the_warning_of_a_number():
    task = {"name": "age", "kind": "regression", "metric": "mae", "submission": "values"}
    one = {"folds": "other", "error": 0.123456, "difference": 5.0, "knows_labels": True}
    lines = describe_added({"task": task, "members": [], "added": {"x": one}})
    assert lines[0] == (
        "x: its folds are not those of targets/age/folds/folds.csv, and may divide near-duplicates; that its rows are "
        "out of fold is taken on trust."
    )
    assert lines[1].startswith(
        "WARNING: x seems to know its labels: it is off by 0.1235 on average and by 5 from the mean of the others. "
    )
    assert len(lines) == 2 and describe_added({"task": task}) == []
