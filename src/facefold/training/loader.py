"""Training rows as batches: cached pixels, augmented by (seed, epoch, id), in an order drawn from (seed, epoch)."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from facefold.data.augment import Augment
from facefold.data.cache import ImageCache
from facefold.seeding import seed_of


class EpochSampler(Sampler[tuple[int, int]]):
    """A permutation of the rows for each epoch. Yields (epoch, row): worker processes that live longer than an epoch learn it
    from the index. Set `epoch` before iterating."""

    def __init__(self, rows: int, seed: int):
        self.epoch = 0
        self._rows = rows
        self._seed = seed

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng(seed_of(self._seed, self.epoch)).permutation(self._rows)
        return ((self.epoch, int(row)) for row in order)


class TrainSet(Dataset[tuple[Tensor, Tensor]]):
    """`set[epoch, row]` is the augmented image uint8 (size, size, 3) and its label float32 ()."""

    def __init__(self, table: pd.DataFrame, images: ImageCache, augment: Augment):
        self._ids = table["id"].tolist()
        self._labels = torch.tensor(table["label"].to_numpy(), dtype=torch.float32)
        self._images = images
        self._places = images.rows(self._ids)
        self._augment = augment

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, row = index
        image = np.array(self._images.pixels[self._places[row]])  # a copy: torch takes no array that is mapped read-only
        return torch.from_numpy(np.ascontiguousarray(self._augment(image, epoch, self._ids[row]))), self._labels[row]
