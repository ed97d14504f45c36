"""The comparison of frozen backbones: a head of dropout and one output on each one's features, on one fold.

    compare/<backbone>_<key>/history.csv   result.json    the key is of everything that decides the curves
    compare/comparison.csv   comparison.png               of the latest command

A backbone that was compared before, under the same key, is not trained again.
"""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from facefold import files
from facefold.combine.scores import wilson
from facefold.data import cache, competition, folds
from facefold.models.recipe import Recipe, parse
from facefold.training import trainer

CURVES = {"epoch": "int64", "lr": float, "train_loss": float, "valid_loss": float, "valid_acc": float, "seconds": float}


def recipe_of(backbone: str, weights: str, size: int, epochs: int, pooled: bool) -> Recipe:
    """The article's comparison (Keras): everything frozen, dropout 0.2, the map flattened, one output, Adam with a constant rate.

    pooled: the pooling that timm gives the backbone instead of the whole map.
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
    # A recipe file may not freeze random weights; whoever looks at the structure alone may.
    return replace(parse(backbone, settings, f"--backbones {backbone}"), weights=weights)


@dataclass(frozen=True)
class CompareJob:
    """Train the head of one backbone on one fold. images_hash: that of the images the caches hold."""

    root: Path
    recipe: Recipe
    fold: int
    seed: int
    images_hash: str
    folds_hash: str
    weights_dir: Path | None

    def __str__(self) -> str:
        return f"comparison of {self.recipe.name}"

    @property
    def identity(self) -> dict:
        return {
            "recipe": self.recipe.name,
            "recipe_hash": self.recipe.hash,
            "folds_hash": self.folds_hash,
            "fold": self.fold,
            "images_hash": self.images_hash,
            "seed": self.seed,
        }

    @property
    def folder(self) -> Path:
        return (
            self.root
            / "compare"
            / f"{self.recipe.name}_{files.sha256_text(json.dumps(self.identity, sort_keys=True))[:8]}"
        )

    def work(self, device: torch.device, slot: int) -> None:
        """Leave `history.csv` and, last, `result.json`; a killed one goes on at its epoch."""
        with files.locked(self.folder):
            if self.finished:
                return
            split, contest = folds.load(self.root), competition.load(self.root)
            table, held_out = split.table[["id", "label", "group"]], split.table["fold"] == self.fold
            shown = self.root / "cache" / "frozen" / self.folder.name
            images = cache.open_cache(contest, "train", self.recipe.size)
            task = trainer.FoldTask(
                self.recipe,
                self.fold,
                self.seed,
                table[~held_out],
                table[held_out],
                images,
                images,
                self.folder / "checkpoint.safetensors",
                self.identity,
                shown,
                self.weights_dir,
            )
            learned = trainer.train(task, device, slot)
            history = pd.DataFrame(learned.history)[list(CURVES)]
            files.write_csv(self.folder / "history.csv", history)
            files.write_json(
                self.folder / "result.json",
                {
                    "identity": self.identity,
                    "settings": asdict(self.recipe),
                    "weights": learned.header["source"],
                    "features": learned.predictor.output.in_features,
                    "valid_rows": int(held_out.sum()),
                    "head_cpu_seconds": round(learned.header["cpu_seconds"], 1),
                },
            )
            task.checkpoint.unlink()
            shutil.rmtree(shown, ignore_errors=True)

    @property
    def finished(self) -> bool:
        return (self.folder / "result.json").exists()

    def history(self) -> pd.DataFrame:
        """A row an epoch, the columns of `CURVES`."""
        return files.read_csv(self.folder / "history.csv", CURVES)


def work(job: CompareJob, device: torch.device, slot: int) -> None:
    job.work(device, slot)


def table(jobs: list[CompareJob]) -> pd.DataFrame:
    """A row a backbone, in the order given: scores after the last epoch, the accuracy with its 95 % interval (Wilson), the best
    epoch (counted from 1) by accuracy, which these rows chose, CPU seconds of the epochs without the frozen part, and its weights."""
    rows = []
    for job in jobs:
        history, result = job.history(), files.read_json(job.folder / "result.json")
        last, held_out = history.iloc[-1], result["valid_rows"]
        low, high = wilson(round(last["valid_acc"] * held_out), held_out)
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
