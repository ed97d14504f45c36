"""The recipe's learning rate."""

import torch
from timm.scheduler import CosineLRScheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from facefold.models.recipe import Recipe


class Schedule:
    """timm's cosine per step, or after a linear warm-up torch's plateau per epoch or a constant rate.

    All are functions of the history alone, so resuming replays it instead of saving a state. Each group of parameters
    learns at its `lr_scale` times the rate. steps: per epoch.
    """

    def __init__(self, recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int):
        self._recipe, self._optimizer = recipe, optimizer
        self._warmup_steps = round(recipe.warmup * steps)
        self._cosine = self._plateau = None
        if recipe.schedule == "cosine":
            self._cosine = CosineLRScheduler(
                optimizer,
                t_initial=recipe.epochs * steps,
                lr_min=0.01 * recipe.lr,
                t_in_epochs=False,
                warmup_t=self._warmup_steps,
                warmup_lr_init=0.01 * recipe.lr,
            )
            return
        self._set_rate(recipe.lr)
        if recipe.schedule == "plateau":
            self._plateau = ReduceLROnPlateau(optimizer, factor=recipe.plateau_factor, patience=recipe.plateau_patience)

    @property
    def rate(self) -> float:
        """The learning rate now, of a group whose scale is 1."""
        group = self._optimizer.param_groups[0]
        return group["lr"] / group["lr_scale"]

    def _set_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]

    def before_step(self, step: int) -> None:
        if self._cosine:
            self._cosine.step_update(step)
        elif step <= self._warmup_steps:
            self._set_rate(self._recipe.lr * (step + 1) / (self._warmup_steps + 1))

    def after_epoch(self, epoch: int, monitor_loss: float | None) -> None:
        if self._plateau and epoch + 1 > self._recipe.warmup:
            self._plateau.step(monitor_loss)
