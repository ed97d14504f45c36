"""Hidden Markov models of rows that are sorted by a hidden key, and two ways to decode test rows with them.

Along the sorted key lies a hidden chain of two states, sections of mostly label 0 and of mostly label 1: from a row to
the next it changes state with a small probability, and each row's label is drawn from its state. Train and test rows
are a random split of one such sequence, each part in its order. Everything here is exact inference in that model, by
forward-backward over all label sequences and all ways to merge train and test (Rabiner 1989; over two sequences it is
the pair hidden Markov model of Durbin et al. 1998), so the results are probabilities and not one best guess.

Rows are in their order: the caller sorts by id (see `order.py`). Sums are scaled at each step, which is as exact as
logarithms and costs less.
"""

from dataclasses import dataclass

import numpy as np

from facefold.ensemble.scores import TINY

MAX_ROUNDS = 60  # of expectation maximisation
MIN_SHARE = 1e-4  # no section's share of a label is taken to be closer to 0 or 1: one wrong label is always possible
BAND_DEVIATIONS = 8.0  # half width of the band of mergings, in standard deviations of the number of test rows so far
EXTRA_ROWS = 16  # more than that, for sequences so short that deviations mean little


@dataclass(frozen=True)
class Chain:
    """Two states: `change` (2,), the probability to leave each at the next row; `share` (2,), of label 1 in each."""

    change: np.ndarray
    share: np.ndarray

    @property
    def stationary(self) -> np.ndarray:
        """The share of rows in each state, (2,)."""
        return self.change[::-1] / self.change.sum()

    @property
    def transition(self) -> np.ndarray:
        """(2, 2): from state (row) to state (column)."""
        leave = self.change
        return np.array([[1 - leave[0], leave[0]], [leave[1], 1 - leave[1]]])

    def thinned(self, kept: float) -> "Chain":
        """Return the chain of a random share `kept` of the rows.

        A gap between kept rows is geometric, and the chain's memory (1 - the sum of the changes) is m ** gap, of which
        the mean is kept * m / (1 - (1 - kept) * m).
        """
        memory = 1 - self.change.sum()
        return self._with_memory(kept * memory / (1 - (1 - kept) * memory))

    def filled(self, kept: float) -> "Chain":
        """Return the chain of which this one is a random share `kept`; inverts `thinned` for a memory of 0 or more."""
        memory = max(0.0, 1 - self.change.sum())
        return self._with_memory(memory / (kept + (1 - kept) * memory))

    def _with_memory(self, memory: float) -> "Chain":
        return Chain((1 - memory) * self.stationary[::-1], self.share)


@dataclass(frozen=True)
class Posterior:
    """The test rows as a decoder sees them.

    prob: float64 (t,), the probability of label 1 of each test row; log_evidence: the natural logarithm of the
    likelihood of all test rows under the model, to compare decoders by; 0 if neighbours carry no information.
    """

    prob: np.ndarray
    log_evidence: float


def fit_chain(labels: np.ndarray) -> Chain:
    """Fit the most likely chain to labels (n,), 0 and 1, both present, by expectation maximisation (Baum et al. 1970).

    Half a change is added to the count of each state, so that a state that occurs once can still be left and entered.
    """
    changes = max(1, int((labels[1:] != labels[:-1]).sum())) / len(labels)
    mean = labels.mean()
    chain = Chain(changes / 2 / np.array([1 - mean, mean]).clip(changes), np.array([0.02, 0.98]))
    before = -np.inf
    for _ in range(MAX_ROUNDS):
        state, moves, evidence = _smooth(np.where(labels[:, None] == 1, chain.share, 1 - chain.share), chain)
        if evidence - before < 1e-3:
            break
        before = evidence
        change = (moves[[0, 1], [1, 0]] + 0.5) / (moves.sum(axis=1) + 1)
        chain = Chain(
            change, ((state * labels[:, None]).sum(axis=0) / state.sum(axis=0)).clip(MIN_SHARE, 1 - MIN_SHARE)
        )
    return chain


def hmm_posterior(test_prob: np.ndarray, train_labels: np.ndarray, chain: Chain | None = None) -> Posterior:
    """Decode test rows by their own order: of the train labels only the chain is used.

    test_prob: (t,) calibrated probabilities of label 1, each from its own image alone, in the order of the test rows;
    train_labels: int (n,) in their order, both labels present; `chain`: that of the train rows, fitted if None.
    """
    chain, likelihood, prob = _test_likelihood(test_prob, train_labels, chain)
    state, _, evidence = _smooth(likelihood, chain.thinned(len(test_prob) / (len(train_labels) + len(test_prob))))
    return Posterior((state * prob).sum(axis=1), evidence)


def align_posterior(test_prob: np.ndarray, train_labels: np.ndarray, chain: Chain | None = None) -> Posterior:
    """Decode like `hmm_posterior`, with the train labels in between: train and test rows are merged in all likely ways.

    A merging is a path over (train rows, test rows) used so far; a random split makes all paths equally probable, so a
    run of L train rows goes with about L * t / n test rows. The paths summed over are those in a band around the
    diagonal. The evidence is that of the test rows conditional on the train labels: less than that of `hmm_posterior`
    means that the two sets are not in the order of one key.

    Time grows with (n + t) * band, memory with sqrt(n + t) * band, and the band with sqrt(n * t / (n + t)).
    """
    chain, test, prob = _test_likelihood(test_prob, train_labels, chain)
    train = np.where(train_labels[:, None] == 1, chain.share, 1 - chain.share)
    state, evidence = _Lattice(train, test, chain).posterior()
    alone = _smooth(train, chain.thinned(len(train) / (len(train) + len(test))))[2]
    return Posterior((state * prob).sum(axis=1), evidence - alone)


class _Lattice:
    """Forward-backward over the mergings of train and test rows, a band of them at each step of one row.

    A column of the band at step k is the number j of test rows among the first k rows; the other k - j are train rows.
    All rows that are left are equally likely to be next, which makes all paths equally probable: a step to the i-th of
    n train rows has weight n - i + 1, to the j-th of t test rows t - j + 1, both over n + t - k + 1. The weights are
    multiplied into the emissions, which are zero beyond the ends, so that no path leaves the lattice.
    """

    def __init__(self, train: np.ndarray, test: np.ndarray, chain: Chain):
        """Take the likelihood of each row in each state: train (n, 2), test (t, 2)."""
        n, t = self.n, self.t = len(train), len(test)
        half = int(np.ceil(BAND_DEVIATIONS * np.sqrt(n * t / (n + t)) / 2)) + EXTRA_ROWS
        self.width = 2 * half + 1
        self.band_start = np.arange(n + t + 1) * t // (n + t) - half  # the first column at each step
        pad = ((0, 0), (self.width, self.width))
        self.test = np.pad((test * np.arange(t, 0, -1)[:, None]).T, pad)
        self.train = np.pad((train * np.arange(n, 0, -1)[:, None])[::-1].T, pad)  # backwards: i falls as j grows
        self.transition = chain.transition
        self.start = np.zeros((2, self.width))
        self.start[:, half] = chain.stationary

    def posterior(self) -> tuple[np.ndarray, float]:
        """Return the probability of each state at each test row, (t, 2), and the log evidence of all rows."""
        steps, block = self.n + self.t, int(np.sqrt(self.n + self.t)) + 1
        checkpoints, forward, evidence = [], self.start, 0.0
        for k in range(1, steps + 1):  # one band per block is kept; the backward pass computes the others again
            if (k - 1) % block == 0:
                checkpoints.append(forward)
            by_train, by_test = self._forward_step(forward, k)
            forward = by_train + by_test
            total = forward.sum()
            forward /= total
            evidence += np.log(total / (steps - k + 1))
        state = np.zeros((2, self.t + 2 * self.width))
        backward = np.ones((2, self.width))
        for first in range((len(checkpoints) - 1) * block + 1, 0, -block):
            forward, bands = checkpoints.pop(), []
            for k in range(first, min(first + block, steps + 1)):
                by_train, by_test = self._forward_step(forward, k)
                forward = by_train + by_test
                forward /= forward.sum()
                bands.append((by_train, by_test))
            for k in range(first + len(bands) - 1, first - 1, -1):
                by_train, by_test = bands.pop()
                by_test *= backward
                total = by_test.sum() + (by_train * backward).sum()
                start = self._first_test(k)
                state[:, start : start + self.width] += by_test / total
                backward = self._backward_step(backward, k)
        state = state[:, self.width : self.width + self.t].T
        return state / state.sum(axis=1, keepdims=True), evidence

    def _first_test(self, k: int) -> int:
        return self.width + self.band_start[k] - 1

    def _emissions(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return views (2, width): the train row and the test row that may lead to each column of step k."""
        train, test = self.width + self.n - k + self.band_start[k], self._first_test(k)
        return self.train[:, train : train + self.width], self.test[:, test : test + self.width]

    def _forward_step(self, forward: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Step forward from k - 1 to k: (2, width) reached by a train row, and by a test row."""
        train, test = self._emissions(k)
        padded = np.zeros((2, self.width + 2))
        padded[:, 1:-1] = self.transition.T @ forward
        shift = 1 + self.band_start[k] - self.band_start[k - 1]
        return padded[:, shift : shift + self.width] * train, padded[:, shift - 1 : shift - 1 + self.width] * test

    def _backward_step(self, backward: np.ndarray, k: int) -> np.ndarray:
        """Step backward from k to k - 1: (2, width), the likelihood of all later rows, up to a factor."""
        train, test = self._emissions(k)
        shift = 1 + self.band_start[k] - self.band_start[k - 1]
        padded = np.zeros((2, self.width + 2))
        padded[:, shift : shift + self.width] = backward * train
        padded[:, shift - 1 : shift - 1 + self.width] += backward * test
        backward = self.transition @ padded[:, 1:-1]
        return backward / backward.max()


def _test_likelihood(
    test_prob: np.ndarray, train_labels: np.ndarray, chain: Chain | None
) -> tuple[Chain, np.ndarray, np.ndarray]:
    """Return the chain of all rows merged, and (t, 2) the likelihood of each test row and of label 1 in each state.

    The likelihood of an image under a label is, up to a factor, the posterior over the prior.
    """
    n, t = len(train_labels), len(test_prob)
    chain = (chain or fit_chain(train_labels)).filled(n / (n + t))
    prob, prior = np.clip(test_prob, TINY, 1 - TINY)[:, None], train_labels.mean()
    one, zero = chain.share * prob / prior, (1 - chain.share) * (1 - prob) / (1 - prior)
    return chain, one + zero, one / (one + zero)


def _smooth(likelihood: np.ndarray, chain: Chain) -> tuple[np.ndarray, np.ndarray, float]:
    """Run forward-backward along one sequence; likelihood (n, 2) of each row in each state.

    Returns the probability of each state (n, 2), the expected number of moves from state to state (2, 2) and the log
    evidence. Plain floats: a row is too little work for numpy.
    """
    (stay0, leave0), (leave1, stay1) = chain.transition.tolist()
    rows = likelihood.tolist()
    p0, p1 = chain.stationary.tolist()
    forward, totals = [], []
    for l0, l1 in rows:  # p0, p1: the states before the row is used
        q0, q1 = p0 * l0, p1 * l1
        total = q0 + q1
        q0, q1 = q0 / total, q1 / total
        forward.append((q0, q1))
        totals.append(total)
        p0, p1 = q0 * stay0 + q1 * leave1, q0 * leave0 + q1 * stay1
    ahead, total = np.array(forward), np.array(totals)
    b0 = b1 = 1.0
    backward = [(b0, b1)]
    for (l0, l1), scale in zip(rows[:0:-1], totals[:0:-1], strict=True):
        l0, l1 = l0 * b0 / scale, l1 * b1 / scale
        b0, b1 = stay0 * l0 + leave0 * l1, leave1 * l0 + stay1 * l1
        backward.append((b0, b1))
    behind = np.array(backward[::-1])
    onward = likelihood * behind / total[:, None]
    moves = chain.transition * (ahead[:-1].T @ onward[1:])
    return ahead * behind, moves, float(np.log(total).sum())
