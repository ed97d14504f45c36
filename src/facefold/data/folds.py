"""Frozen folds: which row validates in which fold, written once and checked at every use.

    folds/folds.csv           id,label,group,fold, in the order of train.csv
    folds/fold_<k>_train.csv  id,label of the rows that train in fold k
    folds/fold_<k>_valid.csv  id,label of the rows that validate in it
    folds/folds.json          k, seed, method, sha256 of train.csv, and of each of these files; written last

The folds of another target than the label lie in targets/<target>/folds/; `label` is the target's value there.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from facefold.task import LABEL, Target, strata
from facefold.utils.errors import InputError
from facefold.utils.files import read_csv, read_json, sha256_file, sha256_text, write_json, write_text

_DEALT = "StratifiedGroupKFold(shuffle=True) of scikit-learn; group: "
_BINNED = "; strata: bins of the target"
GROUPINGS = {"bytes": _DEALT + "byte-identical images", "near": _DEALT + "near-duplicate images"}
_AGAIN = "Run `python src/split.py{}` to write the folds again (`--force` where runs depend on the old ones)."


@dataclass(frozen=True)
class Folds:
    """table: id (text), label (int64; float64, the value, of a regression), group (text), fold (int64, 0..k-1), in the order of
    train.csv.

    hash: sha256 of folds.csv; train_sha256: that of the train.csv the folds were made for (`Target.sha256`).
    """

    table: pd.DataFrame
    k: int
    seed: int
    hash: str
    train_sha256: str
    method: str
    target: Target = LABEL

    @property
    def grouping(self) -> str | None:
        """The key of `METHODS` by which the rows were grouped; None where another program dealt them."""
        return grouping_key(self.method)

    def train(self, k: int) -> pd.DataFrame:
        """id,label of the rows that train in fold `k`."""
        return self._rows(self.table["fold"] != k)

    def valid(self, k: int) -> pd.DataFrame:
        """id,label of the rows that validate in fold `k`."""
        return self._rows(self.table["fold"] == k)

    def _rows(self, mask: pd.Series) -> pd.DataFrame:
        return self.table.loc[mask, ["id", "label"]].reset_index(drop=True)


def group_rows(images: pd.DataFrame, alike: str = "sha256") -> pd.Series:
    """Group of each train id (the index): the first id, in the order of `images`, with the same value in the column `alike`.

    `images` is the table of `integrity.check`: images of the same bytes are a group; or that of `duplicates.find`, with
    alike="group".
    """
    train = images[images["split"] == "train"]
    first = train.groupby(alike, sort=False)["id"].transform("first")
    return pd.Series(first.to_numpy(), index=pd.Index(train["id"], name="id"), name="group")


def grouping_key(method: str) -> str | None:
    """The key of `METHODS` that a recorded method has; None where another program dealt the folds."""
    return next((kind for kind, text in GROUPINGS.items() if text == method.removesuffix(_BINNED)), None)


def count_divided_groups(table: pd.DataFrame, groups: pd.Series) -> int:
    """How many of `groups` (indexed by id) have rows in more than one fold of `table` (id, fold)."""
    return int((table.groupby(groups.loc[table["id"]].to_numpy())["fold"].nunique() > 1).sum())


def make_folds(
    train: pd.DataFrame,
    groups: pd.Series,
    k: int,
    seed: int,
    train_sha256: str,
    grouping: str = "bytes",
    target: Target = LABEL,
) -> Folds:
    """Deal the rows of `train` (id,label; those of `target.rows`) to `k` folds: equal shares of the labels, or of the bins of
    a regression's values, a group never divided.

    `groups` is indexed by id, `grouping` says what they are (a key of `METHODS`). Raises `InputError` when k < 2 or a fold
    would lack a class or bin.
    """
    if k < 2:
        raise InputError(f"{k} folds: at least 2 are needed, 5 are usual")
    if seed < 0:
        raise InputError(f"seed {seed}: a seed is a whole number from 0 on")
    if set(train["id"]) != set(groups.index) or groups.index.has_duplicates:
        raise ValueError("train and groups must hold the same ids, each once")
    group, stratum = groups.loc[train["id"]].to_numpy(), strata(train["label"].to_numpy())
    for label, rows in train.assign(group=group).groupby(stratum):
        pictures = rows["group"].nunique()
        if pictures < k:
            least, most = rows["label"].agg(["min", "max"])
            kind = f"{target.name} {least:g} to {most:g}" if target.regression else f"label {label}"
            raise InputError(
                f"{kind} has {len(rows)} rows with {pictures} different images, too few for {k} folds; "
                "choose fewer with --folds"
            )
    fold = np.empty(len(train), dtype=np.int64)
    splitter = StratifiedGroupKFold(n_splits=k, shuffle=True, random_state=seed)
    for number, (_, valid) in enumerate(splitter.split(train["id"], stratum, group)):
        fold[valid] = number
    values = train["label"].to_numpy(_kind(target))
    table = pd.DataFrame({"id": train["id"].to_numpy(), "label": values, "group": group, "fold": fold})
    poor = [number for number in range(k) if len(np.unique(stratum[fold == number])) < len(np.unique(stratum))]
    if poor:
        raise InputError(
            f"{k} folds cannot all hold every class, so many images are identical; choose fewer with --folds"
        )
    method = GROUPINGS[grouping] + (_BINNED if target.regression else "")
    return Folds(table, k, seed, sha256_text(_text(table)), train_sha256, method, target)


def _kind(target: Target) -> str:
    return "float64" if target.regression else "int64"


def write_folds(root: Path, folds: Folds, force: bool = False) -> bool:
    """Write folds/ of the folds' target; False when these very folds are there already.

    Raises `InputError` when different folds are there and runs depend on them, unless `force`.
    """
    place = folds.target.directory(root)
    directory = place / "folds"
    texts = _texts(folds)
    facts = {
        "k": folds.k,
        "seed": folds.seed,
        "method": folds.method,
        "train_sha256": folds.train_sha256,
        "files": {name: sha256_text(text) for name, text in texts.items()},
    }
    try:
        old = read_json(directory / "folds.json")
        same = old == facts and not _damaged(directory, old)
    except InputError:
        same = False
    if same:
        return False
    depending = sorted({path.parent.name for path in (place / "runs").glob("*/fold_*")})
    if depending and not force and _differ(directory, facts):
        raise InputError(
            f"{directory} holds other folds, and runs depend on them ({', '.join(depending)}); nothing was changed. "
            "Split with the same --folds, --seed and --groups as before, choose another --root, "
            "or replace them with --force, after which these runs are stale."
        )
    for name, text in texts.items():
        write_text(directory / name, text)
    write_json(directory / "folds.json", facts)
    for path in directory.glob("fold_*_*.csv"):
        if path.name not in texts:
            path.unlink()
    return True


def load_folds(root: Path, target: Target = LABEL) -> Folds:
    """The folds of this root for a target. `InputError` when they are missing, edited, or made for another train.csv or other
    values."""
    directory = target.directory(root) / "folds"
    if not (directory / "folds.json").exists():
        raise InputError(
            f"{directory / 'folds.json'} is missing: there are no folds yet. Run `python src/split.py{target.option}`."
        )
    facts, again = read_json(directory / "folds.json"), _AGAIN.format(target.option)
    shape = {"k": int, "seed": int, "method": str, "train_sha256": str, "files": dict}
    if not all(isinstance(facts.get(name), kind) for name, kind in shape.items()) or "folds.csv" not in facts["files"]:
        raise InputError(f"{directory / 'folds.json'} is not what split.py writes. {again}")
    damaged = _damaged(directory, facts)
    if damaged:
        raise InputError(
            f"{directory / damaged[0]} is missing or was edited (its sha256 is not that in folds.json). {again}"
        )
    for source in target.sources(root):
        if not source.is_file():
            raise InputError(
                f"{source} is missing. Run `python src/audit.py --data ZIP` to put the competition in place."
            )
    if target.sha256(root) != facts["train_sha256"]:
        changed = " or ".join(map(str, target.sources(root)))
        raise InputError(f"{changed} has changed since the folds were made. Restore it, or: {again}")
    table = read_csv(directory / "folds.csv", {"id": str, "label": _kind(target), "group": str, "fold": "int64"})
    if set(table["fold"]) != set(range(facts["k"])):
        raise InputError(f"{directory / 'folds.json'} was edited: folds.csv has other folds than its k says. {again}")
    return Folds(
        table, facts["k"], facts["seed"], facts["files"]["folds.csv"], facts["train_sha256"], facts["method"], target
    )


def _text(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n")


def _texts(folds: Folds) -> dict[str, str]:
    """Every csv file of folds/ with its content."""
    texts = {"folds.csv": _text(folds.table)}
    for k in range(folds.k):
        texts[f"fold_{k}_train.csv"] = _text(folds.train(k))
        texts[f"fold_{k}_valid.csv"] = _text(folds.valid(k))
    return texts


def _damaged(directory: Path, facts: dict) -> list[str]:
    """The files of folds.json that are missing or whose content is not the recorded one."""
    recorded = facts.get("files", {})
    return [
        name
        for name, sha in recorded.items()
        if not (directory / name).is_file() or sha256_file(directory / name) != sha
    ]


def _differ(directory: Path, facts: dict) -> bool:
    """Whether folds are there, and neither folds.csv nor what folds.json says of it is that of `facts`: one of the two may be
    lost or edited, and is then written anew."""
    there = set()
    if (directory / "folds.csv").is_file():
        there.add(sha256_file(directory / "folds.csv"))
    if (directory / "folds.json").is_file():
        try:
            there.add(read_json(directory / "folds.json").get("files", {}).get("folds.csv"))
        except InputError:
            there.add("unreadable")
    return bool(there) and facts["files"]["folds.csv"] not in there
