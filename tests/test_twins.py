"""Labels from twins: by hand, what no row may know of itself, when they are refused, and the words about them."""

import re

import numpy as np
import pandas as pd
import pytest

from facefold.ensemble.blend import format_announcement, format_headline, make_blend, unused_options
from facefold.ensemble.leaks.duplicates import apply_duplicates, require_duplicates, score_duplicates
from facefold.ensemble.members import OofMatrix
from facefold.ensemble.metrics import decide
from facefold.ensemble.stacking import Stacked
from facefold.report import sections
from facefold.utils.errors import InputError


def table(train, test):
    """The groups of train ids 0.. and test ids t0.., one a row."""
    rows = [("train", str(i), group) for i, group in enumerate(train)]
    rows += [("test", f"t{i}", group) for i, group in enumerate(test)]
    return pd.DataFrame(rows, columns=["split", "id", "group"])


def case(pairs, rows=400, skill=0.8, wrong=0.0, seed=0):
    """Train rows of which the first 2 * pairs stand in pairs, of one label but for a share `wrong` of the pairs, predicted with
    accuracy `skill`: groups, ids, labels, fold, prob."""
    rng = np.random.default_rng(seed)
    group = np.arange(rows)
    group[1 : 2 * pairs : 2] = group[0 : 2 * pairs : 2]
    labels = rng.integers(0, 2, rows)
    labels[1 : 2 * pairs : 2] = labels[0 : 2 * pairs : 2] ^ (rng.random(pairs) < wrong)
    prob = np.where((rng.random(rows) < skill) == (labels == 1), 0.7, 0.3)
    return table(group, [0, 0, rows + 1]), [str(i) for i in range(rows)], labels, rng.permutation(rows) % 5, prob


def test_answers_by_hand():
    groups = table("aabbb", "abcb")
    labels, prob = np.array([1, 0, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.6])
    got = apply_duplicates(groups, list("01234"), labels, ["t3", "t0", "t1", "t2"], prob, 0.95)
    assert got == pytest.approx([0.05, 0.8, 0.05, 0.6])  # b is mostly 0; a is undecided and c has no twin: as predicted


def test_twins_that_agree_are_used_and_scored_without_a_rows_own_label():
    groups, ids, labels, fold, prob = case(pairs=100, wrong=0.05)
    got = score_duplicates(groups, ids, labels, fold, prob)
    same = labels[:200:2] == labels[1:200:2]
    assert got.rows == 200 and got.right == pytest.approx(same.mean())
    assert got.before == pytest.approx((decide(prob) == labels)[:200].mean())
    assert got.picked == "twins"
    assert got.why.startswith("twins is the simplest method that no other beats by a real margin on the same rows")
    assert got.sure == pytest.approx((2 * same.sum() + 1) / 202)
    assert (decide(got.prob)[:200] == labels[np.arange(200) ^ 1]).all() and (got.prob[200:] == prob[200:]).all()
    assert got.gain.gain == pytest.approx((2 * same.sum() - (decide(prob) == labels)[:200].sum()) / 400)
    assert np.array_equal(got.honest, got.prob)


@pytest.mark.parametrize("row", [0, 1, 37, 200, 399])
def test_a_rows_own_label_has_no_part_in_its_score(row):
    groups, ids, labels, fold, prob = case(pairs=40, rows=400)
    before = score_duplicates(groups, ids, labels, fold, prob)
    labels[row] = 1 - labels[row]
    after = score_duplicates(groups, ids, labels, fold, prob)
    assert after.prob[row] == before.prob[row] and after.honest[row] == before.honest[row]


def test_twins_that_are_wrong_as_often_as_the_models_are_not_used():
    groups, ids, labels, fold, prob = case(pairs=100, wrong=0.3)
    got = score_duplicates(groups, ids, labels, fold, prob)
    assert got.picked == "no_twins" and got.why.startswith("no_twins is the simplest candidate")
    assert np.array_equal(got.honest, prob)


def test_no_twins_and_only_contradicting_ones_are_refused():
    labels = np.array([0, 1, 1])
    message = (
        "no test image shows a picture of train: there are no twins whose labels could be used. Leave --use-twins out."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        require_duplicates(table("aab", "cd"), list("012"), labels, ["t0", "t1"])
    message = (
        "1 test images show a picture of train, but each one's twins contradict each other evenly: they give no label. "
        "Leave --use-twins out."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        require_duplicates(table("aab", "ac"), list("012"), labels, ["t0", "t1"])
    assert require_duplicates(table("aab", "abb"), list("012"), labels, ["t0", "t1", "t2"]) == 2


def blend(pairs, **options):
    groups, ids, labels, fold, prob = case(pairs, rows=600, **options)
    both = np.column_stack([prob, prob])
    test = np.full((5, 3, 2), 0.4)
    matrix = OofMatrix(ids, labels, fold, np.array(ids), ["a", "b"], both, ["t0", "t1", "t2"], test)
    return matrix, Stacked(prob, test[0, :, 0]), groups


def test_twins_reach_submission_score_and_words_only_when_asked_for():
    matrix, stacked, groups = blend(100)
    matrix.labels[:2] = 1
    plain = make_blend(matrix, stacked, "mean", "auto")
    assert plain.facts["twins"] is None and "twins" not in plain.submissions and format_announcement(plain.facts) == ""
    made = make_blend(matrix, stacked, "mean", "auto", groups=groups)
    assert made.submissions["mean"]["label"].tolist() == [0, 0, 0]
    assert made.submissions["twins"]["label"].tolist() == [1, 1, 0]
    assert made.facts["score"]["accuracy"] == pytest.approx((made.oof["label"] == made.oof["pred"]).mean())
    assert made.facts["score"]["accuracy"] > plain.facts["score"]["accuracy"] + 0.04
    assert made.leaderboard.set_index("name").loc["twins", "kind"] == "near-duplicates"
    assert format_headline(made.facts).endswith(" by mean, twins by the labels of their twins")
    assert format_announcement(made.facts) == (
        "THE LABELS OF TWINS WERE USED: 2 of 3 test images show a picture of train and take its label, a leak of this "
        "competition that tells nothing about new images."
    )
    assert unused_options(made.facts) == []
    said = sections.verdict(made.facts)[1]
    assert (
        "Twins: 2 of 3 test images are answered by their twins in train; of 600 train images, each left out in turn, 200 "
        "would be."
    ) in said


def test_twins_that_gain_nothing_are_said_not_to_be_used():
    matrix, stacked, groups = blend(100, wrong=0.4)
    made = make_blend(matrix, stacked, "mean", "auto", groups=groups)
    assert "twins" not in made.submissions and format_announcement(made.facts) == ""
    assert unused_options(made.facts) == [
        "the labels of twins gain nothing by a real margin: they are not in the submission after all"
    ]
