"""submissions/: two blends at once; a submission compared with the answers, and everything that is wrong with it."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

import score
from facefold.data.competition import Competition, load_competition
from facefold.data.folds import Folds
from facefold.ensemble import submission as submission_module
from facefold.ensemble.answers import load_answers
from facefold.ensemble.submission import write_blend, write_submission
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory

MINI = Path(__file__).resolve().parents[2] / "shared" / "competition-mini-solution.csv"


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def competition(root: Path) -> Competition:
    (root / "competition").mkdir()
    tables = {"train": "id,label\n1,0\n2,1\n", "test": "id\n3\n4\n", "sampleSubmit": "id,label\n4,0\n3,0\n"}
    for name, text in tables.items():
        write(root / "competition", f"{name}.csv", text)
    return load_competition(root)


def test_submission_has_the_order_of_the_sample(tmp_path):
    write_submission(competition(tmp_path), pd.DataFrame({"id": ["3", "4"], "label": [1, 0]}), tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_bytes() == b"id,label\n4,0\n3,1\n"


@pytest.mark.parametrize(
    "ids, labels, finding",
    [
        (["3"], [1], "id '4' of sampleSubmit.csv has no prediction"),
        (["3", "4", "4"], [1, 0, 0], "id '4' is predicted twice"),
        (["3", "4", "5"], [1, 0, 0], "id '5' is not in sampleSubmit.csv"),
        (["3", "4"], [1, 0.5], "id '4': label 0.5 is not 0 or 1"),
        (["3", "4"], [1, None], "id '4': label nan is not 0 or 1"),
    ],
)
def test_a_submission_that_would_be_refused_is_not_written(tmp_path, ids, labels, finding):
    with pytest.raises(InputError) as caught:
        write_submission(competition(tmp_path), pd.DataFrame({"id": ids, "label": labels}), tmp_path / "s.csv")
    assert str(caught.value) == f"s.csv would not be a valid submission and was not written:\n  - {finding}"
    assert not (tmp_path / "s.csv").exists()


def test_rows_join_by_id_in_any_order(tmp_path):
    solution = write(tmp_path, "solution.csv", "id,label,age\n01,1,30\n2,0,8\n1,1,2\n")
    table = load_answers(write(tmp_path, "submission.csv", "id,label\n1,0\n01,1\n2,0\n"), solution)
    assert table.to_dict("list") == {"id": ["01", "2", "1"], "label": [1, 0, 1], "pred": [1, 0, 0]}


def test_everything_wrong_is_named(tmp_path):
    solution = write(tmp_path, "solution.csv", "id,label\n1,1\n2,0\n3,0\n")
    submission = write(tmp_path, "submission.csv", "id,label\n1,x\n2,0\n2,1\n4,1\n")
    with pytest.raises(InputError) as error:
        load_answers(submission, solution)
    assert str(error.value).splitlines()[:-1] == [
        "the submission cannot be scored:",
        f"  - {submission}, row 4: id '2' appears twice, first in row 3",
        f"  - {submission}, row 2: label 'x' is not 0 or 1",
        f"  - {submission}: id '3' of solution.csv is missing",
        f"  - {submission}, row 5: id '4' is not in solution.csv",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,prob\n1,1\n", "row 1: the header is 'id,prob', expected 'id,label'"),
        ("id,label,age\n1,1,2\n", "row 1: the header is 'id,label,age', expected 'id,label'"),
        ("", "is empty"),
    ],
)
def test_a_submission_with_other_columns(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load_answers(write(tmp_path, "submission.csv", text), write(tmp_path, "solution.csv", "id,label\n1,1\n"))


def test_the_solution_may_have_more_columns_but_not_others(tmp_path):
    submission = write(tmp_path, "submission.csv", "id,label\n1,1\n")
    with pytest.raises(InputError, match="row 1: the header is 'id,age,label', expected 'id,label,..'"):
        load_answers(submission, write(tmp_path, "solution.csv", "id,age,label\n1,3,1\n"))
    with pytest.raises(InputError, match="none.csv is missing"):
        load_answers(submission, tmp_path / "none.csv")


def test_two_blends_write_one_after_the_other(tmp_path, monkeypatch):
    folds = Folds(pd.DataFrame(), 2, 0, "hash", "sha", "method")
    monkeypatch.setattr(submission_module, "_write_blend", lambda directory, blend, *_: blend)
    with ThreadPoolExecutor(1) as pool:
        with lock_directory(tmp_path / "submissions"):
            second = pool.submit(write_blend, tmp_path, "blend", None, folds, [], "", {})
            with pytest.raises(TimeoutError):
                second.result(0.2)
        assert second.result(10) == "blend"


@pytest.fixture
def score_output(monkeypatch, capsys):
    """`score_output(submission, solution)`: return what score.py prints."""

    def run(*arguments: Path) -> str:
        monkeypatch.setattr(sys, "argv", ["score.py", *map(str, arguments)])
        score.main()
        return capsys.readouterr().out

    return run


def test_the_step_prints_accuracies_with_intervals(tmp_path, score_output):
    solution = write(tmp_path, "solution.csv", "id,label\n" + "".join(f"{id},{int(id > 6)}\n" for id in range(1, 11)))
    submission = write(
        tmp_path, "submission.csv", "id,label\n" + "".join(f"{id},{int(id > 5)}\n" for id in range(1, 11))
    )
    assert score_output(submission, solution).splitlines() == [
        "accuracy 0.9000 [0.5958, 0.9821], 9 of 10 right",
        "label 0  0.8333 [0.4365, 0.9699], 5 of 6 right",
        "label 1  1.0000 [0.5101, 1.0000], 4 of 4 right",
    ]


@pytest.mark.skipif(not MINI.exists(), reason="../shared/competition-mini-solution.csv is not there")
def test_the_answers_of_the_mini_competition_score_themselves(score_output):
    assert score_output(MINI, MINI).startswith("accuracy 1.0000 [0.9936, 1.0000], 600 of 600 right")
