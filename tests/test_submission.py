"""submissions/: two blends at once; a submission compared with the answers, and everything that is wrong with it."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

import score
from facefold.data.competition import Competition, load_competition
from facefold.data.folds import Folds
from facefold.data.task_inference import NO_CHOICES, Choices
from facefold.ensemble import submission as submission_module
from facefold.ensemble.answers import load_answers
from facefold.ensemble.blend import Blend
from facefold.ensemble.submission import check_submission, write_blend, write_submission
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory

FOLDS = Folds(pd.DataFrame(), 2, 0, "hash", "sha", "method")
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


def other(root: Path, train: str, sample: str, choices: Choices = NO_CHOICES) -> Competition:
    """Return a competition with the test rows of the sample."""
    (root / "competition").mkdir()
    write(root / "competition", "train.csv", train)
    write(root / "competition", "sampleSubmit.csv", sample)
    return load_competition(root, choices)


PETS = "file,pet\na,cat\nb,dog\nc,cow\n"
TWO = "file,pet\na,cat\nb,dog\n"
FORMS = {  # train.csv, sampleSubmit.csv, what a person chooses, the predictions, the submission
    "words": (PETS, "file,pet\ny,cat\nx,cat\n", {}, {"label": [1, 2]}, "file,pet\ny,dog\nx,cow\n"),
    "the id last": (TWO, "pet,file\ncat,y\ncat,x\n", {}, {"label": [1, 1]}, "pet,file\ndog,y\ndog,x\n"),
    "labels in columns": (
        PETS,
        "file,dog,cat,cow\ny,0,0,0\nx,0,0,0\n",
        {"submission": "labels"},
        {"label": [0, 2]},
        "file,dog,cat,cow\ny,0,0,1\nx,1,0,0\n",
    ),
    "probability of the second": (
        TWO,
        "file,pet\ny,0.5\nx,0.5\n",
        {},
        {"prob": [0.1, 1 / 3]},
        "file,pet\ny,0.3333333333333333\nx,0.1\n",
    ),
    "two columns": (
        TWO,
        "file,dog,cat\ny,0,0\nx,0,0\n",
        {},
        {"prob": [0.25, 1 / 3]},  # of cat, the second class
        "file,dog,cat\ny,0.666666666667,0.333333333333\nx,0.750000000000,0.250000000000\n",
    ),
    "three columns": (
        PETS,
        "file,dog,cat,cow\ny,0,0,0\nx,0,0,0\n",
        {},
        {"prob_cow": [1.0, 1 / 6], "prob_dog": [0.0, 1 / 6], "prob_cat": [0.0, 4 / 6]},
        "file,dog,cat,cow\ny,0.166666666667,0.666666666666,0.166666666667\n"
        "x,0.000000000000,0.000000000000,1.000000000000\n",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_submission_has_the_form_of_the_sample(tmp_path, form):
    train, sample, choices, predictions, expected = FORMS[form]
    loaded = other(tmp_path, train, sample, Choices(**choices))
    write_submission(loaded, pd.DataFrame({"id": ["x", "y"], **predictions}), tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text() == expected
    assert check_submission(loaded, tmp_path / "s.csv") == 2


@pytest.mark.parametrize(
    "predictions, finding",
    [
        ({"label": [0, 1]}, "s.csv: the columns are id,label, expected id,prob_dog,prob_cat,prob_cow"),
        (
            {"prob_dog": [0.5, 0.5], "prob_cat": [0.5, 0.25], "prob_cow": [0, 0]},
            "  - id 'y': prob_dog 0.5 is not a probability, or they do not sum to one",
        ),
        (
            {"prob_dog": [1, 0.5], "prob_cat": [1, 0.5], "prob_cow": [-1, 0]},
            "  - id 'x': prob_cow -1 is not a probability, or they do not sum to one",
        ),
        (
            {"prob_dog": [1, None], "prob_cat": [0, 0.5], "prob_cow": [0, 0.5]},
            "  - id 'y': prob_dog nan is not a probability, or they do not sum to one",
        ),
    ],
)
def test_what_is_no_probability_is_not_written(tmp_path, predictions, finding):
    loaded = other(tmp_path, PETS, FORMS["three columns"][1])
    with pytest.raises(InputError) as caught:
        write_submission(loaded, pd.DataFrame({"id": ["x", "y"], **predictions}), tmp_path / "s.csv")
    assert str(caught.value).splitlines()[-1] == finding and not (tmp_path / "s.csv").exists()


def test_a_column_of_numbers_is_written_as_it_is(tmp_path):
    loaded = other(tmp_path, PETS, FORMS["three columns"][1])
    write_submission(loaded, pd.DataFrame({"id": ["x", "y"], "age": [30.5, 2.0]}), tmp_path / "s.csv", "age")
    assert (tmp_path / "s.csv").read_text() == "id,age\ny,2\nx,30.5\n"


def test_a_competition_without_a_sample_gets_the_columns_of_train(tmp_path):
    (tmp_path / "competition").mkdir()
    write(tmp_path / "competition", "train.csv", PETS)
    write(tmp_path / "competition", "test.csv", "file\nx\n")
    loaded = load_competition(tmp_path)
    write_submission(loaded, pd.DataFrame({"id": ["x"], "label": [0]}), tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text() == "file,pet\nx,cat\n"
    loaded = load_competition(tmp_path, Choices(metric="log_loss"))
    prob = pd.DataFrame({"id": ["x"], "prob_cat": [0.5], "prob_cow": [0.25], "prob_dog": [0.25]})
    write_submission(loaded, prob, tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text() == "file,cat,cow,dog\nx,0.500000000000,0.250000000000,0.250000000000\n"


@pytest.mark.parametrize(
    "form, text, problem",
    [
        ("words", "file,pet\ny,cat\nx,Dog\n", "{path}, row 3: pet 'Dog' is no class"),
        ("words", "file,pet\nx,cat\ny,dog\n", "{path}: its rows are not in the order of sampleSubmit.csv"),
        ("words", "file,pet\nx,cat\n", "{path}: id 'y' of sampleSubmit.csv is missing"),
        ("words", "id,pet\ny,cat\nx,cat\n", "{path}, row 1: the header is 'id,pet', expected 'file,pet'"),
        ("two columns", "file,dog,cat\ny,1,0\nx,1,1\n", "{path}, row 3: the probabilities sum to 2, not to 1"),
        ("two columns", "file,dog,cat\ny,1,0\nx,a,1\n", "{path}, row 3: dog 'a' is no probability"),
        ("probability of the second", "file,pet\ny,2\nx,1\n", "{path}, row 2: pet '2' is no probability"),
    ],
)
def test_a_submission_of_another_form_is_refused(tmp_path, form, text, problem):
    train, sample, *_ = FORMS[form]
    path = write(tmp_path, "s.csv", text)
    with pytest.raises(InputError) as caught:
        check_submission(other(tmp_path, train, sample), path)
    assert str(caught.value).splitlines()[1:-1] == ["  - " + problem.format(path=path)]


ANSWERED = {  # the solution, the submission: labels, predicted labels, what is printed but the accuracies
    "words": ("id,pet\nx,cat\ny,dog\nz,cow\n", "id,pet\nz,cow\nx,cat\ny,cow\n", ["cat", "cow", "cow"], []),
    "ordered": (
        "id,grade\nw,0\nx,1\ny,2\nz,2\n",
        "id,grade\nz,2\nx,1\ny,1\nw,0\n",
        ["0", "1", "1", "2"],
        ["qwk 0.8000"],  # 1 - (1 / 16) / (20 / 64): one of four is off by one
    ),
    "probabilities": (
        "id,label\nw,0\nx,0\ny,1\nz,1\n",
        "id,label\nz,0.75\nx,0.5\ny,0.25\nw,0.25\n",
        [0, 1, 0, 1],  # 0.5 is the second class's
        ["auc 0.6250", "log_loss 0.6637"],  # 2.5 of 4 pairs; -(2 log 0.75 + log 0.5 + log 0.25) / 4
    ),
    "columns": (
        "id,pet\nx,cat\ny,dog\nz,cow\n",
        "id,dog,cat,cow\nz,0.25,0.25,0.5\nx,0,0.5,0.5\ny,0.5,0.25,0.25\n",
        ["cat", "dog", "cow"],
        ["mean_auc 0.9167", "log_loss 0.6931"],  # 1, 1 and 1.5 of 2 pairs
    ),
    "columns of both": (
        "id,dog,cat,cow\nx,0,1,0\ny,1,0,0\nz,0,0,1\n",
        "id,dog,cat,cow\nz,0.25,0.25,0.5\nx,0,0.5,0.5\ny,0.5,0.25,0.25\n",
        ["cat", "dog", "cow"],
        ["mean_auc 0.9167", "log_loss 0.6931"],
    ),
}


@pytest.mark.parametrize("kind", ANSWERED)
def test_a_submission_of_any_form_is_scored(tmp_path, kind):
    solution, submission, pred, lines = ANSWERED[kind]
    table = load_answers(write(tmp_path, "s.csv", submission), write(tmp_path, "a.csv", solution))
    assert table["pred"].tolist() == pred and score.more_scores(table) == lines


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
    monkeypatch.setattr(submission_module, "_write_blend", lambda directory, blend, *_: blend)
    with ThreadPoolExecutor(1) as pool:
        with lock_directory(tmp_path / "submissions"):
            second = pool.submit(write_blend, tmp_path, "blend", None, FOLDS, [], "", {})
            with pytest.raises(TimeoutError):
                second.result(0.2)
        assert second.result(10) == "blend"


def test_a_method_that_a_blend_does_not_have_leaves_no_submission_of_an_earlier_one(tmp_path):
    loaded, table = competition(tmp_path), pd.DataFrame({"id": ["3", "4"], "label": [1, 0]})
    for methods in (["mean", "stack_features"], ["mean"]):
        blend = Blend(table, table, table, dict.fromkeys(methods, table), {"picked": "mean", "leaks": {}})
        write_blend(tmp_path, blend, loaded, FOLDS, [], "", {})
        written = {path.stem for path in (tmp_path / "submissions").glob("*.csv")}
        assert written == {*methods, "submission", "leaderboard", "oof_blend", "test_blend"}


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
