"""Whether a probability means what it says, and what one more calibration would mend, told by rows it did not learn from."""

import numpy as np
import pandas as pd

from facefold.ensemble.calibration import fit_logistic
from facefold.ensemble.metrics import logit, wilson_interval

BINS = 10


def recalibrated(prob: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Probabilities (n,) of label 1 after Platt's calibration (1999), each fold (n,) by what was learned on the others."""
    made, x = np.empty(len(prob)), logit(prob)[:, None]
    for k in np.unique(fold):
        rest = fold != k
        made[~rest] = fit_logistic(x[rest], labels[rest], c=100.0).predict(x[~rest])
    return made


def bins(prob: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Table mean (of the probabilities), share (of label 1), low, high (95 %), rows: of the `BINS` equal bins that hold any."""
    which = np.minimum((prob * BINS).astype(np.int64), BINS - 1)
    found = []
    for number in np.unique(which):
        own = which == number
        found.append(
            (
                prob[own].mean(),
                labels[own].mean(),
                *wilson_interval(int(labels[own].sum()), int(own.sum())),
                int(own.sum()),
            )
        )
    return pd.DataFrame(found, columns=["mean", "share", "low", "high", "rows"])
