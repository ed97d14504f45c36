"""What each row adds to a metric, and by how much one prediction is better than another on the same rows.

Every metric is written as the mean of one number per row. For accuracy, log loss and errors that is the row's own; for
the others the value plus the row's influence on it, of which the sum is zero (the infinitesimal jackknife, Jaeckel
1972; for the area under the curve it is DeLong et al. 1988). So intervals and paired comparisons of all metrics are
those of a mean, in closed form, and a prediction is rated once for any number of comparisons.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, norm

from facefold.ensemble.scores import Z95, decide, half_width, rank_placements, row_losses


@dataclass(frozen=True)
class Gain:
    """By how much a is better than b on the same rows, with its 95 % interval and two-sided p."""

    gain: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class AccuracyGain(Gain):
    """The gain in accuracy. wins, losses: rows that only a, only b predicts correctly; p: exact McNemar test."""

    wins: int
    losses: int


class Rating(NamedTuple):
    """A metric of n predictions.

    rows: float64 (n,), whose mean is its value; decided: int64 (n,), the labels that it was computed from, or None if
    it was computed from the scores.
    """

    rows: np.ndarray
    decided: np.ndarray | None = None

    @property
    def value(self) -> float:
        return float(self.rows.mean())


Rate = Callable[[np.ndarray, np.ndarray], Rating]  # of scores (n,) or (n, C), and labels or values (n,)


def rate_accuracy(scores: np.ndarray, labels: np.ndarray) -> Rating:
    decided = decide(scores)
    return Rating((decided == labels).astype(np.float64), decided)


def rate_log_loss(scores: np.ndarray, labels: np.ndarray) -> Rating:
    return Rating(row_losses(scores, labels))


def rate_absolute_error(pred: np.ndarray, values: np.ndarray) -> Rating:
    return Rating(np.abs(pred - values))


def rate_root_mean_square(pred: np.ndarray, values: np.ndarray) -> Rating:
    """Rate the root of the mean squared error; its influence is that of the mean over twice the root."""
    squares = (pred - values) ** 2
    root = math.sqrt(float(squares.mean()))
    return Rating(root + (squares - root * root) / (2 * root) if root else squares)


def rate_auc(scores: np.ndarray, labels: np.ndarray) -> Rating:
    """Rate the area under the ROC curve of scores (n,) for label 1; nan if only one class occurs."""
    return Rating(_auc_rows(scores, labels == 1))


def rate_mean_auc(scores: np.ndarray, labels: np.ndarray) -> Rating:
    """Rate the mean area under the ROC curves of each class against the others, over the classes that occur."""
    classes = np.unique(labels)
    rows = np.zeros(len(labels))
    for c in classes:
        rows += _auc_rows(scores[:, c], labels == c)
    return Rating(rows / len(classes))


def _auc_rows(scores: np.ndarray, ones: np.ndarray) -> np.ndarray:
    """Return float64 (n,), whose mean is the area, and the variance of whose mean is that of DeLong et al. (1988)."""
    rows, counts = len(ones), (int(ones.sum()), int((~ones).sum()))
    if not min(counts):
        return np.full(rows, math.nan)
    placements = rank_placements(scores, ones)
    area = float(placements[ones].mean())
    scale = np.empty(rows)
    for mask, count in ((ones, counts[0]), (~ones, counts[1])):
        scale[mask] = math.sqrt(rows * (rows - 1) / (count * max(count - 1, 1)))
    return area + (placements - area) * scale


def rate_macro_f1(scores: np.ndarray, labels: np.ndarray) -> Rating:
    """Rate the mean F1 over the classes that occur among labels (n,) or decisions, as scikit-learn does."""
    decided = decide(scores)
    hits, predicted, support = class_counts(decided, labels, int(max(decided.max(), labels.max())) + 1)
    total = predicted + support
    occurs = total > 0
    total = np.where(occurs, total, 1)
    f1 = 2 * hits / total
    rows, value = len(labels), f1[occurs].mean()
    share = rows / (total * occurs.sum())  # of a class's count in the value
    influence = 2 * (decided == labels) * share[labels] - f1[labels] * share[labels] - f1[decided] * share[decided]
    return Rating(value + influence, decided)


def rate_balanced_accuracy(scores: np.ndarray, labels: np.ndarray) -> Rating:
    """Rate the mean recall over the classes that occur among labels (n,)."""
    decided = decide(scores)
    hits, _, support = class_counts(decided, labels, int(max(decided.max(), labels.max())) + 1)
    occurs = support > 0
    recall = hits / np.where(occurs, support, 1)
    value, share = recall[occurs].mean(), len(labels) / (support[labels] * occurs.sum())
    return Rating(value + ((decided == labels) - recall[labels]) * share, decided)


def rate_quadratic_kappa(scores: np.ndarray, labels: np.ndarray) -> Rating:
    """Rate Cohen's kappa with quadratic weights (1968) of the classes in their order; 1 if all is one class."""
    decided = decide(scores)
    return Rating(_kappa_rows(decided.astype(np.float64), labels.astype(np.float64)), decided)


def _kappa_rows(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return float64 (n,), whose mean is 1 - observed / expected squared difference of a and b, both (n,)."""
    squares = (a - b) ** 2
    mean_a, mean_b, square_a, square_b = a.mean(), b.mean(), (a**2).mean(), (b**2).mean()
    observed, expected = squares.mean(), square_a + square_b - 2 * mean_a * mean_b
    if expected <= 0:
        return np.ones(len(a))
    change = (a**2 - 2 * a * mean_b + square_b) + (b**2 - 2 * b * mean_a + square_a) - 2 * expected
    return 1 - squares / expected + observed / expected**2 * change


def quadratic_kappa(decided: np.ndarray, labels: np.ndarray) -> float:
    """Return Cohen's kappa with quadratic weights of two lists of classes (n,)."""
    return float(_kappa_rows(decided.astype(np.float64), labels.astype(np.float64)).mean())


def class_counts(decided: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of rows of each class, int64 (classes,): decided and right, decided, labelled."""
    counts = (np.bincount(rows, minlength=classes) for rows in (labels[decided == labels], decided, labels))
    hits, predicted, support = counts
    return hits, predicted, support


def count_accuracy(hits: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Return the number of right rows, (..,), of hits (.., C)."""
    return hits.sum(axis=-1)


def count_macro_f1(hits: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Return the mean F1, (..,), of hits and predicted (.., C) and support (C,); see `class_counts`."""
    total = predicted + support
    return (2 * hits / np.where(total > 0, total, 1)).sum(axis=-1) / np.maximum((total > 0).sum(axis=-1), 1)


def count_balanced_accuracy(hits: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Return the mean recall, (..,), likewise."""
    return (hits / np.where(support > 0, support, 1)).sum(axis=-1) / max((support > 0).sum(), 1)


def accuracy_gain(a: Rating, b: Rating) -> AccuracyGain:
    """Compare decisions row by row.

    The interval is that of Agresti and Min (2005): Wald's with half a row added to each cell; p is that of
    McNemar's exact test.
    """
    correct_a, correct_b = a.rows == 1, b.rows == 1
    wins, losses, rows = int((correct_a & ~correct_b).sum()), int((~correct_a & correct_b).sum()), len(a.rows)
    center = (wins - losses) / (rows + 2)
    margin = Z95 * math.sqrt(max(0.0, (wins + losses + 1) / (rows + 2) - center * center) / (rows + 2))
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return AccuracyGain((wins - losses) / rows, center - margin, center + margin, p, wins, losses)


def mean_gain(a: Rating, b: Rating) -> Gain:
    """Compare two metrics of which more is better; interval and p are normal.

    If labels were decided, the variance is increased as by one more row on which they differ: the normal test of a few
    such rows finds more than McNemar's.
    """
    more = a.rows - b.rows
    gain, half = float(more.mean()), half_width(more)
    if a.decided is not None and b.decided is not None:
        different = int((a.decided != b.decided).sum())
        half *= math.sqrt((different + 1) / different) if different else 1.0
    p = 2 * float(norm.sf(Z95 * abs(gain) / half)) if half else float(gain == 0)
    return Gain(gain, gain - half, gain + half, p)


def mean_reduction(a: Rating, b: Rating) -> Gain:
    """Compare two metrics of which less is better: `mean_gain` with the other sign."""
    return mean_gain(b, a)
