"""Hard votes: a known answer, the tie rule, and the search against all weightings there are."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facefold.ensemble.scores import decide, log_loss
from facefold.ensemble.votes import integer_votes, search_votes, vote_share


def test_three_independent_voters_of_70_percent_give_784():
    cases = np.array(list(product([0, 1], repeat=3)), dtype=float)  # label 1: a vote for 1 is right
    chance = np.prod(np.where(cases == 1, 0.7, 0.3), axis=1)
    right = decide(vote_share(cases * 0.8 + 0.1, np.ones(3)))
    assert chance @ right == pytest.approx(0.784)


def test_a_tie_goes_by_the_mean_probability():
    prob = np.array([[0.9, 0.4], [0.6, 0.1], [0.5, 0.4999], [0.7, 0.3]])
    assert decide(vote_share(prob, np.ones(2))).tolist() == [1, 0, 0, 1]
    assert vote_share(prob, np.ones(2)) == pytest.approx([(1 + 0.65) / 3, (1 + 0.35) / 3, (1 + 0.49995) / 3, 0.5])


def test_votes_outvote_probabilities():
    prob = np.array([[0.51, 0.51, 0.0], [0.49, 0.49, 1.0]])
    assert decide(vote_share(prob, np.ones(3))).tolist() == [1, 0]
    assert decide(vote_share(prob, np.array([1, 1, 2]))).tolist() == [0, 1]  # two against two: the mean decides
    assert decide(vote_share(prob, np.array([1.0, 1.0, 3.0]))).tolist() == [0, 1]


def test_integer_votes_keep_the_proportion():
    assert integer_votes(np.array([0.5, 0.25, 0])).tolist() == [2, 1, 0]
    assert integer_votes(np.array([0.1, 0.2, 0.3])).tolist() == [1, 2, 3]
    assert integer_votes(np.array([4, 2, 2])).tolist() == [2, 1, 1]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(0, 5), min_size=6, max_size=6), st.integers(0, 10**6))
def test_share_decides_as_counting_does(members, weights, seed):
    weights = np.array(weights[:members])
    weights[0] += 1
    prob = np.random.default_rng(seed).random((30, members)).round(1)
    lead = (2 * (prob >= 0.5) - 1) @ weights
    tie = prob @ weights / weights.sum()
    expected = np.where(lead > 0, 1, np.where(lead < 0, 0, tie >= 0.5))
    clear = (lead != 0) | (np.abs(tie - 0.5) > 1e-9)
    score = vote_share(prob, weights)
    assert (decide(score) == expected)[clear].all()
    assert ((score >= 0) & (score <= 1)).all()


@pytest.mark.parametrize("seed", range(8))
def test_search_comes_close_to_the_best_of_all_weightings(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 1000)
    skill = rng.uniform(0.5, 2, 3)
    prob = 1 / (1 + np.exp(-((2 * labels - 1)[:, None] * skill + 1.5 * rng.normal(size=(1000, 3)))))

    def correct(weights) -> int:
        return int((decide(vote_share(prob, np.array(weights))) == labels).sum())

    most = max(correct(weights) for weights in product(range(6), repeat=3) if any(weights))
    assert correct(search_votes(prob, labels)) >= most - 3  # a climb, not an enumeration: within 0.3 points


def test_search_gives_the_better_model_more_votes_and_noise_none():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 3000)
    logit = (2 * labels - 1)[:, None] * np.array([2.5, 1.2, 1.2, 0]) + 1.5 * rng.normal(size=(3000, 4))
    votes = search_votes(1 / (1 + np.exp(-logit)), labels)
    assert votes[0] == max(votes) and votes[0] > votes[1] and votes[3] <= 1


def test_equal_accuracy_is_decided_by_log_loss():
    labels = np.array([0, 1, 0, 1])
    prob = np.column_stack([np.where(labels, 0.6, 0.4), np.where(labels, 0.9, 0.1)])
    assert search_votes(prob, labels).tolist() == [0, 1]
    assert log_loss(prob[:, 1], labels) < log_loss(prob.mean(axis=1), labels)


@pytest.mark.parametrize(
    "weights, expected",
    [([1e-7, 2e-7], [1, 2]), ([1e30, 1.0], [1, 0]), ([3, 1, 1, 1], [3, 1, 1, 1]), ([0.5, 0.25, 0], [2, 1, 0])],
)
def test_integer_votes_keep_proportions_of_any_scale(weights, expected):
    assert integer_votes(np.array(weights)).tolist() == expected


def test_many_odd_proportions_stay_within_whole_numbers():
    weights = np.random.default_rng(0).random(40)
    assert np.abs(integer_votes(weights) / integer_votes(weights).max() - weights / weights.max()).max() < 1e-5
