"""Greedy selection: noise is left out, one bag is what selecting by hand gives, and it stays cheap."""

import tracemalloc

import numpy as np
import pytest

from facefold.ensemble import greedy
from facefold.ensemble.metrics import ACCURACY
from facefold.ensemble.scores import decide, log_loss


def simulate(seed: int, rows: int, skill: list[float]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    logit = (2 * labels - 1)[:, None] * np.array(skill) + rng.normal(size=(rows, len(skill)))
    return 1 / (1 + np.exp(-2 * logit)), labels


def by_hand(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The selection of one bag, slowly: each prefix of picks is scored from scratch."""
    picks, best = [], (-1, 0.0, [])
    for _ in range(greedy.STEPS):

        def value(j):
            mean = prob[:, [*picks, j]].sum(axis=1) / (len(picks) + 1)
            return (decide(mean) == labels).sum(), -round(log_loss(mean, labels), 12)

        picks.append(max(range(prob.shape[1]), key=value))
        last = picks.pop()
        score = value(last)
        picks.append(last)
        best = max(best, (*score, list(picks)), key=lambda entry: entry[:2])
    return np.bincount(best[2], minlength=prob.shape[1])


@pytest.mark.parametrize("seed", range(5))
def test_one_bag_selects_as_by_hand(seed):
    prob, labels = simulate(seed, 150, [1.0, 0.8, 0.5, 0])
    selected = greedy._select(np.ascontiguousarray(prob.T), labels == 1, np.ones(150, int), ACCURACY)
    assert selected.tolist() == by_hand(prob, labels).tolist()


def test_a_row_drawn_twice_counts_twice():
    prob, labels = simulate(3, 100, [0.8, 0.6, 0.4])
    times = np.random.default_rng(0).integers(1, 3, 100)
    columns = np.ascontiguousarray(prob.T)
    again = np.repeat(np.arange(100), times)
    repeated = np.ascontiguousarray(columns[:, again])
    by_times = greedy._select(columns, labels == 1, times, ACCURACY)
    assert (by_times == greedy._select(repeated, labels[again] == 1, np.ones(len(again), int), ACCURACY)).all()


@pytest.mark.parametrize("members", [3, 12])  # all members in a bag, and half of them
def test_noise_gets_little_and_the_sum_is_one(members):
    prob, labels = simulate(0, 2000, [1.5, 1.4, *[0] * (members - 2)])
    weights = greedy.search_greedy_weights(prob, labels)
    assert weights.sum() == pytest.approx(1, abs=1e-5) and (weights >= 0).all()
    assert min(weights[:2]) > 2.5 * max(weights[2:])
    assert (decide(prob @ weights) == labels).mean() > (decide(prob[:, 0]) == labels).mean()


def test_the_same_rows_give_the_same_weights():
    prob, labels = simulate(1, 300, [1, 1, 0.5])
    assert (
        greedy.search_greedy_weights(prob, labels) == greedy.search_greedy_weights(prob.copy(), labels.copy())
    ).all()
    assert greedy.search_greedy_weights(prob[:, :1], labels).tolist() == [1]


def test_fifty_members_of_18000_rows_take_little_memory():
    prob, labels = simulate(2, 18_000, list(np.linspace(0.2, 1, 50)))
    tracemalloc.start()
    greedy.search_greedy_weights(prob, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * prob.nbytes
