"""How much room on the disk training will take, known before anything long begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from facefold.data.cache import missing_cache_bytes
from facefold.data.competition import Competition
from facefold.models.build import build_model
from facefold.models.feature_cache import view_names
from facefold.models.recipe import Recipe
from facefold.utils.files import format_bytes, require_disk_space

_CSV_ROW = 40  # bytes of a row of oof.csv or test.csv, about
PROCESS = 1 << 30  # bytes of a process that has imported torch, timm and albumentations, and of what it read


@dataclass(frozen=True)
class Room:
    """Bytes: views: what the frozen stages make of all images, there until the recipe's folds are done; run: what a finished fold
    leaves; passing: a fold's checkpoint, the next one written beside it, and the features before they
    are in their place."""

    views: int
    run: int
    passing: int


def of(recipe: Recipe, train_rows: int, test_rows: int, folds: int) -> Room:
    """The room that a recipe takes, by its structure (built here without its weights)."""
    net, _ = build_model(recipe, pretrained=False)
    state = sum(value.nbytes for value in net.state_dict().values())
    learned = sum(value.nbytes for value in net.parameters() if value.requires_grad)
    predicted = train_rows // folds + test_rows
    copies = 1 + (recipe.ema > 0) + (recipe.early_stopping > 0)
    moments = 2 if recipe.optimizer == "adamw" else 1
    views = 0
    if net.has_frozen_stages:
        with torch.inference_mode():
            image = torch.zeros(1, recipe.size, recipe.size, 3, dtype=torch.uint8)
            an_image = 2 * net.frozen_stages.eval()(image).numel()
        for split, view in view_names(recipe):
            side = recipe.size_in(int(view.removeprefix("epoch_"))) if view.startswith("epoch_") else recipe.size
            views += (train_rows if split == "train" else test_rows) * an_image * side**2 // recipe.size**2
    features = predicted * 2 * net.output.in_features
    return Room(views, state + features + predicted * _CSV_ROW, 2 * (copies * state + moments * learned) + features)


def memory(recipe: Recipe) -> int:
    """Bytes of memory that a process needs to train the recipe on the CPU, about: twice what autograd keeps of a batch
    in float32 (by a forward pass of two images), for gradients are as large; weights, moments, EMA."""
    net, _ = build_model(recipe, pretrained=False)
    own = {value.data_ptr() for value in net.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    images = torch.zeros(2, recipe.size, recipe.size, 3, dtype=torch.uint8)
    shown = net.frozen_stages.eval()(images).permute(0, 2, 3, 1).detach() if net.has_frozen_stages else images
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net.train().forward_inputs(shown)
    state = sum(value.nbytes for value in net.state_dict().values())
    return PROCESS + sum(kept.values()) * recipe.batch + 5 * state


def require(root: Path, competition: Competition, left: Sequence[Recipe], folds: int, places: int) -> str:
    """What training needs at most beside what is there, in a sentence: left: the recipe of each fold to train, `places` at a time.

    `InputError` when the disk has less. A recipe's views may still be there while the next one's are made.
    """
    rooms = {recipe: of(recipe, len(competition.train), len(competition.test), folds) for recipe in dict.fromkeys(left)}
    pixels = sum(missing_cache_bytes(competition, size) for size in {recipe.size for recipe in rooms})
    views = [0, *(room.views for room in rooms.values()), 0]
    kept = sum(path.stat().st_size for path in (root / "cache" / "frozen").rglob("*.npy"))
    size = (
        pixels
        + max(0, max(one + next for one, next in pairwise(views)) - kept)
        + places * max(room.passing for room in rooms.values())
        + sum(rooms[recipe].run for recipe in left)
    )
    free = require_disk_space(root, size, "the cache, the frozen stages and the runs")
    return f"disk: {format_bytes(size)} needed at most, {format_bytes(free)} free"
