"""The methods of blending, in one list from simple to complicated.

A method is anything with a name and `fit(prob, labels)`; what it returns predicts rows it has not seen. `METHODS`
is the order in which `nested.choose` prefers them: a later one must earn its place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from facefold.combine import votes, weights
from facefold.errors import InputError

Learn = Callable[[np.ndarray, np.ndarray], np.ndarray]
Combine = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Fitted(Protocol):
    """A method after it has seen rows. weights: float (m,), what each member counts for."""

    weights: np.ndarray

    def predict(self, prob: np.ndarray) -> np.ndarray:
        """Scores float64 (n,) in 0..1 for prob (n, m); 0.5 or more decides for label 1 (`scores.decide`)."""


class Method(Protocol):
    name: str

    def fit(self, prob: np.ndarray, labels: np.ndarray) -> Fitted:
        """Learn from prob (n, m) and labels (n,) of 0 and 1."""


@dataclass(frozen=True)
class WeightedFit:
    weights: np.ndarray
    combine: Combine

    def predict(self, prob: np.ndarray) -> np.ndarray:
        return self.combine(prob, self.weights)


@dataclass(frozen=True)
class Weighted:
    """A method that is a rule for weights and a way to combine with them."""

    name: str
    learn: Learn
    combine: Combine

    def fit(self, prob: np.ndarray, labels: np.ndarray) -> WeightedFit:
        return WeightedFit(self.learn(prob, labels), self.combine)


METHODS: tuple[Weighted, ...] = (
    Weighted("best_single", weights.best, weights.mean),
    Weighted("mean", weights.equal, weights.mean),
    Weighted("majority", weights.equal, votes.share),
    Weighted("weighted_mean", weights.log_loss_simplex, weights.mean),
    Weighted("weighted_votes", votes.search, votes.share),
)
NAMES = tuple(method.name for method in METHODS)
WEIGHTED = ("weighted_mean", "weighted_votes")


def single(member: int, name: str) -> Weighted:
    """One member as it is, so that recipes and blends are scored alike."""
    return Weighted(name, partial(_only, member), weights.mean)


def with_weights(rule: str | np.ndarray) -> list[Weighted]:
    """All methods, the weighted ones with the weights of `rule`: auto, equal, accuracy, or fixed weights (m,)."""
    if isinstance(rule, str) and rule == "auto":
        return list(METHODS)
    known = {"equal": weights.equal, "accuracy": weights.accuracies}
    learn = partial(_fixed, rule) if isinstance(rule, np.ndarray) else known[rule]
    return [Weighted(method.name, learn, method.combine) if method.name in WEIGHTED else method for method in METHODS]


def candidates(method: str, rule: str | np.ndarray) -> list[Weighted]:
    """What may become the submission. A person who says weights gets them: auto then means one of the weighted methods.

    Raises `InputError` for weights that the named method has no use for.
    """
    automatic = isinstance(rule, str) and rule == "auto"
    same = isinstance(rule, str) and rule == "equal" and method in ("mean", "majority")
    if method not in ("auto", *WEIGHTED) and not automatic and not same:
        raise InputError(f"--method {method} has no weights to set; leave --weights out, "
                         f"or take --method {' or '.join(WEIGHTED)}")
    wanted = (method,) if method != "auto" else NAMES if automatic else WEIGHTED
    return [made for made in with_weights(rule) if made.name in wanted]


def _only(member: int, prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.eye(prob.shape[1])[member]


def _fixed(given: np.ndarray, prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return given
