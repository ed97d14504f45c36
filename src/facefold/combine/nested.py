"""Honest scores: whatever was learned or chosen on out-of-fold rows is judged on rows that had no part in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facefold.combine.methods import Method
from facefold.combine.scores import Paired, paired

REAL = 0.05  # two-sided p below which a paired gain counts as real


@dataclass(frozen=True)
class Choice:
    """The method that was picked, and why in one sentence."""

    method: Method
    why: str


def predict(method: Method, prob: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Scores (n,): the rows of each fold predicted by `method` fitted on the rows of all other folds.

    prob (n, m), labels (n,), fold (n,) int with at least two values.
    """
    scores = np.empty(len(labels))
    for k in np.unique(fold):
        rest, held = fold != k, fold == k
        scores[held] = method.fit(prob[rest], labels[rest]).predict(prob[held])
    return scores


def choose(methods: Sequence[Method], nested: dict[str, np.ndarray], labels: np.ndarray) -> Choice:
    """The first of `methods` (simple to complicated) that no other beats by a real paired margin.

    `nested` holds each method's scores (n,) by name. The most accurate is never beaten, so there is always a pick.
    """
    def beaten(method: Method) -> list[tuple[Method, Paired]]:
        gains = [(other, paired(nested[other.name], nested[method.name], labels)) for other in methods if other is not method]
        return [(other, gain) for other, gain in gains if gain.gain > 0 and gain.p < REAL]

    losers: list[tuple[Method, Method, Paired]] = []
    for method in methods:
        if not (winners := beaten(method)):
            return Choice(method, _why(method, methods, losers))
        losers.append((method, *max(winners, key=lambda pair: pair[1].gain)))
    raise AssertionError("every method is beaten, which a strict order of accuracies excludes")


def predict_choice(methods: Sequence[Method], prob: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Scores (n,) of the whole procedure "choose a method, fit it": each fold by the choice the other folds made."""
    scores = np.empty(len(labels))
    for k in np.unique(fold):
        rest, held = fold != k, fold == k
        inner = fold[rest]
        if len(np.unique(inner)) < 2:
            inner = np.arange(rest.sum()) % 2  # of two folds one is left: it is halved, so that the choice stays nested
        nested = {method.name: predict(method, prob[rest], labels[rest], inner) for method in methods}
        picked = choose(methods, nested, labels[rest]).method
        scores[held] = picked.fit(prob[rest], labels[rest]).predict(prob[held])
    return scores


def _why(picked: Method, methods: Sequence[Method], losers: list[tuple[Method, Method, Paired]]) -> str:
    if len(methods) == 1:
        return f"{picked.name} was asked for."
    if not losers:
        return (f"{picked.name} is the simplest candidate and no other beats it by a real margin on the same rows "
                f"(McNemar, p < {REAL}).")
    beaten, winner, gain = losers[-1]
    return (f"{picked.name} is the simplest method that no other beats by a real margin on the same rows "
            f"(McNemar, p < {REAL}); the next simpler one, {beaten.name}, is {100 * gain.gain:.2f} points behind "
            f"{winner.name} (p = {gain.p:.2g}).")
