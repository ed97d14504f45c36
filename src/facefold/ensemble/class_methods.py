"""The methods of blending more than two classes: prob is (n, m, C), scores are (n, C) and sum to one.

With C = 2 they agree with those of two classes where both are the same in theory, which `tests/test_class_methods.py`
checks; the latter stay as they are: a probability of label 1 needs half the memory, and its methods an intercept.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from facefold.ensemble.calibration import LogisticModel, fit_logistic
from facefold.ensemble.greedy import MANY_MEMBERS, STEPS
from facefold.ensemble.members import Fitted, Rows, cross_predict, inner_folds
from facefold.ensemble.metrics import ACCURACY, Metric
from facefold.ensemble.scores import class_prob, decide, log_loss, log_prob, own_prob
from facefold.ensemble.second_pass import HALF_WIDTHS, first_pass
from facefold.ensemble.votes import integer_votes, maximise_votes

CLASS_BAGS = 5  # of greedy, fewer than for two classes: a step costs as much more as there are classes
_SEED = 0


def weighted_class_mean(prob: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean (n, C) of prob (n, m, C); weights (m,) >= 0 of any scale."""
    return np.einsum("nmc,m->nc", prob, weights / weights.sum())


def weighted_log_mean(prob: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the softmax (n, C) of the weighted mean of log p: confident members count for more."""
    weights = weights / weights.sum()
    return class_prob(sum(weights[j] * log_prob(prob[:, j]) for j in range(len(weights))))


def class_vote_share(prob: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the share of votes for each class, (n, C), with the weighted mean probability as one more voter.

    weights (m,) >= 0 of any scale, taken as integer votes in their smallest proportion, as in `vote_share`.
    """
    votes = integer_votes(weights)
    share, rows = weighted_class_mean(prob, votes), np.arange(len(prob))
    for j, number in enumerate(votes.tolist()):
        share[rows, decide(prob[:, j])] += number
    return share / (votes.sum() + 1)


def search_class_votes(prob: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return votes per member, int64 (m,) in 0..5, for the most accurate vote; see `search_votes`.

    Votes are searched by accuracy, whatever the metric: it is what votes can change.
    """
    return maximise_votes(_VoteObjective(prob, labels), prob.shape[1])


class _VoteObjective:
    """(correctly decided rows, minus log loss) of votes (m,); larger is better.

    Only the classes that some member votes for can win, so a row has m candidates: the class of each member.
    """

    def __init__(self, prob: np.ndarray, labels: np.ndarray):
        hard = prob.argmax(axis=2)
        self.own = own_prob(prob, labels)
        split = np.flatnonzero(hard.min(axis=1) != hard.max(axis=1))  # no weighting changes a unanimous row
        hard, rows = hard[split], split[:, None, None]
        self.agree = (hard[:, :, None] == hard[:, None, :]).astype(np.float64)  # of candidate j with member k
        self.prob = prob[rows, np.arange(prob.shape[1])[None, None, :], hard[:, :, None]]  # by member k, of candidate j
        self.right = hard == labels[split, None]

    def correct(self, votes: np.ndarray) -> int:
        share = self.agree @ votes + self.prob @ (votes / votes.sum())
        return int(self.right[np.arange(len(share)), share.argmax(axis=1)].sum())

    def __call__(self, votes: np.ndarray) -> tuple[int, float]:
        return self.correct(votes), -round(log_loss(self.own @ (votes / votes.sum()), np.array([1])), 12)


def search_class_greedy_weights(prob: np.ndarray, labels: np.ndarray, metric: Metric = ACCURACY) -> np.ndarray:
    """Return weights float64 (m,) that sum to 1, for the best mean of prob (n, m, C); see `search_greedy_weights`.

    Best is by the metric if it is computed from decided labels, and if equal by the log loss; for another metric it is
    the log loss alone, which needs only each row's own class.
    """
    rows, members, classes = prob.shape
    rng, weights = np.random.default_rng(_SEED), np.zeros(members)
    own = own_prob(prob, labels)
    for _ in range(CLASS_BAGS):
        drawn = np.sort(rng.integers(0, rows, rows))
        pool = (
            np.sort(rng.permutation(members)[: (members + 1) // 2]) if members >= MANY_MEMBERS else np.arange(members)
        )
        decisions = _Decisions(prob, drawn, pool, labels, metric) if metric.decided else None
        selected = _select(own[np.ix_(drawn, pool)], decisions)
        weights[pool] += selected / selected.sum()
    return np.round(weights / CLASS_BAGS, 6)


def _select(own: np.ndarray, decisions: "_Decisions | None") -> np.ndarray:
    """Return how often each member is in the best selection, int64 (m,); own: float64 (n, m), of each row's label."""
    selected, best, best_value = np.zeros(own.shape[1], np.int64), None, None
    unit = np.eye(own.shape[1], dtype=np.int64)
    for step in range(1, STEPS + 1):
        trials = [selected + one for one in unit]
        values = [0.0] * len(trials) if decisions is None else [decisions.value(trial) for trial in trials]
        leaders = [j for j, value in enumerate(values) if value == max(values)]
        losses = {j: round(log_loss(own @ (trials[j] / step), np.array([1])), 12) for j in leaders}
        first = min(leaders, key=losses.get)
        selected = trials[first]
        value = (values[first], -losses[first])
        if best_value is None or value > best_value:
            best, best_value = selected, value
    return best


class _Decisions:
    """The metric of the decisions of a mean of members, on rows that are drawn with replacement.

    Rows on which all members agree are decided once: the mean of any selection agrees with them.
    """

    def __init__(self, prob: np.ndarray, drawn: np.ndarray, pool: np.ndarray, labels: np.ndarray, metric: Metric):
        rows, self.place = np.unique(drawn, return_inverse=True)
        hard = np.stack([prob[rows, j].argmax(axis=1) for j in pool])
        self.split = np.flatnonzero(hard.min(axis=0) != hard.max(axis=0))
        self.prob = np.stack([prob[rows[self.split], j].astype(np.float32) for j in pool])
        self.decided, self.labels, self.metric, self.classes = hard[0], labels[drawn], metric, prob.shape[2]

    def value(self, selected: np.ndarray) -> float:
        """Return the metric of the mean with these numbers of each member, (m,)."""
        members = np.flatnonzero(selected)
        total = np.float32(selected[members[0]]) * self.prob[members[0]]
        for j in members[1:]:
            total += np.float32(selected[j]) * self.prob[j]
        self.decided[self.split] = total.argmax(axis=1)
        return self.metric.label_value(self.decided[self.place], self.labels, self.classes)


def fit_class_rank_mean(rows: Rows, labels: np.ndarray, fold: np.ndarray) -> Fitted:
    """Learn to average the members' ranks among these rows, class by class; each row is then divided by its sum.

    A rank is stretched on either side so that 1 / C stays 1 / C, as 0.5 does for two classes.
    """
    members, classes = rows.prob.shape[1:]
    reference = np.sort(rows.prob, axis=0)
    below = (reference < 1 / classes).mean(axis=0)

    def predict(rows: Rows) -> np.ndarray:
        total = np.zeros((len(rows.prob), classes))
        for j in range(members):
            for c in range(classes):
                column = np.ascontiguousarray(reference[:, j, c])
                total[:, c] += _class_rank(rows.prob[:, j, c], column, below[j, c], 1 / classes)
        total += np.finfo(np.float64).tiny  # a row may be below all others in every class
        return total / total.sum(axis=1, keepdims=True)

    return Fitted(predict, np.ones(members))


def _class_rank(prob: np.ndarray, reference: np.ndarray, below: float, middle: float) -> np.ndarray:
    """Return the rank in 0..1 of prob (n,) in reference, sorted, of which the share `below` is less than `middle`."""
    between = np.searchsorted(reference, prob, "left") + np.searchsorted(reference, prob, "right")
    share = between / (2 * len(reference))  # ties share their mean rank
    low = middle * np.minimum(share, below) / (below or 1.0)
    high = middle + (1 - middle) * np.maximum(share - below, 0) / ((1 - below) or 1.0)
    return np.where(prob >= middle, high, low)


@dataclass(frozen=True)
class ClassSecondPass:
    """A `Fitted`. half_width: rows are doubtful whose two likeliest classes differ by less than twice as much.

    specialist: decides between these two classes by the difference of their log p, of the members and of `stacked`.
    """

    half_width: float
    specialist: LogisticModel | None

    weights = np.empty(0)

    @property
    def notes(self) -> dict:
        if self.specialist is None:
            return {"margin": 0.0}
        return {"margin": 2 * self.half_width, "coef": self.specialist.coef.tolist()}

    def doubtful(self, rows: Rows) -> np.ndarray:
        """Return bool (n,): the rows that the specialist decides."""
        top = np.sort(np.partition(first_pass(rows), -2, axis=1)[:, -2:], axis=1)
        return top[:, 1] - top[:, 0] < 2 * self.half_width

    def predict(self, rows: Rows) -> np.ndarray:
        prob, doubtful = first_pass(rows), np.flatnonzero(self.doubtful(rows))
        if self.specialist is None or not len(doubtful):
            return prob
        first, second = _likeliest_two(prob[doubtful])
        both = prob[doubtful, first] + prob[doubtful, second]
        share = self.specialist.predict(_pair_inputs(rows[doubtful], first, second))
        prob[doubtful, first], prob[doubtful, second] = share * both, (1 - share) * both
        return prob


def fit_class_second_pass(rows: Rows, labels: np.ndarray, fold: np.ndarray) -> ClassSecondPass:
    """Learn a band of doubtful rows, and a logistic regression between the two likeliest classes of a row in it.

    The band is the one with the most correct decisions on folds that did not train its specialist, whatever the metric;
    equal ones go to the narrower, and no band at all is a candidate.
    """
    inner = inner_folds(fold)
    correct = {}
    for width in HALF_WIDTHS:
        scores = cross_predict(partial(_fit_pair, half_width=width), rows, labels, inner)
        correct[width] = int((decide(scores) == labels).sum())
    return _fit_pair(rows, labels, inner, max(HALF_WIDTHS, key=lambda width: (correct[width], -width)))


def _fit_pair(rows: Rows, labels: np.ndarray, _fold: np.ndarray, half_width: float) -> ClassSecondPass:
    """Fit the specialist of a band on its rows that have one of their two likeliest classes."""
    doubtful = np.flatnonzero(ClassSecondPass(half_width, None).doubtful(rows)) if half_width else np.empty(0, np.int64)
    if not len(doubtful):
        return ClassSecondPass(half_width, None)
    part, labels = rows[doubtful], labels[doubtful]
    first, second = _likeliest_two(first_pass(part))
    used = (labels == first) | (labels == second)
    right = (labels == first)[used].astype(np.int64)
    if len(np.unique(right)) < 2:  # the mean is always right, or always wrong: there is nothing to learn
        return ClassSecondPass(half_width, None)
    inputs = _pair_inputs(part, first, second)[used]
    return ClassSecondPass(half_width, fit_logistic(inputs, right, intercept=False))


def _likeliest_two(prob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the likeliest class of each row of prob (n, C) and the next one, int64 (n,) each."""
    first, rest = prob.argmax(axis=1), prob.copy()
    rest[np.arange(len(prob)), first] = -1.0
    return first, rest.argmax(axis=1)


def _pair_inputs(rows: Rows, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return log p of class `first` minus that of `second` by the members and by `stacked`, float64 (n, m + 1)."""
    index = np.arange(len(first))
    by_class = (np.column_stack([rows.prob[index, :, c], rows.stacked[index, c]]) for c in (first, second))
    one, other = (log_prob(prob) for prob in by_class)
    return one - other
