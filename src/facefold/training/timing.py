"""Time a few batches of each recipe before anything long begins, for the plan.

On the CPU in CPU seconds, so that other work on the machine does not change the plan, which assumes that each process
that trains has a core to itself.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor

from facefold.data.cache import ImageCache
from facefold.models.build import Net
from facefold.models.classifiers import apply_classifier, fit_classifier
from facefold.models.feature_cache import CHUNK
from facefold.models.inference import InferenceModel, fuse_frozen_stages
from facefold.models.precision import Precision, frozen_precision
from facefold.models.recipe import Recipe
from facefold.task import LABEL, Task
from facefold.training.dataset import AugmentedImages, ImageSource
from facefold.training.device_batch import DeviceBatch, HostDataset
from facefold.training.device_step import EAGER_STEPS, CudaGraphs, DeviceStep, steps_on_device
from facefold.training.fold_task import prepare_model
from facefold.training.loss import make_loss
from facefold.training.optimizer import make_optimizer
from facefold.training.plan import TIMED_ROWS, Rates
from facefold.training.step import TrainingStep

EMBEDDING_WIDTH = 1024  # a usual number of columns: the file is not read
TIMED_BATCHES, TIMED_SECONDS = 3, 0.5  # for each rate, at least


def time_batches(recipe: Recipe, device: torch.device, target: Task = LABEL) -> Rates:
    """Time batches of random pixels, after one to warm up, as the trainer runs them.

    On the CPU in one thread, in CPU seconds; on a GPU in wall seconds until its work is done.
    """
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = device.type == "cuda"  # as in a worker
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    net, _, precision = prepare_model(recipe, device, None, False, target.outputs)
    if recipe.classifier:
        return _time_classifier(recipe, net, precision, device, target)
    optimizer = make_optimizer(net, recipe, device)
    ema = ModelEmaV3(net, decay=recipe.ema) if recipe.ema else None
    scaler = torch.amp.GradScaler(device.type, enabled=precision.dtype is torch.float16)
    noise = np.random.default_rng(0).integers(0, 256, (recipe.batch, *recipe.shape, 3), dtype=np.uint8)
    images = ImageSource(ImageCache([str(row) for row in range(recipe.batch)], noise), device)
    rows, loss_fn = np.arange(recipe.batch), make_loss(target, recipe, np.array([0, 1]))
    labels = torch.zeros(recipe.batch, dtype=loss_fn.label_dtype, device=device)
    augmented = AugmentedImages(images, replace(recipe, start_size=0), 0)
    inputs, frozen_stages = torch.from_numpy(noise).to(device), None
    if net.reads_activations:
        half = frozen_precision(recipe, precision, device)
        pixels, frozen_stages = inputs, fuse_frozen_stages(net.frozen_stages, inputs, half)
        with torch.inference_mode():
            inputs = frozen_stages(pixels).permute(0, 2, 3, 1).half()
    step = TrainingStep(net, optimizer, scaler, precision, recipe, loss_fn)
    device_step = None
    if steps_on_device(device):
        activations = SimpleNamespace(epoch_view=lambda epoch: inputs.cpu().numpy()) if net.reads_activations else None
        dataset = HostDataset(images.images.ids, labels.cpu(), images.images, augmented, activations)
        device_step = DeviceStep(step, DeviceBatch(dataset, images, device), ema, CudaGraphs(device))
        host = dataset[0, rows]  # the processor is ahead of a GPU

    def train() -> Tensor:
        net.train()
        if device_step:
            return device_step(host, recipe.shape, None, 0.5)
        loss = step(inputs, labels)
        if ema:
            ema.update(net)
        return loss

    def seconds_per_image(work: Callable[[], Tensor], warm_ups: int = 1) -> float:
        return _seconds(work, clock, warm_ups) / recipe.batch

    train_seconds = seconds_per_image(train, EAGER_STEPS + 1 if device_step else 1)
    predict_seconds = seconds_per_image(lambda: InferenceModel(net.eval().forward_inputs, precision)(inputs)[0])
    in_step = steps_on_device(device) and not net.reads_activations  # or in loaders, while the GPU trains
    augment_seconds = 0.0 if in_step else seconds_per_image(lambda: augmented(0, rows))
    with torch.inference_mode():
        freeze_seconds = seconds_per_image(lambda: frozen_stages(pixels)) if frozen_stages else 0.0
    return Rates(train_seconds, predict_seconds, augment_seconds, freeze_seconds)


def _seconds(work: Callable[[], Tensor], clock: Callable[[], float], warm_ups: int = 1) -> float:
    """Return the mean seconds of `work`, after `warm_ups` times."""
    for _ in range(warm_ups):
        work().sum().item()  # waits for the device
    started, batches = clock(), 0
    while batches < TIMED_BATCHES or clock() - started < TIMED_SECONDS:
        last = work()
        batches += 1
    last.sum().item()
    return (clock() - started) / batches


def _time_classifier(recipe: Recipe, net: Net, precision: Precision, device: torch.device, target: Task) -> Rates:
    """Time the frozen backbone on random pixels, and the classifier on `TIMED_ROWS` rows that it can half learn.

    The classifier runs on the CPU: once, in CPU seconds, as a fit has no batches.
    """
    generator = np.random.default_rng(0)
    if recipe.embeddings:
        return Rates(*_fit_rates(recipe, generator, EMBEDDING_WIDTH, target), 0.0, 0.0)
    pixels = torch.from_numpy(generator.integers(0, 256, (CHUNK, *recipe.shape, 3), np.uint8)).to(device)
    stages = fuse_frozen_stages(net.frozen_stages, pixels, frozen_precision(recipe, precision, device))
    with torch.inference_mode():
        width = stages(pixels[:1]).shape[1]
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        freeze = _seconds(lambda: stages(pixels), clock) / CHUNK
    return Rates(*_fit_rates(recipe, generator, width, target), 0.0, freeze)


def _fit_rates(recipe: Recipe, generator: np.random.Generator, width: int, target: Task) -> tuple[float, float]:
    """Return the CPU seconds per row of a fit on noise with so many columns, and of a prediction."""
    features, rows = generator.standard_normal((TIMED_ROWS, width), np.float32), np.arange(TIMED_ROWS)
    labels = rows % max(2, len(target.classes))
    features[:, :8] += labels[:, None]
    labels = labels.astype(float) if target.regression else labels
    for count in (CHUNK, TIMED_ROWS):  # the first imports scikit-learn
        started = time.process_time()
        state = fit_classifier(recipe.classifier, features[:count], labels[:count], rows[:count], target, 0)
        fitted = time.process_time()
    apply_classifier(state, features)
    return (fitted - started) / TIMED_ROWS, (time.process_time() - fitted) / TIMED_ROWS
