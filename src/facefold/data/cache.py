"""The uint8 cache: every image decoded and resized once, in shards on disk that all folds and epochs read.

cache/<split>_<size>px_<fingerprint>_<shard>.npy   uint8 (n, size, size, 3) RGB, `SHARD` bytes of images at most, in the order
                                                   of the csv; each with its .sha256
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from facefold.data.audit import load_images_hash
from facefold.data.competition import Competition
from facefold.data.images import decode_image
from facefold.utils.console import no_bar
from facefold.utils.files import (
    atomic_path,
    checksum_path,
    is_intact,
    lock_directory,
    npy_header,
    require_disk_space,
    write_checksum,
)
from facefold.utils.npy import NpyRows
from facefold.utils.processes import core_count

TIMED_IMAGES = 50
SHARD_BYTES = (
    1 << 30
)  # bytes: what a damaged file or a killed job costs to make again, and what travels to another machine in one piece

_CHUNK = 256  # images decoded ahead of what is on disk: bounds the memory, and how long a stop takes


@dataclass(frozen=True)
class ImageCache:
    """Images of one split at one size.

    ids: the n ids in the order of the csv. pixels: uint8 (n, size, size, 3) RGB, read from disk by the rows asked for.
    """

    ids: list[str]
    pixels: NpyRows | np.ndarray

    def rows(self, ids: list[str]) -> np.ndarray:
        """The int64 positions (len(ids),) of these ids."""
        place = {id: row for row, id in enumerate(self.ids)}
        return np.fromiter((place[id] for id in ids), dtype=np.int64, count=len(ids))


def build_caches(competition: Competition, size: int) -> None:
    """Make the caches of both splits where they are missing or damaged, so that processes that open them side by side do not."""
    for split in ("train", "test"):
        _build(competition, split, size)


def estimate_cache_seconds(competition: Competition, size: int) -> float:
    """How long `build` will take, from `TIMED` images of each split of which something is not there."""
    seconds = 0.0
    for split in ("train", "test"):
        ids = _ids(competition, split)
        left = sum(len(part) for path, part in _shards(competition, split, size) if not path.exists())
        if left:
            started = time.perf_counter()
            for id in ids[:TIMED_IMAGES]:
                decode_image(competition.image_path(split, id), size)
            seconds += (time.perf_counter() - started) * left / len(ids[:TIMED_IMAGES]) / core_count()
    return seconds


def open_cache(competition: Competition, split: str, size: int) -> ImageCache:
    """The cache of `split` (train or test) at `size` pixels a side, built now if it is not there; `build` has looked at its bytes."""
    shards = [path for path, _ in _shards(competition, split, size)]
    if not all(path.exists() for path in shards):
        _build(competition, split, size)
    return ImageCache(_ids(competition, split), NpyRows(shards))


def missing_cache_bytes(competition: Competition, size: int) -> int:
    """The room that `build` will take."""
    return sum(
        len(ids) * _image_bytes(size)
        for split in ("train", "test")
        for path, ids in _shards(competition, split, size)
        if not path.exists()
    )


def _ids(competition: Competition, split: str) -> list[str]:
    return (competition.train if split == "train" else competition.test)["id"].tolist()


def _image_bytes(size: int) -> int:
    return size * size * 3


def _shards(competition: Competition, split: str, size: int) -> list[tuple[Path, list[str]]]:
    """Each shard's file and its ids. The name carries the images' fingerprint, so images that changed never meet an old cache."""
    ids, rows = _ids(competition, split), max(1, SHARD_BYTES // _image_bytes(size))
    stem = competition.root / "cache" / f"{split}_{size}px_{load_images_hash(competition.root)[:12]}"
    return [
        (stem.with_name(f"{stem.name}_{number}.npy"), ids[start : start + rows])
        for number, start in enumerate(range(0, len(ids), rows))
    ]


def _build(competition: Competition, split: str, size: int) -> None:
    """Make the shards that are not there whole; one process at a time, others wait for it."""
    with lock_directory(competition.root / "competition", wait=True):
        shards = _shards(competition, split, size)
        left = [(path, ids) for path, ids in shards if not is_intact(path)]
        if not left:
            return
        kept = {
            file
            for path in {path for path, _ in shards} - {path for path, _ in left}
            for file in (path, checksum_path(path))
        }
        folder = competition.root / "cache"
        for old in [*folder.glob(f"{split}_{size}px_*"), *folder.glob(f".{split}_{size}px_*.part")]:
            if old not in kept:
                old.unlink()  # damaged, or of images that have changed since, or of a process that was killed
        rows = sum(len(ids) for _, ids in left)
        require_disk_space(folder, rows * _image_bytes(size), f"the {split} images at {size} pixels")
        with (
            ThreadPoolExecutor(core_count()) as pool,
            tqdm(total=rows, desc=f"cache {split} {size} px", disable=no_bar()) as bar,
        ):
            for path, ids in left:
                with atomic_path(path) as temporary, open(temporary, "wb") as out:
                    npy_header(out, np.dtype(np.uint8), (len(ids), size, size, 3))
                    for start in range(0, len(ids), _CHUNK):
                        part = [competition.image_path(split, id) for id in ids[start : start + _CHUNK]]
                        for pixels in pool.map(
                            lambda path: decode_image(path, size), part
                        ):  # OpenCV decodes outside the interpreter's lock
                            out.write(pixels.tobytes())
                        bar.update(len(part))
                    out.flush()
                    write_checksum(path, temporary)
