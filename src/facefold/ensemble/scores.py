"""Score predictions, each score with its 95 % interval."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax
from scipy.stats import binomtest, rankdata

from facefold.data.corrections import DROPPED

Z95 = 1.959963984540054  # two-sided 95 %
TINY = 1e-7  # predictions are written with 7 digits or more, so no probability counts as closer to 0 or 1


@dataclass(frozen=True)
class Scores:
    """Scores of predicted labels on `rows` rows, each with its 95 % interval.

    low, high: of the accuracy (Wilson); log_loss_*: mean and standard error; auc_*: DeLong et al. (1988);
    ece_*: bootstrap of the calibration error, see `calibration_interval`.
    """

    rows: int
    accuracy: float
    low: float
    high: float
    log_loss: float
    log_loss_low: float
    log_loss_high: float
    auc: float
    auc_low: float
    auc_high: float
    ece: float
    ece_low: float
    ece_high: float


@dataclass(frozen=True)
class ClassScores:
    """Scores of probabilities of more than two classes, named as in `Scores`; ece: of the likeliest class."""

    rows: int
    accuracy: float
    low: float
    high: float
    log_loss: float
    log_loss_low: float
    log_loss_high: float
    ece: float
    ece_low: float
    ece_high: float


@dataclass(frozen=True)
class ErrorScores:
    """Scores of predicted values on `rows` rows.

    mae, low, high: mean absolute error with its 95 % interval (normal); rmse: root of the mean squared error; bias:
    mean of prediction minus value.
    """

    rows: int
    mae: float
    low: float
    high: float
    rmse: float
    bias: float


def decide(score: np.ndarray) -> np.ndarray:
    """Return labels int64 (n,): of scores (n,) 1 from 0.5 on, of scores (n, C) the class of the largest, the first one.

    There is no other rule: a `Decision` changes the scores so that this one gives its labels.
    """
    score = np.asarray(score)
    return score.argmax(axis=1).astype(np.int64) if score.ndim == 2 else decide_ones(score)


def decide_ones(prob: np.ndarray) -> np.ndarray:
    """Return labels int64 of the shape of prob, probabilities of label 1: 1 from 0.5 on."""
    return (prob >= 0.5).astype(np.int64)


def wilson_interval(correct: int, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of a share correct / rows (Wilson 1927); (0, 1) without rows."""
    if rows == 0:
        return 0.0, 1.0
    interval = binomtest(correct, rows).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)


def score_decisions(correct: np.ndarray) -> dict[str, float]:
    """Return accuracy, low and high (95 %) of n > 0 rows; correct: bool (n,), whether a row is predicted correctly."""
    right, rows = int(correct.sum()), len(correct)
    low, high = wilson_interval(right, rows)
    return {"accuracy": right / rows, "low": low, "high": high}


def logit(prob: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)) of prob clipped to [1e-7, 1 - 1e-7], float64 of the same shape."""
    prob = np.clip(prob, TINY, 1 - TINY)
    return np.log(prob) - np.log1p(-prob)


def log_prob(prob: np.ndarray) -> np.ndarray:
    """Return log(p) of prob clipped to [1e-7, 1 - 1e-7], float64 of the same shape."""
    return np.log(np.clip(prob, TINY, 1 - TINY))


def class_prob(log_scores: np.ndarray) -> np.ndarray:
    """Return the probabilities (n, C) in the proportion of exp(log_scores (n, C)): the softmax of each row."""
    return softmax(log_scores, axis=1)


def own_prob(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the probability of each row's label: (n,) of prob (n,) or (n, C), (n, m) of (n, m, C)."""
    if prob.ndim == 1:
        return np.where(labels == 1, prob, 1 - prob)
    return prob[np.arange(len(labels)), ..., labels]


def row_losses(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the negative log likelihood of each row in nats, (n,).

    prob (n,) of label 1, or (n, C), is clipped to [1e-7, 1 - 1e-7].
    """
    if prob.ndim == 2:
        return -log_prob(own_prob(prob, labels))
    return -np.log(own_prob(np.clip(prob, TINY, 1 - TINY), labels))


def log_loss(prob: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of `row_losses`.

    Equals `sklearn.metrics.log_loss` of the clipped probabilities, whose checks take 30 times as long on 18,000 rows
    and 90 times on 200. The searches for weights and votes compute it thousands of times.
    """
    return float(row_losses(prob, labels).mean())


def rank_placements(scores: np.ndarray, ones: np.ndarray) -> np.ndarray:
    """Return the share of the zeros below each one, and of the ones above each zero, float64 (n,); both must occur.

    Their mean over either class is the area under the ROC curve, and their variances give its own: DeLong, DeLong and
    Clarke-Pearson (1988), from ranks as Sun and Xu (2014) compute it. scores (n,); ones: bool (n,).
    """
    ranks, shares = rankdata(scores), np.empty(len(ones))
    shares[ones] = (ranks[ones] - rankdata(scores[ones])) / (~ones).sum()
    shares[~ones] = 1 - (ranks[~ones] - rankdata(scores[~ones])) / ones.sum()
    return shares


def auc_interval(prob: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Return the area under the ROC curve and its 95 % interval (DeLong et al.); three nan if only one class occurs."""
    ones = labels == 1
    if ones.all() or not ones.any():
        return math.nan, math.nan, math.nan
    placements = rank_placements(prob, ones)
    area = float(placements[ones].mean())
    both = (placements[ones], placements[~ones])
    variance = sum(shares.var(ddof=1) / len(shares) if len(shares) > 1 else 0.25 for shares in both)
    half = Z95 * math.sqrt(variance)
    return area, max(0.0, area - half), min(1.0, area + half)


def calibration_interval(
    prob: np.ndarray, labels: np.ndarray, bins: int = 15, draws: int = 200
) -> tuple[float, float, float]:
    """Return the expected calibration error and its 95 % interval.

    The error is |share of label 1 - mean prob| in equal-width bins, weighted by rows; the interval has the 2.5 and 97.5
    % quantiles of bootstrap samples. Their errors are larger than that of all rows (noise adds to an absolute value),
    so they are shifted to have it as their mean; the interval includes the error and does not fall below 0. The seed is
    fixed.

    Args:
        prob: Probabilities of label 1, float64 (n,), or of being right.
        labels: int (n,) of 0 and 1: the label, or whether it is right.
        bins: Over 0..1.
        draws: The number of bootstrap samples.
    """
    rng, rows = np.random.default_rng(0), len(prob)
    bin_of_row, gaps = np.minimum((prob * bins).astype(np.int64), bins - 1), labels - prob

    def calibration_error(sample: np.ndarray | slice) -> float:
        return float(np.abs(np.bincount(bin_of_row[sample], gaps[sample], minlength=bins)).sum() / rows)

    error = calibration_error(slice(None))
    errors = [calibration_error(rng.integers(0, rows, rows)) for _ in range(draws)]
    low, high = np.quantile(errors, [0.025, 0.975]) + error - np.mean(errors)
    return error, float(np.clip(low, 0, error)), float(max(high, error))


def score_predictions(prob: np.ndarray, labels: np.ndarray) -> Scores:
    """Score prob (n,) in 0..1 against labels (n,) of 0 and 1; auc is nan if only one class occurs."""
    return Scores(
        len(labels),
        *score_decisions(decide(prob) == labels).values(),
        *_log_loss_interval(prob, labels),
        *auc_interval(prob, labels),
        *calibration_interval(prob, labels),
    )


def score_classes(prob: np.ndarray, labels: np.ndarray) -> ClassScores:
    """Score prob (n, C), whose rows sum to one, against labels (n,) in 0..C-1."""
    correct = decide(prob) == labels
    return ClassScores(
        len(labels),
        *score_decisions(correct).values(),
        *_log_loss_interval(prob, labels),
        *calibration_interval(np.clip(prob.max(axis=1), 0, 1), correct.astype(np.int64)),
    )


def _log_loss_interval(prob: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    losses = row_losses(prob, labels)
    loss, half = float(losses.mean()), Z95 * float(losses.std()) / math.sqrt(len(labels))
    return loss, max(0.0, loss - half), loss + half


def score_corrected(prob: np.ndarray, corrected: np.ndarray) -> dict:
    """Return rows (without dropped ones), accuracy, low and high of prob (n,) against `Corrections.labels` (n,).

    This flatters if predictions like these suggested the corrections: a row that was relabelled because the models
    disagreed with it counts as correct by construction.
    """
    kept = corrected != DROPPED
    return {"rows": int(kept.sum()), **score_decisions((decide(prob) == corrected)[kept])}


def score_errors(pred: np.ndarray, values: np.ndarray) -> ErrorScores:
    """Score predicted against true values, both (n,)."""
    error = pred - values
    mae, half = float(np.abs(error).mean()), half_width(np.abs(error))
    rmse = math.sqrt(float((error**2).mean()))
    return ErrorScores(len(values), mae, max(0.0, mae - half), mae + half, rmse, float(error.mean()))


def half_width(values: np.ndarray) -> float:
    """Return half the width of the 95 % interval of the mean of values (n,)."""
    return Z95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
