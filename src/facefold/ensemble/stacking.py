"""Stackers: linear models of the members' predictions, and of their penultimate features.

The features of two fold models live in different bases: axis 7 of one has nothing to do with axis 7 of the other, so a
stacker trained on features pooled over folds learns from a mixture of unrelated numbers. Hence one stacker per fold,
trained on the held-out rows of that fold, whose features come from the one model that did not train on them. Its
probabilities for these rows are cross-fitted inside the fold (groups undivided). Its probabilities for the test rows
start from the features that the same fold's model computes, and the mean over folds is the test prediction. (A backbone
frozen as a whole has one basis in all folds and could pool; there is one rule for all members instead.)

The probability of a row is learned from other rows of its own fold, never from the row itself, and from no other fold.
So it is one more column next to the members' probabilities, the same for any folds that an outer loop holds out, and is
computed once: a method that learns from this column on some folds and predicts another has not used the label of any
row that it predicts for that row. There is one exception, which reaches no score: with two folds in all, the choice of
`auto` halves the fold that is left, and the column of one half was then learned from the other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from facefold.ensemble.calibration import cross_fitted, fit_logistic
from facefold.ensemble.class_stacking import cross_fitted_classes, predict_classes
from facefold.ensemble.members import Fitted, OofMatrix, Rows
from facefold.ensemble.scores import log_prob, logit

COMPONENTS = 64  # principal components of a fold's features, at most ..
ROWS_PER_COMPONENT = 8  # .. one for so many rows
BLOCK = 4096  # test rows that are standardised at a time
MAX_DEVIATIONS = 10.0  # standard deviations
INNER_FOLDS = 5  # for cross-fitting inside a fold
_SEED = 0

FeatureLoader = Callable[[int, str, list[str]], np.ndarray]


@dataclass(frozen=True)
class Stacked:
    """Probabilities from features, float64: oof (n,) or (n, C), cross-fitted; test (t,) or (t, C), the folds' mean."""

    oof: np.ndarray
    test: np.ndarray


def fit_feature_stackers(matrix: OofMatrix, features: FeatureLoader) -> Stacked:
    """Train one stacker per fold on the members' features and logits, and predict that fold's rows and the test rows.

    Of more than two classes it is a softmax regression, on log probabilities in place of logits.
    For a regression target, and without any member, there are none: all nan. `features(fold, part, ids)` returns
    float32 (len(ids), F); part is oof or test (see `load_features`). One fold's features are in memory at a time. One
    thread and six decimals give the same bytes on any number of cores.
    """
    one = matrix.prob.shape[2:]  # of a row
    if matrix.target.regression or not matrix.names:
        return Stacked(np.full((len(matrix.ids), *one), np.nan), np.full((len(matrix.test_ids), *one), np.nan))
    oof, test = np.empty((len(matrix.ids), *one)), []
    with threadpool_limits(1):
        for k in np.unique(matrix.fold):
            rows = np.flatnonzero(matrix.fold == k)
            labels = matrix.labels[rows]
            oof_x, test_x = _principal_components(
                features(int(k), "oof", [matrix.ids[row] for row in rows]), features(int(k), "test", matrix.test_ids)
            )
            oof_x = np.hstack([oof_x, _link(matrix.prob[rows])])
            test_x = np.hstack([test_x, _link(matrix.fold_test_prob[k])])
            inner = split_inner_folds(labels, matrix.group[rows])
            if matrix.target.multiclass:
                classes = len(matrix.target.classes)
                oof[rows] = cross_fitted_classes(oof_x, labels, inner, classes)
                test.append(predict_classes(oof_x, labels, test_x, classes))
            else:
                oof[rows] = cross_fitted(oof_x, labels, inner)
                test.append(fit_logistic(oof_x, labels).predict(test_x))
    return Stacked(_rounded(oof), _rounded(np.mean(test, axis=0)))


def _rounded(prob: np.ndarray) -> np.ndarray:
    """Return prob (n,) with six decimals, or (n, C) with six decimals and divided by the sums of its rows."""
    prob = np.round(prob, 6)
    return prob if prob.ndim == 1 else prob / prob.sum(axis=1, keepdims=True)


def _link(prob: np.ndarray) -> np.ndarray:
    """Return the logits (n, m) of prob (n, m), or the log probabilities (n, m * C) of prob (n, m, C)."""
    return logit(prob) if prob.ndim == 2 else log_prob(prob).reshape(len(prob), -1)


def split_inner_folds(labels: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return one of `INNER_FOLDS` for each row, int64 (n,): equal shares of the labels, a group (n,) never divided."""
    names, first, member = np.unique(group, return_index=True, return_inverse=True)
    order = np.lexsort([np.random.default_rng(_SEED).random(len(names)), labels[first]])
    inner_fold = np.empty(len(names), dtype=np.int64)
    inner_fold[order] = np.arange(len(names)) % INNER_FOLDS
    return inner_fold[member.reshape(-1)]


def _principal_components(oof: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised principal components of oof (n, F) and test (t, F), fitted on oof; the first has variance 1.

    No labels are used. Constant features are left out; without others there are no components. Values beyond
    `MAX_DEVIATIONS` are clipped: a unit that is silent on all rows but one must not decide a test row alone.
    """
    spread = oof.std(axis=0, dtype=np.float64)
    varied = spread > 1e-6
    count = min(COMPONENTS, len(oof) // ROWS_PER_COMPONENT, int(varied.sum()))
    if count == 0:
        return oof[:, :0], test[:, :0]
    mean, spread = oof[:, varied].mean(axis=0, dtype=np.float64), spread[varied]

    def standardise(features: np.ndarray) -> np.ndarray:
        return np.clip((features[:, varied] - mean) / spread, -MAX_DEVIATIONS, MAX_DEVIATIONS)

    oof = standardise(oof)
    # In float64 and by the covariance: a randomised float32 solver gave other digits with another number of threads.
    pca = PCA(count, svd_solver="covariance_eigh").fit(oof)
    axes = (pca.components_ / np.sqrt(pca.explained_variance_[0])).T  # (F, count)
    blocks = [standardise(test[start : start + BLOCK]) @ axes for start in range(0, len(test), BLOCK)]
    return oof @ axes, np.concatenate(blocks) if blocks else np.empty((0, count))


def fit_stack_probs(rows: Rows, labels: np.ndarray, fold: np.ndarray) -> Fitted:
    """Fit a logistic regression on the members' logits, which have one meaning in all folds and are pooled."""
    model = fit_logistic(logit(rows.prob), labels)
    return Fitted(lambda rows: model.predict(logit(rows.prob)), model.coef)


def fit_stack_features(rows: Rows, labels: np.ndarray, fold: np.ndarray) -> Fitted:
    """Take the probabilities of `fit_feature_stackers` as they are: nothing is left to learn from other folds."""
    return Fitted(lambda rows: rows.stacked)


def fit_ridge(rows: Rows, values: np.ndarray, fold: np.ndarray) -> Fitted:
    """Fit a ridge regression (penalty 1) on the members' values, in standard deviations of values (n,); six decimals.

    There are no weights, as coefficients neither sum to one nor stay above zero.
    """
    mean, scale = values.mean(), values.std() or 1.0
    model = Ridge(alpha=1.0).fit((rows.prob - mean) / scale, (values - mean) / scale)
    coef = np.round(model.coef_, 6)
    shift = round(float(mean - mean * coef.sum() + scale * model.intercept_), 6)
    return Fitted(lambda rows: rows.prob @ coef + shift, notes={"coef": coef.tolist(), "shift": shift})
