"""Groups by columns, blocks in time and folds of a file, with values by hand; folds of three classes."""

import re

import numpy as np
import pandas as pd
import pytest

from facefold.data.competition import Competition
from facefold.data.fold_methods import FoldMethod, parse_method, stratified_folds
from facefold.data.fold_rows import (
    column_groups,
    cut_in_time,
    describe_divided_groups,
    describe_fold,
    describe_folds,
    join_groups,
    parse_columns,
    parse_time,
    read_folds_file,
)
from facefold.data.folds import assign_folds, load_folds, make_folds, require_both_labels, write_folds
from facefold.task import LABEL, Task
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file, write_csv, write_text

THREE = Task(kind="multiclass", classes=("ant", "bee", "cow"))
IDS = list("abcdef")


def by_id(values, ids=IDS):
    return pd.Series(list(values), index=pd.Index(ids, name="id"))


def competition(**meta):
    train = pd.DataFrame({"id": IDS, "label": [0, 1] * 3})
    table = pd.DataFrame({"id": IDS[::-1], **{name: values[::-1] for name, values in meta.items()}}) if meta else None
    return Competition(None, train, pd.DataFrame({"id": ["t"]}), pd.DataFrame(), table)


def folds_of(fold, labels=(0, 1) * 3, method="", target=LABEL):
    train = pd.DataFrame({"id": IDS, "label": labels})
    return assign_folds(train, by_id(IDS), np.array(fold), 0, "sha", method, target)


# Groups


def test_groups_are_joined_through_other_rows_and_named_by_their_first():
    images = by_id(["a", "b", "b", "d", "e", "f"])  # b and c are one picture
    patient = by_id(["1", "2", "3", "3", "", ""])  # c and d are one patient; e and f are not known
    site = by_id(["x", "", "", "", "x", "y"])  # a and e
    assert join_groups([images, patient, site]).tolist() == ["a", "b", "b", "b", "a", "f"]
    assert join_groups([images[::-1], patient, site]).sort_index().tolist() == ["e", "d", "d", "d", "e", "f"]


def test_columns_are_of_meta_csv_whose_order_does_not_matter():
    groups = column_groups(competition(patient=list("112233")), ["patient"], "--group")
    assert groups[0].to_dict() == dict(zip(IDS, "112233", strict=True))
    assert parse_columns(" patient, site,patient,") == ("patient", "site") and parse_columns("") == ()


def test_a_column_that_is_nowhere():
    message = "--group site: neither train.csv nor meta.csv has that column; meta.csv: patient, date"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        column_groups(competition(patient=list("112233"), date=list("123456")), ["site"], "--group")
    message = "--group site: neither train.csv nor meta.csv has that column; they have no further ones"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        column_groups(competition(), ["site"], "--group")


def test_divided_groups_are_named_with_their_folds():
    table = pd.DataFrame({"id": IDS, "fold": [0, 1, 1, 0, 2, 2]})
    assert describe_divided_groups(table, by_id("aaccee")) == "a (folds 0, 1), c (folds 0, 1)"
    assert describe_divided_groups(table, by_id("abbdee")) == ""
    many = pd.DataFrame({"id": [f"{row}" for row in range(24)], "fold": [0, 1] * 12})
    groups = pd.Series(np.arange(24) // 2 * 2, index=many["id"])
    assert describe_divided_groups(many, groups).endswith("18 (folds 0, 1), and 2 more")


# Time


def test_blocks_follow_the_time_and_equal_times_stay_together():
    tables = competition(year=["2003", "2001", "2002", "10", "2002.5", "2004"])
    assert cut_in_time(tables, "year", 3).tolist() == [2, 0, 1, 0, 1, 2]
    tables = competition(day=["2020-01-02", "2020-01-02", "2020-01-02", "2019-12-31T23:00", "2020-02-01", "2020-03-01"])
    assert cut_in_time(tables, "day", 2).tolist() == [0, 0, 0, 0, 1, 1]


def test_dates_have_the_seconds_of_their_zone():
    assert parse_time("2020-01-01T01:00+01:00") == parse_time("2020-01-01") == ("date", 1577836800.0)
    assert parse_time(" 12.5") == ("number", 12.5)
    assert all(parse_time(text)[0] == "" for text in ("", "nan", "inf", "1 May", "2020-13-01"))


def test_times_that_are_none_are_named_by_row():
    tables = competition(day=["2020-01-02", "", "5", "May", "2020-01-03", "2020-01-04"])
    message = (  # meta.csv has the rows in the reverse order
        "--time day cannot be used:\n"
        "  - competition/meta.csv, row 6: day '' of id 'b' is no number and no ISO date\n"
        "  - competition/meta.csv, row 4: day 'May' of id 'd' is no number and no ISO date\n"
        "  - competition/meta.csv, row 5: day '5' is a number, and that of competition/meta.csv, row 7 a date\n"
        "Every train row needs one, all numbers or all dates."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        cut_in_time(tables, "day", 2)


def test_a_block_without_rows_is_refused():
    message = (
        "--time year: block 0 of 3 would be empty, so many rows have the same time, and these stay together; choose "
        "fewer with --folds"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        cut_in_time(competition(year=list("111112")), "year", 3)


# A file


def test_folds_of_a_file_are_those_of_its_rows_in_any_order(tmp_path):
    path = tmp_path / "my.csv"
    write_text(path, "id,fold\nf,0\na,1\nb,1\nc,2\nd,0\ne,2\n")
    assert read_folds_file(path, IDS).tolist() == [1, 1, 2, 0, 2, 0]


@pytest.mark.parametrize(
    "rows, lines",
    [
        ("a,0\nb,1\nc,0\nd,1\ne,0\n", ["{path}: id 'f' of train.csv (row 7) is missing"]),
        ("a,0\nb,1\nc,0\nd,1\ne,0\nf,1\nb,0\n", ["{path}, row 8: id 'b' appears twice, first in row 3"]),
        ("a,0\nb,1\nc,0\nd,1\ne,0\nf,1\nx,0\n", ["{path}, row 8: id 'x' is not in train.csv"]),
        ("a,0\nb,3\nc,0\nd,1\ne,0\nf,1\n", ["{path}: no row has fold 2, and the folds go up to 3"]),
        ("a,0\nb,0\nc,0\nd,0\ne,0\nf,0\n", ["{path}: every row has fold 0; at least 2 folds are needed"]),
        (
            "a,0\nb,-1\nc,0\nd,1\ne,0\nf,1.0\n",
            [
                f"{{path}}, row {row}: fold '{fold}' is not a whole number from 0 on"
                for row, fold in ((3, "-1"), (7, "1.0"))
            ],
        ),
    ],
)
def test_a_file_that_says_no_fold_is_refused_by_row(tmp_path, rows, lines):
    path = tmp_path / "my.csv"
    write_text(path, "id,fold\n" + rows)
    findings = "\n".join("  - " + line.format(path=path) for line in lines)
    message = f"the folds cannot be used:\n{findings}\nThe header is id,fold; each train id once; folds 0 to k-1."
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        read_folds_file(path, IDS)


def test_a_fold_of_one_of_two_labels_is_refused_and_of_one_of_three_is_not():
    with pytest.raises(InputError, match="^fold 1 would have rows of one label only; both are needed$"):
        require_both_labels(folds_of([0, 0, 1, 0, 1, 0]))
    require_both_labels(folds_of([0, 0, 1, 1, 0, 1]))
    require_both_labels(folds_of([0, 0, 1, 0, 1, 0], [0, 1, 2] * 2, target=THREE))


# Classes


def test_a_class_in_fewer_folds_than_there_are_is_named_and_divided_all_the_same():
    labels = np.array([0] * 8 + [1] * 8 + [2] * 3)
    train = pd.DataFrame({"id": [f"{row:02d}" for row in range(19)], "label": labels})
    groups = pd.Series(train["id"].tolist(), index=train["id"])
    folds = make_folds(train, groups, 4, 0, "sha", "near", THREE)
    counts = folds.table.groupby(["label", "fold"]).size().unstack(fill_value=0).to_numpy()
    assert counts[:2].tolist() == [[2] * 4] * 2 and sorted(counts[2]) == [0, 1, 1, 1]
    assert describe_folds(folds, groups, ()) == [
        "note: 1 of 3 classes are in fewer folds than 4: cow (3); a class in one fold alone is unknown to the model "
        "that is scored on it"
    ]
    assert describe_fold(folds.table[folds.table["label"] == 2], THREE) == "ant: 0, bee: 0, cow: 3"


def test_classes_that_all_have_fewer_rows_than_folds_lie_in_as_many_folds_as_they_can():
    stratum = np.repeat(np.arange(40), 3)
    fold = stratified_folds(stratum, np.arange(120), 5, 0)
    assert [len(set(fold[stratum == one])) for one in range(40)] == [3] * 40
    assert np.bincount(fold, minlength=5).tolist() == [24] * 5


def test_fewer_groups_than_folds_are_refused():
    train = pd.DataFrame({"id": IDS, "label": [0, 1, 2] * 2})
    message = "6 rows with 2 different images or groups are too few for 3 folds; choose fewer with --folds"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        make_folds(train, by_id("aaabbb"), 3, 0, "sha", "near", THREE)


# What is recorded


@pytest.mark.parametrize(
    "method, options",
    [
        (FoldMethod("near"), " --groups near"),
        (FoldMethod("none", ("patient", "the site; or so")), " --groups none --group 'patient,the site; or so'"),
        (FoldMethod(time="date"), " --time date"),
        (FoldMethod(file="0" * 64), " --folds-file FILE"),
        (FoldMethod(other="made by hand"), ""),
    ],
)
def test_a_method_is_read_as_it_was_recorded(method, options):
    assert method.options == options
    assert parse_method(method.text()) == method == parse_method(method.text(regression=True))


def test_folds_in_time_are_kept_with_what_they_cost(tmp_path):
    (tmp_path / "competition").mkdir()
    write_csv(tmp_path / "competition" / "train.csv", pd.DataFrame({"id": IDS, "label": [0, 1] * 3}))
    sha256 = sha256_file(tmp_path / "competition" / "train.csv")
    train = pd.DataFrame({"id": IDS, "label": [0, 1] * 3})
    text = FoldMethod(time="date").text()
    write_folds(tmp_path, assign_folds(train, by_id("aabbcc"), np.array([0, 1, 0, 0, 1, 1]), 0, sha256, text))
    folds = load_folds(tmp_path)
    assert folds.grouping is None and parse_method(folds.method).time == "date"
    assert describe_folds(folds, by_id("aabbcc"), ("patient",)) == [
        "note: fold 0 is the earliest by date; every row is held out once, so the rows that train a fold include later "
        "ones",
        "warning: these folds divide groups, named by their first row: a (folds 0, 1)",
    ]


def test_columns_of_the_task_that_the_folds_do_not_look_at_are_named():
    folds = folds_of([0, 0, 1, 1, 0, 1], method=FoldMethod("near", ("patient",)).text())
    assert describe_folds(folds, by_id(IDS), ("site", "patient")) == [
        "note: these folds do not keep rows of equal site together, as competition/task.toml would have it; for that, "
        "use --group patient,site"
    ]
