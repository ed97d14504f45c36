"""What a run leaves behind, and the only code that knows its file names.

    runs/<recipe>/fold_<k>/   weights.safetensors  history.csv  oof.csv  test.csv
                              features_oof.npy  features_test.npy  run.json
    runs/<recipe>/oof.csv     the folds' OOF joined: each train id exactly once
    runs/label_issues.csv     the labels that are likely wrong by them, see review/label_issues.py

A recipe that learned from corrected labels has a folder of its own, runs/<recipe>+corrected/, so that before and after
stand side by side; its run.json holds the corrections. A run's name is its folder's: lite0, lite0+corrected.
The runs of another target than the label lie under targets/<target>/, the `root` of the functions here (`Target.place`).

`run.json` is written last and holds the sha256 of every file beside it, so a fold is finished exactly
when it has one, and a file that was torn or edited afterwards is found before it is used.
"""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file
from safetensors.numpy import save as packed

from facefold.data.corrections import NO_CORRECTIONS, Corrections
from facefold.data.folds import Folds
from facefold.models.recipe import load_recipe, load_recipes
from facefold.task import LABEL, Target
from facefold.utils.errors import InputError
from facefold.utils.files import (
    atomic_path,
    read_csv,
    read_json,
    read_npy,
    sha256_file,
    sha256_text,
    write_csv,
    write_json,
    write_npy,
)
from facefold.utils.npy import NpyRows

WEIGHTS_FILE = "weights.safetensors"  # those that predict
RESULT_FILES = (WEIGHTS_FILE, "history.csv", "oof.csv", "test.csv", "features_oof.npy", "features_test.npy")
CHECKPOINT_FILE = "checkpoint.safetensors"  # beside them while a fold trains
CORRECTED_SUFFIX = "+corrected"


@dataclass(frozen=True)
class Identity:
    """What must be equal for two runs to be the same run; hashes are sha256 in hex, that of the corrections empty without any.
    target: its name."""

    recipe: str
    recipe_hash: str
    folds_hash: str
    images_hash: str
    seed: int
    corrections: str = ""
    target: str = LABEL.name

    @property
    def name(self) -> str:
        """The run's folder under runs/."""
        return self.recipe + (CORRECTED_SUFFIX if self.corrections else "")


_CAUSES = {
    "recipe": "another recipe's name",
    "recipe_hash": "another version of the recipe",
    "folds_hash": "other folds",
    "images_hash": "other images",
    "seed": "another seed",
    "corrections": "other corrections",
    "target": "another target",
}


@dataclass(frozen=True)
class Member:
    """A finished run, ready to be blended. name: of its folder.

    oof: float64 probability of label 1, or predicted value, (n,), indexed by train id in the order of `folds.table`.
    test: float64, the same (t, k), indexed by test id, one column a fold (named 0..k-1).
    runs: the k folds' run.json.
    """

    name: str
    oof: pd.Series
    test: pd.DataFrame
    runs: list[dict]


def fold_dir(root: Path, recipe: str, fold: int) -> Path:
    return root / "runs" / recipe / f"fold_{fold}"


def run_names(root: Path) -> list[str]:
    """The names of the runs that have left something under runs/, sorted."""
    return sorted(path.name for path in (root / "runs").glob("*") if any(path.glob("fold_*")))


def parse_run_names(text: str) -> list[str]:
    """The names in a comma-separated list as a person writes it, each once; `InputError` for a recipe that does not exist."""
    listed = dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    load_recipes(",".join(name.removesuffix(CORRECTED_SUFFIX) for name in listed) or text)
    return list(listed)


def current_identity(name: str, folds: Folds, images_hash: str) -> Identity:
    """What a run of this name must agree with now; its seed and its corrections are its own (see `load`)."""
    recipe = load_recipe(name.removesuffix(CORRECTED_SUFFIX))
    return Identity(recipe.name, recipe.hash, folds.hash, images_hash, seed=0, target=folds.target.name)


def load_run_corrections(run: dict) -> Corrections:
    """The corrections that a run learned from, by its run.json. `InputError` when they are not those of its identity."""
    made = Corrections(run.get("corrected", {}))
    if made.hash != _recorded(run, "corrections"):
        raise InputError(
            f"runs/{run['recipe']}{CORRECTED_SUFFIX}: the corrections in a run.json were edited; delete the folder and train it again"
        )
    return made


def is_fold_sealed(root: Path, recipe: str, fold: int | str) -> bool:
    """Whether this fold was trained to its end, by whatever version of the recipe."""
    return (root / "runs" / recipe / f"fold_{fold}" / "run.json").exists()


def is_run_complete(root: Path, recipe: str, folds: int) -> bool:
    """Whether all folds were trained to their end, by whatever version of the recipe."""
    return all(is_fold_sealed(root, recipe, fold) for fold in range(folds))


def joined_oof_path(root: Path, recipe: str) -> Path:
    return root / "runs" / recipe / "oof.csv"


def label_issues_path(root: Path) -> Path:
    return root / "runs" / "label_issues.csv"


def is_fold_finished(root: Path, identity: Identity, fold: int) -> bool:
    """Whether this fold is done and whole. A fold of another identity, or a damaged one, is an `InputError`."""
    directory = fold_dir(root, identity.name, fold)
    if not is_fold_sealed(root, identity.name, fold):
        return False
    require_current(directory, read_json(directory / "run.json"), identity)
    _require_whole(directory)
    return True


def require_current(directory: Path, run: dict, identity: Identity) -> None:
    """Raise `InputError` when what lies in `directory` (its run.json or checkpoint header) is of another identity."""
    causes = [cause for name, cause in _CAUSES.items() if _recorded(run, name) != getattr(identity, name)]
    if causes:
        raise InputError(
            f"{directory} is stale: it was made with {' and '.join(causes)}. "
            "Move it away, or train over it with "
            f"`train.py {_options(directory.parent.name, Target(identity.target))} --force`."
        )


def seal_fold(directory: Path, identity: Identity, facts: dict, corrections: Corrections = NO_CORRECTIONS) -> None:
    """Seal a fold: write run.json with the identity, the facts, the corrections, the checksum of every file and its own."""
    checksums = {name: sha256_file(directory / name) for name in RESULT_FILES}
    run = {**asdict(identity), **facts, "corrected": corrections.actions, "files": checksums}
    write_json(directory / "run.json", {**run, "sha256": _digest(run)})


def load_member(root: Path, identity: Identity | None, recipe: str, folds: Folds, test_ids: list[str]) -> Member:
    """Join a recipe's folds by id.

    `identity` (its seed and corrections are taken from the run itself) is what the run must agree with; None takes whatever
    the runs agree on among themselves. Raises `InputError` naming the recipe when folds are missing, stale, damaged, of different
    seeds, when their ids are not those of folds/ and test.csv, or when corrections are in a folder without their suffix or not
    in one with it.
    """
    runs, oof, test = [], [], {}
    missing = [str(k) for k in range(folds.k) if not is_fold_sealed(root, recipe, k)]
    if missing:
        raise InputError(
            f"{folds.target.folder}runs/{recipe} is incomplete: fold {', '.join(missing)} of {folds.k} not finished. "
            f"Run `python src/train.py {_options(recipe, folds.target)}`, or name the recipes to blend with "
            "--recipes."
        )
    for k in range(folds.k):
        directory = fold_dir(root, recipe, k)
        run = read_json(directory / "run.json")
        if identity is None:
            identity = Identity(**{field.name: _recorded(run, field.name) for field in fields(Identity)})
        first = runs[0] if runs else run
        own = (_recorded(first, "corrections") or "none") if recipe.endswith(CORRECTED_SUFFIX) else ""
        require_current(directory, run, replace(identity, seed=first.get("seed"), corrections=own))
        _require_whole(directory)
        fold_oof = load_predictions(directory / "oof.csv", folds.target)
        expected = folds.table.loc[folds.table["fold"] == k, "id"]
        _require_ids(directory / "oof.csv", fold_oof["id"], expected, "the validation rows of that fold")
        fold_test = load_predictions(directory / "test.csv", folds.target)
        _require_ids(directory / "test.csv", fold_test["id"], test_ids, "test.csv")
        runs.append(run)
        oof.append(fold_oof.set_index("id")[folds.target.column])
        test[k] = fold_test.set_index("id")[folds.target.column].reindex(test_ids)
    if len({json.dumps(run.get("weights"), sort_keys=True) for run in runs}) > 1:
        raise InputError(
            f"runs/{recipe}: its folds began from different pretrained weights "
            f"(see weights in each run.json); train the odd ones again"
        )
    joined = pd.concat(oof).reindex(folds.table["id"].tolist())
    return Member(recipe, joined, pd.DataFrame(test, index=pd.Index(test_ids, name="id")), runs)


def shared_corrections(members: list[Member]) -> Corrections:
    """What the members with corrected labels learned from, nothing where there are none. `InputError` where two differ."""
    found = {
        member.name: load_run_corrections(member.runs[0])
        for member in members
        if member.name.endswith(CORRECTED_SUFFIX)
    }
    if len({made.hash for made in found.values()}) > 1:
        raise InputError(
            f"{', '.join(found)} learned from different corrections, so there are no corrected labels to score all by. "
            "Train them with one --corrections FILE, or name the recipes to blend with --recipes."
        )
    return next(iter(found.values()), NO_CORRECTIONS)


def replace_test_predictions(
    directory: Path, ids: list[str], prob: np.ndarray, features: NpyRows | np.ndarray, images_hash: str
) -> None:
    """Put other test predictions, of those images, into a sealed fold and seal it again; as `write_predictions` otherwise."""
    run = read_json(directory / "run.json")
    _require_unedited(directory, run)
    write_predictions(directory, "test", ids, prob, features)
    checksums = {name: sha256_file(directory / name) for name in ("test.csv", "features_test.npy")}
    run = {**run, "images_hash": images_hash, "files": {**run["files"], **checksums}}
    write_json(directory / "run.json", {**run, "sha256": _digest(run)})


def join_folds(root: Path, identity: Identity, folds: Folds, test_ids: list[str]) -> Member:
    """`load`, and write runs/<recipe>/oof.csv (id,prob or id,pred) in the order of folds.csv."""
    member = load_member(root, identity, identity.name, folds, test_ids)
    write_csv(
        joined_oof_path(root, member.name), member.oof.rename(folds.target.column).rename_axis("id").reset_index()
    )
    return member


def write_predictions(
    directory: Path, part: str, ids: list[str], prob: np.ndarray, features: NpyRows | np.ndarray, target: Target = LABEL
) -> None:
    """Write <part>.csv (id,prob or id,pred) and features_<part>.npy; `part` is oof or test.

    prob: float (n,), the probability of label 1 or the predicted value; features: float16 (n, F); both in the order of `ids`.
    """
    write_csv(directory / f"{part}.csv", pd.DataFrame({"id": ids, target.column: np.asarray(prob, dtype=np.float64)}))
    write_npy(
        directory / f"features_{part}.npy",
        features if isinstance(features, NpyRows) else np.asarray(features, dtype=np.float16),
    )


def write_weights(directory: Path, state: dict[str, np.ndarray]) -> None:
    """Write the weights that predict, name -> array, as safetensors."""
    with atomic_path(directory / "weights.safetensors") as temporary:
        temporary.write_bytes(packed({name: np.ascontiguousarray(value) for name, value in state.items()}))


def load_weights(root: Path, recipe: str, fold: int) -> dict[str, np.ndarray]:
    """The weights that predict, name -> array."""
    return load_file(fold_dir(root, recipe, fold) / "weights.safetensors")


def write_history(directory: Path, history: pd.DataFrame) -> None:
    """Write the learning curve, a row an epoch."""
    write_csv(directory / "history.csv", history)


def load_predictions(path: Path, target: Target = LABEL) -> pd.DataFrame:
    """Read id,prob or id,pred and refuse a probability that is not one, or a value that is not finite."""
    name = target.column
    table = read_csv(path, {"id": str, name: float})
    bad = table.index[~(np.isfinite(table[name]) if target.regression else table[name].between(0, 1))]
    if len(bad):
        what = "a finite number" if target.regression else "a probability"
        raise InputError(
            f"{path}, row {bad[0] + 2}: {name} {table[name][bad[0]]} is not {what}; "
            "delete the fold's folder and train it again"
        )
    return table


def load_history(root: Path, recipe: str, fold: int) -> pd.DataFrame:
    """The fold's learning curve: a row an epoch, all columns numeric."""
    return pd.read_csv(fold_dir(root, recipe, fold) / "history.csv")


def load_fold_features(root: Path, recipe: str, fold: int, part: str) -> np.ndarray:
    """Penultimate features, float16 (rows, F); `part` is oof or test, row order that of the csv of the same name."""
    return read_npy(fold_dir(root, recipe, fold) / f"features_{part}.npy")


def _recorded(run: dict, name: str) -> object:
    """A part of the identity as run.json or a checkpoint has it. One from before there were corrections, or other targets, had
    none."""
    return run.get(name, {"corrections": "", "target": LABEL.name}.get(name))


def _options(name: str, target: Target) -> str:
    """What to tell train.py to make the run of this name."""
    recipe = name.removesuffix(CORRECTED_SUFFIX)
    return f"--recipe {recipe}{target.option}" + (" --corrections FILE" if recipe != name else "")


def _digest(run: dict) -> str:
    """Sha256 of all that run.json says but this."""
    return sha256_text(json.dumps({name: value for name, value in run.items() if name != "sha256"}, sort_keys=True))


def _require_unedited(directory: Path, run: dict) -> None:
    if run.get("sha256", _digest(run)) != _digest(
        run
    ):  # one from before it had a checksum of its own is taken as it is
        raise InputError(
            f"{directory / 'run.json'} was edited (its checksum differs). Delete {directory} and train that fold again."
        )


def _require_whole(directory: Path) -> None:
    run = read_json(directory / "run.json")
    _require_unedited(directory, run)
    expected = run.get("files", {})
    for name in RESULT_FILES:
        if not (directory / name).exists() or sha256_file(directory / name) != expected.get(name):
            raise InputError(
                f"{directory / name} is missing or not the file that training wrote (checksum differs). "
                f"Delete {directory} and train that fold again."
            )


def _require_ids(path: Path, got: pd.Series, expected, what: str) -> None:
    if got.duplicated().any():
        raise InputError(
            f"{path}: id {got[got.duplicated()].iloc[0]} stands twice; delete the fold's folder and train it again"
        )
    difference = set(got) ^ set(expected)
    if difference:
        raise InputError(
            f"{path}: its ids are not those of {what} ({len(difference)} differ, e.g. {sorted(difference)[0]}); "
            "delete the fold's folder and train it again"
        )
