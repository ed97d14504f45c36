"""What turns scores into labels, where labels are submitted and the metric is computed from labels.

    threshold   of two classes: label 1 from it on
    offsets     of more: one number per class, added to the log of its probability before the largest decides
    cuts        of quadratic weighted kappa: cut points on the expected class, sum of c * p_c

Each is learned, and kept only if what other folds learn gains significantly over the plain rule, `scores.decide`: label
1 from 0.5 on, or the class of the largest probability. Where probabilities are submitted there is nothing to learn.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from facefold.ensemble.metrics import ACCURACY, Metric, target_metric
from facefold.ensemble.ratings import Gain, class_counts, quadratic_kappa
from facefold.ensemble.scores import class_prob, decide, log_prob, logit
from facefold.task import Task

SIGNIFICANT = 0.05  # two-sided p below which a paired gain counts
OFFSET_STEPS = (0.5, 0.2)
CUT_STEPS = (0.2, 0.1, 0.05, 0.02)
MAX_SWEEPS = 10  # over the classes, with steps of one size
_ABOVE = 1.001  # how far a decided class is raised over the likeliest one, so that it is the largest in a csv as well


@dataclass(frozen=True)
class Decision:
    """kind: none, threshold, offsets or cuts; values: what was learned, () if none."""

    kind: str = "none"
    values: tuple[float, ...] = ()

    @property
    def threshold(self) -> float:
        return self.values[0] if self.kind == "threshold" else 0.5

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Change scores (n,) or (n, C) so that the plain rule, `decide`, gives the labels of this decision."""
        if self.kind == "threshold":
            return shift_scores(scores, self.threshold)
        if self.kind == "offsets":
            return class_prob(log_prob(scores) + np.array(self.values))
        if self.kind == "cuts":
            return _raise_classes(scores, np.searchsorted(self.values, expected_class(scores), side="right"))
        return scores


def decision_kind(target: Task) -> str:
    """Return the kind of decision that is to be learned for a task."""
    metric = target_metric(target)
    if target.submission != "labels" or not metric.decided:
        return "none"
    if not target.multiclass:
        return "threshold"
    return "cuts" if metric.key == "qwk" else "offsets"


def learn_decision(kind: str, scores: np.ndarray, labels: np.ndarray, metric: Metric) -> Decision:
    """Return the decision of this kind that suits scores (n,) or (n, C) to labels (n,) best."""
    if kind == "threshold":
        return Decision(kind, (best_threshold(scores, labels, metric),))
    return Decision(kind, best_offsets(scores, labels, metric) if kind == "offsets" else best_cuts(scores, labels))


def nested_decision(
    scores: np.ndarray, labels: np.ndarray, fold: np.ndarray, kind: str, metric: Metric = ACCURACY
) -> tuple[Decision, Gain | None]:
    """Return the decision for nested scores, and what decisions learned on the other folds gain over the plain rule.

    It is the plain rule unless that gain is significant; then it is the best one for all rows. Of kind none there is
    no gain.

    Args:
        scores: float64 (n,) or (n, C).
        labels: int (n,).
        fold: int (n,).
        kind: Of `decision_kind`.
        metric: What it is learned by.
    """
    if kind == "none":
        return Decision(), None
    changed = np.empty(scores.shape)
    for k in np.unique(fold):
        rest = fold != k
        changed[~rest] = learn_decision(kind, scores[rest], labels[rest], metric).apply(scores[~rest])
    gain = metric.compare(changed, scores, labels)
    if gain.gain > 0 and gain.p < SIGNIFICANT:
        decision = learn_decision(kind, scores, labels, metric)
        return (Decision() if decision == Decision("threshold", (0.5,)) else decision), gain
    return Decision(), gain


def best_threshold(scores: np.ndarray, labels: np.ndarray, metric: Metric = ACCURACY) -> float:
    """Return the threshold of the best decisions, six decimals; of equal ones the nearest to 0.5."""
    values = np.unique(scores)
    trials = np.unique(np.round(np.append((values[1:] + values[:-1]) / 2, 0.5), 6))
    ones, zeros = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    hits = np.stack([np.searchsorted(zeros, trials), len(ones) - np.searchsorted(ones, trials)], axis=1)
    ones_decided = hits[:, 1] + len(zeros) - hits[:, 0]
    predicted = np.stack([len(labels) - ones_decided, ones_decided], axis=1)
    value = np.round(metric.count(hits, predicted, np.array([len(zeros), len(ones)])), 12)
    best = trials[value == value.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def shift_scores(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Shift scores (n,) on the logit scale so that `threshold` becomes 0.5, the threshold of `decide`."""
    return scores if threshold == 0.5 else expit(logit(scores) - logit(np.float64(threshold)))


def best_offsets(scores: np.ndarray, labels: np.ndarray, metric: Metric = ACCURACY) -> tuple[float, ...]:
    """Return the offset of each class, (C,), with which the largest of log(p) + offset decides best.

    A pattern search: each class in turn moves up or down by a step if that is better, in steps of `OFFSET_STEPS`, each
    until nothing moves. Coarse steps learn little that is true of these rows only.
    """
    search = _OffsetSearch(log_prob(scores).T.copy(), labels, metric)
    for step in OFFSET_STEPS:
        for _ in range(MAX_SWEEPS):
            if not sum(search.move(c, change) for c in range(scores.shape[1]) for change in (step, -step)):
                break
    return tuple(np.round(search.offsets, 6).tolist())


class _OffsetSearch:
    """Offsets float64 (C,), and what they decide: shifted (C, n), log(p) + offset; first (n,), the largest's class.

    hits and predicted: see `class_counts`. A move looks only at the rows whose class it can change.
    """

    def __init__(self, shifted: np.ndarray, labels: np.ndarray, metric: Metric):
        self.shifted, self.labels, self.metric = shifted, labels, metric
        self.offsets, self.first, self.top = np.zeros(len(shifted)), shifted.argmax(axis=0), shifted.max(axis=0)
        self.hits, self.predicted, self.support = class_counts(self.first, labels, len(shifted))
        self.value = self._value(self.hits, self.predicted)

    def _value(self, hits: np.ndarray, predicted: np.ndarray) -> float:
        return round(float(self.metric.count(hits, predicted, self.support)), 12)

    def _changed(self, c: int, change: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that another offset of class c decides otherwise, and their new classes."""
        if change > 0:
            rows = np.flatnonzero((self.shifted[c] + change > self.top) & (self.first != c))
            return rows, np.full(len(rows), c)
        rows = np.flatnonzero(self.first == c)
        part = self.shifted[:, rows]
        part[c] += change
        new = part.argmax(axis=0)
        return rows[new != c], new[new != c]

    def move(self, c: int, change: float) -> bool:
        """Change the offset of class c if that is better."""
        rows, new = self._changed(c, change)
        old, labels, classes = self.first[rows], self.labels[rows], len(self.offsets)
        gained, more, _ = class_counts(new, labels, classes)
        lost, less, _ = class_counts(old, labels, classes)
        hits, predicted = self.hits + gained - lost, self.predicted + more - less
        value = self._value(hits, predicted)
        if value <= self.value:
            return False
        self.value, self.hits, self.predicted = value, hits, predicted
        self.offsets[c] += change
        self.shifted[c] += change
        self.first[rows] = new
        rows = np.union1d(rows, np.flatnonzero(self.first == c))
        self.top[rows] = self.shifted[self.first[rows], rows]
        return True


def expected_class(scores: np.ndarray) -> np.ndarray:
    """Return the sum of c * p_c, float64 (n,), of scores (n, C) whose rows sum to one."""
    return scores @ np.arange(scores.shape[1], dtype=np.float64)


def best_cuts(scores: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """Return the C - 1 rising cut points on the expected class with the largest quadratic weighted kappa.

    The pattern search of `best_offsets`, from the middles between classes; six decimals.
    """
    expected, cuts = expected_class(scores), np.arange(scores.shape[1] - 1) + 0.5
    value = -np.inf
    for step in CUT_STEPS:
        for _ in range(MAX_SWEEPS):
            before = value
            for j in range(len(cuts)):
                for change in (0.0, step, -step):
                    trial = cuts.copy()
                    trial[j] += change
                    if (np.diff(trial) < 0).any():
                        continue
                    kappa = round(quadratic_kappa(np.searchsorted(trial, expected, side="right"), labels), 12)
                    if kappa > value:
                        value, cuts = kappa, trial
            if value == before:
                break
    return tuple(np.round(cuts, 6).tolist())


def _raise_classes(scores: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """Return scores (n, C) of which the class `decided` (n,) is the largest; they sum to one as before."""
    change = np.flatnonzero(decide(scores) != decided)
    raised = scores.copy()
    raised[change, decided[change]] = _ABOVE * scores[change].max(axis=1)
    raised[change] /= raised[change].sum(axis=1, keepdims=True)
    return raised
