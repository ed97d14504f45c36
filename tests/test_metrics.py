"""Scores by hand, and against what the literature says of them."""

import math
import re

import numpy as np
import pandas as pd
import pytest

from facefold.ensemble.blend import Blend
from facefold.ensemble.leaderboard import Entry, format_leaderboard, make_leaderboard
from facefold.ensemble.metrics import ACCURACY, MEAN_ABSOLUTE_ERROR, target_metric
from facefold.ensemble.scores import (
    Z95,
    auc_interval,
    decide,
    log_loss,
    logit,
    rank_placements,
    score_errors,
    score_predictions,
    wilson_interval,
)
from facefold.report.sections import regression_sections
from facefold.task import Task


def test_wilson_known_values():
    assert wilson_interval(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson_interval(0, 0) == (0, 1)
    assert wilson_interval(0, 5)[0] == 0 and wilson_interval(5, 5)[1] == 1


def test_scores_by_hand():
    result = score_predictions(np.array([0.9, 0.4, 0.6, 0.2]), np.array([1, 1, 0, 0]))
    assert (result.rows, result.accuracy, result.auc) == (4, 0.5, 0.75)
    assert result.log_loss == pytest.approx(-(math.log(0.9) + math.log(0.4) + math.log(0.4) + math.log(0.8)) / 4)
    assert result.ece == pytest.approx((0.1 + 0.6 + 0.6 + 0.2) / 4)  # each row in a bin of its own
    assert (
        result.log_loss_low < result.log_loss < result.log_loss_high and result.ece_low <= result.ece <= result.ece_high
    )


def test_half_decides_for_one_and_certainty_costs_no_infinity():
    assert decide(np.array([0.5, 0.4999999, 1.0])).tolist() == [1, 0, 1]
    assert log_loss(np.array([0.0]), np.array([1])) == pytest.approx(-math.log(1e-7))
    assert logit(np.array([0.0, 0.5, 0.75])) == pytest.approx([-math.log(1e7 - 1), 0, math.log(3)])
    assert math.isnan(score_predictions(np.array([0.1, 1.0]), np.array([1, 1])).auc)


def test_placements_by_hand():
    ones = np.array([True, False, True, False, False])
    # 0.5 is above 0.1 and 0.4 and level with 0.5, 0.3 above 0.1 alone; below both ones is 0.1, below one 0.4
    placements = rank_placements(np.array([0.5, 0.1, 0.3, 0.5, 0.4]), ones)
    assert placements == pytest.approx([2.5 / 3, 1, 1 / 3, 0.25, 0.5], abs=1e-12)
    assert auc_interval(np.array([0.5, 0.1, 0.3, 0.5, 0.4]), ones.astype(int))[0] == pytest.approx(3.5 / 6, abs=1e-12)


def test_auc_is_the_share_of_pairs_in_order_and_its_interval_that_of_delong():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    prob = np.round(labels * 0.3 + rng.random(60), 1) / 2  # with ties
    order = (prob[labels == 1][:, None] > prob[labels == 0]) + 0.5 * (prob[labels == 1][:, None] == prob[labels == 0])
    half = Z95 * math.sqrt(sum(order.mean(axis=a).var(ddof=1) / order.shape[1 - a] for a in (0, 1)))
    assert auc_interval(prob, labels) == pytest.approx((order.mean(), order.mean() - half, order.mean() + half))
    assert auc_interval(np.array([0.1, 0.9]), np.array([0, 1]))[0] == 1


def test_intervals_cover_the_truth_as_often_as_they_say():
    hits = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        prob = rng.beta(0.5, 0.5, 400)
        result = score_predictions(prob, (rng.random(400) < prob).astype(int))
        entropy = 0.386294  # mean of -p ln p - (1-p) ln(1-p) under Beta(1/2, 1/2): 2 ln 2 - 1
        hits.append(
            (result.log_loss_low < entropy < result.log_loss_high, result.low < 0.5 + 1 / math.pi < result.high)
        )
    assert (np.mean(hits, axis=0) > 0.88).all()


def test_paired_counts_only_the_rows_that_differ():
    labels = np.ones(20, dtype=int)
    a, b = np.ones(20), np.ones(20)
    b[:6] = 0  # a alone is right on 6 rows
    a[19] = 0  # b alone on one
    result = ACCURACY.compare(a, b, labels)
    assert (result.wins, result.losses, result.gain) == (6, 1, 0.25)
    assert result.p == pytest.approx(2 * (1 + 7) / 2**7)
    assert result.low < 0.25 < result.high
    back = ACCURACY.compare(b, a, labels)
    assert (back.gain, back.low, back.high, back.p) == (-result.gain, -result.high, -result.low, result.p)
    assert ACCURACY.compare(a, a, labels).p == 1


def test_errors_by_hand():
    result = score_errors(np.array([1.0, 4.0, 3.0]), np.array([2.0, 2.0, 3.0]))  # errors -1, 2, 0
    half = 1.959963984540054 * 1 / np.sqrt(3)  # |errors| 1, 2, 0: standard deviation 1
    assert (result.rows, result.mae, result.high) == (
        3,
        1,
        pytest.approx(1 + half),
    ) and result.low == 0  # never below 0
    assert result.rmse == pytest.approx(np.sqrt(5 / 3)) and result.bias == pytest.approx(1 / 3)
    gain = MEAN_ABSOLUTE_ERROR.compare(
        np.array([1.0, 1.0]), np.array([2.0, 4.0]), np.array([1.0, 1.0])
    )  # less by 1 and 3
    assert (gain.gain, gain.low, gain.high) == (2, pytest.approx(2 - 1.96, abs=1e-4), pytest.approx(3.96, abs=1e-4))
    assert gain.p == pytest.approx(0.0455, abs=1e-4)  # two standard errors
    same = MEAN_ABSOLUTE_ERROR.compare(np.ones(2), np.ones(2), np.zeros(2))
    assert (same.gain, same.p) == (0, 1)


@pytest.mark.parametrize(
    ("scale", "text", "gain"),
    [
        (1e-3, "0.00123 [0.00101, 0.00146]", "+0.00020"),
        (1, "1.234 [1.012, 1.457]", "+0.200"),
        (10, "12.344 [10.123, 14.568]", "+2.000"),
        (100, "123.44 [101.23, 145.68]", "+20.00"),
        (1e4, "12344 [10123, 14568]", "+2000"),
        (1e6, "1234400 [1012340, 1456780]", "+200000"),
    ],
)
def test_errors_have_the_decimals_that_their_scale_needs(scale, text, gain):
    score = {"mae": 1.2344 * scale, "low": 1.01234 * scale, "high": 1.45678 * scale}
    assert MEAN_ABSOLUTE_ERROR.format_score(score) == f"mean absolute error {text}"
    assert MEAN_ABSOLUTE_ERROR.scaled(score).signed_gain(0.2 * scale) == gain


def test_other_metrics_and_no_error_at_all_keep_their_decimals():
    assert ACCURACY.scaled({"accuracy": 0.00123}) is ACCURACY
    for value in (0.0, math.nan, math.inf):
        assert MEAN_ABSOLUTE_ERROR.scaled({"mae": value}).digits == 3


def test_a_leaderboard_of_small_errors_can_be_read():
    task = Task("age", kind="regression", classes=(), metric="rmse", submission="values")
    values = np.zeros(4)
    entries = [Entry("a", "recipe", np.array([1e-3, -1e-3, 2e-3, 0]), {}), Entry("b", "recipe", np.full(4, 0.02), {})]
    board = make_leaderboard(entries, values, entries[1].scores, target_metric(task))
    head, first, second = format_leaderboard(board, task).splitlines()
    # a: the root of 6e-6 / 4, the mean error 4e-3 / 4, and half of that as bias
    assert re.split("  +", first.strip())[:3] == ["a", "recipe", "0.00122"] and " 0.00100 " in first
    assert "+0.00050" in first and re.split("  +", second.strip())[2] == "0.02000"


def test_the_tiles_of_large_errors_have_no_decimals():
    task = Task("price", kind="regression", classes=(), submission="values", metric="mae")
    oof = pd.DataFrame({"label": [0.0, 50000.0], "pred": [20000.25, 40000.25], "fold": [0, 1]})
    score = {"mae": 15000.0, "low": 5199.5, "high": 24800.25, "rmse": 15811.5, "bias": 5000.25}
    sections = regression_sections(Blend(pd.DataFrame(), oof, oof, {}, {"score": score}), task)
    mae, rmse, bias, _ = sections["tiles"]
    assert (mae.value, mae.note, rmse.value, bias.value) == ("15000", "5200 to 24800", "15812", "+5000")
