"""The numbers of the report on a regression; regression.html.j2 draws them and lays them out."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from facefold.ensemble.blend import Blend
from facefold.ensemble.metrics import score_errors
from facefold.task import Target

MAX_BANDS = 12


def regression_sections(blend: Blend, target: Target) -> dict[str, Any]:
    """Return all that regression.html.j2 needs besides the parts that both reports share (see `src/report.py`)."""
    return {
        "target": target.name,
        "oof": blend.oof,
        "errors_by_band": errors_by_band(blend.oof),
        "errors_by_fold": [(k, score_errors(rows["pred"], rows["label"])) for k, rows in blend.oof.groupby("fold")],
        "correlation": np.corrcoef(blend.oof["label"], blend.oof["pred"])[0, 1],
    }


def errors_by_band(oof: pd.DataFrame) -> pd.DataFrame:
    """Return errors of oof (label, pred) by bands of the value between round numbers: band (text), and `Errors`."""
    values, pred = oof["label"].to_numpy(), oof["pred"].to_numpy()
    edges = MaxNLocator(MAX_BANDS, steps=[1, 2, 5, 10]).tick_values(values.min(), values.max())
    band = np.minimum(np.searchsorted(edges, values, side="right") - 1, len(edges) - 2)  # the last edge is inside
    return pd.DataFrame(
        {"band": f"{edges[k]:g} to {edges[k + 1]:g}", **vars(score_errors(pred[band == k], values[band == k]))}
        for k in np.unique(band)
    )
