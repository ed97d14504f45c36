"""Softmax regressions of more than two classes: tied ones on the members' log probabilities, free ones on features.

Tied means one weight per member instead of one per member and class: class c gets sum_m w_m log p_mc + b_c, so that 4
members and 120 classes need 124 numbers. The loss is convex, and its second derivatives are exact, so few iterations
reach six decimals whatever the processor's sums.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from facefold.ensemble.calibration import CALIBRATION_C
from facefold.ensemble.members import Fitted, Rows
from facefold.ensemble.scores import class_prob, log_prob

MAX_GRADIENT = 1e-8  # of the mean loss, at which the search ends ..
_FAILED_GRADIENT = 1e-5  # .. and above which it has failed
CHUNK = 512  # rows at a time, whose numbers stay in the processor's cache
MAX_ROUNDS = 1000  # of the free regression


@dataclass(frozen=True)
class TiedSoftmax:
    """weights float64 (q,), one per input; shift float64 (C,)."""

    weights: np.ndarray
    shift: np.ndarray

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return probabilities float64 (n, C) for the log probabilities (q, n, C)."""
        return class_prob(np.tensordot(self.weights, inputs, 1) + self.shift)


def fit_tied_softmax(inputs: np.ndarray, labels: np.ndarray, c: float = 1.0, intercept: bool = True) -> TiedSoftmax:
    """Fit a tied softmax regression of labels (n,) on log probabilities (q, n, C); six decimals.

    Args:
        inputs: float64 (q, n, C).
        labels: int (n,) in 0..C-1.
        c: The L2 penalty is (|weights|^2 + |shift|^2) / 2c against the sum of the losses.
        intercept: Whether to fit a shift.
    """
    problem = _TiedProblem(inputs, labels, c, intercept)
    start = np.concatenate([np.full(len(inputs), 1 / len(inputs)), np.zeros(problem.shifts)])
    options = {"gtol": MAX_GRADIENT}
    with threadpool_limits(1):  # products of one chunk are too small to share
        found = minimize(problem.loss, start, jac=True, hess=problem.curvature, method="trust-exact", options=options)
    if np.abs(found.jac).max() > _FAILED_GRADIENT:
        raise RuntimeError(f"a softmax regression on {len(inputs)} inputs did not converge: {found.message}")
    values = np.round(found.x, 6) + 0.0
    shift = values[len(inputs) :] if intercept else np.zeros(inputs.shape[2])
    return TiedSoftmax(values[: len(inputs)], shift)


class _TiedProblem:
    """The mean loss of a tied softmax regression with its derivatives; parameters are the weights, then the shifts."""

    def __init__(self, inputs: np.ndarray, labels: np.ndarray, c: float, intercept: bool):
        self.inputs, self.rows, self.penalty = inputs, len(labels), 1 / (c * len(labels))
        self.shifts = inputs.shape[2] if intercept else 0
        own = [x[np.arange(len(labels)), labels].sum() for x in inputs]
        self.own = np.concatenate([own, np.bincount(labels, minlength=inputs.shape[2])[: self.shifts]])
        self.last, self.results = None, ()

    def loss(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        return self._evaluate(parameters)[:2]

    def curvature(self, parameters: np.ndarray) -> np.ndarray:
        return self._evaluate(parameters)[2]

    def _evaluate(self, parameters: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Return loss, gradient and second derivatives; those of the last parameters are kept."""
        if self.last is None or not np.array_equal(parameters, self.last):
            value, gradient, matrix = 0.0, np.zeros(len(parameters)), np.zeros((len(parameters),) * 2)
            for first in range(0, self.rows, CHUNK):
                value += self._add_rows(slice(first, first + CHUNK), parameters, gradient, matrix)
            value = (value - self.own @ parameters) / self.rows + self.penalty / 2 * parameters @ parameters
            gradient = (gradient - self.own) / self.rows + self.penalty * parameters
            matrix = matrix / self.rows + self.penalty * np.eye(len(parameters))
            self.last, self.results = parameters.copy(), (float(value), gradient, matrix)
        return self.results

    def _add_rows(self, rows: slice, parameters: np.ndarray, gradient: np.ndarray, matrix: np.ndarray) -> float:
        """Add what some rows contribute to the derivatives, and return the sum of their log denominators."""
        inputs, count = self.inputs[:, rows], len(self.inputs)
        prob = np.tensordot(parameters[:count], inputs, 1)
        if self.shifts:
            prob += parameters[count:]
        top = prob.max(axis=1, keepdims=True)
        np.exp(np.subtract(prob, top, out=prob), out=prob)
        total = prob.sum(axis=1, keepdims=True)
        prob /= total
        products = prob * inputs  # (q, rows, C)
        means = products.sum(axis=2)
        gradient[:count] += means.sum(axis=1)
        flat = inputs.reshape(count, -1)
        matrix[:count, :count] += products.reshape(count, -1) @ flat.T - means @ means.T
        if self.shifts:
            gradient[count:] += prob.sum(axis=0)
            mixed = products.sum(axis=1) - means @ prob
            matrix[:count, count:] += mixed
            matrix[count:, :count] += mixed.T
            matrix[count:, count:] += np.diag(prob.sum(axis=0)) - prob.T @ prob
        return float((np.log(total) + top).sum())


def member_logs(prob: np.ndarray) -> np.ndarray:
    """Return log p of prob (n, m, C) as float64 (m, n, C)."""
    return log_prob(np.moveaxis(prob, 1, 0))


def fit_class_stack_probs(rows: Rows, labels: np.ndarray, fold: np.ndarray) -> Fitted:
    """Fit a tied softmax regression on the members' log probabilities, which have one meaning in all folds."""
    model = fit_tied_softmax(member_logs(rows.prob), labels)
    notes = {"shift": model.shift.tolist()}
    return Fitted(lambda rows: model.predict(member_logs(rows.prob)), model.weights, notes)


def fit_class_calibrated_mean(rows: Rows, labels: np.ndarray, fold: np.ndarray) -> Fitted:
    """Learn to average probabilities that are calibrated with a temperature per member (Guo et al. 2017)."""
    members = range(rows.prob.shape[1])
    slopes = [_fit_slope(log_prob(rows.prob[:, j]), labels) for j in members]

    def predict(rows: Rows) -> np.ndarray:
        return sum(class_prob(slopes[j] * log_prob(rows.prob[:, j])) for j in members) / len(slopes)

    return Fitted(predict, np.ones(len(slopes)), {"slopes": slopes})


def _fit_slope(logs: np.ndarray, labels: np.ndarray) -> float:
    """Return the factor, one over the temperature, that suits log probabilities (n, C) to labels (n,)."""
    return float(fit_tied_softmax(logs[None], labels, CALIBRATION_C, intercept=False).weights[0])


def predict_classes(x: np.ndarray, labels: np.ndarray, other: np.ndarray, classes: int) -> np.ndarray:
    """Fit a softmax regression (L2 penalty 1) of labels (n,) on x (n, f), and return its float64 (t, C) of `other`.

    A class without a row gets the probability 1 / (n + C), so each does if there are no rows.

    Args:
        x: float64 (n, f).
        labels: int (n,) in 0..C-1.
        other: float64 (t, f).
        classes: C.
    """
    known = np.unique(labels)
    prob = np.full((len(other), classes), 1 / (len(labels) + classes))
    share = 1 - (classes - len(known)) / (len(labels) + classes)
    if len(known) < 2:
        prob[:, known] = share
        return prob
    model = LogisticRegression(C=1.0, tol=1e-6, max_iter=MAX_ROUNDS)
    with config_context(assume_finite=True, skip_parameter_validation=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what it has after that many rounds is as good a stacker
        model.fit(x, labels)
    prob[:, known] = share * (model.predict_proba(other))
    return prob


def cross_fitted_classes(x: np.ndarray, labels: np.ndarray, fold: np.ndarray, classes: int) -> np.ndarray:
    """Return probabilities (n, C): each fold (n,) of x (n, f) is predicted by `predict_classes` from the others."""
    prob = np.empty((len(labels), classes))
    for k in np.unique(fold):
        held_out = fold == k
        prob[held_out] = predict_classes(x[~held_out], labels[~held_out], x[held_out], classes)
    return prob
