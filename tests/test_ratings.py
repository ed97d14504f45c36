"""Every metric by hand and against scikit-learn; intervals and paired comparisons against DeLong and the bootstrap."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from facefold.data.corrections import NO_CORRECTIONS
from facefold.data.folds import Folds
from facefold.ensemble.metrics import format_oof_score, target_metric
from facefold.ensemble.ratings import (
    Rating,
    mean_gain,
    rate_auc,
    rate_balanced_accuracy,
    rate_log_loss,
    rate_macro_f1,
    rate_mean_auc,
    rate_quadratic_kappa,
    rate_root_mean_square,
)
from facefold.ensemble.scores import Z95, decide, score_classes
from facefold.task import METRICS, Task

CLASSES = ("a", "b", "c", "d")


def task(metric: str, kind: str = "multiclass") -> Task:
    if kind == "regression":
        return Task("age", kind=kind, classes=(), metric=metric, submission="values")
    return Task(kind=kind, classes=CLASSES if kind == "multiclass" else ("0", "1"), metric=metric)


def sure(decided: list[int], classes: int = 3) -> np.ndarray:
    """Return scores (n, C) that decide for these classes."""
    return np.eye(classes)[decided] * 0.7 + 0.1


def drawn(rows: int = 400, classes: int = 4, skill: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = draw.choice(classes, rows, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))
    logits = draw.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += skill
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


LABELS, DECIDED = np.array([0, 0, 1, 1, 2, 2]), [0, 1, 1, 1, 2, 0]


def test_macro_f1_by_hand():
    # class 0: 1 of 2 and 2; class 1: 2 of 2 and 3; class 2: 1 of 2 and 1
    assert rate_macro_f1(sure(DECIDED), LABELS).value == pytest.approx((2 / 4 + 4 / 5 + 2 / 3) / 3)
    assert rate_macro_f1(sure([1, 1]), np.array([1, 1])).value == 1  # a class that never occurs does not count


def test_balanced_accuracy_by_hand():
    assert rate_balanced_accuracy(sure(DECIDED), LABELS).value == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert rate_balanced_accuracy(sure([0, 1, 1]), np.array([0, 0, 1])).value == pytest.approx(3 / 4)


def test_quadratic_kappa_by_hand():
    # squares 0 1 0 0 0 4: 5 / 6; labels 0 0 1 1 2 2, decided 0 1 1 1 2 0: expected is the mean over all 36 pairs
    pairs = np.mean([(a - b) ** 2 for a in LABELS for b in DECIDED])
    assert rate_quadratic_kappa(sure(DECIDED), LABELS).value == pytest.approx(1 - 5 / 6 / pairs)
    assert rate_quadratic_kappa(sure([1, 1]), np.array([1, 1])).value == 1
    assert rate_quadratic_kappa(sure([1, 1]), np.array([0, 0])).value == 0


def test_log_loss_and_mean_auc_by_hand():
    prob, labels = np.array([[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.3, 0.3, 0.4]]), np.array([0, 1, 0])
    assert rate_log_loss(prob, labels).value == pytest.approx(-(math.log(0.5) + math.log(0.6) + math.log(0.3)) / 3)
    # column 0: 0.5 and 0.3 above 0.2; column 1: 0.6 above 0.3 twice; class 2 does not occur
    assert rate_mean_auc(prob, labels).value == 1
    assert rate_mean_auc(prob[[1, 0, 2]], labels).value == (0 + 0.25) / 2


def test_errors_by_hand():
    rating = rate_root_mean_square(np.array([1.0, 2.0, 5.0]), np.array([1.0, 1.0, 3.0]))
    assert rating.value == pytest.approx(math.sqrt(5 / 3))
    score = target_metric(task("rmse", "regression")).score(np.array([1.0, 2.0, 5.0]), np.array([1.0, 1.0, 3.0]))
    assert score["rmse_low"] < score["rmse"] < score["rmse_high"] and score["mae"] == 1
    assert rate_root_mean_square(np.ones(2), np.ones(2)).value == 0


def test_values_are_those_of_scikit_learn():
    prob, labels = drawn()
    decided = decide(prob)
    expected = {
        "accuracy": reference.accuracy_score(labels, decided),
        "log_loss": reference.log_loss(labels, prob),
        "macro_f1": reference.f1_score(labels, decided, average="macro"),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, decided),
        "qwk": reference.cohen_kappa_score(labels, decided, weights="quadratic"),
        "mean_auc": reference.roc_auc_score(labels, prob, multi_class="ovr"),
    }
    assert set(expected) == set(METRICS["multiclass"])
    for key, value in expected.items():
        score = target_metric(task(key)).score(prob, labels)
        assert score[key] == pytest.approx(value, abs=1e-9), key
        low, high = (score[name] for name in target_metric(task(key)).interval_keys)
        assert low < value < high and set(target_metric(task(key)).columns) < set(score)
    ones, one = (labels > 1).astype(int), prob[:, 2:].sum(axis=1)
    binary = {
        "auc": reference.roc_auc_score(ones, one),
        "log_loss": reference.log_loss(ones, one),
        "macro_f1": reference.f1_score(ones, one >= 0.5, average="macro"),
        "balanced_accuracy": reference.balanced_accuracy_score(ones, one >= 0.5),
    }
    for key, value in binary.items():
        assert target_metric(task(key, "binary")).score(one, ones)[key] == pytest.approx(value, abs=1e-9), key


def test_the_comparison_of_areas_is_that_of_delong():
    prob, labels = drawn(200)
    ones, a, b = labels == 3, prob[:, 3], drawn(200, seed=1)[0][:, 3]

    def placements(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        above = (score[ones][:, None] > score[~ones]).astype(float) + 0.5 * (score[ones][:, None] == score[~ones])
        return above.mean(axis=1), above.mean(axis=0)

    (ones_a, zeros_a), (ones_b, zeros_b) = placements(a), placements(b)
    gain = ones_a.mean() - ones_b.mean()
    error = math.sqrt((ones_a - ones_b).var(ddof=1) / ones.sum() + (zeros_a - zeros_b).var(ddof=1) / (~ones).sum())
    result = target_metric(task("auc", "binary")).compare(a, b, ones.astype(int))
    assert result.gain == pytest.approx(gain)
    assert (result.high - result.low) / 2 == pytest.approx(Z95 * error, rel=1e-9)
    alone = target_metric(task("auc", "binary")).score(a, ones.astype(int))
    spread = rate_auc(a, ones.astype(int)).rows.std(ddof=1) / math.sqrt(200)
    assert (alone["auc_high"] - alone["auc"]) == pytest.approx(Z95 * spread)
    assert math.isnan(rate_auc(a, np.ones(200, int)).value)


@pytest.mark.parametrize("key", ["macro_f1", "balanced_accuracy", "qwk", "mean_auc", "log_loss"])
def test_standard_errors_are_those_of_the_bootstrap(key):
    (a, labels), metric = drawn(600), target_metric(task(key))
    b = 0.5 * a + 0.5 * drawn(600, seed=2)[0]
    draw, values, gains = np.random.default_rng(0), [], []
    for _ in range(300):
        rows = draw.integers(0, 600, 600)
        values.append(metric.rate(a[rows], labels[rows]).value)
        gains.append(values[-1] - metric.rate(b[rows], labels[rows]).value)
    assert metric.rate(a, labels).rows.std() / math.sqrt(600) == pytest.approx(np.std(values), rel=0.15)
    gain = metric.compare(a, b, labels)
    assert (gain.high - gain.low) / 2 / Z95 == pytest.approx(np.std(gains), rel=0.15)
    difference = metric.rate(a, labels).value - metric.rate(b, labels).value
    assert gain.gain == pytest.approx(difference if metric.greater else -difference)


def test_a_gain_is_positive_where_a_is_better_and_nothing_gains_over_itself():
    good, labels = drawn(skill=2.0)
    for key in METRICS["multiclass"]:
        metric, bad = target_metric(task(key)), drawn(skill=0.5, seed=1)[0]
        gain, same = metric.compare(good, bad, labels), metric.compare(good, good, labels)
        assert gain.gain > 0 and gain.low > 0 and gain.p < 1e-3, key
        assert same.gain == 0 and same.p == 1, key
        assert metric.goodness(good, labels) > metric.goodness(bad, labels)
        assert metric.rank(metric.score(good, labels)) < metric.rank(metric.score(bad, labels))
    for key in METRICS["regression"]:
        metric, values = target_metric(task(key, "regression")), np.arange(50.0)
        assert metric.compare(values + 1 + 0.01 * values, values - 3, values).gain > 0


def test_few_rows_on_which_two_differ_are_no_proof():
    """Four rows to none have p = 0.125 by McNemar; the normal test alone says 0.045."""
    decided = np.zeros(1000, int)
    other = decided.copy()
    other[:4] = 1
    wins = Rating((np.arange(1000) < 4).astype(float), other)
    assert mean_gain(wins, Rating(np.zeros(1000), decided)).p > 0.05
    assert mean_gain(Rating(wins.rows), Rating(np.zeros(1000))).p < 0.05


def test_calibration_of_classes_is_that_of_the_likeliest():
    prob = np.array([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    score = score_classes(prob, np.array([0, 0]))
    assert score.ece == pytest.approx((0.4 + 0.8) / 2) and (score.accuracy, score.rows) == (0.5, 2)


def test_words_and_columns_of_a_metric():
    prob, labels = drawn()
    metric = target_metric(task("qwk"))
    score = metric.score(prob, labels) | {"qwk": 0.51234, "qwk_low": 0.45, "qwk_high": 0.5555}
    assert metric.format_score(score) == "quadratic weighted kappa 0.5123 [0.450, 0.555]"
    assert metric.columns[:4] == ("qwk", "qwk_low", "qwk_high", "accuracy") and "auc" not in metric.columns
    assert target_metric(task("auc", "binary")).columns == target_metric(task("accuracy", "binary")).columns
    assert metric.format_gain(0.01234) == "0.0123"
    assert target_metric(task("accuracy")).format_gain(0.01) == "1.00 points"


def test_the_score_after_training_names_the_metric_of_the_task():
    prob, labels = drawn(50)
    ids = [str(row) for row in range(50)]
    table = pd.DataFrame({"id": ids, "label": labels, "group": ids, "fold": np.arange(50) % 5})

    def text(metric: str) -> str:
        folds = Folds(table, 5, 0, "", "", "", task(metric))
        return format_oof_score(pd.DataFrame(prob, index=ids, columns=folds.target.columns), folds, NO_CORRECTIONS)

    accuracy = f"accuracy {(decide(prob) == labels).mean():.4f} on 50 rows"
    assert text("accuracy") == accuracy
    assert re.fullmatch(r"macro F1 0\.\d{4} \[0\.\d{3}, 0\.\d{3}\], " + re.escape(accuracy), text("macro_f1"))
