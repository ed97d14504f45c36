"""Stackers: why features of different folds are not pooled, and that no row teaches its own answer."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from facefold.ensemble import stacking
from facefold.ensemble.calibration import fit_logistic
from facefold.ensemble.members import OofMatrix, Rows
from facefold.ensemble.scores import decide

K, N, T, F = 3, 600, 90, 12


def matrix(labels: np.ndarray, group: np.ndarray | None = None, prob: float = 0.5) -> OofMatrix:
    """Members that know nothing: all accuracy comes from the features."""
    ids = [f"{i:04}" for i in range(len(labels))]
    group = np.array(ids) if group is None else group
    return OofMatrix(
        ids,
        labels,
        np.arange(len(labels)) % K,
        group,
        ["a", "b"],
        np.full((len(labels), 2), prob),
        [f"t{i}" for i in range(T)],
        np.full((K, T, 2), prob),
    )


def rotated(labels: np.ndarray, test_labels: np.ndarray, seed: int = 0):
    """Features as fold models make them: the same signal, turned by another random rotation in each fold."""
    rng = np.random.default_rng(seed)
    turns = [np.linalg.qr(rng.normal(size=(F, F)))[0] for _ in range(K)]

    def features(fold: int, part: str, ids: list[str]) -> np.ndarray:
        known = test_labels if part == "test" else labels[[int(i) for i in ids]]
        noise = np.random.default_rng([seed, fold, len(part)]).normal(size=(len(ids), F))
        noise[:, 0] += 1.5 * (2 * known - 1)
        return (noise @ turns[fold]).astype(np.float32)

    return features


def accuracy(prob: np.ndarray, labels: np.ndarray) -> float:
    return (decide(prob) == labels).mean()


def test_pooling_features_over_folds_is_wrong_and_one_stacker_a_fold_is_right():
    """A direction that says "label 1" in one fold is any other direction in the next."""
    pooled, separate, test = [], [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        labels, test_labels = rng.integers(0, 2, N), rng.integers(0, 2, T)
        data, features = matrix(labels), rotated(labels, test_labels, seed)
        x = np.empty((N, F))
        for k in range(K):
            held = np.flatnonzero(data.fold == k)
            x[held] = features(k, "oof", [data.ids[i] for i in held])
        naive = np.empty(N)
        for k in range(K):
            naive[data.fold == k] = fit_logistic(x[data.fold != k], labels[data.fold != k]).predict(x[data.fold == k])
        pooled.append(accuracy(naive, labels))
        stacked = stacking.fit_feature_stackers(data, features)
        separate.append(accuracy(stacked.oof, labels))
        test.append(accuracy(stacked.test, test_labels))
    assert np.mean(separate) > 0.9 and np.mean(test) > 0.9  # 0.933 is what the best direction gives
    assert np.mean(pooled) < 0.7 and min(pooled) < 0.5


def test_random_labels_score_half_however_many_features():
    scores = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        labels = np.repeat(rng.permutation(40) % 2, K)
        stacked = stacking.fit_feature_stackers(
            matrix(labels), lambda fold, part, ids: rng.normal(size=(len(ids), 30)).astype(np.float32)
        )
        scores.append(accuracy(stacked.oof, labels))
    assert abs(np.mean(scores) - 0.5) < 3 * np.std(scores, ddof=1) / np.sqrt(24)


def test_other_folds_and_the_row_itself_do_not_matter():
    rng = np.random.default_rng(0)
    labels, other = rng.integers(0, 2, N), rng.integers(0, 2, T)
    features = rotated(labels, other)
    before = stacking.fit_feature_stackers(matrix(labels), features)
    changed = np.where(np.arange(N) % K == 1, 1 - labels, labels)
    after = stacking.fit_feature_stackers(matrix(changed), features)
    elsewhere = np.arange(N) % K != 1
    assert (before.oof == after.oof)[elsewhere].all() and (before.oof != after.oof)[~elsewhere].any()


def test_equal_images_are_never_on_both_sides():
    group = np.array([f"g{i // 3}" for i in range(N)])
    labels = np.random.default_rng(0).integers(0, 2, N // 3).repeat(3)
    part = stacking.split_inner_folds(labels, group)
    assert (part.reshape(-1, 3) == part[::3, None]).all()
    counts = np.bincount(part[labels == 1], minlength=5)
    assert counts.max() - counts.min() <= 3 and sorted(set(part)) == list(range(5))


def test_features_that_say_nothing_leave_the_members():
    labels = np.arange(N) % 2
    data = matrix(labels)
    sure = np.where(labels[:, None] == 1, 0.9, 0.1) * np.ones((1, 2))
    data = OofMatrix(**{**data.__dict__, "prob": sure})
    stacked = stacking.fit_feature_stackers(data, lambda fold, part, ids: np.ones((len(ids), 3), np.float32))
    assert accuracy(stacked.oof, labels) == 1 and stacked.test == pytest.approx(0.5, abs=0.01)


def test_components_are_fitted_on_the_folds_own_rows_and_scaled(monkeypatch):
    rng = np.random.default_rng(0)
    own, other = rng.normal(3, 5, (200, 10)), rng.normal(3, 5, (7, 10))
    own[:, 4] = other[:, 4] = 2.0
    a, b = stacking._principal_components(own, other)
    assert a.shape == (200, 9) and b.shape == (7, 9)
    assert a.mean(axis=0) == pytest.approx(np.zeros(9), abs=1e-6) and a[:, 0].std(ddof=1) == pytest.approx(1)
    assert stacking._principal_components(own, own[:7])[1] == pytest.approx(a[:7])
    assert stacking._principal_components(own[:7], other)[0].shape == (7, 0)
    monkeypatch.setattr(stacking, "BLOCK", 3)  # of seven test rows: two blocks and a row
    assert stacking._principal_components(own, other)[1] == pytest.approx(b)
    assert stacking._principal_components(own, other[:0])[1].shape == (0, 9)


def test_stack_probs_finds_the_good_member():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 3000)
    logit = np.column_stack([1.5 * (2 * labels - 1) + rng.normal(size=3000), rng.normal(size=3000)])
    rows = Rows(1 / (1 + np.exp(-logit)), labels * 1.0)
    fitted = stacking.fit_stack_probs(rows, labels, np.arange(3000) % 5)
    assert fitted.weights == pytest.approx([3, 0], abs=0.3)  # two classes at +-1.5 with variance 1: log odds 3 x
    assert (stacking.fit_stack_features(rows, labels, labels).predict(rows) == rows.stacked).all()


def test_ridge_by_hand():
    x = np.arange(100.0)
    fitted = stacking.fit_ridge(Rows(x[:, None], x), 2 * x + 5, np.zeros(100))
    assert fitted.notes["coef"] == [
        round(2 * 25 / 26, 6)
    ]  # in deviations of 2 x + 5 the squares of x sum to 100 / 4; penalty 1
    assert fitted.predict(Rows(np.array([[49.5]]), np.zeros(1))) == pytest.approx(104)  # the mean stays the mean


def test_the_same_bytes_on_any_number_of_threads_and_no_single_unit_decides():
    rng = np.random.default_rng(0)
    own = (rng.normal(size=(700, 8)) @ rng.normal(size=(8, 256)) + 0.1 * rng.normal(size=(700, 256))).astype(np.float32)
    own[:, 3] = 0
    own[5, 3] = 1e-3  # a unit that is all but dead
    other = own[:20].copy()
    other[0, 3] = 1.0
    reduced = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            reduced.append(np.round(np.vstack(stacking._principal_components(own, other)), 9))
    assert np.abs(reduced[0] - reduced[1]).max() < 1e-8
    assert np.abs(reduced[0]).max() < 100
