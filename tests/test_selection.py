"""Nested scores: rows never judge what they taught, and a choice is judged as a whole."""

import re

import numpy as np
import pytest

from facefold.ensemble import greedy
from facefold.ensemble.decisions import best_threshold, nested_decision, shift_scores
from facefold.ensemble.members import Rows
from facefold.ensemble.methods import METHOD_NAMES, METHODS, blend_methods, candidate_methods, check_options
from facefold.ensemble.scores import decide
from facefold.ensemble.selection import choose_method, cross_predict, nested_predict
from facefold.task import LABEL
from facefold.utils.errors import InputError


def random_case(seed: int, rows: int = 120, members: int = 4) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Rows that know nothing of their labels; the folds have equal shares of the labels, as `make_folds` gives them."""
    rng = np.random.default_rng([7, seed])
    labels = rng.permutation(np.arange(rows) % 2)
    fold = np.empty(rows, int)
    fold[np.argsort(labels, kind="stable")] = np.arange(rows) % 5
    return Rows(rng.random((rows, members)), rng.random(rows)), labels, fold


def test_every_row_is_predicted_by_the_other_folds():
    class Memory:
        def __call__(self, rows, labels, fold):
            assert len(rows.prob) == len(labels) == len(fold) and len(set(fold)) == 2
            self.seen = set(rows.prob[:, 0])
            return self

        def predict(self, rows):
            assert not self.seen & set(rows.prob[:, 0])
            return rows.prob[:, 0] / 10

    prob = np.arange(10.0)[:, None]
    scores = cross_predict(Memory(), Rows(prob, prob[:, 0]), np.tile([0, 1], 5), np.arange(10) % 3)
    assert scores.tolist() == (prob[:, 0] / 10).tolist()


FLATTERED = {"best_single", "weighted_votes", "greedy", "stack_probs"}  # they learn enough of few rows to show it


@pytest.mark.parametrize(
    "name, draws", [(name, 80 if name in ("greedy", "best_single") else 10) for name in METHOD_NAMES]
)
def test_random_labels_score_half_nested_and_more_when_not(name, draws, monkeypatch):
    monkeypatch.setattr(greedy, "BAGS", 1)
    monkeypatch.setattr(greedy, "STEPS", 10)
    nested, flattered = [], []
    for seed in range(draws):
        rows, labels, fold = random_case(seed)
        nested.append((decide(cross_predict(METHODS[name], rows, labels, fold)) == labels).mean())
        flattered.append((decide(METHODS[name](rows, labels, fold).predict(rows)) == labels).mean())
    error = np.std(nested, ddof=1) / np.sqrt(draws)
    assert abs(np.mean(nested) - 0.5) < 3 * error
    assert name not in FLATTERED or np.mean(flattered) > 0.52


def test_the_choice_itself_is_nested():
    names = ("best_single", "mean", "majority", "weighted_mean", "weighted_votes", "stack_probs")
    quick = {name: METHODS[name] for name in names}
    scores = []
    for seed in range(16):
        rows, labels, fold = random_case(seed, rows=60, members=3)
        scores.append((decide(nested_predict(quick, rows, labels, fold % 3)) == labels).mean())
    assert abs(np.mean(scores) - 0.5) < 3 * np.std(scores, ddof=1) / 4


def test_two_folds_are_enough_for_a_choice():
    rows, labels, fold = random_case(0)
    scores = nested_predict(METHODS, rows, labels, fold % 2)
    assert scores.shape == labels.shape and np.isfinite(scores).all()


@pytest.mark.parametrize("members", [1, 2])
def test_every_method_takes_few_members_and_odd_rows(members):
    rng = np.random.default_rng(0)
    prob = rng.integers(0, 2, (30, members)).astype(float)  # sure of everything, ties everywhere
    labels, fold = np.arange(30) % 2, np.arange(30) // 10
    for name, fit in METHODS.items():
        scores = cross_predict(fit, Rows(prob, prob[:, 0]), labels, fold)
        assert ((scores >= 0) & (scores <= 1)).all(), name


def test_best_threshold_by_hand():
    scores, labels = np.array([0.1, 0.55, 0.6, 0.7, 0.9]), np.array([0, 0, 0, 1, 1])
    assert best_threshold(scores, labels) == 0.65
    assert best_threshold(scores, np.array([0, 1, 1, 1, 1])) == 0.5
    assert best_threshold(np.full(5, 0.3), labels) == 0.5  # below all: the most zeros, and nothing nearer
    assert decide(shift_scores(scores, 0.65)).tolist() == labels.tolist()
    assert shift_scores(np.array([0.65]), 0.65).tolist() == [0.5] and shift_scores(scores, 0.5) is scores


@pytest.mark.parametrize("shift, moved", [(0.0, False), (0.15, True)])
def test_the_threshold_moves_only_for_a_real_gain(shift, moved):
    rng = np.random.default_rng(1)
    labels, fold = rng.integers(0, 2, 2000), np.arange(2000) % 5
    scores = np.clip(0.5 + shift + 0.1 * (2 * labels - 1) + 0.1 * rng.normal(size=2000), 0, 1)
    decision, gain = nested_decision(scores, labels, fold, "threshold")
    threshold = decision.threshold
    assert (threshold != 0.5) == moved == (gain.p < 0.05 and gain.gain > 0)
    assert threshold == pytest.approx(0.5 + shift, abs=0.03)


def scored(right: dict[str, int], rows: int = 100) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores by method that decide the first so many rows correctly, all labels being 1."""
    scores = {name: (np.arange(rows) < count).astype(float) for name, count in right.items()}
    return scores, np.ones(rows, int)


def test_the_simplest_wins_unless_the_gain_is_real():
    choice = choose_method(*scored({"mean": 90, "best_single": 95, "majority": 95}))  # 5 rows to 0: p = 0.0625
    assert choice.name == "mean"
    assert choice.why == (
        "mean is the simplest candidate and no other beats it by a real margin on the same rows (McNemar, p < 0.05)."
    )
    choice = choose_method(
        *scored({"mean": 90, "best_single": 96, "majority": 99})
    )  # 6 to 0: p = 0.031; 9 to 0; then 3 to 0
    assert choice.name == "best_single"
    assert choice.why == (
        "best_single is the simplest method that no other beats by a real margin on the same rows "
        "(McNemar, p < 0.05); the next simpler one, mean, is 9.00 points behind majority (p = 0.0039)."
    )


def test_a_method_asked_for_is_not_explained_away():
    assert choose_method(*scored({"majority": 50})).why == "majority was asked for."


def test_candidates_obey_the_person():
    def names(*args):
        return list(candidate_methods(LABEL, *args, members=2))

    assert names("auto", "auto") == [
        "mean",
        "best_single",
        "majority",
        "logit_mean",
        "rank_mean",
        "calibrated_mean",
        "weighted_mean",
        "weighted_votes",
        "greedy",
        "stack_probs",
        "stack_features",
        "second_pass",
    ]
    assert names("auto", np.array([1.0, 2])) == ["weighted_mean", "weighted_votes"]
    assert names("mean", "equal") == ["mean"] and names("weighted_mean", "accuracy") == ["weighted_mean"]
    assert list(candidate_methods(LABEL, "auto", "auto", members=1)) == names("auto", "auto")[1:]
    message = (
        "--method majority has no weights to set; leave --weights out, or take --method weighted_mean or weighted_votes"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        check_options(LABEL, "majority", "accuracy", [])


def test_equal_weights_make_the_weighted_methods_plain():
    rows, labels, fold = random_case(3)
    fixed = {name: cross_predict(fit, rows, labels, fold) for name, fit in blend_methods(LABEL, "equal").items()}
    assert (fixed["weighted_mean"] == fixed["mean"]).all() and (fixed["weighted_votes"] == fixed["majority"]).all()


def test_weights_by_accuracy_and_by_hand():
    prob = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.9]])
    data = Rows(prob, prob[:, 0]), np.array([1, 1, 1, 0]), np.array([0, 1, 0, 1])
    by_accuracy = {name: fit(*data).weights.tolist() for name, fit in blend_methods(LABEL, "accuracy").items()}
    assert by_accuracy["weighted_votes"] == [0.75, 0.25] and by_accuracy["mean"] == [1, 1]
    by_hand = {name: fit(*data).weights.tolist() for name, fit in blend_methods(LABEL, np.array([3.0, 1])).items()}
    assert by_hand["weighted_mean"] == [3, 1]
