"""Score predictions, each score with its 95 % interval, and compare two predictions of the same rows."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm, rankdata

from facefold.data.corrections import DROPPED, Corrections
from facefold.data.folds import Folds
from facefold.task import Task

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


@dataclass(frozen=True)
class Gain:
    """By how much a is better than b on the same rows, with its 95 % interval and two-sided p."""

    gain: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class AccuracyGain(Gain):
    """The gain in accuracy. wins, losses: rows that only a, only b predicts correctly; p: exact McNemar test."""

    wins: int
    losses: int


def decide(score: np.ndarray) -> np.ndarray:
    """Return labels int64 (n,) of scores (n,): 1 from 0.5 on. There is no other threshold."""
    return (np.asarray(score) >= 0.5).astype(np.int64)


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


def row_losses(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the negative log likelihood of each row in nats, (n,); prob (n,) is clipped to [1e-7, 1 - 1e-7]."""
    prob = np.clip(prob, TINY, 1 - TINY)
    return -np.log(np.where(labels == 1, prob, 1 - prob))


def log_loss(prob: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of `row_losses`.

    Equals `sklearn.metrics.log_loss` of the clipped probabilities, whose checks take 30 times as long on 18,000 rows
    and 90 times on 200. The searches for weights and votes compute it thousands of times.
    """
    return float(row_losses(prob, labels).mean())


def auc_interval(prob: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Return the area under the ROC curve and its 95 % interval; three nan if only one class occurs.

    The variance is that of DeLong, DeLong and Clarke-Pearson (1988), from ranks as Sun and Xu (2014) compute it.
    """
    ones, zeros = prob[labels == 1], prob[labels == 0]
    if not len(ones) or not len(zeros):
        return math.nan, math.nan, math.nan
    ranks = rankdata(np.concatenate([ones, zeros]))
    above = (ranks[: len(ones)] - rankdata(ones)) / len(zeros)  # share of the zeros below each one
    below = 1 - (ranks[len(ones) :] - rankdata(zeros)) / len(ones)
    area = float(above.mean())
    variance = sum(share.var(ddof=1) / len(share) if len(share) > 1 else 0.25 for share in (above, below))
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
        prob: Probabilities of label 1, float64 (n,).
        labels: int (n,) of 0 and 1.
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
    losses = row_losses(prob, labels)
    loss, half = float(losses.mean()), Z95 * float(losses.std()) / math.sqrt(len(labels))
    return Scores(
        len(labels),
        *score_decisions(decide(prob) == labels).values(),
        loss,
        max(0.0, loss - half),
        loss + half,
        *auc_interval(prob, labels),
        *calibration_interval(prob, labels),
    )


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
    mae, half = float(np.abs(error).mean()), _half_width(np.abs(error))
    rmse = math.sqrt(float((error**2).mean()))
    return ErrorScores(len(values), mae, max(0.0, mae - half), mae + half, rmse, float(error.mean()))


def compare_accuracy(a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> AccuracyGain:
    """Compare the decisions of the scores a and b, both (n,), row by row.

    The interval is that of Agresti and Min (2005): Wald's with half a row added to each cell; p is that of
    McNemar's exact test.
    """
    correct_a, correct_b = decide(a) == labels, decide(b) == labels
    wins, losses, rows = int((correct_a & ~correct_b).sum()), int((~correct_a & correct_b).sum()), len(labels)
    center = (wins - losses) / (rows + 2)
    margin = Z95 * math.sqrt(max(0.0, (wins + losses + 1) / (rows + 2) - center * center) / (rows + 2))
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return AccuracyGain((wins - losses) / rows, center - margin, center + margin, p, wins, losses)


def compare_errors(a: np.ndarray, b: np.ndarray, values: np.ndarray) -> Gain:
    """Compare the absolute errors of the predicted values a and b, both (n,), row by row; interval and p are normal."""
    less = np.abs(b - values) - np.abs(a - values)
    gain, half = float(less.mean()), _half_width(less)
    p = 2 * float(norm.sf(Z95 * abs(gain) / half)) if half else float(gain == 0)
    return Gain(gain, gain - half, gain + half, p)


def _half_width(values: np.ndarray) -> float:
    """Return half the width of the 95 % interval of the mean of values (n,)."""
    return Z95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class Metric:
    """The metric that decides between blends of a target.

    Attributes:
        name: In words.
        key: The field of the score that holds it.
        digits: To print of it.
        columns: The fields of the score that are in leaderboard.csv.
        score: `score_predictions` or `score_errors`.
        compare: The paired comparison, `compare_accuracy` or `compare_errors`.
        test: The name of its statistical test.
        rank: The key of a score that sorts the leaderboard, the best first.
        format_gain: Prints a gain.
        decides: Whether a threshold makes labels of the predictions.
    """

    name: str
    key: str
    digits: int
    columns: tuple[str, ...]
    score: Callable[[np.ndarray, np.ndarray], Any]
    compare: Callable[[np.ndarray, np.ndarray, np.ndarray], Gain]
    test: str
    rank: Callable[[Any], Any]
    format_gain: Callable[[float], str]
    decides: bool

    def format_score(self, score: dict) -> str:
        """Return `accuracy 0.9345 [0.931, 0.938]` of the score as a dict."""
        return f"{self.name} {score[self.key]:.{self.digits}f} [{score['low']:.3f}, {score['high']:.3f}]"


ACCURACY = Metric(
    name="accuracy",
    key="accuracy",
    digits=4,
    columns=tuple(field.name for field in fields(Scores))[1:],
    score=score_predictions,
    compare=compare_accuracy,
    test="McNemar",
    rank=lambda score: (-score.accuracy, round(score.log_loss, 9)),
    format_gain=lambda gain: f"{100 * gain:.2f} points",
    decides=True,
)
MEAN_ABSOLUTE_ERROR = Metric(
    name="mean absolute error",
    key="mae",
    digits=3,
    columns=tuple(field.name for field in fields(ErrorScores))[1:],
    score=score_errors,
    compare=compare_errors,
    test="paired absolute errors",
    rank=lambda score: score.mae,
    format_gain=lambda gain: f"{gain:.3g}",
    decides=False,
)


def target_metric(target: Task) -> Metric:
    """Return the metric that decides between blends of `target`."""
    return MEAN_ABSOLUTE_ERROR if target.regression else ACCURACY


def format_oof_score(oof: pd.Series, folds: Folds, corrections: Corrections) -> str:
    """Return the score of out-of-fold predictions (n,), indexed by train id, in words.

    `accuracy 0.9391 on 18000 rows`, followed by the accuracy against the corrected labels if there are corrections, or
    `mean absolute error 5.612 [5.530, 5.694] on 18000 rows`.
    """
    ids, labels = folds.table["id"].tolist(), folds.table["label"].to_numpy()
    pred = oof.loc[ids].to_numpy()
    if folds.target.regression:
        return f"{MEAN_ABSOLUTE_ERROR.format_score(vars(score_errors(pred, labels)))} on {len(labels)} rows"
    text = f"accuracy {(decide(pred) == labels).mean():.4f} on {len(labels)} rows"
    if not corrections.actions:
        return text
    score = score_corrected(pred, corrections.labels(ids, labels))
    return f"{text} against the given labels, {score['accuracy']:.4f} on {score['rows']} against the corrected ones"
