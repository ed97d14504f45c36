"""The methods of blending, for two classes, for more, and for a regression, each list from simple to complicated.

The order is the one in which `choose_method` prefers them: a later one must be significantly better. The mean comes
first: it learns nothing from the labels, while the best recipe is chosen by them.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from facefold.ensemble.calibration import fit_calibrated_mean, fit_rank_mean
from facefold.ensemble.class_methods import (
    class_vote_share,
    fit_class_rank_mean,
    fit_class_second_pass,
    search_class_greedy_weights,
    search_class_votes,
    weighted_class_mean,
    weighted_log_mean,
)
from facefold.ensemble.class_stacking import fit_class_calibrated_mean, fit_class_stack_probs
from facefold.ensemble.greedy import search_greedy_weights
from facefold.ensemble.members import Fit, Fitted, Rows
from facefold.ensemble.metrics import target_metric
from facefold.ensemble.second_pass import fit_second_pass
from facefold.ensemble.stacking import fit_ridge, fit_stack_features, fit_stack_probs
from facefold.ensemble.votes import search_votes, vote_share
from facefold.ensemble.weights import (
    accuracy_weights,
    best_member_weights,
    equal_weights,
    least_error_weights,
    log_loss_weights,
    squared_error_weights,
    weighted_logit_mean,
    weighted_mean,
)
from facefold.task import Task
from facefold.utils.errors import InputError

Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]


def weighted(learn: Rule, combine: Rule) -> Fit:
    """Return a `fit` that learns weights (m,) of prob, (n, m) or (n, m, C), from labels (n,), and combines prob."""

    def fit(rows: Rows, labels: np.ndarray, fold: np.ndarray) -> Fitted:
        weights = learn(rows.prob, labels)
        return Fitted(lambda rows: combine(rows.prob, weights), weights)

    return fit


METHODS: dict[str, Fit] = {
    "mean": weighted(equal_weights, weighted_mean),
    "best_single": weighted(best_member_weights, weighted_mean),
    "majority": weighted(equal_weights, vote_share),
    "logit_mean": weighted(equal_weights, weighted_logit_mean),
    "rank_mean": fit_rank_mean,
    "calibrated_mean": fit_calibrated_mean,
    "weighted_mean": weighted(log_loss_weights, weighted_mean),
    "weighted_votes": weighted(search_votes, vote_share),
    "greedy": weighted(search_greedy_weights, weighted_mean),
    "stack_probs": fit_stack_probs,
    "stack_features": fit_stack_features,
    "second_pass": fit_second_pass,
}
CLASS_METHODS: dict[str, Fit] = {
    "mean": weighted(equal_weights, weighted_class_mean),
    "best_single": weighted(best_member_weights, weighted_class_mean),
    "majority": weighted(equal_weights, class_vote_share),
    "logit_mean": weighted(equal_weights, weighted_log_mean),
    "rank_mean": fit_class_rank_mean,
    "calibrated_mean": fit_class_calibrated_mean,
    "weighted_mean": weighted(log_loss_weights, weighted_class_mean),
    "weighted_votes": weighted(search_class_votes, class_vote_share),
    "greedy": weighted(search_class_greedy_weights, weighted_class_mean),
    "stack_probs": fit_class_stack_probs,
    "stack_features": fit_stack_features,
    "second_pass": fit_class_second_pass,
}
REGRESSION_METHODS: dict[str, Fit] = {
    "mean": weighted(equal_weights, weighted_mean),
    "best_single": weighted(least_error_weights, weighted_mean),
    "weighted_mean": weighted(squared_error_weights, weighted_mean),
    "ridge": fit_ridge,
}
METHOD_NAMES, REGRESSION_METHOD_NAMES = tuple(METHODS), tuple(REGRESSION_METHODS)
WEIGHTED = ("weighted_mean", "weighted_votes")  # the methods that --weights is for
FEATURE_METHODS = ("stack_features", "second_pass")  # the methods that use features
METHODS_OF_KIND = {"binary": METHODS, "multiclass": CLASS_METHODS, "regression": REGRESSION_METHODS}


def target_methods(target: Task) -> dict[str, Fit]:
    """Return all methods for `target` by name, with learned weights; those that choose do so by its metric."""
    metric, methods = target_metric(target), METHODS_OF_KIND[target.kind]
    if target.regression:
        chosen = {"best_single": weighted(partial(least_error_weights, metric=metric), weighted_mean)}
    else:
        mean, search = weighted_mean, search_greedy_weights
        if target.multiclass:
            mean, search = weighted_class_mean, search_class_greedy_weights
        chosen = {
            "best_single": weighted(partial(best_member_weights, metric=metric), mean),
            "greedy": weighted(partial(search, metric=metric), mean),
        }
    return {name: chosen.get(name, fit) for name, fit in methods.items()}


def check_options(target: Task, method: str, rule: str, leaks: Sequence[str]) -> None:
    """Raise `InputError` for options of blend.py that do not go together.

    Args:
        target: What is predicted.
        method: The value of --method.
        rule: The value of --weights.
        leaks: The names of the leaks to use.
    """
    names = REGRESSION_METHOD_NAMES if target.regression else METHOD_NAMES
    weighted_names = [name for name in WEIGHTED if name in names]
    if method not in ("auto", *names):
        if not target.regression:
            raise InputError(f"--method {method} predicts numbers: it belongs to --target")
        raise InputError(
            f"--method {method} is for labels, and {target.name} is a number. With{target.option} there are auto, "
            f"{', '.join(names)}"
        )
    if target.regression and leaks:
        raise InputError(f"--use-{leaks[0]} is for labels; with{target.option} leave it out")
    if target.multiclass and leaks:
        raise InputError(
            f"--use-{leaks[0]} reads labels 0 and 1, and this task has {len(target.classes)} classes; leave it out"
        )
    if target.regression and rule == "accuracy":
        raise InputError(f"--weights accuracy: {target.name} has none; say auto, equal, or name=w,name=w")
    equal = rule == "equal" and method in ("mean", "majority")
    if rule != "auto" and method not in ("auto", *weighted_names) and not equal:
        raise InputError(
            f"--method {method} has no weights to set; leave --weights out, or take --method "
            f"{' or '.join(weighted_names)}"
        )


def check_features(method: str, runs: list[str]) -> None:
    """Raise `InputError` for a --method that uses features if there are no runs among the members to have them."""
    if method in FEATURE_METHODS and not runs:
        raise InputError(
            f"--method {method} uses features, and predictions made elsewhere have none; take another method, or "
            "blend them with a run"
        )


def blend_methods(target: Task, rule: str | np.ndarray) -> dict[str, Fit]:
    """Return all methods for `target` by name; those of `WEIGHTED` get their weights by `rule`.

    rule: auto (learned), equal, accuracy, or fixed weights float64 (m,).
    """
    methods = target_methods(target)
    if isinstance(rule, str) and rule == "auto":
        return methods
    rules = {"equal": equal_weights, "accuracy": accuracy_weights}
    learn = rules[rule] if isinstance(rule, str) else lambda prob, labels: rule
    combiners = (weighted_class_mean, class_vote_share) if target.multiclass else (weighted_mean, vote_share)
    by_rule = {name: weighted(learn, combine) for name, combine in zip(WEIGHTED, combiners, strict=True)}
    return {name: by_rule.get(name, fit) for name, fit in methods.items()}


def candidate_methods(target: Task, method: str, rule: str | np.ndarray, members: int) -> dict[str, Fit]:
    """Return the methods that may be submitted by name, from simple to complicated.

    Args:
        target: What is predicted.
        method: A name, or auto: all methods, or only those of `WEIGHTED` if the weights are not learned.
        rule: As for `blend_methods`.
        members: The number of members. The mean of one is best_single, the plainer name.
    """
    if method != "auto":
        names = {method}
    elif isinstance(rule, np.ndarray) or rule != "auto":
        names = set(WEIGHTED)
    elif members == 1:  # on one recipe a ridge regression is chosen by bad luck only
        names = {"best_single"} if target.regression else set(METHOD_NAMES) - {"mean"}
    else:
        return blend_methods(target, rule)
    return {name: fit for name, fit in blend_methods(target, rule).items() if name in names}


def member_weights(names: list[str], fitted: Fitted) -> dict[str, float]:
    """Return the weight of each member, six digits; empty if the method has none."""
    return {name: float(f"{weight:.6g}") for name, weight in zip(names, fitted.weights, strict=False)}
