"""Cache all images as uint8: decoded, cropped and resized once, in shards on disk that all folds and epochs read.

cache/<split>_<size>px_<images hash>_<shard>.npy   uint8 (n, height, width, 3) RGB, at most `SHARD_BYTES` of images, in
                                                   the order of the csv; each with its .sha256; extra rows are a split;
                                                   size is 128 for a square, else 192x128 (height, width)
cache/<split>_<size>px_crop<crop>_<images hash>_<shard>.npy   the same of the middle of each image
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from facefold.data.competition import SPLITS, Competition
from facefold.data.extra_rows import NO_EXTRA_ROWS, ExtraRows
from facefold.data.image_hashes import load_images_hash
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

    ids: the n ids in the order of the csv. pixels: uint8 (n, height, width, 3) RGB, read from disk by row.
    """

    ids: list[str]
    pixels: NpyRows | np.ndarray

    def rows(self, ids: list[str]) -> np.ndarray:
        """Return the int64 positions (len(ids),) of these ids."""
        row_of = {id: row for row, id in enumerate(self.ids)}
        return np.fromiter((row_of[id] for id in ids), dtype=np.int64, count=len(ids))


class _Split(NamedTuple):
    """The images of one split: train, test or extra.

    root: holds cache/. hash: of the images, hex. ids: in order. path: of the image of an id.
    """

    root: Path
    name: str
    hash: str
    ids: list[str]
    path: Callable[[str], Path]


def build_caches(competition: Competition, preprocessing: Preprocessing, extra: ExtraRows = NO_EXTRA_ROWS) -> None:
    """Write the shards of all splits that are missing or damaged, before processes open them in parallel."""
    for split in _splits(competition, extra):
        _build(split, preprocessing)


@contextmanager
def build_caches_ahead(
    competition: Competition,
    preprocessings: Sequence[Preprocessing],
    extra: ExtraRows = NO_EXTRA_ROWS,
    meanwhile: bool = False,
) -> Iterator[None]:
    """Build the caches of all `preprocessings` before the block, or with `meanwhile` only the first one's.

    The others are then built while the block runs: processes that open one of them too early wait for it. An error in
    building is raised at the end of the block.
    """
    errors, waiting = [], list(preprocessings[1:]) if meanwhile else []

    def build() -> None:
        try:
            for preprocessing in waiting:
                build_caches(competition, preprocessing, extra)
        except Exception as error:
            errors.append(error)

    for preprocessing in preprocessings[: len(preprocessings) - len(waiting)]:
        build_caches(competition, preprocessing, extra)
    thread = Thread(target=build, daemon=True)  # so that a step that is stopped ends at once
    thread.start()
    yield
    thread.join()
    for error in errors:
        raise error


def estimate_cache_seconds(competition: Competition, preprocessing: Preprocessing) -> float:
    """Estimate how long `build_caches` takes on free cores, by the CPU seconds of `TIMED_IMAGES` images per split."""
    seconds = 0.0
    for split in _splits(competition):
        if missing := _count_missing(split, preprocessing):
            timed, start = split.ids[:TIMED_IMAGES], time.process_time()
            for id in timed:
                decode_image(split.path(id), preprocessing.size, preprocessing.crop)
            seconds += (time.process_time() - start) * missing / len(timed) / core_count()
    return seconds


def open_cache(competition: Competition, split: str, preprocessing: Preprocessing) -> ImageCache:
    """Open the cache of `split`; build it if it is missing.

    Checksums are verified by `build_caches` only.
    """
    return _open(_competition_split(competition, split), preprocessing)


def open_extra_cache(root: Path, extra: ExtraRows, preprocessing: Preprocessing) -> ImageCache:
    """Open the cache of the extra rows, of which there are some, as `open_cache`; root: of the competition."""
    return _open(_extra_split(root, extra), preprocessing)


def join_caches(first: ImageCache, second: ImageCache) -> ImageCache:
    """Return the images of both caches as one: first those of `first`, whose rows keep their numbers.

    The ids of train and test differ, which `load_competition` checks.
    """
    ids = [*first.ids, *second.ids]
    if isinstance(first.pixels, NpyRows) and isinstance(second.pixels, NpyRows):
        return ImageCache(ids, NpyRows([*first.pixels.sources, *second.pixels.sources]))
    return ImageCache(ids, np.concatenate([first.pixels, second.pixels]))


def missing_cache_bytes(
    competition: Competition, preprocessing: Preprocessing, extra: ExtraRows = NO_EXTRA_ROWS
) -> int:
    """Return how many bytes `build_caches` will write."""
    missing = sum(_count_missing(split, preprocessing) for split in _splits(competition, extra))
    return preprocessing.image_bytes * missing


def _splits(competition: Competition, extra: ExtraRows = NO_EXTRA_ROWS) -> list[_Split]:
    splits = [_competition_split(competition, name) for name in SPLITS]
    return [*splits, _extra_split(competition.root, extra)] if extra.rows else splits


def _competition_split(competition: Competition, name: str) -> _Split:
    root = competition.root
    return _Split(root, name, load_images_hash(root), competition.ids(name), partial(competition.image_path, name))


def _extra_split(root: Path, extra: ExtraRows) -> _Split:
    paths = dict(zip(extra.ids, (row.path for row in extra.rows), strict=True))
    return _Split(root, "extra", extra.hash, extra.ids, paths.__getitem__)


def _open(split: _Split, preprocessing: Preprocessing) -> ImageCache:
    if _count_missing(split, preprocessing):
        _build(split, preprocessing)
    return ImageCache(split.ids, NpyRows([path for path, _ in _shards(split, preprocessing)]))


def _count_missing(split: _Split, preprocessing: Preprocessing) -> int:
    return sum(len(ids) for path, ids in _shards(split, preprocessing) if not path.exists())


def _stem(split: _Split, preprocessing: Preprocessing) -> str:
    """Return how the names of the shards begin."""
    crop = "" if preprocessing.crop == 1 else f"_crop{preprocessing.crop}"
    return f"{split.name}_{preprocessing.size}px{crop}"


def _shards(split: _Split, preprocessing: Preprocessing) -> list[tuple[Path, list[str]]]:
    """Return the file and the ids of each shard. Its name has the images' hash, so changed images get a new cache."""
    rows = max(1, SHARD_BYTES // preprocessing.image_bytes)
    stem = f"{_stem(split, preprocessing)}_{split.hash[:12]}"
    return [
        (split.root / "cache" / f"{stem}_{number}.npy", split.ids[start : start + rows])
        for number, start in enumerate(range(0, len(split.ids), rows))
    ]


def _build(split: _Split, preprocessing: Preprocessing) -> None:
    """Write the shards that are missing or damaged; one process at a time, others wait for it."""
    size, crop = preprocessing.size, preprocessing.crop
    with lock_directory(split.root / "competition", wait=True):
        shards = _shards(split, preprocessing)
        missing = [(path, ids) for path, ids in shards if not is_intact(path)]
        if not missing:
            return
        folder, intact = split.root / "cache", {path for path, _ in shards} - {path for path, _ in missing}
        # Damaged, or of images that have changed since. Other extra rows may be those of a job that runs now.
        former = HASHED if split.name in SPLITS else split.hash[:12]
        remove_files(folder, f"{_stem(split, preprocessing)}_{former}_[0-9]*", intact)
        rows = sum(len(ids) for _, ids in missing)
        require_disk_space(folder, rows * preprocessing.image_bytes, f"the {split.name} images at {size} pixels")

        def decode(ids: list[str]) -> Iterator[np.ndarray]:
            for pixels in map_images(lambda id: decode_image(split.path(id), size, crop), ids):
                bar.update()
                yield pixels[None]

        with tqdm(total=rows, desc=f"cache {split.name} {size} px", disable=no_bar()) as bar:
            for path, ids in missing:
                write_npy_blocks(path, len(ids), decode(ids))
