"""Rescale each member before the mean, to its ranks or to calibrated probabilities; and logistic regression."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from sklearn import config_context
from sklearn.linear_model import LogisticRegression

from facefold.ensemble.members import Fitted, Rows, inner_folds
from facefold.ensemble.memo import keep_results
from facefold.ensemble.scores import log_loss, logit

CALIBRATION_C = 100.0  # inverse strength of a calibration's ridge, which a few dozen rows feel and more do not
KINDS = ("none", "temperature", "platt")  # from simple to complicated


@dataclass(frozen=True)
class LogisticModel:
    """A logistic regression: the probability of label 1 is expit(x @ coef + shift); coef float64 (f,)."""

    coef: np.ndarray
    shift: float

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return probabilities float64 (n,) for x (n, f)."""
        return expit(x @ self.coef + self.shift)


def fit_logistic(x: np.ndarray, labels: np.ndarray, c: float = 1.0, intercept: bool = True) -> LogisticModel:
    """Fit a logistic regression of labels (n,) on x (n, f).

    If only one class occurs, nothing can be learned but its share: coefficients 0 and the logit of (ones + 1) / (n +
    2). Six decimals are kept, more than the rows can distinguish.

    Args:
        x: float64 (n, f).
        labels: int (n,) of 0 and 1.
        c: The L2 penalty is |coef|^2 / 2c against the sum of the losses.
        intercept: Whether to fit a shift.
    """
    return _fit_logistic(x, labels, c, intercept)


@keep_results
def _fit_logistic(x: np.ndarray, labels: np.ndarray, c: float, intercept: bool) -> LogisticModel:
    if len(np.unique(labels)) < 2:
        shift = float(logit((labels.sum() + 1) / (len(labels) + 2))) if intercept else 0.0
        return LogisticModel(np.zeros(x.shape[1]), shift)
    model = LogisticRegression(C=c, fit_intercept=intercept, solver="newton-cholesky", tol=1e-8, max_iter=1000)
    with config_context(assume_finite=True, skip_parameter_validation=True):  # thousands of small fits, mostly checks
        model.fit(x, labels)
    return LogisticModel(np.round(model.coef_[0], 6).astype(np.float64), round(float(np.ravel(model.intercept_)[0]), 6))


def cross_fitted(
    x: np.ndarray, labels: np.ndarray, fold: np.ndarray, c: float = 1.0, intercept: bool = True
) -> np.ndarray:
    """Return probabilities (n,): each fold of x (n, f) is predicted by a logistic regression on the others.

    Args:
        x: float64 (n, f).
        labels: int (n,) of 0 and 1.
        fold: int (n,).
        c: As for `fit_logistic`.
        intercept: As for `fit_logistic`.
    """
    prob = np.empty(len(labels))
    for k in np.unique(fold):
        held_out = fold == k
        prob[held_out] = fit_logistic(x[~held_out], labels[~held_out], c, intercept).predict(x[held_out])
    return prob


def fit_rank_mean(rows: Rows, labels: np.ndarray, fold: np.ndarray) -> Fitted:
    """Learn to average the members' ranks among these rows.

    A rank is stretched on either side so that 0.5 stays 0.5: one member alone decides as before, and classes of unequal
    size need no other threshold. Ranks are uniform in 0..1, so the log loss of this method has no meaning.
    """
    reference = np.sort(rows.prob, axis=0)
    below = (reference < 0.5).mean(axis=0)

    def predict(rows: Rows) -> np.ndarray:
        return np.mean([_rank(*column) for column in zip(rows.prob.T, reference.T, below, strict=True)], axis=0)

    return Fitted(predict, np.ones(rows.prob.shape[1]))


def _rank(prob: np.ndarray, reference: np.ndarray, below: float) -> np.ndarray:
    """Return the rank in 0..1 of prob (n,) in reference, sorted, of which the share `below` is less than 0.5."""
    between = np.searchsorted(reference, prob, "left") + np.searchsorted(reference, prob, "right")
    share = between / (2 * len(reference))  # ties share their mean rank
    low = 0.5 * np.minimum(share, below) / below if below > 0 else np.zeros(len(prob))
    high = 0.5 + 0.5 * np.maximum(share - below, 0) / (1 - below) if below < 1 else np.full(len(prob), 0.5)
    return np.where(prob >= 0.5, high, np.minimum(low, np.nextafter(0.5, 0)))


def fit_calibrated_mean(rows: Rows, labels: np.ndarray, fold: np.ndarray) -> Fitted:
    """Learn to average calibrated probabilities.

    Each member stays as it is, or is calibrated with a temperature (Guo et al. 2017) or by Platt (1999), by its log
    loss on folds that did not fit it; equal ones go to the simpler.
    """
    calibrations = [_calibrate(column, labels, inner_folds(fold)) for column in rows.prob.T]
    kinds, slopes, shifts = zip(*calibrations, strict=True)

    def predict(rows: Rows) -> np.ndarray:
        return expit(logit(rows.prob) * np.array(slopes) + np.array(shifts)).mean(axis=1)

    notes = {"calibration": list(kinds), "slopes": list(slopes), "shifts": list(shifts)}
    return Fitted(predict, np.ones(len(kinds)), notes)


def _calibrate(prob: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> tuple[str, float, float]:
    """Return the kind, slope and shift that suit prob (n,) to labels (n,)."""
    x = logit(prob)[:, None]
    losses = {"none": log_loss(prob, labels)}
    for kind in KINDS[1:]:
        losses[kind] = log_loss(cross_fitted(x, labels, fold, CALIBRATION_C, kind == "platt"), labels)
    chosen = min(KINDS, key=lambda kind: round(losses[kind], 9))
    if chosen == "none":
        return chosen, 1.0, 0.0
    model = fit_logistic(x, labels, CALIBRATION_C, chosen == "platt")
    return chosen, float(model.coef[0]), model.shift
