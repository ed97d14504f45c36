"""What makes labels of scores: thresholds, offsets and cut points by hand, and only where they gain."""

import numpy as np
import pytest

from facefold.ensemble.decisions import (
    Decision,
    best_cuts,
    best_offsets,
    best_threshold,
    decision_kind,
    expected_class,
    nested_decision,
)
from facefold.ensemble.metrics import target_metric
from facefold.ensemble.ratings import quadratic_kappa
from facefold.ensemble.scores import decide
from facefold.task import Task


def of_classes(metric: str, submission: str = "labels") -> Task:
    return Task(kind="multiclass", classes=("a", "b", "c"), metric=metric, submission=submission)


def skewed(rows: int = 1500, shift: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (n, 3) whose last class is too unlikely by `shift` in the logarithm, and labels."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, rows)
    logits = draw.normal(size=(rows, 3))
    logits[np.arange(rows), labels] += 1.5
    logits[:, 2] -= shift
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


def test_the_kind_follows_the_metric_and_what_is_submitted():
    assert decision_kind(Task()) == decision_kind(Task(metric="macro_f1")) == "threshold"
    assert decision_kind(Task(metric="auc")) == decision_kind(Task(submission="probabilities")) == "none"
    assert decision_kind(of_classes("qwk")) == "cuts" and decision_kind(of_classes("accuracy")) == "offsets"
    assert decision_kind(of_classes("log_loss")) == decision_kind(of_classes("macro_f1", "probabilities")) == "none"
    age = Task("age", kind="regression", classes=(), metric="mae", submission="values")
    assert decision_kind(age) == "none"


def test_a_threshold_for_another_metric_by_hand():
    scores, labels = np.array([0.1, 0.2, 0.3, 0.4, 0.45]), np.array([0, 0, 0, 0, 1])
    assert best_threshold(scores, labels, target_metric(Task(metric="macro_f1"))) == 0.425
    scores, labels = np.array([0.1, 0.2, 0.7, 0.8, 0.9]), np.array([1, 0, 0, 0, 1])
    # recall of class 0 and 1: 3/3 and 1/2 from 0.85 on, 1/3 and 1/2 at 0.5
    assert best_threshold(scores, labels, target_metric(Task(metric="balanced_accuracy"))) == 0.85


def test_offsets_find_a_class_that_is_too_unlikely():
    prob, labels = skewed()
    for metric in ("accuracy", "macro_f1", "balanced_accuracy"):
        offsets = best_offsets(prob, labels, target_metric(of_classes(metric)))
        assert offsets[2] - max(offsets[:2]) == pytest.approx(1.5, abs=0.5), metric
        changed = Decision("offsets", offsets).apply(prob)
        assert (decide(changed) == labels).mean() > (decide(prob) == labels).mean() + 0.02
        assert changed.sum(axis=1) == pytest.approx(1)
        shifted = np.log(prob) + offsets
        assert (decide(changed) == shifted.argmax(axis=1)).all()


def test_offsets_are_as_good_as_their_search_says():
    prob, labels = skewed(200)
    metric = target_metric(of_classes("macro_f1"))
    best = metric.rate(Decision("offsets", best_offsets(prob, labels, metric)).apply(prob), labels).value
    for c in range(3):
        for change in (0.2, -0.2):
            offsets = np.array(best_offsets(prob, labels, metric))
            offsets[c] += change
            assert metric.rate(Decision("offsets", tuple(offsets)).apply(prob), labels).value <= best + 1e-12


def test_cut_points_on_the_expected_class():
    assert expected_class(np.array([[0.2, 0.5, 0.3]])) == pytest.approx(1.1)
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 900)
    centre = 0.6 * labels + 0.2 + 0.15 * draw.normal(size=900)  # expected classes are too close to each other
    high = np.clip(centre / 2, 0.01, 0.99)
    prob = np.stack([(1 - high) ** 2, 2 * high * (1 - high), high**2], axis=1)
    cuts = best_cuts(prob, labels)
    assert cuts == pytest.approx((0.5, 1.1), abs=0.1)
    decided = np.searchsorted(cuts, expected_class(prob), side="right")
    assert quadratic_kappa(decided, labels) > quadratic_kappa(decide(prob), labels) + 0.05
    changed = Decision("cuts", cuts).apply(prob)
    assert (decide(changed) == decided).all() and changed.sum(axis=1) == pytest.approx(1)
    assert (changed[decided == decide(prob)] == prob[decided == decide(prob)]).all()
    decision, gain = nested_decision(prob, labels, np.arange(900) % 5, "cuts", target_metric(of_classes("qwk")))
    assert decision.kind == "cuts" and gain.p < 0.05


@pytest.mark.parametrize("shift, kind", [(1.5, "offsets"), (0.0, "none")])
def test_a_decision_is_kept_only_for_a_real_gain(shift, kind):
    prob, labels = skewed(shift=shift)
    metric = target_metric(of_classes("accuracy"))
    decision, gain = nested_decision(prob, labels, np.arange(len(labels)) % 5, "offsets", metric)
    assert decision.kind == kind and (gain.p < 0.05 and gain.gain > 0) == (kind == "offsets")
    assert nested_decision(prob, labels, np.arange(len(labels)) % 5, "none", metric) == (Decision(), None)
    assert Decision().apply(prob) is prob


def test_random_labels_gain_nothing_by_offsets():
    gains = []
    for seed in range(20):
        draw = np.random.default_rng(seed)
        prob = draw.dirichlet(np.ones(3), 120)
        labels = draw.permutation(np.arange(120) % 3)
        decision, gain = nested_decision(
            prob, labels, np.arange(120) % 5, "offsets", target_metric(of_classes("accuracy"))
        )
        gains.append(gain.gain)
    assert abs(np.mean(gains)) < 3.5 * np.std(gains, ddof=1) / np.sqrt(20) + 0.01
