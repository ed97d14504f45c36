"""The report's sections for a regression: what differs from `sections` because errors have a size."""

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from facefold.data.folds import Folds
from facefold.ensemble.blend import Blend
from facefold.ensemble.metrics import score_errors
from facefold.report import figures, html, reproducibility
from facefold.runs import Member
from facefold.task import Target

BANDS = 12


def parts(
    made: Blend,
    folds: Folds,
    members: list[Member],
    histories: dict[str, list[pd.DataFrame]],
    steps: dict[str, dict],
    target: Target,
) -> list[str]:
    """All sections below the title. steps: what they cost (`step.timings`)."""
    return [
        *verdict(made.facts),
        *leaderboard(made),
        *errors(made, target),
        *learning_curves(histories, target),
        *reproducibility.cost(members, steps),
        *reproducibility.repeat(made.facts, folds, members),
    ]


def verdict(facts: dict) -> list[str]:
    """Why this submission, and what blending brought."""
    gain, got = facts["gain_over_best_single"], facts["score"]
    return [
        html.paragraph(facts["why"]),
        html.paragraph(
            f"Beside the best single recipe the absolute error is {abs(gain['gain']):.3f} "
            f"{'less' if gain['gain'] >= 0 else 'more'} (gain {gain['low']:+.3f} to {gain['high']:+.3f}, "
            f"p = {gain['p']:.2g}). Root of the mean squared error {got['rmse']:.3f}, mean "
            f"of prediction minus value {got['bias']:+.3f}. Every score counts rows that had no part in learning "
            "or choosing what predicted them; brackets are 95 % intervals."
        ),
    ]


def leaderboard(made: Blend) -> list[str]:
    """All recipes and methods with their intervals, as a table and as a drawing."""
    board = made.leaderboard
    rows = [
        (
            row.name,
            row.kind,
            f"{row.mae:.3f}",
            f"{row.low:.3f} to {row.high:.3f}",
            f"{row.gain:+.3f} ({row.gain_low:+.3f} to {row.gain_high:+.3f})",
            f"{row.rmse:.3f}",
            f"{row.bias:+.3f}",
            row.weights.replace(",", ", "),
        )
        for row in board.itertuples(index=False)
    ]
    header = [
        "name",
        "kind",
        "mean absolute error",
        "95 % interval",
        "gain over best single",
        "root mean squared error",
        "bias",
        "weights",
    ]
    picked = board.index[(board["name"] == made.facts["picked"]) & (board["kind"] == "method")][0]
    alt = "Nested mean absolute error: " + ", ".join(f"{row.name} {row.mae:.3f}" for row in board.itertuples())
    drawing = figures.intervals(
        board["name"].tolist(),
        *(board[column].to_numpy() for column in ("mae", "low", "high")),
        xlabel="nested mean absolute error",
    )
    return [
        html.heading("Leaderboard"),
        html.table(header, rows, numbers=range(2, len(header) - 1), picked=picked),
        html.figures([html.figure(drawing, alt, "Nested mean absolute error with 95 % intervals; less is better.")]),
    ]


def bands(oof: pd.DataFrame) -> pd.DataFrame:
    """Errors of oof (label, pred) by bands of the value between round numbers: band (text), and the columns of
    `ErrorScores`."""
    edges = MaxNLocator(BANDS, steps=[1, 2, 5, 10]).tick_values(oof["label"].min(), oof["label"].max())
    rows = []
    for low, high in zip(edges, edges[1:]):
        inside = oof[(oof["label"] >= low) & ((oof["label"] < high) | ((high == edges[-1]) & (oof["label"] == high)))]
        if len(inside):
            rows.append(
                {
                    "band": f"{low:g} to {high:g}",
                    **vars(score_errors(inside["pred"].to_numpy(), inside["label"].to_numpy())),
                }
            )
    return pd.DataFrame(rows)


def errors(made: Blend, target: Target) -> list[str]:
    """Errors by band and by fold, and predictions against values, of the blend's nested predictions."""
    by_band = bands(made.oof)
    by_fold = [
        (fold, score_errors(part["pred"].to_numpy(), part["label"].to_numpy()))
        for fold, part in made.oof.groupby("fold")
    ]
    rows, folds = (
        [
            (name, f"{got.rows:,}", f"{got.mae:.3f}", f"{got.low:.3f} to {got.high:.3f}", f"{got.bias:+.3f}")
            for name, got in some
        ]
        for some in (((row.band, row) for row in by_band.itertuples()), by_fold)
    )
    header = [target.name, "rows", "mean absolute error", "95 % interval", "bias"]
    alt = f"Mean absolute error by {target.name}: " + ", ".join(
        f"{row.band} {row.mae:.3f}" for row in by_band.itertuples()
    )
    values, pred = made.oof["label"].to_numpy(), made.oof["pred"].to_numpy()
    spread = figures.intervals(
        by_band["band"].tolist(),
        *(by_band[name].to_numpy() for name in ("mae", "low", "high")),
        xlabel="mean absolute error",
    )
    drawings = [
        html.figure(spread, alt, f"Mean absolute error by {target.name}."),
        html.figure(
            figures.density(values, pred, target.name),
            f"Predicted against given {target.name}; correlation {np.corrcoef(values, pred)[0, 1]:.3f}",
            "Predictions against values; the darker, the more rows; on the line they agree.",
        ),
    ]
    return [
        html.heading("Errors"),
        html.table(header, rows, numbers=range(1, 5)),
        html.figures(drawings),
        html.table(["fold", *header[1:]], folds, numbers=range(1, 5)),
    ]


def learning_curves(histories: dict[str, list[pd.DataFrame]], target: Target) -> list[str]:
    """A drawing a recipe, from its folds' histories."""
    drawings = []
    for name, folds in histories.items():
        ends = ", ".join(f"{history['valid_mae'].iloc[-1]:.3f}" for history in folds)
        alt = f"Learning curves of {name}: mean absolute error of {target.name} at the end of each fold {ends}"
        drawings.append(html.figure(figures.learning_curves(folds, "valid_mae", "mean absolute error"), alt, name))
    return [html.heading("Learning curves"), html.figures(drawings)]
