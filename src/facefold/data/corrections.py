"""Corrections of labels, by hand or from suspects: a csv file of id,action that changes what a model learns from.

    keep   as it is: the same as no line          drop   leave the row out
    relabel   take the other label; of more than two classes relabel:CLASS

They change training rows and nothing else. A held-out row keeps its original label, and scores are against the
original labels unless they are called otherwise.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.csv_file import Findings, read_csv_rows
from facefold.data.folds import Folds
from facefold.utils.errors import InputError
from facefold.utils.files import csv_text, sha256_text, write_text

ACTIONS = ("keep", "drop", "relabel")
DROPPED = -1
_RELABEL = "relabel:"  # and a class
_HINT = "The header is id,action; each train id at most once; action is keep, drop or {}. Nothing was changed."


@dataclass(frozen=True)
class Corrections:
    """Without any nothing changes, and the hash is empty.

    actions: train id -> drop, relabel, or of more than two classes relabel:<index of the class>.
    """

    actions: dict[str, str]

    @property
    def hash(self) -> str:
        """Hex sha256 of the actions, whatever the order in the file; empty without any."""
        return sha256_text(json.dumps(self.actions, sort_keys=True)) if self.actions else ""

    def __hash__(self) -> int:
        return hash(self.hash)

    def labels(self, ids: list[str], labels: np.ndarray) -> np.ndarray:
        """Correct labels (n,) of the rows `ids` (n,): int64 (n,), DROPPED for rows that are left out."""
        corrected = np.array(labels, dtype=np.int64)
        for row, id in enumerate(ids):
            action = self.actions.get(id, "keep")
            if action == "drop":
                corrected[row] = DROPPED
            elif action == "relabel":
                corrected[row] = 1 - corrected[row]
            elif action != "keep":
                corrected[row] = int(action.removeprefix(_RELABEL))
        return corrected

    def apply(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Correct training rows (id, label, ..): leave out dropped ones, change the label of relabelled ones."""
        if not self.actions:
            return rows
        labels = self.labels(rows["id"].tolist(), rows["label"].to_numpy())
        return rows.assign(label=labels)[labels != DROPPED]

    def __str__(self) -> str:
        dropped = list(self.actions.values()).count("drop")
        return f"{dropped:,} dropped, {len(self.actions) - dropped:,} relabelled"


NO_CORRECTIONS = Corrections({})


def load_corrections(path: Path, folds: Folds) -> Corrections:
    """Load a file of id,action for the rows of `folds`.

    One `InputError` lists everything that is wrong with it, by row. It is also refused if it changes nothing, if it
    leaves a fold training rows of one label only, or if the target is a number.
    """
    if folds.target.regression:
        raise InputError(f"--corrections corrects labels; with{folds.target.option} leave it out")
    findings = Findings()
    known, actions, target = dict(folds.table[["id", "label"]].to_numpy().tolist()), {}, folds.target
    relabel = f"{_RELABEL}CLASS" if target.multiclass else "relabel"
    for row, (id, action) in read_csv_rows(path, ["id", "action"], findings):
        if id not in known:
            findings.add("unknown", f"{path}, row {row}: id {id!r} is not in train.csv")
        name = action.removeprefix(_RELABEL)
        if target.multiclass and name in target.classes and name != action:
            index = target.classes.index(name)
            action = "keep" if index == known.get(id) else f"{_RELABEL}{index}"
        elif target.multiclass and action.startswith("relabel"):
            classes = ", ".join(target.classes)
            findings.add("relabel", f"{path}, row {row}: action {action!r}; write {relabel} with one of {classes}")
        elif action not in ACTIONS:
            findings.add("action", f"{path}, row {row}: action {action!r} is none of keep, drop, {relabel}")
        actions[id] = action
    findings.raise_any("the corrections cannot be used:", _HINT.format(relabel))
    corrections = Corrections({id: action for id, action in actions.items() if action != "keep"})
    if not corrections.actions:
        raise InputError(f"{path}: every action is keep; set some to drop or relabel, or leave --corrections out")
    for k in range(folds.k):
        if corrections.apply(folds.train(k))["label"].nunique() < 2:
            raise InputError(f"{path} leaves fold {k} training rows of one label only; keep more rows")
    return corrections


def write_corrections(path: Path, table: pd.DataFrame, force: bool) -> None:
    """Write id,action. A file with other content, perhaps edited by a person, is an `InputError` unless `force`."""
    text = csv_text(table[["id", "action"]])
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    if path.exists() and not force and path.read_bytes() != text.encode("utf-8"):
        raise InputError(
            f"{path} is there with other content: it was edited by hand, or written with other options. "
            "Name another file, or replace it with --force."
        )
    write_text(path, text)
