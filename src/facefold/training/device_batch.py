"""What a training step on a GPU reads: the processor draws and decodes ahead, the rest happens on the device."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from facefold.data.preprocessing import Shape
from facefold.training.dataset import ImageSource, TrainDataset, shrink

_ROW = 2  # float32 columns that hold the int64 number of a row
AHEAD = 2  # batches that are read while the GPU is busy with others


class HostDataset(TrainDataset):
    """`dataset[epoch, rows]`: the processor's part of a batch.

    First one float32 tensor (N, 2 + columns): the numbers of the rows, their bits as two columns, and where whole
    batches are augmented the table of `BranchlessAugment`. Then what the network reads of the rows, or their images
    uint8 (N, H, W, 3), unless the device has all images.
    """

    def __getitem__(self, index: tuple[int, np.ndarray]) -> tuple[Tensor, ...]:
        epoch, rows = index
        numbers = np.ascontiguousarray(rows, np.int64).view(np.float32).reshape(-1, _ROW)
        if not self.augments_batches:
            return torch.from_numpy(numbers), super().__getitem__(index)[0]
        cache_rows = self.cache_rows[rows]
        numbers = torch.from_numpy(np.hstack([numbers, self.augmented.draw(epoch, cache_rows)]))
        if self.augmented.resident:
            return (numbers,)
        return numbers, torch.from_numpy(self.images.pixels[cache_rows])


class DeviceBatch:
    """`batch(host, shape)`: inputs and labels on `device`, from what `HostDataset` returned; the same steps each time.

    Args:
        dataset: What to train on.
        images: Its images, which lie on the device where they fit.
        device: Where to make the batch.
    """

    def __init__(self, dataset: TrainDataset, images: ImageSource, device: torch.device):
        self.device, self._labels = device, dataset.labels.to(device)
        self._augment = dataset.augmented.branchless if dataset.augments_batches else None
        self._images = images.on_gpu if dataset.augments_batches else None
        self._cache_rows = torch.from_numpy(dataset.cache_rows).to(device)

    def __call__(self, host: Sequence[Tensor], shape: Shape) -> tuple[Tensor, Tensor]:
        """Return what the network reads, images uint8 (N, *shape, 3) or activations, and the labels (N, ..)."""
        numbers, *given = host
        rows = numbers[:, :_ROW].contiguous().view(torch.int64)[:, 0]
        labels = self._labels[rows]
        if self._augment is None:
            return given[0], labels
        pixels = given[0] if self._images is None else self._images[self._cache_rows[rows]]
        images = self._augment(pixels, numbers[:, _ROW:])
        return images if shape == images.shape[1:3] else shrink(images, shape), labels


def read_ahead(batches: Iterable[tuple[Tensor, ...]], device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """Yield the batches, which a thread reads `AHEAD` of time, into pinned memory for a GPU."""
    iterator = iter(batches)

    def read() -> tuple[Tensor, ...] | None:
        batch = next(iterator, None)
        pinned = batch is not None and device.type == "cuda"
        return tuple(part.pin_memory() for part in batch) if pinned else batch

    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(read) for _ in range(AHEAD))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(read))
            yield batch
