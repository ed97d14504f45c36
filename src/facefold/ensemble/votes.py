"""Hard votes: each member votes 0 or 1, members may have several votes, and the mean probability breaks ties."""

from fractions import Fraction
from itertools import combinations
from math import lcm

import numpy as np

from facefold.ensemble.scores import decide_ones, log_loss

MAX_VOTES = 5
FEW_MEMBERS = 12  # with more, moves of two members and further starts cost too much for the little they find


def vote_share(prob: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the share of votes for label 1, (n,), with the weighted mean probability as one more voter.

    prob is (n, m); weights (m,) >= 0 of any scale, taken as integer votes in their smallest proportion. With W votes, V
    of them for label 1, the score is (V + mean) / (W + 1): it is 0.5 or more exactly if V > W / 2, or V = W / 2 and
    the mean is 0.5 or more. So one number ranks the rows, decides them and breaks ties.
    """
    votes = integer_votes(weights)
    mean = prob @ (votes / votes.sum())
    return (decide_ones(prob) @ votes + mean) / (votes.sum() + 1)


def integer_votes(weights: np.ndarray) -> np.ndarray:
    """Return the smallest integers, int64 (m,), in the proportion of `weights`: 0.5, 0.25, 0 gives 2, 1, 0."""
    relative = np.asarray(weights, dtype=np.float64) / np.max(weights)
    exact = [Fraction(weight).limit_denominator(1000) for weight in relative.tolist()]
    scale = lcm(*(weight.denominator for weight in exact))
    if scale > 10**9:  # many members of odd proportions: six decimals instead
        exact, scale = [Fraction(round(weight * 10**6), 10**6) for weight in relative.tolist()], 10**6
    numbers = np.array([int(weight * scale) for weight in exact], dtype=np.int64)
    return numbers // np.gcd.reduce(numbers)


def search_votes(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return votes per member, int64 (m,) in 0..5, for the most accurate vote on prob (n, m) and labels (n,).

    Accuracy is a step function, hence a hill climb that changes the votes of one member by any number or of two members
    by one. It starts from one, two and three votes each and from the best member alone. Of the many weightings with the
    same votes on all rows, the one whose weighted mean probability has the least log loss is taken.
    """
    return maximise_votes(_Objective(prob, labels), prob.shape[1])


def maximise_votes(objective: "_Objective", members: int) -> np.ndarray:
    """Return the votes of `search_votes` for any objective with these two methods."""
    alone = np.eye(members, dtype=np.int64)
    best_member = max(range(members), key=lambda j: objective(alone[j]))
    numbers = (1, 2, 3) if members <= FEW_MEMBERS else (1,)
    starts = [np.full(members, number) for number in numbers] + [alone[best_member]]
    return integer_votes(max((_climb(start, objective) for start in starts), key=objective))


class _Objective:
    """(correctly decided rows, minus log loss) of votes (m,); larger is better."""

    def __init__(self, prob: np.ndarray, labels: np.ndarray):
        self.prob, self.labels = prob, labels
        hard = decide_ones(prob)
        split = hard.min(axis=1) != hard.max(axis=1)  # no weighting changes the decision of a unanimous row
        self.split_hard, self.split_prob, self.split_labels = hard[split].astype(float), prob[split], labels[split]

    def correct(self, votes: np.ndarray) -> int:
        lead = 2 * (self.split_hard @ votes) - votes.sum()
        tie = np.where(self.split_prob @ (votes / votes.sum()) >= 0.5, 1, -1)
        return int((((lead + tie / 2) > 0) == self.split_labels).sum())

    def __call__(self, votes: np.ndarray) -> tuple[int, float]:
        mean = self.prob @ (votes / votes.sum())
        return self.correct(votes), -round(log_loss(mean, self.labels), 12)


def _moves(members: int) -> list[np.ndarray]:
    unit = np.eye(members, dtype=np.int64)
    moves = [step * unit[j] for j in range(members) for step in range(-MAX_VOTES, MAX_VOTES + 1) if step]
    if members <= FEW_MEMBERS:
        moves += [
            a * unit[i] + b * unit[j] for i, j in combinations(range(members), 2) for a in (-1, 1) for b in (-1, 1)
        ]
    return moves


def _climb(votes: np.ndarray, objective: _Objective) -> np.ndarray:
    value, moved, moves = objective(votes), True, _moves(len(votes))
    while moved:
        moved = False
        for move in moves:
            trial = votes + move
            if trial.min() < 0 or trial.max() > MAX_VOTES or not trial.any() or objective.correct(trial) < value[0]:
                continue
            if (trial_value := objective(trial)) > value:
                votes, value, moved = trial, trial_value, True
    return votes
