"""One optimiser step on a batch, in parts where a GPU's memory does not hold it at once."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from facefold.models.build import Net
from facefold.models.precision import Precision
from facefold.models.recipe import Recipe
from facefold.training.loss import Loss, WeightedLoss

MIN_ROWS = 2  # of a part: batch norm needs two


class TrainingStep:
    """`step(inputs, labels)`: forward, loss, backward, clipping and the optimiser's update, for one batch.

    A batch that the GPU's memory does not hold is trained in `accumulate` parts whose gradients are added up; their
    number is doubled whenever memory runs out. The mean loss and so the gradient are those of the whole batch. Batch
    norm is not: it sees one part at a time, as in training with smaller batches.

    Args:
        net: The network to train.
        optimizer: Over the network's parameters.
        scaler: Scales the loss for float16; disabled for other formats.
        precision: The number format of the forward pass.
        recipe: Gives clip and compile.
        loss_fn: Maps outputs and labels to the mean loss of the rows.
        accumulate: Parts of a batch to begin with.
    """

    def __init__(
        self,
        net: Net,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        precision: Precision,
        recipe: Recipe,
        loss_fn: Loss | WeightedLoss,
        accumulate: int = 1,
    ):
        self.net, self.optimizer, self.scaler, self.precision = net, optimizer, scaler, precision
        self.clip, self.loss_fn, self.accumulate = recipe.clip, loss_fn, accumulate
        self.forward = torch.compile(net.forward_inputs) if recipe.compile else net.forward_inputs

    def __call__(self, inputs: Tensor, labels: Tensor, report: Callable[[str], None] = print) -> Tensor:
        """Take one step on inputs (N, ..), see `Net.forward_inputs`, and labels (N,), or
        targets (N, C + 1), see `WeightedLoss`.

        Return the detached mean loss (). `report` gets a line when the batch is split. Raise torch.OutOfMemoryError if
        parts of `MIN_ROWS` rows are still too large.
        """
        while True:
            try:
                return self.update(inputs, labels)
            except torch.OutOfMemoryError:
                if len(labels) // (2 * self.accumulate) < MIN_ROWS:
                    raise
            self.accumulate *= 2  # outside of the handler, where the memory of the failed step is free again
            torch.cuda.empty_cache()
            report(
                f"the GPU's memory does not hold {len(labels) * 2 // self.accumulate} rows: from now on a batch of "
                f"{len(labels)} is trained in {self.accumulate} parts whose gradients are added up, the same step "
                "except for batch norm, which sees one part at a time"
            )

    def update(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Take one step in `accumulate` nearly equal parts; return the detached mean loss ()."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=labels.device)
        parts = zip(inputs.tensor_split(self.accumulate), labels.tensor_split(self.accumulate), strict=True)
        for part_inputs, part_labels in parts:
            with self.precision.autocast(inputs.device):
                logits, _ = self.forward(part_inputs)  # (n,) or (n, C)
            loss = self.loss_fn(logits, part_labels) * (len(part_labels) / len(labels))
            self.scaler.scale(loss).backward()
            total += loss.detach()
        if self.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return total
