"""What is predicted: the label, or a number of meta.csv; its rows, its bins and its folds."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facefold.data.competition import Competition, load_competition
from facefold.data.folds import load_folds, make_folds, write_folds
from facefold.data.synthetic import write_synthetic_competition
from facefold.task import LABEL, Target, strata, target_rows
from facefold.utils.errors import InputError
from facefold.utils.files import write_csv

AGE = Target("age")
WAY_OUT = "Every train row needs a number there, to be trained and scored by: mend meta.csv, or leave --target out."


def competition(tmp_path, meta: pd.DataFrame | None) -> Competition:
    train = pd.DataFrame({"id": ["01", "2", "3"], "label": [0, 1, 1]})
    return Competition(tmp_path, train, pd.DataFrame({"id": ["t"]}), pd.DataFrame({"id": ["t"], "label": ["0"]}), meta)


def test_values_come_in_the_order_of_train_whatever_the_order_of_meta(tmp_path):
    meta = pd.DataFrame({"id": ["3", "t", "01", "2"], "age": ["7.5", "", "1", "116"]})  # a test row needs none
    got = target_rows(competition(tmp_path, meta), AGE)
    assert (
        got["id"].tolist() == ["01", "2", "3"]
        and got["label"].tolist() == [1, 116, 7.5]
        and got["label"].dtype == np.float64
    )
    assert target_rows(competition(tmp_path, meta), LABEL)["label"].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "meta, message",
    [
        (None, f"--target age: competition/meta.csv (id,age,..) is missing. {WAY_OUT}"),
        (
            {"id": ["01"], "race": ["1"]},
            "--target age: competition/meta.csv has no such column that can name a folder; it has race",
        ),
        (
            {"id": ["2", "01", "3"], "age": ["", "nan", "4"]},
            "--target age cannot be used:\n"
            "  - competition/meta.csv, row 3: age 'nan' of id '01' is not a number\n"
            f"  - competition/meta.csv, row 2: age '' of id '2' is not a number\n{WAY_OUT}",
        ),
        (
            {"id": ["01", "2"], "age": ["1", "2"]},
            f"--target age cannot be used:\n  - competition/train.csv, row 4: id '3' has no row in meta.csv\n{WAY_OUT}",
        ),
        (
            {"id": ["01", "2", "3"], "age": ["4", "4.0", "4"]},
            "--target age: it is 4 in every train row, which leaves nothing to learn",
        ),
    ],
)
def test_what_cannot_be_a_target_is_said_by_row(tmp_path, meta, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        target_rows(competition(tmp_path, None if meta is None else pd.DataFrame(meta)), AGE)


def test_a_column_cannot_leave_the_root(tmp_path):
    meta = pd.DataFrame({"id": ["01", "2", "3"], "../age": ["1", "2", "3"]})
    with pytest.raises(
        InputError, match=re.escape("--target ../age: competition/meta.csv has no such column that can name")
    ):
        target_rows(competition(tmp_path, meta), Target("../age"))


def test_labels_are_their_own_strata_and_values_fall_into_equal_bins():
    assert strata(np.array([1, 0, 1])).tolist() == [1, 0, 1]
    bins = strata(np.arange(400.0))
    assert np.bincount(bins).tolist() == [40] * 10 and (np.diff(bins) >= 0).all()
    assert len(set(strata(np.arange(39.0)))) == 1  # two bins of 20 rows would need 40


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_equal_values_share_a_bin_and_bins_are_in_order(rows, kinds, seed):
    values = np.random.default_rng(seed).integers(0, kinds, rows).astype(float)
    bins = strata(values)
    order = np.argsort(values, kind="stable")
    assert (np.diff(bins[order]) >= 0).all() and all(len(set(bins[values == value])) == 1 for value in values)


def test_folds_of_values_have_equal_shares_of_the_bins_and_never_divide_a_group():
    values = np.random.default_rng(0).permutation(400).astype(float)
    table = pd.DataFrame({"id": [str(row) for row in range(400)], "label": values})
    group = pd.Series([str(row // 2) for row in range(400)], index=table["id"])
    made = make_folds(table, group, 4, 0, "sha", "near", AGE)
    shares = pd.crosstab(made.table["fold"], strata(table["label"].to_numpy()))
    assert shares.shape == (4, 10) and shares.to_numpy().min() >= 6 and shares.to_numpy().max() <= 14
    assert (made.table.groupby("group")["fold"].nunique() == 1).all() and made.table["label"].tolist() == table[
        "label"
    ].tolist()
    assert made.grouping == "near" and made.method.endswith("group: near-duplicate images; strata: bins of the target")
    few = table.assign(label=np.where(np.arange(400) < 4, 1.0, 9.0))
    with pytest.raises(
        InputError, match="^age 1 to 9 has 6 rows with 3 different images, too few for 5 folds; choose fewer"
    ):
        make_folds(few.iloc[:6], group.iloc[:6], 5, 0, "sha", "near", AGE)


def test_folds_of_a_target_lie_apart_and_other_values_make_them_stale(tmp_path):
    write_synthetic_competition(tmp_path, train=40, test=10, size=16)
    found = load_competition(tmp_path)
    ages = pd.DataFrame({"id": found.train["id"], "age": np.arange(40)})
    write_csv(tmp_path / "competition" / "meta.csv", ages)
    alone = pd.Series(found.train["id"].tolist(), index=found.train["id"])
    for target in (LABEL, AGE):
        made = make_folds(
            target_rows(load_competition(tmp_path), target), alone, 2, 0, target.sha256(tmp_path), target=target
        )
        assert write_folds(tmp_path, made) and not write_folds(tmp_path, made)
        assert load_folds(tmp_path, target).table.equals(made.table)
    assert (tmp_path / "targets/age/folds/folds.csv").read_text().startswith("id,label,group,fold\n1,0.0,1,")
    assert (tmp_path / "folds/folds.csv").is_file()
    write_csv(tmp_path / "competition" / "meta.csv", ages.assign(age=ages["age"] + 1))
    load_folds(tmp_path)  # the label's do not depend on meta.csv
    place = tmp_path / "competition"
    with pytest.raises(InputError) as caught:
        load_folds(tmp_path, AGE)
    assert str(caught.value) == (
        f"{place / 'train.csv'} or {place / 'meta.csv'} has changed since the folds were made. Restore it, or: "
        "Run `python src/split.py --target age` to write the folds again (`--force` where runs "
        "depend on the old ones)."
    )
