"""Cache all images as uint8: decoded, cropped and resized once, in shards on disk that all folds and epochs read.

cache/<split>_<size>px_<images hash>_<shard>.npy   uint8 (n, size, size, 3) RGB, at most `SHARD_BYTES` of images, in the
                                                   order of the csv; each with its .sha256
cache/<split>_<size>px_crop<crop>_<images hash>_<shard>.npy   the same of the middle of each image
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from facefold.data.audit import load_images_hash
from facefold.data.competition import SPLITS, Competition
from facefold.data.images import decode_image, map_images
from facefold.data.preprocessing import Preprocessing
from facefold.utils.console import no_bar
from facefold.utils.files import (
    HASHED,
    is_intact,
    lock_directory,
    remove_files,
    require_disk_space,
    write_npy_blocks,
)
from facefold.utils.npy import NpyRows
from facefold.utils.processes import core_count

TIMED_IMAGES = 50
SHARD_BYTES = 1 << 30  # what a damaged file or a killed job costs to write again


@dataclass(frozen=True)
class ImageCache:
    """Images of one split with one preprocessing.

    ids: the n ids in the order of the csv. pixels: uint8 (n, size, size, 3) RGB, read from disk by row.
    """

    ids: list[str]
    pixels: NpyRows | np.ndarray

    def rows(self, ids: list[str]) -> np.ndarray:
        """Return the int64 positions (len(ids),) of these ids."""
        row_of = {id: row for row, id in enumerate(self.ids)}
        return np.fromiter((row_of[id] for id in ids), dtype=np.int64, count=len(ids))


def build_caches(competition: Competition, preprocessing: Preprocessing) -> None:
    """Write the shards of both splits that are missing or damaged, before processes open them in parallel."""
    for split in SPLITS:
        _build(competition, split, preprocessing)


def estimate_cache_seconds(competition: Competition, preprocessing: Preprocessing) -> float:
    """Estimate how long `build_caches` takes on free cores, by the CPU seconds of `TIMED_IMAGES` images per split."""
    seconds = 0.0
    for split in SPLITS:
        if missing := _count_missing(competition, split, preprocessing):
            timed, start = competition.ids(split)[:TIMED_IMAGES], time.process_time()
            for id in timed:
                decode_image(competition.image_path(split, id), preprocessing.size, preprocessing.crop)
            seconds += (time.process_time() - start) * missing / len(timed) / core_count()
    return seconds


def open_cache(competition: Competition, split: str, preprocessing: Preprocessing) -> ImageCache:
    """Open the cache of `split`; build it if it is missing.

    Checksums are verified by `build_caches` only.
    """
    if _count_missing(competition, split, preprocessing):
        _build(competition, split, preprocessing)
    return ImageCache(competition.ids(split), NpyRows([path for path, _ in _shards(competition, split, preprocessing)]))


def join_caches(first: ImageCache, second: ImageCache) -> ImageCache:
    """Return the images of both caches as one: first those of `first`, whose rows keep their numbers.

    The ids of train and test differ, which `load_competition` checks.
    """
    ids = [*first.ids, *second.ids]
    if isinstance(first.pixels, NpyRows) and isinstance(second.pixels, NpyRows):
        return ImageCache(ids, NpyRows([*first.pixels.sources, *second.pixels.sources]))
    return ImageCache(ids, np.concatenate([first.pixels, second.pixels]))


def missing_cache_bytes(competition: Competition, preprocessing: Preprocessing) -> int:
    """Return how many bytes `build_caches` will write."""
    missing = sum(_count_missing(competition, split, preprocessing) for split in SPLITS)
    return 3 * preprocessing.size**2 * missing


def _count_missing(competition: Competition, split: str, preprocessing: Preprocessing) -> int:
    return sum(len(ids) for path, ids in _shards(competition, split, preprocessing) if not path.exists())


def _stem(split: str, preprocessing: Preprocessing) -> str:
    """Return how the names of the shards begin."""
    crop = "" if preprocessing.crop == 1 else f"_crop{preprocessing.crop}"
    return f"{split}_{preprocessing.size}px{crop}"


def _shards(competition: Competition, split: str, preprocessing: Preprocessing) -> list[tuple[Path, list[str]]]:
    """Return the file and the ids of each shard. Its name has the images' hash, so changed images get a new cache."""
    ids, rows = competition.ids(split), max(1, SHARD_BYTES // (3 * preprocessing.size**2))
    stem = f"{_stem(split, preprocessing)}_{load_images_hash(competition.root)[:12]}"
    return [
        (competition.root / "cache" / f"{stem}_{number}.npy", ids[start : start + rows])
        for number, start in enumerate(range(0, len(ids), rows))
    ]


def _build(competition: Competition, split: str, preprocessing: Preprocessing) -> None:
    """Write the shards that are missing or damaged; one process at a time, others wait for it."""
    size, crop = preprocessing.size, preprocessing.crop
    with lock_directory(competition.root / "competition", wait=True):
        shards = _shards(competition, split, preprocessing)
        missing = [(path, ids) for path, ids in shards if not is_intact(path)]
        if not missing:
            return
        folder, intact = competition.root / "cache", {path for path, _ in shards} - {path for path, _ in missing}
        # damaged, or of images that have changed since
        remove_files(folder, f"{_stem(split, preprocessing)}_{HASHED}_[0-9]*", intact)
        rows = sum(len(ids) for _, ids in missing)
        require_disk_space(folder, rows * 3 * size**2, f"the {split} images at {size} pixels")

        def decode(ids: list[str]) -> Iterator[np.ndarray]:
            for pixels in map_images(lambda id: decode_image(competition.image_path(split, id), size, crop), ids):
                bar.update()
                yield pixels[None]

        with tqdm(total=rows, desc=f"cache {split} {size} px", disable=no_bar()) as bar:
            for path, ids in missing:
                write_npy_blocks(path, len(ids), decode(ids))
