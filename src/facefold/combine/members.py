"""The members of a blend as one matrix with ids: out-of-fold rows to learn from, test rows to predict."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from facefold.data.folds import Folds
from facefold.errors import InputError
from facefold.runs import Member


@dataclass(frozen=True)
class OofMatrix:
    """Members side by side, columns sorted by name so that the order they were named in changes nothing.

    ids: train ids (n,), labels: int64 (n,) of 0 and 1, fold: int64 (n,), names: m recipes, prob: float64 (n, m) out-of-fold
    probabilities of label 1; test_ids (t,), test_prob: float64 (t, m), the mean over each recipe's fold models.
    """

    ids: list[str]
    labels: np.ndarray
    fold: np.ndarray
    names: list[str]
    prob: np.ndarray
    test_ids: list[str]
    test_prob: np.ndarray


def matrix(members: list[Member], folds: Folds, test_ids: list[str]) -> OofMatrix:
    """Join members by id, in the row order of `folds.table` and `test_ids`.

    Raises `InputError` without members, for a recipe named twice, for ids that are not those of the folds or the test
    set, for probabilities that are missing or outside 0..1, and where only one class or one fold occurs.
    """
    members = sorted(members, key=lambda member: member.recipe)
    names = [member.recipe for member in members]
    if not members:
        raise InputError("there is nothing to blend: no recipe has been trained. Run `python src/train.py --recipe NAME`.")
    if len(set(names)) < len(names):
        raise InputError(f"a recipe is named twice: {', '.join(names)}")
    labels = folds.table["label"].to_numpy(np.int64)
    for what, values in (("label", labels), ("fold", folds.table["fold"].to_numpy(np.int64))):
        if len(np.unique(values)) < 2:
            raise InputError(f"the folds hold one {what} only ({', '.join(map(str, np.unique(values)))}); "
                             "a blend is learned and scored on two or more")
    ids = folds.table["id"].tolist()
    fold = folds.table["fold"].to_numpy(np.int64)
    oof, test = [], []
    for member in members:
        oof.append(_aligned(member.oof, ids, f"runs/{member.recipe}, out-of-fold", "the folds"))
        test.append(_aligned(member.test.mean(axis=1, skipna=False), test_ids, f"runs/{member.recipe}, test", "test.csv"))
    return OofMatrix(ids, labels, fold, names, np.column_stack(oof), list(test_ids), np.column_stack(test))


def describe(member: Member) -> dict:
    """What went into a blend from one recipe: its hash and the sha256 of every fold's oof.csv and test.csv."""
    return {"recipe": member.recipe, "recipe_hash": member.runs[0]["recipe_hash"], "seed": member.runs[0]["seed"],
            "files": [{name: run["files"][name] for name in ("oof.csv", "test.csv")} for run in member.runs]}


def _aligned(series: pd.Series, ids: list[str], what: str, whose: str) -> np.ndarray:
    difference = set(series.index) ^ set(ids)
    if difference or series.index.has_duplicates:
        example = sorted(difference or series.index[series.index.duplicated()])[0]
        raise InputError(f"{what}: the ids are not those of {whose}, each once ({len(difference)} differ, e.g. {example}); "
                         "train that recipe again")
    values = series.reindex(ids).to_numpy(np.float64)
    bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(bad):
        raise InputError(f"{what}: id {ids[bad[0]]} has {values[bad[0]]}, which is not a probability; train that recipe again")
    return values
