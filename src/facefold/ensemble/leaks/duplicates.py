"""Labels of near-duplicates: a test image that shows the same picture as train images takes the label of most of them.

A train row is answered by all other train rows of its group, in any fold, without its own label: so is a test row.
Duplicates in other folds alone would be fewer than a test row has if folds divide a group, and none if `split.py` keeps
near-duplicates together. They are compared with the row's out-of-fold probability, which depends on the folds. If these
divide groups (`split.py --groups bytes`), models have seen a duplicate in training, as the models that predict the test
rows have: the gain is unbiased. If they do not, models have seen none, and test rows are predicted better than such
rows: the accuracy with duplicates is still unbiased, but the gain over the models alone is an upper bound. Both hold if
test rows have duplicates as often as train rows; the two shares are reported.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from facefold.data.audit import check_images
from facefold.data.competition import Competition
from facefold.data.duplicates import find_duplicates
from facefold.data.leaks import labels_of_duplicates
from facefold.ensemble.leaks.base import BlendScores, Leak, LeakResult
from facefold.ensemble.members import OofMatrix
from facefold.ensemble.metrics import ACCURACY, target_metric
from facefold.ensemble.scores import decide
from facefold.ensemble.selection import choose_method
from facefold.utils.errors import InputError

PLAIN, DUPLICATES = "no_duplicates", "duplicates"
_LEAST_SURE = 0.501  # an answer decides, however often such answers are wrong


@dataclass(frozen=True)
class DuplicateLeak(Leak):
    """groups: the table of `find_duplicates`."""

    groups: pd.DataFrame

    name = DUPLICATES
    kind = "near-duplicates"
    announcement = (
        "THE LABELS OF DUPLICATES WERE USED: {answered:,} of {test_rows:,} test images show a "
        "picture of train and take its label, a leak of this competition that tells nothing about new images."
    )
    headline = ", near-duplicates of train images by their labels"
    unused = "the labels of duplicates gain nothing by a real margin: they are not in the submission after all"

    @classmethod
    def find(cls, competition: Competition) -> "DuplicateLeak":
        return cls(find_duplicates(competition, check_images(competition)))

    def require(self, matrix: OofMatrix) -> dict:
        table = self._labels(matrix.ids, matrix.labels, "test", matrix.test_ids)
        count, answered = int((table["zeros"] + table["ones"] > 0).sum()), int((table["answer"] >= 0).sum())
        if not count:
            raise InputError(
                "no test image shows a picture of train: there are no duplicates whose labels could be used. "
                "Leave --use-duplicates out."
            )
        if not answered:
            raise InputError(
                f"{count} test images show a picture of train, but the labels of these contradict each other evenly. "
                "Leave --use-duplicates out."
            )
        return {"answered": answered, "test_rows": len(matrix.test_ids)}

    def apply(self, matrix: OofMatrix, scores: BlendScores) -> LeakResult:
        """Answer the train rows by their duplicates, and if that gains, the test rows.

        No row's own label has a part in its score: the answer leaves it out, and how far answers are to be trusted, and
        whether at all, is learned on the other folds, from duplicates there alone.
        """
        labels, prob, metric = matrix.labels, scores.nested, target_metric(matrix.target)
        answers = self._answers(matrix.ids, labels, "train", matrix.ids)
        answered_prob, nested = prob.copy(), prob.copy()
        for k in np.unique(matrix.fold):
            held_out, rest = np.flatnonzero(matrix.fold == k), np.flatnonzero(matrix.fold != k)
            rest_ids = [matrix.ids[row] for row in rest]
            inner = self._answers(rest_ids, labels[rest], "train", rest_ids)
            sure = _sureness(inner, labels[rest])
            answered_prob[held_out] = _with_answers(prob[held_out], answers[held_out], sure)
            rest_prob = {PLAIN: prob[rest], DUPLICATES: _with_answers(prob[rest], inner, sure)}
            if choose_method(rest_prob, labels[rest], metric).name == DUPLICATES:
                nested[held_out] = answered_prob[held_out]
        choice, mask = choose_method({PLAIN: prob, DUPLICATES: answered_prob}, labels, metric), answers >= 0
        right, before = (
            float((pred == labels)[mask].mean()) if mask.any() else 0.0 for pred in (answers, decide(prob))
        )
        facts = {
            **self.require(matrix),
            "used": choice.name == DUPLICATES,
            "picked": choice.name,
            "why": choice.why,
            "train_answered": int(mask.sum()),
            "train_rows": len(labels),
            "right": right,
            "before": before,
            "gain": asdict(ACCURACY.compare(answered_prob, prob, labels)),
        }
        if facts["used"]:
            test_answers = self._answers(matrix.ids, labels, "test", matrix.test_ids)
            test = _with_answers(scores.test, test_answers, _sureness(answers, labels))
            scores = BlendScores(nested, scores.oof, test)
        return LeakResult(scores, {DUPLICATES: answered_prob}, facts)

    def _labels(self, ids: Sequence[str], labels: np.ndarray, split: str, rows: Sequence[str]) -> pd.DataFrame:
        """Return `labels_of_duplicates` for the ids `rows` of `split`; labels (n,) of the train `ids` are known."""
        table = labels_of_duplicates(self.groups, pd.Series(labels, index=list(ids)))
        return table[table["split"] == split].set_index("id").loc[list(rows)]

    def _answers(self, ids: Sequence[str], labels: np.ndarray, split: str, rows: Sequence[str]) -> np.ndarray:
        """Return the label of most duplicates of each row, int (len(rows),), -1 for none; otherwise as `_labels`."""
        return self._labels(ids, labels, split, rows)["answer"].to_numpy()

    @staticmethod
    def describe(facts: dict) -> str:
        gain = facts["gain"]
        return (
            f"Near-duplicates: {facts['answered']} of {facts['test_rows']} test images take the label of their "
            f"duplicates in train; of {facts['train_rows']} train images, each left out in turn, "
            f"{facts['train_answered']} would. On these the duplicates' labels have accuracy {facts['right']:.4f}, the "
            f"predictions {facts['before']:.4f}: "
            f"{100 * gain['gain']:+.2f} points on all rows [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]. "
            f"{facts['why']}"
        )


def _sureness(answers: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy of answers (n,), of which -1 is none; one right and one wrong one are added (Laplace)."""
    mask = answers >= 0
    return max(_LEAST_SURE, float(((answers == labels)[mask].sum() + 1) / (mask.sum() + 2)))


def _with_answers(prob: np.ndarray, answers: np.ndarray, sure: float) -> np.ndarray:
    """Return prob (n,), but the probability `sure` for the answers (n,) of 0 and 1; -1 is none."""
    return np.where(answers < 0, prob, np.where(answers == 1, sure, 1 - sure))
