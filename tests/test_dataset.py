"""What a network reads, and in which order."""

import dataclasses
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import numpy as np
import torch

from facefold.augment.per_image import ImageAugment
from facefold.data.cache import ImageCache
from facefold.models.recipe import parse_recipe
from facefold.training import dataset
from facefold.utils.npy import NpyRows
from tiny_fold import CPU, TINY, fit, images, make_task


def test_epochs_are_permutations_in_batches_that_differ_and_repeat_by_seed():
    def rows(sampler):
        epochs, parts = zip(*sampler)
        assert set(epochs) == {sampler.epoch} and {len(part) for part in parts} == {5}
        return np.concatenate(parts).tolist()

    sampler = dataset.EpochSampler(20, 5, 7)
    first = rows(sampler)
    sampler.epoch = 1
    second = rows(sampler)
    assert sorted(first) == sorted(second) == list(range(20)) and first != second
    assert rows(dataset.EpochSampler(20, 5, 7)) == first != rows(dataset.EpochSampler(20, 5, 6))
    assert len(dataset.EpochSampler(23, 5, 7)) == 4 and len(set(rows(dataset.EpochSampler(23, 5, 7)))) == 20


def test_an_epoch_of_blocks_reads_each_row_once_and_a_window_at_a_time(monkeypatch):
    monkeypatch.setattr(dataset, "BLOCKS_PER_WINDOW", 4)
    prefetched = []
    sampler = dataset.EpochSampler(1000, 10, 7, 80, lambda epoch, rows: prefetched.append((epoch, rows)))
    order = []
    for epoch, rows in sampler:
        order += rows.tolist()
        assert epoch == 0 and len(np.concatenate([window for _, window in prefetched])) >= min(
            1000, len(order) + 80
        )  # a window ahead
    assert sorted(order) == list(range(1000))
    assert [window.tolist() for _, window in prefetched] == [order[start : start + 80] for start in range(0, 1000, 80)]
    for start in range(0, 960, 80):
        window = sorted(order[start : start + 80])
        assert {row // 20 for row in window} == {row // 20 for row in window[::20]} and len(
            {row // 20 for row in window}
        ) == 4
        assert order[start : start + 80] != window
    sampler.epoch = 1
    assert [row for _, rows in sampler for row in rows.tolist()] != order


def test_only_images_that_memory_may_not_keep_are_shuffled_in_blocks(tmp_path, monkeypatch):
    fold = make_task(tmp_path, {**TINY, "epochs": 1})
    assert (
        dataset.shuffle_mode(fold.recipe, fold.train_images) == "rows"
        and dataset.shuffle_window(fold.recipe, fold.train_images) == 0
    )
    monkeypatch.setattr(dataset, "BLOCKS_FROM", fold.train_images.pixels.nbytes - 1)
    assert dataset.shuffle_mode(fold.recipe, fold.train_images) == "blocks"
    assert dataset.shuffle_window(fold.recipe, fold.train_images) == (256 << 20) // fold.train_images.pixels[0].nbytes
    assert dataset.shuffle_mode(dataclasses.replace(fold.recipe, shuffle="rows"), fold.train_images) == "rows"
    assert fit(fold).facts["shuffle"] == "blocks"


def test_rows_find_their_pixels_and_labels_by_id():
    cache, labels = images("a", 6)
    unchanged = dataset.AugmentedImages(
        dataset.ImageSource(cache, CPU), parse_recipe("r", {**TINY, "augment": "none"}, "r.toml"), 0
    )
    pixels, label = dataset.TrainDataset(["a4", "a1"], torch.tensor([0.0, 1.0]), cache, unchanged)[0, np.array([1, 0])]
    assert np.array_equal(pixels.numpy(), cache.pixels[[1, 4]]) and label.tolist() == [1, 0] and labels[1] == 1


def test_images_held_on_a_device_are_those_of_the_cache(monkeypatch):
    cache, _ = images("a", 9)
    read, copied = dataset.ImageSource(cache, CPU), dataset.ImageSource(cache, CPU)
    copied.device = SimpleNamespace(type="cuda")
    monkeypatch.setattr(dataset, "fits_on_gpu", lambda images, device: True)
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, device, empty=torch.empty: empty(shape, dtype=dtype))
    monkeypatch.setattr(dataset, "COPY_CHUNK", 4)
    assert copied.on_gpu.shape == (9, 32, 32, 3)
    copied.device = CPU
    for rows in (np.array([7, 0, 7]), np.arange(9)):
        assert np.array_equal(copied(rows), read(rows)) and np.array_equal(read(rows), cache.pixels[rows])


def test_a_batch_is_augmented_row_by_row():
    cache, _ = images("a", 6)
    together = dataset.AugmentedImages(dataset.ImageSource(cache, CPU), parse_recipe("r", TINY, "r.toml"), 3)(
        2, np.array([5, 0])
    )
    alone = ImageAugment("standard", 3)(np.array(cache.pixels[0]), 2, "a0")
    assert np.array_equal(together[1].numpy(), alone) and not np.array_equal(together[0].numpy(), cache.pixels[5])


def test_a_cache_on_disk_travels_by_name(tmp_path):
    cache, _ = images("a", 8)
    np.save(tmp_path / "a.npy", cache.pixels)
    travelled = ForkingPickler.dumps(ImageCache(cache.ids, NpyRows([tmp_path / "a.npy"])))
    assert len(travelled) < 1000 and np.array_equal(ForkingPickler.loads(travelled).pixels, cache.pixels)
    assert np.array_equal(ForkingPickler.loads(ForkingPickler.dumps(cache)).pixels, cache.pixels)


def test_loader_processes_end_with_the_one_that_trains(monkeypatch):
    """The loader's own watch sees the server that started it, which outlives the trainer."""
    cache, _ = images("a", 8)
    recipe = parse_recipe("r", TINY, "r.toml")
    augmented = dataset.AugmentedImages(dataset.ImageSource(cache, CPU), recipe, 0)
    rows = dataset.TrainDataset(cache.ids, torch.zeros(8), cache, augmented)
    monkeypatch.setattr(dataset, "start_server", lambda: "spawn")
    ended = []
    monkeypatch.setattr(dataset, "end_with_parent", lambda: ended.append(True))
    dataset.train_batches(rows, recipe, 4, 0, CPU, workers=2)[0].worker_init_fn(0)
    assert ended == [True]
    assert dataset.train_batches(rows, recipe, 4, 0, CPU, workers=0)[0].worker_init_fn is None
