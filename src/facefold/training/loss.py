"""What a network's one output means: its loss in training, what is read from it, and how well it does.

    Labels   two classes: the logit of label 1; binary cross-entropy; accuracy
    Values   a number: standard deviations from the mean of the rows learned from; their mean absolute error; that in the
             target's unit

Both have `metric`, its name, `column`, that of the learning curve, and `difference`, how a change of what is read is said.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss

from facefold.models.recipe import Recipe
from facefold.task import Target
from facefold.utils.errors import InputError


@dataclass(frozen=True)
class BinaryLoss:
    """smoothing: each label learned from is moved by half of it towards the other one."""

    smoothing: float = 0.0
    metric: ClassVar[str] = "accuracy"
    column: ClassVar[str] = "valid_acc"
    difference: ClassVar[str] = "a probability of {:.3f}"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The mean loss () of outputs (N,) and labels float32 (N,)."""
        return binary_cross_entropy_with_logits(outputs, labels * (1 - self.smoothing) + 0.5 * self.smoothing)

    def read(self, outputs: Tensor) -> Tensor:
        """The probabilities of label 1 (n,), what forms of inference are compared by."""
        return outputs.sigmoid()

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """The probabilities of label 1, float64 (n,), from outputs float64 (n,)."""
        return torch.from_numpy(outputs).sigmoid().numpy()

    def scores(self, outputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Log loss and accuracy of outputs (n,) against labels (n,) of 0 and 1."""
        loss = np.logaddexp(0, np.where(labels == 1, -outputs, outputs)).mean()
        return float(loss), float(((outputs >= 0) == (labels == 1)).mean())  # 0.5 decides for label 1, as in the blend

    def facts(self, loss: float, metric: float) -> dict:
        """For run.json."""
        return {"metrics": {"accuracy": metric, "log_loss": loss}}

    def state(self, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The weights as they are written."""
        return state


@dataclass(frozen=True)
class MAELoss:
    """mean, std: of the target over the rows learned from."""

    mean: float
    std: float
    metric: ClassVar[str] = "mae"
    column: ClassVar[str] = "valid_mae"
    difference: ClassVar[str] = "{:.3f} standard deviations"

    def loss(self, outputs: Tensor, values: Tensor) -> Tensor:
        """The mean absolute error () of outputs (N,) in standard deviations; values float32 (N,)."""
        return l1_loss(outputs, (values - self.mean) / self.std)

    def read(self, outputs: Tensor) -> Tensor:
        return outputs

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """The values, float64 (n,), from outputs float64 (n,)."""
        return self.mean + self.std * outputs

    def scores(self, outputs: np.ndarray, values: np.ndarray) -> tuple[float, float]:
        """The mean absolute error in standard deviations and in the target's unit."""
        error = float(np.abs(self.predicted(outputs) - values).mean())
        return error / self.std, error

    def facts(self, loss: float, metric: float) -> dict:
        return {"metrics": {"mae": metric}, "standardised": {"mean": self.mean, "std": self.std}}

    def state(self, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The weights with the standardisation in the output layer, so that they predict in the target's unit."""
        scaled = {
            "output.weight": state["output.weight"] * self.std,
            "output.bias": state["output.bias"] * self.std + self.mean,
        }
        return {**state, **{name: value.astype(np.float32) for name, value in scaled.items()}}


def make_loss(target: Target, recipe: Recipe, values: np.ndarray) -> BinaryLoss | MAELoss:
    """The objective for the target's values (n,) of the rows learned from. `InputError` where they are all equal."""
    if not target.regression:
        return BinaryLoss(recipe.label_smoothing)
    mean, std = float(values.mean()), float(values.std())
    if std == 0:
        raise InputError(f"{target.name} is {mean:g} in every row to learn from, which leaves nothing to learn")
    return MAELoss(mean, std)


def require_loss_settings(recipe: Recipe, target: Target) -> None:
    """Raise `InputError` for a recipe with a setting that has no meaning for this target."""
    if target.regression and recipe.label_smoothing:
        raise InputError(
            f"recipe {recipe.name} has label_smoothing = {recipe.label_smoothing:g}, and {target.name} is a number, "
            "not a label: take a recipe without it, e.g. lite0_age"
        )
    if target.regression and recipe.stop_on == "accuracy":
        raise InputError(
            f"recipe {recipe.name} stops by accuracy, and {target.name} is a number, which has none: take a recipe "
            "that stops by loss, e.g. lite0_age"
        )
