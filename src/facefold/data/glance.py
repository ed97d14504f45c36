"""One glance at every image: a small grey picture and what the header says, read once and kept.

    cache/glance_<version>_<fingerprint>.csv   split,id and the header's facts (images.Header), rows as in images.csv
    cache/glance_<version>_<fingerprint>.npy   uint8 (n, SIDE, SIDE), the small pictures in the same order; written last
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from facefold import files
from facefold.data import images, integrity
from facefold.data.competition import Competition
from facefold.processes import cores
from facefold.terminal import no_bar

SIDE = 32  # pixels; faces of 200 pixels that differ by JPEG quality, size or light alone correlate by 0.97 or more at this size
VERSION = 1  # raise it when images.glance changes its mind
_COLUMNS = {"split": str, "id": str, **{field.name: field.type for field in fields(images.Header)}}


@dataclass(frozen=True)
class Glance:
    """headers: split, id and the columns of `images.Header`, n rows; grey: uint8 (n, SIDE, SIDE), mapped read-only from disk."""

    headers: pd.DataFrame
    grey: np.ndarray


def load(competition: Competition) -> Glance:
    """The glance at all images that `integrity.check` found sound, taken now where it is not kept for these very images."""
    stem = f"glance_{VERSION}_{integrity.fingerprint(competition.root)[:12]}"
    table, pixels = (competition.root / "cache" / f"{stem}.{kind}" for kind in ("csv", "npy"))
    if not (files.whole(table) and files.whole(pixels)):
        with files.locked(competition.root / "competition", wait=True):
            _take(competition, table, pixels)
    return Glance(files.read_csv(table, _COLUMNS), files.read_npy(pixels, mmap=True))


def _take(competition: Competition, table: Path, pixels: Path) -> None:
    for old in [*table.parent.glob("glance_*"), *table.parent.glob(".glance_*.part")]:
        old.unlink()  # of images that have changed since, or of a process that was killed
    rows = [(split, id) for split in ("train", "test") for id in getattr(competition, split)["id"]]
    with ThreadPoolExecutor(cores()) as pool:  # OpenCV decodes outside the interpreter's lock
        looks = list(tqdm(pool.map(lambda row: images.glance(competition.image_path(*row), SIDE), rows), total=len(rows),
                          desc="a glance at each", unit="img", disable=len(rows) < 1000 or no_bar()))
    facts = pd.DataFrame([asdict(header) for _, header in looks])
    files.write_csv(table, pd.concat([pd.DataFrame(rows, columns=["split", "id"]), facts], axis=1))
    files.seal(table)
    files.write_npy(pixels, np.stack([grey for grey, _ in looks]))
    files.seal(pixels)
