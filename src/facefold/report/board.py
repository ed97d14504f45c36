"""The leaderboard of a report: which columns it has, and its weights in words."""

from typing import Any, NamedTuple

from facefold.ensemble.blend import Blend
from facefold.ensemble.leaderboard import picked_row
from facefold.ensemble.metrics import Metric
from facefold.report.bars import make_axis
from facefold.runs import Member

MOST_WEIGHTS = 3  # of a method that was not picked
_NAMES = {
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "auc": "AUC",
    "ece": "calibration error",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "bias": "bias",
}


class Column(NamedTuple):
    """A column of scores: its heading, the key of the score, those of its interval or none, and its format."""

    heading: str
    key: str
    interval: tuple[str, ...]
    format: str


def leaderboard_section(blend: Blend, members: list[Member], metric: Metric) -> dict[str, Any]:
    """Return the rows of the leaderboard, its columns of scores, the axis of its gains and the picked row."""
    board = blend.leaderboard
    others = [key for key in _NAMES if key in metric.base_columns and key != metric.key]
    columns = [Column(metric.name, metric.key, metric.interval_keys, f"{{:.{metric.digits}f}}")]
    for key in others:
        interval = ("low", "high") if key in ("accuracy", "mae") else (f"{key}_low", f"{key}_high")
        sign = "+" if key == "bias" else ""
        columns.append(
            Column(_NAMES[key], key, interval if interval[0] in board else (), f"{{:{sign}.{metric.digits}f}}")
        )
    if blend.facts["corrections"]:
        corrected = ("corrected_low", "corrected_high")
        columns.append(Column("accuracy against corrected labels", "corrected_accuracy", corrected, "{:.4f}"))
    gains = metric.gain_scale * board[["gain", "gain_low", "gain_high"]].to_numpy()
    picked = picked_row(board, blend.facts)
    most = [len(members) if row == picked else MOST_WEIGHTS for row in range(len(board))]
    weights = [describe_weights(*both) for both in zip(board["weights"], most, strict=True)]
    return {
        "leaderboard": board.assign(weights=weights).to_dict("records"),
        "columns": columns,
        "board_axis": make_axis(gains, 0.0, signed=True, whole=[picked]),
        "picked": picked,
    }


def describe_weights(text: str, most: int) -> str:
    """Return the weights of leaderboard.csv, `a=0.7,b=0.3,c=0`, for people: the `most` heaviest, or `all equal`."""
    pairs = [part.rpartition("=")[::2] for part in text.split(",") if part]
    weights = {name: float(weight) for name, weight in pairs}
    if len(weights) > 1 and len(set(weights.values())) == 1:
        return "all equal"
    heavy = sorted(((name, weight) for name, weight in weights.items() if weight), key=lambda pair: -abs(pair[1]))
    shown = [f"{name}\u00a0{weight:.2g}" for name, weight in heavy[:most]]
    return ", ".join(shown) + (f" and {len(heavy) - most} more" if len(heavy) > most else "")
