"""What a network's one output means: its loss in training, its prediction, and how well it does.

    BinaryLoss   two classes: the logit of label 1; binary cross-entropy; accuracy
    MAELoss      a number: standard deviations from the mean of the training rows; mean absolute error

Both have `metric`, its name, `history_column`, its column in the learning curve, and `difference`, how a change of what
`comparable` returns is stated.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss

from facefold.models.recipe import Recipe
from facefold.task import Task
from facefold.utils.errors import InputError


@dataclass(frozen=True)
class BinaryLoss:
    """Binary cross-entropy. smoothing: each training label is moved by half of it towards the other one."""

    smoothing: float = 0.0
    metric: ClassVar[str] = "accuracy"
    history_column: ClassVar[str] = "valid_acc"
    difference: ClassVar[str] = "a probability of {:.3f}"

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss () of outputs (N,) and labels float32 (N,)."""
        return binary_cross_entropy_with_logits(outputs, labels * (1 - self.smoothing) + 0.5 * self.smoothing)

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

    def run_facts(self, loss: float, metric: float) -> dict:
        """Return the scores for run.json."""
        return {"metrics": {"accuracy": metric, "log_loss": loss}}

    def export_state(self, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the weights to write."""
        return state


@dataclass(frozen=True)
class MAELoss:
    """Mean absolute error in standard deviations. mean, std: of the target over the training rows."""

    mean: float
    std: float
    metric: ClassVar[str] = "mae"
    history_column: ClassVar[str] = "valid_mae"
    difference: ClassVar[str] = "{:.3f} standard deviations"

    def __call__(self, outputs: Tensor, values: Tensor) -> Tensor:
        """Return the mean absolute error () of outputs (N,) in standard deviations; values float32 (N,)."""
        return l1_loss(outputs, (values - self.mean) / self.std)

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
        weight, bias = state["output.weight"] * self.std, state["output.bias"] * self.std + self.mean
        return {**state, "output.weight": weight.astype(np.float32), "output.bias": bias.astype(np.float32)}


def make_loss(target: Task, recipe: Recipe, values: np.ndarray) -> BinaryLoss | MAELoss:
    """Return the loss for the target's values (n,) of the training rows. Raise `InputError` if they are all equal."""
    if not target.regression:
        return BinaryLoss(recipe.label_smoothing)
    mean, std = float(values.mean()), float(values.std())
    if std == 0:
        raise InputError(f"{target.name} is {mean:g} in every training row, which leaves nothing to learn")
    return MAELoss(mean, std)
