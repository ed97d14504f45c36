"""Predictions made elsewhere as members of a blend: a team mate's, a notebook's, another program's.

    submissions/added_<name>_oof.csv, submissions/added_<name>_test.csv    copies of the two files, byte for byte

They are read from two csv files and have neither features nor models. Nobody here has seen how they came about, so
their name ends with `MARK` wherever it stands; `trust` has what is known of them.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.csv_file import MAX_CSV_BYTES, CsvFile, Findings, compare_ids, index_ids, quoted, read_table
from facefold.data.folds import Folds
from facefold.data.task_inference import as_number
from facefold.runs import SUM_TOLERANCE, Member, parse_run_names, run_names
from facefold.task import Task
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file

MARK = " (not verified here)"
PARTS = ("oof", "test")
ADDED = "added_"  # the names of the copies begin with it
CELL_BYTES = 32  # more than a float64 of all digits takes


@dataclass(frozen=True)
class AddedMember(Member):
    """Predictions made elsewhere: a member without runs, whose `test` is the same for each fold.

    named: the two files as a person named them. read: those that were read, these or their copies; hashes: the sha256
    of what was read. folds: ours, other or unknown. notes: how columns of other names were read.
    """

    named: tuple[Path, Path]
    read: tuple[Path, Path]
    hashes: tuple[str, str]
    folds: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Table:
    """A file's predictions, float64 (n, C) by id; the cells of its column fold by id, or None; how it was read."""

    values: pd.DataFrame
    fold: dict[str, str] | None
    note: str


def plain_name(name: str) -> str:
    """Return the name of a member as a person writes it."""
    return name.removesuffix(MARK)


def added_paths(directory: Path, name: str) -> tuple[Path, Path]:
    """Return the copies of the files of an added member in the folder `directory`."""
    oof, test = (directory / f"{ADDED}{plain_name(name)}_{part}.csv" for part in PARTS)
    return oof, test


def load_added(
    name: str, named: tuple[Path, Path], folds: Folds, test_ids: list[str], read: tuple[Path, Path] | None = None
) -> AddedMember:
    """Load the out-of-fold and the test predictions of a member. One `InputError` lists everything that is wrong.

    Args:
        name: Of the member, without `MARK`.
        named: Both files as a person named them.
        folds: Whose ids the out-of-fold predictions have, with the target.
        test_ids: In the order of test.csv.
        read: The files to read, if they are copies.
    """
    findings, target, paths = Findings(), folds.target, read or named
    hashes = [sha256_file(path) if path.is_file() else "" for path in paths]  # before they are read: see `copy_added`
    expected = {"train.csv": folds.table["id"].tolist(), "test.csv": test_ids}
    tables = [
        _read_table(path, name, target, dict.fromkeys(ids), source, findings)
        for path, (source, ids) in zip(paths, expected.items(), strict=True)
    ]
    columns = ",".join(target.columns if len(target.columns) < 4 else [*target.columns[:3], ".."])
    findings.raise_any(
        f"the predictions '{name}' cannot be added:",
        f"Both files have the columns id,{columns}, and one row for each id of train.csv or test.csv, written as it is "
        "there; a column fold is optional. Nothing was changed.",
    )
    oof, test = tables
    select = list(target.columns) if target.multiclass else target.column
    by_fold = {k: test.values.loc[test_ids, select] for k in range(folds.k)}
    return AddedMember(
        name + MARK,
        oof.values.loc[expected["train.csv"], select],
        pd.concat(by_fold, axis="columns").rename_axis(index="id"),
        [],
        named,
        paths,
        (hashes[0], hashes[1]),
        _compare_folds(oof.fold, folds),
        tuple(table.note for table in tables if table.note),
    )


def _read_table(
    path: Path, name: str, target: Task, expected: dict[str, None], source: str, findings: Findings
) -> _Table | None:
    """Read one of both files; None if it cannot be read, or its columns are not clear.

    Args:
        path: The csv file.
        name: Of the member.
        target: What is predicted.
        expected: The ids.
        source: Where these are from, in words.
        findings: Everything that is wrong is added here.
    """
    file = read_table(path, str(path), findings, _max_bytes(path, len(expected)))
    if file is None:
        return None
    id_column = next((column for column in ("id", target.id_column) if column in file.header), "")
    columns, problem = find_columns(file.header, name, target)
    if not id_column or problem:
        found = quoted(",".join(file.header))
        text = problem if id_column else f"there is no column id in the header {found}"
        findings.add((path, "header"), f"{path}, row 1: {text}")
        return None
    file = index_ids(file, id_column, str(path), findings)
    compare_ids(findings, path, file.row_of_id, expected, source)
    values = _read_values(file, columns, path, target, findings)[:, -len(target.columns) :]
    table = pd.DataFrame(values, index=file.column(id_column), columns=list(target.columns))
    note = "" if columns == list(target.columns) else f"{path}: {describe_columns(columns, target)}"
    fold = dict(zip(table.index, file.column("fold"), strict=True)) if "fold" in file.header else None
    return _Table(table, fold, note)


def _max_bytes(path: Path, rows: int) -> int:
    """Return how large a file of so many rows may be: an export has many columns, those of all runs and classes."""
    if not path.is_file():
        return MAX_CSV_BYTES
    with open(path, "rb") as file:
        cells = file.readline(MAX_CSV_BYTES).count(b",") + 1
    return max(MAX_CSV_BYTES, rows * cells * CELL_BYTES)


def find_columns(header: Sequence[str], name: str, target: Task) -> tuple[list[str], str]:
    """Return the columns of the predictions of the member `name`, and what is wrong with the header, or an empty text.

    They are `Task.columns`; or, as in what `runs.py --export` writes, a column called like the member, of more than two
    classes `name:class` of each; or a column for each class; or, but for more than two classes, the only column that is
    left. Of two columns for two classes the last one is that of the second class. Nothing is left next to them but the
    id, fold, label and decided labels, which are not read.
    """
    own = [f"{name}:{one}" for one in target.classes] if target.multiclass else [name]
    by_class = [[f"prob_{one}" for one in target.classes], list(target.classes)]
    known = {"id", target.id_column, "fold", "label", *target.label_columns, *(() if target.regression else ("pred",))}
    named = [list(target.columns), *([] if name in known else [own]), *([] if target.regression else by_class)]
    columns = next((columns for columns in named if set(columns) <= set(header)), [])
    rest = [column for column in header if column not in known and column not in columns]
    expected = f"expected id,{','.join(target.columns)}"
    if columns == own or (columns and not rest):
        return columns, ""
    if columns:
        return [], f"the column {quoted(rest[0])} is unknown next to {','.join(columns)}; delete it"
    if target.multiclass or not rest:
        return [], f"there is no column of predictions in the header {quoted(','.join(header))}, {expected}"
    if len(rest) > 1:
        return [], (
            f"each of the columns {quoted(','.join(rest))} could hold the predictions: call one of them "
            f"{target.column}, or the member like it: --add {rest[0]}=OOF.csv,TEST.csv"
        )
    if target.classes and rest[0] in (one[0] for one in by_class):
        return [], f"the column {rest[0]} is that of the class {target.classes[0]}; {expected}, of {target.classes[1]}"
    return rest, ""


def describe_columns(columns: list[str], target: Task) -> str:
    """Return how columns of other names than `Task.columns` are read, in words."""
    if target.multiclass:
        return f"the columns {','.join(columns)} are read as {','.join(target.columns)}"
    what = "" if target.regression else f", the probability of label {target.classes[1]}"
    return f"the column {columns[-1]} is read as {target.column}{what}"


def _read_values(file: CsvFile, columns: list[str], path: Path, target: Task, findings: Findings) -> np.ndarray:
    """Return the columns, float64 (n, C), and add the rows that are no predictions to the findings."""
    at = [file.header.index(column) for column in columns]
    values = np.array([[as_number(cells[k]) for k in at] for _, cells in file.rows]).reshape(-1, len(at))
    valid = np.isfinite(values) if target.regression else (values >= 0) & (values <= 1)
    what = "a finite number" if target.regression else "a probability"
    for n in np.flatnonzero(~valid.all(axis=1)):
        row, cells = file.rows[n]
        k = int(np.argmin(valid[n]))
        findings.add((path, "value"), f"{path}, row {row}: {columns[k]} {quoted(cells[at[k]])} is not {what}")
    totals = values.sum(axis=1)
    for n in np.flatnonzero(valid.all(axis=1) & (len(at) > 1) & (np.abs(totals - 1) > SUM_TOLERANCE)):
        findings.add(
            (path, "sum"), f"{path}, row {file.rows[n][0]}: the probabilities sum to {totals[n]:.6g}, not to 1"
        )
    return values


def _compare_folds(theirs: dict[str, str] | None, folds: Folds) -> str:
    """Return ours, other or unknown; the folds are the same if they divide the rows alike, whatever their numbers."""
    if theirs is None:
        return "unknown"
    pairs = {(fold, theirs[id]) for id, fold in zip(folds.table["id"], folds.table["fold"], strict=True)}
    return "ours" if len(pairs) == len({ours for ours, _ in pairs}) == len({other for _, other in pairs}) else "other"


def runs_to_blend(directory: Path, recipes: str | None, added: Sequence[str]) -> list[str]:
    """Return the names of the runs to blend with the members `added`: those of --recipes, or all.

    --recipes may name added members as well; alone it blends them without any run. Raise `InputError` for a recipe that
    does not exist, and for an added name that is there twice or is that of a run under `directory`.
    """
    there = run_names(directory)
    for number, name in enumerate(added):
        if name in added[:number]:
            raise InputError(f"--add names {name} twice; give each its own name")
        if name in there:
            raise InputError(
                f"--add {name}: a run under runs/ has that name; give the predictions another one, and their column "
                "too if the files have columns of several runs"
            )
    if not recipes:
        return there
    own = [part.strip() for part in recipes.split(",") if part.strip() not in added]
    return parse_run_names(",".join(own)) if own else []


def copy_added(member: AddedMember, directory: Path) -> dict:
    """Copy the files of a member into the folder `directory`; return what blend.json says of them.

    Raise `InputError` for a file that is not any more what was blended.
    """
    files = {}
    for part, path, source, sha256, copy in zip(
        PARTS, member.named, member.read, member.hashes, added_paths(directory, member.name), strict=True
    ):
        shutil.copyfile(source, copy)
        if sha256_file(copy) != sha256:
            raise InputError(f"{source} was changed while it was blended; nothing was written, run the command again")
        files[part] = {"path": str(path), "sha256": sha256}
    return {**files, "folds": member.folds}
