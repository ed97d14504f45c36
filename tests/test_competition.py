"""The rules of the csv files, each fault by file and row; the rows of a target."""

import re

import numpy as np
import pandas as pd
import pytest

from facefold.data.competition import (
    Competition,
    load_competition,
    target_rows,
)
from facefold.task import LABEL, task_named
from facefold.utils.errors import InputError

AGE = task_named("age")
HINT = "Every train row needs a number there, to be trained and scored by: fix meta.csv, or leave --target out."


def put(root, train="id,label\n1,0\n2,1\n", test="id\n3\n4\n", sample="id,label\n4,0\n3,0\n", meta=None):
    """Write the csv files (text or bytes; None: leave it out)."""
    folder = root / "competition"
    folder.mkdir(exist_ok=True)
    for name, content in {"train.csv": train, "test.csv": test, "sampleSubmit.csv": sample, "meta.csv": meta}.items():
        if content is not None:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def findings(root):
    """The findings' lines of the error that load raises."""
    with pytest.raises(InputError) as caught:
        load_competition(root)
    lines = str(caught.value).split("\n")
    assert lines[0] == "the competition's csv files are not as they should be:"
    assert lines[-1].startswith("Fix these in a text editor")
    return [line.removeprefix("  - ") for line in lines[1:-1]]


def test_a_good_competition_keeps_its_ids_as_text(tmp_path):
    competition = load_competition(
        put(tmp_path, train="id,label\n0042,0\nNA,1\n1e3,1", meta="id,age,race\n0042,31,\n3,7,2\n")
    )
    assert competition.train["id"].tolist() == ["0042", "NA", "1e3"]
    assert competition.train["label"].tolist() == [0, 1, 1] and competition.train["label"].dtype == "int64"
    assert competition.test["id"].tolist() == ["3", "4"]
    assert competition.sample["id"].tolist() == ["4", "3"] and competition.sample["label"].tolist() == ["0", "0"]
    assert competition.meta.to_dict("list") == {"id": ["0042", "3"], "age": ["31", "7"], "race": ["", "2"]}
    assert competition.image_path("test", "3") == tmp_path / "competition" / "test" / "3.jpg"


def test_another_column_may_be_called_id(tmp_path):
    put(
        tmp_path, train="image,id,label\na,7,0\nb,7,1\n", test=None, sample="image,label\nc,0\n", meta="image,id\na,5\n"
    )
    competition = load_competition(tmp_path)
    assert competition.train["id"].tolist() == ["a", "b"] and competition.sample_header == ["image", "label"]
    assert competition.extra.to_dict("list") == {"id": ["a", "b"], "id.": ["7", "7"]}
    assert competition.meta.to_dict("list") == {"id": ["a"], "id.": ["5"]}


def test_a_bom_and_crlf_are_read_as_without(tmp_path):
    plain = {"train": 'id,label\n1,0\n"a,b",1\n', "test": "id\n3\n4\n", "sample": "id,label\n4,0\n3,0\n"}
    plain["meta"] = 'id,note\n1,"two\nlines"\n'
    (tmp_path / "plain").mkdir()
    expected = load_competition(put(tmp_path / "plain", **plain))
    served = {name: "\ufeff" + text.replace("\n", "\r\n") for name, text in plain.items()}
    competition = load_competition(put(tmp_path, **served))
    for name in ("train", "test", "sample", "meta"):
        pd.testing.assert_frame_equal(getattr(competition, name), getattr(expected, name))


def test_a_name_on_disk_in_another_unicode_form_is_the_image(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    competition = load_competition(put(tmp_path, train=f"id,label\n{composed},0\n{decomposed}x,1\n"))
    folder = tmp_path / "competition" / "train"
    folder.mkdir()
    for name in (f"{decomposed}.jpg", f"{composed}x.jpg"):
        (folder / name).write_bytes(b"x")
    assert competition.image_path("train", composed) == folder / f"{decomposed}.jpg"
    assert competition.image_path("train", f"{decomposed}x") == folder / f"{composed}x.jpg"
    (folder / f"{composed}.jpg").write_bytes(b"x")
    assert competition.image_path("train", composed) == folder / f"{composed}.jpg"
    assert competition.image_path("train", "\u00e8") == folder / "\u00e8.jpg"


def test_meta_is_optional(tmp_path):
    assert load_competition(put(tmp_path)).meta is None


def test_no_competition_says_how_to_get_one(tmp_path):
    with pytest.raises(InputError) as caught:
        load_competition(tmp_path)
    assert "--data ZIP|DIR" in str(caught.value) and "--synthetic" in str(caught.value)


def test_everything_wrong_is_listed_at_once(tmp_path):
    put(
        tmp_path,
        train=b"\xef\xbb\xbfid,label\r\n1,0\r\n1,1\r\n\r\n2,x\r\n../3, 1\r\n,0\r\n8\r\n",
        test="id\n1\n7\n",
        sample="id,label\n7,0\n9,0\n",
        meta="id,age\n77,3\n",
    )
    assert findings(tmp_path) == [
        "competition/train.csv, row 4 is blank",
        "competition/train.csv, row 8 has 1 cells, the header has 2",
        "competition/train.csv, row 3: id '1' appears twice, first in row 2",
        "competition/train.csv, row 6: id '../3' would leave the folder",
        "competition/train.csv, row 7: id '' is blank",
        "competition/train.csv, row 5: label 'x' is not 0 or 1",
        "competition/train.csv, row 6: label ' 1' is not 0 or 1",
        "competition/test.csv, row 2: id '1' is also a train id (row 2)",
        "competition/sampleSubmit.csv: id '1' of test.csv (row 2) is missing",
        "competition/sampleSubmit.csv, row 3: id '9' is not in test.csv",
        "competition/meta.csv, row 2: id '77' is neither in train.csv nor in test.csv",
    ]


@pytest.mark.parametrize(
    "train, finding",
    [
        (None, "competition/train.csv is missing"),
        ("", "competition/train.csv is empty"),
        ("id,label\n", "competition/train.csv has no rows"),
        ("\nid,label\n1,0\n", "competition/train.csv, row 1 is blank: the names of the columns are missing"),
        (
            "id;label\n1;0\n",
            "competition/train.csv, row 1: the cells are separated by semicolons, not by commas; save the file with "
            "commas",
        ),
        (
            "id\tlabel\n1,5\t0\n",
            "competition/train.csv, row 1: the cells are separated by tabs, not by commas; save the file with commas",
        ),
        ("1,0\n2,1\n", "competition/train.csv, row 1: the header is '1,0', expected 'id,label'"),
        ("label,name\n0,1\n", "competition/train.csv, row 1: the header is 'label,name', expected 'id,label'"),
        ("id, label\n1,0\n", "competition/train.csv, row 1: the header is 'id, label', expected 'id,label'"),
        (
            b"id,label\n1,0\n\xe9,1\n",
            "competition/train.csv, row 3: not UTF-8 (byte 0xe9); save it as UTF-8",
        ),
        ("id,label\n1,0\n2,0\n", "competition/train.csv: every label is 0; two classes are needed"),
        ("id,label\n1,0\n2,1\n\n", "competition/train.csv, row 4 is blank"),
        (
            'id,label\n1,0\n"2,1\n',
            "competition/train.csv, row 3: not readable as csv from here on (unexpected end of data)",
        ),
        ("id,label\n1,0\n2,1.0\n", "competition/train.csv, row 3: label '1.0' is not 0 or 1"),
        ("id,label\n1,0\n2,\n", "competition/train.csv, row 3: label '' is not 0 or 1"),
        ("id,label\n1,0\n2 ,1\n", "competition/train.csv, row 3: id '2 ' has blanks around it"),
        ("id,label\n1,0\na\\b,1\n", "competition/train.csv, row 3: id 'a\\\\b' would leave the folder"),
        ("id,label\n1,0\n..,1\n", "competition/train.csv, row 3: id '..' begins with a dot"),
        (
            "id,label\n1,0\na\0b,1\n",
            "competition/train.csv, row 3: id 'a\\x00b' holds a control or invisible character",
        ),
        (
            "id,label\n1,0\n\x1b[2Jb,1\n",
            "competition/train.csv, row 3: id '\\x1b[2Jb' holds a control or invisible character",
        ),
        (
            'id,label\n1,0\n"a\nb",1\n',
            "competition/train.csv, row 3: id 'a\\nb' holds a control or invisible character",
        ),
        (
            "id,label\n1,0\n" + "é" * 101 + ",1\n",
            f"competition/train.csv, row 3: id '{'é' * 56}... is too long for a file name",
        ),
    ],
)
def test_each_fault_of_a_train_csv(tmp_path, train, finding):
    assert findings(put(tmp_path, train=train)) == [finding]


@pytest.mark.parametrize(
    "meta, finding",
    [
        ("age,id\n3,1\n", "competition/meta.csv, row 1: the header is 'age,id', expected 'id,..'"),
        ("id,age,age\n1,3,3\n", "competition/meta.csv, row 1: column names must not be empty or repeated"),
        ("id,age\n1,3\n1,3\n", "competition/meta.csv, row 3: id '1' appears twice, first in row 2"),
    ],
)
def test_each_fault_of_a_meta_csv(tmp_path, meta, finding):
    assert findings(put(tmp_path, meta=meta)) == [finding]


def test_rows_after_a_quoted_cell_of_two_lines_keep_their_number(tmp_path):
    assert findings(put(tmp_path, train='id,label\n1,0\n2,1\n3a,"\n"\n4a,x\n')) == [
        "competition/train.csv, row 4: label '\\n' is not 0 or 1",
        "competition/train.csv, row 6: label 'x' is not 0 or 1",
    ]


def test_a_fault_of_every_row_hides_no_other(tmp_path):
    train = "id,label\n" + "".join(f"t{n},male\n" for n in range(5000)) + "t0,0\n"
    lines = findings(put(tmp_path, train=train))
    assert lines[0] == "competition/train.csv, row 5002: id 't0' appears twice, first in row 2"
    assert lines[1] == "competition/train.csv, row 2: label 'male' is not 0 or 1"
    assert lines[-1] == ".. and 4990 more like the last one" and len(lines) == 12


def test_a_hundred_thousand_rows_are_read(tmp_path):
    put(tmp_path, train="id,label\n" + "".join(f"t{n},{n % 2}\n" for n in range(100_000)))
    train = load_competition(tmp_path).train
    assert len(train) == 100_000 and train.iloc[-1].tolist() == ["t99999", 1]


def with_meta(tmp_path, meta: pd.DataFrame | None) -> Competition:
    train = pd.DataFrame({"id": ["01", "2", "3"], "label": [0, 1, 1]})
    return Competition(tmp_path, train, pd.DataFrame({"id": ["t"]}), pd.DataFrame({"id": ["t"], "label": ["0"]}), meta)


def test_values_come_in_the_order_of_train_whatever_the_order_of_meta(tmp_path):
    meta = pd.DataFrame({"id": ["3", "t", "01", "2"], "age": ["7.5", "", "1", "116"]})  # a test row needs none
    rows = target_rows(with_meta(tmp_path, meta), AGE)
    assert (
        rows["id"].tolist() == ["01", "2", "3"]
        and rows["label"].tolist() == [1, 116, 7.5]
        and rows["label"].dtype == np.float64
    )
    assert target_rows(with_meta(tmp_path, meta), LABEL)["label"].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "meta, message",
    [
        (None, f"--target age: competition/meta.csv (id,age,..) is missing. {HINT}"),
        (
            {"id": ["01"], "race": ["1"]},
            "--target age: competition/meta.csv has no such column that can name a folder; it has race",
        ),
        (
            {"id": ["2", "01", "3"], "age": ["", "nan", "4"]},
            "--target age cannot be used:\n"
            "  - competition/meta.csv, row 3: age 'nan' of id '01' is not a number\n"
            f"  - competition/meta.csv, row 2: age '' of id '2' is not a number\n{HINT}",
        ),
        (
            {"id": ["01", "2"], "age": ["1", "2"]},
            f"--target age cannot be used:\n  - competition/train.csv, row 4: id '3' has no row in meta.csv\n{HINT}",
        ),
        (
            {"id": ["01", "2", "3"], "age": ["4", "4.0", "4"]},
            "--target age: it is 4 in every train row, which leaves nothing to learn",
        ),
    ],
)
def test_what_cannot_be_a_target_is_refused_by_row(tmp_path, meta, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        target_rows(with_meta(tmp_path, None if meta is None else pd.DataFrame(meta)), AGE)


def test_a_column_cannot_leave_the_root(tmp_path):
    meta = pd.DataFrame({"id": ["01", "2", "3"], "../age": ["1", "2", "3"]})
    with pytest.raises(
        InputError, match=re.escape("--target ../age: competition/meta.csv has no such column that can name")
    ):
        target_rows(with_meta(tmp_path, meta), task_named("../age"))


@pytest.mark.parametrize(
    ("sample", "submission"),
    [
        ("4,0\n3,1", "labels"),
        ("4,0.0\n3,1.0", "labels"),
        ("4,\n3,", "labels"),
        ("4,0\n3,0.5", "probabilities"),
        ("4,0.123\n3,0", "probabilities"),
        ("4,male\n3,male", "labels"),
        ("4,2\n3,0", "labels"),
    ],
)
def test_the_sample_says_what_a_competition_wants(tmp_path, sample, submission):
    competition = load_competition(put(tmp_path, sample=f"id,label\n{sample}\n"))
    assert competition.task.submission == submission
    assert competition.task.metric == ("accuracy" if submission == "labels" else "auc")


@pytest.mark.parametrize("name", ["a/b", ".hidden", " age", "a" * 300])
def test_a_target_whose_name_is_no_folder_is_refused(tmp_path, name):
    competition = load_competition(put(tmp_path, meta=f"id,{name}\n1,3\n2,4\n"))
    with pytest.raises(InputError, match="has no such column that can name a folder"):
        target_rows(competition, task_named(name))
