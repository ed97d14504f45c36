"""What a network is shown: cached pixels or the activations of its frozen part, augmented by (seed, epoch, id), in batches whose
order is drawn from (seed, epoch)."""

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from facefold.data.augment import Augment
from facefold.data.cache import ImageCache
from facefold.models.frozen import Activations
from facefold.models.recipe import Recipe
from facefold.seeding import seed_of

Show = Callable[[np.ndarray], Tensor]


class Augmented:
    """`augmented(epoch, rows)`: pixels uint8 (N, side, side, 3) of these rows of the cache, each changed by (seed, epoch, id), in the
    recipe's size for that epoch."""

    def __init__(self, images: ImageCache, recipe: Recipe, seed: int):
        self._images, self._recipe = images, recipe
        self._augment = Augment(recipe.augment, seed)

    def __call__(self, epoch: int, rows: np.ndarray) -> Tensor:
        side = self._recipe.size_in(epoch)
        changed = [self._augment(image, epoch, self._images.ids[row]) for image, row in zip(self._images.pixels[rows], rows)]
        if side != self._recipe.size:
            changed = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in changed]
        return torch.from_numpy(np.stack(changed))


def view(images: ImageCache, activations: Activations | None, name: str) -> Show:
    """What the network is shown of given rows in the view `plain` or `mirror`: uint8 (N, H, W, 3), or float16 (N, h, w, C)."""
    if activations is not None:
        values = activations.view(name)
        return lambda rows: torch.from_numpy(values[rows])
    if name == "mirror":
        return lambda rows: torch.from_numpy(images.pixels[rows]).flip(2)
    return lambda rows: torch.from_numpy(images.pixels[rows])


class EpochSampler(Sampler[tuple[int, np.ndarray]]):
    """The batches of each epoch: a permutation of the rows, cut into equal batches, what is left over left out. Yields (epoch, rows):
    worker processes that live longer than an epoch learn it from the index. Set `epoch` before iterating."""

    def __init__(self, rows: int, batch: int, seed: int):
        self.epoch = 0
        self._rows, self._batch, self._seed = rows, batch, seed

    def __len__(self) -> int:
        return self._rows // self._batch

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        order = np.random.default_rng(seed_of(self._seed, self.epoch)).permutation(self._rows)
        return ((self.epoch, order[step * self._batch:(step + 1) * self._batch]) for step in range(len(self)))


class TrainSet(Dataset[tuple[Tensor, Tensor]]):
    """`set[epoch, rows]` is what the network is shown of these rows of the table, augmented, and their labels float32 (N,)."""

    def __init__(self, table: pd.DataFrame, images: ImageCache, augmented: Augmented, activations: Activations | None = None):
        self._labels = torch.tensor(table["label"].to_numpy(), dtype=torch.float32)
        self._places = images.rows(table["id"].tolist())
        self._augmented, self._activations = augmented, activations

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: tuple[int, np.ndarray]) -> tuple[Tensor, Tensor]:
        epoch, rows = index
        places = self._places[rows]
        if self._activations is not None:
            return torch.from_numpy(self._activations.epoch(epoch)[places]), self._labels[rows]
        return self._augmented(epoch, places), self._labels[rows]


def batches(train: TrainSet, batch: int, seed: int, device: torch.device, workers: int) -> tuple[DataLoader, EpochSampler]:
    """A loader over `train` in batches, and the sampler that must be told each epoch. workers: processes that augment (0: in this one)."""
    sampler = EpochSampler(len(train), batch, seed)
    return DataLoader(train, batch_size=None, sampler=sampler, num_workers=workers, persistent_workers=workers > 0,
                      multiprocessing_context="spawn" if workers else None, pin_memory=device.type == "cuda"), sampler
