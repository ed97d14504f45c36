"""What a network's outputs mean: their loss in training, the prediction, and how well it does.

    BinaryLoss       two classes: the logit of label 1; binary cross-entropy; accuracy
    MulticlassLoss   more classes: a logit for each; cross-entropy; accuracy
    MAELoss          a number: standard deviations from the mean of the training rows; mean absolute error

Each has `metric`, its name, `history_column`, its column in the learning curve, `difference`, how a change of what
`comparable` returns is stated, and `label_dtype`, that of the labels of a batch. `WeightedLoss` is one of these over
rows of different weights.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, l1_loss, one_hot

from facefold.models.recipe import Recipe
from facefold.task import Task
from facefold.utils.errors import InputError


@dataclass(frozen=True)
class _CrossEntropy:
    """What the losses of classes have in common. smoothing: of the training labels."""

    smoothing: float = 0.0
    metric: ClassVar[str] = "accuracy"
    history_column: ClassVar[str] = "valid_acc"
    difference: ClassVar[str] = "a probability of {:.3f}"

    def unsmoothed(self) -> Self:
        """Return the same loss for labels that have been smoothed."""
        return replace(self, smoothing=0.0)

    def run_facts(self, loss: float, metric: float) -> dict:
        """Return the scores for run.json."""
        return {"metrics": {"accuracy": metric, "log_loss": loss}}

    def export_state(self, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the weights to write."""
        return state


@dataclass(frozen=True)
class BinaryLoss(_CrossEntropy):
    """Binary cross-entropy. smoothing: each training label is moved by half of it towards the other one."""

    label_dtype: ClassVar[torch.dtype] = torch.float32

    def __call__(self, outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """Return the mean loss () of outputs (N,) and labels float32 (N,), or with "none" that of each row (N,)."""
        targets = labels * (1 - self.smoothing) + 0.5 * self.smoothing
        return binary_cross_entropy_with_logits(outputs, targets, reduction=reduction)

    def soften(self, labels: Tensor, outputs: int) -> Tensor:
        """Return smoothed labels float32 (n, 1), of labels (n,)."""
        return labels[:, None] * (1 - self.smoothing) + 0.5 * self.smoothing

    def comparable(self, outputs: Tensor) -> Tensor:
        """Return what forms of inference are compared by: the probabilities of label 1 (n,)."""
        return outputs.sigmoid()

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Return the probabilities of label 1, float64 (n,), from outputs float64 (n,)."""
        return torch.from_numpy(outputs).sigmoid().numpy()

    def evaluate(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Return log loss and accuracy of outputs (n,) against labels (n,) of 0 and 1."""
        loss = np.logaddexp(0, np.where(labels == 1, -outputs, outputs)).mean()
        return float(loss), float(((outputs >= 0) == (labels == 1)).mean())  # 0.5 decides for label 1, as in the blend


@dataclass(frozen=True)
class MulticlassLoss(_CrossEntropy):
    """Cross-entropy of the softmax. smoothing: this share of each training label is spread evenly over all classes."""

    label_dtype: ClassVar[torch.dtype] = torch.int64

    def __call__(self, outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """Return the mean loss () of outputs (N, C) and labels, or with "none" that of each row (N,).

        labels: int64 (N,), or shares of the classes float32 (N, C).
        """
        return cross_entropy(outputs, labels, label_smoothing=self.smoothing, reduction=reduction)

    def soften(self, labels: Tensor, outputs: int) -> Tensor:
        """Return smoothed labels as shares of the `outputs` classes, float32 (n, C), of labels int64 (n,)."""
        return one_hot(labels, outputs) * (1 - self.smoothing) + self.smoothing / outputs

    def comparable(self, outputs: Tensor) -> Tensor:
        """Return what forms of inference are compared by: the probabilities (n, C)."""
        return outputs.softmax(1)

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Return the probabilities of the classes, float64 (n, C), from outputs float64 (n, C)."""
        return torch.from_numpy(outputs).softmax(1).numpy()

    def evaluate(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Return log loss and accuracy of outputs (n, C) against labels int64 (n,), indices of classes.

        Of several largest outputs the first decides.
        """
        own = np.take_along_axis(outputs, labels[:, None], axis=1)[:, 0]
        loss = (np.logaddexp.reduce(outputs, axis=1) - own).mean()
        return float(loss), float((outputs.argmax(axis=1) == labels).mean())


@dataclass(frozen=True)
class MAELoss:
    """Mean absolute error in standard deviations. mean, std: of the target over the training rows."""

    mean: float
    std: float
    metric: ClassVar[str] = "mae"
    history_column: ClassVar[str] = "valid_mae"
    difference: ClassVar[str] = "{:.3f} standard deviations"
    label_dtype: ClassVar[torch.dtype] = torch.float32

    def __call__(self, outputs: Tensor, values: Tensor, reduction: str = "mean") -> Tensor:
        """Return the mean absolute error () of outputs (N,), or with "none" that of each row (N,).

        It is in standard deviations; values: float32 (N,).
        """
        return l1_loss(outputs, (values - self.mean) / self.std, reduction=reduction)

    def soften(self, values: Tensor, outputs: int) -> Tensor:
        """Return the values (n, 1): there is nothing to smooth."""
        return values[:, None]

    def unsmoothed(self) -> "MAELoss":
        """Return this loss: there is nothing to smooth."""
        return self

    def comparable(self, outputs: Tensor) -> Tensor:
        """Return what forms of inference are compared by: the outputs (n,) themselves."""
        return outputs

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Return the values, float64 (n,), from outputs float64 (n,)."""
        return self.mean + self.std * outputs

    def evaluate(self, outputs: np.ndarray, values: np.ndarray) -> tuple[float, float]:
        """Return the mean absolute error in standard deviations and in the target's unit."""
        error = float(np.abs(self.predictions(outputs) - values).mean())
        return error / self.std, error

    def run_facts(self, loss: float, metric: float) -> dict:
        """Return score and standardisation for run.json."""
        return {"metrics": {"mae": metric}, "standardised": {"mean": self.mean, "std": self.std}}

    def export_state(self, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the weights to write, the standardisation in the output layer: they predict in the target's unit."""
        if "output.weight" not in state:  # a classifier's state, which does so already
            return state
        weight, bias = state["output.weight"] * self.std, state["output.bias"] * self.std + self.mean
        return {**state, "output.weight": weight.astype(np.float32), "output.bias": bias.astype(np.float32)}


Loss = BinaryLoss | MulticlassLoss | MAELoss


@dataclass(frozen=True)
class WeightedLoss:
    """The loss of rows that have a soft label and a weight.

    It is sum(weight * loss) / N, not divided by the sum of the weights: then a train row counts the same whichever rows
    share its batch, and parts of a batch add up to the step of the whole batch (`TrainingStep`).
    """

    loss_fn: Loss

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss () of outputs (N,) or (N, C) and targets float32 (N, C + 1): soft labels, then the weight."""
        labels, weights = targets[:, :-1].reshape(outputs.shape), targets[:, -1]
        return (weights * self.loss_fn(outputs, labels, "none")).mean()


def make_loss(target: Task, recipe: Recipe, values: np.ndarray) -> Loss:
    """Return the loss for the target's values (n,) of the training rows.

    Raise `InputError` if the values of a regression are all equal.
    """
    if target.multiclass:
        return MulticlassLoss(recipe.label_smoothing)
    if not target.regression:
        return BinaryLoss(recipe.label_smoothing)
    mean, std = float(values.mean()), float(values.std())
    if std == 0:
        raise InputError(f"{target.name} is {mean:g} in every training row, which leaves nothing to learn")
    return MAELoss(mean, std)


def exported_predictions(target: Task, outputs: np.ndarray) -> np.ndarray:
    """Return the predictions of outputs float64 (n,) or (n, C) of exported weights.

    They are float64 (n,), probabilities of label 1 or values, or (n, C), probabilities of more than two classes.
    """
    if target.regression:  # standardised no more
        return outputs
    loss_fn = MulticlassLoss() if target.multiclass else BinaryLoss()
    return loss_fn.predictions(outputs)
