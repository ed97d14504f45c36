"""A second pass over the rows that the mean is unsure of: a specialist decides them, the others stay as they are."""

from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from facefold.ensemble.calibration import LogisticModel, fit_logistic
from facefold.ensemble.members import Fit, Rows, cross_fit, cross_predict, inner_folds
from facefold.ensemble.metrics import ACCURACY
from facefold.ensemble.scores import decide, logit, score_decisions

HALF_WIDTHS = (0.0, 0.05, 0.1, 0.2, 0.3)  # of the band around 0.5; with 0 no row is doubtful


@dataclass(frozen=True)
class SecondPassFit:
    """A `Fitted`. half_width: of the band; specialist: on the logits of the members and of `stacked`, m + 1 inputs."""

    half_width: float
    specialist: LogisticModel | None

    weights = np.empty(0)

    @property
    def notes(self) -> dict:
        if self.specialist is None:
            return {"band": [0.5, 0.5]}
        return {
            "band": [0.5 - self.half_width, 0.5 + self.half_width],
            "coef": self.specialist.coef.tolist(),
            "shift": self.specialist.shift,
        }

    def doubtful(self, rows: Rows) -> np.ndarray:
        """Return bool (n,): the rows that the specialist decides."""
        return np.abs(first_pass(rows) - 0.5) < self.half_width

    def predict(self, rows: Rows) -> np.ndarray:
        prob, doubtful = first_pass(rows), self.doubtful(rows)
        if self.specialist is not None:
            prob[doubtful] = self.specialist.predict(_inputs(rows[doubtful]))
        return prob


def fit_second_pass(rows: Rows, labels: np.ndarray, fold: np.ndarray) -> SecondPassFit:
    """Learn a band around 0.5, and a logistic regression for the rows in it; the others keep their mean.

    The specialist gets the members' logits and, instead of the features, the probability that the stacker of the row's
    own fold computes from them: raw features of different folds cannot be pooled (see `stacking`), and a single fold
    has too few doubtful rows. The band is the one with the most correct decisions on folds that did not train its
    specialist; equal ones go to the narrower, and no band at all is a candidate.
    """
    inner = inner_folds(fold)
    scores = {width: cross_predict(partial(_fit, half_width=width), rows, labels, inner) for width in HALF_WIDTHS}
    correct = {width: (decide(scores[width]) == labels).sum() for width in HALF_WIDTHS}
    return _fit(rows, labels, inner, max(HALF_WIDTHS, key=lambda width: (correct[width], -width)))


def first_pass(rows: Rows) -> np.ndarray:
    """Return the mean probability (n,), which decides the rows that are not doubtful."""
    return rows.prob.mean(axis=1)


def _fit(rows: Rows, labels: np.ndarray, _fold: np.ndarray, half_width: float) -> SecondPassFit:
    """Fit the specialist of a band: a `Fit` that needs no folds."""
    doubtful = SecondPassFit(half_width, None).doubtful(rows)
    specialist = fit_logistic(_inputs(rows[doubtful]), labels[doubtful]) if doubtful.any() else None
    return SecondPassFit(half_width, specialist)


def _inputs(rows: Rows) -> np.ndarray:
    return logit(np.column_stack([rows.prob, rows.stacked]))


def second_pass_report(after: np.ndarray, rows: Rows, labels: np.ndarray, fold: np.ndarray, fit: Fit) -> dict:
    """Return how many rows the second pass doubts, their accuracy before and after it, and the paired gain.

    Each accuracy is {accuracy, low, high}; the result is {rows: 0} alone if no row is doubtful.

    Args:
        after: The nested scores of the second pass, (n,) or (n, C).
        rows: The n rows.
        labels: int (n,).
        fold: int (n,). A row is doubtful if the fit on the other folds says so.
        fit: The second pass.
    """
    doubtful = np.zeros(len(labels), bool)
    for held_out, fitted in cross_fit(fit, rows, labels, fold):
        doubtful[held_out] = fitted.doubtful(rows[held_out])
    count, before = int(doubtful.sum()), first_pass(rows)
    if count == 0:
        return {"rows": 0}
    before, after, labels = before[doubtful], after[doubtful], labels[doubtful]
    return {
        "rows": count,
        "before": score_decisions(decide(before) == labels),
        "after": score_decisions(decide(after) == labels),
        "gain": asdict(ACCURACY.compare(after, before, labels)),
    }
