"""A process among those that train a fold together: each takes its part of every batch, and torch's DistributedDataParallel (DDP)
averages the gradients. What starts them is launcher.py.

Batches and their mean losses are those of one process, so the result is too, but for the last bits of sums and for the masks of
dropout and stochastic depth, which each rank draws by itself.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """This process among the `count` that train a fold, each on its `device`. The first alone scores, decides and writes."""

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def drawn(self) -> tuple[object, ...]:
        """What to add to the name of a draw that each rank makes by itself; the first draws as one alone does."""
        return () if self.first else ("rank", self.rank)

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This rank's part of the rows (N,) of a batch; the parts differ by one row at most."""
        return np.array_split(rows, self.count)[self.rank]

    def weight(self, rows: int, batch: int) -> float:
        """The factor for the mean loss of this rank's `rows` that makes the mean over the ranks the one over the `batch`."""
        return self.count * rows / batch

    def together(self, net: nn.Module) -> nn.Module:
        """`net`, from now on with the first rank's values, whose gradients become the mean over the ranks in each backward pass."""
        return DistributedDataParallel(net, device_ids=[self.device] if self.device.type == "cuda" else None)

    def summed(self, value: float) -> float:
        """The sum of the ranks' values."""
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        if self.count > 1:
            distributed.all_reduce(total)
        return total.item()

    def told(self, scores: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """The first rank's scores; the others give as many of any value."""
        values = torch.tensor(scores, dtype=torch.float64, device=self.device)
        if self.count > 1:
            distributed.broadcast(values, 0)
        return [tuple(pair) for pair in values.tolist()]


ALONE = Ranks()
