"""A small recipe on 96 synthetic images (label 1 is bright), for the tests of training. Seconds, on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch

from facefold.data.cache import ImageCache
from facefold.models.recipe import parse_recipe
from facefold.training import fold as fold_module
from facefold.training.fold import train_fold
from facefold.training.fold_task import FoldTask
from facefold.training.predict import FoldResult, predict_fold
from facefold.training.step import TrainingStep

CPU = torch.device("cpu")
TINY = {"size": 32, "width": 4, "batch": 16, "epochs": 4, "lr": 0.02, "dropout": 0.1, "ema": 0.5}
FROZEN = {
    "backbone": "test_efficientnet",
    "weights": "package:test_efficientnet_weights",
    "size": 32,
    "freeze_stages": 1,
    "epochs": 4,
}


def images(prefix: str, count: int, shape: tuple[int, int] = (32, 32)) -> tuple[ImageCache, np.ndarray]:
    draw = np.random.default_rng(len(prefix))
    labels = np.arange(count) % 2
    pixels = (
        draw.integers(0, 140, (count, *shape, 3), dtype=np.uint8) + (labels * 60).astype(np.uint8)[:, None, None, None]
    )
    return ImageCache([f"{prefix}{row}" for row in range(count)], pixels), labels


def make_task(tmp_path, settings: dict, name: str = "tiny") -> FoldTask:
    recipe = parse_recipe(name, settings, "tiny.toml")
    cache, labels = images("a", 96, recipe.shape)
    table = pd.DataFrame({"id": cache.ids, "label": labels, "group": cache.ids})
    return FoldTask(
        recipe,
        0,
        0,
        table.iloc[:64],
        table.iloc[64:],
        cache,
        images("te", 10, recipe.shape)[0],
        tmp_path / "checkpoint.pt",
        {"recipe": name, "images_hash": "0"},
        tmp_path / "cache",
    )


class Killed(BaseException):
    pass


def fit(task: FoldTask) -> FoldResult:
    return predict_fold(task, train_fold(task, CPU), CPU)


@contextmanager
def killed_after_an_epoch(monkeypatch) -> Iterator[None]:
    """Die in the block, right after the first checkpoint."""
    save = fold_module.save_checkpoint

    def save_and_die(*args):
        save(*args)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fold_module, "save_checkpoint", save_and_die)
        yield


def fit_with_kills(task: FoldTask, monkeypatch) -> FoldResult:
    """Train, dying right after each epoch's checkpoint and in the middle of each next epoch."""
    save, update, deaths = fold_module.save_checkpoint, TrainingStep.update, 0
    while True:
        steps = 0

        def dying_save(*args):
            save(*args)
            if deaths % 2 == 0:
                raise Killed

        def dying_update(self, *args):
            nonlocal steps
            steps += 1
            if deaths % 2 == 1 and steps == 2:
                raise Killed
            return update(self, *args)

        monkeypatch.setattr(fold_module, "save_checkpoint", dying_save)
        monkeypatch.setattr(TrainingStep, "update", dying_update)
        try:
            return fit(task)
        except Killed:
            deaths += 1
        finally:
            monkeypatch.undo()


def same(one: FoldResult, other: FoldResult) -> bool:
    return (
        one.oof_prob.tobytes() == other.oof_prob.tobytes()
        and one.test_prob.tobytes() == other.test_prob.tobytes()
        and one.oof_features[:].tobytes() == other.oof_features[:].tobytes()
        and all(np.array_equal(value, other.state[name]) for name, value in one.state.items())
    )
