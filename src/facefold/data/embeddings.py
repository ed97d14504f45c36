"""Features of the images that were computed elsewhere, as a person or embed.py leaves them under the root.

features/<name>.npy   float32 (n, F)
features/<name>.csv   id, of each row: train and test rows together, each once
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.cache import ImageCache
from facefold.data.competition import SPLITS, Competition
from facefold.utils.errors import InputError
from facefold.utils.files import (
    is_intact,
    lock_directory,
    read_csv,
    read_npy,
    remove_files,
    write_csv,
    write_npy_blocks,
)
from facefold.utils.npy import NpyRows

BLOCK = 512  # rows that a killed job computes again at most


def embeddings_path(root: Path, name: str) -> Path:
    return root / "features" / f"{name}.npy"


def load_embeddings(competition: Competition, name: str) -> dict[str, ImageCache]:
    """Load the features of each split, float32 (n, 1, 1, F) as `pixels`, in the order of its csv.

    Raise one `InputError` that lists ids that are missing, unknown or there twice, and values that are not finite.
    """
    path = embeddings_path(competition.root, name)
    if not path.exists() or not path.with_suffix(".csv").exists():
        raise InputError(f"{path} and {path.with_suffix('.csv')} have to be there: write them, or run src/embed.py")
    values, ids = read_npy(path), read_csv(path.with_suffix(".csv"), {"id": str})["id"]
    if values.ndim != 2 or len(values) != len(ids) or values.dtype.kind != "f":
        raise InputError(f"{path} holds {values.dtype} {values.shape} for {len(ids)} ids: float (n, F) is needed")
    expected = [*competition.ids("train"), *competition.ids("test")]
    broken = ids[~np.isfinite(values).all(axis=1)]
    problems = [
        *(f"{id} is missing" for id in sorted(set(expected) - set(ids))),
        *(f"{id} is neither in train.csv nor in test.csv" for id in sorted(set(ids) - set(expected))),
        *(f"{id} appears twice" for id in ids[ids.duplicated()].unique()),
        *(f"{id} has a value that is not finite" for id in broken),
    ]
    if problems:
        raise InputError.of(f"{path} does not have one row of numbers for each id:", problems, limit=10)
    row_of = {id: row for row, id in enumerate(ids)}
    images = {}
    for split in SPLITS:
        rows = [row_of[id] for id in competition.ids(split)]
        images[split] = ImageCache(competition.ids(split), values[rows].astype(np.float32)[:, None, None, :])
    return images


def embeddings_source(name: str, images: dict[str, ImageCache]) -> dict[str, str]:
    """Return where the features of a run come from, for run.json: the file and the sha256 (hex) of its values."""
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(np.ascontiguousarray(images[split].pixels))
    return {"source": f"features/{name}.npy", "sha256": digest.hexdigest()}


@contextmanager
def new_embeddings(root: Path, name: str) -> Iterator[Path]:
    """Yield the path of features that only this process and its workers write.

    Raise `InputError` if they are there already, or if another process writes them.
    """
    path = embeddings_path(root, name)
    with lock_directory(path.parent / f".{name}.lock"):
        if path.exists():
            for blocks in path.parent.glob(f".{name}_" + "[0-9a-f]" * 16):  # of a job that was killed at its very end
                shutil.rmtree(blocks, ignore_errors=True)
            raise InputError(f"{path} is there already: choose another --name, or delete it")
        yield path


def compute_blocks(
    competition: Competition,
    name: str,
    key: str,
    compute: Callable[[str, np.ndarray], np.ndarray],
    part: int = 0,
    parts: int = 1,
) -> list[Path]:
    """Compute the features in blocks, which a killed job keeps; return the files of all blocks, in order.

    Raise `InputError` for a block that is not finite or not (rows, F).

    Args:
        competition: Whose images.
        name: Of the features, inside `new_embeddings`.
        key: Hex digits of whatever decides the values: blocks of another key are not used.
        compute: (split, positions in its csv) -> float (rows, F).
        part: From which block on those that are missing are computed, from 0.
        parts: Every how many blocks.
    """
    folder = embeddings_path(competition.root, name).parent / f".{name}_{key}"
    starts = [(split, start) for split in SPLITS for start in range(0, len(competition.ids(split)), BLOCK)]
    blocks = [folder / f"{split}_{start}.npy" for split, start in starts]
    for (split, start), block in list(zip(starts, blocks, strict=True))[part::parts]:
        if not is_intact(block):
            ids = competition.ids(split)[start : start + BLOCK]
            values = np.asarray(compute(split, np.arange(start, start + len(ids))), np.float32)
            write_npy_blocks(block, len(ids), [_checked(values, ids)])
    return blocks


def write_embeddings(
    competition: Competition, name: str, key: str, compute: Callable[[str, np.ndarray], np.ndarray]
) -> None:
    """Compute the blocks that are missing and join all of them into both files; arguments as of `compute_blocks`."""
    path, blocks = embeddings_path(competition.root, name), compute_blocks(competition, name, key, compute)
    joined = NpyRows(blocks)
    write_csv(path.with_suffix(".csv"), pd.DataFrame({"id": [id for split in SPLITS for id in competition.ids(split)]}))
    write_npy_blocks(
        path, len(joined), (joined[start : start + BLOCK] for start in range(0, len(joined), BLOCK)), checksum=False
    )
    remove_files(blocks[0].parent, "*")
    blocks[0].parent.rmdir()


def _checked(block: np.ndarray, ids: list[str]) -> np.ndarray:
    if block.ndim != 2 or len(block) != len(ids):
        raise InputError(f"{len(ids)} images have features of the shape {block.shape}, not ({len(ids)}, F)")
    broken = [id for id, row in zip(ids, block, strict=True) if not np.isfinite(row).all()]
    if broken:
        raise InputError.of("the features of these images are not finite:", broken, limit=10)
    return block
