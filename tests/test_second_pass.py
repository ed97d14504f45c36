"""The second pass: a specialist that sees more takes the doubtful rows, one that does not leaves them."""

import numpy as np
import pytest

from facefold.ensemble.members import Rows
from facefold.ensemble.scores import decide
from facefold.ensemble.second_pass import SecondPassFit, first_pass, fit_second_pass, second_pass_report
from facefold.ensemble.selection import cross_predict


def case(informed: bool, seed: int = 0, rows: int = 4000) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Each fourth row is near 0.5 for all members at random; the features know these when `informed`."""
    rng = np.random.default_rng(seed)
    labels, fold = rng.integers(0, 2, rows), np.arange(rows) % 5
    hard = np.arange(rows) % 4 == 0
    prob = np.where(labels[:, None] == 1, 0.95, 0.05) + 0.04 * rng.uniform(-1, 1, (rows, 2))
    prob[hard] = 0.5 + 0.06 * rng.uniform(-1, 1, (hard.sum(), 2))
    knows = np.where(rng.random(rows) < 0.9, labels, 1 - labels)
    return Rows(prob, np.where(knows == 1, 0.8, 0.2) if informed else rng.random(rows)), labels, fold


def test_the_specialist_takes_the_doubtful_rows_and_leaves_the_others():
    rows, labels, fold = case(informed=True)
    scores = cross_predict(fit_second_pass, rows, labels, fold)
    easy = np.arange(len(labels)) % 4 != 0
    assert (scores[easy] == first_pass(rows)[easy]).all()
    assert (decide(scores) == labels)[~easy].mean() == pytest.approx(0.9, abs=0.03)
    report = second_pass_report(scores, rows, labels, fold, fit_second_pass)
    assert report["rows"] == (~easy).sum() == 1000
    assert report["before"]["accuracy"] == pytest.approx(0.5, abs=0.05)
    assert report["after"]["accuracy"] == pytest.approx((decide(scores) == labels)[~easy].mean())
    assert report["after"]["low"] < report["after"]["accuracy"] < report["after"]["high"]
    assert report["gain"]["gain"] == pytest.approx(report["after"]["accuracy"] - report["before"]["accuracy"])
    assert (
        report["gain"]["low"] > 0.3
        and report["gain"]["wins"] - report["gain"]["losses"] == 1000 * report["gain"]["gain"]
    )


def test_the_narrowest_band_that_holds_them_is_taken():
    fitted = fit_second_pass(*case(informed=True))
    assert fitted.half_width == 0.1 and fitted.notes["band"] == [0.4, 0.6] and len(fitted.notes["coef"]) == 3


def test_a_specialist_that_knows_nothing_gains_nothing():
    gains = []
    for seed in range(10):
        rows, labels, fold = case(informed=False, seed=seed, rows=1000)
        scores = cross_predict(fit_second_pass, rows, labels, fold)
        gains.append((decide(scores) == labels).mean() - (decide(first_pass(rows)) == labels).mean())
    assert abs(np.mean(gains)) < 3 * np.std(gains, ddof=1) / np.sqrt(10)


def test_without_a_band_it_is_the_mean():
    rows, labels, fold = case(informed=True)
    sure = rows[np.arange(len(labels)) % 4 != 0]
    fitted = fit_second_pass(sure, labels[np.arange(len(labels)) % 4 != 0], fold[np.arange(len(labels)) % 4 != 0])
    assert fitted == SecondPassFit(0.0, None) and fitted.notes == {"band": [0.5, 0.5]}
    assert (fitted.predict(rows) == first_pass(rows)).all() and not fitted.doubtful(rows).any()
    easy = np.arange(len(labels)) % 4 != 0
    assert second_pass_report(first_pass(sure), sure, labels[easy], fold[easy], fit_second_pass) == {"rows": 0}
