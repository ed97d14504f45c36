"""More than two classes: at two they agree with the methods of two, votes and decisions by hand, and nested scores."""

import numpy as np
import pytest

from facefold.ensemble.calibration import CALIBRATION_C, fit_logistic, fit_rank_mean
from facefold.ensemble.class_methods import (
    class_vote_share,
    fit_class_rank_mean,
    fit_class_second_pass,
    search_class_greedy_weights,
    search_class_votes,
    weighted_class_mean,
    weighted_log_mean,
)
from facefold.ensemble.class_stacking import (
    cross_fitted_classes,
    fit_class_calibrated_mean,
    fit_class_stack_probs,
    fit_tied_softmax,
    member_logs,
    predict_classes,
)
from facefold.ensemble.members import Rows, cross_predict
from facefold.ensemble.methods import CLASS_METHODS, METHOD_NAMES, target_methods
from facefold.ensemble.metrics import target_metric
from facefold.ensemble.scores import class_prob, decide, log_loss, log_prob, logit
from facefold.ensemble.selection import nested_predict
from facefold.ensemble.votes import search_votes, vote_share
from facefold.ensemble.weights import (
    accuracy_weights,
    best_member_weights,
    log_loss_weights,
    weighted_logit_mean,
    weighted_mean,
)
from facefold.task import Task

THREE = Task(kind="multiclass", classes=("a", "b", "c"))


def two(rows: int = 300, members: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return prob (n, m) of label 1, the same as (n, m, 2), and labels."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, rows)
    logits = (2 * labels - 1)[:, None] * draw.uniform(0.3, 1.2, members) + draw.normal(size=(rows, members))
    prob = 1 / (1 + np.exp(-logits))
    return prob, np.stack([1 - prob, prob], axis=2), labels


def drawn(rows: int = 240, classes: int = 3, members: int = 3, skill: float = 1.5, seed: int = 0) -> tuple:
    """Return rows, labels and fold; with skill 0 the rows know nothing of the labels."""
    draw = np.random.default_rng([3, seed])
    labels = draw.permutation(np.arange(rows) % classes)
    logits = draw.normal(size=(rows, members + 1, classes))
    logits[np.arange(rows), :, labels] += skill
    prob = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    fold = np.empty(rows, int)
    fold[np.argsort(labels, kind="stable")] = np.arange(rows) % 5
    return Rows(prob[:, :members], prob[:, members]), labels, fold


@pytest.mark.parametrize(
    "of_two, of_more",
    [(weighted_mean, weighted_class_mean), (weighted_logit_mean, weighted_log_mean), (vote_share, class_vote_share)],
)
@pytest.mark.parametrize("weights", [[1.0, 1, 1, 1], [3, 0, 2, 1]])
def test_combining_two_classes_is_that_of_two(of_two, of_more, weights):
    prob, both, _ = two()
    scores = of_more(both, np.array(weights))
    assert scores[:, 1] == pytest.approx(of_two(prob, np.array(weights)), abs=1e-9)
    assert scores.sum(axis=1) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    "of_two, of_more",
    [
        (best_member_weights, best_member_weights),
        (accuracy_weights, accuracy_weights),
        (log_loss_weights, log_loss_weights),
        (search_votes, search_class_votes),
    ],
)
def test_weights_of_two_classes_are_those_of_two(of_two, of_more):
    prob, both, labels = two()
    assert of_more(both, labels) == pytest.approx(of_two(prob, labels), abs=1e-9)


def test_ranks_and_temperatures_of_two_classes_are_those_of_two():
    prob, both, labels = two()
    fold = np.arange(300) % 5
    ranks = fit_class_rank_mean(Rows(both, both[:, 0]), labels, fold).predict(Rows(both, both[:, 0]))
    by_two = fit_rank_mean(Rows(prob, prob[:, 0]), labels, fold).predict(Rows(prob, prob[:, 0]))
    assert ranks[:, 1] == pytest.approx(by_two, abs=1e-9)
    slopes = fit_class_calibrated_mean(Rows(both, both[:, 0]), labels, fold).notes["slopes"]
    expected = [fit_logistic(logit(prob[:, [j]]), labels, CALIBRATION_C, False).coef[0] for j in range(4)]
    assert slopes == pytest.approx(expected, abs=2e-6)


def test_votes_by_hand():
    one, other = [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]
    prob = np.array([[one, one, other], [one, other, [0.3, 0.5, 0.2]]])
    share = class_vote_share(prob, np.ones(3))
    assert share[0] == pytest.approx([(2 + 1.7 / 3) / 4, 0.1 / 4, (1 + 1.0 / 3) / 4])
    assert decide(share).tolist() == [0, 0]  # in the second row each class has a vote, and the first the largest mean
    assert decide(class_vote_share(prob, np.array([1.0, 2, 1]))).tolist() == [0, 2]


def test_a_tied_softmax_is_where_its_gradient_vanishes_and_without_a_shift_only_weights_count():
    rows, labels, _ = drawn()
    inputs = member_logs(rows.prob)
    model = fit_tied_softmax(inputs, labels)
    prob = model.predict(inputs)
    error = prob - np.eye(3)[labels]
    assert [(error * x).sum() for x in inputs] + model.weights == pytest.approx(0, abs=1e-3)
    assert error.sum(axis=0) + model.shift == pytest.approx(0, abs=1e-3)

    def loss(weights: np.ndarray) -> float:
        scores = np.tensordot(weights, inputs, 1)
        return log_loss(class_prob(scores), labels) * len(labels) + weights @ weights / 2

    plain = fit_tied_softmax(inputs, labels, intercept=False)
    assert (plain.shift == 0).all()
    for change in 1e-2 * np.eye(3):
        assert loss(plain.weights) < min(loss(plain.weights + change), loss(plain.weights - change))
    many, again = np.concatenate([inputs] * 5, axis=1), np.concatenate([labels] * 5)  # more rows than one chunk
    assert fit_tied_softmax(many, again, c=0.2).weights == pytest.approx(model.weights, abs=2e-6)


def test_a_class_without_a_row_keeps_a_small_probability():
    draw = np.random.default_rng(0)
    x, labels = draw.normal(size=(40, 2)), np.arange(40) % 2
    prob = predict_classes(x, labels, x, 3)
    assert prob[:, 2] == pytest.approx(1 / 43) and prob.sum(axis=1) == pytest.approx(1)
    alone = predict_classes(x, np.ones(40, int), x[:1], 3)
    assert alone[0] == pytest.approx([1 / 43, 41 / 43, 1 / 43])
    assert predict_classes(x[:0], labels[:0], x[:2], 3) == pytest.approx(np.full((2, 3), 1 / 3))


def test_rows_of_a_single_inner_fold_have_no_other_to_learn_from():
    prob = cross_fitted_classes(np.ones((4, 2)), np.array([0, 1, 2, 0]), np.zeros(4, int), 3)
    assert prob == pytest.approx(np.full((4, 3), 1 / 3))


def test_features_that_know_the_class_are_found_and_each_fold_is_predicted_by_the_others():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 90)
    x = np.eye(3)[labels] + 0.3 * draw.normal(size=(90, 3))
    assert (decide(cross_fitted_classes(x, labels, np.arange(90) % 3, 3)) == labels).mean() > 0.9
    noise = draw.normal(size=(90, 3))
    assert (decide(cross_fitted_classes(noise, labels, np.arange(90) % 3, 3)) == labels).mean() < 0.5


def test_greedy_finds_the_good_members_by_each_kind_of_metric():
    good, labels, _ = drawn(members=2, skill=1.5)
    bad, _, _ = drawn(members=2, skill=0.0, seed=1)
    prob = np.concatenate([good.prob, bad.prob], axis=1)
    for metric in ("accuracy", "macro_f1", "qwk", "log_loss"):
        weights = search_class_greedy_weights(prob, labels, target_metric(Task(**{**vars(THREE), "metric": metric})))
        assert weights.sum() == pytest.approx(1, abs=1e-5) and weights[:2].sum() > 0.85, metric


def test_the_second_pass_decides_between_the_two_likeliest_classes():
    rows, labels, fold = drawn(rows=1500, members=2, skill=0.8)
    draw = np.random.default_rng(0)
    known = 0.02 + 0.94 * np.eye(3)[labels]  # features that know the label
    known = known * np.exp(0.1 * draw.normal(size=known.shape))
    rows = Rows(rows.prob, known / known.sum(axis=1, keepdims=True))
    fitted = fit_class_second_pass(rows, labels, fold)
    before, after = decide(rows.prob.mean(axis=1)), fitted.predict(rows)
    doubtful = fitted.doubtful(rows)
    assert doubtful.any() and (decide(after)[~doubtful] == before[~doubtful]).all()
    assert after.sum(axis=1) == pytest.approx(1)
    assert (decide(after) == labels).mean() > (before == labels).mean() + 0.05
    likeliest = np.argsort(rows.prob.mean(axis=1), axis=1)[:, 1:]
    assert (likeliest == decide(after)[:, None]).any(axis=1).all()
    assert fitted.notes["margin"] == 2 * fitted.half_width and len(fitted.notes["coef"]) == 3


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_random_labels_score_a_third_nested(name):
    nested = []
    for seed in range(12):
        rows, labels, fold = drawn(rows=120, skill=0.0, seed=seed)
        nested.append((decide(cross_predict(CLASS_METHODS[name], rows, labels, fold)) == labels).mean())
    assert abs(np.mean(nested) - 1 / 3) < 3.5 * np.std(nested, ddof=1) / np.sqrt(len(nested))


@pytest.mark.parametrize("metric", ["accuracy", "qwk", "macro_f1"])
def test_the_choice_and_the_decision_are_nested(metric):
    task = Task(kind="multiclass", classes=("a", "b", "c"), metric=metric)
    methods = {name: target_methods(task)[name] for name in ("mean", "best_single", "weighted_mean", "stack_probs")}
    scores = []
    for seed in range(12):
        rows, labels, fold = drawn(rows=90, skill=0.0, seed=seed)
        scores.append((decide(nested_predict(methods, rows, labels, fold % 3, task)) == labels).mean())
    assert abs(np.mean(scores) - 1 / 3) < 3.5 * np.std(scores, ddof=1) / np.sqrt(len(scores))


@pytest.mark.parametrize("members", [1, 2])
def test_every_method_takes_few_members_and_sure_ones(members):
    draw = np.random.default_rng(0)
    prob = np.eye(4)[draw.integers(0, 4, (40, members))]  # sure of everything, ties everywhere
    labels, fold = np.arange(40) % 4, np.arange(40) // 10
    for name, fit in CLASS_METHODS.items():
        scores = cross_predict(fit, Rows(prob, prob[:, 0]), labels, fold)
        assert np.isfinite(scores).all() and scores.sum(axis=1) == pytest.approx(1, abs=1e-6), name


def test_the_order_of_members_and_rows_changes_nothing():
    rows, labels, fold = drawn(rows=200, members=3)
    order, members = np.random.default_rng(0).permutation(200), [2, 0, 1]
    other = Rows(rows.prob[order][:, members], rows.stacked[order])
    for name, fit in CLASS_METHODS.items():
        if name == "greedy":  # its bags draw rows by their place
            continue
        scores = fit(rows, labels, fold).predict(rows)[order]
        again = fit(other, labels[order], fold[order]).predict(other)
        assert again == pytest.approx(scores, abs=1e-5), name


def test_class_stackers_use_no_rows_of_their_own_fold():
    rows, labels, fold = drawn(rows=150)
    changed = labels.copy()
    changed[fold == 0] = (labels[fold == 0] + 1) % 3
    one, other = (cross_predict(fit_class_stack_probs, rows, given, fold)[fold == 0] for given in (labels, changed))
    assert (one == other).all() and np.isfinite(log_prob(one)).all()
