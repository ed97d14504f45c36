"""The leaderboard of a blend as a table and as text, and its nested score in words and for trackers."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from facefold.ensemble.leaks import used_leaks
from facefold.ensemble.methods import METHOD_NAMES
from facefold.ensemble.metrics import Metric, target_metric
from facefold.ensemble.scores import score_corrected
from facefold.task import Task
from facefold.training.trackers import SUMMARY, TrackedRun
from facefold.training.tracking import Tracker, Tracking
from facefold.utils.console import format_table
from facefold.utils.files import sha256_file

_GAIN = ("gain", "gain_low", "gain_high", "gain_p")
_CORRECTED = ("corrected_accuracy", "corrected_low", "corrected_high")
_CELLS = {  # columns of the text by the key of a metric; first that of the task's
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "auc": "auc",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced acc.",
    "qwk": "kappa",
    "mean_auc": "mean auc",
    "mae": "mean abs. error",
    "rmse": "rms error",
    "ece": "ece",
    "bias": "bias",
}
_CORRECTED_CELL = {"by corrected labels": "{corrected_accuracy:.4f} [{corrected_low:.3f}, {corrected_high:.3f}]"}


class Entry(NamedTuple):
    """A row of the leaderboard: scores (n,) or (n, C) of the train rows, and the members' weights if there are any."""

    name: str
    kind: str
    scores: np.ndarray
    weights: dict[str, float]


def _cells(metric: Metric, corrected: bool) -> dict[str, str]:
    """Return the format of a row by the column of the text; gains in accuracy are in points."""
    low, high = metric.interval_keys
    digits, gain = metric.digits, f"+.{metric.gain_digits}f"
    others = [key for key in metric.base_columns if key in _CELLS and key != metric.key]
    return {
        _CELLS[metric.key]: f"{{{metric.key}:.{digits}f}}",
        "95 % interval": f"[{{{low}:.{digits}f}}, {{{high}:.{digits}f}}]",
        **{_CELLS[key]: f"{{{key}:{'+' if key == 'bias' else ''}.{digits}f}}" for key in others},
        "gain over best single": f"{{gain:{gain}}} [{{gain_low:{gain}}}, {{gain_high:{gain}}}]",
        **(_CORRECTED_CELL if corrected else {}),
    }


def leaderboard_columns(metric: Metric, corrected: bool) -> dict[str, type]:
    """Return the type of each column of leaderboard.csv. corrected: whether members learned from corrected labels."""
    numbers = (*metric.columns, *_GAIN)
    columns = {"name": str, "kind": str, **dict.fromkeys(numbers, float), "weights": str}
    return columns | (dict.fromkeys(_CORRECTED, float) if corrected else {})


def make_leaderboard(
    entries: Sequence[Entry],
    labels: np.ndarray,
    best_single: np.ndarray,
    metric: Metric,
    corrected: np.ndarray | None = None,
) -> pd.DataFrame:
    """Score all entries, the best first.

    Args:
        entries: What to score.
        labels: Labels or values (n,).
        best_single: The scores over which the gains are.
        metric: Of the target.
        corrected: Corrected labels (n,), to score by as well.
    """
    rows, single = [], metric.rate(best_single, labels)
    for entry in entries:
        score, gain = metric.score(entry.scores, labels), metric.gain(metric.rate(entry.scores, labels), single)
        row = [entry.name, entry.kind, *(score[column] for column in metric.columns)]
        row += [gain.gain, gain.low, gain.high, gain.p]
        row.append(",".join(f"{member}={weight:.4g}" for member, weight in entry.weights.items()))
        if corrected is not None:
            row += [score_corrected(entry.scores, corrected)[part] for part in ("accuracy", "low", "high")]
        rows.append((metric.rank(score), row))
    rows.sort(key=lambda ranked: ranked[0])
    return pd.DataFrame([row for _, row in rows], columns=list(leaderboard_columns(metric, corrected is not None)))


def picked_row(leaderboard: pd.DataFrame, facts: dict) -> int:
    """Return the row of the method that was picked, by blend.json."""
    return int(((leaderboard["name"] == facts["picked"]) & (leaderboard["kind"] == "method")).idxmax())


def format_leaderboard(leaderboard: pd.DataFrame, target: Task) -> str:
    """Return the leaderboard of a task as lines of text."""
    metric = target_metric(target).scaled(leaderboard.iloc[0])
    cells = _cells(metric, "corrected_accuracy" in leaderboard)
    if metric.points:
        leaderboard = leaderboard.assign(**{name: 100 * leaderboard[name] for name in _GAIN[:3]})
    table = [("", "", *cells, "weights")]
    for row in leaderboard.to_dict("records"):
        numbers = (cell.format(**row) for cell in cells.values())
        table.append((row["name"], row["kind"], *numbers, row["weights"]))
    return format_table(table)


def format_headline(facts: dict) -> str:
    """Return the nested score in words by blend.json: `nested accuracy 0.9345 [0.931, 0.938] by mean`."""
    metric = target_metric(Task.from_facts(facts["task"]))
    text = f"nested {metric.format_score(facts['score'])} by {facts['picked']}"
    if not facts["leaks"] and facts["score"] != facts["picked_score"]:  # without some folds another one is chosen
        text += ", its choice included"
    if added := facts.get("added"):
        text += f" with {', '.join(added)}"
    text += "".join(leak.headline.format(**leak_facts) for leak, leak_facts in used_leaks(facts))
    if facts["corrections"]:
        what = "" if metric.key == "accuracy" else "accuracy "
        text += f" ({what}{facts['corrections']['score']['accuracy']:.4f} against the corrected labels)"
    return text


def format_weights_note(facts: dict) -> str:
    """Return a note that learned weights lost; empty unless `auto` had them to choose and chose a simpler method."""
    options, picked = facts["options"], facts["picked"]
    simpler = METHOD_NAMES[: METHOD_NAMES.index("weighted_mean")]
    if options["method"] != "auto" or options["weights"] != "auto" or len(options["recipes"]) < 2:
        return ""
    return f"learned weights do not beat {'the mean' if picked == 'mean' else picked}" if picked in simpler else ""


def log_blend(tracking: Tracking, directory: Path, facts: dict, artifact: Path) -> None:
    """Log what was chosen and its nested score, and a file about it. directory: submissions/; facts: blend.json."""
    if not tracking.sinks:
        return
    chosen = {name: facts[name] for name in ("picked", "why", "target", "images_hash")}
    config = chosen | {"folds_hash": facts["folds"]["hash"], **facts["options"]}
    run = TrackedRun("blend", SUMMARY, sha256_file(directory / "blend.json"), config)
    with Tracker(tracking, run) as tracker:
        tracker.begin()
        metric = target_metric(Task.from_facts(facts["task"]))
        tracker.add_figures(metric.figures(facts["score"], "nested"))
        tracker.add_artifact(artifact)
