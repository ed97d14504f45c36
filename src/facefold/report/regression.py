"""The numbers and drawings of the report on a regression; regression.html.j2 lays them out."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from facefold.ensemble.blend import Blend
from facefold.ensemble.metrics import score_errors
from facefold.report import figures
from facefold.report.html import inline_svg
from facefold.task import Target

MAX_BANDS = 12


def regression_sections(blend: Blend, target: Target) -> dict[str, Any]:
    """Return all that regression.html.j2 needs besides the parts that both reports share (see `src/report.py`)."""
    return {
        "target": target.name,
        "leaderboard": leaderboard_section(blend),
        "errors": error_section(blend.oof, target),
    }


def leaderboard_section(blend: Blend) -> dict[str, Any]:
    """Return the leaderboard as rows and drawing, and its picked row."""
    board = blend.leaderboard
    svg = figures.draw_intervals(
        board["name"].tolist(), board[["mae", "low", "high"]], xlabel="nested mean absolute error"
    )
    values = ", ".join(f"{row.name} {row.mae:.3f}" for row in board.itertuples())
    return {
        "rows": list(board.itertuples()),
        "picked": board.index[(board["name"] == blend.facts["picked"]) & (board["kind"] == "method")][0],
        "svg": inline_svg(svg, f"Nested mean absolute error: {values}"),
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


def error_section(oof: pd.DataFrame, target: Target) -> dict[str, Any]:
    """Return errors by band and by fold, and predictions against values, of the blend's nested oof."""
    values, pred, fold = (oof[name].to_numpy() for name in ("label", "pred", "fold"))
    by_band = errors_by_band(oof)
    by_band_svg = figures.draw_intervals(
        by_band["band"].tolist(), by_band[["mae", "low", "high"]], xlabel="mean absolute error"
    )
    errors = ", ".join(f"{row.band} {row.mae:.3f}" for row in by_band.itertuples())
    correlation = f"correlation {np.corrcoef(values, pred)[0, 1]:.3f}"
    return {
        "by_band": list(by_band.itertuples()),
        "by_band_svg": inline_svg(by_band_svg, f"Mean absolute error by {target.name}: {errors}"),
        "density_svg": inline_svg(
            figures.draw_density(values, pred, target.name), f"Predicted and actual {target.name}; {correlation}"
        ),
        "by_fold": [(k, score_errors(pred[fold == k], values[fold == k])) for k in np.unique(fold)],
    }
