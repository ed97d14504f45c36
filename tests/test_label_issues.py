"""Confident learning on ten rows worked out by hand, and what must hold for any."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facefold.data.folds import make_folds
from facefold.ensemble.label_issues import (
    COLUMNS,
    confident_joint,
    find_label_issues,
    noise_counts,
    propose_corrections,
    prune_by_noise_rate,
)
from facefold.report import contact_sheet
from facefold.runs import fold_dir, write_predictions

# Mean probability of 0 among a..e: (0.9 + 0.8 + 0.7 + 0.1 + 0.4) / 5 = 0.58; of 1 among f..j: (0.9 + 0.8 + 0.7 + 0.6 +
# 0.05) / 5 = 0.61. e and i (0.6) reach neither. So 1 of 4 counted rows of each class seems to be of the other: 5 * 1 /
# 4 = 1.25, rounded 1, are wrong.
TEN = pd.DataFrame(
    {
        "id": list("abcdefghij"),
        "label": [0] * 5 + [1] * 5,
        "group": list("abcdefghij"),
        "prob": [0.1, 0.2, 0.3, 0.9, 0.6, 0.9, 0.8, 0.7, 0.6, 0.05],
    }
)


def test_the_confident_joint_and_the_suspects_by_hand():
    found = find_label_issues(TEN)
    assert found.thresholds == pytest.approx([0.58, 0.61])
    assert found.joint.tolist() == [[3, 1], [1, 3]] and found.wrong.tolist() == [1, 1]
    assert list(found.table.columns) == list(COLUMNS)
    assert list(found.table.itertuples(index=False, name=None)) == [
        ("j", 1, 0.05, "confident", 1, 0, 0.95, "j"),
        ("d", 0, 0.9, "confident", 2, 1, 0.9, "d"),
    ]


def test_a_group_with_both_labels_comes_first():
    duplicates = TEN.assign(group=TEN["group"].replace({"i": "e", "j": "d"}))
    table = find_label_issues(duplicates).table
    # d (0.9, label 0) and j (0.05, label 1): the mean is 0.475, for label 0. e and i are both at 0.6, for label 1.
    expected = [
        ("e", 0, 0.6, "conflict", 1, 1, 0.6, "e"),
        ("i", 1, 0.6, "conflict", 2, 1, 0.6, "e"),
        ("d", 0, 0.9, "conflict", 3, 0, 0.525, "d"),
        ("j", 1, 0.05, "conflict", 4, 0, 0.525, "d"),
    ]
    assert [(*row[:6], pytest.approx(row[6]), row[7]) for row in table.itertuples(index=False, name=None)] == expected


def test_most_labels_of_a_group_decide_before_the_probability():
    three = TEN.assign(group=TEN["group"].replace({"f": "d", "g": "d"}))  # labels 0, 1, 1 at 0.9, 0.9, 0.8
    conflict = find_label_issues(three).table.query("kind == 'conflict'")
    assert conflict["suggested"].tolist() == [1, 1, 1] and conflict["confidence"].tolist() == pytest.approx(
        [2.6 / 3] * 3
    )
    three = three.assign(label=1 - three["label"], prob=three["prob"])
    conflict = find_label_issues(three).table.query("kind == 'conflict'")
    assert conflict["suggested"].tolist() == [0, 0, 0] and conflict["confidence"].tolist() == pytest.approx(
        [0.4 / 3] * 3
    )


def test_a_row_that_reaches_both_thresholds_seems_to_be_of_its_likelier_class():
    prob, labels = np.array([0.2, 0.9, 0.5, 0.05]), np.array([0, 0, 1, 1])
    thresholds, joint = confident_joint(prob, labels)
    assert thresholds == pytest.approx([0.45, 0.275])
    assert joint.tolist() == [[1, 1], [1, 1]]  # 0.5 reaches 0.45 and 0.275, and decides for 1


def test_counts_of_wrong_labels_are_scaled_to_the_class():
    assert noise_counts(np.array([[8, 2], [0, 0]]), np.array([20, 5])).tolist() == [4, 0]
    assert noise_counts(np.array([[1, 0], [3, 1]]), np.array([9, 10])).tolist() == [0, 8]


def test_pruning_takes_no_row_that_the_models_agree_with():
    prob, labels = np.array([0.7, 0.3, 0.2, 0.9, 0.45, 0.5]), np.array([0, 0, 0, 1, 1, 1])
    assert prune_by_noise_rate(prob, labels, np.array([2, 1])).tolist() == [
        True,
        False,
        False,
        False,
        True,
        False,
    ]
    assert prune_by_noise_rate(prob, labels, np.array([2, 2])).tolist() == [
        True,
        False,
        False,
        False,
        True,
        False,
    ]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]) | st.floats(0, 1),
            st.integers(0, 30),
        ),
        min_size=2,
        max_size=40,
    ).filter(lambda rows: len({row[0] for row in rows}) == 2),
    seed=st.integers(0, 99),
)
def test_the_order_of_the_rows_changes_nothing(rows, seed):
    table = pd.DataFrame(rows, columns=["label", "prob", "group"]).assign(id=[f"{i:03d}" for i in range(len(rows))])
    found, again = find_label_issues(table), find_label_issues(table.sample(frac=1, random_state=seed))
    assert again.table.equals(found.table) and (again.joint == found.joint).all()
    confident = found.table[found.table["kind"] == "confident"]
    assert (confident["suggested"] != confident["label"]).all() and (confident["confidence"] >= 0.5).all()
    both = table.groupby("group")["label"].transform("nunique") == 2
    assert set(found.table.loc[found.table["kind"] == "conflict", "id"]) == set(table.loc[both, "id"])
    assert found.table["id"].is_unique and found.joint.sum() <= len(rows)


def test_of_rows_that_are_equally_suspicious_the_first_id_is_taken():
    # given 0: a, b seem 0, d seems 1, e and k (0.6) are not counted, so 5 * 1 / 3 = 1.67, rounded 2, are wrong: d and
    # one of e, k.
    rows = pd.concat([TEN[TEN["id"] != "c"], TEN[TEN["id"] == "e"].assign(id="k", group="k")])
    for table in (rows, rows.iloc[::-1]):
        found = find_label_issues(table)
        assert found.wrong.tolist() == [2, 1] and found.table["id"].tolist() == ["j", "d", "e"]


def test_proposals():
    table = find_label_issues(TEN.assign(group=TEN["group"].replace({"i": "e"}))).table
    assert table["id"].tolist() == ["e", "i", "j", "d"]
    assert propose_corrections(table, "drop", top=3).to_dict("list") == {
        "id": ["e", "i", "j"],
        "action": ["drop", "keep", "drop"],
    }
    assert propose_corrections(table, "relabel", confidence=0.92).to_dict("list") == {
        "id": ["j"],
        "action": ["relabel"],
    }
    assert propose_corrections(table, "relabel", top=1, confidence=0.9).to_dict("list") == {
        "id": ["j"],
        "action": ["relabel"],
    }


def test_neighbours_are_held_out_rows_of_the_same_fold(tmp_path):
    train = pd.DataFrame({"id": [f"{row:02d}" for row in range(16)], "label": [0, 1] * 8})
    split = make_folds(train, pd.Series(train["id"].tolist(), index=train["id"]), 2, 0, "sha")
    angles = {id: place * np.pi / 4 for k in (0, 1) for place, id in enumerate(split.valid(k)["id"])}  # around a circle
    for name, turn in (("a", 0.0), ("b", 1.0)):
        for k in (0, 1):
            ids = split.valid(k)["id"].tolist()[::-1]
            seen = np.array([[np.cos(angles[id] + turn), np.sin(angles[id] + turn)] for id in ids]) + 7 * k
            write_predictions(fold_dir(tmp_path, name, k), "oof", ids, np.full(8, 0.5), seen)
    own = split.valid(1).set_index("id")["label"]
    near = contact_sheet.neighbours(tmp_path, ["a", "b"], split, [own.index[0]])
    assert near["id"].unique().tolist() == [own.index[0]] and near["place"].tolist() == [1, 2, 3, 4, 5]
    assert near["similarity"].tolist() == pytest.approx([0.5**0.5, 0.5**0.5, 0, 0, -(0.5**0.5)], abs=0.01)  # float16
    assert set(near["neighbour"][:2]) == {own.index[1], own.index[7]} and set(near["neighbour"][2:4]) == {
        own.index[2],
        own.index[6],
    }
    assert near["label"].tolist() == own.loc[near["neighbour"]].tolist()
