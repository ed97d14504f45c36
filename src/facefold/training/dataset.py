"""What a network is shown: cached pixels or the activations of its frozen part, augmented by (seed, epoch, id), in batches whose
order is drawn from (seed, epoch)."""

from collections.abc import Callable, Iterator
from functools import cached_property

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset, Sampler

from facefold.augment.per_batch import BatchAugment
from facefold.augment.per_image import ImageAugment
from facefold.data.cache import ImageCache
from facefold.models.feature_cache import FeatureCache
from facefold.models.recipe import Recipe
from facefold.utils.npy import NpyRows
from facefold.utils.seeding import seed_of

InputFn = Callable[[np.ndarray], Tensor]
HELD_CHUNK = 1024  # images sent to a GPU at a time when it is to hold them all
BLOCKS_FROM = (
    8 << 30
)  # bytes of train images from which on an epoch's order is one of blocks: then memory may not keep them all
WINDOW, BLOCKS_A_WINDOW = 256 << 20, 64  # bytes; so a block is 4 MiB read in one piece


class ImageSource:
    """`pixels(rows)`: images uint8 (N, size, size, 3) of these rows of the cache, on `device`. A GPU holds all of them where they
    take at most half of its free memory; else, and on the CPU, they are read from the cache batch by batch."""

    def __init__(self, images: ImageCache, device: torch.device):
        self.images, self.device = images, device

    @cached_property
    def held(self) -> Tensor | None:
        """All of them on the GPU, from the first time that they are asked for: frozen stages' activations may spare it."""
        return (
            _held(self.images, self.device)
            if self.device.type == "cuda" and fits_on_gpu(self.images, self.device)
            else None
        )

    def __call__(self, rows: np.ndarray) -> Tensor:
        if self.held is not None:
            return self.held[to_device(torch.from_numpy(rows), self.device)]
        return to_device(torch.from_numpy(self.images.pixels[rows]), self.device)


def fits_on_gpu(images: ImageCache, device: torch.device) -> bool:
    return images.pixels.nbytes <= torch.cuda.mem_get_info(device)[0] // 2


def _held(images: ImageCache, device: torch.device) -> Tensor:
    held = torch.empty(images.pixels.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(held), HELD_CHUNK):
        held[start : start + HELD_CHUNK] = torch.from_numpy(np.array(images.pixels[start : start + HELD_CHUNK]))
    return held


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; to a GPU through pinned memory, without waiting for it."""
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda" and not tensor.is_cuda
        else tensor.to(device)
    )


class AugmentedImages:
    """`augmented(epoch, rows)`: pixels uint8 (N, side, side, 3) of these rows of the cache, each changed by (seed, epoch, id), in the
    recipe's size for that epoch. `on_device`: whether they are made where `pixels` are, instead of on the CPU."""

    def __init__(self, pixels: ImageSource, recipe: Recipe, seed: int):
        self._images, self._recipe = pixels.images, recipe
        self.on_device = recipe.augmenter == "batch"
        self._pixels = pixels if self.on_device else None
        self._augment = BatchAugment(recipe.augment, seed) if self.on_device else ImageAugment(recipe.augment, seed)

    def __call__(self, epoch: int, rows: np.ndarray) -> Tensor:
        side = self._recipe.size_in(epoch)
        if self.on_device:
            changed = self._augment(self._pixels(rows), epoch, [self._images.ids[row] for row in rows])
            return changed if side == self._recipe.size else _shrunk(changed, side)
        images = [
            self._augment(image, epoch, self._images.ids[row]) for image, row in zip(self._images.pixels[rows], rows)
        ]
        if side != self._recipe.size:
            images = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images]
        return torch.from_numpy(np.stack(images))


def _shrunk(pixels: Tensor, side: int) -> Tensor:
    planes = interpolate(pixels.permute(0, 3, 1, 2).float(), (side, side), mode="area")
    return planes.add_(0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def input_view(pixels: ImageSource, activations: FeatureCache | None, name: str) -> InputFn:
    """What the network is shown of given rows in the view `plain` or `mirror`: uint8 (N, H, W, 3), or float16 (N, h, w, C)."""
    if activations is not None:
        values = activations.view(name)
        return lambda rows: to_device(torch.from_numpy(values[rows]), pixels.device)
    return (lambda rows: pixels(rows).flip(2)) if name == "mirror" else pixels


class EpochSampler(Sampler[tuple[int, np.ndarray]]):
    """The batches of each epoch: a permutation of the rows, cut into equal batches, what is left over left out. Yields (epoch, rows):
    worker processes that live longer than an epoch learn it from the index. Set `epoch` before iterating.

    window: 0 for any permutation. Else one whose rows lie near each other on the disk: blocks of window / `BLOCKS_A_WINDOW` rows that
    follow one another, in any order, and each `window` rows of that shuffled among themselves. expect(epoch, rows): told of the
    rows of each window while the one before it is used.
    """

    def __init__(
        self,
        rows: int,
        batch: int,
        seed: int,
        window: int = 0,
        expect: Callable[[int, np.ndarray], None] | None = None,
    ):
        self.epoch = 0
        self._rows, self._batch, self._seed, self._window, self._expect = rows, batch, seed, window, expect

    def __len__(self) -> int:
        return self._rows // self._batch

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        draw = np.random.default_rng(seed_of(self._seed, self.epoch))
        order = self._blocks(draw) if self._window else draw.permutation(self._rows)
        told = 0
        for start in range(0, len(self) * self._batch, self._batch):
            while self._window and self._expect and told <= start + self._window and told < self._rows:
                self._expect(self.epoch, order[told : told + self._window])
                told += self._window
            yield self.epoch, order[start : start + self._batch]

    def _blocks(self, draw: np.random.Generator) -> np.ndarray:
        block = max(1, self._window // BLOCKS_A_WINDOW)
        starts = draw.permutation(np.arange(0, self._rows, block))
        order = np.concatenate([np.arange(start, min(start + block, self._rows)) for start in starts])
        for start in range(0, self._rows, self._window):
            draw.shuffle(order[start : start + self._window])
        return order


class TrainDataset(Dataset[tuple[Tensor, Tensor]]):
    """`set[epoch, rows]` is what the network is shown of these rows of the table, augmented, and their labels float32 (N,)."""

    def __init__(
        self,
        table: pd.DataFrame,
        images: ImageCache,
        augmented: AugmentedImages,
        activations: FeatureCache | None = None,
    ):
        self._labels = torch.tensor(table["label"].to_numpy(), dtype=torch.float32)
        self._places = images.rows(table["id"].tolist())
        self._images, self._augmented, self._activations = images, augmented, activations
        self._open: tuple[int, NpyRows | None] = (
            -1,
            None,
        )  # the epoch's activations, opened once: an open file outlives its name

    def __len__(self) -> int:
        return len(self._places)

    @property
    def by_itself(self) -> bool:
        """Whether the work of `__getitem__` is worth a process of its own: augmentation on the CPU."""
        return self._activations is None and not self._augmented.on_device

    def __getitem__(self, index: tuple[int, np.ndarray]) -> tuple[Tensor, Tensor]:
        epoch, rows = index
        places = self._places[rows]
        if self._activations is not None:
            return torch.from_numpy(self._seen(epoch)[places]), self._labels[rows]
        return self._augmented(epoch, places), self._labels[rows]

    def expect(self, epoch: int, rows: np.ndarray) -> None:
        """These rows come next: have what is shown of them fetched from the disk."""
        source = self._images.pixels if self._activations is None else self._seen(epoch)
        if isinstance(source, NpyRows):
            source.expect(self._places[rows])

    def _seen(self, epoch: int) -> NpyRows:
        if self._open[0] != epoch:
            self._open = (epoch, self._activations.epoch_view(epoch))
        return self._open[1]


def shuffle_mode(recipe: Recipe, images: ImageCache) -> str:
    """How the recipe's epochs are ordered: rows or blocks."""
    return recipe.shuffle if recipe.shuffle != "auto" else "blocks" if images.pixels.nbytes > BLOCKS_FROM else "rows"


def shuffle_window(recipe: Recipe, images: ImageCache) -> int:
    """The `EpochSampler`'s window in rows."""
    image = images.pixels.nbytes // len(images.ids)
    return max(BLOCKS_A_WINDOW, WINDOW // image) if shuffle_mode(recipe, images) == "blocks" else 0


def train_batches(
    train: TrainDataset, batch: int, seed: int, device: torch.device, workers: int, window: int = 0
) -> tuple[DataLoader, EpochSampler]:
    """A loader over `train` in batches, and the sampler that must be told each epoch. workers: processes that augment (0: in this
    one), where images are augmented one by one. window: as of `EpochSampler`."""
    sampler = EpochSampler(len(train), batch, seed, window, train.expect)
    workers = workers if train.by_itself else 0
    return DataLoader(
        train,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,
        pin_memory=device.type == "cuda" and workers > 0,
    ), sampler
