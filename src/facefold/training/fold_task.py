"""What a fold trains on: its rows and images, the network, and the activations of what is frozen."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from facefold.data.cache import ImageCache
from facefold.data.extra_rows import NO_EXTRA_ROWS, ExtraRows
from facefold.data.fold_methods import stratified_folds
from facefold.models.build import Net, build_model
from facefold.models.depthwise import replace_depthwise
from facefold.models.feature_cache import FeatureCache, feature_dir
from facefold.models.precision import Precision, choose_precision, frozen_precision
from facefold.models.recipe import Recipe
from facefold.models.run_name import run_suffix
from facefold.task import LABEL, Task, strata
from facefold.training.dataset import AugmentedImages, ImageSource
from facefold.training.soft_labels import SoftLabels


@dataclass(frozen=True)
class FoldTask:
    """What one fold trains on.

    train: id, label (index of the class, or value), group; valid: id, label. seed and fold name the random draws.
    identity: of the run, `runs.Identity` as a dict. feature_dir: the folder for the activations of frozen stages,
    shared by the run's folds. soft: labels of test images that are trained on as well. extra: rows that are trained on
    as well, but for those that show the picture of a held-out one. `train_images` holds the images of all of these.
    """

    recipe: Recipe
    fold: int
    seed: int
    train: pd.DataFrame
    valid: pd.DataFrame
    train_images: ImageCache
    test_images: ImageCache
    checkpoint: Path
    identity: dict
    feature_dir: Path
    weights_dir: Path | None = None
    target: Task = LABEL
    soft: SoftLabels | None = None
    extra: ExtraRows = NO_EXTRA_ROWS

    def __str__(self) -> str:
        added = (bool(self.identity.get(key)) for key in ("corrections", "pseudo", "extra"))
        return f"{self.recipe.name}{run_suffix(*added)} fold {self.fold}"


def prepare_model(
    recipe: Recipe, device: torch.device, weights_dir: Path | None, pretrained: bool, outputs: int = 1
) -> tuple[Net, dict, Precision]:
    """Build the recipe's network with `outputs` outputs on `device`, in the format and memory layout it trains in.

    Return it with the source of its weights, see `build_model`, and the format.
    """
    model, source = build_model(recipe, weights_dir, pretrained, outputs)
    if recipe.has_frozen_stages:
        model.reads_activations = recipe.caches_stages(device.type)
    precision = choose_precision(recipe, model, device)
    if device.type == "cpu" and precision.dtype is torch.bfloat16:
        replace_depthwise(model)
    return model.to(device).set_memory_format(precision.channels_last), source, precision


def open_feature_caches(
    task: FoldTask, model: Net, source: dict, precision: Precision, images: ImageSource
) -> dict[str, FeatureCache]:
    """Open the caches of the frozen stages' activations by split (train, test); none where nothing is frozen.

    A view is computed when it is first read. images: the train images.
    """
    if not model.reads_activations or task.recipe.embeddings:
        return {}
    recipe, device = task.recipe, images.device
    precision = frozen_precision(recipe, precision, device)
    images_hash = task.identity["images_hash"] + task.extra.hash
    folder = feature_dir(task.feature_dir, recipe, task.seed, images_hash, source, precision, device)
    # Only train images have augmented views.
    augmented = AugmentedImages(images, recipe, task.seed) if recipe.changes_images else None
    # The train images are followed by what is trained on as well, in files of another name.
    train = "train" + "_test" * bool(task.identity.get("pseudo")) + "_extra" * bool(task.extra.rows)
    splits = (("train", train, task.train_images), ("test", "test", task.test_images))
    return {
        split: FeatureCache(folder, file, cache, model.frozen_stages, device, precision, augmented, recipe.views)
        for split, file, cache in splits
    }


def hold_out_monitor(train: pd.DataFrame, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split training rows (id, label, group) into those to learn from and a stratified share to monitor.

    Groups stay whole. Plateau, early stopping, soup and the choice of views look at the monitor's rows and never at the
    fold's held-out ones, whose score would then be biased.
    """
    if not share:
        return train, train.iloc[:0]
    stratum, group = strata(train["label"].to_numpy()), train["group"].to_numpy()
    fold = stratified_folds(stratum, group, max(2, round(1 / share)), seed)
    monitor = fold == fold.min()  # 0, unless that one is empty
    return train[~monitor], train[monitor]
