"""The methods of blending more than two classes: prob is (n, m, C), scores are (n, C) and sum to one.

With C = 2 they agree with those of two classes where both are the same in theory, which `tests/test_class_methods.py`
checks; the latter stay as they are: a probability of label 1 needs half the memory, and its methods an intercept.
"""

from dataclasses import dataclass

import numpy as np

from facefold.ensemble.calibration import LogisticModel, fit_logistic
from facefold.ensemble.greedy import STEPS, draw_pool
from facefold.ensemble.members import Fitted, Rows, inner_folds
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
        members = prob.shape[1]
        self.agree = (hard[:, :, None] == hard[:, None, :]).reshape(-1, members).astype(np.float64)  # with member k
        self.prob = prob[rows, np.arange(members)[None, None, :], hard[:, :, None]].reshape(-1, members)  # by member k
        self.right = hard == labels[split, None]

    def correct(self, votes: np.ndarray) -> int:
        share = (self.agree @ votes + self.prob @ (votes / votes.sum())).reshape(self.right.shape)
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
        pool = draw_pool(members, rng)
        decisions = _Decisions(prob, drawn, pool, labels, metric) if metric.decided else None
        selected = _select(own[np.ix_(drawn, pool)], decisions)
        weights[pool] += selected / selected.sum()
    return np.round(weights / CLASS_BAGS, 6)


def _select(own: np.ndarray, decisions: "_Decisions | None") -> np.ndarray:
    """Return how often each member is in the best selection, int64 (m,); own: float64 (n, m), of each row's label."""
    members = range(own.shape[1])
    selected, total, best, best_value = np.zeros(own.shape[1], np.int64), np.zeros(len(own)), None, None
    for step in range(1, STEPS + 1):
        values = [0.0 if decisions is None else decisions.value_with(j) for j in members]
        leaders = [j for j in members if values[j] == max(values)]
        losses = {j: round(log_loss((total + own[:, j]) / step, np.array([1])), 12) for j in leaders}
        first = min(leaders, key=losses.get)
        selected[first] += 1
        total += own[:, first]
        if decisions is not None:
            decisions.add(first)
        value = (values[first], -losses[first])
        if best_value is None or value > best_value:
            best, best_value = selected.copy(), value
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
        self.total, self.trial = np.zeros(self.prob.shape[1:], np.float32), np.empty(self.prob.shape[1:], np.float32)
        self.decided, self.labels, self.metric, self.classes = hard[0], labels[drawn], metric, prob.shape[2]

    def value_with(self, member: int) -> float:
        """Return the metric of the mean of the selection and one member more."""
        np.add(self.total, self.prob[member], out=self.trial)
        self.decided[self.split] = self.trial.argmax(axis=1)
        return self.metric.label_value(self.decided[self.place], self.labels, self.classes)

    def add(self, member: int) -> None:
        self.total += self.prob[member]


def fit_class_rank_mean(rows: Rows, labels: np.ndarray, fold: np.ndarray) -> Fitted:
    """Learn to average the members' ranks among these rows, class by class; each row is then divided by its sum.

    A rank is stretched on either side so that 1 / C stays 1 / C, as 0.5 does for two classes.
    """
    members, classes = rows.prob.shape[1:]
    reference = np.sort(_columns(rows.prob), axis=2)
    below = (reference < 1 / classes).mean(axis=2)

    def predict(rows: Rows) -> np.ndarray:
        columns, total = _columns(rows.prob), np.zeros((classes, len(rows.prob)))
        for j, c in np.ndindex(members, classes):
            total[c] += _class_rank(columns[j, c], reference[j, c], below[j, c], 1 / classes)
        total += np.finfo(np.float64).tiny  # a row may be below all others in every class
        return np.ascontiguousarray((total / total.sum(axis=0)).T)

    return Fitted(predict, np.ones(members))


def _columns(prob: np.ndarray) -> np.ndarray:
    """Return prob (n, m, C) as (m, C, n)."""
    return np.ascontiguousarray(prob.transpose(1, 2, 0))


def _class_rank(prob: np.ndarray, reference: np.ndarray, below: float, middle: float) -> np.ndarray:
    """Return the rank in 0..1 of prob (n,) in reference, sorted, of which the share `below` is less than `middle`."""
    order = np.argsort(prob)  # what is searched in its order is found sooner
    values, share = prob[order], np.empty(len(prob))
    between = np.searchsorted(reference, values, "left") + np.searchsorted(reference, values, "right")
    share[order] = between / (2 * len(reference))  # ties share their mean rank
    low = middle * np.minimum(share, below) / (below or 1.0)
    high = middle + (1 - middle) * np.maximum(share - below, 0) / ((1 - below) or 1.0)
    return np.where(prob >= middle, high, low)


@dataclass(frozen=True)
class _Pairs:
    """What the second pass knows of n rows.

    first, second: int64 (n,), the two likeliest classes by the mean; margin: float64 (n,), the difference of their
    probabilities; inputs: float64 (n, m + 1), the difference of their log p, by the members and by `stacked`.
    """

    first: np.ndarray
    second: np.ndarray
    margin: np.ndarray
    inputs: np.ndarray

    @classmethod
    def of_rows(cls, rows: Rows) -> "_Pairs":
        prob, index = first_pass(rows), np.arange(len(rows.prob))
        first = prob.argmax(axis=1)
        top = prob[index, first]
        prob[index, first] = -1.0
        second = prob.argmax(axis=1)
        by_class = (np.column_stack([rows.prob[index, :, c], rows.stacked[index, c]]) for c in (first, second))
        one, other = (log_prob(values) for values in by_class)
        return cls(first, second, top - prob[index, second], one - other)

    def __getitem__(self, mask: np.ndarray) -> "_Pairs":
        return _Pairs(self.first[mask], self.second[mask], self.margin[mask], self.inputs[mask])


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
        return self._doubtful(_Pairs.of_rows(rows))

    def _doubtful(self, pairs: _Pairs) -> np.ndarray:
        return (pairs.margin < 2 * self.half_width) & (self.specialist is not None)

    def decide(self, pairs: _Pairs) -> np.ndarray:
        """Return the decided classes, int64 (n,)."""
        decided, doubtful = pairs.first.copy(), np.flatnonzero(self._doubtful(pairs))
        if len(doubtful):
            part = pairs[doubtful]
            decided[doubtful] = np.where(self.specialist.predict(part.inputs) >= 0.5, part.first, part.second)
        return decided

    def predict(self, rows: Rows) -> np.ndarray:
        prob, pairs = first_pass(rows), _Pairs.of_rows(rows)
        doubtful = np.flatnonzero(self._doubtful(pairs))
        if len(doubtful):
            part = pairs[doubtful]
            both = prob[doubtful, part.first] + prob[doubtful, part.second]
            share = self.specialist.predict(part.inputs)
            prob[doubtful, part.first], prob[doubtful, part.second] = share * both, (1 - share) * both
        return prob


def fit_class_second_pass(rows: Rows, labels: np.ndarray, fold: np.ndarray) -> ClassSecondPass:
    """Learn a band of doubtful rows, and a logistic regression between the two likeliest classes of a row in it.

    The band is the one with the most correct decisions on folds that did not train its specialist, whatever the metric;
    equal ones go to the narrower, and no band at all is a candidate.
    """
    inner, pairs = inner_folds(fold), _Pairs.of_rows(rows)
    correct = dict.fromkeys(HALF_WIDTHS, 0)
    for k in np.unique(inner):
        rest, held_out = inner != k, inner == k
        for width in HALF_WIDTHS:
            decided = _fit_pairs(pairs[rest], labels[rest], width).decide(pairs[held_out])
            correct[width] += int((decided == labels[held_out]).sum())
    return _fit_pairs(pairs, labels, max(HALF_WIDTHS, key=lambda width: (correct[width], -width)))


def _fit_pairs(pairs: _Pairs, labels: np.ndarray, half_width: float) -> ClassSecondPass:
    """Fit the specialist of a band on its rows that have one of their two likeliest classes."""
    used = (pairs.margin < 2 * half_width) & ((labels == pairs.first) | (labels == pairs.second))
    right = (labels == pairs.first)[used].astype(np.int64)
    if len(np.unique(right)) < 2:  # the mean is always right, or always wrong: there is nothing to learn
        return ClassSecondPass(half_width, None)
    return ClassSecondPass(half_width, fit_logistic(pairs.inputs[used], right, intercept=False))
