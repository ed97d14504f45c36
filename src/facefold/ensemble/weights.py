"""Weights of members: learned on the simplex, from accuracies, or typed by a person; and the weighted mean."""

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from facefold.ensemble.metrics import ACCURACY, MEAN_ABSOLUTE_ERROR, Metric
from facefold.ensemble.scores import TINY, decide, log_loss, logit, own_prob
from facefold.utils.errors import InputError

RULES = ("auto", "equal", "accuracy")  # the words that --weights knows


def weighted_mean(prob: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean (n,) of prob (n, m); weights (m,) >= 0 of any scale."""
    return prob @ (weights / weights.sum())


def weighted_logit_mean(prob: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean of the logits as probabilities (n,): confident members count for more."""
    return expit(logit(prob) @ (weights / weights.sum()))


def equal_weights(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return weight 1 for each member, float64 (m,)."""
    return np.ones(prob.shape[1])


def accuracy_weights(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each member's accuracy, float64 (m,), four decimals; equal weights if all are 0."""
    accuracy = np.round([(decide(prob[:, j]) == labels).mean() for j in range(prob.shape[1])], 4)
    return accuracy if accuracy.any() else np.ones(len(accuracy))


def best_member_weights(prob: np.ndarray, labels: np.ndarray, metric: Metric = ACCURACY) -> np.ndarray:
    """Return all weight on the best member, float64 (m,); of equal ones the one with the least log loss."""
    members = range(prob.shape[1])
    best = max(members, key=lambda j: (metric.goodness(prob[:, j], labels), -log_loss(prob[:, j], labels)))
    return np.eye(prob.shape[1])[best]


def least_error_weights(pred: np.ndarray, values: np.ndarray, metric: Metric = MEAN_ABSOLUTE_ERROR) -> np.ndarray:
    """Return all weight on the member with the least error, float64 (m,)."""
    return np.eye(pred.shape[1])[max(range(pred.shape[1]), key=lambda j: metric.goodness(pred[:, j], values))]


def log_loss_weights(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return weights >= 0 that sum to 1, float64 (m,), whose mean of prob has the least log loss on labels (n,).

    prob: float64 (n, m) or (n, m, C). The log loss of the mean is the negative log likelihood of a mixture, which is
    convex in the weights, and depends on the probabilities of each row's own label alone.
    """
    own = own_prob(prob, labels) if prob.ndim == 3 else np.where(labels[:, None] == 1, prob, 1 - prob)
    likelihood = np.clip(own, TINY, 1)  # (n, m)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixture = np.maximum(likelihood @ weights, TINY)
        return -np.log(mixture).mean(), -(likelihood / mixture[:, None]).mean(axis=0)

    return _minimise_on_simplex(loss, prob.shape[1], 1e-10)


def squared_error_weights(pred: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return weights >= 0 that sum to 1, float64 (m,), whose mean of pred (n, m) has the least squared error.

    Errors on the values (n,) are in standard deviations of the values, so that the tolerance has no unit.
    """
    scale = values.std() or 1.0
    errors = (pred - values[:, None]) / scale
    products = errors.T @ errors / len(errors)
    return _minimise_on_simplex(lambda w: (w @ products @ w, 2 * products @ w), pred.shape[1], 1e-12)


def _minimise_on_simplex(
    loss: Callable[[np.ndarray], tuple[float, np.ndarray]], members: int, tolerance: float
) -> np.ndarray:
    """Return the weights (members,) >= 0 with sum 1 of the least `loss`, a convex function with its gradient.

    SLSQP starts from equal weights. Six decimals are kept, more than the rows can distinguish, so that the last bits of
    a processor's sums do not reach the submission.
    """
    result = minimize(
        loss,
        np.full(members, 1 / members),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": tolerance, "maxiter": 500},
    )
    if not result.success:
        raise RuntimeError(f"the weights of {members} members did not converge: {result.message}")
    return np.round(np.clip(result.x, 0, 1), 6) + 0.0


def parse_weights(text: str, names: list[str]) -> tuple[str | np.ndarray, list[str]]:
    """Parse the value of --weights: one of `RULES`, or `name=w,name=w`.

    Returns the rule as it is, or weights float64 (m,) in the order of `names`; and the names that are not mentioned,
    whose weight is 0. Raises `InputError` for what is not name=number, unknown or repeated names, negative or infinite
    weights, and weights that are all zero.
    """
    if text in RULES:
        return text, []
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, sign, number = (word.strip() for word in part.rpartition("="))  # a name may have = as well
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
        if name in weights:
            raise InputError(f"--weights: '{name}' appears twice")
        if weight < 0:
            raise InputError(f"--weights: {name}={number} is negative; a weight is 0 or more")
        weights[name] = weight
    total = sum(weights.values())
    if total == 0:
        raise InputError("--weights: the weights sum to zero; give at least one recipe a weight above 0")
    if not math.isfinite(total):
        raise InputError("--weights: the weights are too large to add up; only their proportions count")
    return np.array([weights.get(name, 0.0) for name in names]), [name for name in names if name not in weights]
