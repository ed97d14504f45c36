"""The metrics of `task.METRICS`, one object each: value and interval, the paired comparison, and words about them."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from facefold.data.corrections import Corrections
from facefold.data.folds import Folds
from facefold.ensemble import ratings
from facefold.ensemble.ratings import Gain, Rate, Rating
from facefold.ensemble.scores import (
    ClassScores,
    ErrorScores,
    Scores,
    decide,
    half_width,
    score_classes,
    score_corrected,
    score_errors,
    score_predictions,
)
from facefold.task import Task


@dataclass(frozen=True)
class Metric:
    """The metric that decides between blends of a task.

    Attributes:
        key: Its name in `task.METRICS`, and the field of a score that holds it.
        name: In words.
        digits: Decimals to print of it; see `scaled`.
        rate: Computes it row by row.
        gain: The paired comparison of two ratings; a positive gain means that the first is better.
        test: The name of its statistical test.
        greater: Whether more is better.
        bounds: The least and the largest value.
        count: Computes it from the counts of `class_counts`, on any scale; None if it is not decided by these.
        decided: Whether it is computed from decided labels, so that a `Decision` can improve it.
        base: Computes the scores that are shown with it, of the task's kind.
        base_columns: Their names but for rows.
    """

    key: str
    name: str
    digits: int
    rate: Rate
    gain: Callable[[Rating, Rating], Gain]
    test: str
    greater: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    count: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
    decided: bool = False
    base: Callable[[np.ndarray, np.ndarray], Any] = score_predictions
    base_columns: tuple[str, ...] = tuple(field.name for field in fields(Scores))[1:]

    @property
    def interval_keys(self) -> tuple[str, str]:
        """The fields of a score that hold its interval."""
        return ("low", "high") if self.key in ("accuracy", "mae") else (f"{self.key}_low", f"{self.key}_high")

    @property
    def own_columns(self) -> tuple[str, ...]:
        """Its fields that are not among the `base_columns`."""
        return tuple(name for name in (self.key, *self.interval_keys) if name not in self.base_columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """The fields of a score that are in leaderboard.csv."""
        return (*self.own_columns, *self.base_columns)

    @property
    def points(self) -> bool:
        """Whether gains are printed in points, hundredths."""
        return self.key == "accuracy"

    @property
    def gain_scale(self) -> float:
        """What gains are multiplied by in the report and the last lines of a job."""
        return 100.0 if self.points else 1.0

    @property
    def gain_digits(self) -> int:
        """To print of a gain times `gain_scale`."""
        return 2 if self.points else self.digits

    def scaled(self, score: dict[str, float]) -> "Metric":
        """Return the metric with the decimals that scores as large as `score` need; only errors have a scale.

        From 0.1 to 100 they stay; a smaller error has three significant digits, a larger one five, or all of it.
        """
        if self.base is not score_errors or not 0 < score[self.key] < np.inf:
            return self
        exponent = math.floor(math.log10(score[self.key]))
        return replace(self, digits=max(2 - exponent, min(self.digits, 4 - exponent), 0))

    def signed_gain(self, gain: float) -> str:
        """Return a gain, times `gain_scale`, with its sign."""
        return f"{self.gain_scale * gain:+.{self.gain_digits}f}"

    def score(self, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return rows and `columns` of scores (n,) or (n, C) on labels or values (n,)."""
        result = asdict(self.base(scores, labels))
        if self.own_columns:
            rating = self.rate(scores, labels)
            value, half = rating.value, half_width(rating.rows)
            interval = (max(self.bounds[0], value - half), min(self.bounds[1], value + half))
            result |= dict(zip((self.key, *self.interval_keys), (value, *interval), strict=True))
        return result

    def compare(self, a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> Gain:
        """Compare the scores a and b, both (n,) or (n, C), on the same labels or values (n,)."""
        return self.gain(self.rate(a, labels), self.rate(b, labels))

    def goodness(self, scores: np.ndarray, labels: np.ndarray) -> float:
        """Return its value, negative if less is better; twelve decimals, so that equal values compare equal."""
        value = self.rate(scores, labels).value
        return round(value if self.greater else -value, 12)

    def label_value(self, decided: np.ndarray, labels: np.ndarray, classes: int) -> float:
        """Return the value of decided labels, int (n,) in 0..classes-1, on any scale; twelve decimals."""
        if self.count is None:
            return round(ratings.quadratic_kappa(decided, labels), 12)
        return round(float(self.count(*ratings.class_counts(decided, labels, classes))), 12)

    def rank(self, score: dict[str, float]) -> tuple[float, ...]:
        """Return the key of a score that sorts the leaderboard, the best first."""
        value = -score[self.key] if self.greater else score[self.key]
        return (value, round(score["log_loss"], 9)) if "log_loss" in score else (value,)

    def format_gain(self, gain: float) -> str:
        return f"{100 * gain:.2f} points" if self.points else f"{gain:.3g}"

    def figures(self, score: dict[str, float], kind: str) -> dict[str, float]:
        """Return a score by the names that trackers show: `oof/accuracy`, `oof/accuracy_low` and so on of kind oof."""
        first = self.base_columns[0]  # whose interval is called low and high
        names = {"low": f"{first}_low", "high": f"{first}_high"}
        return {f"{kind}/{names.get(name, name)}": value for name, value in score.items()}

    def format_score(self, score: dict[str, float]) -> str:
        """Return `accuracy 0.9345 [0.931, 0.938]` of a score."""
        low, high = (score[key] for key in self.interval_keys)
        digits = self.scaled(score).digits
        ends = digits if self.base is score_errors else 3
        return f"{self.name} {score[self.key]:.{digits}f} [{low:.{ends}f}, {high:.{ends}f}]"


ACCURACY = Metric(
    "accuracy",
    "accuracy",
    4,
    ratings.rate_accuracy,
    ratings.accuracy_gain,
    "McNemar",
    count=ratings.count_accuracy,
    decided=True,
)
MEAN_ABSOLUTE_ERROR = Metric(
    "mae",
    "mean absolute error",
    3,
    ratings.rate_absolute_error,
    ratings.mean_reduction,
    "paired absolute errors",
    greater=False,
    bounds=(0.0, np.inf),
    base=score_errors,
    base_columns=tuple(field.name for field in fields(ErrorScores))[1:],
)
_DELTA = "paired, delta method"
_METRICS = (
    ACCURACY,
    Metric("auc", "auc", 4, ratings.rate_auc, ratings.mean_gain, "DeLong"),
    Metric(
        "log_loss",
        "log loss",
        4,
        ratings.rate_log_loss,
        ratings.mean_reduction,
        "paired log losses",
        greater=False,
        bounds=(0.0, np.inf),
    ),
    Metric(
        "macro_f1",
        "macro F1",
        4,
        ratings.rate_macro_f1,
        ratings.mean_gain,
        _DELTA,
        count=ratings.count_macro_f1,
        decided=True,
    ),
    Metric(
        "balanced_accuracy",
        "balanced accuracy",
        4,
        ratings.rate_balanced_accuracy,
        ratings.mean_gain,
        _DELTA,
        count=ratings.count_balanced_accuracy,
        decided=True,
    ),
    Metric(
        "qwk",
        "quadratic weighted kappa",
        4,
        ratings.rate_quadratic_kappa,
        ratings.mean_gain,
        _DELTA,
        bounds=(-1.0, 1.0),
        decided=True,
    ),
    Metric("mean_auc", "mean auc", 4, ratings.rate_mean_auc, ratings.mean_gain, "DeLong, mean over the classes"),
    MEAN_ABSOLUTE_ERROR,
    Metric(
        "rmse",
        "root mean squared error",
        3,
        ratings.rate_root_mean_square,
        ratings.mean_reduction,
        "paired squared errors",
        greater=False,
        bounds=(0.0, np.inf),
    ),
)
_BASES = {
    "binary": (score_predictions, Scores),
    "multiclass": (score_classes, ClassScores),
    "regression": (score_errors, ErrorScores),
}


def target_metric(target: Task) -> Metric:
    """Return the metric that decides between blends of `target`."""
    return _find_metric(target.kind, target.metric)


@cache
def _find_metric(kind: str, key: str) -> Metric:
    (metric,) = (metric for metric in _METRICS if metric.key == key)
    base, record = _BASES[kind]
    return replace(metric, base=base, base_columns=tuple(field.name for field in fields(record))[1:])


def oof_figures(oof: pd.Series | pd.DataFrame, folds: Folds) -> dict[str, float]:
    """Return the scores of out-of-fold predictions (n,) or (n, C), indexed by train id, by the names in trackers."""
    metric, pred = target_metric(folds.target), oof.loc[folds.table["id"].tolist()].to_numpy()
    return metric.figures(metric.score(pred, folds.table["label"].to_numpy()), "oof")


def format_oof_score(oof: pd.Series | pd.DataFrame, folds: Folds, corrections: Corrections) -> str:
    """Return the score of out-of-fold predictions (n,) or (n, C), indexed by train id, in words.

    `accuracy 0.9391 on 18000 rows`, followed by the accuracy against the corrected labels if there are corrections, or
    `mean absolute error 5.612 [5.530, 5.694] on 18000 rows`, or for another metric of labels than accuracy
    `auc 0.9812 [0.979, 0.983], accuracy 0.9391 on 18000 rows`.
    """
    ids, labels = folds.table["id"].tolist(), folds.table["label"].to_numpy()
    pred, metric = oof.loc[ids].to_numpy(), target_metric(folds.target)
    if folds.target.regression:
        return f"{metric.format_score(metric.score(pred, labels))} on {len(labels)} rows"
    text = f"accuracy {(decide(pred) == labels).mean():.4f} on {len(labels)} rows"
    if not metric.points:
        text = f"{metric.format_score(metric.score(pred, labels))}, {text}"
    if not corrections.actions:
        return text
    score = score_corrected(pred, corrections.labels(ids, labels))
    return f"{text} against the given labels, {score['accuracy']:.4f} on {score['rows']} against the corrected ones"
