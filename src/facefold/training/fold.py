"""Train a recipe on one fold.

Everything random is drawn from names (seed, fold, epoch, id), so a run that was killed and resumed at an epoch ends
with the same bytes as one that was not.
"""

import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from timm.utils import ModelEmaV3
from torch import Tensor
from tqdm import tqdm

from facefold.models.build import Net
from facefold.models.feature_cache import FeatureCache
from facefold.models.inference import InferenceModel
from facefold.models.precision import Precision
from facefold.models.recipe import Recipe
from facefold.training.averages import average_states, greedy_average
from facefold.training.checkpoint import CheckpointMeta, load_checkpoint, save_checkpoint
from facefold.training.dataset import AugmentedImages, ImageSource, TrainDataset, input_view, to_device, train_batches
from facefold.training.device_batch import DeviceBatch, HostDataset, read_ahead
from facefold.training.device_step import CudaGraphs, DeviceStep, steps_on_device
from facefold.training.fold_task import FoldTask, hold_out_monitor, open_feature_caches, prepare_model
from facefold.training.loss import Loss, make_loss
from facefold.training.mixup import draw_mix, mix_batch
from facefold.training.optimizer import make_optimizer
from facefold.training.outputs import predict_batches
from facefold.training.schedule import Schedule
from facefold.training.soft_labels import SoftLabels, training_targets
from facefold.training.step import TrainingStep
from facefold.training.tracking import NO_TRACKER, Tracker
from facefold.utils.console import no_bar, print_progress
from facefold.utils.errors import InputError
from facefold.utils.seeding import derive_seed

LOWER_RATE = 0.1  # times the recipe's learning rate, from an epoch on whose loss was not finite


@dataclass(frozen=True)
class TrainedFold:
    """A fold after its last epoch.

    model: the network whose weights predict. history: one row per epoch. meta: of the last checkpoint. epoch_images:
    how many images an epoch trains on. train_images: their source; features: caches of frozen stages by split (train,
    test). progress: the closed progress bar. soup: the epochs (from 0) whose weights the network's are the average of.
    monitor: the rows (id, label) that were held out of the training rows; None of a classifier. step: how the training
    steps ran, see `DeviceStep.form`.
    """

    model: Net
    precision: Precision
    loss_fn: Loss
    history: list[dict]
    meta: CheckpointMeta
    epoch_images: int
    train_images: ImageSource
    features: dict[str, FeatureCache]
    progress: tqdm
    soup: list[int] = field(default_factory=list)
    monitor: pd.DataFrame | None = None
    step: str = "eager"


class NonFiniteLoss(Exception):
    """The loss of `epoch` (from 0) is NaN or infinite."""

    def __init__(self, epoch: int):
        super().__init__(f"the loss is not finite in epoch {epoch + 1}")
        self.epoch = epoch


class Diverged(InputError):
    """The loss was not finite a second time. history: the rows of the epochs before."""

    history: Sequence[dict] = ()


def train_fold(
    task: FoldTask,
    device: torch.device,
    position: int = 0,
    loader_workers: int = 0,
    tracker: Tracker = NO_TRACKER,
    before_epoch: Callable[[list[dict]], None] = lambda history: None,
) -> TrainedFold:
    """Train one fold, or continue from its checkpoint.

    An epoch whose loss is not finite is repeated, once per fold, from the state before it and with `LOWER_RATE` times
    the recipe's rate from then on. Raise `Diverged` if it is not finite again, `InputError` if weights cannot be
    loaded, or if the checkpoint began in another number format, on another kind of device or with other weights.

    Args:
        task: What to train on.
        device: Where to train.
        position: The line of the progress bar.
        loader_workers: Processes that augment images; 0 for none.
        tracker: Of the learning curve.
        before_epoch: Called with the rows of the epochs before, if there are any; what it raises ends the training,
            with the checkpoint in place.
    """
    try:
        return FoldTrainer(task, device, position, loader_workers).train(tracker, before_epoch)
    except NonFiniteLoss as failure:
        repeated_epoch = failure.epoch
        print_progress(
            f"{task}: {failure}, which is repeated from the state before it, with {LOWER_RATE:g} times the learning "
            "rate from there on"
        )
    # Outside of the handler, where the memory of the first trainer is free again.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return FoldTrainer(task, device, position, loader_workers, repeated_epoch).train(tracker, before_epoch)


class FoldTrainer:
    """The training loop of one fold: resume, then per epoch `train_epoch`, `evaluate` and `save`."""

    def __init__(
        self,
        task: FoldTask,
        device: torch.device,
        position: int = 0,
        loader_workers: int = 0,
        repeated_epoch: int | None = None,
    ):
        checkpoint = load_checkpoint(task.checkpoint)
        self.task, self.device = task, device
        self.meta = checkpoint.meta if checkpoint else CheckpointMeta()
        if self.meta.repeated_epoch is None:
            self.meta.repeated_epoch = repeated_epoch
        lower = self.meta.repeated_epoch is not None
        self.recipe = recipe = replace(task.recipe, lr=LOWER_RATE * task.recipe.lr) if lower else task.recipe
        torch.manual_seed(derive_seed(task.seed, task.fold, "init"))
        self.model, source, self.precision = prepare_model(
            recipe, device, task.weights_dir, not self.history or recipe.has_frozen_stages, task.target.outputs
        )
        self._require_same_start(source)
        self.optimizer = make_optimizer(self.model, recipe, device)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema, use_warmup=True) if recipe.ema else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision.dtype is torch.float16)

        train, self.monitor = hold_out_monitor(task.train, recipe.monitor, derive_seed(task.seed, task.fold, "monitor"))
        train = task.extra.join(train, [*task.valid["id"], *self.monitor["id"]])
        self.loss_fn = make_loss(task.target, recipe, train["label"].to_numpy())
        self.images = ImageSource(task.train_images, device)
        self.features = open_feature_caches(task, self.model, self.meta.weights_source, self.precision, self.images)
        augmented = AugmentedImages(self.images, recipe, task.seed)
        soft = SoftLabels.of_no_image(task.target.outputs) if recipe.mixes and task.soft is None else task.soft
        ids, targets, batch_loss = training_targets(train, soft, self.loss_fn)
        dataset_type = HostDataset if steps_on_device(device) else TrainDataset
        dataset = dataset_type(ids, targets, task.train_images, augmented, self.features.get("train"))
        self.batch = min(recipe.batch, len(dataset))
        order_seed = derive_seed(task.seed, task.fold, "order")
        self.batches, self.sampler = train_batches(dataset, recipe, self.batch, order_seed, device, loader_workers)
        self.schedule = Schedule(recipe, self.optimizer, len(self.batches))
        self.training_step = TrainingStep(
            self.model, self.optimizer, self.scaler, self.precision, recipe, batch_loss, self.meta.accumulate
        )
        self.device_step = None
        if steps_on_device(device):
            batch = DeviceBatch(dataset, self.images, device)
            self.device_step = DeviceStep(self.training_step, batch, self.ema, CudaGraphs(device), self._print)
        self.best: dict[str, Tensor] = {}
        self.soup_states: dict[int, dict[str, Tensor]] = {}
        if checkpoint:
            self.resume(checkpoint.state)
        self.progress = tqdm(
            total=recipe.epochs * len(self.batches),
            initial=len(self.history) * len(self.batches),
            desc=str(task),
            unit="batch",
            position=position,
            leave=False,
            disable=no_bar(),
            dynamic_ncols=True,
            smoothing=0.05,
        )

    @property
    def history(self) -> list[dict]:
        return self.meta.history

    @property
    def predictor(self) -> Net:
        """The network whose weights predict: the moving average where there is one."""
        return self.ema.module if self.ema else self.model

    def _require_same_start(self, source: dict) -> None:
        """Compare weights and number format with those of the checkpoint, or note them for the first one."""
        path, began = self.task.checkpoint, self.meta
        if self.history and self.recipe.has_frozen_stages and source != began.weights_source:
            raise InputError(
                f"{path} was begun with the weights {began.weights_source} and would continue with {source}. Name the "
                f"former with --weights-dir, or delete {path} to start that fold again"
            )
        precision = f"{self.precision.name} on {self.device.type}"
        if began.precision not in (None, precision):
            raise InputError(
                f"{path} was begun as {began.precision} and would continue as {precision}, which gives neither result. "
                f"Continue where it began, or delete {path} to start that fold again"
            )
        self.meta.weights_source, self.meta.precision = began.weights_source or source, precision

    def train(self, tracker: Tracker, before_epoch: Callable[[list[dict]], None]) -> TrainedFold:
        """Run the epochs that are left. Raise `NonFiniteLoss` the first time that a loss is not finite."""
        tracker.begin(self.history)
        try:
            for epoch in range(len(self.history), self.recipe.epochs):
                if self.stopped_early():
                    break
                if self.history:
                    before_epoch(self.history)
                started, cpu_started = time.perf_counter(), time.process_time()
                train_loss = self.train_epoch(epoch)
                train_seconds = time.perf_counter() - started
                row = {"epoch": epoch, "lr": self.schedule.rate, "train_loss": train_loss}
                row |= self.evaluate()
                self._require_finite(epoch, row)
                row |= {"train_seconds": train_seconds, "seconds": time.perf_counter() - started}
                self.save(row, time.process_time() - cpu_started)
                tracker.log(row)
                self._report(row)
        finally:
            self.progress.close()
            form = self.device_step.form if self.device_step else "eager"
            self.device_step = None  # its graph holds memory that predictions may need, or another trainer
        if self.best:
            self.predictor.load_trainable_state_dict(self.best)
        soup = self.average_epochs()
        return TrainedFold(
            self.predictor,
            self.precision,
            self.loss_fn,
            self.history,
            self.meta,
            len(self.batches) * self.batch,
            self.images,
            self.features,
            self.progress,
            soup,
            self.monitor,
            form,
        )

    def average_epochs(self) -> list[int]:
        """Give the predictor the average of the last epochs' weights that `soup` asks for.

        Return the epochs (from 0) that are in it. Where there are monitor rows they choose them, by their loss.
        """
        if not self.recipe.soup:
            return []

        def average_loss(epochs: list[int]) -> float:
            self.predictor.load_trainable_state_dict(average_states([self.soup_states[epoch] for epoch in epochs]))
            return self.score(self.monitor)[0]

        epochs = list(self.soup_states)
        if len(self.monitor):
            losses = {epoch: self.history[epoch]["monitor_loss"] for epoch in epochs}
            epochs = greedy_average(losses, average_loss, operator.le)
        self.predictor.load_trainable_state_dict(average_states([self.soup_states[epoch] for epoch in epochs]))
        self._print(f"averaged weights: epoch {', '.join(str(epoch + 1) for epoch in epochs)}")
        return epochs

    def resume(self, state: dict[str, dict]) -> None:
        """Load the state of a checkpoint. The schedule is a function of the history and is replayed."""
        self.model.load_trainable_state_dict(state["model"])
        self._require_same_groups(state["optimizer"])
        groups = self.optimizer.state_dict()["param_groups"]  # rates and decays are the recipe's, not state
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        if self.ema:
            self.ema.module.load_trainable_state_dict(state["ema"])
        self.best, self.soup_states = state["best"], state.get("soup", {})  # not in files of earlier versions
        self.scaler.load_state_dict(self.meta.scaler)
        for row in self.history:
            self.schedule.after_epoch(row["epoch"], row["monitor_loss"])

    def _require_same_groups(self, state: dict[int, dict]) -> None:
        """Raise `InputError` for the state of an optimiser whose parameters had another order."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for number, values in state.items():
            shapes = {value.shape for value in values.values() if isinstance(value, Tensor) and value.ndim}
            if shapes - {parameters[number].shape}:
                raise InputError(
                    f"{self.task.checkpoint} was begun by another version of this program; delete it to start that "
                    "fold again"
                )

    def train_epoch(self, epoch: int) -> float:
        """Train on every batch of the epoch; return the mean loss."""
        torch.manual_seed(derive_seed(self.task.seed, self.task.fold, "epoch", epoch))  # dropout and stochastic depth
        self.sampler.epoch = epoch
        self.model.train()
        total = torch.zeros((), device=self.device)
        batches = read_ahead(self.batches, self.device) if self.device_step else self.batches
        for step, batch in enumerate(batches, start=epoch * len(self.batches)):
            self.schedule.before_step(step)
            total += self.take_step(batch, epoch, step)  # its value is not read: that would stall a GPU
            self.progress.update()
        return float(total) / len(self.batches)

    def take_step(self, batch: Sequence[Tensor], epoch: int, step: int) -> Tensor:
        """Take training step number `step` on a batch from the loader; return the loss ()."""
        shape, mix = self.recipe.shape_in(epoch), None
        if self.recipe.mixes:
            seed = derive_seed(self.task.seed, self.task.fold, "mixup", epoch, step)
            mix = draw_mix(self.recipe, *shape, seed)
        if self.device_step:
            average = 1 - self.ema.get_decay(step) if self.ema else 0.0
            return self.device_step(batch, shape, mix, average)
        inputs, labels = (to_device(part, self.device) for part in batch)
        if mix is not None:
            inputs, labels = mix_batch(inputs, labels, mix)
        loss = self.training_step(inputs, labels, self._print)
        if self.ema:
            self.ema.update(self.model, step=step)
        return loss

    def evaluate(self) -> dict[str, float | None]:
        """Return loss and metric of the monitor's rows, None where there are none, and of the held-out rows."""
        with np.errstate(invalid="ignore"):  # a loss that is not finite is reported by the caller
            monitor_loss, monitor_metric = self.score(self.monitor) if len(self.monitor) else (None, None)
            valid_loss, valid_metric = self.score(self.task.valid)
        monitor = {"monitor_acc": monitor_metric} if self.recipe.stop_on == "accuracy" else {}
        return {
            "monitor_loss": monitor_loss,
            **monitor,
            "valid_loss": valid_loss,
            self.loss_fn.history_column: valid_metric,
        }

    def score(self, rows: pd.DataFrame) -> tuple[float, float]:
        """Return loss and metric of rows (id, label) by the weights that predict, in one view: half the cost of TTA."""
        model = InferenceModel(self.predictor.eval().forward_inputs, self.precision)
        view = input_view(self.images, self.features.get("train"), "plain")
        positions = self.task.train_images.rows(rows["id"].tolist())
        outputs = np.concatenate([logits for logits, _ in predict_batches(model, [view], positions, self.device)])
        return self.loss_fn.evaluate(outputs, rows["label"].to_numpy())

    def _require_finite(self, epoch: int, row: dict) -> None:
        losses = [row["train_loss"], row["valid_loss"], row["monitor_loss"] or 0.0]
        if np.isfinite(losses).all():
            return
        repeated = self.meta.repeated_epoch
        if repeated is None:
            raise NonFiniteLoss(epoch)
        failure = Diverged(
            f'{self.task}: {NonFiniteLoss(epoch)}. Lower lr in the recipe, or set precision = "float32"; the epochs '
            f"before are kept in {self.task.checkpoint} (since epoch {repeated + 1} the rate was {LOWER_RATE:g} times "
            "the recipe's already, for the same reason)"
        )
        failure.history = self.history
        raise failure

    def save(self, row: dict, cpu_seconds: float) -> None:
        """Add the epoch's row to the history and write the checkpoint."""
        self.history.append(row)
        if self.recipe.early_stopping and best_epoch(self.recipe, self.history) == row["epoch"]:
            self.best = self.predictor.trainable_state_dict()
        if row["epoch"] >= self.recipe.epochs - self.recipe.soup:
            state = self.predictor.trainable_state_dict()
            self.soup_states[row["epoch"]] = {name: value.cpu() for name, value in state.items()}
        self.schedule.after_epoch(row["epoch"], row["monitor_loss"])
        self.meta.scaler, self.meta.accumulate = self.scaler.state_dict(), self.training_step.accumulate
        self.meta.cpu_seconds += cpu_seconds
        state = {
            "model": self.model.trainable_state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "ema": self.ema.module.trainable_state_dict() if self.ema else {},
            "best": self.best,
            "soup": self.soup_states,
        }
        save_checkpoint(self.task.checkpoint, self.task.identity, self.meta, state)

    def stopped_early(self) -> bool:
        """Return whether the best epoch is `early_stopping` epochs ago."""
        if not (self.recipe.early_stopping and self.history):
            return False
        waited = self.history[-1]["epoch"] - best_epoch(self.recipe, self.history)
        return waited >= self.recipe.early_stopping

    def _report(self, row: dict) -> None:
        self._print(
            f"epoch {row['epoch'] + 1}/{self.recipe.epochs}: train loss {row['train_loss']:.4f}, valid loss "
            f"{row['valid_loss']:.4f}, valid {self.loss_fn.metric} {row[self.loss_fn.history_column]:.4f}, "
            f"{row['seconds']:.0f} s",
            separator=" ",
        )

    def _print(self, line: str, separator: str = ": ") -> None:
        print_progress(f"{self.task}{separator}{line}", self.progress)


def best_epoch(recipe: Recipe, history: list[dict]) -> int:
    """Return the first of the epochs that are best by what early stopping looks at."""
    if recipe.stop_on == "accuracy":
        return int(np.argmax([row["monitor_acc"] for row in history]))
    return int(np.argmin([row["monitor_loss"] for row in history]))
