"""The members of a blend as one matrix with ids: out-of-fold rows to learn from, test rows to predict."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.folds import Folds
from facefold.runs import Member, fold_dir, load_fold_features, load_member, load_predictions
from facefold.task import Target
from facefold.utils.errors import InputError

READ_FILES = ("oof.csv", "test.csv", "features_oof.npy", "features_test.npy")  # what a blend reads of a fold


@dataclass(frozen=True)
class Rows:
    """All that a method may look at when it predicts; labels and folds are given apart, so that it cannot see them then.

    prob: float64 (n, m), each member's probability of label 1, or predicted value of a regression; stacked: float64 (n,), what
    the members' features make of each row (`stacking.stack`). Rows are chosen with a mask or indices: `rows[held]`.
    """

    prob: np.ndarray
    stacked: np.ndarray

    def __getitem__(self, which: np.ndarray) -> "Rows":
        return Rows(self.prob[which], self.stacked[which])

    def __len__(self) -> int:
        return len(self.prob)


@dataclass(frozen=True)
class OofMatrix:
    """Members side by side, columns sorted by name so that the order they were named in changes nothing.

    ids: train ids (n,), labels: int64 (n,) of 0 and 1, or float64 values of a regression, whose predicted values stand for the
    probabilities; fold: int64 (n,) in 0..k-1, group: text (n,), equal for rows that
    no split may divide; names: m recipes, prob: float64 (n, m) out-of-fold probabilities of label 1; test_ids (t,),
    fold_test_prob: float64 (k, t, m), those of each recipe's fold models.
    """

    ids: list[str]
    labels: np.ndarray
    fold: np.ndarray
    group: np.ndarray
    names: list[str]
    prob: np.ndarray
    test_ids: list[str]
    fold_test_prob: np.ndarray

    @property
    def test_prob(self) -> np.ndarray:
        """float64 (t, m), the mean over each recipe's fold models."""
        return self.fold_test_prob.mean(axis=0)


def join_members(members: list[Member], folds: Folds, test_ids: list[str]) -> OofMatrix:
    """Join members by id, in the row order of `folds.table` and `test_ids`.

    Raises `InputError` without members, for a recipe named twice, for ids that are not those of the folds or the test
    set, for probabilities that are missing or outside 0..1, for values that are not finite, and where only one class or
    one fold occurs.
    """
    members = sorted(members, key=lambda member: member.recipe)
    names = [member.recipe for member in members]
    if not members:
        raise InputError(
            "there is nothing to blend: no recipe has been trained. Run `python src/train.py --recipe NAME`."
        )
    if len(set(names)) < len(names):
        raise InputError(f"a recipe is named twice: {', '.join(names)}")
    labels = folds.table["label"].to_numpy()
    for what, values in (("label", labels), ("fold", folds.table["fold"].to_numpy(np.int64))):
        if len(np.unique(values)) < 2:
            raise InputError(
                f"the folds hold one {what} only ({', '.join(map(str, np.unique(values)))}); "
                "a blend is learned and scored on two or more"
            )
    ids = folds.table["id"].tolist()
    fold = folds.table["fold"].to_numpy(np.int64)
    oof, test = [], []
    for member in members:
        where = f"{folds.target.folder}runs/{member.recipe}"
        oof.append(_aligned(member.oof, ids, f"{where}, out-of-fold", "the folds", folds.target))
        test.append(
            [_aligned(member.test[k], test_ids, f"{where}, test", "test.csv", folds.target) for k in member.test]
        )
    group = folds.table["group"].to_numpy(str)
    return OofMatrix(
        ids, labels, fold, group, names, np.column_stack(oof), list(test_ids), np.stack(test).transpose(1, 2, 0)
    )


def load_features(root: Path, names: list[str], fold: int, part: str, ids: list[str]) -> np.ndarray:
    """The penultimate features of `names` side by side, float32 (len(ids), F of all), from the models of one fold.

    `part` is oof or test, `ids` are the rows wanted, in the order wanted. Raises `InputError` naming the file whose rows
    are not those of the csv beside it, or not finite.
    """
    parts = []
    for name in names:
        directory = fold_dir(root, name, fold)
        rows = pd.Index(load_predictions(directory / f"{part}.csv")["id"])
        values, order = load_fold_features(root, name, fold, part), rows.get_indexer(ids)
        path = directory / f"features_{part}.npy"
        if values.ndim != 2 or len(values) != len(rows) or order.min() < 0:
            raise InputError(
                f"{path}: its rows are not those of {part}.csv; delete {directory} and train that fold again"
            )
        parts.append(values[order])
        finite = np.isfinite(parts[-1]).all(axis=1)
        if not finite.all():
            raise InputError(
                f"{path}: id {ids[int(np.argmin(finite))]} has features that are not finite; delete {directory} and "
                "train that fold again"
            )
    return np.concatenate(parts, axis=1, dtype=np.float32)


def inner_folds(fold: np.ndarray) -> np.ndarray:
    """The folds (n,) to choose over inside `fold` (n,): itself, or two halves where one fold is left of two."""
    return fold if len(np.unique(fold)) > 1 else np.arange(len(fold)) % 2


def describe_member(member: Member) -> dict:
    """What went into a blend from one recipe: its hash and the sha256 of every file of its folds that was read."""
    return {
        "recipe": member.recipe,
        "recipe_hash": member.runs[0]["recipe_hash"],
        "seed": member.runs[0]["seed"],
        "files": [{name: run["files"][name] for name in READ_FILES} for run in member.runs],
    }


def load_blended_members(root: Path, facts: dict, folds: Folds, test_ids: list[str]) -> list[Member]:
    """The members that the blend with these facts (blend.json) was made of; `InputError` where runs/ or the folds are others now."""
    target = folds.target
    loaded = [
        load_member(target.directory(root), None, member["recipe"], folds, test_ids) for member in facts["members"]
    ]
    if [describe_member(member) for member in loaded] != facts["members"] or folds.hash != facts["folds"]["hash"]:
        raise InputError(
            f"{target.folder}submissions/ was blended from other runs than those now under {target.folder}runs/. "
            f"Run `python src/blend.py{target.option}` again."
        )
    return loaded


def _aligned(series: pd.Series, ids: list[str], what: str, whose: str, target: Target) -> np.ndarray:
    difference = set(series.index) ^ set(ids)
    if difference or series.index.has_duplicates:
        example = sorted(difference or series.index[series.index.duplicated()])[0]
        raise InputError(
            f"{what}: the ids are not those of {whose}, each once ({len(difference)} differ, e.g. {example}); "
            "train that recipe again"
        )
    values = series.reindex(ids).to_numpy(np.float64)
    bad = np.flatnonzero(~(np.isfinite(values) if target.regression else (values >= 0) & (values <= 1)))
    if len(bad):
        kind = "not finite" if target.regression else "not a probability"
        raise InputError(f"{what}: id {ids[bad[0]]} has {values[bad[0]]}, which is {kind}; train that recipe again")
    return values
