"""The report on probabilities: whether they are calibrated, and what one more calibration, cross-fitted, would fix."""

from typing import Any

import numpy as np
import pandas as pd

from facefold.ensemble.blend import Blend
from facefold.ensemble.calibration import fit_logistic
from facefold.ensemble.metrics import decide, logit, score_predictions, wilson_interval
from facefold.report import figures
from facefold.report.html import inline_svg

BINS = 10
DEFAULT_BAND = (0.3, 0.7)  # doubtful rows are counted in it if the second pass found no band


def recalibrate(prob: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return probabilities (n,) of label 1 after Platt's calibration (1999), cross-fitted over the folds (n,)."""
    calibrated, x = np.empty(len(prob)), logit(prob)[:, None]
    for k in np.unique(fold):
        rest = fold != k
        calibrated[~rest] = fit_logistic(x[rest], labels[rest], c=100.0).predict(x[~rest])
    return calibrated


def reliability_bins(prob: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Return mean probability, share of label 1, low, high (95 %) and rows of each of `BINS` equal bins with rows."""
    bin_numbers = np.minimum((prob * BINS).astype(np.int64), BINS - 1)
    table = []
    for number in np.unique(bin_numbers):
        inside = bin_numbers == number
        ones, rows = int(labels[inside].sum()), int(inside.sum())
        table.append((prob[inside].mean(), labels[inside].mean(), *wilson_interval(ones, rows), rows))
    return pd.DataFrame(table, columns=["mean", "share", "low", "high", "rows"])


def calibration_section(oof: pd.DataFrame) -> dict[str, Any]:
    """Return scores and a reliability diagram of the blend's oof (prob, label, fold), as it is and calibrated."""
    prob, labels, fold = (oof[name].to_numpy() for name in ("prob", "label", "fold"))
    calibrated = recalibrate(prob, labels, fold)
    before, after = score_predictions(prob, labels), score_predictions(calibrated, labels)
    svg = figures.draw_reliability(reliability_bins(prob, labels), reliability_bins(calibrated, labels))
    alt = f"Reliability diagram; calibration error as it is {before.ece:.4f}, calibrated {after.ece:.4f}"
    return {"before": before, "after": after, "reliability_svg": inline_svg(svg, alt)}


def doubtful_section(blend: Blend) -> dict[str, Any]:
    """Return how many rows lie in the doubtful band, how many of the train rows are correct, and a histogram."""
    low, high = blend.facts["notes"].get("second_pass", {}).get("band", (0.5, 0.5))
    default = low >= high
    band = DEFAULT_BAND if default else (low, high)
    prob, labels = (blend.oof[name].to_numpy() for name in ("prob", "label"))
    inside = blend.oof["prob"].between(*band).to_numpy()
    train, test = int(inside.sum()), int(blend.test["prob"].between(*band).sum())
    correct = int((decide(prob) == labels)[inside].sum())
    low, high = wilson_interval(correct, train)
    alt = (
        f"Histogram of the blend's probabilities by label. {train:,} of {len(prob):,} train rows and {test:,} of "
        f"{len(blend.test):,} test rows are between {band[0]:g} and {band[1]:g}"
    )
    return {
        "band": band,
        "default": default,
        "train": train,
        "train_rows": len(prob),
        "test": test,
        "test_rows": len(blend.test),
        "correct": correct,
        "low": low,
        "high": high,
        "svg": inline_svg(figures.draw_probabilities(prob, labels, band), alt),
    }
