"""A second look at the rows the mean is unsure of: a specialist decides them, the others keep their answer."""

from dataclasses import dataclass

import numpy as np

from facefold.ensemble.calibration import LogisticModel, fit_logistic
from facefold.ensemble.members import Rows, inner_folds
from facefold.ensemble.metrics import decide, logit

HALVES = (0.0, 0.05, 0.1, 0.2, 0.3)  # half the width of the band around 0.5; 0: no row is doubtful


@dataclass(frozen=True)
class SecondPassFit:
    """half: of the band; specialist: on the members' logits and the features' answer, (m + 1) inputs."""

    half: float
    specialist: LogisticModel | None

    @property
    def weights(self) -> np.ndarray:
        return np.empty(0)

    @property
    def notes(self) -> dict:
        if self.specialist is None:
            return {"band": [0.5, 0.5]}
        return {
            "band": [0.5 - self.half, 0.5 + self.half],
            "coef": self.specialist.coef.tolist(),
            "shift": self.specialist.shift,
        }

    def doubtful(self, rows: Rows) -> np.ndarray:
        """bool (n,): whom the specialist decides."""
        return _doubtful(first_pass(rows), self.half)

    def predict(self, rows: Rows) -> np.ndarray:
        prob, doubtful = first_pass(rows), self.doubtful(rows)
        if self.specialist is not None:
            prob[doubtful] = self.specialist.predict(_inputs(rows[doubtful]))
        return prob


@dataclass(frozen=True)
class SecondPass:
    """The mean; rows in a band around 0.5 go to a logistic regression trained on such rows of the other folds.

    The specialist sees the members' logits and, in place of the features, the answer that the stacker of the row's own
    fold makes of them: raw features of different folds cannot be pooled (see `stacking`), and the doubtful rows of a
    single fold are too few. The band is the one with the most right decisions on folds that did not train its
    specialist; equal goes to the narrower, and no band at all is a candidate.
    """

    name: str = "second_pass"

    def fit(self, rows: Rows, labels: np.ndarray, fold: np.ndarray) -> SecondPassFit:
        inner = inner_folds(fold)
        correct = {half: _cross_fitted_correct(rows, labels, inner, half) for half in HALVES}
        half = max(HALVES, key=lambda half: (correct[half], -half))
        return _fit(rows, labels, half)


def first_pass(rows: Rows) -> np.ndarray:
    """What decides the rows that are not doubtful: the mean probability (n,)."""
    return rows.prob.mean(axis=1)


def _fit(rows: Rows, labels: np.ndarray, half: float) -> SecondPassFit:
    doubtful = _doubtful(first_pass(rows), half)
    specialist = fit_logistic(_inputs(rows[doubtful]), labels[doubtful]) if doubtful.any() else None
    return SecondPassFit(half, specialist)


def _cross_fitted_correct(rows: Rows, labels: np.ndarray, fold: np.ndarray, half: float) -> int:
    correct = 0
    for k in np.unique(fold):
        rest, held = fold != k, fold == k
        correct += int((decide(_fit(rows[rest], labels[rest], half).predict(rows[held])) == labels[held]).sum())
    return correct


def _doubtful(prob: np.ndarray, half: float) -> np.ndarray:
    return np.abs(prob - 0.5) < half


def _inputs(rows: Rows) -> np.ndarray:
    return logit(np.column_stack([rows.prob, rows.stacked]))
