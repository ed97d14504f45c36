"""The search for a recipe's settings on one fold: trials are variants of the recipe, and bad ones end early.

    sweep/<recipe>/<trial>_<key>/history.csv   result.json    the key hashes everything that decides the curve
    sweep/<recipe>/sweep.csv                                  a row per trial, of the latest command

Trials run in generations of `GENERATION`, each to its end before the next begins, so that what a trial is compared with
does not depend on the number of processes, or on where the sweep was killed.
"""

import json
import math
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pandas as pd

from facefold.models.recipe import Recipe, load_recipe
from facefold.models.requirements import weights_key
from facefold.models.run_name import RunName, add_settings, parse_run_name
from facefold.runs import CHECKPOINT_FILE, Identity
from facefold.training.jobs import fold_task
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory, read_csv, read_json, sha256_text, write_csv, write_json
from facefold.utils.seeding import derive_seed

if TYPE_CHECKING:
    import torch

GENERATION = 4
CURVES = {"epoch": "int64", "valid_loss": float, "score": float}
TABLE = {"trial": str, "ended": str, "epochs": "int64", "valid_loss": float, "score": float, "metric": str}
ENDS = ("whole", "stopped", "diverged")  # how a trial ends, in the order of the table
# Settings that do not change what frozen stages compute: trials that differ in these alone share it.
_TRAINED = ("lr", "layer_decay", "head_lr", "weight_decay", "momentum", "optimizer", "schedule", "warmup")
_TRAINED += ("label_smoothing", "clip", "ema", "soup", "dropout", "drop_path", "batch", "shuffle", "classifier")


class Hopeless(Exception):
    """A trial is worse than the median of those before it. history: the rows of its epochs."""

    def __init__(self, history: list[dict]):
        super().__init__("worse than the median")
        self.history = history


def distinct_networks(recipes: Iterable[Recipe]) -> list[Recipe]:
    """Return the first recipe of each network: others differ from it in what trains it alone."""
    unread = {key: getattr(Recipe, key) for key in _TRAINED if key not in ("dropout", "drop_path", "classifier")}
    first: dict[str, Recipe] = {}
    for recipe in recipes:
        first.setdefault(replace(recipe, **unread).hash, recipe)
    return list(first.values())


def parse_grid(texts: Iterable[str]) -> dict[str, list[str]]:
    """Return the values of each setting in the words of --over: `["lr=3e-4,1e-3", "size=96,128"]`."""
    grid: dict[str, list[str]] = {}
    for text in texts:
        key, sign, values = text.partition("=")
        listed = list(dict.fromkeys(value.strip() for value in values.split(",") if value.strip()))
        if not sign or not listed or key.strip() in grid:
            raise InputError(f"--over {text}: a setting and its values are needed, each setting once: lr=3e-4,1e-3")
        grid[key.strip()] = listed
    return grid


def sweep_recipes(name: str, grid: dict[str, list[str]], most: int, seed: int) -> list[Recipe]:
    """Return the recipes to try: first `name` itself, then variants from the grid, at most `most` in all.

    Of a larger grid as many are drawn by `seed`. Raise `InputError` that lists all variants that are no recipes.
    """
    base, options = load_recipe(name), [[f"{key}={value}" for value in values] for key, values in grid.items()]
    names, problems = {}, {}
    for combination in product(*options):
        changes = [option for option in combination if not _is_own(base, option)]
        names[str(add_settings(parse_run_name(name), changes)) if changes else name] = None
    variants = [variant for variant in names if variant != name]
    if len(variants) > most - 1:
        chosen = set(random.Random(derive_seed(seed, "sweep")).sample(variants, most - 1))
        variants = [variant for variant in variants if variant in chosen]
    recipes = [base]
    for variant in variants:
        try:
            recipes.append(load_recipe(variant))
        except InputError as error:
            problems[str(error)] = None
    if problems:
        raise InputError("\n".join(problems))
    return recipes


def _is_own(recipe: Recipe, option: str) -> bool:
    """Return whether the recipe has this setting already."""
    [(key, value)] = add_settings(RunName("x"), [option]).changes.items()
    return getattr(recipe, key, None) == value


@dataclass(frozen=True)
class SweepJob:
    """Train one trial on a fold.

    bounds: the largest valid loss by epoch, from 0, with which it goes on. loader_workers: processes that augment.
    """

    root: Path
    base: str
    recipe: Recipe
    identity: Identity
    fold: int
    weights_dir: Path | None
    bounds: tuple[float, ...] = ()
    loader_workers: int = 0

    def __str__(self) -> str:
        return f"trial {self.recipe.name}"

    @cached_property
    def key(self) -> dict:
        return self.identity.facts | {"fold": self.fold} | weights_key(self.recipe, self.weights_dir)

    @property
    def folder(self) -> Path:
        digest = sha256_text(json.dumps(self.key, sort_keys=True))[:8]
        return sweep_dir(self.root, self.base) / f"{self.recipe.name}_{digest}"

    @property
    def finished(self) -> bool:
        """Whether it ran to its end, diverged, or was stopped by bounds that would be no more lenient now."""
        if not (self.folder / "result.json").exists():
            return False
        result = self.result
        if result["ended"] == "whole" and self.recipe.early_stopping and "kept" not in result:
            return False  # of an earlier version, which ranked it by its last epoch
        return result["ended"] != "stopped" or self.is_hopeless(self.history().iloc[-1])

    @property
    def result(self) -> dict:
        return read_json(self.folder / "result.json")

    def history(self) -> pd.DataFrame:
        """Load the learning curve: one row per epoch, columns `CURVES`."""
        return read_csv(self.folder / "history.csv", CURVES)

    def run(self, device: "torch.device", position: int) -> None:
        """Train and write `history.csv` and, last, `result.json`; a killed job continues at its epoch."""
        from facefold.training.classifier import fit_fold
        from facefold.training.fold import Diverged, best_epoch, train_fold

        with lock_directory(self.folder):
            if self.finished:
                return
            (self.folder / "result.json").unlink(missing_ok=True)  # of a trial that other bounds stopped
            frozen = replace(self.recipe, **{key: getattr(Recipe, key) for key in _TRAINED})
            task = replace(
                fold_task(self.root, self.recipe, self.identity, self.fold, self.weights_dir),
                checkpoint=self.folder / CHECKPOINT_FILE,
                identity=self.key,
                feature_dir=feature_root(self.root, self.base) / frozen.hash[:16],
            )
            ended = "whole"
            try:
                if self.recipe.classifier:
                    rows = fit_fold(task, device).history
                else:
                    rows = train_fold(
                        task, device, position, self.loader_workers, before_epoch=self.require_hope
                    ).history
            except Hopeless as stop:
                ended, rows = "stopped", stop.history
            except Diverged as failure:
                ended, rows = "diverged", failure.history
            column = "valid_mae" if task.target.regression else "valid_acc"
            table = pd.DataFrame(rows, columns=["epoch", "valid_loss", column])  # of none, if the first epoch diverged
            write_csv(self.folder / "history.csv", table.rename(columns={column: "score"}))
            result = {
                "identity": self.key,
                "ended": ended,
                "metric": column.removeprefix("valid_"),
                "valid_rows": len(task.valid),
            }
            if ended == "whole" and self.recipe.early_stopping:
                result["kept"] = best_epoch(self.recipe, rows)  # from 0: the epoch whose weights predict
            result |= {"seconds": round(sum(row["seconds"] for row in rows), 1)}
            write_json(self.folder / "result.json", result)
            task.checkpoint.unlink(missing_ok=True)

    def require_hope(self, history: list[dict]) -> None:
        """Raise `Hopeless` if the last epoch is worse than its bound."""
        if self.is_hopeless(history[-1]):
            raise Hopeless(history)

    def is_hopeless(self, row: Mapping[str, float]) -> bool:
        """Return whether an epoch, a row of the learning curve, is worse than its bound."""
        epoch = int(row["epoch"])
        loss = float(f"{row['valid_loss']:.9g}")  # as it is in a csv: of equal curves none is worse
        return epoch < len(self.bounds) and loss > self.bounds[epoch]


def sweep_dir(root: Path, base: str) -> Path:
    return root / "sweep" / base


def feature_root(root: Path, base: str) -> Path:
    """Return the folder of the frozen stages' activations of all trials."""
    return root / "cache" / "frozen" / f"sweep_{base}"


def loss_bounds(earlier: Sequence[SweepJob]) -> tuple[float, ...]:
    """Return the median valid loss by epoch of the trials that ran to their end.

    The median stopping rule, with one curve's value at each epoch: Golovin et al., Google Vizier (2017).
    """
    whole = [job.history()["valid_loss"].tolist() for job in earlier if job.result["ended"] == "whole"]
    epochs = max(map(len, whole), default=0)
    return tuple(median(losses[epoch] for losses in whole if epoch < len(losses)) for epoch in range(epochs))


def expected_seconds(jobs: Sequence[SweepJob], devices: int) -> float:
    """Estimate how long the next generation takes: as the mean trial so far, a whole one."""
    seconds = [job.result["seconds"] for job in jobs if job.result["ended"] == "whole"]
    return math.ceil(GENERATION / devices) * sum(seconds) / len(seconds) if seconds else 0.0


def sweep_table(jobs: Sequence[SweepJob]) -> pd.DataFrame:
    """Return one row per trial, the least valid loss first; those that did not end whole last.

    Loss and score are those of the last epoch, or of the one that early stopping kept. A trial that diverged in its
    first epoch has the worst loss and score there are.
    """
    rows = []
    for job in jobs:
        history, result = job.history(), job.result
        worst = {"valid_loss": math.inf, "score": math.inf if result["metric"] == "mae" else 0.0}
        row = history.iloc[result.get("kept", -1)] if len(history) else worst
        rows.append(
            {
                "trial": job.recipe.name,
                "ended": result["ended"],
                "epochs": len(history),
                "valid_loss": row["valid_loss"],
                "score": row["score"],
                "metric": result["metric"],
            }
        )
    table = pd.DataFrame(rows)[list(TABLE)]
    order = table.assign(end=table["ended"].map(ENDS.index)).sort_values(["end", "valid_loss", "trial"])
    return table.loc[order.index].reset_index(drop=True)


def write_table(root: Path, base: str, table: pd.DataFrame) -> Path:
    path = sweep_dir(root, base) / "sweep.csv"
    write_csv(path, table)
    return path


def load_tables(root: Path) -> dict[str, pd.DataFrame]:
    """Load the tables of all sweeps, by the recipe."""
    return {path.parent.name: read_csv(path, TABLE) for path in sorted((root / "sweep").glob("*/sweep.csv"))}


def remove_features(root: Path, base: str) -> None:
    shutil.rmtree(feature_root(root, base), ignore_errors=True)
