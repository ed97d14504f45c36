"""Gradient boosting of scikit-learn (HistGradientBoosting): its trees as plain arrays that numpy descends."""

import numpy as np
from threadpoolctl import threadpool_limits

BOOSTING_SETTINGS = {
    "max_iter": 200,
    "learning_rate": 0.05,
    # It would stop by rows drawn at random, which divides near-duplicates.
    "early_stopping": False,
}


def fit_in_one_thread(model: object, x: np.ndarray, y: np.ndarray) -> None:
    """Fit it. A limit that was set before scikit-learn was imported does not hold for the OpenMP that comes with it."""
    with threadpool_limits(1):
        model.fit(x, y)


def boosting_state(model: object) -> dict[str, np.ndarray]:
    """Return the trees of a fitted HistGradientBoostingClassifier or -Regressor, N nodes in all.

    roots: int64 (T, K), the first node of each of T trees per output. feature: int64 (N,); threshold: float64 (N,).
    children: int64 (N, 2), the next node of a row whose feature is at most the threshold, and of another one; a leaf
    has itself. value: float64 (N,), what a leaf adds to its output.
    """
    trees = [tree.nodes for iteration in model._predictors for tree in iteration]
    starts = np.cumsum([0, *map(len, trees)])
    nodes, start = np.concatenate(trees), np.repeat(starts[:-1], np.diff(starts))
    leaf, own = nodes["is_leaf"].astype(bool), np.arange(len(nodes))
    children = [np.where(leaf, own, start + nodes[side]) for side in ("left", "right")]
    return {
        "roots": starts[:-1].reshape(len(model._predictors), -1),
        "feature": np.where(leaf, 0, nodes["feature_idx"]).astype(np.int64),
        "threshold": np.where(leaf, 0.0, nodes["num_threshold"]),
        "children": np.stack(children, axis=1),
        "value": nodes["value"].astype(np.float64),
    }


def tree_sums(state: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return what the trees of `boosting_state` add to each of K outputs, float64 (n, K), of rows float64 (n, F)."""
    rows, nodes = np.arange(len(x))[:, None], np.tile(state["roots"].ravel(), (len(x), 1))
    while True:
        right = x[rows, state["feature"][nodes]] > state["threshold"][nodes]
        following = state["children"][nodes, right.astype(np.int64)]
        if (following == nodes).all():
            return state["value"][nodes].reshape(len(x), *state["roots"].shape).sum(axis=1)
        nodes = following
