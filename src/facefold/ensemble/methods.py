"""The methods of blending, in one list from simple to complicated.

A method is anything with a name and `fit(rows, labels, fold)`; what it returns predicts rows it has not seen. `METHODS`
is the order in which `nested.choose` prefers them: a later one must earn its place. The mean comes first: it learns nothing from
the labels, and the best recipe is chosen by them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from facefold.ensemble.calibration import CalibratedMean, RankMean
from facefold.ensemble.greedy import search_greedy_weights
from facefold.ensemble.members import Rows
from facefold.ensemble.second_pass import SecondPass
from facefold.ensemble.stacking import StackFeatures, StackProbs
from facefold.ensemble.votes import search_votes, vote_share
from facefold.ensemble.weights import (
    accuracy_weights,
    best_member_weights,
    equal_weights,
    log_loss_weights,
    weighted_logit_mean,
    weighted_mean,
)
from facefold.utils.errors import InputError

Learn = Callable[[np.ndarray, np.ndarray], np.ndarray]
Combine = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Fitted(Protocol):
    """A method after it has seen rows.

    weights: float (m,), what each member counts for, or (0,) where no number says it; notes: what else it learned.
    """

    @property
    def weights(self) -> np.ndarray: ...

    @property
    def notes(self) -> dict: ...

    def predict(self, rows: Rows) -> np.ndarray:
        """Scores float64 (n,) in 0..1; 0.5 or more decides for label 1 (`scores.decide`)."""


class Method(Protocol):
    @property
    def name(self) -> str: ...

    def fit(self, rows: Rows, labels: np.ndarray, fold: np.ndarray) -> Fitted:
        """Learn from rows (n) and labels (n,) of 0 and 1; `fold` (n,) is there to choose settings over, nested once more."""


@dataclass(frozen=True)
class WeightedFit:
    weights: np.ndarray
    combine: Combine
    notes: dict = field(default_factory=dict)

    def predict(self, rows: Rows) -> np.ndarray:
        return self.combine(rows.prob, self.weights)


@dataclass(frozen=True)
class Weighted:
    """A method that is a rule for weights and a way to combine with them."""

    name: str
    learn: Learn
    combine: Combine

    def fit(self, rows: Rows, labels: np.ndarray, fold: np.ndarray) -> WeightedFit:
        return WeightedFit(self.learn(rows.prob, labels), self.combine)


METHODS: tuple[Method, ...] = (
    Weighted("mean", equal_weights, weighted_mean),
    Weighted("best_single", best_member_weights, weighted_mean),
    Weighted("majority", equal_weights, vote_share),
    Weighted("logit_mean", equal_weights, weighted_logit_mean),
    RankMean(),
    CalibratedMean(),
    Weighted("weighted_mean", log_loss_weights, weighted_mean),
    Weighted("weighted_votes", search_votes, vote_share),
    Weighted("greedy", search_greedy_weights, weighted_mean),
    StackProbs(),
    StackFeatures(),
    SecondPass(),
)
METHOD_NAMES = tuple(method.name for method in METHODS)
WEIGHTED = ("weighted_mean", "weighted_votes")


def with_weights(rule: str | np.ndarray) -> list[Method]:
    """All methods, the weighted ones with the weights of `rule`: auto, equal, accuracy, or fixed weights (m,)."""
    if isinstance(rule, str) and rule == "auto":
        return list(METHODS)
    known = {"equal": equal_weights, "accuracy": accuracy_weights}
    learn = partial(_fixed, rule) if isinstance(rule, np.ndarray) else known[rule]
    return [Weighted(method.name, learn, method.combine) if method.name in WEIGHTED else method for method in METHODS]


def candidate_methods(method: str, rule: str | np.ndarray) -> list[Method]:
    """What may become the submission. A person who says weights gets them: auto then means one of the weighted methods.

    Raises `InputError` for weights that the named method has no use for, and for a method that is not for labels.
    """
    if method not in ("auto", *METHOD_NAMES):
        raise InputError(f"--method {method} predicts numbers: it belongs to --target")
    automatic = isinstance(rule, str) and rule == "auto"
    same = isinstance(rule, str) and rule == "equal" and method in ("mean", "majority")
    if method not in ("auto", *WEIGHTED) and not automatic and not same:
        raise InputError(
            f"--method {method} has no weights to set; leave --weights out, or take --method {' or '.join(WEIGHTED)}"
        )
    wanted = (method,) if method != "auto" else METHOD_NAMES if automatic else WEIGHTED
    return [made for made in with_weights(rule) if made.name in wanted]


def _fixed(given: np.ndarray, prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return given
