"""What a network reads: cached images or the activations of its frozen stages, augmented by (seed, epoch, id), in
batches whose order is drawn from (seed, epoch).
"""

from collections.abc import Callable, Iterator
from functools import cached_property

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset, Sampler

from facefold.augment.branchless import BranchlessAugment
from facefold.augment.per_batch import BatchAugment
from facefold.augment.per_image import ImageAugment
from facefold.data.cache import ImageCache
from facefold.data.preprocessing import Shape
from facefold.models.feature_cache import FeatureCache
from facefold.models.recipe import Recipe
from facefold.models.views import view_images
from facefold.utils.npy import NpyRows
from facefold.utils.processes import end_with_parent, start_server
from facefold.utils.seeding import derive_seed

InputFn = Callable[[np.ndarray], Tensor]
COPY_CHUNK = 1024  # images sent to a GPU at a time when it is to hold them all
# Bytes of train images from which on an epoch's order is one of blocks: then memory may not keep them all.
BLOCKS_FROM = 8 << 30
WINDOW, BLOCKS_PER_WINDOW = 256 << 20, 64  # bytes; so a block is 4 MiB read at once


class ImageSource:
    """`source(rows)`: images uint8 (N, size, size, 3) of these rows of the cache, on `device`.

    A GPU holds all of them if they take at most half of its free memory; else, and on the CPU, they are read from the
    cache batch by batch.
    """

    def __init__(self, images: ImageCache, device: torch.device):
        self.images, self.device = images, device

    @cached_property
    def on_gpu(self) -> Tensor | None:
        """All images on the GPU, loaded when first asked for: frozen stages' activations may make that needless."""
        if self.device.type != "cuda" or not fits_on_gpu(self.images, self.device):
            return None
        dtype = torch.from_numpy(np.array(self.images.pixels[:1])).dtype  # uint8, or float32 of embeddings
        images = torch.empty(self.images.pixels.shape, dtype=dtype, device=self.device)
        for start in range(0, len(images), COPY_CHUNK):
            chunk = slice(start, start + COPY_CHUNK)
            images[chunk] = torch.from_numpy(np.array(self.images.pixels[chunk]))
        return images

    def __call__(self, rows: np.ndarray) -> Tensor:
        if self.on_gpu is not None:
            return self.on_gpu[to_device(torch.from_numpy(rows), self.device)]
        return to_device(torch.from_numpy(self.images.pixels[rows]), self.device)


def fits_on_gpu(images: ImageCache, device: torch.device) -> bool:
    """Return whether the images take at most half of the GPU's free memory."""
    return images.pixels.nbytes <= torch.cuda.mem_get_info(device)[0] // 2


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return `tensor` on `device`; to a GPU through pinned memory, without waiting for it."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class AugmentedImages:
    """`augmented(epoch, rows)`: cached images uint8 (N, H, W, 3) of these rows, changed by (seed, epoch, id).

    H, W: the recipe's shape in that epoch. `on_device`: whether they are augmented where `images` are, instead of on
    the CPU. `branchless`: does the same to images on a GPU, by what `draw` returns.
    """

    def __init__(self, images: ImageSource, recipe: Recipe, seed: int):
        self._cache, self._recipe = images.images, recipe
        self.on_device = recipe.augmenter == "batch"
        self._source = images if self.on_device else None
        self._augment = BatchAugment(recipe.augment, seed) if self.on_device else ImageAugment(recipe.augment, seed)
        self.branchless = BranchlessAugment(recipe.augment, seed) if self.on_device else None

    @property
    def resident(self) -> bool:
        """Whether a GPU holds all images, so that the rows' numbers are all it needs to augment them."""
        return self.on_device and self._source.on_gpu is not None

    def draw(self, epoch: int, rows: np.ndarray) -> np.ndarray:
        """Draw what `branchless` does to the images of these rows, float32 (n, columns)."""
        ids = [self._cache.ids[row] for row in rows]
        return self.branchless.table(self._recipe.augmented_epoch(epoch), ids, *self._recipe.shape)

    def __call__(self, epoch: int, rows: np.ndarray) -> Tensor:
        epoch = self._recipe.augmented_epoch(epoch)
        shape, cached = self._recipe.shape_in(epoch), self._recipe.shape
        ids = [self._cache.ids[row] for row in rows]
        if self.on_device:
            images = self._augment(self._source(rows), epoch, ids)
            return images if shape == cached else shrink(images, shape)
        pixels = self._cache.pixels[rows]
        images = [self._augment(image, epoch, id) for image, id in zip(pixels, ids, strict=True)]
        if shape != cached:
            images = [cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA) for image in images]
        return torch.from_numpy(np.stack(images))


def shrink(images: Tensor, shape: Shape) -> Tensor:
    """Return images uint8 (N, *shape, 3) of larger ones, each pixel the mean of an area."""
    planes = interpolate(images.permute(0, 3, 1, 2).float(), shape, mode="area")
    return planes.add_(0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def input_view(images: ImageSource, features: FeatureCache | None, view: str) -> InputFn:
    """Return what the network reads of given rows in a view of `view_images`.

    Images uint8 (N, H, W, 3), or activations float16 (N, h, w, C) where there is a feature cache.
    """
    if features is not None:
        activations = features.view(view)
        return lambda rows: to_device(torch.from_numpy(activations[rows]), images.device)
    return lambda rows: view_images(images(rows), view)


class EpochSampler(Sampler[tuple[int, np.ndarray]]):
    """The batches of each epoch: a permutation of the rows, cut into equal batches; the remainder is left out.

    Yields (epoch, rows): worker processes that outlive an epoch learn it from the index. Set `epoch` before iterating.

    Args:
        rows: Number of rows.
        batch: Rows per batch.
        seed: Names the draws, with the epoch.
        window: 0 for any permutation. Else one whose rows lie near each other on the disk: blocks of consecutive rows,
            window / `BLOCKS_PER_WINDOW` each, in any order, and every `window` rows of that shuffled among themselves.
        prefetch: prefetch(epoch, rows) is called with the rows of each window while the one before it is used.
    """

    def __init__(
        self,
        rows: int,
        batch: int,
        seed: int,
        window: int = 0,
        prefetch: Callable[[int, np.ndarray], None] | None = None,
    ):
        self.epoch = 0
        self._rows, self._batch, self._seed, self._window, self._prefetch = rows, batch, seed, window, prefetch

    def __len__(self) -> int:
        return self._rows // self._batch

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        draw = np.random.default_rng(derive_seed(self._seed, self.epoch))
        order = self._blocks(draw) if self._window else draw.permutation(self._rows)
        prefetched = 0
        for start in range(0, len(self) * self._batch, self._batch):
            while self._window and self._prefetch and prefetched <= start + self._window and prefetched < self._rows:
                self._prefetch(self.epoch, order[prefetched : prefetched + self._window])
                prefetched += self._window
            yield self.epoch, order[start : start + self._batch]

    def _blocks(self, draw: np.random.Generator) -> np.ndarray:
        block = max(1, self._window // BLOCKS_PER_WINDOW)
        starts = draw.permutation(np.arange(0, self._rows, block))
        order = np.concatenate([np.arange(start, min(start + block, self._rows)) for start in starts])
        for start in range(0, self._rows, self._window):
            draw.shuffle(order[start : start + self._window])
        return order


class TrainDataset(Dataset[tuple[Tensor, Tensor]]):
    """`dataset[epoch, rows]`: what the network reads of these rows, augmented, and their labels.

    Args:
        ids: Of the rows (n,), among those of `images`.
        labels: Of the rows (n, ..).
        images: The cache that the rows are in.
        augmented: Gives its images.
        features: Of the same cache, in place of the images.
    """

    def __init__(
        self,
        ids: list[str],
        labels: Tensor,
        images: ImageCache,
        augmented: AugmentedImages,
        features: FeatureCache | None = None,
    ):
        self.labels, self.cache_rows = labels, images.rows(ids)
        self.images, self.augmented, self._features = images, augmented, features
        # The epoch's activations, opened once: an open file outlives its name.
        self._open: tuple[int, NpyRows | None] = (-1, None)

    def __len__(self) -> int:
        return len(self.cache_rows)

    @property
    def needs_workers(self) -> bool:
        """Whether `__getitem__` is worth a process of its own: augmentation on the CPU."""
        return self._features is None and not self.augmented.on_device

    @property
    def augments_batches(self) -> bool:
        """Whether it augments whole batches of images."""
        return self._features is None and self.augmented.on_device

    def __getitem__(self, index: tuple[int, np.ndarray]) -> tuple[Tensor, Tensor]:
        epoch, rows = index
        cache_rows = self.cache_rows[rows]
        if self._features is not None:
            return torch.from_numpy(self._activations(epoch)[cache_rows]), self.labels[rows]
        return self.augmented(epoch, cache_rows), self.labels[rows]

    def prefetch(self, epoch: int, rows: np.ndarray) -> None:
        """Have what these rows need fetched from the disk: they come next."""
        source = self.images.pixels if self._features is None else self._activations(epoch)
        if isinstance(source, NpyRows):
            source.prefetch(self.cache_rows[rows])

    def _activations(self, epoch: int) -> NpyRows:
        if self._open[0] != epoch:
            self._open = (epoch, self._features.epoch_view(epoch))
        return self._open[1]


def shuffle_mode(recipe: Recipe, images: ImageCache) -> str:
    """Return how the recipe's epochs are ordered: rows or blocks."""
    if recipe.shuffle != "auto":
        return recipe.shuffle
    return "blocks" if images.pixels.nbytes > BLOCKS_FROM else "rows"


def shuffle_window(recipe: Recipe, images: ImageCache) -> int:
    """Return the `EpochSampler`'s window in rows."""
    image_bytes = images.pixels.nbytes // len(images.ids)
    return max(BLOCKS_PER_WINDOW, WINDOW // image_bytes) if shuffle_mode(recipe, images) == "blocks" else 0


def train_batches(
    dataset: TrainDataset, recipe: Recipe, batch: int, seed: int, device: torch.device, workers: int
) -> tuple[DataLoader, EpochSampler]:
    """Return a loader of batches, and the sampler whose `epoch` must be set before each epoch.

    Args:
        dataset: What to train on.
        recipe: Gives the kind of shuffling.
        batch: Rows per batch.
        seed: Of the order.
        device: Where the network is; batches for a GPU are pinned by the loader's processes.
        workers: Processes that augment images one by one; 0 for none.
    """
    sampler = EpochSampler(len(dataset), batch, seed, shuffle_window(recipe, dataset.images), dataset.prefetch)
    workers = workers if dataset.needs_workers else 0
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context=start_server() if workers else None,  # once for all folds of this process
        pin_memory=device.type == "cuda" and workers > 0,
        worker_init_fn=_end_with_trainer if workers else None,
    )
    return loader, sampler


def _end_with_trainer(_worker: int) -> None:
    """End this loader process with the one that trains, though both were started by a server."""
    end_with_parent()
