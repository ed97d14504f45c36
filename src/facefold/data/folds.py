"""Frozen folds: which row validates in which fold, written once and verified at every use.

    folds/folds.csv           id,label,group,fold, in the order of train.csv
    folds/fold_<k>_train.csv  id,label of the rows that train in fold k
    folds/fold_<k>_valid.csv  id,label of the rows that validate in fold k
    folds/folds.json          k, seed, method, sha256 of train.csv, and of each of these files; written last

The folds of another target than the label are in targets/<target>/folds/; `label` is the target's value there.
"""

import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.fold_methods import FoldMethod, parse_method, stratified_folds
from facefold.task import LABEL, Task, strata
from facefold.utils.errors import InputError
from facefold.utils.files import (
    csv_text,
    read_csv,
    read_json,
    sha256_file,
    sha256_text,
    staged_files,
    write_json,
    write_text,
)

_FOLD_FILE = re.compile(r"fold_\d+_(train|valid)\.csv")


@dataclass(frozen=True)
class Folds:
    """The fold of each train row.

    table: id (text), label (int64; float64, the value, of a regression), group (text), fold (int64, 0..k-1), in the
    order of train.csv. hash: sha256 of folds.csv. train_sha256: that of the files the folds are for (`Task.sha256`).
    """

    table: pd.DataFrame
    k: int
    seed: int
    hash: str
    train_sha256: str
    method: str
    target: Task = LABEL

    @property
    def grouping(self) -> str | None:
        """The key of `GROUPINGS` by which the rows are grouped; None if they are not divided by groups."""
        return parse_method(self.method).grouping

    def train(self, k: int) -> pd.DataFrame:
        """Return id,label of the rows that train in fold `k`."""
        return self._rows(self.table["fold"] != k)

    def valid(self, k: int) -> pd.DataFrame:
        """Return id,label of the rows that validate in fold `k`."""
        return self._rows(self.table["fold"] == k)

    def _rows(self, mask: pd.Series) -> pd.DataFrame:
        return self.table.loc[mask, ["id", "label"]].reset_index(drop=True)


def group_rows(images: pd.DataFrame, column: str = "sha256") -> pd.Series:
    """Return the group of each train id (the index): the first id, in the order of `images`, with the same `column`.

    images: the table of `check_images`, to group images of the same bytes; or of `find_duplicates`, with "group".
    """
    train = images[images["split"] == "train"]
    first = train.groupby(column, sort=False)["id"].transform("first")
    return pd.Series(first.to_numpy(), index=pd.Index(train["id"], name="id"), name="group")


def count_divided_groups(table: pd.DataFrame, groups: pd.Series) -> int:
    """Count the `groups` (indexed by id) that have rows in more than one fold of `table` (id, fold)."""
    return int((table.groupby(groups.loc[table["id"]].to_numpy())["fold"].nunique() > 1).sum())


def describe_large_group(folds: Folds, identical: pd.Series) -> str:
    """Say which picture has more rows than a fold should have, and what to do; empty if none has.

    identical: the group of each train id (the index) by the bytes of its image.
    """
    group, share = folds.table["group"], len(folds.table) / folds.k
    name, rows = group.mode()[0], int(group.value_counts().max())
    if rows <= share or not folds.grouping:
        return ""
    if columns := parse_method(folds.method).columns:
        return (
            f"note: {rows:,} of {len(group):,} rows, that of train/{name}.jpg among them, are one group by the column "
            f"{' or '.join(columns)} or by their pictures, and a group is never divided: the folds are unequal, for "
            f"one of {folds.k} should have {share:,.0f} rows."
        )
    options = "`--groups none` (every row by itself: rows of one picture then judge models that have seen it)"
    if folds.grouping != "bytes" and identical.value_counts().max() <= share:
        options = f"`--groups bytes` (together stays what has the same bytes) or {options}"
    return (
        f"note: {rows:,} of {len(group):,} rows show the picture of train/{name}.jpg or nearly so, and a group is "
        f"never divided: the folds are unequal, for one of {folds.k} should have {share:,.0f} rows. Look at it: if it "
        f"stands for images that are missing, take these rows out; to divide them, use {options}."
    )


def make_folds(
    train: pd.DataFrame,
    groups: pd.Series,
    k: int,
    seed: int,
    train_sha256: str,
    grouping: str = "bytes",
    target: Task = LABEL,
) -> Folds:
    """Split the train rows into folds with equal shares of the labels, or of the bins of values; no group is divided.

    Raises `InputError` if a fold would lack one of two classes or a bin. Of more classes, one with fewer groups than
    folds is in as many folds as it can; then only an empty fold is refused.

    Args:
        train: id,label of all rows, as from `target_rows`.
        groups: The group of each id (the index).
        k: The number of folds.
        seed: The seed of the shuffle.
        train_sha256: `Task.sha256`, recorded so that folds of other data are refused.
        grouping: What the groups are, a key of `GROUPINGS`.
        target: What `label` is.
    """
    if seed < 0:
        raise InputError(f"seed {seed}: a seed is a whole number from 0 on")
    if set(train["id"]) != set(groups.index) or groups.index.has_duplicates:
        raise ValueError("train and groups must hold the same ids, each once")
    group, stratum = groups.loc[train["id"]].to_numpy(), strata(train["label"].to_numpy())
    if not target.multiclass:
        _require_groups_of_each(train.assign(group=group), stratum, k, target)
    elif (images := len(set(group))) < k:
        raise InputError(
            f"{len(train)} rows with {images} different images or groups are too few for {k} folds; choose fewer with "
            "--folds"
        )
    fold = stratified_folds(stratum, group, k, seed)
    strata_of = stratum if not target.multiclass else np.zeros(len(stratum))  # an empty fold has none at all
    if any(len(np.unique(strata_of[fold == number])) < len(np.unique(strata_of)) for number in range(k)):
        raise InputError(
            f"{k} folds cannot all hold every class, so many images are identical; choose fewer with --folds, or "
            "divide equal images with --groups none"
        )
    method = FoldMethod(grouping).text(target.regression)
    return assign_folds(train, groups, fold, seed, train_sha256, method, target)


def assign_folds(
    train: pd.DataFrame,
    groups: pd.Series,
    fold: np.ndarray,
    seed: int,
    train_sha256: str,
    method: str,
    target: Task = LABEL,
) -> Folds:
    """Return the folds of rows whose fold is known.

    Args:
        train: id,label of all rows, as from `target_rows`.
        groups: The group of each id (the index), which these folds may divide.
        fold: int64 (n,), 0..k-1, of each row.
        seed: Recorded, as are train_sha256 and method, see `Folds`.
        train_sha256: Of the files the folds are for.
        method: `FoldMethod.text`.
        target: What `label` is.
    """
    k, labels = int(fold.max()) + 1, train["label"].to_numpy(_label_dtype(target))
    group = groups.loc[train["id"]].to_numpy()
    table = pd.DataFrame({"id": train["id"].to_numpy(), "label": labels, "group": group, "fold": fold})
    return Folds(table, k, seed, sha256_text(csv_text(table)), train_sha256, method, target)


def require_both_labels(folds: Folds) -> None:
    """Raise `InputError` if a fold has rows of one of two classes only, whose order no score could judge."""
    labels = folds.table.groupby("fold")["label"].nunique()
    if folds.target.kind == "binary" and (labels < 2).any():
        raise InputError(f"fold {labels.index[labels < 2][0]} would have rows of one label only; both are needed")


def _require_groups_of_each(rows_of_all: pd.DataFrame, stratum: np.ndarray, k: int, target: Task) -> None:
    """Raise `InputError` for a class or bin with fewer groups than folds. rows_of_all: id, label, group."""
    for label, rows in rows_of_all.groupby(stratum):
        images = rows["group"].nunique()
        if images < k:
            least, most = rows["label"].agg(["min", "max"])
            kind = f"{target.name} {least:g} to {most:g}" if target.regression else f"label {target.classes[label]}"
            raise InputError(
                f"{kind} has {len(rows)} rows with {images} different images, too few for {k} folds; "
                "choose fewer with --folds" + (", or divide equal images with --groups none" if len(rows) >= k else "")
            )


def write_folds(root: Path, folds: Folds, force: bool = False, runs: Collection[str] = ()) -> bool:
    """Write folds/ of the folds' target; return False if these folds are there already.

    Raises `InputError` if different folds are there and runs depend on them, unless `force`.

    Args:
        root: The folder that holds folds/, or targets/.
        folds: The folds.
        force: Whether to replace folds that runs depend on.
        runs: The names of all runs of the target.
    """
    directory = folds.target.directory(root) / "folds"
    texts = {"folds.csv": csv_text(folds.table)}
    for k in range(folds.k):
        texts[f"fold_{k}_train.csv"] = csv_text(folds.train(k))
        texts[f"fold_{k}_valid.csv"] = csv_text(folds.valid(k))
    facts = {
        "k": folds.k,
        "seed": folds.seed,
        "method": folds.method,
        "train_sha256": folds.train_sha256,
        "files": {name: sha256_text(text) for name, text in texts.items()},
        **({"labels": folds.target.label_key} if folds.target.label_key else {}),
    }
    old = _read_facts(directory)
    if old == facts and not _changed_files(directory, facts):
        return False
    if runs and not force and _are_different(directory, old, folds.hash):
        raise InputError(
            f"{directory} holds other folds, and runs depend on them ({', '.join(runs)}); nothing was changed. "
            "Split with the same --folds, --seed and --groups as before, choose another --root, "
            "or replace them with --force, after which these runs are stale."
        )
    others = {path.name for path in directory.glob("fold_*.csv") if _FOLD_FILE.fullmatch(path.name)} - set(texts)
    with staged_files(directory, "folds.json", obsolete=others) as staged:
        for name, text in texts.items():
            write_text(staged / name, text)
        write_json(staged / "folds.json", facts)
    return True


def load_fold_settings(root: Path, target: Task = LABEL) -> tuple[int, int, str] | None:
    """Return k, seed and method of folds that may be for other data than is there now; None without any."""
    with suppress(InputError, FileNotFoundError):
        facts = read_json(target.directory(root) / "folds" / "folds.json")
        settings = facts.get("k"), facts.get("seed"), facts.get("method")
        if list(map(type, settings)) == [int, int, str]:
            return settings
    return None


def load_folds(root: Path, target: Task = LABEL) -> Folds:
    """Load the folds of a target. `InputError` if they are missing, edited, or for other data than is there now."""
    directory = target.directory(root) / "folds"
    path = directory / "folds.json"
    hint = (
        f"Run `python src/split.py{target.option}` to write the folds again (`--force` if runs depend on the old ones)."
    )
    if not path.exists():
        raise InputError(f"{path} is missing: there are no folds yet. Run `python src/split.py{target.option}`.")
    facts = read_json(path)
    types = {"k": int, "seed": int, "method": str, "train_sha256": str, "files": dict}
    if not all(isinstance(facts.get(name), type) for name, type in types.items()) or "folds.csv" not in facts["files"]:
        raise InputError(f"{path} is not what split.py writes. {hint}")
    for name in _changed_files(directory, facts):
        raise InputError(f"{directory / name} is missing or was edited (its sha256 is not that in folds.json). {hint}")
    for source in target.sources(root):
        if not source.is_file():
            raise InputError(f"{source} is missing. Run `python src/audit.py --data ZIP` to install the competition.")
    if target.sha256(root) != facts["train_sha256"]:
        sources = " or ".join(map(str, target.sources(root)))
        raise InputError(f"{sources} has changed since the folds were made. Restore it, or: {hint}")
    if facts.get("labels", "") != target.label_key:
        raise InputError(
            f"{path} was written for other labels: competition/task.toml has other classes or columns now. {hint}"
        )
    table = read_csv(directory / "folds.csv", {"id": str, "label": _label_dtype(target), "group": str, "fold": "int64"})
    if set(table["fold"]) != set(range(facts["k"])):
        raise InputError(f"{path} was edited: folds.csv has other folds than its k says. {hint}")
    sha256 = facts["files"]["folds.csv"]
    return Folds(table, facts["k"], facts["seed"], sha256, facts["train_sha256"], facts["method"], target)


def _label_dtype(target: Task) -> str:
    return "float64" if target.regression else "int64"


def _read_facts(directory: Path) -> dict | None:
    """Read folds.json; None if it is missing, empty if it is unreadable."""
    if not (directory / "folds.json").is_file():
        return None
    try:
        return read_json(directory / "folds.json")
    except InputError:
        return {}


def _changed_files(directory: Path, facts: dict) -> list[str]:
    """Return the files of folds.json that are missing or whose content is not the recorded one."""
    files = facts.get("files", {}).items()
    return [name for name, sha in files if not (directory / name).is_file() or sha256_file(directory / name) != sha]


def _are_different(directory: Path, facts: dict | None, sha256: str) -> bool:
    """Return whether folds are there and neither folds.csv nor folds.json, `facts`, says that they have this sha256.

    One of the two may be lost or edited: it is then written again.
    """
    recorded = [] if facts is None else [facts.get("files", {}).get("folds.csv")]
    if (directory / "folds.csv").is_file():
        recorded.append(sha256_file(directory / "folds.csv"))
    return bool(recorded) and sha256 not in recorded
