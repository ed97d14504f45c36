"""How long training will take here: a few real steps timed, for the plan that is printed before anything long."""

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor

from facefold.data.cache import ImageCache
from facefold.models.inference import InferenceModel, fuse_frozen_stages
from facefold.models.precision import frozen_precision
from facefold.models.recipe import Recipe
from facefold.training.dataset import AugmentedImages, ImageSource
from facefold.training.fold import prepare_model, train_step
from facefold.training.step import GradientAccumulation
from facefold.utils.processes import process_pool, set_environment

TIMED_STEPS = 3


@dataclass(frozen=True)
class Rates:
    """Seconds in one process. Of an image in the recipe's full size: to train on it, predict it, augment it, send it through the
    frozen stages (0 where none are). start: from the order to start a process until it begins to work."""

    train: float
    predict: float
    augment: float
    frozen_stages: float
    start: float = 0.0


@dataclass(frozen=True)
class Cost:
    """Expected seconds: shared, of one process for what the folds of a recipe have in common; fold, for each of them."""

    shared: float
    fold: float


def rates_of(recipes: list[Recipe], places: list[torch.device], least: float = 0.0) -> list[Rates]:
    """The rates of each recipe, timed in processes of their own that give their memory (a GPU's too) back when they end.

    least: seconds that each of a recipe's three or four rates is timed for; on a machine with other work, more tells more.

    On the CPU as many are timed at once as will train side by side, since they slow one another down; the mean is taken.
    """
    set_environment()
    at_once = len(places) if places[0].type == "cpu" else 1
    with process_pool(at_once) as timing:
        ordered = time.time()
        asked = [[timing.submit(_timed, recipe, places[0], least) for _ in range(at_once)] for recipe in recipes]
        told = [[future.result() for future in of_one] for of_one in asked]
    start = min(began for _, began in told[0]) - ordered
    return [
        Rates(*np.mean([dataclasses.astuple(rates)[:4] for rates, _ in of_one], axis=0).tolist(), start)
        for of_one in told
    ]


def cost(recipe: Recipe, rates: Rates, rows: int, folds: int, test_rows: int) -> Cost:
    """What training on `rows` train rows in so many folds costs. Early stopping makes it an upper bound."""
    valid = math.ceil(rows / folds)
    views, epochs = 2 if recipe.tta == "flip" else 1, recipe.epochs
    epochs_of_full_size = sum((recipe.size_in(epoch) / recipe.size) ** 2 for epoch in range(epochs))
    fold = (
        rates.start
        + (rows - valid) * rates.train * epochs_of_full_size
        + (valid * epochs + views * (valid + test_rows)) * rates.predict
    )
    if not rates.frozen_stages:
        return Cost(0.0, fold + epochs * (rows - valid) * rates.augment)
    kept = min(epochs, recipe.views or epochs) if recipe.changes_images else 0
    return Cost(
        rates.start
        + kept * rows * (rates.augment + rates.frozen_stages)
        + views * (rows + test_rows) * rates.frozen_stages,
        fold,
    )


def _timed(recipe: Recipe, device: torch.device, least: float) -> tuple[Rates, float]:
    """The rates but for the start, and when (`time.time()`) this process began to take them."""
    began = time.time()
    return time_steps(recipe, device, least), began


def time_steps(recipe: Recipe, device: torch.device, least: float = 0.0) -> Rates:
    """The rates but for the start: `TIMED_STEPS` training steps and prediction batches of random pixels, or as many more as take
    `least` seconds, after a warm-up, in one thread on the CPU, as the trainer runs."""
    if device.type == "cpu":
        torch.set_num_threads(1)
    net, _, fmt = prepare_model(recipe, device, None, pretrained=False)
    optimizer = create_optimizer_v2(net, opt=recipe.optimizer, lr=recipe.lr)
    ema = ModelEmaV3(net, decay=recipe.ema) if recipe.ema else None
    scaler = torch.amp.GradScaler(device.type, enabled=fmt.dtype is torch.float16)
    noise = np.random.default_rng(0).integers(0, 256, (recipe.batch, recipe.size, recipe.size, 3), dtype=np.uint8)
    images = ImageCache([str(row) for row in range(recipe.batch)], noise)
    rows, labels = np.arange(recipe.batch), torch.zeros(recipe.batch, device=device)
    augmented = AugmentedImages(ImageSource(images, device), dataclasses.replace(recipe, start_size=0), 0)
    pixels = torch.from_numpy(noise).to(device)
    with torch.inference_mode():
        stages = fuse_frozen_stages(net.frozen_stages, pixels, frozen_precision(recipe, fmt, device))
        shown = stages(pixels).permute(0, 2, 3, 1).half() if net.has_frozen_stages else pixels

    def timed(work: Callable[[], Tensor]) -> float:
        work()
        started, times = time.perf_counter(), 0
        while times < TIMED_STEPS or time.perf_counter() - started < least:
            last = work()
            times += 1
        last.sum().item()  # waits for the device
        return (time.perf_counter() - started) / (times * recipe.batch)

    parts = GradientAccumulation()

    def step() -> Tensor:
        loss = parts.step(
            lambda count: train_step(net.train(), shown, labels, optimizer, scaler, fmt, recipe, None, count),
            recipe.batch,
            lambda line: None,
        )
        if ema:
            ema.update(net)
        return loss

    train = timed(step)
    predict = timed(lambda: InferenceModel(net.eval().forward_inputs, fmt)(shown)[0])
    elsewhere = (
        device.type == "cuda" and not net.has_frozen_stages and not augmented.on_device
    )  # other processes augment meanwhile
    augment = 0.0 if elsewhere else timed(lambda: augmented(0, rows))
    with torch.inference_mode():
        through = timed(lambda: stages(pixels)) if net.has_frozen_stages else 0.0
    return Rates(train, predict, augment, through)
