"""Submitting, with a stand-in for Kaggle's client on the PATH."""

import json
import os
import stat
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import submit
from command import run
from facefold.data.competition import SYNTHETIC_MARKER, load_competition
from facefold.ensemble.blend import SEALED
from facefold.ensemble.leaderboard import leaderboard_columns
from facefold.ensemble.metrics import ACCURACY
from facefold.ensemble.submission import check_submission
from facefold.kaggle.submit import LogEntry, load_submission_log, write_submission_log
from facefold.task import LABEL
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory, sha256_file

IDS = ["7", "0042", "9"]
LABELS = [1, 0, 1]


def csv(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def root(tmp_path) -> Path:
    """Write a competition of three test rows and the files that blend.py writes."""
    folder, out = tmp_path / "competition", tmp_path / "submissions"
    csv(folder / "train.csv", "id,label", "1,0", "2,1")
    csv(folder / "test.csv", "id", *IDS)
    csv(folder / "sampleSubmit.csv", "id,label", *(f"{id},0" for id in IDS))
    csv(out / "submission.csv", "id,label", *(f"{id},{label}" for id, label in zip(IDS, LABELS)))
    csv(out / "leaderboard.csv", ",".join(leaderboard_columns(ACCURACY, corrected=False)))
    csv(out / "oof_blend.csv", "id,label,prob,pred,fold", "1,0,0.25,0,0")
    csv(out / "test_blend.csv", "id,prob,pred", *(f"{id},0.5,{label}" for id, label in zip(IDS, LABELS)))
    csv(tmp_path / "cache" / "images.csv", "split,id,sha256,bytes,width,height")
    images_hash = sha256_file(tmp_path / "cache" / "images.csv")
    (tmp_path / "cache" / "images.json").write_text(json.dumps({"images": images_hash}))
    facts = {
        "target": "label",
        "task": asdict(LABEL),
        "images_hash": images_hash,
        "picked": "mean",
        "threshold": 0.5,
        "leaks": {},
        "corrections": None,
        "score": {"accuracy": 0.93951, "low": 0.93592, "high": 0.9429},
        "picked_score": {"accuracy": 0.93951, "low": 0.93592, "high": 0.9429},
        "files": {name: sha256_file(out / name) for name in SEALED},
    }
    (out / "blend.json").write_text(json.dumps(facts))
    return tmp_path


def client(root: Path, monkeypatch, answer: str, code: int = 0) -> Path:
    """Install a `kaggle` that records its arguments, prints `answer` and exits with `code`; return its record."""
    script, arguments = root / "bin" / "kaggle", root / "arguments"
    script.parent.mkdir(exist_ok=True)
    (root / "answer").write_text(answer)
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{arguments}"\ncat "{root}/answer"\nexit {code}\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return arguments


def step(root: Path, monkeypatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["submit.py", "--root", str(root), *options])
    submit.main()


def refused(root: Path, monkeypatch, *options: str) -> str:
    with pytest.raises(InputError) as caught:
        step(root, monkeypatch, *options)
    return str(caught.value)


def test_an_accepted_file_is_a_line_of_the_log(root, monkeypatch, capsys):
    arguments = client(root, monkeypatch, "100%|###| 1.0k/1.0k [00:00<00:00]\nSuccessfully submitted to Face gender\n")
    step(root, monkeypatch, "-m", "a first, try", "--competition", "face-gender")
    path = root / "submissions" / "submission.csv"
    assert arguments.read_text().splitlines() == [
        "competitions",
        "submit",
        "-f",
        str(path),
        "--message=a first, try",
        "face-gender",
    ]
    [entry] = load_submission_log(root)
    assert (entry.competition, entry.sha256, entry.message) == ("face-gender", sha256_file(path), "a first, try")
    assert (entry.honest, entry.low, entry.high, entry.public) == ("0.9395", "0.9359", "0.9429", "")
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: 3 rows; nested accuracy 0.9395 [0.936, 0.943] by mean",
        "Successfully submitted to Face gender",
        "written to submissions/log.csv; when its public score is there: python src/submit.py --public SCORE",
    ]


def submit_first(root: Path, monkeypatch) -> None:
    client(root, monkeypatch, "Successfully submitted to Face gender")
    step(root, monkeypatch, "-m", "first", "--competition", "face-gender")


def test_the_public_score_is_logged_next_to_the_nested_one(root, monkeypatch, capsys):
    submit_first(root, monkeypatch)
    step(root, monkeypatch, "--public", "0.9381")
    assert load_submission_log(root)[0].public == "0.9381"
    assert (
        capsys.readouterr().out.splitlines()[-1] == "first: public score 0.9381, nested score 0.9395 [0.9359, 0.9429]"
    )


def test_the_same_file_is_not_submitted_twice_and_the_competition_is_remembered(root, monkeypatch):
    submit_first(root, monkeypatch)
    error = refused(root, monkeypatch, "-m", "second")
    assert error.startswith("this very file was submitted on 2") and error.endswith("-m TEXT face-gender")
    assert len(load_submission_log(root)) == 1
    arguments = client(root, monkeypatch, "Successfully submitted")
    step(root, monkeypatch, "-m", "second", "--competition", "another")
    assert arguments.read_text().splitlines()[-1] == "another"
    assert [entry.competition for entry in load_submission_log(root)] == ["face-gender", "another"]


@pytest.mark.parametrize(
    "answer, code, hint",
    [
        (
            "Could not find kaggle.json. Make sure it's located in /root/.kaggle. Or use the environment method.",
            1,
            "there is no token",
        ),
        (
            "You must authenticate before you can call the Kaggle API.\nFollow the instructions to authenticate at: ..",
            1,
            "there is no token",
        ),
        ("401 - Unauthorized", 1, "the token is not valid any more"),
        (
            "403 - You cannot submit until you accept the competition rules",
            1,
            "the rules are not accepted. Do so, signed in, at https://www.kaggle.com/competitions/face-gender/rules",
        ),
        (
            "403 - Forbidden - Permission 'competitions.participate' was denied",
            1,
            "the account takes no part in 'face-gender'",
        ),
        ("400 Client Error: Bad Request for url: https://www.kaggle.com/api", 1, "Kaggle refuses without a reason"),
        (
            "Submission not allowed: Your team has used its daily Submission allowance (5) today",
            1,
            "the team has used its submissions of today",
        ),
        ("Submission not allowed: The competition deadline has passed", 1, "the competition is closed"),
        (
            "Could not find competition - please verify that you entered the correct competition ID and that the "
            "competition is still accepting submissions.",
            0,
            "there is no competition 'face-gender', or it is closed",
        ),
        (
            "HTTPSConnectionPool: Max retries exceeded (NewConnectionError: Failed to establish a new connection)",
            1,
            "Kaggle could not be reached",
        ),
    ],
)
def test_the_clients_answer_is_explained_and_not_logged(root, monkeypatch, answer, code, hint):
    client(root, monkeypatch, answer, code)
    error = refused(root, monkeypatch, "-m", "text", "--competition", "face-gender")
    assert error.startswith(f"submission.csv was not submitted: {hint}")
    assert error.endswith("Kaggle's client answered:\n" + "\n".join(f"  {line}" for line in answer.splitlines()))
    assert load_submission_log(root) == []


SETTLE = (
    "Look whether it is in https://www.kaggle.com/competitions/face-gender/submissions; then say so: python "
    "src/submit.py --outcome accepted, or --outcome refused, after which it can be submitted again"
)


@pytest.mark.parametrize(
    "answer, code",
    [
        ("Segmentation fault", 139),
        ("Successfully submitted", 1),
        ("HTTPSConnectionPool(host='www.kaggle.com'): Read timed out. (read timeout=60)", 1),
        ("('Connection aborted.', ConnectionError(104)) after 429k of 404k", 1),
    ],
)
def test_an_answer_that_is_not_understood_leaves_the_outcome_unknown(root, monkeypatch, answer, code):
    arguments = client(root, monkeypatch, answer, code)
    assert refused(root, monkeypatch, "-m", "text", "--competition", "face-gender") == (
        f"submission.csv: it is not known whether Kaggle has it. Kaggle's client answered:\n  {answer}\n{SETTLE}"
    )
    [entry] = load_submission_log(root)
    assert entry.outcome == "unknown"
    arguments.unlink()
    for options in (("-m", "again"), ("--public", "0.9")):
        assert refused(root, monkeypatch, *options) == (
            f"whether Kaggle has the submission of {entry.time} (text) is not known: its answer is missing. {SETTLE}"
        )
    assert load_submission_log(root) == [entry] and not arguments.exists()  # nothing was uploaded again


def test_an_answer_that_is_not_utf8_is_understood(root, monkeypatch, capsys):
    client(root, monkeypatch, "")
    (root / "answer").write_bytes(b"100%|\xe2\x96| 1.0k\r\nSuccessfully submitted to caf\xe9\n")
    step(root, monkeypatch, "-m", "text", "--competition", "face-gender")
    assert [entry.outcome for entry in load_submission_log(root)] == ["accepted"]
    assert "Successfully submitted to caf\N{REPLACEMENT CHARACTER}\n" in capsys.readouterr().out


def test_a_step_that_is_ended_while_it_uploads_leaves_its_line(root, monkeypatch):
    monkeypatch.setattr("facefold.kaggle.client.shutil.which", lambda _: "kaggle")
    monkeypatch.setattr(
        "facefold.kaggle.client.subprocess.run", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        step(root, monkeypatch, "-m", "text", "--competition", "face-gender")
    [entry] = load_submission_log(root)
    assert (entry.outcome, entry.message, entry.sha256) == (
        "unknown",
        "text",
        sha256_file(root / "submissions" / "submission.csv"),
    )


@pytest.mark.parametrize("outcome, scored", [("accepted", "second"), ("refused", "first")])
def test_the_user_says_what_came_of_an_unknown_submission(root, monkeypatch, capsys, outcome, scored):
    first = LogEntry("2026-01-01 00:00:00", "face-gender", "0" * 64, "first", "0.9", "0.8", "1.0")
    write_submission_log(root, [first, replace(first, message="second", outcome="unknown")])
    step(root, monkeypatch, "--outcome", outcome)
    assert load_submission_log(root) == [first, replace(first, message="second", outcome=outcome)]
    assert capsys.readouterr().out == f"second: {outcome}, written to submissions/log.csv\n"
    assert refused(root, monkeypatch, "--outcome", outcome) == (
        f"--outcome {outcome}: submissions/log.csv has no submission whose outcome is unknown"
    )
    step(root, monkeypatch, "--public", "0.9")
    assert [entry.message for entry in load_submission_log(root) if entry.public] == [scored]


def test_the_log_is_written_by_one_step_at_a_time(root, monkeypatch):
    submit_first(root, monkeypatch)
    before = load_submission_log(root)
    with lock_directory(root / "submissions"):
        assert refused(root, monkeypatch, "--public", "0.9381") == (
            f"{root}/submissions is in use by process {os.getpid()}; wait for it, or end it, then run the same command "
            "again"
        )
    assert load_submission_log(root) == before


@pytest.mark.parametrize("options", [("--public", "0.9"), ("--outcome", "accepted")])
def test_a_competition_is_refused_where_it_would_choose_nothing(root, monkeypatch, options):
    submit_first(root, monkeypatch)
    before = load_submission_log(root)
    assert refused(root, monkeypatch, *options, "--competition", "another") == (
        "--competition another: for -m alone; --public and --outcome are of the last submission in "
        "submissions/log.csv, whatever its competition"
    )
    assert load_submission_log(root) == before


def test_a_refused_file_is_submitted_again_to_the_competition_that_was_named(root, monkeypatch):
    client(root, monkeypatch, "Segmentation fault", 139)
    refused(root, monkeypatch, "-m", "first", "--competition", "face-gender")
    step(root, monkeypatch, "--outcome", "refused")
    arguments = client(root, monkeypatch, "Successfully submitted")
    step(root, monkeypatch, "-m", "again")
    assert arguments.read_text().splitlines()[-1] == "face-gender"
    assert [entry.outcome for entry in load_submission_log(root)] == ["refused", "accepted"]


def test_a_log_without_outcomes_is_read(root):
    csv(root / "submissions" / "log.csv", "time,competition,sha256,message,honest,low,high,public", "t,c,s,m,1,2,3,4")
    assert load_submission_log(root) == [LogEntry("t", "c", "s", "m", "1", "2", "3", "4", "accepted")]


def test_bytes_of_the_log_that_are_not_utf8_are_kept(root, monkeypatch):
    submit_first(root, monkeypatch)
    log = root / "submissions" / "log.csv"
    edited = log.read_bytes().replace(b"first", b"caf\xe9")
    log.write_bytes(edited)
    assert refused(root, monkeypatch, "-m", "again").startswith("this very file was submitted on 2")
    done = run("submit", root, "--public", "0.9381")
    assert done.stdout == "caf\\udce9: public score 0.9381, nested score 0.9395 [0.9359, 0.9429]\n"
    assert log.read_bytes() == edited.replace(b",,accepted", b",0.9381,accepted")


def test_a_damaged_log_is_to_be_fixed_not_deleted(root):
    columns = "time,competition,sha256,message,honest,low,high,public,outcome"
    csv(root / "submissions" / "log.csv", columns, "t,c,s,m,1,2,3,4,accepted", "t,c,s,one, two,1,2,3,4,accepted")
    with pytest.raises(InputError) as caught:
        load_submission_log(root)
    assert str(caught.value) == (
        f"{root}/submissions/log.csv is damaged (Error tokenizing data. C error: Expected 9 fields in line 3, saw 10); "
        "fix it in a text editor, and keep its lines: without them the same file could be uploaded twice"
    )


def test_a_client_that_cannot_be_started(root, monkeypatch):
    client(root, monkeypatch, "")
    (root / "bin" / "kaggle").write_bytes(b"\x7fELF of another machine")
    assert refused(root, monkeypatch, "-m", "text", "--competition", "face-gender") == (
        f"{root}/bin/kaggle cannot be started (Exec format error): install Kaggle's client with `pip install kaggle`, "
        f"or upload {root}/submissions/submission.csv in the browser"
    )
    assert load_submission_log(root) == []


def test_no_client(root, monkeypatch):
    monkeypatch.setenv("PATH", str(root))
    assert refused(root, monkeypatch, "-m", "text", "--competition", "face-gender") == (
        "there is no `kaggle` on the PATH: install Kaggle's client with `pip install kaggle`, or upload "
        f"{root}/submissions/submission.csv in the browser"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ((), "say what to do: -m TEXT submits, --public SCORE records the public score of the last submission"),
        (("-m", "text", "--public", "0.9"), "say what to do"),
        (("--public", "0.9"), "submissions/log.csv has no line yet"),
        (("-m", "text"), "which competition? Name it once with --competition SLUG"),
        (("-m", "text", "--competition", "-f"), "expected one argument"),
        (("-m", "text", "--competition", "https://www.kaggle.com/c/face"), "small letters, digits, dashes"),
    ],
)
def test_bad_usage(root, monkeypatch, options, message, capsys):
    with pytest.raises((InputError, SystemExit)) as caught:
        step(root, monkeypatch, *options)
    assert message in f"{caught.value}{capsys.readouterr().err}"


@pytest.mark.parametrize(
    "message, shown",
    [("caf\udce9", r"'caf\xe9'"), ("two\nlines", r"'two\nlines'"), ("a\x1b[2J\x9b", r"'a\x1b[2J\x9b'")],
)
def test_a_message_that_the_log_cannot_hold_is_refused_before_the_upload(root, monkeypatch, message, shown):
    arguments = client(root, monkeypatch, "Successfully submitted")
    assert refused(root, monkeypatch, "-m", message, "--competition", "c") == (
        f"-m {shown}: a line of text is needed, in UTF-8"
    )
    assert not arguments.exists() and load_submission_log(root) == []


def test_a_score_that_is_no_accuracy_is_refused(root, monkeypatch):
    submit_first(root, monkeypatch)
    assert (
        refused(root, monkeypatch, "--public", "93.8") == "--public 93.8: accuracy is in 0 to 1, as on the leaderboard"
    )


def test_an_edited_submission_is_refused_before_the_client_is_called(root, monkeypatch):
    arguments = client(root, monkeypatch, "Successfully submitted")
    csv(root / "submissions" / "submission.csv", "id,label", "7,1")
    assert "is missing or not what the blend wrote (checksum differs)" in refused(
        root, monkeypatch, "-m", "t", "--competition", "c"
    )
    assert not arguments.exists()


def test_predictions_of_former_images_are_not_submitted(root, monkeypatch):
    facts = json.loads((root / "submissions" / "blend.json").read_text())
    (root / "submissions" / "blend.json").write_text(json.dumps({**facts, "images_hash": "0" * 64}))
    assert refused(root, monkeypatch, "-m", "x", "--competition", "face-gender") == (
        "the images have changed since the blend. If only test images did, run `python src/predict.py --test` first. "
        "Run `python src/blend.py` again: it names the runs that must be trained again."
    )
    assert load_submission_log(root) == []


def test_a_synthetic_competition_is_not_submitted(root, monkeypatch):
    (root / "competition" / SYNTHETIC_MARKER).write_text("synthetic")
    assert refused(root, monkeypatch, "-m", "t", "--competition", "c").startswith("this competition is synthetic")


def submission_problems(root: Path, *lines: str) -> str:
    csv(root / "s.csv", *lines)
    with pytest.raises(InputError) as caught:
        check_submission(load_competition(root), root / "s.csv")
    head, *problems, hint = str(caught.value).splitlines()
    assert head == f"{root}/s.csv is not a valid submission:"
    assert hint == "Run `python src/blend.py`, which writes it."
    return "\n".join(problems)


def test_all_problems_of_a_submission_are_reported_at_once(root):
    assert submission_problems(root, "id,label", "7,1", "42,0", "9,0.5") == (
        f"  - {root}/s.csv, row 4: label '0.5' is not 0 or 1\n  - {root}/s.csv: id '0042' of sampleSubmit.csv is "
        f"missing\n  - {root}/s.csv, row 3: id '42' is not in sampleSubmit.csv"
    )
    assert submission_problems(root, "id,label", "0042,0", "7,1", "9,1") == (
        f"  - {root}/s.csv: its rows are not in the order of sampleSubmit.csv"
    )
    assert "id '7' appears twice, first in row 2" in submission_problems(
        root, "id,label", "7,1", "7,1", "0042,0", "9,1"
    )
    assert "the header is 'id,prob', expected 'id,label'" in submission_problems(
        root, "id,prob", "7,1", "0042,0", "9,1"
    )
