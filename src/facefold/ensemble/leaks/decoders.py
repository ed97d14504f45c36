"""Labels of rows that stand in the order of a hidden key: a chain of sections, and two ways to read test rows by it.

Along the sorted key lies a hidden chain of two states, sections of mostly label 0 and of mostly label 1: from a row to
the next it changes state with a small probability, and each row's label is drawn from its state. Train and test rows are
a random split of one such sequence, each part in its order. Everything here is exact inference in that model, by
forward-backward over all label sequences and all ways to merge train and test (Rabiner 1989; over two sequences it is
the pair hidden Markov model of Durbin et al. 1998), so an answer is a probability and not one best guess.

Positions, not ids: the caller sorts (see `order.py`). Sums are scaled at each step, which holds what logarithms hold
and costs less.
"""

from dataclasses import dataclass

import numpy as np

from facefold.ensemble.metrics import TINY

ROUNDS = 60  # of expectation maximisation, at most
SURENESS = 1e-4  # no section's share of a label is taken to be closer to 0 or 1: one wrong label is always possible
WIDTH = 8.0  # half width of the band of mergings, in standard deviations of the number of test rows so far
SPARE = 16  # rows more than that, for sequences so short that deviations mean little


@dataclass(frozen=True)
class Chain:
    """Two states; `change` (2,) is the probability to leave each at the next row, `share` (2,) the share of label 1 in each."""

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
        """The chain of a random share `kept` of the rows.

        A gap between kept rows is geometric, and the chain's memory (1 - the sum of the changes) is m ** gap, of which
        the mean is kept * m / (1 - (1 - kept) * m).
        """
        memory = 1 - self.change.sum()
        return self._remembering(kept * memory / (1 - (1 - kept) * memory))

    def filled(self, kept: float) -> "Chain":
        """The chain of which this one is a random share `kept`: the inverse of `thinned` where neighbours are alike."""
        memory = max(0.0, 1 - self.change.sum())
        return self._remembering(memory / (kept + (1 - kept) * memory))

    def _remembering(self, memory: float) -> "Chain":
        return Chain((1 - memory) * self.stationary[::-1], self.share)


@dataclass(frozen=True)
class Reading:
    """What a decoder read off the test rows.

    prob: float64 (t,), the probability of label 1 of each test row; evidence: the natural logarithm of how likely the
    model holds all that was seen of the test rows, to compare decoders by; 0 where neighbours tell nothing.
    """

    prob: np.ndarray
    evidence: float


def fit_chain(labels: np.ndarray) -> Chain:
    """The most likely chain of labels (n,), int 0 and 1, both present, by expectation maximisation (Baum et al. 1970).

    Half a change is added to the count of each state, so that one seen only once may still be left and entered.
    """
    changes = max(1, int((labels[1:] != labels[:-1]).sum())) / len(labels)
    mean = labels.mean()
    chain = Chain(changes / 2 / np.array([1 - mean, mean]).clip(changes), np.array([0.02, 0.98]))
    before = -np.inf
    for _ in range(ROUNDS):
        state, moves, evidence = _smooth(np.where(labels[:, None] == 1, chain.share, 1 - chain.share), chain)
        if evidence - before < 1e-3:
            break
        before = evidence
        change = (moves[[0, 1], [1, 0]] + 0.5) / (moves.sum(axis=1) + 1)
        chain = Chain(change, ((state * labels[:, None]).sum(axis=0) / state.sum(axis=0)).clip(SURENESS, 1 - SURENESS))
    return chain


def hmm_posterior(test_prob: np.ndarray, train_labels: np.ndarray, chain: Chain | None = None) -> Reading:
    """Read test rows by their own order: of the train labels only the chain is used.

    test_prob: (t,) calibrated probabilities of label 1, each from its own image alone, in the order of the test rows;
    train_labels: int (n,) in their order, both labels present; `chain`: that of the train rows, fitted when not given.
    """
    chain, looks, weigh = _read(test_prob, train_labels, chain)
    state, _, evidence = _smooth(looks, chain.thinned(len(test_prob) / (len(train_labels) + len(test_prob))))
    return Reading((state * weigh).sum(axis=1), evidence)


def align_posterior(test_prob: np.ndarray, train_labels: np.ndarray, chain: Chain | None = None) -> Reading:
    """Like `hmm_posterior`, with the train labels in their places: train and test rows are merged in every likely way.

    A merging is a path over (train rows, test rows) used so far; a random split makes all paths equally probable, so a
    run of L train rows goes with about L * t / n test rows, more or less. The paths summed over are those in a band
    around the diagonal. The evidence is that of the test rows given the train labels: less than that of `hmm_posterior`
    says that the two sets are not in the order of one key.

    Time grows with (n + t) * band, memory with sqrt(n + t) * band, and the band with sqrt(n * t / (n + t)).
    """
    chain, looks, weigh = _read(test_prob, train_labels, chain)
    known = np.where(train_labels[:, None] == 1, chain.share, 1 - chain.share)
    state, evidence = _Lattice(known, looks, chain).posterior()
    alone = _smooth(known, chain.thinned(len(known) / (len(known) + len(looks))))[2]
    return Reading((state * weigh).sum(axis=1), evidence - alone)


class _Lattice:
    """Forward-backward over the mergings of train and test rows, a band of them at each step of one row.

    A column of the band at step k is the number j of test rows among the first k rows; the other k - j are train rows.
    Each of the rows left is as likely to be next as any other, which makes all paths equally probable: a step to the
    i-th of n train rows has weight n - i + 1, to the j-th of t test rows t - j + 1, both over n + t - k + 1. The weights are
    multiplied into the emissions, which are zero beyond the ends, so that no path leaves the lattice.
    """

    def __init__(self, known: np.ndarray, looks: np.ndarray, chain: Chain):
        """known (n, 2), looks (t, 2): the likelihood of each train and test row in each state."""
        n, t = self.n, self.t = len(known), len(looks)
        half = int(np.ceil(WIDTH * np.sqrt(n * t / (n + t)) / 2)) + SPARE
        self.width = 2 * half + 1
        self.low = np.arange(n + t + 1) * t // (n + t) - half  # the first column at each step
        pad = ((0, 0), (self.width, self.width))
        self.test = np.pad((looks * np.arange(t, 0, -1)[:, None]).T, pad)
        self.train = np.pad((known * np.arange(n, 0, -1)[:, None])[::-1].T, pad)  # backwards: i falls where j grows
        self.transition = chain.transition
        self.start = np.zeros((2, self.width))
        self.start[:, half] = chain.stationary

    def posterior(self) -> tuple[np.ndarray, float]:
        """The probability of each state at each test row, (t, 2), and the log evidence of all rows."""
        steps, block = self.n + self.t, int(np.sqrt(self.n + self.t)) + 1
        kept, ahead, evidence = [], self.start, 0.0
        for k in range(
            1, steps + 1
        ):  # forward, keeping one band a block: each block is gone over again on the way back
            if (k - 1) % block == 0:
                kept.append(ahead)
            by_train, by_test = self._step(ahead, k)
            ahead = by_train + by_test
            total = ahead.sum()
            ahead /= total
            evidence += np.log(total / (steps - k + 1))
        state = np.zeros((2, self.t + 2 * self.width))
        behind = np.ones((2, self.width))
        for first in range((len(kept) - 1) * block + 1, 0, -block):
            ahead, bands = kept.pop(), []
            for k in range(first, min(first + block, steps + 1)):
                by_train, by_test = self._step(ahead, k)
                ahead = by_train + by_test
                ahead /= ahead.sum()
                bands.append((by_train, by_test))
            for k in range(first + len(bands) - 1, first - 1, -1):
                by_train, by_test = bands.pop()
                by_test *= behind
                total = by_test.sum() + (by_train * behind).sum()
                at = self._test_at(k)
                state[:, at : at + self.width] += by_test / total
                behind = self._back(behind, k)
        state = state[:, self.width : self.width + self.t].T
        return state / state.sum(axis=1, keepdims=True), evidence

    def _test_at(self, k: int) -> int:
        return self.width + self.low[k] - 1

    def _emissions(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Views (2, width): for each column of step k, the train row and the test row it may have been reached by."""
        train, test = self.width + self.n - k + self.low[k], self._test_at(k)
        return self.train[:, train : train + self.width], self.test[:, test : test + self.width]

    def _step(self, ahead: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """From the band of step k - 1 to step k: (2, width) reached by a train row, and by a test row."""
        train, test = self._emissions(k)
        moved = np.zeros((2, self.width + 2))
        moved[:, 1:-1] = self.transition.T @ ahead
        shift = 1 + self.low[k] - self.low[k - 1]
        return moved[:, shift : shift + self.width] * train, moved[:, shift - 1 : shift - 1 + self.width] * test

    def _back(self, behind: np.ndarray, k: int) -> np.ndarray:
        """From the band of step k to step k - 1: how likely all later rows are, to scale."""
        train, test = self._emissions(k)
        shift = 1 + self.low[k] - self.low[k - 1]
        moved = np.zeros((2, self.width + 2))
        moved[:, shift : shift + self.width] = behind * train
        moved[:, shift - 1 : shift - 1 + self.width] += behind * test
        behind = self.transition @ moved[:, 1:-1]
        return behind / behind.max()


def _read(test_prob: np.ndarray, train_labels: np.ndarray, chain: Chain | None) -> tuple[Chain, np.ndarray, np.ndarray]:
    """The chain of all rows merged; of each test row (t, 2): its likelihood in each state, and how probable label 1 is there.

    The likelihood of an image given its label is, up to a factor, the posterior over the prior.
    """
    n, t = len(train_labels), len(test_prob)
    chain = (chain or fit_chain(train_labels)).filled(n / (n + t))
    prob, prior = np.clip(test_prob, TINY, 1 - TINY)[:, None], train_labels.mean()
    one, zero = chain.share * prob / prior, (1 - chain.share) * (1 - prob) / (1 - prior)
    return chain, one + zero, one / (one + zero)


def _smooth(likelihood: np.ndarray, chain: Chain) -> tuple[np.ndarray, np.ndarray, float]:
    """Forward-backward along one sequence; likelihood (n, 2) of each row in each state.

    Returns the probability of each state (n, 2), the expected number of moves from state to state (2, 2) and the log
    evidence. Plain floats: a row is too little work for numpy.
    """
    (stay0, leave0), (leave1, stay1) = chain.transition.tolist()
    rows = likelihood.tolist()
    p0, p1 = chain.stationary.tolist()
    forward, totals = [], []
    for l0, l1 in rows:  # p0, p1: the states before the row is seen
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
