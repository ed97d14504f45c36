"""The comparison of frozen backbones: a head of dropout and one output on each one's features, on one fold.

    compare/<backbone>_<key>/history.csv   result.json    the key hashes everything that decides the curves
    compare/comparison.csv   comparison.png               of the latest command

A backbone that was compared before, under the same key, is not trained again.
"""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from facefold.data.preprocessing import Shape
from facefold.ensemble.scores import wilson_interval
from facefold.models.recipe import Recipe, parse_recipe
from facefold.models.requirements import weights_key
from facefold.runs import CHECKPOINT_FILE, Identity
from facefold.task import load_task
from facefold.training.fold import train_fold
from facefold.training.jobs import fold_task
from facefold.utils.files import lock_directory, read_csv, read_json, sha256_text, write_csv, write_json

CURVES = {"epoch": "int64", "lr": float, "train_loss": float, "valid_loss": float, "valid_acc": float, "seconds": float}


def comparison_recipe(backbone: str, weights: str, size: int | Shape, epochs: int, pooled: bool) -> Recipe:
    """Return the recipe of the article's comparison (Keras): frozen backbone, flattened map, dropout 0.2, one output.

    The optimiser is Adam with a constant rate. pooled: use timm's pooling of the backbone instead of the whole map.
    """
    settings = {
        "backbone": backbone,
        "weights": "hub" if weights == "none" else weights,
        "size": size,
        "epochs": epochs,
        "freeze_backbone": True,
        "frozen_precision": "half",
        "head": "" if pooled else "flatten",
        "dropout": 0.2,
        "augment": "none",
        "schedule": "constant",
        "weight_decay": 0.0,
        "clip": 0.0,
        "tta": "none",
    }
    # A recipe file may not freeze random weights; a look at the structure alone may.
    return replace(parse_recipe(backbone, settings, f"--backbones {backbone}"), weights=weights)


@dataclass(frozen=True)
class CompareJob:
    """Train the head of one backbone on one fold. images_hash: of the images in the caches."""

    root: Path
    recipe: Recipe
    fold: int
    seed: int
    images_hash: str
    folds_hash: str
    weights_dir: Path | None

    def __str__(self) -> str:
        return f"comparison of {self.recipe.name}"

    @cached_property
    def identity(self) -> dict:
        classes = load_task(self.root).hash
        return {
            **({"task": classes} if classes else {}),
            "recipe": self.recipe.name,
            "recipe_hash": self.recipe.hash,
            "folds_hash": self.folds_hash,
            "fold": self.fold,
            "images_hash": self.images_hash,
            "seed": self.seed,
            **weights_key(self.recipe, self.weights_dir),
        }

    @property
    def folder(self) -> Path:
        key = sha256_text(json.dumps(self.identity, sort_keys=True))[:8]
        return self.root / "compare" / f"{self.recipe.name}_{key}"

    def run(self, device: torch.device, position: int) -> None:
        """Train and write `history.csv` and, last, `result.json`; a killed job continues at its epoch."""
        with lock_directory(self.folder):
            if self.finished:
                return
            feature_dir = self.root / "cache" / "frozen" / self.folder.name
            identity = Identity(self.recipe.name, self.recipe.hash, self.folds_hash, self.images_hash, self.seed)
            task = replace(
                fold_task(self.root, self.recipe, identity, self.fold, self.weights_dir),
                checkpoint=self.folder / CHECKPOINT_FILE,
                identity=self.identity,
                feature_dir=feature_dir,
            )
            trained = train_fold(task, device, position)
            write_csv(self.folder / "history.csv", pd.DataFrame(trained.history)[list(CURVES)])
            result = {
                "identity": self.identity,
                "settings": asdict(self.recipe),
                "weights": trained.meta.weights_source,
                "features": trained.model.output.in_features,
                "valid_rows": len(task.valid),
                "head_cpu_seconds": round(trained.meta.cpu_seconds, 1),
            }
            write_json(self.folder / "result.json", result)
            task.checkpoint.unlink()
            shutil.rmtree(feature_dir, ignore_errors=True)

    @property
    def finished(self) -> bool:
        return (self.folder / "result.json").exists()

    def history(self) -> pd.DataFrame:
        """Load the learning curves: one row per epoch, columns `CURVES`."""
        return read_csv(self.folder / "history.csv", CURVES)


def comparison_table(jobs: list[CompareJob]) -> pd.DataFrame:
    """Return one row per backbone, in the order of `jobs`.

    Scores are those after the last epoch, the accuracy with its 95 % interval (Wilson); the best epoch, counted from 1,
    was chosen by accuracy on these rows. CPU seconds are those of the epochs, without the frozen backbone.
    """
    rows = []
    for job in jobs:
        history, result = job.history(), read_json(job.folder / "result.json")
        last, held_out = history.iloc[-1], result["valid_rows"]
        low, high = wilson_interval(round(last["valid_acc"] * held_out), held_out)
        rows.append(
            {
                "backbone": job.recipe.name,
                "valid_acc": last["valid_acc"],
                "low": low,
                "high": high,
                "valid_loss": last["valid_loss"],
                "train_loss": last["train_loss"],
                "best_acc": history["valid_acc"].max(),
                "best_epoch": int(history["valid_acc"].idxmax()) + 1,
                "features": result["features"],
                "head_cpu_seconds": result["head_cpu_seconds"],
                "weights": result["weights"]["source"],
            }
        )
    return pd.DataFrame(rows)
