"""Honest scores: whatever was learned or chosen on out-of-fold rows is judged on rows that had no part in it.

That covers all that blending does: weights, calibration, bands, stackers, the choice of a method, the threshold. It starts from
the members' probabilities as they are: the models behind the rows of fold j were trained on fold k as well, so
what is learned on fold j and judged on fold k has seen fold k's labels at one remove. To remove that too, every
model would have to be trained anew for every pair of folds; it is the usual approximation of stacking (Wolpert 1992).
The features' answers (`stacking.stack`) add nothing to it: they know the labels of their own fold alone, and of no row its own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from facefold.ensemble.members import Rows, inner_folds
from facefold.ensemble.methods import Fitted, Method
from facefold.ensemble.metrics import Paired, compare_paired, logit

REAL = 0.05  # two-sided p below which a paired gain counts as real


@dataclass(frozen=True)
class PairedTest:
    """How two predictions of the same rows are compared. paired(a, b, labels) has a `gain` of a over b and its `p`; test: what p
    is of; shown: a gain in words; decides: whether scores decide for a label, from a threshold on."""

    paired: Callable[[np.ndarray, np.ndarray, np.ndarray], Any]
    test: str
    shown: Callable[[float], str]
    decides: bool


BY_ACCURACY = PairedTest(compare_paired, "McNemar", lambda gain: f"{100 * gain:.2f} points", decides=True)


@dataclass(frozen=True)
class Choice:
    """The method that was picked, and why in one sentence."""

    method: Method
    why: str


def cross_fit(method: Method, rows: Rows, labels: np.ndarray, fold: np.ndarray) -> Iterator[tuple[np.ndarray, Fitted]]:
    """For each fold its rows as a mask (n,), and `method` fitted on the rows of all other folds."""
    for k in np.unique(fold):
        rest = fold != k
        yield fold == k, method.fit(rows[rest], labels[rest], fold[rest])


def cross_predict(method: Method, rows: Rows, labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Scores (n,): the rows of each fold predicted by `method` fitted on the rows of all other folds.

    labels (n,), fold (n,) int with at least two values.
    """
    scores = np.empty(len(labels))
    for held, fitted in cross_fit(method, rows, labels, fold):
        scores[held] = fitted.predict(rows[held])
    return scores


def choose_method(
    methods: Sequence[Method], nested: dict[str, np.ndarray], labels: np.ndarray, by: PairedTest = BY_ACCURACY
) -> Choice:
    """The first of `methods` (simple to complicated) that no other beats by a real paired margin.

    `nested` holds each method's scores (n,) by name. The most accurate is never beaten, so there is always a pick.
    """

    def beaten(method: Method) -> list[tuple[Method, Any]]:
        gains = [
            (other, by.paired(nested[other.name], nested[method.name], labels))
            for other in methods
            if other is not method
        ]
        return [(other, gain) for other, gain in gains if gain.gain > 0 and gain.p < REAL]

    losers: list[tuple[Method, Method, Any]] = []
    for method in methods:
        if not (winners := beaten(method)):
            return Choice(method, _why(method, methods, losers, by))
        losers.append((method, *max(winners, key=lambda pair: pair[1].gain)))
    raise AssertionError("every method is beaten, which a strict order of accuracies excludes")


def nested_predict(
    methods: Sequence[Method], rows: Rows, labels: np.ndarray, fold: np.ndarray, by: PairedTest = BY_ACCURACY
) -> np.ndarray:
    """Scores (n,) of the whole procedure "choose a method, fit it, set its threshold": each fold by what the others chose."""
    scores = np.empty(len(labels))
    for k in np.unique(fold):
        rest, held = fold != k, fold == k
        inner = inner_folds(fold[rest])
        nested = {method.name: cross_predict(method, rows[rest], labels[rest], inner) for method in methods}
        picked = choose_method(methods, nested, labels[rest], by).method
        threshold = nested_threshold(nested[picked.name], labels[rest], inner)[0] if by.decides else 0.5
        scores[held] = shift_scores(picked.fit(rows[rest], labels[rest], fold[rest]).predict(rows[held]), threshold)
    return scores


def nested_threshold(scores: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> tuple[float, Paired]:
    """The threshold for nested scores (n,), and what thresholds from the other folds gain over 0.5 on each fold.

    It is 0.5 unless that gain is real; then it is the best one for all rows.
    """
    moved = np.empty(len(scores))
    for k in np.unique(fold):
        moved[fold == k] = shift_scores(scores[fold == k], best_threshold(scores[fold != k], labels[fold != k]))
    gain = compare_paired(moved, scores, labels)
    return (best_threshold(scores, labels) if gain.gain > 0 and gain.p < REAL else 0.5), gain


def best_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """The threshold with the most right decisions on scores (n,), six decimals; of equally good ones the nearest to 0.5."""
    values = np.unique(scores)
    trials = np.unique(np.round(np.append((values[1:] + values[:-1]) / 2, 0.5), 6))
    ones, zeros = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    correct = len(ones) - np.searchsorted(ones, trials) + np.searchsorted(zeros, trials)
    best = trials[correct == correct.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def shift_scores(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Scores (n,) moved along the logit so that `threshold` becomes 0.5, the only threshold of `scores.decide`."""
    return scores if threshold == 0.5 else expit(logit(scores) - logit(np.float64(threshold)))


def _why(picked: Method, methods: Sequence[Method], losers: list[tuple[Method, Method, Any]], by: PairedTest) -> str:
    if len(methods) == 1:
        return f"{picked.name} was asked for."
    if not losers:
        return (
            f"{picked.name} is the simplest candidate and no other beats it by a real margin on the same rows "
            f"({by.test}, p < {REAL})."
        )
    beaten, winner, gain = losers[-1]
    return (
        f"{picked.name} is the simplest method that no other beats by a real margin on the same rows "
        f"({by.test}, p < {REAL}); the next simpler one, {beaten.name}, is {by.shown(gain.gain)} behind "
        f"{winner.name} (p = {gain.p:.2g})."
    )
