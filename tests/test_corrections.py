from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from facefold.data.corrections import DROPPED, NO_CORRECTIONS, Corrections, load_corrections, write_corrections
from facefold.data.folds import make_folds
from facefold.task import Task
from facefold.utils.errors import InputError

HINT = "The header is id,action; each train id at most once; action is keep, drop or relabel. Nothing was changed."


@pytest.fixture
def folds():
    train = pd.DataFrame({"id": [f"{row:04d}" for row in range(8)], "label": [0, 1] * 4})
    return make_folds(train, pd.Series(train["id"].tolist(), index=train["id"]), 2, 0, "sha")


def written(tmp_path, text: str):
    path = tmp_path / "corrections.csv"
    path.write_bytes(text.encode())
    return path


def test_actions_apply_by_id(tmp_path, folds):
    corrections = load_corrections(written(tmp_path, "id,action\n0003,relabel\n0000,drop\n0001,keep\n"), folds)
    assert corrections.actions == {"0003": "relabel", "0000": "drop"} and str(corrections) == "1 dropped, 1 relabelled"
    rows = pd.DataFrame(
        {"id": ["0003", "0001", "0000", "0002"], "label": [1, 1, 0, 0], "group": list("abcd")}, index=[4, 5, 6, 7]
    )
    corrected = corrections.apply(rows)
    assert corrected["id"].tolist() == ["0003", "0001", "0002"] and corrected["label"].tolist() == [0, 1, 0]
    assert corrected["group"].tolist() == ["a", "b", "d"] and corrected["label"].dtype == "int64"
    assert corrections.labels(["0000", "0003", "0001"], np.array([0, 1, 1])).tolist() == [DROPPED, 0, 1]
    assert NO_CORRECTIONS.apply(rows).equals(rows)


def test_the_hash_is_that_of_what_is_changed(tmp_path, folds):
    one = load_corrections(written(tmp_path, "id,action\n0003,relabel\n0000,drop\n"), folds)
    other = load_corrections(written(tmp_path, "id,action\n0002,keep\n0000,drop\n0003,relabel\n"), folds)
    assert one.hash == other.hash != Corrections({"0003": "drop", "0000": "drop"}).hash and len(one.hash) == 64
    assert NO_CORRECTIONS.hash == ""


@pytest.mark.parametrize(
    "text, lines",
    [
        (
            "id,action\n0001,drop\n0001,relabel\n9,drop\n0002,delete\n0003,\n",
            [
                "{path}, row 3: id '0001' appears twice, first in row 2",
                "{path}, row 4: id '9' is not in train.csv",
                "{path}, row 5: action 'delete' is none of keep, drop, relabel",
                "{path}, row 6: action '' is none of keep, drop, relabel",
            ],
        ),
        ("id,label\n0001,1\n", ["{path}, row 1: the header is 'id,label', expected 'id,action'"]),
        ("id,action,note\n0001,drop,x\n", ["{path}, row 1: the header is 'id,action,note', expected 'id,action'"]),
        (
            "id;action\n0001;drop\n",
            ["{path}, row 1: the cells are separated by semicolons, not by commas; save the file with commas"],
        ),
        ("id,action\n0001,drop,x\n", ["{path}, row 2 has 3 cells, the header has 2", "{path} has no rows"]),
        (
            "id,action\r\n1,Drop\r\n",
            [
                "{path}, row 2: id '1' is not in train.csv",
                "{path}, row 2: action 'Drop' is none of keep, drop, relabel",
            ],
        ),
        ("", ["{path} is empty"]),
    ],
)
def test_everything_wrong_with_a_file_is_listed_at_once(tmp_path, folds, text, lines):
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_corrections(path, folds)
    expected = "".join(f"  - {line.format(path=path)}\n" for line in lines)
    assert str(caught.value) == f"the corrections cannot be used:\n{expected}{HINT}"


def test_no_such_file(tmp_path, folds):
    with pytest.raises(InputError) as caught:
        load_corrections(tmp_path / "none.csv", folds)
    assert str(caught.value) == f"the corrections cannot be used:\n  - {tmp_path / 'none.csv'} is missing\n{HINT}"


def test_corrections_that_do_nothing_or_too_much_are_refused(tmp_path, folds):
    path = written(tmp_path, "id,action\n0001,keep\n")
    with pytest.raises(InputError) as caught:
        load_corrections(path, folds)
    assert str(caught.value) == f"{path}: every action is keep; set some to drop or relabel, or leave --corrections out"
    ones = folds.train(1).query("label == 1")["id"]
    path = written(tmp_path, "id,action\n" + "".join(f"{id},drop\n" for id in ones))
    with pytest.raises(InputError) as caught:
        load_corrections(path, folds)
    assert str(caught.value) == f"{path} leaves fold 1 training rows of one label only; keep more rows"


def test_a_file_with_other_content_is_kept(tmp_path):
    table = pd.DataFrame({"id": ["0001", "7"], "action": ["drop", "keep"], "other": 1})
    path = tmp_path / "new" / "corrections.csv"
    write_corrections(path, table, force=False)
    write_corrections(path, table, force=False)
    assert path.read_text() == "id,action\n0001,drop\n7,keep\n"
    with pytest.raises(
        InputError,
        match="corrections.csv is there with other content: it was edited by hand, or written with other",
    ):
        write_corrections(path, table.head(1), force=False)
    assert path.read_text() == "id,action\n0001,drop\n7,keep\n"
    write_corrections(path, table.head(1), force=True)
    assert path.read_text() == "id,action\n0001,drop\n"


def test_of_three_classes_relabel_names_one(tmp_path, folds):
    three = replace(folds, target=Task(kind="multiclass", classes=("ant", "bee", "cow")))
    path = written(tmp_path, "id,action\n0001,relabel\n0002,relabel:dog\n0003,cow\n")
    with pytest.raises(InputError) as caught:
        load_corrections(path, three)
    assert str(caught.value) == (
        "the corrections cannot be used:\n"
        f"  - {path}, row 2: action 'relabel'; write relabel:CLASS with one of ant, bee, cow\n"
        f"  - {path}, row 3: action 'relabel:dog'; write relabel:CLASS with one of ant, bee, cow\n"
        f"  - {path}, row 4: action 'cow' is none of keep, drop, relabel:CLASS\n"
        "The header is id,action; each train id at most once; action is keep, drop or relabel:CLASS. Nothing was "
        "changed."
    )
    text = "id,action\n0001,relabel:cow\n0000,relabel:ant\n0003,drop\n"  # 0000 is an ant
    corrections = load_corrections(written(tmp_path, text), three)
    assert corrections.actions == {"0001": "relabel:2", "0003": "drop"}
    assert str(corrections) == "1 dropped, 1 relabelled"
    assert corrections.labels(["0003", "0001", "0000"], np.array([1, 1, 0])).tolist() == [DROPPED, 2, 0]
    assert load_corrections(written(tmp_path, "id,action\n0002,drop\n"), three).actions == {"0002": "drop"}
