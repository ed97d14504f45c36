"""Classifiers of scikit-learn on the features of a frozen backbone, kept as plain arrays that numpy applies.

    svm        SVC with an RBF kernel, one for each class against the rest if there are more than two; Platt's scaling
               turns margins into logits. Of a number: SVR.
    logistic   logistic regression, its penalty chosen on inner folds. Of a number: ridge regression.
    network    one hidden layer of 64 units (MLPClassifier, MLPRegressor).
    boosting   gradient boosting of trees (HistGradientBoostingClassifier, HistGradientBoostingRegressor).

A fitted state is a dict of arrays, which weights.safetensors keeps:

    mean, scale                float64 (F,), of the training rows
    support_vectors            float32 (m, F), standardised                      svm only
    dual_coef, intercept       float64 (m, M), (M,): the M margins of a row      svm only
    gamma                      float64 (1,), of the kernel exp(-gamma d^2)       svm only
    roots, feature, threshold, children, value   the trees, see boosting.py      boosting only
    weight_<i>, bias_<i>       float64 (in, out), (out,): linear layers with ReLU between them
    classes                    int64 (P,): those among the training rows         more than two classes only
    absent                     float64 (C,): the log probability of the others   more than two classes only
"""

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from facefold.data.fold_methods import stratified_folds
from facefold.models.boosting import BOOSTING_SETTINGS, boosting_state, fit_in_one_thread, tree_sums
from facefold.models.svm import RbfKernel, svm_margins
from facefold.task import Task

State = dict[str, np.ndarray]

LOGISTIC_C = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # of 1,280 features of 1,000 images 1e-3 and 1e-2 were the best
RIDGE_ALPHA = 1000.0  # likewise
# Platt's two numbers need few folds, and each more costs nearly another fit.
INNER_FOLDS = 3
HIDDEN, NETWORK_ALPHA, NETWORK_EPOCHS = 64, 10.0, 30
BLOCK = 1024  # rows that are predicted at a time


def fit_classifier(
    kind: str,
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    task: Task,
    seed: int,
    feature_scale: np.ndarray | float = 1.0,
) -> State:
    """Fit a classifier, or for a regression task a regressor, on standardised features; return its state.

    One thread gives the same bytes on any number of cores. A class without rows has the log probability of one row
    more than there are.

    Args:
        kind: One of `settings.CLASSIFIERS`.
        features: float32 (n, F).
        labels: (n,), indices of classes or values.
        groups: (n,), of near-duplicates, which inner folds do not divide.
        task: What the labels are.
        seed: Of the inner folds and the network's weights.
        feature_scale: (F,), by which standardised features are multiplied.
    """
    with threadpool_limits(1):
        state = _fit_scaler(features, feature_scale)
        x = _standardise(state, features).astype(np.float64)
        if task.regression:
            return state | _fit_values(kind, x, labels, seed)
        present, codes = np.unique(labels, return_inverse=True)
        if task.multiclass:
            absent = np.full(len(task.classes), -np.log(len(labels) + 1))
            state |= {"classes": present.astype(np.int64), "absent": absent}
        if len(present) == 1:  # nothing can be learned but its share
            bias = 0.0 if task.multiclass else (1 if present[0] else -1) * np.log(len(labels) + 1)
            return state | {"weight_0": np.zeros((x.shape[1], 1)), "bias_0": np.array([bias])}
        inner = stratified_folds(codes, groups, INNER_FOLDS, seed)
        fits = {"logistic": _fit_logistic, "svm": _fit_svm, "network": _fit_network, "boosting": _fit_boosting}
        fitted = fits[kind](x, codes, inner, seed)
        return state | (_two_outputs(fitted) if task.multiclass and len(present) == 2 else fitted)


def apply_classifier(state: State, features: np.ndarray) -> np.ndarray:
    """Return what a fitted state predicts of features (n, F), float64.

    (n,): logits of the second of two classes, or values. (n, C): log probabilities of more than two classes.
    """
    with threadpool_limits(1):
        blocks = [_apply(state, features[start : start + BLOCK]) for start in range(0, len(features), BLOCK)]
    return np.concatenate(blocks)


def _apply(state: State, features: np.ndarray) -> np.ndarray:
    x = _standardise(state, features).astype(np.float64)
    if "support_vectors" in state:
        x = svm_margins(state, x)
    if "roots" in state:
        x = tree_sums(state, x)
    layers = sum(name.startswith("weight_") for name in state)
    for number in range(layers):
        x = np.maximum(x, 0) if number else x
        x = x @ state[f"weight_{number}"] + state[f"bias_{number}"]
    if "classes" not in state:
        return x[:, 0]
    outputs = np.tile(state["absent"], (len(x), 1))
    outputs[:, state["classes"]] = x - np.logaddexp.reduce(x, axis=1, keepdims=True)
    return outputs


def _fit_scaler(features: np.ndarray, feature_scale: np.ndarray | float) -> State:
    from sklearn.preprocessing import StandardScaler  # as all of scikit-learn slow to import, and only needed to fit

    scaler = StandardScaler().fit(features)
    return {"mean": scaler.mean_, "scale": scaler.scale_ / feature_scale}


def _standardise(state: State, features: np.ndarray) -> np.ndarray:
    """Return standardised features float32 (n, F): rounded before they are fitted, so that a state keeps all of it."""
    return ((features - state["mean"]) / state["scale"]).astype(np.float32)


def _inner_splits(inner: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the positions of the rows to learn from and of those to predict, for each inner fold that has rows."""
    for fold in np.unique(inner):
        yield np.flatnonzero(inner != fold), np.flatnonzero(inner == fold)


def _fit_logistic(x: np.ndarray, labels: np.ndarray, inner: np.ndarray, seed: int) -> State:
    """Fit with the penalty that has the least log loss on the inner folds."""
    losses = [_inner_log_loss(x, labels, inner, c) for c in LOGISTIC_C]
    return _fit_linear(x, labels, LOGISTIC_C[int(np.argmin(losses))])


def _inner_log_loss(x: np.ndarray, labels: np.ndarray, inner: np.ndarray, c: float) -> float:
    from sklearn.linear_model import LogisticRegression

    total = 0.0
    for learned, held_out in _inner_splits(inner):
        classes = np.unique(labels[learned])
        # A class that is in no other inner fold says nothing of the penalty.
        scored = held_out[np.isin(labels[held_out], classes)]
        if len(classes) > 1 and len(scored):
            model = LogisticRegression(C=c, max_iter=1000).fit(x[learned], labels[learned])
            own = np.searchsorted(classes, labels[scored])
            total -= model.predict_log_proba(x[scored])[np.arange(len(own)), own].sum()
    return total


def _fit_linear(x: np.ndarray, labels: np.ndarray, c: float) -> State:
    """Fit a logistic regression of two or more classes; one output for two."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, max_iter=1000).fit(x, labels)
    return _layers([model.coef_.T], [np.ravel(model.intercept_)])


def _layers(weights: list[np.ndarray], biases: list[np.ndarray]) -> State:
    state = {f"weight_{number}": np.ascontiguousarray(weight, np.float64) for number, weight in enumerate(weights)}
    return state | {f"bias_{number}": np.asarray(bias, np.float64) for number, bias in enumerate(biases)}


def _two_outputs(state: State) -> State:
    """Return a state whose last layer has two outputs, 0 and the logit that it has, for tasks of more classes."""
    last = sum(name.startswith("weight_") for name in state) - 1
    weight, bias = state[f"weight_{last}"], state[f"bias_{last}"]
    return state | {f"weight_{last}": np.pad(weight, [(0, 0), (1, 0)]), f"bias_{last}": np.pad(bias, (1, 0))}


def _fit_svm(x: np.ndarray, labels: np.ndarray, inner: np.ndarray, seed: int) -> State:
    """Fit SVMs on all rows, and on margins of SVMs of the other inner folds a logistic regression.

    J. Platt: Probabilistic outputs for support vector machines (1999). The mild penalty of that regression keeps its
    slope finite where margins separate the classes.
    """
    from sklearn.svm import SVC

    kernel, classes = RbfKernel.of(x), int(labels.max()) + 1
    targets = np.where(labels[:, None] == np.arange(1 if classes == 2 else 0, classes), 1, -1)  # (n, 1) or (n, P)
    margins = np.empty(targets.shape)
    for learned, held_out in _inner_splits(inner):
        for column, target in enumerate(targets.T):
            dual, intercept = kernel.fit(SVC, learned, target[learned])
            margins[held_out, column] = kernel.between(held_out, learned) @ dual + intercept
    return kernel.state(SVC, targets) | _fit_linear(margins, labels, 1.0)


def _fit_network(x: np.ndarray, labels: np.ndarray, inner: np.ndarray, seed: int) -> State:
    from sklearn.neural_network import MLPClassifier

    return _train_network(MLPClassifier(**_network_settings(seed)), x, labels)


def _network_settings(seed: int) -> dict:
    return {"hidden_layer_sizes": (HIDDEN,), "alpha": NETWORK_ALPHA, "max_iter": NETWORK_EPOCHS, "random_state": seed}


def _train_network(model: object, x: np.ndarray, labels: np.ndarray) -> State:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # so many epochs are enough
        model.fit(x, labels)
    return _layers(model.coefs_, model.intercepts_)


def _fit_boosting(x: np.ndarray, labels: np.ndarray, inner: np.ndarray, seed: int) -> State:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(**BOOSTING_SETTINGS, random_state=seed)
    fit_in_one_thread(model, x, labels)
    baseline = np.ravel(model._baseline_prediction)
    return boosting_state(model) | _layers([np.eye(len(baseline))], [baseline])


def _fit_values(kind: str, x: np.ndarray, values: np.ndarray, seed: int) -> State:
    """Fit a regressor on standardised values; its last layer returns them in the target's unit."""
    mean, std = float(values.mean()), float(values.std()) or 1.0
    scaled, unit = (values - mean) / std, _layers([np.array([[std]])], [np.array([mean])])
    if kind == "svm":
        from sklearn.svm import SVR

        return RbfKernel.of(x).state(SVR, scaled[:, None]) | unit
    if kind == "boosting":
        from sklearn.ensemble import HistGradientBoostingRegressor

        model = HistGradientBoostingRegressor(**BOOSTING_SETTINGS, random_state=seed)
        fit_in_one_thread(model, x, scaled)
        baseline = float(np.ravel(model._baseline_prediction)[0])
        return boosting_state(model) | _layers([np.array([[std]])], [np.array([mean + std * baseline])])
    if kind == "logistic":
        from sklearn.linear_model import Ridge

        model = Ridge(alpha=RIDGE_ALPHA).fit(x, scaled)
        state = _layers([model.coef_[:, None]], [np.ravel(model.intercept_)])
    else:
        from sklearn.neural_network import MLPRegressor

        state = _train_network(MLPRegressor(**_network_settings(seed)), x, scaled)
    last = len(state) // 2 - 1
    weight, bias = state[f"weight_{last}"] * std, state[f"bias_{last}"] * std + mean
    return state | {f"weight_{last}": weight, f"bias_{last}": bias}


class Classifier(nn.Module):
    """The output of a network whose features a fitted classifier reads. state: see the head of this file."""

    def __init__(self) -> None:
        super().__init__()
        self.state: State = {}

    def forward(self, features: Tensor) -> Tensor:
        """Return `apply_classifier` of features float32 (N, F), float64 (N, 1) or (N, C)."""
        outputs = torch.from_numpy(apply_classifier(self.state, features.cpu().numpy())).to(features.device)
        return outputs[:, None] if outputs.ndim == 1 else outputs

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        destination.update({prefix + name: torch.from_numpy(value) for name, value in self.state.items()})

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments: object) -> None:
        """Take whatever arrays there are: their number and shapes depend on the training rows."""
        names = [name for name in state_dict if name.startswith(prefix)]
        self.state = {name.removeprefix(prefix): state_dict[name].cpu().numpy() for name in names}
        if not names:
            missing_keys = arguments[2]
            missing_keys.append(f"{prefix}mean")
