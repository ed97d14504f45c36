"""A batch that a GPU's memory does not hold, trained in parts: gradients added up over micro-batches, then one optimiser step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_ROWS = 2  # rows of a micro-batch: batch norm needs two


@dataclass
class GradientAccumulation:
    """In how many parts a batch is trained from now on.

    The mean loss and so the gradient are those of the whole batch. Batch norm is not: it normalises each part by its own mean and
    variance, and its running statistics follow these, so a network with batch norm trains as with smaller batches there.
    """

    count: int = 1

    def step(self, work: Callable[[int], Tensor], rows: int, say: Callable[[str], None]) -> Tensor:
        """`work(parts)`, a training step on `rows` rows, in twice as many parts as long as memory runs out; `say` is told.

        Raises torch.OutOfMemoryError when parts of `LEAST` rows are too many still.
        """
        while True:
            try:
                return work(self.count)
            except torch.OutOfMemoryError:
                if rows // (2 * self.count) < MIN_ROWS:
                    raise
            self.count *= 2  # after the handler: what the failed step held is free by now
            torch.cuda.empty_cache()
            say(
                f"the GPU's memory does not hold {rows * 2 // self.count} rows: from here on a batch of {rows} is trained in {self.count} "
                "parts with their gradients added up, the same step but for batch norm, which sees one part at a time"
            )
