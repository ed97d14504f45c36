"""Ensemble selection: repeatedly add the member that helps most, in many bags (Caruana et al., ICML 2004)."""

import numpy as np

from facefold.ensemble.memo import keep_results
from facefold.ensemble.metrics import ACCURACY, Metric
from facefold.ensemble.scores import row_losses

BAGS = 20
STEPS = 30  # members selected in a bag, with replacement
MANY_MEMBERS = 10  # from here on a bag draws half of the members; with fewer it would often lack the only good one
_SEED = 0


def search_greedy_weights(prob: np.ndarray, labels: np.ndarray, metric: Metric = ACCURACY) -> np.ndarray:
    """Return weights float64 (m,) that sum to 1, for the best mean of prob (n, m) on labels (n,).

    Each bag draws the rows with replacement (and half of the members if there are many), starts empty, adds the member
    with which the mean of the selected ones is best, and keeps the best selection on the way. Best is by the metric if
    it is computed from decided labels, and if equal by the log loss; for another metric (log loss, area under the
    curve) it is the log loss alone, which is smooth and costs least. The weights are the mean over the bags. The seed
    is fixed; six decimals are kept.
    """
    return _search(prob, labels, metric, BAGS).copy()


@keep_results
def _search(prob: np.ndarray, labels: np.ndarray, metric: Metric, bags: int) -> np.ndarray:
    rows, members = prob.shape
    ones = labels == 1
    rng, weights = np.random.default_rng(_SEED), np.zeros(members)
    for _ in range(bags):
        counts = np.bincount(rng.integers(0, rows, rows), minlength=rows)
        pool = draw_pool(members, rng)
        drawn = np.flatnonzero(counts)
        selected = _select(np.ascontiguousarray(prob.T[np.ix_(pool, drawn)]), ones[drawn], counts[drawn], metric)
        weights[pool] += selected / selected.sum()
    return np.round(weights / bags, 6)


def draw_pool(members: int, rng: np.random.Generator) -> np.ndarray:
    """Return the members that a bag selects from, int64 (p,), sorted: all, or half of many."""
    if members < MANY_MEMBERS:
        return np.arange(members)
    return np.sort(rng.permutation(members)[: (members + 1) // 2])


def _select(columns: np.ndarray, ones: np.ndarray, counts: np.ndarray, metric: Metric) -> np.ndarray:
    """Return how often each member is in the best selection, int64 (m,).

    columns (m, n): probabilities; ones bool (n,): label 1; counts int (n,): how often a row was drawn.
    """
    # Integers in float32 add up exactly.
    drawn = np.stack([np.where(ones, counts, 0), counts], axis=1).astype(np.float32)
    support = np.array([counts[~ones].sum(), counts[ones].sum()])
    total, trial = np.zeros(columns.shape[1]), np.empty_like(columns)
    selected, best, best_value = np.zeros(len(columns), dtype=np.int64), None, None
    for step in range(1, STEPS + 1):
        np.add(columns, total, out=trial)
        values = _decided_values(trial >= step / 2, drawn, support, metric)
        leaders = np.flatnonzero(values == values.max())
        losses = [round(float(row_losses(trial[j] / step, ones) @ counts) / counts.sum(), 12) for j in leaders]
        first = int(np.argmin(losses))
        total = trial[leaders[first]].copy()
        selected[leaders[first]] += 1
        value = (float(values[leaders[first]]), -losses[first])
        if best_value is None or value > best_value:
            best, best_value = selected.copy(), value
    return best


def _decided_values(decided: np.ndarray, drawn: np.ndarray, support: np.ndarray, metric: Metric) -> np.ndarray:
    """Return the metric of each member's decisions, (m,); all zero if it is not computed from decided labels.

    decided: bool (m, n), for label 1; drawn: (n, 2), how often a row of label 1, and any row, was drawn; support: (2,).
    """
    if metric.count is None:
        return np.zeros(len(decided))
    ones_hit, ones_decided = (decided @ drawn).T.astype(np.float64)
    zeros_hit = support[0] - (ones_decided - ones_hit)
    hits, predicted = np.stack([zeros_hit, ones_hit], axis=1), np.stack([support.sum() - ones_decided, ones_decided], 1)
    return np.round(metric.count(hits, predicted, support), 12)
