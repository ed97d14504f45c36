"""How long a fold will take here: a few real steps timed, for the plan that is printed before anything long."""

import dataclasses
import time
from collections.abc import Callable
from itertools import repeat

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor

from facefold.data.cache import ImageCache
from facefold.models import inference
from facefold.models.recipe import Recipe
from facefold.processes import pool, set_environment
from facefold.training import loader, trainer

TIMED_STEPS = 3


def seconds_of(recipes: list[Recipe], device: torch.device, train_rows: int, valid_rows: int, test_rows: int) -> list[float]:
    """`seconds_a_fold` of each recipe, in a process of its own that gives its memory (a GPU's too) back when it ends."""
    set_environment()
    with pool(1) as timing:
        return list(timing.map(seconds_a_fold, recipes, *map(repeat, (device, train_rows, valid_rows, test_rows))))


def seconds_a_fold(recipe: Recipe, device: torch.device, train_rows: int, valid_rows: int, test_rows: int) -> float:
    """Expected seconds of one fold when all its epochs are trained: `TIMED_STEPS` training steps and one prediction batch
    of random pixels are timed after a warm-up, in one thread on the CPU, as the trainer runs. Early stopping makes it an upper bound.
    What frozen stages make of the images is shared by the folds: one fold's part of it is counted."""
    if device.type == "cpu":
        torch.set_num_threads(1)
    net, _, fmt = trainer.prepare(recipe, device, None, trained=False)
    optimizer = create_optimizer_v2(net, opt=recipe.optimizer, lr=recipe.lr)
    ema = ModelEmaV3(net, decay=recipe.ema) if recipe.ema else None
    scaler = torch.amp.GradScaler(device.type, enabled=fmt.dtype is torch.float16)
    noise = np.random.default_rng(0).integers(0, 256, (recipe.batch, recipe.size, recipe.size, 3), dtype=np.uint8)
    images = ImageCache([str(row) for row in range(recipe.batch)], noise)
    rows, labels = np.arange(recipe.batch), torch.zeros(recipe.batch, device=device)
    augmented = loader.Augmented(loader.Pixels(images, device), dataclasses.replace(recipe, start_size=0), 0)
    pixels = torch.from_numpy(noise).to(device)
    with torch.inference_mode():
        trunk = inference.fused_trunk(net.trunk, pixels)
        shown = trunk(pixels).permute(0, 2, 3, 1).half() if net.frozen else pixels

    def timed(work: Callable[[], Tensor], times: int) -> float:
        work()
        started = time.perf_counter()
        for _ in range(times):
            last = work()
        last.sum().item()  # waits for the device
        return (time.perf_counter() - started) / (times * recipe.batch)

    def step() -> Tensor:
        loss = trainer.train_step(net.train(), shown, labels, optimizer, scaler, fmt, recipe)
        if ema:
            ema.update(net)
        return loss

    def augment() -> Tensor:
        return augmented(0, rows)

    train = timed(step, TIMED_STEPS)
    predict = timed(lambda: inference.Form(net.eval(), fmt, "", 0.0)(shown)[0], TIMED_STEPS)
    if device.type == "cuda" and not net.frozen and not augmented.on_device:
        changed = 0.0  # other processes augment meanwhile
    else:
        changed = timed(augment, TIMED_STEPS)
    views = 2 if recipe.tta == "flip" else 1
    epochs_of_full_size = sum((recipe.size_in(epoch) / recipe.size) ** 2 for epoch in range(recipe.epochs))
    seconds = train_rows * train * epochs_of_full_size + valid_rows * predict * recipe.epochs + views * (valid_rows + test_rows) * predict
    if not net.frozen:
        return seconds + recipe.epochs * train_rows * changed
    with torch.inference_mode():
        through = timed(lambda: trunk(pixels), TIMED_STEPS)
    rows_in_all, folds = train_rows + valid_rows, (train_rows + valid_rows) / valid_rows
    epochs = min(recipe.epochs, recipe.views or recipe.epochs)
    return seconds + (epochs * rows_in_all * (changed + through) + views * (rows_in_all + test_rows) * through) / folds
