"""The first screen of a report and what each means gained, by hand."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from facefold.ensemble.added import MARK
from facefold.ensemble.blend import Blend
from facefold.ensemble.metrics import ACCURACY, MEAN_ABSOLUTE_ERROR
from facefold.report.bars import make_axis
from facefold.report.board import describe_weights
from facefold.report.gains import compare_means, format_gain
from facefold.report.sections import fold_section
from facefold.report.verdict import _blending, extra_rows, label_noise, page_title
from facefold.runs import Member
from facefold.task import LABEL, Task

IDS = list("abcdefgh")
LABELS = np.array([0, 1] * 4)


def member(name: str, wrong: str, seed: int = 0) -> Member:
    """Return a run that predicts 0.9 for the label, but 0.2 where it is wrong."""
    own = np.where([id in wrong for id in IDS], 0.2, 0.9)
    return Member(name, pd.Series(np.where(LABELS == 1, own, 1 - own), IDS), pd.DataFrame(), [{"seed": seed}])


def blend(prob: pd.Series, **facts: object) -> Blend:
    """Return a blend with these predictions in two folds."""
    oof = pd.DataFrame({"id": IDS, "label": LABELS, "prob": prob.to_numpy(), "fold": [0] * 4 + [1] * 4})
    board = pd.DataFrame(
        {"name": ["mean"], "kind": "method", "gain": [0.125], "gain_low": [-0.1], "gain_high": [0.3], "gain_p": [0.5]}
    )
    known = {"picked": "greedy", "options": {"method": "auto"}, "decision": {"kind": "none"}, "leaks": {}}
    return Blend(board, oof, oof, {}, known | {"threshold_gain": None} | facts)


def words(groups: dict) -> dict[str, list[tuple]]:
    return {name: [(row.what, row.over, row.gain.gain) for row in rows] for name, rows in groups.items()}


def test_blending_variants_seeds_and_each_member_are_compared():
    runs = [
        member("lite0", "ab"),
        member("lite0#1", "bc", seed=1),
        member("lite0~size=96", "a"),
        member("lite0~size=96@3+pseudo", ""),  # of its two parts each may be left out: @3 alone is no run
        member("lite0~size=96+pseudo", "h"),
        member("lite0+extra", "", seed=7),  # of another seed than lite0
    ]
    groups = words(compare_means(blend(runs[2].oof), runs, LABEL))
    # Five of six are right on a, b, c and h, two or more of them by 0.9 each: the mean is right everywhere.
    assert groups["Blending"] == [
        ("the mean of 6", "the best single recipe", 0.125),
        ("choosing greedy", "the mean", -0.125),
    ]
    assert groups["Variants of a run"] == [
        ("size=96", "lite0", 0.125),
        ("3 epochs", "lite0~size=96+pseudo", 0.125),
        ("pseudo-labels", "lite0~size=96", 0.0),
        ("the mean of 2 seeds", "lite0", 0.125),  # a and c: 0.55 for the label; b: 0.2
    ]
    left_out = groups["Each in the mean of all, over the mean without it"]
    assert [row[0] for row in left_out] == [run.name for run in runs] and {row[1:] for row in left_out} == {("", 0.0)}


def test_what_the_decision_gained_is_there_whether_or_not_it_was_kept():
    gain = {"gain": 0.01, "low": -0.1, "high": 0.1, "p": 0.4, "wins": 1, "losses": 0}
    one = [member("lite0", "a")]
    groups = compare_means(blend(one[0].oof, threshold_gain=gain), one, LABEL)
    assert words(groups) == {"Blending": [("a threshold learned, not kept", "0.5", 0.01)]}
    assert not groups["Blending"][0].real
    kept = blend(one[0].oof, threshold_gain=gain | {"p": 0.01}, decision={"kind": "threshold"})
    (row,) = compare_means(kept, one, LABEL)["Blending"]
    assert row.what == "a threshold learned" and row.real


def test_one_run_and_nothing_learned_leave_nothing_to_compare():
    one = [member("lite0", "a")]
    assert compare_means(blend(one[0].oof), one, LABEL) == {}


def test_a_submission_that_is_the_mean_is_not_compared_with_it():
    runs = [member("lite0", "a"), member("cnn5", "b")]
    mean = (runs[0].oof + runs[1].oof) / 2
    rows = compare_means(blend(mean + 1e-16, options={"method": "mean"}), runs, LABEL)["Blending"]
    assert [row.what for row in rows] == ["the mean of 2"]


def test_the_metric_of_the_task_compares_classes():
    task = Task(kind="multiclass", classes=("a", "b", "c"), metric="log_loss", submission="probabilities")
    prob = np.full((8, 3), 0.25)
    prob[np.arange(8), LABELS] = 0.5
    sure = np.where(prob == 0.5, 0.8, 0.1)
    runs = [
        Member(name, pd.DataFrame(values, IDS, list(task.columns)), pd.DataFrame(), [{"seed": 0}])
        for name, values in (("lite0", prob), ("lite0~size=96", sure))
    ]
    oof = pd.DataFrame(sure, columns=list(task.columns)).assign(id=IDS, label=LABELS)
    groups = compare_means(replace(blend(pd.Series(LABELS)), oof=oof), runs, task)
    (variant,) = groups["Variants of a run"]
    assert variant.gain.gain == pytest.approx(math.log(0.8 / 0.5))
    (picked,) = groups["Blending"][1:]
    assert picked.gain.gain == pytest.approx(math.log(0.8 / 0.65))


def test_gains_are_in_points_or_in_the_metric():
    assert format_gain(0.00123, -0.001, 0.0031, ACCURACY) == ("+0.12", "-0.10 to +0.31")
    assert format_gain(0.5, -0.25, 1.25, MEAN_ABSOLUTE_ERROR) == ("+0.500", "-0.250 to +1.250")


def test_an_axis_holds_all_rows_but_the_few_that_are_far_away():
    table = np.array([[5, 4, 6], [6, 5, 7], [5.5, 5, 6], [60, 59, 61], [np.nan] * 3])
    axis = make_axis(table, reference=5.0)
    assert axis.low == pytest.approx(4 - 0.24) and axis.high == pytest.approx(7 + 0.24)  # 8 % of 3
    assert axis.holds(5.5) and not axis.holds(60) and not axis.holds(np.nan)
    assert axis.percent(5.5) == 50 and axis.percent(60) == 100 and axis.percent(-1) == 0
    assert [label for _, label in axis.ticks] == ["4", "5", "6", "7"]
    whole = make_axis(table, whole=[3])
    assert whole.holds(60) and [label for _, label in whole.ticks] == ["20", "40", "60"]
    signed = make_axis(np.array([[-0.5, -1, 0.0]]), 0.0, signed=True)
    assert [label for _, label in signed.ticks] == ["-0.8", "-0.4", "0"]
    assert make_axis(np.full((2, 3), np.nan)).holds(0.5) and make_axis(np.ones((1, 3))).percent(1) == 50


def test_labels_of_an_axis_have_room_on_a_phone():
    axis = make_axis(np.array([[0.94601, 0.94301, 0.94901]]))
    assert [label for _, label in axis.ticks] == ["0.944", "0.948"]


def test_weights_for_people():
    assert describe_weights("a~lr=0.1=0.25,b=0.5,c=0,d=0.25", 2) == "b\u00a00.5, a~lr=0.1\u00a00.25 and 1 more"
    assert describe_weights("a=1,b=1", 3) == "all equal"
    assert describe_weights("a=1", 3) == "a\u00a01" and describe_weights("", 3) == ""


def test_scores_by_fold_are_those_of_the_task_and_one_class_has_no_area():
    runs = [member("lite0", "a")]
    both = fold_section(blend(member("b", "abe").oof), runs, LABEL)
    assert both["by_fold"].to_dict("list") == {"lite0": [0.75, 1.0], "blend": [0.5, 0.75]}
    assert both["fold_rows"] == [4, 4] and both["fold_intervals"][0] == pytest.approx((0.15, 0.85), abs=0.01)
    one_class = blend(runs[0].oof)
    one_class = replace(one_class, oof=one_class.oof.assign(fold=LABELS))
    areas = fold_section(one_class, runs, Task(metric="auc", submission="probabilities"))["by_fold"]
    assert areas.isna().all(axis=None)


def test_extra_rows_with_counts_and_checksum():
    folds = [{"extra_rows": {"rows": 1200, "trained": n, "dropped": ["x"], "sha256": "ab"}} for n in (1200, 1190)]
    runs = [Member("lite0+extra", pd.Series(), pd.DataFrame(), folds), member("lite0", "")]
    assert extra_rows(runs) == [
        {"name": "lite0+extra", "rows": 1200, "trained": "1,190 to 1,200", "dropped": 1, "sha256": "ab"}
    ]


def test_the_answer_about_the_labels():
    clean = label_noise({"confident": [], "conflicts": []}, 2000)
    assert (clean.state, clean.mark, clean.section) == ("good", "no suspects", ())
    doubtful = label_noise({"confident": range(30), "conflicts": [range(2)]}, 2000)
    assert (
        doubtful.state == "look"
        and doubtful.mark == "32 suspects"
        and doubtful.texts
        == [
            "30 of 2,000 are likely wrong by confident learning (1.5 %).",
            "Different labels for the same picture: 1 group.",
        ]
    )


def test_the_first_line_names_members_that_know_their_labels():
    facts = {
        "task": {},
        "score": {"accuracy": 0.9, "low": 0.8, "high": 0.95},
        "picked_score": {"accuracy": 0.9, "low": 0.8, "high": 0.95},
        "picked": "mean",
        "leaks": {},
        "corrections": None,
        "added": {f"mate{MARK}": {"knows_labels": True}},
    }
    assert page_title(facts, LABEL, synthetic=True) == (
        "Synthetic competition, not real data. Upload submissions/submission.csv: nested accuracy 0.9000 "
        "[0.800, 0.950] by mean with mate (not verified here). A member seems to know its labels."
    )


@pytest.mark.parametrize("leaks, addition", [({}, ""), ({"order": {"used": True}}, ", without the leak")])
def test_the_gain_of_blending_is_said_to_be_without_a_used_leak(leaks, addition):
    gain = {"gain": 0.01, "low": -0.01, "high": 0.03, "p": 0.2, "wins": 3, "losses": 1}
    facts = {"gain_over_best_single": gain, "leaks": leaks}
    [answer] = _blending(facts, [member("lite0", "a"), member("cnn5", "b")], ACCURACY)
    assert answer.texts == [
        f"+1.00 points (-1.00 to +3.00) over the best single recipe{addition}; 3 rows fixed, 1 broken "
        "(McNemar, p = 0.2)."
    ]
