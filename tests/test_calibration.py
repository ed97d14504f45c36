"""Scales: ranks that keep 0.5, calibration recovered where it was broken, logistic regression in odd cases."""

import numpy as np
import pytest
from scipy.special import expit

from facefold.ensemble.calibration import fit_calibrated_mean, fit_logistic, fit_rank_mean
from facefold.ensemble.members import Rows
from facefold.ensemble.memo import keep_results
from facefold.ensemble.scores import decide, log_loss, logit

FOLD = np.arange(6000) % 5


def simulate(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (6000,) and labels sampled from exactly them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, 6000)
    return x, (rng.random(6000) < expit(x)).astype(int)


def rows(prob: np.ndarray) -> Rows:
    return Rows(prob, prob[:, 0])


def test_each_member_gets_the_calibration_it_needs():
    x, labels = simulate()
    fitted = fit_calibrated_mean(rows(expit(np.column_stack([x, 3 * x, 0.5 * x + 1]))), labels, FOLD)
    assert fitted.notes["calibration"][1:] == ["temperature", "platt"]
    assert fitted.notes["slopes"] == pytest.approx([1, 1 / 3, 2], rel=0.06) and fitted.notes["shifts"] == pytest.approx(
        [0, 0, -2], abs=0.15
    )
    predicted = fitted.predict(rows(expit(np.column_stack([x, 3 * x, 0.5 * x + 1]))))
    assert log_loss(predicted, labels) == pytest.approx(log_loss(expit(x), labels), abs=1e-3)


def test_a_calibrated_member_on_few_rows_is_mostly_left_alone():
    left = [
        fit_calibrated_mean(rows(expit(x[:300, None])), labels[:300], FOLD[:300]).notes["calibration"] == ["none"]
        for x, labels in map(simulate, range(12))
    ]
    assert np.mean(left) > 0.5


def test_noise_is_calibrated_to_know_nothing():
    _, labels = simulate()
    noise = expit(np.random.default_rng(9).normal(0, 3, (6000, 1)))
    assert fit_calibrated_mean(rows(noise), labels, FOLD).predict(rows(noise)) == pytest.approx(0.5, abs=0.06)


def test_ranks_by_hand():
    fitted = fit_rank_mean(rows(np.array([[0.1], [0.2], [0.6], [0.7], [0.7], [0.9]])), np.zeros(6), np.zeros(6))
    predicted = fitted.predict(rows(np.array([[0.0], [0.1], [0.4], [0.5], [0.7], [1.0]])))
    assert predicted == pytest.approx([0, 0.5 * (1 / 12) / (1 / 3), 0.5, 0.5, 0.5 + 0.5 * (4 / 6 - 1 / 3) / (2 / 3), 1])
    assert decide(predicted).tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("low, high", [(0, 1), (0, 0.4), (0.6, 1), (0.5, 0.5)])
def test_one_member_decides_by_rank_as_it_did(low, high):
    rng = np.random.default_rng(0)
    seen, new = rng.uniform(low, high, (50, 1)), rng.random((200, 1))
    predicted = fit_rank_mean(rows(seen), np.zeros(50), np.zeros(50)).predict(rows(new))
    assert (decide(predicted) == decide(new[:, 0])).all() and ((predicted >= 0) & (predicted <= 1)).all()


def test_ranks_do_not_mind_a_member_that_shouts():
    x, labels = simulate()
    prob = expit(np.column_stack([x, x + np.random.default_rng(1).normal(size=6000)]))
    loud = np.column_stack([prob[:, 0], expit(5 * logit(prob[:, 1]))])
    predicted, same = (fit_rank_mean(rows(p), labels, FOLD).predict(rows(p)) for p in (prob, loud))
    assert predicted == pytest.approx(same, abs=5e-3)


def test_logistic_finds_what_drew_the_labels_and_survives_one_class():
    x, labels = simulate()
    model = fit_logistic(x[:, None], labels)
    assert model.coef == pytest.approx([1], abs=0.05) and model.shift == pytest.approx(0, abs=0.1)
    assert model.predict(np.array([[0.0], [100.0]])) == pytest.approx([expit(model.shift), 1])
    alone = fit_logistic(x[:8, None], np.ones(8, int))
    assert alone.coef.tolist() == [0] and alone.predict(x[:3, None]) == pytest.approx(0.9)


def test_a_fit_is_kept_by_what_it_was_fitted_on_alone():
    calls = []

    @keep_results
    def count(x, labels, c):
        calls.append(c)
        return len(calls)

    x, labels = np.arange(6.0).reshape(3, 2), np.array([0, 1, 1])
    assert count(x, labels, 1.0) == count(x.copy(), labels[::-1][::-1], 1.0) == 1
    assert [
        count(*args) for args in [(x.T, labels, 1.0), (x, labels, 2.0), (x + 1, labels, 1.0), (x, 1 - labels, 1.0)]
    ] == [
        2,
        3,
        4,
        5,
    ]
    assert count(x.astype(np.float32), labels, 1.0) == 6 and count(x.reshape(2, 3), labels, 1.0) == 7
