"""Label issues on ten rows worked out by hand, and what must hold for any."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facefold.ensemble.label_issues import COLUMNS, find_label_issues, propose_corrections

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


def suspects(rows: pd.DataFrame) -> pd.DataFrame:
    return find_label_issues(rows, rows["prob"].to_numpy())


def test_the_suspects_by_hand():
    issues = suspects(TEN)
    assert list(issues.columns) == list(COLUMNS)
    assert list(issues.itertuples(index=False, name=None)) == [
        ("j", 1, 0.05, "confident", 1, 0, 0.95, "j"),
        ("d", 0, 0.9, "confident", 2, 1, 0.9, "d"),
    ]


def test_a_row_that_the_models_agree_with_is_no_suspect():
    # The thresholds are 0.83 and 0.31: d and e (0.35) seem 1, so 2 of 5 labels 0 are wrong, but all rows are predicted
    # 0. Label 1 has only j that is counted, as 1.
    rows = TEN.assign(prob=[0.05, 0.05, 0.05, 0.35, 0.35, 0.3, 0.3, 0.3, 0.3, 0.35])
    assert suspects(rows).empty


def test_a_group_with_both_labels_comes_first():
    pairs = TEN.assign(group=TEN["group"].replace({"i": "e", "j": "d"}))
    table = suspects(pairs)
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
    conflict = suspects(three).query("kind == 'conflict'")
    assert conflict["suggested"].tolist() == [1, 1, 1] and conflict["confidence"].tolist() == pytest.approx(
        [2.6 / 3] * 3
    )
    three = three.assign(label=1 - three["label"], prob=three["prob"])
    conflict = suspects(three).query("kind == 'conflict'")
    assert conflict["suggested"].tolist() == [0, 0, 0] and conflict["confidence"].tolist() == pytest.approx(
        [0.4 / 3] * 3
    )


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
    issues = suspects(table)
    assert suspects(table.sample(frac=1, random_state=seed)).equals(issues)
    confident = issues[issues["kind"] == "confident"]
    assert (confident["suggested"] != confident["label"]).all() and (confident["confidence"] >= 0.5).all()
    both = table.groupby("group")["label"].transform("nunique") == 2
    assert set(issues.loc[issues["kind"] == "conflict", "id"]) == set(table.loc[both, "id"])
    assert issues["id"].is_unique


def test_of_rows_that_are_equally_suspicious_the_first_ids_are_taken():
    # Label 0: the thresholds are 0.6225 and 0.9, so 60 rows seem 0, 15 seem 1 and 25 (0.7) are not counted:
    # 100 * 15 / 75 = 20 labels are wrong, the 15 and 5 of the 25.
    prob = np.random.default_rng(0).permutation([0.1] * 60 + [0.95] * 15 + [0.7] * 25)
    ids = [f"{i:03d}" for i in range(200)]
    rows = pd.DataFrame({"id": ids, "group": ids, "label": [0] * 100 + [1] * 100, "prob": [*prob, *[0.9] * 100]})
    expected = [ids[row] for value, count in ((0.95, 15), (0.7, 5)) for row in np.flatnonzero(prob == value)[:count]]
    for table in (rows, rows.iloc[::-1]):
        assert suspects(table)["id"].tolist() == expected


# Of class 0 the mean probability is (3 * 0.8 + 0.1) / 4 = 0.625, of 1 and 2 it is 0.8. d, the last row of class 0, is
# counted as class 1, which is 1 of 4; every other row is counted as its own class.
TWELVE = pd.DataFrame({"id": list("abcdefghijkl"), "label": [0] * 4 + [1] * 4 + [2] * 4, "group": list("abcdefghijkl")})
OF_CLASSES = np.array([[0.8, 0.1, 0.1]] * 3 + [[0.1, 0.8, 0.1]] * 5 + [[0.1, 0.1, 0.8]] * 4)


def test_the_suspects_of_three_classes_by_hand():
    issues = find_label_issues(TWELVE, OF_CLASSES)
    assert list(issues.itertuples(index=False, name=None)) == [("d", 0, 0.1, "confident", 1, 1, 0.8, "d")]
    reverse = find_label_issues(TWELVE.iloc[::-1], OF_CLASSES[::-1])
    assert reverse.equals(issues)
    relabelled = propose_corrections(issues, "relabel", top=1, classes=("ant", "bee", "cow"))
    assert relabelled.to_dict("list") == {"id": ["d"], "action": ["relabel:bee"]}


def test_a_group_with_different_labels_of_three_classes():
    # a, b (class 0) and e (class 1): two of three rows say 0. g (class 1) and k (class 2) are one row each, and
    # the mean of [0, 0.9, 0.1] and [0.1, 0.1, 0.8] has 0.5 of class 1.
    rows = TWELVE.assign(group=["A", "A", *"cd", "A", "f", "G", *"hij", "G", "l"])
    prob = OF_CLASSES.copy()
    prob[6] = [0.0, 0.9, 0.1]
    conflicts = find_label_issues(rows, prob).query("kind == 'conflict'")
    assert conflicts[["id", "label", "suggested", "group"]].to_numpy().tolist() == [
        ["a", 0, 0, "A"],
        ["b", 0, 0, "A"],
        ["e", 1, 0, "A"],
        ["g", 1, 1, "G"],
        ["k", 2, 1, "G"],
    ]
    assert conflicts["prob"].tolist() == [0.8, 0.8, 0.8, 0.9, 0.8]
    assert conflicts["confidence"].tolist() == pytest.approx([1.7 / 3] * 3 + [0.5] * 2)
    kept = propose_corrections(conflicts, "relabel", classes=("ant", "bee", "cow"))
    assert kept["action"].tolist() == ["keep", "keep", "relabel:ant", "keep", "relabel:bee"]


def test_proposals():
    table = suspects(TEN.assign(group=TEN["group"].replace({"i": "e"})))
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
