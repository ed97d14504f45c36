"""What folds can be made of: groups by columns, blocks in time, and a file of id,fold."""

import math
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from facefold.data.competition import Competition
from facefold.data.csv_file import Findings, quoted, read_csv_rows
from facefold.data.fold_methods import parse_method
from facefold.data.folds import Folds
from facefold.task import Task
from facefold.utils.errors import InputError

MAX_NAMED = 10  # groups that a line names


def train_column(competition: Competition, name: str, option: str) -> tuple[pd.Series, str]:
    """Return a further column of train.csv, or one of meta.csv, as text by train id, and the name of its file.

    A train id without a row in meta.csv has an empty text. Raise `InputError`, which calls the column the value of
    `option`, if neither file has it.
    """
    tables = {"train.csv": competition.extra, "meta.csv": competition.meta}
    columns = {file: [] if table is None else table.columns.drop("id") for file, table in tables.items()}
    ids = competition.train["id"].tolist()
    for file, table in tables.items():
        if name in columns[file]:
            return table.set_index("id")[name].reindex(ids, fill_value=""), file
    have = "; ".join(f"{file}: {', '.join(names)}" for file, names in columns.items() if len(names))
    raise InputError(
        f"{option} {name}: neither train.csv nor meta.csv has that column; {have or 'they have no further ones'}"
    )


def join_groups(groups: Sequence[pd.Series]) -> pd.Series:
    """Return the groups of rows that share a group in any of `groups`, directly or through other rows.

    Each of `groups` gives the group of each id (the index), an empty text for a row by itself. A group is named by its
    first id in the order of the first of them.
    """
    ids = groups[0].index
    rows, codes, count = [], [], len(ids)
    for one in groups:
        values = one.loc[ids].to_numpy()
        kept = np.flatnonzero(values != "")
        code, names = pd.factorize(values[kept])
        rows.append(kept)
        codes.append(code + count)
        count += len(names)
    rows, codes = np.concatenate(rows), np.concatenate(codes)
    links = coo_matrix((np.ones(len(rows), bool), (rows, codes)), shape=(count, count))
    component = connected_components(links, directed=False)[1][: len(ids)]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return pd.Series(ids.to_numpy()[first[inverse]], index=ids, name="group")


def parse_columns(text: str) -> tuple[str, ...]:
    """Return the names in a comma-separated list, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def column_groups(competition: Competition, columns: Sequence[str], option: str) -> list[pd.Series]:
    """Return the value of each train id (the index) in each of the columns, for `join_groups`."""
    return [train_column(competition, name, option)[0] for name in columns]


def describe_divided_groups(table: pd.DataFrame, groups: pd.Series) -> str:
    """Name the `groups` (by id) that the folds of `table` (id, fold) divide; empty if none is."""
    folds = table.groupby(groups.loc[table["id"]].to_numpy(), sort=False)["fold"].unique()
    divided = folds[folds.map(len) > 1]
    named = [f"{name} (folds {', '.join(map(str, sorted(of)))})" for name, of in divided.head(MAX_NAMED).items()]
    return ", ".join(named) + (f", and {len(divided) - MAX_NAMED:,} more" if len(divided) > MAX_NAMED else "")


def describe_folds(folds: Folds, groups: pd.Series, task_columns: Sequence[str]) -> list[str]:
    """Return lines on what the way these folds were made costs.

    groups: by id, which folds that are not drawn may divide. task_columns: the columns of `Task.groups`.
    """
    method, lines = parse_method(folds.method), []
    if method.time:
        lines.append(
            f"note: fold 0 is the earliest by {method.time}; every row is held out once, so the rows that train a fold "
            "include later ones"
        )
    if (method.time or method.file) and (divided := describe_divided_groups(folds.table, groups)):
        lines.append(f"warning: these folds divide groups, named by their first row: {divided}")
    if method.drawn and (left_out := [name for name in task_columns if name not in method.columns]):
        lines.append(
            f"note: these folds do not keep rows of equal {' or '.join(left_out)} together, as competition/task.toml "
            f"would have it; for that, use --group {','.join([*method.columns, *left_out])}"
        )
    rare = describe_rare_classes(folds)
    return [*lines, rare] if rare else lines


def describe_fold(valid: pd.DataFrame, target: Task) -> str:
    """Say what the rows (id, label) of a fold are: the mean, the share of the second class, or the rows of each."""
    if not target.multiclass:
        what = f"mean {target.name}" if target.regression else f"share of label {target.classes[1]}"
        return f"{what}: {valid['label'].mean():.4f}"
    counts = np.bincount(valid["label"], minlength=len(target.classes))
    named = [f"{name}: {count:,}" for name, count in zip(target.classes, counts, strict=True)][:MAX_NAMED]
    more = len(counts) - len(named)
    return ", ".join(named) + (f", and {more:,} more classes" if more else "")


def describe_rare_classes(folds: Folds) -> str:
    """Name the classes of more than two that are in fewer folds than there are; empty if none is."""
    if not folds.target.multiclass:
        return ""
    held = folds.table.groupby("label")["fold"].nunique()
    counts = [(name, int(held.get(label, 0))) for label, name in enumerate(folds.target.classes)]
    rare = [f"{name} ({count})" for name, count in counts if count < folds.k]
    if not rare:
        return ""
    named = ", ".join(rare[:MAX_NAMED]) + (f" and {len(rare) - MAX_NAMED:,} more" if len(rare) > MAX_NAMED else "")
    return (
        f"note: {len(rare):,} of {len(counts):,} classes are in fewer folds than {folds.k}: {named}; a class in one "
        "fold alone is unknown to the model that is scored on it"
    )


def cut_in_time(competition: Competition, column: str, k: int) -> np.ndarray:
    """Return the fold of each train row, int64 (n,): block 0..k-1 of the rows in the order of a column.

    The blocks have as equally many rows as they can where rows of one time stay together. Raise `InputError` by row
    for what is neither a number nor an ISO 8601 date (without a zone: UTC), for a mixture of both, and if a block
    would be empty.
    """
    texts, file = train_column(competition, column, "--time")
    row_of = _row_numbers(competition, file)
    findings, times, first = Findings(), [], None
    for id, text in texts.items():
        where = f"competition/{file}, row {row_of[id]}" if id in row_of else f"competition/{file}"
        kind, time = parse_time(text)
        times.append(time)
        if not kind:
            findings.add("time", f"{where}: {column} {quoted(text)} of id {quoted(id)} is no number and no ISO date")
            continue
        first = first or (kind, where)
        if kind != first[0]:
            findings.add("kinds", f"{where}: {column} {quoted(text)} is a {kind}, and that of {first[1]} a {first[0]}")
    findings.raise_any(f"--time {column} cannot be used:", "Every train row needs one, all numbers or all dates.")
    _, code, rows = np.unique(times, return_inverse=True, return_counts=True)
    middle = np.cumsum(rows) - rows / 2  # of the rows of each time
    fold = np.floor(k * middle / len(times)).astype(np.int64)[code]
    if missing := sorted(set(range(k)) - set(fold.tolist())):
        raise InputError(
            f"--time {column}: block {missing[0]} of {k} would be empty, so many rows have the same time, and these "
            "stay together; choose fewer with --folds"
        )
    return fold


def parse_time(text: str) -> tuple[str, float]:
    """Return `number` and its value, `date` and the seconds from 1970 to an ISO 8601 date, or an empty text and nan."""
    try:
        value = float(text)
        return ("number", value) if math.isfinite(value) else ("", math.nan)
    except ValueError:
        pass
    try:
        date = datetime.fromisoformat(text.strip())
    except ValueError:
        return "", math.nan
    return "date", (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def read_folds_file(path: Path, ids: Sequence[str]) -> np.ndarray:
    """Read a csv file id,fold and return the fold of each of the train `ids`, int64 (n,).

    One `InputError` lists, by row, what is wrong: an id that is unknown, missing or twice, a fold that is no whole
    number, a gap in the folds, fewer than two.
    """
    findings, known, fold_of = Findings(), set(ids), {}
    rows = read_csv_rows(path, ["id", "fold"], findings)
    for row, (id, fold) in rows:
        if id not in known:
            findings.add("unknown", f"{path}, row {row}: id {quoted(id)} is not in train.csv")
        if not (fold.isascii() and fold.isdecimal() and len(fold) < 7):
            findings.add("fold", f"{path}, row {row}: fold {quoted(fold)} is not a whole number from 0 on")
        else:
            fold_of[id] = int(fold)
    if rows:
        in_file = {id for _, (id, _) in rows}
        for row, id in enumerate(ids, start=2):
            if id not in in_file:
                findings.add("missing", f"{path}: id {quoted(id)} of train.csv (row {row}) is missing")
        _check_numbers(path, fold_of.values(), findings)
    findings.raise_any("the folds cannot be used:", "The header is id,fold; each train id once; folds 0 to k-1.")
    return np.array([fold_of[id] for id in ids], dtype=np.int64)


def _check_numbers(path: Path, folds: Collection[int], findings: Findings) -> None:
    most = max(folds, default=0)
    if gap := sorted(set(range(min(most, len(folds)))) - set(folds)):
        findings.add("gap", f"{path}: no row has fold {gap[0]}, and the folds go up to {most}")
    elif most == 0 and folds:
        findings.add("one", f"{path}: every row has fold 0; at least 2 folds are needed")


def _row_numbers(competition: Competition, file: str) -> dict[str, int]:
    """Return the row in the file of each id, as a file without blank lines has them."""
    ids = competition.train["id"] if file == "train.csv" else competition.meta["id"]
    return {id: row for row, id in enumerate(ids, start=2)}
