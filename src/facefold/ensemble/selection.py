"""Choose the method and the threshold of a blend, and compute nested scores: of rows that had no part in any choice.

Nesting covers everything that blending learns or chooses: weights, calibration, bands, stackers, method, threshold. It
starts from the members' probabilities as they are. The models that predicted the rows of fold j were trained on fold k
as well, so what is learned on fold j and scored on fold k has seen the labels of fold k indirectly. To avoid that,
every model would have to be trained again for every pair of folds; this is the usual approximation of stacking (Wolpert
1992). The probabilities from features (`fit_feature_stackers`) add no leak: they depend on the labels of their own fold
alone, and for no row on its own label.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from facefold.ensemble.members import Fit, Rows, cross_predict, inner_folds
from facefold.ensemble.metrics import ACCURACY, AccuracyGain, Gain, Metric, compare_accuracy, logit

SIGNIFICANT = 0.05  # two-sided p below which a paired gain counts


@dataclass(frozen=True)
class Choice:
    """The name of the method that was chosen, and why in one sentence."""

    name: str
    why: str


def choose_method(nested: dict[str, np.ndarray], labels: np.ndarray, metric: Metric = ACCURACY) -> Choice:
    """Choose the first method that no other beats by a significant paired gain.

    nested: scores (n,) by the name of the method, from simple to complicated. The best method is beaten by none, so
    there is always a choice.
    """

    def winners(name: str) -> list[tuple[str, Gain]]:
        gains = [(other, metric.compare(nested[other], nested[name], labels)) for other in nested if other != name]
        return [(other, gain) for other, gain in gains if gain.gain > 0 and gain.p < SIGNIFICANT]

    reason = (
        " is the simplest candidate and no other beats it by a real margin on the same rows "
        f"({metric.test}, p < {SIGNIFICANT})."
    )
    for name in nested:
        if not (better := winners(name)):
            return Choice(name, f"{name} was asked for." if len(nested) == 1 else name + reason)
        winner, gain = max(better, key=lambda pair: pair[1].gain)
        reason = (
            " is the simplest method that no other beats by a real margin on the same rows "
            f"({metric.test}, p < {SIGNIFICANT}); the next simpler one, {name}, is {metric.format_gain(gain.gain)} "
            f"behind {winner} (p = {gain.p:.2g})."
        )
    raise AssertionError("every method is beaten, which a strict order of the scores excludes")


def nested_predict(
    methods: Mapping[str, Fit], rows: Rows, labels: np.ndarray, fold: np.ndarray, metric: Metric = ACCURACY
) -> np.ndarray:
    """Return scores (n,) of the whole procedure: choose a method, fit it, set its threshold.

    The rows of each fold are predicted by what the other folds choose.

    Args:
        methods: The candidates by name, from simple to complicated.
        rows: The n rows.
        labels: Labels or values (n,).
        fold: int (n,) with at least two values.
        metric: What the choice is made by.
    """
    scores = np.empty(len(labels))
    for k in np.unique(fold):
        rest, held_out = fold != k, fold == k
        inner = inner_folds(fold[rest])
        nested = {name: cross_predict(fit, rows[rest], labels[rest], inner) for name, fit in methods.items()}
        name = choose_method(nested, labels[rest], metric).name
        threshold = nested_threshold(nested[name], labels[rest], inner)[0] if metric.decides else 0.5
        fitted = methods[name](rows[rest], labels[rest], fold[rest])
        scores[held_out] = shift_scores(fitted.predict(rows[held_out]), threshold)
    return scores


def nested_threshold(scores: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> tuple[float, AccuracyGain]:
    """Return the threshold for nested scores (n,), and what thresholds from the other folds gain over 0.5.

    It is 0.5 unless that gain is significant; then it is the best one for all rows.
    """
    shifted = np.empty(len(scores))
    for k in np.unique(fold):
        shifted[fold == k] = shift_scores(scores[fold == k], best_threshold(scores[fold != k], labels[fold != k]))
    gain = compare_accuracy(shifted, scores, labels)
    return (best_threshold(scores, labels) if gain.gain > 0 and gain.p < SIGNIFICANT else 0.5), gain


def best_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the threshold with the most correct decisions, six decimals; of equal ones the nearest to 0.5."""
    values = np.unique(scores)
    trials = np.unique(np.round(np.append((values[1:] + values[:-1]) / 2, 0.5), 6))
    ones, zeros = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    correct = len(ones) - np.searchsorted(ones, trials) + np.searchsorted(zeros, trials)
    best = trials[correct == correct.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def shift_scores(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Shift scores (n,) on the logit scale so that `threshold` becomes 0.5, the threshold of `decide`."""
    return scores if threshold == 0.5 else expit(logit(scores) - logit(np.float64(threshold)))
