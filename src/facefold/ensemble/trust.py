"""What is known of the added members of a blend: their folds, and whether they know their labels.

Two numbers tell: on how many rows the out-of-fold predictions are wrong, and on how many they differ from the mean of
the runs (of a regression the mean absolute error, and the mean distance from the runs' mean). By the triangle
inequality no member whose error is a third of the runs' or more differs from them more than four times as often as it
is wrong. Predictions that have seen the labels are wrong nowhere, and differ from the runs wherever these are wrong.
"""

import math
import shlex
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from facefold.ensemble.added import PARTS, plain_name
from facefold.ensemble.members import OofMatrix
from facefold.ensemble.scores import decide
from facefold.task import Task
from facefold.utils.errors import InputError
from facefold.utils.files import read_json

TIMES = 4  # more often different from the runs than wrong: labels that are known
DEVIATIONS = 3  # standard errors by which it has to be more often
_FOLDS = {
    "ours": "its folds are those of {folder}folds/folds.csv",
    "other": "its folds are not those of {folder}folds/folds.csv, and may divide near-duplicates",
    "unknown": "its folds are not known, for its out-of-fold file has no column fold",
}


def judge_added(matrix: OofMatrix) -> dict[str, dict]:
    """Return for each added member what `judge_predictions` finds; an empty one if there is nothing to compare with.

    It is compared with the mean of the runs, or without any with that of the other added members.
    """
    judged = {}
    for j, name in enumerate(matrix.names):
        if name in matrix.added:
            others = [i for i, other in enumerate(matrix.names) if other not in matrix.added]
            others = others or [i for i in range(len(matrix.names)) if i != j]
            mean = matrix.prob[:, others].mean(axis=1) if others else None
            judged[name] = (
                {} if mean is None else judge_predictions(matrix.prob[:, j], mean, matrix.labels, matrix.target)
            )
    return judged


def judge_predictions(prob: np.ndarray, others: np.ndarray, labels: np.ndarray, target: Task) -> dict:
    """Compare how far predictions are from the labels with how far they are from the predictions of others.

    Returns error and difference, both shares of the rows or, of a regression, mean distances; and knows_labels: whether
    the difference is more than `TIMES` the error, by more than `DEVIATIONS` standard errors.

    Args:
        prob: (n,) or (n, C).
        others: (n,) or (n, C).
        labels: (n,), labels or values.
        target: What is predicted.
    """
    if target.regression:
        error, difference = np.abs(prob - labels), np.abs(prob - others)
    else:
        error, difference = ((decide(prob) != other).astype(np.float64) for other in (labels, decide(others)))
    surplus = difference - TIMES * error
    knows = surplus.mean() > DEVIATIONS * surplus.std(ddof=1) / math.sqrt(len(labels))
    return {"error": float(error.mean()), "difference": float(difference.mean()), "knows_labels": bool(knows)}


def describe_added(facts: dict) -> list[str]:
    """Return what is to be said of the added members of a blend, by blend.json: a line each, and warnings last."""
    added, task = facts.get("added", {}), Task.from_facts(facts["task"])
    trust = "that its rows are out of fold is taken on trust."
    lines = [f"{name}: {_FOLDS[one['folds']].format(folder=task.folder)}; {trust}" for name, one in added.items()]
    if added and not task.regression:
        runs = [run["recipe"] for run in facts["members"]]
        methods = f"take the features of {', '.join(runs)} alone" if runs else "are left out: there are no features"
        lines.append(f"stack_features and second_pass {methods}, for predictions made elsewhere have none.")
    return lines + [_warning(name, added[name], facts) for name in knowing_members(facts)]


def knowing_members(facts: dict) -> list[str]:
    """Return the added members of a blend that seem to know their labels, by blend.json."""
    return [name for name, one in facts.get("added", {}).items() if one.get("knows_labels")]


def _warning(name: str, one: dict, facts: dict) -> str:
    task = Task.from_facts(facts["task"])
    others = "the mean of the runs" if facts["members"] else "the mean of the others"
    error, difference = 100 * one["error"], 100 * one["difference"]
    found = f"is wrong on {error:.2f} % of the rows and differs from {others} on {difference:.2f} %"
    if task.regression:
        found = f"is off by {one['error']:.4g} on average and by {one['difference']:.4g} from {others}"
    return (
        f"WARNING: {name} seems to know its labels: it {found}. Honest models err on much the same rows; were these "
        f"rows trained on? Then every score with it is too high. Leave --add {plain_name(name)} out, or have it "
        f"predict each fold of {task.folder}folds/folds.csv by models that have not seen it."
    )


def add_options(added: dict[str, dict]) -> str:
    """Return the options of blend.py that add these members of a blend.json."""
    paths = {name: ",".join(one[part]["path"] for part in PARTS) for name, one in added.items()}
    return "".join(f" --add {shlex.quote(f'{plain_name(name)}={both}')}" for name, both in paths.items())


def note_former_additions(directory: Path, names: Iterable[str]) -> list[str]:
    """Return a note if the last blend under `directory` had added members that are not among `names`, else none."""
    former: dict[str, dict] = {}
    with suppress(InputError):  # there was none, or it is damaged and is about to be replaced
        former = read_json(directory / "submissions" / "blend.json").get("added", {})
    gone = {name: one for name, one in former.items() if plain_name(name) not in names}
    if not gone:
        return []
    return [
        f"note: the last blend had {', '.join(gone)} as well, this one has not. To have it again:{add_options(gone)}"
    ]
