"""The uint8 cache: every image decoded and resized once, in one array on disk that all folds and epochs map."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from facefold import files
from facefold.data import images, integrity
from facefold.data.competition import Competition
from facefold.processes import cores
from facefold.terminal import no_bar

TIMED = 50

_CHUNK = 256  # images decoded ahead of what is on disk: bounds the memory, and how long a stop takes


@dataclass(frozen=True)
class ImageCache:
    """Images of one split at one size.

    ids: the n ids in the order of the csv. pixels: uint8 (n, size, size, 3) RGB, mapped read-only from disk.
    """

    ids: list[str]
    pixels: np.ndarray

    def __reduce__(self) -> tuple:
        """A mapped cache travels to another process as its file's name, not as gigabytes of pixels."""
        if isinstance(self.pixels, np.memmap) and self.pixels.filename:
            return _mapped, (self.ids, Path(self.pixels.filename))
        return ImageCache, (self.ids, self.pixels)

    def rows(self, ids: list[str]) -> np.ndarray:
        """The int64 positions (len(ids),) of these ids."""
        place = {id: row for row, id in enumerate(self.ids)}
        return np.fromiter((place[id] for id in ids), dtype=np.int64, count=len(ids))


def build(competition: Competition, size: int) -> None:
    """Make the caches of both splits where they are missing or damaged, so that processes that open them side by side do not."""
    for split in ("train", "test"):
        _build(competition, split, size)


def expected_seconds(competition: Competition, size: int) -> float:
    """How long `build` will take, from `TIMED` images of each split that is not there."""
    seconds = 0.0
    for split in ("train", "test"):
        if not _path(competition, split, size).exists():
            ids = _ids(competition, split)
            started = time.perf_counter()
            for id in ids[:TIMED]:
                images.decode(competition.image_path(split, id), size)
            seconds += (time.perf_counter() - started) * len(ids) / len(ids[:TIMED]) / cores()
    return seconds


def open_cache(competition: Competition, split: str, size: int) -> ImageCache:
    """The cache of `split` (train or test) at `size` pixels a side, built now if it is not there; `build` has looked at its bytes."""
    path = _path(competition, split, size)
    if not path.exists():
        _build(competition, split, size)
    return _mapped(_ids(competition, split), path)


def missing_bytes(competition: Competition, size: int) -> int:
    """The room that `build` will take."""
    return sum(len(_ids(competition, split)) * size * size * 3 for split in ("train", "test")
               if not _path(competition, split, size).exists())


def _ids(competition: Competition, split: str) -> list[str]:
    return (competition.train if split == "train" else competition.test)["id"].tolist()


def _path(competition: Competition, split: str, size: int) -> Path:
    """The file's name carries the images' fingerprint, so images that changed never meet an old cache."""
    return competition.root / "cache" / f"{split}_{size}px_{integrity.fingerprint(competition.root)[:12]}.npy"


def _mapped(ids: list[str], path: Path) -> ImageCache:
    return ImageCache(ids, files.read_npy(path, mmap=True))


def _build(competition: Competition, split: str, size: int) -> None:
    """Make the cache unless it is there whole; one process at a time, others wait for it."""
    path, ids = _path(competition, split, size), _ids(competition, split)
    with files.locked(competition.root / "competition", wait=True):
        if files.whole(path):
            return
        for old in [*path.parent.glob(f"{split}_{size}px_*"), *path.parent.glob(f".{split}_{size}px_*.part")]:
            old.unlink()  # damaged, or of images that have changed since, or of a process that was killed
        files.require_space(path.parent, len(ids) * size * size * 3, f"the {split} images at {size} pixels")
        with files.replacing(path) as temporary, open(temporary, "wb") as out, ThreadPoolExecutor(cores()) as pool:
            files.npy_header(out, np.dtype(np.uint8), (len(ids), size, size, 3))
            with tqdm(total=len(ids), desc=f"cache {split} {size} px", disable=no_bar()) as bar:
                for start in range(0, len(ids), _CHUNK):
                    part = [competition.image_path(split, id) for id in ids[start:start + _CHUNK]]
                    for pixels in pool.map(lambda path: images.decode(path, size), part):  # OpenCV decodes outside the interpreter's lock
                        out.write(pixels.tobytes())
                    bar.update(len(part))
            out.flush()
            files.seal(path, temporary)
