"""Labels from duplicates: by hand, that no row knows its own label, when they are refused, and the words about them."""

import re

import numpy as np
import pandas as pd
import pytest

from facefold.ensemble.blend import make_blend
from facefold.ensemble.leaderboard import format_headline
from facefold.ensemble.leaks import announce_leaks, describe_leaks, unused_leaks
from facefold.ensemble.leaks.base import BlendScores
from facefold.ensemble.leaks.duplicates import DuplicateLeak, _with_answers
from facefold.ensemble.members import OofMatrix
from facefold.ensemble.scores import decide
from facefold.ensemble.stacking import Stacked
from facefold.utils.errors import InputError


def table(train, test):
    """The groups of train ids 0.. and test ids t0.., one a row."""
    rows = [("train", str(i), group) for i, group in enumerate(train)]
    rows += [("test", f"t{i}", group) for i, group in enumerate(test)]
    return pd.DataFrame(rows, columns=["split", "id", "group"])


def case(pairs, rows=400, skill=0.8, wrong=0.0, seed=0):
    """Return groups, ids, labels, fold, prob of train rows that are predicted with accuracy `skill`.

    The first 2 * pairs rows are in pairs, which have one label but for a share `wrong` of them.
    """
    rng = np.random.default_rng(seed)
    group = np.arange(rows)
    group[1 : 2 * pairs : 2] = group[0 : 2 * pairs : 2]
    labels = rng.integers(0, 2, rows)
    labels[1 : 2 * pairs : 2] = labels[0 : 2 * pairs : 2] ^ (rng.random(pairs) < wrong)
    prob = np.where((rng.random(rows) < skill) == (labels == 1), 0.7, 0.3)
    return table(group, [0, 0, rows + 1]), [str(i) for i in range(rows)], labels, rng.permutation(rows) % 5, prob


def leak_result(groups, ids, labels, fold, prob, test=(0.4, 0.4, 0.4)):
    """The leak applied to scores `prob` (n,) of train rows and `test` of test rows."""
    test_ids = groups.loc[groups["split"] == "test", "id"].tolist()
    matrix = OofMatrix(ids, labels, fold, np.array(ids), ["a"], prob[:, None], test_ids, np.array(test)[None, :, None])
    return DuplicateLeak(groups).apply(matrix, BlendScores(prob, prob, np.array(test)))


def test_answers_by_hand():
    groups, labels = table("aabbb", "abcb"), np.array([1, 0, 0, 1, 0])
    answers = DuplicateLeak(groups)._answers(list("01234"), labels, "test", ["t3", "t0", "t1", "t2"])
    assert answers.tolist() == [0, -1, 0, -1]  # b is mostly 0; a is undecided and c has no duplicate: as predicted
    prob = _with_answers(np.array([0.9, 0.8, 0.7, 0.6]), answers, 0.95)
    assert prob == pytest.approx([0.05, 0.8, 0.05, 0.6])


def test_duplicates_that_agree_are_used_and_scored_without_a_rows_own_label():
    groups, ids, labels, fold, prob = case(pairs=100, wrong=0.05)
    labels[:2] = 1
    result = leak_result(groups, ids, labels, fold, prob)
    facts, after = result.facts, result.candidates["duplicates"]
    same = labels[:200:2] == labels[1:200:2]
    assert facts["train_answered"] == 200 and facts["right"] == pytest.approx(same.mean())
    assert facts["before"] == pytest.approx((decide(prob) == labels)[:200].mean())
    assert facts["used"] and facts["picked"] == "duplicates"
    assert facts["why"].startswith(
        "duplicates is the simplest method that no other beats by a real margin on the same rows"
    )
    sure = (2 * same.sum() + 1) / 202
    assert result.scores.test == pytest.approx([sure, sure, 0.4])
    assert (decide(after)[:200] == labels[np.arange(200) ^ 1]).all() and (after[200:] == prob[200:]).all()
    assert facts["gain"]["gain"] == pytest.approx((2 * same.sum() - (decide(prob) == labels)[:200].sum()) / 400)
    assert np.array_equal(result.scores.nested, after)


@pytest.mark.parametrize("row", [0, 1, 37, 200, 399])
def test_a_rows_own_label_has_no_part_in_its_score(row):
    groups, ids, labels, fold, prob = case(pairs=40, rows=400)
    groups.loc[len(groups)] = ("test", "t3", 4)  # whose duplicates agree, whatever the row's label is
    before = leak_result(groups, ids, labels, fold, prob, np.full(4, 0.4))
    labels[row] = 1 - labels[row]
    after = leak_result(groups, ids, labels, fold, prob, np.full(4, 0.4))
    assert after.candidates["duplicates"][row] == before.candidates["duplicates"][row]
    assert after.scores.nested[row] == before.scores.nested[row]


def test_duplicates_that_are_wrong_as_often_as_the_models_are_not_used():
    groups, ids, labels, fold, prob = case(pairs=100, wrong=0.3)
    result = leak_result(groups, ids, labels, fold, prob)
    assert result.facts["picked"] == "no_duplicates" and not result.facts["used"]
    assert result.facts["why"].startswith("no_duplicates is the simplest candidate")
    assert np.array_equal(result.scores.nested, prob) and result.scores.test.tolist() == [0.4, 0.4, 0.4]


def test_no_duplicates_and_only_contradicting_ones_are_refused():
    def require(train, test):
        rows, test_ids = [str(row) for row in range(len(train))], [f"t{row}" for row in range(len(test))]
        nothing = np.zeros((len(train), 1))
        labels = np.array([0, 1, 1])
        matrix = OofMatrix(rows, labels, labels, np.array(rows), ["a"], nothing, test_ids, np.zeros((2, len(test), 1)))
        return DuplicateLeak(table(train, test)).require(matrix)

    message = (
        "no test image shows a picture of train: there are no duplicates whose labels could be used. "
        "Leave --use-duplicates out."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        require("aab", "cd")
    message = (
        "1 test images show a picture of train, but the labels of these contradict each other evenly. "
        "Leave --use-duplicates out."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        require("aab", "ac")
    assert require("aab", "abb") == {"answered": 2, "test_rows": 3}


def members(pairs, **options):
    groups, ids, labels, fold, prob = case(pairs, rows=600, **options)
    both = np.column_stack([prob, prob])
    test = np.full((5, 3, 2), 0.4)
    matrix = OofMatrix(ids, labels, fold, np.array(ids), ["a", "b"], both, ["t0", "t1", "t2"], test)
    return matrix, Stacked(prob, test[0, :, 0]), groups


def test_duplicates_reach_submission_score_and_words_only_when_asked_for():
    matrix, stacked, groups = members(100)
    matrix.labels[:2] = 1
    plain = make_blend(matrix, stacked, "mean", "auto")
    assert plain.facts["leaks"] == {} and "duplicates" not in plain.submissions and announce_leaks(plain.facts) == ""
    blend = make_blend(matrix, stacked, "mean", "auto", leaks=[DuplicateLeak(groups)])
    assert blend.submissions["mean"]["label"].tolist() == [0, 0, 0]
    assert blend.submissions["duplicates"]["label"].tolist() == [1, 1, 0]
    assert blend.facts["score"]["accuracy"] == pytest.approx((blend.oof["label"] == blend.oof["pred"]).mean())
    assert blend.facts["score"]["accuracy"] > plain.facts["score"]["accuracy"] + 0.04
    assert blend.leaderboard.set_index("name").loc["duplicates", "kind"] == "near-duplicates"
    assert format_headline(blend.facts).endswith(" by mean, near-duplicates of train images by their labels")
    assert announce_leaks(blend.facts) == (
        "THE LABELS OF DUPLICATES WERE USED: 2 of 3 test images show a picture of train and take its label, a leak of "
        "this competition that tells nothing about new images."
    )
    assert unused_leaks(blend.facts) == []
    said = describe_leaks(blend.facts)[0]
    assert (
        "Near-duplicates: 2 of 3 test images take the label of their duplicates in train; of 600 train images, each "
        "left out in turn, 200 would."
    ) in said


def test_duplicates_that_gain_nothing_are_said_not_to_be_used():
    matrix, stacked, groups = members(100, wrong=0.4)
    blend = make_blend(matrix, stacked, "mean", "auto", leaks=[DuplicateLeak(groups)])
    assert "duplicates" not in blend.submissions and announce_leaks(blend.facts) == ""
    assert unused_leaks(blend.facts) == [
        "the labels of duplicates gain nothing by a real margin: they are not in the submission after all"
    ]
