"""How long a fold will take here: a few real steps timed, for the plan that is printed before anything long."""

import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context

import numpy as np
import torch
from timm.optim import create_optimizer_v2

from facefold.data.augment import Augment
from facefold.data.cache import ImageCache
from facefold.models import precision, zoo
from facefold.models.recipe import Recipe
from facefold.training import trainer

TIMED_STEPS = 3


def seconds_of(recipes: list[Recipe], device: torch.device, train_rows: int, valid_rows: int, test_rows: int) -> list[float]:
    """`seconds_a_fold` of each recipe, in a process of its own that gives its memory (a GPU's too) back when it ends."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return list(pool.map(seconds_a_fold, recipes, *map(repeat, (device, train_rows, valid_rows, test_rows))))


def seconds_a_fold(recipe: Recipe, device: torch.device, train_rows: int, valid_rows: int, test_rows: int) -> float:
    """Expected seconds of one fold when all its epochs are trained: `TIMED_STEPS` training steps and one prediction batch
    of random pixels are timed after a warm-up, in one thread on the CPU, as the trainer runs. Early stopping makes it an upper bound."""
    if device.type == "cpu":
        torch.set_num_threads(1)
    net, _ = zoo.build(recipe, trained=False)
    fmt = precision.choose(recipe, net, device)
    net.to(device).lay_out(fmt.channels_last)
    optimizer = create_optimizer_v2(net, opt=recipe.optimizer, lr=recipe.lr)
    scaler = torch.amp.GradScaler(device.type, enabled=fmt.dtype is torch.float16)
    noise = np.random.default_rng(0).integers(0, 256, (recipe.batch, recipe.size, recipe.size, 3), dtype=np.uint8)
    images = ImageCache([str(row) for row in range(recipe.batch)], noise)
    pixels, labels = torch.from_numpy(noise).to(device), torch.zeros(recipe.batch, device=device)
    augment = Augment(recipe.augment, 0)

    def steps(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            loss = trainer.train_step(net.train(), pixels, labels, optimizer, scaler, fmt, recipe)
            if device.type == "cpu":  # on the GPU other processes augment meanwhile
                for id, image in zip(images.ids, noise):
                    augment(image, 0, id)
        float(loss)  # waits for the device
        return (time.perf_counter() - started) / (count * recipe.batch)

    def prediction() -> float:
        started = time.perf_counter()
        trainer.predict(net, images, images.ids, device, fmt, "none")
        return (time.perf_counter() - started) / recipe.batch

    steps(1), prediction()
    image, predicted = steps(TIMED_STEPS), prediction()
    views = 2 if recipe.tta == "flip" else 1
    return recipe.epochs * (train_rows * image + valid_rows * predicted) + views * (valid_rows + test_rows) * predicted
