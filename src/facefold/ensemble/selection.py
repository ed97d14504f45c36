"""Choose the method and the decision of a blend, and compute nested scores: of rows that had no part in any choice.

Nesting covers everything that blending learns or chooses: weights, calibration, bands, stackers, method, decision. It
starts from the members' probabilities as they are. The models that predicted the rows of fold j were trained on fold k
as well, so what is learned on fold j and scored on fold k has seen the labels of fold k indirectly. To avoid that,
every model would have to be trained again for every pair of folds; this is the usual approximation of stacking (Wolpert
1992). The probabilities from features (`fit_feature_stackers`) add no leak: they depend on the labels of their own fold
alone, and for no row on its own label.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from facefold.ensemble.decisions import SIGNIFICANT, decision_kind, nested_decision
from facefold.ensemble.members import Fit, Rows, cross_predict, inner_folds
from facefold.ensemble.metrics import ACCURACY, Metric, target_metric
from facefold.ensemble.ratings import Gain
from facefold.task import LABEL, Task


@dataclass(frozen=True)
class Choice:
    """The name of the method that was chosen, and why in one sentence."""

    name: str
    why: str


def choose_method(nested: dict[str, np.ndarray], labels: np.ndarray, metric: Metric = ACCURACY) -> Choice:
    """Choose the first method that no other beats by a significant paired gain.

    nested: scores (n,) or (n, C) by the name of the method, from simple to complicated. The best method is beaten by
    none, so there is always a choice.
    """
    ratings = {name: metric.rate(scores, labels) for name, scores in nested.items()}

    def winners(name: str) -> list[tuple[str, Gain]]:
        gains = [(other, metric.gain(ratings[other], ratings[name])) for other in nested if other != name]
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
    methods: Mapping[str, Fit], rows: Rows, labels: np.ndarray, fold: np.ndarray, target: Task = LABEL
) -> np.ndarray:
    """Return scores (n,) or (n, C) of the whole procedure: choose a method, fit it, learn its decision.

    The rows of each fold are predicted by what the other folds choose.

    Args:
        methods: The candidates by name, from simple to complicated.
        rows: The n rows.
        labels: Labels or values (n,).
        fold: int (n,) with at least two values.
        target: By its metric the choice is made.
    """
    scores = np.empty((len(labels), *rows.prob.shape[2:]))
    for k in np.unique(fold):
        rest = fold != k
        scores[~rest] = _learn(methods, rows[rest], labels[rest], fold[rest], target)(rows[~rest])
    return scores


def _learn(
    methods: Mapping[str, Fit], rows: Rows, labels: np.ndarray, fold: np.ndarray, target: Task
) -> Callable[[Rows], np.ndarray]:
    """Return what predicts other rows, the chosen method with its decision; arguments as of `nested_predict`."""
    metric, inner = target_metric(target), inner_folds(fold)
    nested = {name: cross_predict(fit, rows, labels, inner) for name, fit in methods.items()}
    name = choose_method(nested, labels, metric).name
    decision, _ = nested_decision(nested[name], labels, inner, decision_kind(target), metric)
    del nested  # of many classes more than everything else
    fitted = methods[name](rows, labels, fold)
    return lambda other: decision.apply(fitted.predict(other))
