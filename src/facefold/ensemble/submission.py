"""Write submissions/, and check a submission before it is uploaded."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.competition import Competition
from facefold.data.csv_file import Findings, compare_ids, index_ids, quoted, read_table
from facefold.data.folds import Folds
from facefold.data.image_hashes import load_images_hash
from facefold.data.task_inference import as_number
from facefold.ensemble.added import ADDED, AddedMember, added_paths, copy_added
from facefold.ensemble.blend import Blend, submitted_name
from facefold.ensemble.leaks import LEAKS
from facefold.ensemble.members import describe_member
from facefold.ensemble.methods import FEATURE_METHODS
from facefold.runs import Member
from facefold.task import Task
from facefold.utils.errors import InputError
from facefold.utils.files import csv_text, lock_directory, sha256_file, staged_files, write_csv, write_json, write_text

_SUM = 1e-6  # how far the probabilities of a row may be from one
_DIGITS = 12
_ONE = 10**_DIGITS


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
        "members": [describe_member(member) for member in members if not isinstance(member, AddedMember)],
        "folds": {"hash": folds.hash, "k": folds.k, "seed": folds.seed, "method": folds.method},
        "images_hash": images_hash,
    }
    directory = folds.target.directory(root) / "submissions"
    added = [member for member in members if isinstance(member, AddedMember)]
    with lock_directory(directory, wait=True):
        return _write_blend(directory, blend, competition, origin, folds.target, added)


def _write_blend(
    directory: Path, blend: Blend, competition: Competition, origin: dict, target: Task, added: list[AddedMember]
) -> Blend:
    """Write all files, then put them in place of the last blend's, which may have methods that this one has not.

    Arguments as of `write_blend`. origin: what blend.json says of where the blend is from.
    """
    unused = [f"{name}.csv" for name in (*LEAKS, *FEATURE_METHODS) if name not in blend.submissions]
    copies = {path.name for member in added for path in added_paths(directory, member.name)}
    unused += [path.name for path in directory.glob(f"{ADDED}*.csv") if path.name not in copies]
    with staged_files(directory, "blend.json", obsolete=unused) as staged:
        for name, table in blend.submissions.items():
            write_submission(competition, table, staged / f"{name}.csv", target.name)
        submitted = blend.submissions[submitted_name(blend.facts)]
        write_submission(competition, submitted, staged / "submission.csv", target.name)
        for name, table in (("leaderboard", blend.leaderboard), ("oof_blend", blend.oof), ("test_blend", blend.test)):
            write_csv(staged / f"{name}.csv", table)
        facts = {**blend.facts, **origin}
        for member in added:
            facts["added"] = facts["added"] | {member.name: facts["added"][member.name] | copy_added(member, staged)}
        facts["files"] = {path.name: sha256_file(path) for path in sorted(staged.iterdir())}
        write_json(staged / "blend.json", facts)
    return replace(blend, facts=facts)


def write_submission(competition: Competition, predictions: pd.DataFrame, path: Path, column: str = "label") -> None:
    """Write a submission for exactly the ids of the sample, in its order, and with its header.

    Labels are written as train.csv has them; in a column per class, as 1 in that of the label, 0 in the others.
    Probabilities are written in full: that of the second of two classes in a single column, or with 12 decimals one in
    each column, which then sum to one. Anything else is an `InputError`, and no file is written.

    Args:
        competition: Its sample has the ids, their order and the columns; its task says which predictions are needed.
        predictions: id, in any order, and `label`, the index of a class, if the task submits labels; else `prob`, of
            the second of two classes, or `prob_<class>` of each of more. With another `column` id and that.
        path: The csv file to write.
        column: `label`, or the name of a column of finite numbers, which is written as it is.
    """
    task, labels = competition.task, column == "label" and competition.task.submission == "labels"
    columns = [column] if labels or column != "label" else list(task.columns)
    if not {"id", *columns} <= set(predictions.columns):
        found = ",".join(map(str, predictions.columns))
        raise InputError(f"{path.name}: the columns are {found}, expected {','.join(['id', *columns])}")
    findings = Findings()
    _check_predicted_ids(predictions["id"], competition.sample["id"], findings)
    _check_predictions(predictions, columns, task, column, findings)
    findings.raise_any(f"{path.name} would not be a valid submission and was not written:", "")
    values = predictions.set_index("id").loc[competition.sample["id"].tolist(), columns]
    if column != "label":
        write_csv(path, values.astype("float64").reset_index())
        return
    if labels:
        cells = _label_cells(competition, values["label"].to_numpy(dtype=np.int64))
    else:
        cells = _probability_cells(competition, values.to_numpy(dtype=np.float64))
    table = pd.DataFrame({"id": competition.sample["id"], **cells})[competition.sample.columns]
    write_text(path, csv_text(table.set_axis(competition.sample_header, axis=1)))


def require_same_images(blend: Blend, root: Path, task: Task) -> None:
    """Raise `InputError` if the last audit under `root` found other images than the runs of the blend predicted."""
    if blend.facts["images_hash"] == load_images_hash(root):
        return
    test = "" if task.regression else "If only test images did, run `python src/predict.py --test` first. "
    raise InputError(
        f"the images have changed since the blend. {test}Run `python src/blend.py{task.option}` again: it names the "
        "runs that must be trained again."
    )


def _check_predicted_ids(ids: pd.Series, sample_ids: pd.Series, findings: Findings) -> None:
    for id in ids[ids.duplicated()]:
        findings.add("twice", f"id '{id}' is predicted twice")
    for id in sample_ids[~sample_ids.isin(ids)]:
        findings.add("missing", f"id '{id}' of sampleSubmit.csv has no prediction")
    for id in ids[~ids.isin(sample_ids)]:
        findings.add("extra", f"id '{id}' is not in sampleSubmit.csv")


def _check_predictions(
    predictions: pd.DataFrame, columns: list[str], task: Task, column: str, findings: Findings
) -> None:
    whole = True
    if column != "label":
        rule, valid = "a finite number", np.isfinite(predictions[columns])
    elif task.submission == "labels":
        rule = "0 or 1" if len(task.classes) == 2 else f"the index of a class, 0 to {len(task.classes) - 1}"
        valid = predictions[columns].isin(range(len(task.classes)))
    else:
        rule = "a probability"
        valid = (predictions[columns] >= 0) & (predictions[columns] <= 1)
        if len(columns) > 1:
            rule += ", or they do not sum to one"
            whole = abs(predictions[columns].sum(axis=1) - 1) < _SUM
    wrong = predictions.loc[~(valid.all(axis=1) & whole)]
    rows = zip(wrong[["id", *columns]].itertuples(index=False), valid.loc[wrong.index].to_numpy(), strict=True)
    for (id, *values), row_valid in rows:
        at = next((number for number, good in enumerate(row_valid) if not good), 0)
        findings.add("label", f"id '{id}': {columns[at]} {values[at]} is not {rule}")


def _sample_columns(competition: Competition) -> list[str]:
    return [name for name in competition.sample.columns if name != "id"]


def _label_cells(competition: Competition, labels: np.ndarray) -> dict[str, list]:
    """Return the cells of each column but the id's. labels: int64 (n,), indices of classes."""
    columns, classes = _sample_columns(competition), competition.task.classes
    words = [classes[label] for label in labels]
    if len(columns) == 1:
        return {columns[0]: words}
    return {name: [int(name == word) for word in words] for name in columns}


def _probability_cells(competition: Competition, prob: np.ndarray) -> dict[str, list]:
    """Return the cells of each column but the id's. prob: float64 (n, 1) of the second of two classes, else (n, C)."""
    columns, classes = _sample_columns(competition), competition.task.classes
    if len(columns) == 1:
        return {columns[0]: prob[:, 0].tolist()}
    if prob.shape[1] == 1:
        prob = np.column_stack([1 - prob[:, 0], prob[:, 0]])
    parts = np.rint(prob / prob.sum(axis=1, keepdims=True) * _ONE).astype(np.int64)
    rows = np.arange(len(parts))
    parts[rows, parts.argmax(axis=1)] += _ONE - parts.sum(axis=1)
    return {name: [_decimal(part) for part in parts[:, classes.index(name)].tolist()] for name in columns}


def _decimal(part: int) -> str:
    """Return a number of 1e-12 as a decimal."""
    return f"{part // _ONE}.{part % _ONE:0{_DIGITS}d}"


def check_submission(competition: Competition, path: Path) -> int:
    """Return the number of rows of a submission with exactly the ids of the sample, in its order, and valid values.

    These are labels or probabilities, as of `write_submission`. Everything that is wrong is one `InputError`.
    """
    findings, sample = Findings(), dict.fromkeys(competition.sample["id"])
    rows = {}
    for row, cells in _read_rows(path, competition, findings):
        values = dict(zip(competition.sample.columns, cells, strict=True))
        id = values.pop("id")
        rows[id] = row
        if problem := _value_problem(competition.task, values):
            findings.add("label", f"{path}, row {row}: {problem}")
    compare_ids(findings, path, rows, sample, "sampleSubmit.csv")
    if rows.keys() == sample.keys() and list(rows) != list(sample):
        findings.add("order", f"{path}: its rows are not in the order of sampleSubmit.csv")
    findings.raise_any(f"{path} is not a valid submission:", "Run `python src/blend.py`, which writes it.")
    return len(rows)


def _read_rows(path: Path, competition: Competition, findings: Findings) -> list[tuple[int, list[str]]]:
    """Read the rows of a submission with exactly the header of the sample."""
    file = read_table(path, str(path), findings)
    if file is not None and file.header != competition.sample_header:
        found, expected = quoted(",".join(file.header)), ",".join(competition.sample_header)
        findings.add("header", f"{path}, row 1: the header is {found}, expected '{expected}'")
        return []
    return index_ids(file, competition.task.id_column, str(path), findings).rows if file else []


def _value_problem(task: Task, values: dict[str, str]) -> str:
    """Return what is wrong with the cells of a row, by column and without the id; empty if nothing is."""
    if len(values) == 1 and task.submission == "labels":
        ((column, text),) = values.items()
        rule = "not 0 or 1" if task.classes == ("0", "1") else "no class"
        return "" if text in task.classes else f"{column} {text!r} is {rule}"
    numbers = {name: as_number(text) for name, text in values.items()}
    if wrong := next((name for name, number in numbers.items() if not 0 <= number <= 1), ""):
        return f"{wrong} {values[wrong]!r} is no probability"
    total = sum(numbers.values())
    return f"the probabilities sum to {total:g}, not to 1" if len(numbers) > 1 and abs(total - 1) > _SUM else ""
