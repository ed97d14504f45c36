"""Scores of a blend, each with its noise, and the paired comparison of two blends on the same rows."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest, rankdata

from facefold.data.corrections import DROPPED, Corrections

Z95 = 1.959963984540054  # two-sided 95 %
TINY = 1e-7  # predictions are written with 7 digits or more: nothing is surer than that


@dataclass(frozen=True)
class Scores:
    """How well `rows` rows were predicted, each score with its 95 % interval.

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
class Paired:
    """What a has over b on the same rows: the gain in accuracy with its 95 % interval, and how surprising it is.

    wins, losses: rows that only a, only b got right; p: exact McNemar test, two-sided.
    """

    gain: float
    low: float
    high: float
    wins: int
    losses: int
    p: float


def decide(score: np.ndarray) -> np.ndarray:
    """Labels int64 (n,) from scores (n,): 1 from 0.5 on. The only threshold of the house."""
    return (np.asarray(score) >= 0.5).astype(np.int64)


def wilson_interval(correct: int, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share correct / rows (Wilson 1927); (0, 1) without rows."""
    if rows == 0:
        return 0.0, 1.0
    share, spread = correct / rows, Z95 * Z95 / rows
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def logit(prob: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of prob clipped to [1e-7, 1 - 1e-7], float64 of the same shape."""
    prob = np.clip(prob, TINY, 1 - TINY)
    return np.log(prob) - np.log1p(-prob)


def row_losses(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Negative log likelihood of each row in nats, (n,); prob (n,) is clipped to [1e-7, 1 - 1e-7]."""
    prob = np.clip(prob, TINY, 1 - TINY)
    return -np.log(np.where(labels == 1, prob, 1 - prob))


def log_loss(prob: np.ndarray, labels: np.ndarray) -> float:
    """The mean of `row_losses`."""
    return float(row_losses(prob, labels).mean())


def auc_interval(prob: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Area under the ROC curve and its 95 % interval; three nan where only one class occurs.

    The variance is that of DeLong, DeLong and Clarke-Pearson (1988), from ranks as Sun and Xu (2014) compute it.
    """
    ones, zeros = prob[labels == 1], prob[labels == 0]
    if not len(ones) or not len(zeros):
        return math.nan, math.nan, math.nan
    ranks = rankdata(np.concatenate([ones, zeros]))
    above = (ranks[: len(ones)] - rankdata(ones)) / len(zeros)  # share of the zeros below each one
    below = 1 - (ranks[len(ones) :] - rankdata(zeros)) / len(ones)
    area = float(above.mean())
    variance = sum(part.var(ddof=1) / len(part) if len(part) > 1 else 0.25 for part in (above, below))
    half = Z95 * math.sqrt(variance)
    return area, max(0.0, area - half), min(1.0, area + half)


def calibration_error(prob: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of prob (n,): |share of label 1 - mean prob| over equal-width bins, weighted by rows."""
    which = np.minimum((prob * bins).astype(np.int64), bins - 1)
    return float(np.abs(np.bincount(which, labels - prob, minlength=bins)).sum() / len(prob))


def calibration_interval(prob: np.ndarray, labels: np.ndarray, bins: int = 15, draws: int = 200) -> tuple[float, float]:
    """The 95 % interval of `calibration_error`: 2.5 and 97.5 % of `draws` bootstrap samples of the rows.

    The error of a sample is larger than that of all rows (noise adds to an absolute value), so the samples are shifted
    to have the error as their mean; the interval includes the error and does not fall below 0. A fixed seed.
    """
    rng, rows = np.random.default_rng(0), len(prob)
    which, gaps = np.minimum((prob * bins).astype(np.int64), bins - 1), labels - prob
    samples = (rng.integers(0, rows, rows) for _ in range(draws))
    errors = [np.abs(np.bincount(which[drawn], gaps[drawn], minlength=bins)).sum() / rows for drawn in samples]
    error = calibration_error(prob, labels, bins)
    low, high = np.quantile(errors, [0.025, 0.975]) + error - np.mean(errors)
    return float(np.clip(low, 0, error)), float(max(high, error))


def score_predictions(prob: np.ndarray, labels: np.ndarray) -> Scores:
    """Scores of prob (n,) in 0..1 against labels (n,) of 0 and 1; auc is nan where only one class occurs."""
    correct, losses = int((decide(prob) == labels).sum()), row_losses(prob, labels)
    loss, half = float(losses.mean()), Z95 * float(losses.std()) / math.sqrt(len(labels))
    return Scores(
        len(labels),
        correct / len(labels),
        *wilson_interval(correct, len(labels)),
        loss,
        max(0.0, loss - half),
        loss + half,
        *auc_interval(prob, labels),
        calibration_error(prob, labels),
        *calibration_interval(prob, labels),
    )


def score_corrected(prob: np.ndarray, corrected: np.ndarray) -> dict:
    """How prob (n,) does against corrected labels (n,) (`Corrections.labels`): rows (dropped ones are not counted), accuracy, low, high.

    It flatters where predictions like these chose the corrections: a row that was flipped because the models disagreed with it
    counts as right by construction.
    """
    counted = corrected != DROPPED
    rows, correct = int(counted.sum()), int((decide(prob) == corrected)[counted].sum())
    low, high = wilson_interval(correct, rows)
    return {"rows": rows, "accuracy": correct / rows, "low": low, "high": high}


def format_accuracy(oof: pd.Series, table: pd.DataFrame, corrections: Corrections) -> str:
    """`0.9391 on 18000 rows`, or both accuracies by name where there are corrections. oof: probabilities (n,) by id; table: id, label."""
    ids, labels = table["id"].tolist(), table["label"].to_numpy()
    prob = oof.loc[ids].to_numpy()
    given = f"{(decide(prob) == labels).mean():.4f} on {len(labels)} rows"
    if not corrections.actions:
        return given
    got = score_corrected(prob, corrections.labels(ids, labels))
    return f"{given} against the given labels, {got['accuracy']:.4f} on {got['rows']} against the corrected ones"


def compare_paired(a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> Paired:
    """Compare the decisions of the scores a and b, both (n,), row by row.

    The interval is that of Agresti and Min (2005): Wald's with half a row added to each cell.
    """
    right_a, right_b = decide(a) == labels, decide(b) == labels
    wins, losses, rows = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum()), len(labels)
    middle = (wins - losses) / (rows + 2)
    half = Z95 * math.sqrt(max(0.0, (wins + losses + 1) / (rows + 2) - middle * middle) / (rows + 2))
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return Paired((wins - losses) / rows, middle - half, middle + half, wins, losses, p)
