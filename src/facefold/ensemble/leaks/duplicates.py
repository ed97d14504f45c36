"""Labels from twins: train images that show the same picture as a test image, where a person asks for it.

`require` counts the test rows that have such twins, `answered` gives them the label that most of these have, and `read` says
what it is worth on train rows that are treated as test rows.

A train row is answered by all other train rows of its group, in whatever fold, its own label left out: that is what a test row
is answered by. Twins in other folds alone would be fewer than a test row has where folds divide a group, and none where
`split.py` keeps near-duplicates together. What the twins are compared with, the row's out-of-fold probability, depends on the
folds. Where they divide groups (`split.py --groups bytes`), models have met a twin in training, as the models that predict the
test rows have: the gain is honest. Where they do not, models have met none, and test rows are predicted better than such rows
are: the accuracy with twins is honest still, the gain over the models alone is the most it can be. Both hold as far as test
rows have twins as often as train rows; the two shares are reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from facefold.data.leaks import labels_of_duplicates
from facefold.ensemble.metrics import Paired, compare_paired, decide
from facefold.ensemble.selection import choose_method
from facefold.utils.errors import InputError


@dataclass(frozen=True)
class Way:
    """With the labels of twins or without: a method for `nested.choose`."""

    name: str


PLAIN, TWINS = "no_twins", "twins"
_WAYS = (Way(PLAIN), Way(TWINS))  # from simple to complicated
_LEAST = 0.501  # an answer decides, however often such answers are wrong


@dataclass(frozen=True)
class DuplicateScores:
    """What twins are worth, told by train rows that were treated as test rows.

    prob: float64 (n,), the probabilities given, but for answered rows; honest: (n,), each fold with or without twins by what
    the other folds prefer; picked: `twins` or `no_twins`, and why in a sentence. gain: of prob over the probabilities given.
    rows: how many train rows were answered; right, before: shares of these whose label the twins and the probabilities given
    tell. sure: the probability that an answer gets.
    """

    prob: np.ndarray
    honest: np.ndarray
    picked: str
    why: str
    gain: Paired
    rows: int
    right: float
    before: float
    sure: float


def require_duplicates(groups: pd.DataFrame, ids: Sequence[str], labels: np.ndarray, test_ids: Sequence[str]) -> int:
    """How many test rows have twins most of which have one label. `InputError` where none has.

    groups: the table of `duplicates.find`; labels (n,) in the order of the train ids.
    """
    told = _told(groups, ids, labels, "test", test_ids)
    have, count = int((told["zeros"] + told["ones"] > 0).sum()), int((told["answer"] >= 0).sum())
    if not have:
        raise InputError(
            "no test image shows a picture of train: there are no twins whose labels could be used. "
            "Leave --use-twins out."
        )
    if not count:
        raise InputError(
            f"{have} test images show a picture of train, but each one's twins contradict each other evenly: they "
            "give no label. Leave --use-twins out."
        )
    return count


def duplicate_announcement(count: int, rows: int) -> str:
    """The first line of whatever shows a blend that used the labels of twins, for `count` of `rows` test rows."""
    return (
        f"THE LABELS OF TWINS WERE USED: {count:,} of {rows:,} test images show a picture of train and take its label, a "
        "leak of this competition that tells nothing about new images."
    )


def apply_duplicates(
    groups: pd.DataFrame, ids: Sequence[str], labels: np.ndarray, test_ids: Sequence[str], prob: np.ndarray, sure: float
) -> np.ndarray:
    """Probabilities of label 1, float64 (t,), in the order of `test_ids`: prob (t,), but `sure` of the twins' label where they
    have one."""
    return _with(prob, _told(groups, ids, labels, "test", test_ids)["answer"].to_numpy(), sure)


def score_duplicates(
    groups: pd.DataFrame, ids: Sequence[str], labels: np.ndarray, fold: np.ndarray, prob: np.ndarray
) -> DuplicateScores:
    """Answer the train rows by their twins: labels, fold and out-of-fold prob (n,) in the order of `ids`.

    No row's own label has a part in what is said of it: the answer leaves it out, and how far answers are to be trusted, and
    whether at all, is learned on the other folds, from twins there alone.
    """
    every = _told(groups, ids, labels, "train", ids)["answer"].to_numpy()
    told, honest = np.array(prob, dtype=np.float64), np.array(prob, dtype=np.float64)
    for k in np.unique(fold):
        held, rest = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        known = [ids[row] for row in rest]
        inner = _told(groups, known, labels[rest], "train", known)["answer"].to_numpy()
        sure = _sure(inner, labels[rest])
        told[held] = _with(prob[held], every[held], sure)
        others = {PLAIN: prob[rest], TWINS: _with(prob[rest], inner, sure)}
        if choose_method(_WAYS, others, labels[rest]).method.name == TWINS:
            honest[held] = told[held]
    choice, asked = choose_method(_WAYS, {PLAIN: prob, TWINS: told}, labels), every >= 0
    right, before = ((given == labels)[asked].mean() if asked.any() else 0.0 for given in (every, decide(prob)))
    return DuplicateScores(
        told,
        honest,
        choice.method.name,
        choice.why,
        compare_paired(told, prob, labels),
        int(asked.sum()),
        float(right),
        float(before),
        _sure(every, labels),
    )


def _told(
    groups: pd.DataFrame, ids: Sequence[str], labels: np.ndarray, split: str, asked: Sequence[str]
) -> pd.DataFrame:
    """`leaks.twins` of the rows `asked` of `split`, in their order, where the labels of the train rows `ids` are known."""
    told = labels_of_duplicates(groups, pd.Series(labels, index=list(ids)))
    return told[told["split"] == split].set_index("id").loc[list(asked)]


def _sure(answer: np.ndarray, labels: np.ndarray) -> float:
    """How often answers (n,) of 0 and 1 are right, -1 being none; one right and one wrong one are added (Laplace)."""
    asked = answer >= 0
    return max(_LEAST, float(((answer == labels)[asked].sum() + 1) / (asked.sum() + 2)))


def _with(prob: np.ndarray, answer: np.ndarray, sure: float) -> np.ndarray:
    return np.where(answer < 0, prob, np.where(answer == 1, sure, 1 - sure))
