"""What a run leaves behind, and the only code that knows its file names.

    runs/<recipe>/fold_<k>/   weights.safetensors  history.csv  oof.csv  test.csv
                              features_oof.npy  features_test.npy  run.json
    runs/<recipe>/oof.csv     the folds' OOF joined: each train id exactly once
    runs/label_issues.csv     labels that are likely wrong, see ensemble/label_issues.py

A recipe that learned from corrected labels, pseudo-labels or extra rows has a folder of its own,
runs/<recipe>+corrected/, runs/<recipe>+pseudo/ or runs/<recipe>+extra/, so that before and after can be compared; its
run.json holds the corrections, the runs that labelled the test images, or what the extra rows were. A run's name is its
folder's, see models/run_name.py: lite0, lite0#1, lite0+corrected. The runs of another target than the label lie under
targets/<target>/, the `root` of the functions here (`Task.directory`).

`run.json` is written last and holds the sha256 of every other file, so a fold is finished exactly when it has one, and
a file that was torn or edited afterwards is found before it is used.
"""

import json
import re
import shutil
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save

from facefold.data.corrections import NO_CORRECTIONS, Corrections
from facefold.data.folds import Folds
from facefold.models.recipe import load_recipe, load_recipes, recipe_names
from facefold.models.run_name import parse_run_name, run_suffix
from facefold.task import LABEL, Task, load_task, task_named
from facefold.utils.errors import InputError
from facefold.utils.files import (
    lock_directory,
    read_csv,
    read_json,
    read_npy,
    sha256_file,
    sha256_text,
    staged_files,
    write_bytes,
    write_csv,
    write_json,
    write_npy,
)
from facefold.utils.npy import NpyRows

WEIGHTS_FILE = "weights.safetensors"  # those that predict
RESULT_FILES = (WEIGHTS_FILE, "history.csv", "oof.csv", "test.csv", "features_oof.npy", "features_test.npy")
CHECKPOINT_FILE = "checkpoint.pt"  # while a fold trains
SUM_TOLERANCE = 1e-4  # of the probabilities of a row from one: what rounding leaves


@dataclass(frozen=True)
class Identity:
    """What must be equal for two runs to be the same run.

    Hashes are sha256 in hex; those of corrections, pseudo-labels and extra rows are empty if there are none. target:
    the name of the task; task: `Task.hash`.
    """

    recipe: str
    recipe_hash: str
    folds_hash: str
    images_hash: str
    seed: int
    corrections: str = ""
    target: str = LABEL.name
    task: str = ""
    pseudo: str = ""
    extra: str = ""

    @property
    def name(self) -> str:
        """The run's folder under runs/."""
        return self.recipe + run_suffix(bool(self.corrections), bool(self.pseudo), bool(self.extra))

    @property
    def facts(self) -> dict:
        """Return what run.json and a checkpoint record, which without extra rows do not mention them."""
        return {name: value for name, value in asdict(self).items() if name != "extra" or value}


_CAUSES = {
    "recipe": "another recipe's name",
    "recipe_hash": "another version of the recipe",
    "folds_hash": "other folds",
    "images_hash": "other images",
    "seed": "another seed",
    "corrections": "other corrections",
    "target": "another target",
    "task": "other classes",
    "pseudo": "other pseudo-labels",
    "extra": "other extra rows",
}


@dataclass(frozen=True)
class Member:
    """A finished run, ready to be blended. name: of its folder.

    oof: float64 probability of label 1, or predicted value, (n,), indexed by train id in the order of `folds.table`; of
    more than two classes a table of the probabilities (n, C) whose columns are `Task.columns`.
    test: float64, the same of each fold, (t, k) or (t, k C), indexed by test id; `test[fold]` is that of a fold 0..k-1.
    runs: the k folds' run.json.
    """

    name: str
    oof: pd.Series | pd.DataFrame
    test: pd.DataFrame
    runs: list[dict]


def fold_dir(root: Path, name: str, fold: int) -> Path:
    return root / "runs" / name / f"fold_{fold}"


def joined_oof_path(root: Path, name: str) -> Path:
    return root / "runs" / name / "oof.csv"


def label_issues_path(root: Path) -> Path:
    return root / "runs" / "label_issues.csv"


def feature_cache_dir(root: Path, identity: Identity) -> Path:
    """Return the folder of the activations of the run's frozen stages; `root` is that of the competition."""
    return load_task(root, identity.target).directory(root) / "cache" / "frozen" / identity.name


def remove_feature_caches(root: Path, identity: Identity, k: int) -> None:
    """Remove the activations of the run's frozen stages, gigabytes, once all its `k` folds are sealed."""
    if is_run_complete(load_task(root, identity.target).directory(root), identity.name, k):
        shutil.rmtree(feature_cache_dir(root, identity), ignore_errors=True)


def run_names(root: Path) -> list[str]:
    """Return the sorted names of the runs that have left something under runs/."""
    return sorted(path.name for path in (root / "runs").glob("*") if _holds_run(path))


def _holds_run(folder: Path) -> bool:
    """Return whether a folder has folds of the run of its name: a copy of a run, or another program's folder, has none.

    Folds that are not sealed do not name their run; then a recipe must have that name.
    """
    folds = [path for path in sorted(folder.glob("fold_*")) if re.fullmatch(r"fold_\d+", path.name) and path.is_dir()]
    for fold in folds:
        try:
            run = read_json(fold / "run.json")
        except InputError:
            continue
        return _recorded_name(run) == folder.name
    with suppress(InputError):
        return bool(folds) and parse_run_name(folder.name).stem in recipe_names()
    return False


def parse_run_names(text: str) -> list[str]:
    """Return the names in a comma-separated list, each once. Raise `InputError` for a recipe that does not exist."""
    names = dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    load_recipes(",".join(parse_run_name(name).recipe for name in names) or text)
    return list(names)


def require_distinct(seeds: dict[str, int]) -> None:
    """Raise `InputError` if two runs differ in nothing but where their seed is written; seeds: of each run, by name."""
    first: dict[tuple[str, int], str] = {}
    for name, seed in seeds.items():
        other = first.setdefault((str(replace(parse_run_name(name), seed=None)), seed), name)
        if other != name:
            raise InputError(f"{other} and {name} are the same run, for both have seed {seed}; name one of the two")


def current_identity(name: str, folds: Folds, images_hash: str) -> Identity:
    """Return what a run of this name must agree with now; seed and labels are its own, see `load_member`."""
    recipe = load_recipe(parse_run_name(name).recipe)
    return Identity(recipe.name, recipe.hash, folds.hash, images_hash, 0, "", folds.target.name, folds.target.hash)


def recorded_task(run: dict) -> Task:
    """Return the kind and classes of what the run of a run.json predicts; old ones say only whether it is a number."""
    task = task_named(_recorded(run, "target"))
    return replace(task, kind=run["kind"], classes=tuple(run["classes"])) if "kind" in run else task


def load_run_corrections(run: dict) -> Corrections:
    """Return the corrections that a run learned from. Raise `InputError` if their hash is not the recorded one."""
    corrections = Corrections(run.get("corrected", {}))
    if corrections.hash != _recorded(run, "corrections"):
        raise InputError(
            f"runs/{_recorded_name(run)}: the corrections in a run.json were edited, or come from an "
            "earlier version of this program; delete the folder and train it again"
        )
    return corrections


def is_fold_sealed(root: Path, name: str, fold: int | str) -> bool:
    """Return whether this fold was trained to its end, by whatever version of the recipe."""
    return (root / "runs" / name / f"fold_{fold}" / "run.json").exists()


def is_run_complete(root: Path, name: str, k: int) -> bool:
    """Return whether all folds were trained to their end, by whatever version of the recipe."""
    return all(is_fold_sealed(root, name, fold) for fold in range(k))


def is_fold_finished(root: Path, identity: Identity, fold: int) -> bool:
    """Return whether this fold is sealed and intact. Raise `InputError` if it is damaged or of another identity."""
    directory = fold_dir(root, identity.name, fold)
    if not is_fold_sealed(root, identity.name, fold):
        return False
    require_current(directory, read_json(directory / "run.json"), identity)
    _require_intact(directory)
    return True


def find_unfinished_folds(root: Path, identity: Identity, numbers: Collection[int], force: bool) -> list[int]:
    """Return those of the folds `numbers` that are not finished.

    One that is damaged or of another identity is an `InputError`, or removed if `force`. A checkpoint next to a sealed
    fold, of a process that was killed in between, is removed.
    """
    unfinished = []
    for fold in numbers:
        directory = fold_dir(root, identity.name, fold)
        try:
            if not is_fold_finished(root, identity, fold):
                unfinished.append(fold)
            else:
                (directory / CHECKPOINT_FILE).unlink(missing_ok=True)
        except InputError:
            if not force:
                raise
            remove_fold(directory)
            unfinished.append(fold)
    return unfinished


def find_other_sources(root: Path, identity: Identity, finished: list[int], source: dict, force: bool) -> list[int]:
    """Return those of the finished folds whose features came from another `source` than this one ({source, sha256}).

    One of them is an `InputError`, or removed if `force`.
    """
    others = []
    for fold in finished:
        directory = fold_dir(root, identity.name, fold)
        if read_json(directory / "run.json").get("weights") == source:
            continue
        if not force:
            raise InputError(
                f"{directory} is stale: {source['source']} has changed since. Move it away, or train over it with "
                "--force."
            )
        remove_fold(directory)
        others.append(fold)
    return others


def require_same_weights(root: Path, identity: Identity, k: int, find_source: Callable[[], dict]) -> None:
    """Raise `InputError` if one of the run's `k` folds began from other pretrained weights than the rest would.

    find_source: returns the source of these, {source, sha256}; it is called if a fold is sealed.
    """
    for fold in range(k):
        directory = fold_dir(root, identity.name, fold)
        if not is_fold_sealed(root, identity.name, fold):
            continue
        began, source = read_json(directory / "run.json").get("weights"), find_source()
        if began and began != source:
            raise InputError(
                f"{directory} began from the weights {began}, and the other folds would begin from {source}. Name the "
                f"former with --weights-dir, or move {directory.parent} away to train all folds from the latter."
            )


def remove_fold(directory: Path) -> None:
    """Remove the files of a fold, unless another process trains it; the folder stays if it holds others."""
    with lock_directory(directory):
        for name in ("run.json", CHECKPOINT_FILE, *RESULT_FILES):  # run.json first: it says that the fold is finished
            for path in (directory / name, directory / f".{name}.part"):
                path.unlink(missing_ok=True)
        if not any(directory.iterdir()):
            directory.rmdir()


def require_current(directory: Path, run: dict, identity: Identity) -> None:
    """Raise `InputError` if the run.json or checkpoint in `directory` has another identity."""
    causes = [cause for name, cause in _CAUSES.items() if _recorded(run, name) != getattr(identity, name)]
    if causes:
        name, target, both = directory.parent.name, task_named(identity.target), ""
        if causes == [_CAUSES["seed"]] and parse_run_name(name).seed is None:
            seeded = str(replace(parse_run_name(name), seed=identity.seed or _recorded(run, "seed")))
            both = f" To have both seeds, give one of them a run of its own: `train.py {_options(seeded, target)}`."
        raise InputError(
            f"{directory} is stale: it was trained with {' and '.join(causes)}. Move it away, or train over it with "
            f"`train.py {_options(name, target)} --force`.{both}"
        )


def seal_fold(directory: Path, identity: Identity, facts: dict, corrections: Corrections = NO_CORRECTIONS) -> None:
    """Write run.json: the identity, the facts, the corrections, the checksum of every file and its own."""
    checksums = {name: sha256_file(directory / name) for name in RESULT_FILES}
    run = {**identity.facts, **facts, "corrected": corrections.actions, "files": checksums}
    write_json(directory / "run.json", {**run, "sha256": _digest(run)})


def load_member(root: Path, identity: Identity | None, name: str, folds: Folds, test_ids: list[str]) -> Member:
    """Join a run's folds by id.

    Raise `InputError` naming the run if folds are missing, stale, damaged, of different seeds or pretrained weights, if
    their ids are not those of folds/ and test.csv, or if the labels and the suffix of the folder do not go together.

    Args:
        root: The folder that holds runs/.
        identity: What the run must agree with, but for seed, corrections, pseudo-labels and extra rows, which are taken
            from the name, or from the run where the name does not say; None for whatever the folds agree on.
        name: Of the run.
        folds: The folds it was trained on.
        test_ids: In the order of test.csv.
    """
    missing = [str(k) for k in range(folds.k) if not is_fold_sealed(root, name, k)]
    if missing:
        raise InputError(
            f"{folds.target.folder}runs/{name} is incomplete: fold {', '.join(missing)} of {folds.k} not finished. Run "
            f"`python src/train.py {_options(name, folds.target)}`, or name the recipes to blend with --recipes."
        )
    runs, oof, test, parts = [], [], {}, parse_run_name(name)
    for k in range(folds.k):
        directory = fold_dir(root, name, k)
        run = read_json(directory / "run.json")
        if identity is None:
            identity = Identity(**{field.name: _recorded(run, field.name) for field in fields(Identity)})
        first = runs[0] if runs else run
        own = {
            "seed": parts.seed or first.get("seed"),
            "corrections": (_recorded(first, "corrections") or "none") if parts.corrected else "",
            "pseudo": (_recorded(first, "pseudo") or "none") if parts.pseudo else "",
            "extra": (_recorded(first, "extra") or "none") if parts.extra else "",
        }
        require_current(directory, run, replace(identity, **own))
        _require_intact(directory)
        valid_ids = folds.table.loc[folds.table["fold"] == k, "id"]
        oof.append(_load_by_id(directory / "oof.csv", folds.target, valid_ids, "the validation rows of that fold"))
        test[k] = _load_by_id(directory / "test.csv", folds.target, test_ids, "test.csv").reindex(test_ids)
        runs.append(run)
    if len({json.dumps(run.get("weights"), sort_keys=True) for run in runs}) > 1:
        raise InputError(
            f"runs/{name}: its folds began from different pretrained weights (see weights in each run.json); train the "
            "odd ones again"
        )
    joined = pd.concat(oof).reindex(folds.table["id"].tolist())
    by_fold = pd.concat(test, axis="columns").rename_axis(index="id")
    return Member(name, joined, by_fold, runs)


def shared_corrections(members: list[Member]) -> Corrections:
    """Return what the members with corrected labels learned from. Raise `InputError` if two differ."""
    corrections = {
        member.name: load_run_corrections(member.runs[0]) for member in members if parse_run_name(member.name).corrected
    }
    if len({one.hash for one in corrections.values()}) > 1:
        raise InputError(
            f"{', '.join(corrections)} learned from different corrections, so there are no corrected labels to score "
            "all by. Train them with one --corrections FILE, or name the recipes to blend with --recipes."
        )
    return next(iter(corrections.values()), NO_CORRECTIONS)


def require_train_images(root: Path, name: str, k: int, train_images: str) -> None:
    """Raise `InputError` if one of the run's `k` folds learned from other train images than those with this hash.

    Runs of earlier versions do not record theirs.
    """
    for fold in range(k):
        directory = fold_dir(root, name, fold)
        run = read_json(directory / "run.json")
        if run.get("train_images", train_images) != train_images:
            raise InputError(
                f"{directory} is stale: it was trained on other train images. Move it away, or train over it with "
                f"`train.py {_options(name, recorded_task(run))} --force`."
            )


def replace_test_predictions(
    directory: Path, ids: list[str], prob: np.ndarray, features: NpyRows | np.ndarray, images_hash: str
) -> None:
    """Replace the test predictions of a sealed fold by those of the images with this hash; see `write_predictions`."""
    run = read_json(directory / "run.json")
    _require_unedited(directory, run)
    with staged_files(directory, "run.json") as staged:
        write_predictions(staged, "test", ids, prob, features, recorded_task(run))
        checksums = {path.name: sha256_file(path) for path in sorted(staged.iterdir())}
        run = {**run, "images_hash": images_hash, "files": {**run["files"], **checksums}}
        write_json(staged / "run.json", {**run, "sha256": _digest(run)})


def join_folds(root: Path, identity: Identity, folds: Folds, test_ids: list[str]) -> Member:
    """Load the run and write runs/<recipe>/oof.csv (id and `Task.columns`) in the order of folds.csv."""
    member = load_member(root, identity, identity.name, folds, test_ids)
    write_csv(joined_oof_path(root, member.name), member.oof.rename_axis(index="id").reset_index())
    return member


def write_predictions(
    directory: Path, part: str, ids: list[str], prob: np.ndarray, features: NpyRows | np.ndarray, target: Task = LABEL
) -> None:
    """Write <part>.csv (id and `Task.columns`) and features_<part>.npy.

    Args:
        directory: Of the fold.
        part: oof or test.
        ids: Of the rows.
        prob: float (n,), probability of label 1 or predicted value; (n, C), the probabilities of more than two classes.
        features: float16 (n, F), penultimate.
        target: What is predicted.
    """
    table = pd.DataFrame(np.asarray(prob, dtype=np.float64).reshape(len(ids), -1), columns=list(target.columns))
    table.insert(0, "id", ids)
    write_csv(directory / f"{part}.csv", table)
    features = features if isinstance(features, NpyRows) else np.asarray(features, dtype=np.float16)
    write_npy(directory / f"features_{part}.npy", features)


def write_weights(directory: Path, state: dict[str, np.ndarray]) -> None:
    """Write the weights that predict, name -> array, as safetensors."""
    write_bytes(directory / WEIGHTS_FILE, save({name: np.ascontiguousarray(value) for name, value in state.items()}))


def load_weights(root: Path, name: str, fold: int) -> dict[str, np.ndarray]:
    """Load the weights that predict, name -> array."""
    return load_file(fold_dir(root, name, fold) / WEIGHTS_FILE)


def write_history(directory: Path, history: pd.DataFrame) -> None:
    """Write the learning curve, one row per epoch."""
    write_csv(directory / "history.csv", history)


def load_history(root: Path, name: str, fold: int) -> pd.DataFrame:
    """Load the fold's learning curve: one row per epoch, all columns numeric."""
    return pd.read_csv(fold_dir(root, name, fold) / "history.csv")


def load_histories(root: Path, name: str, folds: Iterable[int]) -> dict[str, pd.DataFrame]:
    """Load the learning curves of those of these folds of a run that are finished: `fold 0` -> its table."""
    return {f"fold {fold}": load_history(root, name, fold) for fold in folds if is_fold_sealed(root, name, fold)}


def load_predictions(path: Path, target: Task = LABEL) -> pd.DataFrame:
    """Load id and `Task.columns`, float64.

    Raise `InputError` for a probability outside 0..1, a value that is not finite, or probabilities of more than two
    classes that do not sum to one.
    """
    columns = list(target.columns)
    table = read_csv(path, {"id": str, **dict.fromkeys(columns, float)})
    values, advice = table[columns].to_numpy(), "delete the fold's folder and train it again"
    valid = np.isfinite(values) if target.regression else (values >= 0) & (values <= 1)
    if not valid.all():
        row, column = np.argwhere(~valid)[0]
        what = "a finite number" if target.regression else "a probability"
        raise InputError(f"{path}, row {row + 2}: {columns[column]} {values[row, column]} is not {what}; {advice}")
    sums = values.sum(axis=1)
    if target.multiclass and (wrong := np.flatnonzero(np.abs(sums - 1) > SUM_TOLERANCE)).size:
        raise InputError(
            f"{path}, row {wrong[0] + 2}: the probabilities sum to {sums[wrong[0]]:.6g}, not to 1; {advice}"
        )
    return table


def load_fold_features(root: Path, name: str, fold: int, part: str) -> np.ndarray:
    """Load penultimate features, float16 (n, F), in the row order of <part>.csv; `part` is oof or test."""
    return read_npy(fold_dir(root, name, fold) / f"features_{part}.npy")


def _load_by_id(path: Path, target: Task, expected: Collection[str], source: str) -> pd.Series | pd.DataFrame:
    """Load the predictions by id, which must be the `expected` ids, each once: a series where there is one output."""
    table = load_predictions(path, target)
    ids = table["id"]
    if ids.duplicated().any():
        raise InputError(
            f"{path}: id {ids[ids.duplicated()].iloc[0]} appears twice; delete the fold's folder and train it again"
        )
    if difference := set(ids) ^ set(expected):
        raise InputError(
            f"{path}: its ids are not those of {source} ({len(difference)} differ, e.g. {sorted(difference)[0]}); "
            "delete the fold's folder and train it again"
        )
    return table.set_index("id")[list(target.columns) if target.multiclass else target.column]


def _recorded(run: dict, name: str) -> object:
    """Return a field of the identity in run.json or a checkpoint; old ones lack the last five."""
    return run.get(name, {"corrections": "", "target": LABEL.name, "task": "", "pseudo": "", "extra": ""}.get(name))


def _recorded_name(run: dict) -> str:
    """Return the name of the run of a run.json."""
    learned = (bool(_recorded(run, name)) for name in ("corrections", "pseudo", "extra"))
    return f"{run.get('recipe')}{run_suffix(*learned)}"


def _options(name: str, target: Task) -> str:
    """Return the options of train.py that train the run of this name."""
    parts = parse_run_name(name)
    learned = " --corrections FILE" * parts.corrected + " --pseudo RUNS" * parts.pseudo + " --extra DIR" * parts.extra
    return f"--recipe {parts.recipe}{target.option}{learned}"


def _digest(run: dict) -> str:
    """Return the sha256 of run.json without its own checksum."""
    return sha256_text(json.dumps({name: value for name, value in run.items() if name != "sha256"}, sort_keys=True))


def _require_unedited(directory: Path, run: dict) -> None:
    if run.get("sha256", _digest(run)) != _digest(run):  # one that is older than this checksum is taken as it is
        raise InputError(
            f"{directory / 'run.json'} was edited (its checksum differs). Delete {directory} and train that fold again."
        )


def _require_intact(directory: Path) -> None:
    run = read_json(directory / "run.json")
    _require_unedited(directory, run)
    checksums = run.get("files", {})
    for name in RESULT_FILES:
        if not (directory / name).exists() or sha256_file(directory / name) != checksums.get(name):
            raise InputError(
                f"{directory / name} is missing or not the file that training wrote (checksum differs). "
                f"Delete {directory} and train that fold again."
            )
