"""Ensemble selection: add the member that helps most, again and again, in many bags (Caruana et al., ICML 2004)."""

import numpy as np

from facefold.ensemble.metrics import row_losses

BAGS = 20
STEPS = 30  # members taken in a bag, with replacement
MANY = 10  # members; from here on a bag sees half of them, with fewer it would often lack the only good one
_SEED = 0


def search_greedy_weights(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weights float64 (m,) that sum to 1, for the most accurate mean of prob (n, m) on labels (n,).

    Each bag draws the rows with replacement (and half of the members where there are many), starts from nothing, adds
    the member whose mean with those taken has the best accuracy (equal: the least log loss), and keeps the best
    selection it came by. The weights are the mean over the bags. The seed is fixed; six decimals are kept.
    """
    rows, members = prob.shape
    ones = labels == 1
    rng, weights = np.random.default_rng(_SEED), np.zeros(members)
    for _ in range(BAGS):
        times = np.bincount(rng.integers(0, rows, rows), minlength=rows)
        pool = np.sort(rng.permutation(members)[: (members + 1) // 2]) if members >= MANY else np.arange(members)
        drawn = np.flatnonzero(times)
        taken = _select(np.ascontiguousarray(prob.T[np.ix_(pool, drawn)]), ones[drawn], times[drawn])
        weights[pool] += taken / taken.sum()
    return np.round(weights / BAGS, 6)


def _select(columns: np.ndarray, ones: np.ndarray, times: np.ndarray) -> np.ndarray:
    """How often each member was taken, int64 (m,), in the best selection; columns (m, n), ones bool (n,), times int (n,)."""
    signed = np.where(ones, times, -times).astype(
        np.float32
    )  # deciding for 1 wins a one and loses a zero; whole: exact
    total, trial = np.zeros(columns.shape[1]), np.empty_like(columns)
    taken, best, best_value = np.zeros(len(columns), dtype=np.int64), None, None
    for step in range(1, STEPS + 1):
        np.add(columns, total, out=trial)
        correct = (trial >= step / 2) @ signed
        leaders = np.flatnonzero(correct == correct.max())
        losses = [round(float(row_losses(trial[j] / step, ones) @ times) / times.sum(), 12) for j in leaders]
        first = int(np.argmin(losses))
        total = trial[leaders[first]].copy()
        taken[leaders[first]] += 1
        value = (float(correct[leaders[first]]), -losses[first])
        if best_value is None or value > best_value:
            best, best_value = taken.copy(), value
    return best
