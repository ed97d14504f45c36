"""Each member on a better scale before the mean is taken: its ranks, or a calibrated probability; and logistic regression."""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import expit
from sklearn import config_context
from sklearn.linear_model import LogisticRegression

from facefold.ensemble.members import Rows, inner_folds
from facefold.ensemble.metrics import log_loss, logit, row_losses

KINDS = ("none", "temperature", "platt")  # from simple to complicated


@dataclass(frozen=True)
class LogisticModel:
    """A logistic regression: the probability of label 1 is expit(x @ coef + shift); coef float64 (f,)."""

    coef: np.ndarray
    shift: float

    def predict(self, x: np.ndarray) -> np.ndarray:
        """float64 (n,) for x (n, f)."""
        return expit(x @ self.coef + self.shift)


def fit_logistic(x: np.ndarray, labels: np.ndarray, c: float = 1.0, intercept: bool = True) -> LogisticModel:
    """Logistic regression of labels (n,) on x (n, f), with the L2 penalty |coef|^2 / 2c against the sum of the losses.

    Where only one class occurs nothing can be learned but its share: coefficients 0 and the logit of (ones + 1) / (n + 2).
    Six decimals are kept, more than the rows can tell apart.
    """
    if len(np.unique(labels)) < 2:
        return LogisticModel(
            np.zeros(x.shape[1]), float(logit((labels.sum() + 1) / (len(labels) + 2))) if intercept else 0.0
        )
    model = LogisticRegression(C=c, fit_intercept=intercept, solver="newton-cholesky", tol=1e-8, max_iter=1000)
    with config_context(assume_finite=True, skip_parameter_validation=True):  # thousands of small fits, mostly checks
        model.fit(x, labels)
    return LogisticModel(np.round(model.coef_[0], 6).astype(np.float64), round(float(np.ravel(model.intercept_)[0]), 6))


@dataclass(frozen=True)
class RankFit:
    """reference: float64 (n, m), each member's probabilities sorted; middle: (m,), the share of them below 0.5."""

    weights: np.ndarray
    reference: np.ndarray
    middle: np.ndarray
    notes: dict = field(default_factory=dict)

    def predict(self, rows: Rows) -> np.ndarray:
        return np.mean(
            [_rank(rows.prob[:, j], self.reference[:, j], middle) for j, middle in enumerate(self.middle)], axis=0
        )


@dataclass(frozen=True)
class RankMean:
    """The mean of the members' ranks among the rows learned from.

    A rank is stretched on either side so that 0.5 stays 0.5: one member alone decides as it did, and classes of unequal
    size need no other threshold. Ranks are even over 0..1, so the log loss of this method says nothing.
    """

    name: str = "rank_mean"

    def fit(self, rows: Rows, labels: np.ndarray, fold: np.ndarray) -> RankFit:
        reference = np.sort(rows.prob, axis=0)
        return RankFit(np.ones(rows.prob.shape[1]), reference, (reference < 0.5).mean(axis=0))


def _rank(prob: np.ndarray, reference: np.ndarray, middle: float) -> np.ndarray:
    between = np.searchsorted(reference, prob, "left") + np.searchsorted(reference, prob, "right")
    share = between / (2 * len(reference))  # ties share their mean rank
    low = 0.5 * np.minimum(share, middle) / middle if middle > 0 else np.zeros(len(prob))
    high = 0.5 + 0.5 * np.maximum(share - middle, 0) / (1 - middle) if middle < 1 else np.full(len(prob), 0.5)
    return np.where(prob >= 0.5, high, np.minimum(low, np.nextafter(0.5, 0)))


@dataclass(frozen=True)
class CalibratedFit:
    """scales: for each member what was chosen and its slope and shift on the logit."""

    weights: np.ndarray
    kinds: tuple[str, ...]
    slopes: np.ndarray
    shifts: np.ndarray

    @property
    def notes(self) -> dict:
        return {"calibration": list(self.kinds), "slopes": self.slopes.tolist(), "shifts": self.shifts.tolist()}

    def predict(self, rows: Rows) -> np.ndarray:
        return expit(logit(rows.prob) * self.slopes + self.shifts).mean(axis=1)


@dataclass(frozen=True)
class CalibratedMean:
    """The mean of calibrated probabilities: each member as it is, with a temperature (Guo et al. 2017) or by Platt (1999).

    Which of the three is chosen for each member by its log loss on folds that did not fit it; equal goes to the simpler.
    """

    name: str = "calibrated_mean"

    def fit(self, rows: Rows, labels: np.ndarray, fold: np.ndarray) -> CalibratedFit:
        fitted = [_calibrate(column, labels, inner_folds(fold)) for column in rows.prob.T]
        kinds, slopes, shifts = zip(*fitted, strict=True)
        return CalibratedFit(np.ones(len(fitted)), kinds, np.array(slopes), np.array(shifts))


def _calibrate(prob: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> tuple[str, float, float]:
    x = logit(prob)[:, None]

    def fit(kind: str, which: np.ndarray) -> LogisticModel:
        return fit_logistic(x[which], labels[which], c=100.0, intercept=kind == "platt")

    losses = {"none": log_loss(prob, labels)}
    for kind in KINDS[1:]:
        held = [row_losses(fit(kind, fold != k).predict(x[fold == k]), labels[fold == k]) for k in np.unique(fold)]
        losses[kind] = float(np.concatenate(held).mean())
    chosen = min(KINDS, key=lambda kind: round(losses[kind], 9))
    if chosen == "none":
        return chosen, 1.0, 0.0
    line = fit(chosen, np.ones(len(x), bool))
    return chosen, float(line.coef[0]), line.shift
