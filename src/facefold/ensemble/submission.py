"""Write submissions/; check a submission before it is uploaded, or compare it with the answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.competition import Competition
from facefold.data.csv_file import Findings, read_csv_rows
from facefold.data.folds import Folds
from facefold.ensemble.blend import Blend, submitted_name
from facefold.ensemble.leaks import LEAKS
from facefold.ensemble.members import describe_member
from facefold.runs import Member
from facefold.task import Task
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory, sha256_file, staged_files, write_csv, write_json

_ANSWERS_HINT = (
    "Both files are id,label with the same ids; blend.py writes such a submission to submissions/submission.csv, and "
    "import_utkface.py the answers to solution.csv."
)


def write_blend(
    root: Path,
    blend: Blend,
    competition: Competition,
    folds: Folds,
    members: list[Member],
    images_hash: str,
    options: dict,
) -> Blend:
    """Write the whole of the target's submissions/, and return the blend with all its facts.

    Of two blends at once the later one replaces the other as a whole.

    Args:
        root: The folder that holds submissions/, or targets/.
        blend: Of `make_blend`.
        competition: Whose sample the submissions follow.
        folds: Of the members, with the target.
        members: What was blended, sorted by name.
        images_hash: Of `load_images_hash`.
        options: recipes, method, weights and leaks as a person asked for them.
    """
    origin = {
        "options": options,
        "members": [describe_member(member) for member in members],
        "folds": {"hash": folds.hash, "k": folds.k, "seed": folds.seed, "method": folds.method},
        "images_hash": images_hash,
    }
    directory = folds.target.directory(root) / "submissions"
    with lock_directory(directory, wait=True):
        return _write_blend(directory, blend, competition, origin, folds.target)


def _write_blend(directory: Path, blend: Blend, competition: Competition, origin: dict, target: Task) -> Blend:
    """Write all files, then put them in place of the last blend's; its leaks may not be used any more."""
    unused = [f"{name}.csv" for name in LEAKS if name not in blend.submissions]
    with staged_files(directory, "blend.json", obsolete=unused) as staged:
        for name, table in blend.submissions.items():
            write_submission(competition, table, staged / f"{name}.csv", target.name)
        submitted = blend.submissions[submitted_name(blend.facts)]
        write_submission(competition, submitted, staged / "submission.csv", target.name)
        for name, table in (("leaderboard", blend.leaderboard), ("oof_blend", blend.oof), ("test_blend", blend.test)):
            write_csv(staged / f"{name}.csv", table)
        files = {path.name: sha256_file(path) for path in sorted(staged.iterdir())}
        facts = {**blend.facts, **origin, "files": files}
        write_json(staged / "blend.json", facts)
    return replace(blend, facts=facts)


def write_submission(competition: Competition, predictions: pd.DataFrame, path: Path, column: str = "label") -> None:
    """Write a submission for exactly the ids of the sample, in its order.

    Anything else is an `InputError`, and no file is written.

    Args:
        competition: Its sample has the ids and their order.
        predictions: id and `column`, in any order.
        path: The csv file to write: id and `column`.
        column: `label`, of 0 and 1, or the name of a column of finite numbers.
    """
    if not {"id", column} <= set(predictions.columns):
        columns = ",".join(map(str, predictions.columns))
        raise InputError(f"{path.name}: the columns are {columns}, expected id,{column}")
    findings, ids, sample_ids = Findings(), predictions["id"], competition.sample["id"]
    for id in ids[ids.duplicated()]:
        findings.add("twice", f"id '{id}' is predicted twice")
    for id in sample_ids[~sample_ids.isin(ids)]:
        findings.add("missing", f"id '{id}' of sampleSubmit.csv has no prediction")
    for id in ids[~ids.isin(sample_ids)]:
        findings.add("extra", f"id '{id}' is not in sampleSubmit.csv")
    values, labels = predictions[column], column == "label"
    valid = values.isin([0, 1]) if labels else np.isfinite(values)
    for id, value in predictions.loc[~valid, ["id", column]].itertuples(index=False):
        findings.add("label", f"id '{id}': {column} {value} is not {'0 or 1' if labels else 'a finite number'}")
    findings.raise_any(f"{path.name} would not be a valid submission and was not written:", "")
    values = predictions.set_index("id")[column].astype("int64" if labels else "float64")
    write_csv(path, values.loc[sample_ids.tolist()].reset_index())


def check_submission(competition: Competition, path: Path) -> int:
    """Return the number of rows of a submission with exactly the ids of the sample, in its order, and labels 0 or 1.

    Everything that is wrong is one `InputError`.
    """
    findings, sample = Findings(), dict.fromkeys(competition.sample["id"])
    rows = _read_labels(path, findings)
    _compare_ids(findings, path, rows, sample, "sampleSubmit.csv")
    if rows.keys() == sample.keys() and list(rows) != list(sample):
        findings.add("order", f"{path}: its rows are not in the order of sampleSubmit.csv")
    findings.raise_any(f"{path} is not a valid submission:", "Run `python src/blend.py`, which writes it.")
    return len(rows)


def load_answers(submission: Path, solution: Path) -> pd.DataFrame:
    """Join a submission with the answers: id (text), label (the answer) and pred (int64), in the order of the solution.

    Columns that follow id,label in the solution are ignored. Everything that is wrong with the two files is one
    `InputError`.
    """
    findings = Findings()
    answers, pred = _read_labels(solution, findings, more=True), _read_labels(submission, findings)
    if answers:
        _compare_ids(findings, submission, pred, answers, solution.name)
    findings.raise_any("the submission cannot be scored:", _ANSWERS_HINT)
    rows = [(id, int(label), int(pred[id][1])) for id, (_, label) in answers.items()]
    return pd.DataFrame(rows, columns=["id", "label", "pred"])


def _read_labels(path: Path, findings: Findings, more: bool = False) -> dict[str, tuple[int, str]]:
    """Return the row in the file and the label of each id. more: other columns may follow."""
    rows = {}
    for row, (id, label, *_) in read_csv_rows(path, ["id", "label"], findings, more):
        rows[id] = (row, label)
        if label not in ("0", "1"):
            findings.add((path, "label"), f"{path}, row {row}: label {label!r} is not 0 or 1")
    return rows


def _compare_ids(findings: Findings, path: Path, rows: dict[str, tuple[int, str]], expected: dict, source: str) -> None:
    """Add the ids that differ between the rows of `path`, if it could be read, and `expected`, those of `source`."""
    for id in expected if rows else ():
        if id not in rows:
            findings.add("missing", f"{path}: id '{id}' of {source} is missing")
    for id, (row, _) in rows.items():
        if id not in expected:
            findings.add("unknown", f"{path}, row {row}: id '{id}' is not in {source}")
