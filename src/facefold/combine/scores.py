"""Scores of a blend, each with its noise, and the paired comparison of two blends on the same rows."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

Z95 = 1.959963984540054  # two-sided 95 %
TINY = 1e-7  # predictions are written with 7 digits or more: nothing is surer than that


@dataclass(frozen=True)
class Scores:
    """How well `rows` rows were predicted; low and high bound the accuracy (Wilson, 95 %)."""

    rows: int
    accuracy: float
    low: float
    high: float
    log_loss: float
    auc: float
    ece: float


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


def wilson(correct: int, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share correct / rows (Wilson 1927); (0, 1) without rows."""
    if rows == 0:
        return 0.0, 1.0
    share, spread = correct / rows, Z95 * Z95 / rows
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def log_loss(prob: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log likelihood in nats; prob (n,) is clipped to [1e-7, 1 - 1e-7]."""
    prob = np.clip(prob, TINY, 1 - TINY)
    return float(-np.mean(np.log(np.where(labels == 1, prob, 1 - prob))))


def calibration_error(prob: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of prob (n,): |share of label 1 - mean prob| over equal-width bins, weighted by rows."""
    which = np.minimum((prob * bins).astype(np.int64), bins - 1)
    return float(np.abs(np.bincount(which, labels - prob, minlength=bins)).sum() / len(prob))


def score(prob: np.ndarray, labels: np.ndarray) -> Scores:
    """Scores of prob (n,) in 0..1 against labels (n,) of 0 and 1; auc is nan where only one class occurs."""
    correct = int((decide(prob) == labels).sum())
    auc = float(roc_auc_score(labels, prob)) if len(np.unique(labels)) == 2 else math.nan
    return Scores(len(labels), correct / len(labels), *wilson(correct, len(labels)), log_loss(prob, labels), auc,
                  calibration_error(prob, labels))


def paired(a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> Paired:
    """Compare the decisions of the scores a and b, both (n,), row by row.

    The interval is that of Agresti and Min (2005): Wald's with half a row added to each cell.
    """
    right_a, right_b = decide(a) == labels, decide(b) == labels
    wins, losses, rows = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum()), len(labels)
    middle = (wins - losses) / (rows + 2)
    half = Z95 * math.sqrt(max(0.0, (wins + losses + 1) / (rows + 2) - middle * middle) / (rows + 2))
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return Paired((wins - losses) / rows, middle - half, middle + half, wins, losses, p)
