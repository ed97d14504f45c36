"""The report on probabilities: whether they are calibrated, and what one more calibration, cross-fitted, would fix."""

from typing import Any

import numpy as np
import pandas as pd

from facefold.ensemble.blend import Blend
from facefold.ensemble.calibration import CALIBRATION_C, cross_fitted
from facefold.ensemble.leaks import used_leaks
from facefold.ensemble.scores import logit, score_predictions, wilson_interval

BINS = 10
DEFAULT_BAND = (0.3, 0.7)  # doubtful rows are counted in it if the second pass found none, or one of another scale


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
    """Return scores and bins of the blend's oof (prob, label, fold), as it is and calibrated."""
    prob, labels, fold = (oof[name].to_numpy() for name in ("prob", "label", "fold"))
    calibrated = cross_fitted(logit(prob)[:, None], labels, fold, CALIBRATION_C)  # Platt (1999)
    both = (prob, calibrated)
    return {
        "scores": [score_predictions(each, labels) for each in both],
        "bins": [reliability_bins(each, labels) for each in both],
    }


def doubtful_section(blend: Blend) -> dict[str, Any]:
    """Return how many rows lie in the doubtful band, and how many of the train rows are correct.

    The second pass's band is one of mean probabilities. On another scale, of other methods (its own gives rows of the
    band the specialist's), shifted to a threshold or with a leak, it would hold other rows. default: why it is not
    taken, empty if it is.
    """
    facts, default = blend.facts, ""
    low, high = facts["notes"].get("second_pass", {}).get("band", (0.5, 0.5))
    if low >= high:
        default = "the second pass found none on all rows"
    elif facts["picked"] != "mean" or facts["threshold"] != 0.5 or used_leaks(facts):
        default = "the second pass's is of mean probabilities"
    band = DEFAULT_BAND if default else (low, high)
    train, test = (table[table["prob"].between(*band)] for table in (blend.oof, blend.test))
    correct = int((train["pred"] == train["label"]).sum())
    return {
        "band": band,
        "edges": np.linspace(0, 1, 41),
        "default": default,
        "train": len(train),
        "test": len(test),
        "correct": correct,
        "interval": wilson_interval(correct, len(train)),
    }
