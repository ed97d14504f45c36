"""The loop: one recipe on one fold, from pretrained weights to OOF and test probabilities, or values of a regression.

Everything random is drawn from names (seed, fold, epoch, id), so a run that was killed and resumed at an epoch
ends with the same bytes as one that was not.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import StratifiedGroupKFold
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from tqdm import tqdm

from facefold.data.cache import ImageCache
from facefold.models.build import Net, build_model
from facefold.models.depthwise import replace_depthwise
from facefold.models.feature_cache import FeatureCache, feature_dir
from facefold.models.inference import BOUND, InferenceModel, fastest_inference_model
from facefold.models.precision import Precision, choose_precision, frozen_precision, half_precision
from facefold.models.recipe import Recipe
from facefold.task import LABEL, Target, strata
from facefold.training.checkpoint import (
    load_checkpoint_header,
    load_checkpoint_part,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from facefold.training.curves import Curves
from facefold.training.dataset import (
    AugmentedImages,
    ImageSource,
    InputFn,
    TrainDataset,
    input_view,
    shuffle_mode,
    shuffle_window,
    to_device,
    train_batches,
)
from facefold.training.loss import BinaryLoss, MAELoss, make_loss
from facefold.training.machine import peak_memory_mb, versions
from facefold.training.schedule import Schedule
from facefold.training.step import GradientAccumulation
from facefold.utils.console import no_bar, print_progress
from facefold.utils.errors import InputError
from facefold.utils.files import npy_header
from facefold.utils.npy import NpyRows
from facefold.utils.seeding import seed_of

PREDICT_BATCH = 128
SMALLER = 0.1  # times the recipe's learning rate, from an epoch on whose loss was not finite
CHECKED = 128  # rows on which a fast form of inference is compared with float32


@dataclass(frozen=True)
class FoldTask:
    """What one fold trains on. train: id, label (the target's value), group; valid: id, label; seed and fold name the draws.
    identity: what the run is of (`runs.Identity` as a dict). frozen: the folder for what the frozen stages make of the images,
    shared by the run's folds."""

    recipe: Recipe
    fold: int
    seed: int
    train: pd.DataFrame
    valid: pd.DataFrame
    train_images: ImageCache
    test_images: ImageCache
    checkpoint: Path
    identity: dict
    frozen: Path
    weights_dir: Path | None = None
    target: Target = LABEL


@dataclass(frozen=True)
class FoldResult:
    """state: the weights that predict, name -> array. *_prob: float64 (n,), probability of label 1, or predicted value, in the
    order of the task's ids. *_features: float16 (n, F), in files without a name. history: a row an epoch. facts: for run.json."""

    state: dict[str, np.ndarray]
    history: pd.DataFrame
    oof_prob: np.ndarray
    oof_features: NpyRows
    test_prob: np.ndarray
    test_features: NpyRows
    facts: dict


@dataclass(frozen=True)
class TrainedFold:
    """A fold after its last epoch. predictor: the network whose weights predict. history: a row an epoch. header: of the checkpoint.
    pixels: the train images; shown: see `activations`; bar: the progress bar, closed."""

    predictor: Net
    fmt: Precision
    aim: BinaryLoss | MAELoss
    history: list[dict]
    header: dict
    images_an_epoch: int
    pixels: ImageSource
    shown: dict[str, FeatureCache]
    bar: tqdm


def fit_fold(
    task: FoldTask,
    device: torch.device,
    slot: int = 0,
    loader_workers: int = 0,
    events: Path | None = None,
) -> FoldResult:
    """Train one fold, or continue from its checkpoint, then predict its held-out rows and the test rows; see `train_fold`."""
    learned = train_fold(task, device, slot, loader_workers, events)
    return _predict_fold(
        task,
        learned.predictor,
        learned.pixels,
        learned.shown,
        learned.history,
        learned.header,
        learned.images_an_epoch,
        device,
        learned.fmt,
        learned.bar,
        learned.aim,
    )


def train_fold(
    task: FoldTask,
    device: torch.device,
    slot: int = 0,
    loader_workers: int = 0,
    events: Path | None = None,
) -> TrainedFold:
    """Train one fold, or go on from its checkpoint.

    An epoch whose loss is not finite is repeated, once a fold, from the state before it and with `SMALLER` times the recipe's
    rate from then on. slot: the line of the progress bar. loader_workers: processes that augment (0: in this one). events: where
    the learning curve goes for TensorBoard, None for nowhere. Raises `InputError` where the loss is not finite again, weights
    cannot be had, or the checkpoint was begun in another number format or on another kind of device.
    """
    learned = _train(task, device, slot, loader_workers, events, None)
    return learned if isinstance(learned, TrainedFold) else _train(task, device, slot, loader_workers, events, learned)


def _train(
    task: FoldTask,
    device: torch.device,
    slot: int,
    loader_workers: int,
    events: Path | None,
    repeated: int | None,
) -> TrainedFold | int:
    """`train`; or, where no epoch was `repeated` so far, the number (from 0) of the one that is to be."""
    header = load_checkpoint_header(task.checkpoint) or {"history": [], "cpu_seconds": 0.0}
    if header.get("repeated") is not None:
        repeated = header["repeated"]
    recipe = task.recipe if repeated is None else replace(task.recipe, lr=SMALLER * task.recipe.lr)
    parts = GradientAccumulation(header.get("parts", 1))
    history: list[dict] = header["history"]
    torch.manual_seed(seed_of(task.seed, task.fold, "init"))
    net, source, fmt = prepare_model(
        recipe, device, task.weights_dir, pretrained=not history or recipe.has_frozen_stages
    )
    if history and recipe.has_frozen_stages and source != header["source"]:
        raise InputError(
            f"{task.checkpoint} was begun with the weights {header['source']} and would go on with {source}. "
            f"Name the former with --weights-dir, or delete {task.checkpoint} to start that fold anew"
        )
    source = header.get("source", source)
    form = f"{fmt.name} on {device.type}"
    if header.get("form", form) != form:
        raise InputError(
            f"{task.checkpoint} was begun as {header['form']} and would go on as {form}, which gives neither result. "
            f"Go on where it began, or delete {task.checkpoint} to start that fold anew"
        )
    optimizer = create_optimizer_v2(
        net,
        opt=recipe.optimizer,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        **({"fused": True} if device.type == "cuda" else {}),
    )
    ema = ModelEmaV3(net, decay=recipe.ema, use_warmup=True) if recipe.ema else None
    scaler = torch.amp.GradScaler(device.type, enabled=fmt.dtype is torch.float16)

    learn, watch = _hold_out(task.train, recipe.monitor, seed_of(task.seed, task.fold, "monitor"))
    aim = make_loss(task.target, recipe, learn["label"].to_numpy())
    batch = min(recipe.batch, len(learn))
    pixels = ImageSource(task.train_images, device)
    shown = open_feature_caches(task, net, source, fmt, pixels)
    train_set = TrainDataset(learn, task.train_images, AugmentedImages(pixels, recipe, task.seed), shown.get("train"))
    batches, sampler = train_batches(
        train_set,
        batch,
        seed_of(task.seed, task.fold, "order"),
        device,
        loader_workers,
        shuffle_window(recipe, task.train_images),
    )
    steps = len(batches)
    schedule = Schedule(recipe, optimizer, steps)
    best: dict[str, Tensor] = {}
    if history:
        net.load_trainable_state_dict(load_checkpoint_part(task.checkpoint, "model"))
        restore_optimizer(optimizer, load_checkpoint_part(task.checkpoint, "optimizer"))
        if ema:
            ema.module.load_trainable_state_dict(load_checkpoint_part(task.checkpoint, "ema"))
        best = load_checkpoint_part(task.checkpoint, "best")
        scaler.load_state_dict(header["scaler"])
        for row in history:
            schedule.after_epoch(row["epoch"], row["monitor_loss"])

    predictor = ema.module if ema else net
    plain = input_view(pixels, shown.get("train"), "plain")
    forward = torch.compile(net.forward_inputs) if recipe.compile else net.forward_inputs
    bar = tqdm(
        total=recipe.epochs * steps,
        initial=len(history) * steps,
        desc=f"{recipe.name} fold {task.fold}",
        unit="batch",
        position=slot,
        leave=False,
        disable=no_bar(),
        dynamic_ncols=True,
        smoothing=0.05,
    )
    curves = Curves(events, history)
    for epoch in range(len(history), recipe.epochs):
        if _stopped_early(recipe, history):
            break
        started, cpu_started = time.perf_counter(), time.process_time()
        torch.manual_seed(seed_of(task.seed, task.fold, "epoch", epoch))  # dropout and stochastic depth
        sampler.epoch = epoch
        net.train()
        total = torch.zeros((), device=device)
        for step, (images, labels) in enumerate(batches):
            schedule.before_step(epoch * steps + step)
            batch_there = (to_device(images, device), to_device(labels, device))
            loss = parts.step(
                lambda count: train_step(net, forward, *batch_there, optimizer, scaler, fmt, recipe, aim, count),
                len(labels),
                lambda line: print_progress(f"{recipe.name} fold {task.fold}: {line}", bar),
            )
            if ema:
                ema.update(net, step=epoch * steps + step)
            total += loss  # kept on the device: asking for its value each step would stall a GPU
            bar.update()
        train_loss = float(total) / steps
        trained = time.perf_counter() - started
        with np.errstate(invalid="ignore"):  # said below
            scores = [
                _score(predictor, plain, task.train_images, rows, fmt, aim) for rows in (watch, task.valid) if len(rows)
            ]
        monitor_loss, monitor_metric = scores[0] if len(watch) else (None, None)
        valid_loss, metric = scores[-1]
        if not np.isfinite([train_loss, valid_loss, monitor_loss or 0.0]).all():
            bar.close()
            curves.close()
            if repeated is None:
                print_progress(
                    f"{recipe.name} fold {task.fold}: the loss is not finite in epoch {epoch + 1}, which is repeated from the "
                    f"state before it, with {SMALLER:g} times the learning rate from there on",
                    bar,
                )
                return epoch
            raise InputError(
                f"{recipe.name} fold {task.fold}: the loss is not finite in epoch {epoch + 1}. Lower lr in the "
                f'recipe, or set precision = "float32"; the epochs before are kept in {task.checkpoint} (since epoch '
                f"{repeated + 1} the rate was {SMALLER:g} times the recipe's already, for the same reason)"
            )
        lr = optimizer.param_groups[0]["lr"]
        history.append(
            {
                "epoch": epoch,
                "lr": lr,
                "train_loss": train_loss,
                "monitor_loss": monitor_loss,
                **({"monitor_acc": monitor_metric} if recipe.stop_on == "accuracy" else {}),
                "valid_loss": valid_loss,
                aim.column: metric,
                "train_seconds": trained,
                "seconds": time.perf_counter() - started,
            }
        )
        if recipe.early_stopping and _best_epoch(recipe, history) == epoch:
            best = predictor.trainable_state_dict()
        schedule.after_epoch(epoch, monitor_loss)
        header = {
            **task.identity,
            "history": history,
            "scaler": scaler.state_dict(),
            "source": source,
            "form": form,
            "repeated": repeated,
            "parts": parts.count,
            "cpu_seconds": header["cpu_seconds"] + time.process_time() - cpu_started,
        }
        save_checkpoint(
            task.checkpoint,
            header,
            {
                "model": net.trainable_state_dict(),
                "optimizer": optimizer_tensors(optimizer),
                "ema": ema.module.trainable_state_dict() if ema else {},
                "best": best,
            },
        )
        curves.add(history[-1])
        print_progress(
            f"{recipe.name} fold {task.fold} epoch {epoch + 1}/{recipe.epochs}: train loss {train_loss:.4f}, "
            f"valid loss {valid_loss:.4f}, valid {aim.metric} {metric:.4f}, {history[-1]['seconds']:.0f} s",
            bar,
        )
    bar.close()
    curves.close()
    if best:
        predictor.load_trainable_state_dict(best)
    return TrainedFold(predictor, fmt, aim, history, header, steps * batch, pixels, shown, bar)


def prepare_model(
    recipe: Recipe, device: torch.device, weights_dir: Path | None, pretrained: bool
) -> tuple[Net, dict, Precision]:
    """The recipe's network on `device` in the format and layout it trains in, and where its weights came from (`build_model`)."""
    net, source = build_model(recipe, weights_dir, pretrained)
    fmt = choose_precision(recipe, net, device)
    if device.type == "cpu" and fmt.dtype is torch.bfloat16:
        replace_depthwise(net)
    return net.to(device).set_memory_format(fmt.channels_last), source, fmt


def open_feature_caches(
    task: FoldTask, net: Net, source: dict, fmt: Precision, pixels: ImageSource
) -> dict[str, FeatureCache]:
    """What the frozen part of `net` makes of the images, by split (train, test), a view computed when first asked for; none where
    nothing is frozen. pixels: the train images."""
    if not net.has_frozen_stages:
        return {}
    recipe, device = task.recipe, pixels.device
    precision = frozen_precision(recipe, fmt, device)
    folder = feature_dir(task.frozen, recipe, task.seed, task.identity["images_hash"], source, precision, device)
    # Of the train images alone; test ones have no augmented view.
    augmented = AugmentedImages(pixels, recipe, task.seed) if recipe.changes_images else None
    return {
        split: FeatureCache(folder, split, images, net.frozen_stages, device, precision, augmented, recipe.views)
        for split, images in (("train", task.train_images), ("test", task.test_images))
    }


def train_step(
    net: Net,
    forward: Callable[[Tensor], tuple[Tensor, Tensor]],
    shown: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    fmt: Precision,
    recipe: Recipe,
    aim: BinaryLoss | MAELoss | None = None,
    parts: int = 1,
) -> Tensor:
    """One optimiser step on what `forward` takes (N, ..) and labels float32 (N,), values where `aim` says so; returns the detached
    mean loss ().

    forward: a method of `net`, compiled or not. parts: the batch goes through it in so many (nearly) equal parts, whose gradients are
    added up.
    """
    aim = aim or BinaryLoss(recipe.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=labels.device)
    for some, wanted in zip(shown.tensor_split(parts), labels.tensor_split(parts), strict=True):
        with fmt.autocast(shown.device):
            logits, _ = forward(some)  # (n,)
        loss = aim.loss(logits, wanted) * (len(wanted) / len(labels))
        scaler.scale(loss).backward()
        total += loss.detach()
    if recipe.clip:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
    scaler.step(optimizer)
    scaler.update()
    return total


def predict_rows(
    form: InferenceModel, views: list[InputFn], rows: np.ndarray, folder: Path
) -> tuple[np.ndarray, NpyRows]:
    """Logits float64 (n,) and penultimate features float16 (n, F) of the images `rows` (n,), each the mean over the views.

    The features go to a file without a name on the disk of `folder`. Raises `InputError` where one of either is not finite.
    """
    logits, spool = [], tempfile.TemporaryFile(dir=folder)
    for logit, feature in predict_batches(form, views, rows):
        if not (np.isfinite(logit).all() and np.isfinite(feature).all()):
            raise InputError('predictions are not finite; set precision = "float32" in the recipe, or lower lr')
        if not logits:
            npy_header(spool, feature.dtype, (len(rows), feature.shape[1]))
        logits.append(logit)
        spool.write(feature.tobytes())
    spool.flush()
    return np.concatenate(logits), NpyRows([spool])


def predict_batches(
    form: InferenceModel, views: list[InputFn], rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Logits and features as of `predict`, batch by batch."""
    for start in range(0, len(rows), PREDICT_BATCH):
        part = rows[start : start + PREDICT_BATCH]
        seen = [form(view(part)) for view in views]
        yield (
            sum(logit.double() for logit, _ in seen).div(len(seen)).cpu().numpy(),
            sum(feature for _, feature in seen).div(len(seen)).half().cpu().numpy(),
        )


def _predict_fold(
    task: FoldTask,
    net: Net,
    pixels: ImageSource,
    shown: dict[str, FeatureCache],
    history: list[dict],
    header: dict,
    images_an_epoch: int,
    device: torch.device,
    fmt: Precision,
    bar: tqdm,
    aim: BinaryLoss | MAELoss,
) -> FoldResult:
    started, cpu_started = time.perf_counter(), time.process_time()
    names = ("plain", "mirror") if task.recipe.tta == "flip" else ("plain",)
    train, test = (
        [input_view(some, shown.get(split), name) for name in names]
        for split, some in (("train", pixels), ("test", ImageSource(task.test_images, device)))
    )
    held_out, every = task.train_images.rows(task.valid["id"].tolist()), np.arange(len(task.test_images.ids))
    form = fastest_inference_model(
        net,
        half_precision(task.recipe, fmt, device),
        train[0](held_out[:CHECKED]),
        aim.read,
        aim.difference,
    )
    for line in form.refused:
        print_progress(f"{task.recipe.name} fold {task.fold}: {line}", bar)
    try:
        oof_logits, oof_features = predict_rows(form, train, held_out, task.checkpoint.parent)
        test_logits, test_features = predict_rows(form, test, every, task.checkpoint.parent)
    except InputError as error:
        raise InputError(f"{task.recipe.name} fold {task.fold}: {error}")
    scores = aim.scores(oof_logits, task.valid["label"].to_numpy())
    predicted = time.perf_counter() - started
    train_seconds = sum(row["train_seconds"] for row in history)
    facts = {
        "device": str(device),
        "precision": fmt.name,
        "weights": header["source"],
        "epochs_run": len(history),
        "repeated_epoch": header.get("repeated"),
        "parts_of_a_batch": header.get("parts", 1),
        "shuffle": shuffle_mode(task.recipe, task.train_images),
        "inference": {
            "form": form.name,
            "difference": form.difference,
            "rows": min(CHECKED, len(held_out)),
            "bound": BOUND,
        },
        "seconds": round(predicted + sum(row["seconds"] for row in history), 3),
        "cpu_seconds": round(header["cpu_seconds"] + time.process_time() - cpu_started, 3),
        "images_per_second": round(len(history) * images_an_epoch / train_seconds, 2),
        "predict_images_per_second": round((len(held_out) + len(every)) / predicted, 2),
        "peak_memory_mb": round(peak_memory_mb(device), 1),
        **aim.facts(*scores),
        "settings": asdict(task.recipe),
        "versions": {"python": sys.version.split()[0], **versions()},
    }
    state = {name: value.cpu().numpy() for name, value in net.state_dict().items()}
    curve = pd.DataFrame(history).drop(columns="train_seconds")
    return FoldResult(
        aim.state(state),
        curve,
        aim.predicted(oof_logits),
        oof_features,
        aim.predicted(test_logits),
        test_features,
        facts,
    )


def _hold_out(train: pd.DataFrame, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split training rows (id, label, group) into those to learn from and a stratified share to watch; groups stay whole.

    Plateau and early stopping look at these rows and never at the fold's held-out ones, whose score would no longer be honest.
    """
    if not share:
        return train, train.iloc[:0]
    splitter = StratifiedGroupKFold(max(2, round(1 / share)), shuffle=True, random_state=seed)
    learn, watch = next(splitter.split(train["id"], strata(train["label"].to_numpy()), train["group"]))
    return train.iloc[learn], train.iloc[watch]


def _stopped_early(recipe: Recipe, history: list[dict]) -> bool:
    return (
        bool(recipe.early_stopping and history)
        and history[-1]["epoch"] - _best_epoch(recipe, history) >= recipe.early_stopping
    )


def _best_epoch(recipe: Recipe, history: list[dict]) -> int:
    """The first epoch of those that are best by what early stopping looks at."""
    if recipe.stop_on == "accuracy":
        return int(np.argmax([row["monitor_acc"] for row in history]))
    return int(np.argmin([row["monitor_loss"] for row in history]))


def _score(
    net: Net,
    view: InputFn,
    images: ImageCache,
    rows: pd.DataFrame,
    fmt: Precision,
    aim: BinaryLoss | MAELoss,
) -> tuple[float, float]:
    """Loss and metric of `rows` (id, label) in one view: for the curves and the schedule, half the cost of TTA."""
    form = InferenceModel(net.eval().forward_inputs, fmt)
    logits = np.concatenate([logit for logit, _ in predict_batches(form, [view], images.rows(rows["id"].tolist()))])
    return aim.scores(logits, rows["label"].to_numpy())
