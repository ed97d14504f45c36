"""The members of a blend as one matrix with ids: out-of-fold rows to learn from, test rows to predict."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.folds import Folds
from facefold.ensemble.added import AddedMember, added_paths, load_added, plain_name
from facefold.runs import SUM_TOLERANCE, Member, fold_dir, load_fold_features, load_member, load_predictions
from facefold.task import LABEL, Task
from facefold.utils.errors import InputError

READ_FILES = ("oof.csv", "test.csv", "features_oof.npy", "features_test.npy")  # the files of a fold that a blend reads


@dataclass(frozen=True)
class Rows:
    """Everything that a method may use to predict; labels and folds are no part of it.

    prob: float64 (n, m), each member's probability of label 1, or predicted value of a regression, or (n, m, C), its
    probabilities of C classes; stacked: float64 (n,) or (n, C), the probability from the members' features
    (`fit_feature_stackers`). `rows[mask]` selects by a mask or by indices.
    """

    prob: np.ndarray
    stacked: np.ndarray

    def __getitem__(self, mask: np.ndarray) -> "Rows":
        return Rows(self.prob[mask], self.stacked[mask])


@dataclass(frozen=True)
class Fitted:
    """A fitted method of blending.

    predict(rows): float64 (n,), scores in 0..1, of which 0.5 or more decides for label 1, or predicted values; or
    (n, C), scores that sum to one, of which the largest decides (see `scores.decide`). weights: float (m,), how much
    each member counts, or (0,) if no number expresses it; notes: what else was learned, for blend.json.
    """

    predict: Callable[[Rows], np.ndarray]
    weights: np.ndarray = field(default_factory=lambda: np.empty(0))
    notes: dict = field(default_factory=dict)


@dataclass(frozen=True)
class OofMatrix:
    """Members next to each other, sorted by name so that the order in which they were named changes nothing.

    Attributes:
        ids: Train ids (n,).
        labels: int64 (n,), indices of the target's classes, or float64 values of a regression.
        fold: int64 (n,) in 0..k-1.
        group: Text (n,), equal for rows that no split may divide.
        names: The m runs.
        prob: float64 (n, m), out-of-fold probabilities of label 1, or predicted values; (n, m, C) of C > 2 classes.
        test_ids: (t,).
        fold_test_prob: float64 (k, t, m) or (k, t, m, C), the same of the test rows by each fold model.
        target: What is predicted.
        added: Those of the names whose predictions were made elsewhere, and have no features.
    """

    ids: list[str]
    labels: np.ndarray
    fold: np.ndarray
    group: np.ndarray
    names: list[str]
    prob: np.ndarray
    test_ids: list[str]
    fold_test_prob: np.ndarray
    target: Task = LABEL
    added: tuple[str, ...] = ()

    @property
    def test_prob(self) -> np.ndarray:
        """float64 (t, m) or (t, m, C), the mean over each member's fold models; what an added one has."""
        mean = self.fold_test_prob.mean(axis=0)
        same = [self.names.index(name) for name in self.added]  # in all folds, which a mean would round
        mean[:, same] = self.fold_test_prob[0][:, same]
        return mean

    @property
    def runs(self) -> "OofMatrix":
        """The matrix without the added members."""
        if not self.added:
            return self
        own = [j for j, name in enumerate(self.names) if name not in self.added]
        return replace(
            self,
            names=[self.names[j] for j in own],
            prob=self.prob[:, own],
            fold_test_prob=self.fold_test_prob[:, :, own],
            added=(),
        )


Fit = Callable[[Rows, np.ndarray, np.ndarray], Fitted]  # learns from n rows, labels or values (n,) and fold (n,)


def cross_fit(fit: Fit, rows: Rows, labels: np.ndarray, fold: np.ndarray) -> Iterator[tuple[np.ndarray, Fitted]]:
    """Yield for each fold the mask (n,) of its rows, and what `fit` learns from the rows of all other folds."""
    for k in np.unique(fold):
        rest = fold != k
        yield fold == k, fit(rows[rest], labels[rest], fold[rest])


def cross_predict(fit: Fit, rows: Rows, labels: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return scores (n,) or (n, C): each fold is predicted by what `fit` learns from the rows of all other folds.

    labels (n,), fold (n,) int with at least two values.
    """
    scores = np.empty((len(labels), *rows.prob.shape[2:]))
    for held_out, fitted in cross_fit(fit, rows, labels, fold):
        scores[held_out] = fitted.predict(rows[held_out])
    return scores


def join_members(members: list[Member], folds: Folds, test_ids: list[str]) -> OofMatrix:
    """Join members by id, in the row order of `folds.table` and `test_ids`.

    Raises `InputError` without members, for a run named twice, for ids that are not those of the folds or the test
    set, for probabilities that are missing, outside 0..1 or do not sum to one, for values that are not finite, and if
    only one class or one fold occurs.
    """
    members = sorted(members, key=lambda member: member.name)
    names = [member.name for member in members]
    if not members:
        raise InputError(
            "there is nothing to blend: no recipe has been trained. Run `python src/train.py --recipe NAME`."
        )
    if len(set(names)) < len(names):
        raise InputError(f"a recipe is named twice: {', '.join(names)}")
    ids, labels = folds.table["id"].tolist(), folds.table["label"].to_numpy()
    fold, group = folds.table["fold"].to_numpy(np.int64), folds.table["group"].to_numpy(str)
    for column, values in (("label", labels), ("fold", fold)):
        if len(np.unique(values)) < 2:
            raise InputError(
                f"the folds hold one {column} only ({values[0]}); a blend is learned and scored on two or more"
            )
    oof, test = [], []
    for member in members:
        run = f"{folds.target.folder}runs/{member.name}"
        oof.append(_aligned(member.oof, ids, f"{run}, out-of-fold", "the folds", folds.target))
        numbers = member.test.columns.get_level_values(0).unique()  # of the folds
        test.append([_aligned(member.test[k], test_ids, f"{run}, test", "test.csv", folds.target) for k in numbers])
    prob, fold_test_prob = np.stack(oof, axis=1), np.moveaxis(np.stack(test), 0, 2)
    added = tuple(member.name for member in members if isinstance(member, AddedMember))
    return OofMatrix(ids, labels, fold, group, names, prob, list(test_ids), fold_test_prob, folds.target, added)


def load_features(
    root: Path, names: list[str], fold: int, part: str, ids: list[str], target: Task = LABEL
) -> np.ndarray:
    """Load the penultimate features of the runs `names` next to each other, from the models of one fold.

    Raises `InputError` naming the file whose rows are not those of the csv next to it, or not finite.

    Args:
        root: The folder that holds runs/.
        names: The runs.
        fold: Whose models to take.
        part: oof or test.
        ids: The rows of the result, float32 (len(ids), sum of F), in this order.
        target: Of the runs.
    """
    features = []
    for name in names:
        directory = fold_dir(root, name, fold)
        path, advice = directory / f"features_{part}.npy", f"delete {directory} and train that fold again"
        rows = pd.Index(load_predictions(directory / f"{part}.csv", target)["id"])
        values, order = load_fold_features(root, name, fold, part), rows.get_indexer(ids)
        if values.ndim != 2 or len(values) != len(rows) or order.min() < 0:
            raise InputError(f"{path}: its rows are not those of {part}.csv; {advice}")
        features.append(values[order])
        finite = np.isfinite(features[-1]).all(axis=1)
        if not finite.all():
            raise InputError(f"{path}: id {ids[int(np.argmin(finite))]} has features that are not finite; {advice}")
    return np.concatenate(features, axis=1, dtype=np.float32)


def inner_folds(fold: np.ndarray) -> np.ndarray:
    """Return the folds (n,) to choose over inside `fold` (n,): itself, or two halves of the only fold that is left."""
    return fold if len(np.unique(fold)) > 1 else np.arange(len(fold)) % 2


def describe_member(member: Member) -> dict:
    """Return what a blend uses of a run: the hash of its recipe, and the sha256 of each file that is read."""
    return {
        "recipe": member.name,
        "recipe_hash": member.runs[0]["recipe_hash"],
        "seed": member.runs[0]["seed"],
        "files": [{name: run["files"][name] for name in READ_FILES} for run in member.runs],
    }


def load_blended_members(root: Path, facts: dict, folds: Folds, test_ids: list[str]) -> list[Member]:
    """Load the members of the blend with these facts (blend.json), sorted by name.

    Raise `InputError` if runs or folds have changed since. Added members are read from their copies in submissions/.
    """
    target = folds.target
    members = [load_member(target.directory(root), None, run["recipe"], folds, test_ids) for run in facts["members"]]
    if [describe_member(member) for member in members] != facts["members"] or folds.hash != facts["folds"]["hash"]:
        raise InputError(
            f"{target.folder}submissions/ was blended from other runs than those now under {target.folder}runs/. "
            f"Run `python src/blend.py{target.option}` again."
        )
    for name, one in facts.get("added", {}).items():
        named = (Path(one["oof"]["path"]), Path(one["test"]["path"]))
        copies = added_paths(target.directory(root) / "submissions", name)
        members.append(load_added(plain_name(name), named, folds, test_ids, copies))
    return sorted(members, key=lambda member: member.name)


def oof_scores(member: Member, ids: list[str], target: Task) -> np.ndarray:
    """Return a member's out-of-fold predictions of these train ids, (n,), or (n, C) of more than two classes.

    In the order of the member, which is that of folds.csv, nothing is copied.
    """
    table = member.oof if member.oof.index.tolist() == ids else member.oof.loc[ids]
    return (table[list(target.columns)] if target.multiclass else table).to_numpy()


def _aligned(
    predictions: pd.Series | pd.DataFrame, ids: list[str], source: str, expected: str, target: Task
) -> np.ndarray:
    """Return `predictions`, (n,) or (n, C), in the order of `ids`; source, expected: where either is from, in words."""
    index = predictions.index
    difference = set(index) ^ set(ids)
    if difference or index.has_duplicates:
        example = sorted(difference or index[index.duplicated()])[0]
        raise InputError(
            f"{source}: the ids are not those of {expected}, each once ({len(difference)} differ, e.g. {example}); "
            "train that recipe again"
        )
    if target.multiclass:
        if list(predictions.columns) != list(target.columns):
            raise InputError(
                f"{source}: the columns are {','.join(map(str, predictions.columns))}, expected "
                f"{','.join(target.columns)}; train that recipe again"
            )
        return _require_distributions(predictions.reindex(ids).to_numpy(np.float64), ids, source)
    values = predictions.reindex(ids).to_numpy(np.float64)
    bad = np.flatnonzero(~(np.isfinite(values) if target.regression else (values >= 0) & (values <= 1)))
    if len(bad):
        problem = "not finite" if target.regression else "not a probability"
        raise InputError(
            f"{source}: id {ids[bad[0]]} has {values[bad[0]]}, which is {problem}; train that recipe again"
        )
    return values


def _require_distributions(prob: np.ndarray, ids: list[str], source: str) -> np.ndarray:
    """Return prob (n, C), divided by the sums of its rows.

    Raises `InputError` unless all are in 0..1 and the sums are one, but for what float32 and a csv round.
    """
    outside = ~((prob >= 0) & (prob <= 1))
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InputError(
            f"{source}: id {ids[row]} has {prob[row, column]}, which is not a probability; train that recipe again"
        )
    total = prob.sum(axis=1)
    bad = np.flatnonzero(np.abs(total - 1) > SUM_TOLERANCE)
    if len(bad):
        raise InputError(
            f"{source}: the probabilities of id {ids[bad[0]]} sum to {total[bad[0]]:.6g}, not to 1; train that recipe "
            "again"
        )
    return prob / total[:, None]
