"""Weights: the simplex solved as an independent method solves it, and what a person may type."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facefold.ensemble.scores import log_loss
from facefold.ensemble.weights import (
    accuracy_weights,
    best_member_weights,
    least_error_weights,
    log_loss_weights,
    parse_weights,
    squared_error_weights,
    weighted_logit_mean,
    weighted_mean,
)
from facefold.utils.errors import InputError


def simulate(seed: int, rows: int, skill: list[float]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    logit = (2 * labels - 1)[:, None] * np.array(skill) + rng.normal(size=(rows, len(skill)))
    return 1 / (1 + np.exp(-2 * logit)), labels


def test_the_good_member_is_found_among_noise():
    prob, labels = simulate(0, 4000, [1.5, 0, 0])
    weights = log_loss_weights(prob, labels)
    assert weights[0] > 0.8 and weights.sum() == pytest.approx(1, abs=1e-5) and (weights >= 0).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_the_simplex_is_solved_as_em_solves_it(seed, members):
    prob, labels = simulate(seed, 200, list(np.random.default_rng(seed).uniform(0, 2, members)))
    likelihood = np.where(labels[:, None] == 1, prob, 1 - prob)
    em = np.full(members, 1 / members)
    for _ in range(2000):
        em = em * (likelihood / (likelihood @ em)[:, None]).mean(axis=0)
    blended = weighted_mean(prob, log_loss_weights(prob, labels))
    assert log_loss(blended, labels) <= log_loss(prob @ em, labels) + 1e-5


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.permutations(range(4)))
def test_order_of_members_and_rows_changes_nothing(seed, order):
    prob, labels = simulate(seed, 150, [2, 1, 0.5, 0])
    rows = np.random.default_rng(seed).permutation(150)
    expected = log_loss_weights(prob, labels)
    assert log_loss_weights(prob[rows][:, order], labels[rows]) == pytest.approx(expected[list(order)], abs=2e-3)


def test_perfect_and_equal_members():
    labels = np.array([0, 1, 0, 1])
    sure = np.column_stack([labels * 1.0, labels * 1.0, 1.0 - labels])
    assert log_loss_weights(sure, labels)[2] == pytest.approx(0, abs=1e-6)
    assert log_loss_weights(np.full((4, 2), 0.5), labels).tolist() == [0.5, 0.5]
    assert log_loss_weights(np.full((4, 1), 0.3), labels).tolist() == [1]


def test_mean_accuracies_and_best_by_hand():
    labels = np.array([1, 0, 1, 0])
    prob = np.array([[0.8, 0.6, 0.9], [0.6, 0.4, 0.6], [0.7, 0.2, 0.9], [0.1, 0.3, 0.1]])
    assert accuracy_weights(prob, labels).tolist() == [0.75, 0.75, 0.75]
    assert best_member_weights(prob, labels).tolist() == [0, 0, 1]  # equal accuracy: the least log loss
    assert weighted_mean(prob, np.array([2, 1, 1]))[0] == pytest.approx((1.6 + 0.6 + 0.9) / 4)


def test_weights_of_errors_by_hand():
    values = np.array([0.0, 10.0, 20.0, 30.0])
    pred = np.column_stack([values + 1, values - 3, np.zeros(4)])
    assert squared_error_weights(pred, values).tolist() == [0.75, 0.25, 0]  # the errors +1 and -3 cancel
    assert least_error_weights(pred, values).tolist() == [1, 0, 0]


def test_logit_mean_by_hand():
    prob = np.array([[0.9, 0.5], [0.9, 0.1], [1.0, 0.2]])
    assert weighted_logit_mean(prob, np.ones(2)) == pytest.approx([0.75, 0.5, 1 / (1 + (4 / (1e7 - 1)) ** 0.5)])
    assert weighted_logit_mean(prob, np.array([0, 2])) == pytest.approx(prob[:, 1])


def test_parse_orders_by_name_and_tells_who_is_absent():
    weights, absent = parse_weights(" b=2, a=0.5", ["a", "b", "c"])
    assert weights.tolist() == [0.5, 2, 0] and absent == ["c"]
    assert parse_weights("accuracy", ["a"]) == ("accuracy", [])
    weights, absent = parse_weights("a~size=96=2,a#1=1", ["a", "a#1", "a~size=96"])
    assert weights.tolist() == [0, 1, 2] and absent == ["a"]
    with pytest.raises(InputError, match="no recipe 'a~size' among those to blend"):
        parse_weights("a~size=96", ["a", "a~size=96"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("x=1", "--weights: no recipe 'x' among those to blend (a, b)"),
        ("a=-1", "--weights: a=-1 is negative; a weight is 0 or more"),
        ("a=0,b=0", "--weights: the weights sum to zero; give at least one recipe a weight above 0"),
        ("a=1,a=2", "--weights: 'a' appears twice"),
        ("a=nan", "--weights: 'a=nan' is not name=number; say auto, equal, accuracy, or e.g. a=1,b=1"),
        ("a=inf", "--weights: 'a=inf' is not name=number; say auto, equal, accuracy, or e.g. a=1,b=1"),
        ("best", "--weights: 'best' is not name=number; say auto, equal, accuracy, or e.g. a=1,b=1"),
        ("a=1,", "--weights: '' is not name=number; say auto, equal, accuracy, or e.g. a=1,b=1"),
    ],
)
def test_parse_refuses(text, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        parse_weights(text, ["a", "b"])
