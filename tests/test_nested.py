"""Nested scores: rows never judge what they taught, and a choice is judged as a whole."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
from facefold.combine import methods, nested
from facefold.combine.scores import decide
from facefold.errors import InputError

BY_NAME = {method.name: method for method in methods.METHODS}


def random_case(seed: int, rows: int = 120, members: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((rows, members)), rng.integers(0, 2, rows), np.arange(rows) % 5


def test_every_row_is_predicted_by_the_other_folds():
    @dataclass
    class Memory:
        name: str = "memory"

        def fit(self, prob, labels):
            self.seen = set(prob[:, 0])
            return self

        def predict(self, prob):
            assert not self.seen & set(prob[:, 0])
            return prob[:, 0] / 10

    prob = np.arange(10.0)[:, None]
    got = nested.predict(Memory(), prob, np.tile([0, 1], 5), np.arange(10) % 3)
    assert got.tolist() == (prob[:, 0] / 10).tolist()


@pytest.mark.parametrize("name", ["weighted_votes", "best_single"])
def test_random_labels_score_half_nested_and_more_when_not(name):
    honest, flattered = [], []
    for seed in range(100):
        prob, labels, fold = random_case(seed)
        honest.append((decide(nested.predict(BY_NAME[name], prob, labels, fold)) == labels).mean())
        flattered.append((decide(BY_NAME[name].fit(prob, labels).predict(prob)) == labels).mean())
    error = np.std(honest, ddof=1) / np.sqrt(len(honest))
    assert abs(np.mean(honest) - 0.5) < 3 * error
    assert np.mean(flattered) > 0.53


def test_the_choice_itself_is_nested():
    scores = []
    for seed in range(25):
        prob, labels, fold = random_case(seed, rows=80, members=3)
        scores.append((decide(nested.predict_choice(methods.METHODS, prob, labels, fold)) == labels).mean())
    assert abs(np.mean(scores) - 0.5) < 3 * np.std(scores, ddof=1) / 5


def test_two_folds_are_enough_for_a_choice():
    prob, labels, fold = random_case(0)
    got = nested.predict_choice(methods.METHODS, prob, labels, fold % 2)
    assert got.shape == labels.shape and np.isfinite(got).all()


def scored(right: dict[str, int], rows: int = 100) -> tuple[list, dict[str, np.ndarray], np.ndarray]:
    """Methods of the names that decide the first so many rows right, all labels being 1."""
    scores = {name: (np.arange(rows) < count).astype(float) for name, count in right.items()}
    return [BY_NAME[name] for name in right], scores, np.ones(rows, int)


def test_the_simplest_wins_unless_the_gain_is_real():
    choice = nested.choose(*scored({"best_single": 90, "mean": 95, "majority": 95}))  # 5 rows to 0: p = 0.0625
    assert choice.method.name == "best_single"
    assert choice.why == ("best_single is the simplest candidate and no other beats it by a real margin on the same rows "
                          "(McNemar, p < 0.05).")
    choice = nested.choose(*scored({"best_single": 90, "mean": 96, "majority": 99}))  # 6 to 0: p = 0.031; 9 to 0; then 3 to 0
    assert choice.method.name == "mean"
    assert choice.why == ("mean is the simplest method that no other beats by a real margin on the same rows "
                          "(McNemar, p < 0.05); the next simpler one, best_single, is 9.00 points behind majority (p = 0.0039).")


def test_a_method_asked_for_is_not_explained_away():
    assert nested.choose(*scored({"majority": 50})).why == "majority was asked for."


def test_candidates_obey_the_person():
    def names(*args):
        return [method.name for method in methods.candidates(*args)]

    assert names("auto", "auto") == ["best_single", "mean", "majority", "weighted_mean", "weighted_votes"]
    assert names("auto", np.array([1.0, 2])) == ["weighted_mean", "weighted_votes"]
    assert names("mean", "equal") == ["mean"] and names("weighted_mean", "accuracy") == ["weighted_mean"]
    message = "--method majority has no weights to set; leave --weights out, or take --method weighted_mean or weighted_votes"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        methods.candidates("majority", "accuracy")


def test_equal_weights_make_the_weighted_methods_plain():
    prob, labels, fold = random_case(3)
    fixed = {method.name: nested.predict(method, prob, labels, fold) for method in methods.with_weights("equal")}
    assert (fixed["weighted_mean"] == fixed["mean"]).all() and (fixed["weighted_votes"] == fixed["majority"]).all()


def test_weights_by_accuracy_and_by_hand():
    prob = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.9]])
    labels = np.array([1, 1, 1, 0])
    by_accuracy = {m.name: m.fit(prob, labels).weights.tolist() for m in methods.with_weights("accuracy")}
    assert by_accuracy["weighted_votes"] == [0.75, 0.25] and by_accuracy["mean"] == [1, 1]
    by_hand = {m.name: m.fit(prob, labels).weights.tolist() for m in methods.with_weights(np.array([3.0, 1]))}
    assert by_hand["weighted_mean"] == [3, 1]
