"""Stackers: logistic regression on what the members say, and on what they see (their penultimate features).

The features of two fold models live in different bases: axis 7 of the one has nothing to do with axis 7 of the other, so a
stacker trained on features pooled over folds learns from a mixture of unrelated numbers. Hence one stacker a fold, trained
on that fold's held-out rows only, whose features its own model made without having trained on them. Its answers for
these rows are cross-fitted inside the fold (groups undivided), its answers for the test rows start from the features that
the same fold's model made of them, and the mean over folds is the test prediction. (A backbone frozen in full would have
one basis in all folds and could pool; no recipe has one.)

What is honest about it: the answer for a row was learned from other rows of its own fold and from no other fold, and never
from the row itself. So the answers are one more column beside the members' probabilities, the same whichever folds
an outer loop holds out, and computed once: a method that learns from this column on some folds and predicts another has
not used the label of any row that it predicts for that row. One exception, which reaches no score: where two folds are all there is, the choice
of `auto` halves the fold that is left, and the column of one half has then learned from the other.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from facefold.ensemble.calibration import LogisticModel, fit_logistic
from facefold.ensemble.members import OofMatrix, Rows
from facefold.ensemble.metrics import logit

COMPONENTS = 64  # principal components kept of a fold's features ..
ROWS_A_COMPONENT = 8  # .. but no more than one for so many rows
FAR = 10.0  # standard deviations
PARTS = 5  # of a fold, for cross-fitting inside it
_SEED = 0

FeatureLoader = Callable[[int, str, list[str]], np.ndarray]


@dataclass(frozen=True)
class Stacked:
    """Probabilities of label 1 from features: oof float64 (n,), cross-fitted; test float64 (t,), the mean over folds."""

    oof: np.ndarray
    test: np.ndarray


def fit_feature_stackers(matrix: OofMatrix, features: FeatureLoader) -> Stacked:
    """Train a stacker a fold on the members' features and logits and let it answer for that fold's rows and the test rows.

    `features(fold, part, ids)` gives float32 (len(ids), F); part is oof or test (see `members.features`).
    One fold's features are in memory at a time. One thread, six decimals: the same bytes on any number of cores.
    """
    with threadpool_limits(1):
        return _stack(matrix, features)


def _stack(matrix: OofMatrix, features: FeatureLoader) -> Stacked:
    oof, test = np.empty(len(matrix.ids)), []
    for k in np.unique(matrix.fold):
        held = np.flatnonzero(matrix.fold == k)
        labels = matrix.labels[held]
        own, other = _reduced(
            features(int(k), "oof", [matrix.ids[i] for i in held]), features(int(k), "test", matrix.test_ids)
        )
        own = np.hstack([own, logit(matrix.prob[held])])
        other = np.hstack([other, logit(matrix.fold_test_prob[k])])
        oof[held] = cross_fitted(own, labels, split_parts(labels, matrix.group[held]))
        test.append(fit_logistic(own, labels).predict(other))
    return Stacked(np.round(oof, 6), np.round(np.mean(test, axis=0), 6))


def cross_fitted(x: np.ndarray, labels: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Probabilities (n,): the rows of each part predicted from x (n, f) by a logistic regression on the other parts."""
    prob = np.empty(len(labels))
    for number in np.unique(part):
        held = part == number
        prob[held] = fit_logistic(x[~held], labels[~held]).predict(x[held])
    return prob


def split_parts(labels: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Deal rows to `PARTS` parts, int64 (n,): equal shares of the labels, a group (n,) never divided. A fixed seed."""
    names, first, member = np.unique(group, return_index=True, return_inverse=True)
    order = np.lexsort([np.random.default_rng(_SEED).random(len(names)), labels[first]])
    part = np.empty(len(names), dtype=np.int64)
    part[order] = np.arange(len(names)) % PARTS
    return part[member.reshape(-1)]


def _reduced(own: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardised principal components, fitted on own (n, F), of own and other (t, F); the first has variance 1.

    No labels take part. Constant features are left out; without others there are no components. Values beyond `FAR`
    standard deviations count as that: a unit that is silent on all rows but one must not decide a test row alone.
    """
    spread = own.std(axis=0, dtype=np.float64)
    varied = spread > 1e-6
    count = min(COMPONENTS, len(own) // ROWS_A_COMPONENT, int(varied.sum()))
    if count == 0:
        return np.empty((len(own), 0)), np.empty((len(other), 0))
    mean, spread = own[:, varied].mean(axis=0, dtype=np.float64), spread[varied]
    own, other = (np.clip((part[:, varied] - mean) / spread, -FAR, FAR) for part in (own, other))
    # In float64 and by the covariance: a randomised float32 solver gave other digits with another number of threads.
    pca = PCA(count, svd_solver="covariance_eigh").fit(own)
    axes = (pca.components_ / np.sqrt(pca.explained_variance_[0])).T  # (F, count)
    return own @ axes, other @ axes


@dataclass(frozen=True)
class StackFit:
    """weights: the coefficients of the members' logits (m,)."""

    line: LogisticModel
    notes: dict = field(default_factory=dict)

    @property
    def weights(self) -> np.ndarray:
        return self.line.coef

    def predict(self, rows: Rows) -> np.ndarray:
        return self.line.predict(logit(rows.prob))


@dataclass(frozen=True)
class StackProbs:
    """Logistic regression on the members' logits, which have one meaning in every fold and are pooled."""

    name: str = "stack_probs"

    def fit(self, rows: Rows, labels: np.ndarray, fold: np.ndarray) -> StackFit:
        return StackFit(fit_logistic(logit(rows.prob), labels))


@dataclass(frozen=True)
class StackedFit:
    weights: np.ndarray = field(default_factory=lambda: np.empty(0))
    notes: dict = field(default_factory=dict)

    def predict(self, rows: Rows) -> np.ndarray:
        return rows.stacked


@dataclass(frozen=True)
class StackFeatures:
    """The answers of `stack` as they are: nothing is left to learn from other folds."""

    name: str = "stack_features"

    def fit(self, rows: Rows, labels: np.ndarray, fold: np.ndarray) -> StackedFit:
        return StackedFit()
