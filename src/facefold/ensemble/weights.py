"""Weights of members: learned on the simplex, from accuracies, or given by a person; and the weighted mean."""

import math

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from facefold.ensemble.metrics import TINY, decide, log_loss, logit
from facefold.utils.errors import InputError


def weighted_mean(prob: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted mean probability (n,) of prob (n, m); weights (m,) >= 0 of any scale."""
    return prob @ (weights / weights.sum())


def weighted_logit_mean(prob: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The (weighted) mean of the logits as a probability (n,): a sure member counts for more than in the mean."""
    return expit(logit(prob) @ (weights / weights.sum()))


def equal_weights(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One vote a member, float64 (m,)."""
    return np.ones(prob.shape[1])


def accuracy_weights(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each member's share of right decisions, float64 (m,), four decimals; equal weights where none is ever right."""
    right = np.round((decide(prob) == labels[:, None]).mean(axis=0), 4)
    return right if right.any() else np.ones(len(right))


def best_member_weights(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """All weight on the most accurate member, float64 (m,); equal accuracy is decided by log loss."""
    correct = (decide(prob) == labels[:, None]).sum(axis=0)
    winner = max(range(prob.shape[1]), key=lambda j: (correct[j], -log_loss(prob[:, j], labels)))
    return np.eye(prob.shape[1])[winner]


def log_loss_weights(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weights >= 0 that sum to 1, float64 (m,), whose mean of prob (n, m) has the least log loss on labels (n,).

    The mean's log loss is the negative log likelihood of a mixture, convex in the weights: SLSQP with the exact
    gradient from equal weights finds the minimum. Six decimals are kept, more than the rows can tell apart, so
    that the last bits of a processor's sums do not reach the submission.
    """
    likelihood = np.clip(np.where(labels[:, None] == 1, prob, 1 - prob), TINY, 1)  # (n, m) of each row's own label

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixture = np.maximum(likelihood @ weights, TINY)
        return -np.log(mixture).mean(), -(likelihood / mixture[:, None]).mean(axis=0)

    members = prob.shape[1]
    found = minimize(
        loss,
        np.full(members, 1 / members),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-10, "maxiter": 500},
    )
    if not found.success:
        raise RuntimeError(f"the weights of {members} members did not converge: {found.message}")
    return np.round(np.clip(found.x, 0, 1), 6) + 0.0


def parse_weights(text: str, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Weights a person gave as `name=w,name=w`: float64 (m,) in the order of `names`, and the names not mentioned (0).

    Raises `InputError` for what is not name=number, unknown or repeated names, negative or infinite weights, and
    weights that are all zero.
    """
    given: dict[str, float] = {}
    for part in text.split(","):
        name, sign, number = (piece.strip() for piece in part.partition("="))
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not sign or not math.isfinite(weight):
            raise InputError(
                f"--weights: '{part.strip()}' is not name=number; say auto, equal, accuracy, or e.g. "
                f"{','.join(f'{name}=1' for name in names)}"
            )
        if name not in names:
            raise InputError(f"--weights: no recipe '{name}' among those to blend ({', '.join(names)})")
        if name in given:
            raise InputError(f"--weights: '{name}' is given twice")
        if weight < 0:
            raise InputError(f"--weights: {name}={number} is negative; a weight is 0 or more")
        given[name] = weight
    weights = np.array([given.get(name, 0.0) for name in names])
    if weights.sum() == 0:
        raise InputError("--weights: the weights sum to zero; give at least one recipe a weight above 0")
    if not math.isfinite(weights.sum()):
        raise InputError("--weights: the weights are too large to add up; only their proportions count")
    return weights, [name for name in names if name not in given]
