"""One glance at every image: a small grey picture and what the header says, read once and kept.

cache/glance_<version>_<fingerprint>.csv   split,id and the header's facts (images.Header), rows as in images.csv
cache/glance_<version>_<fingerprint>.npy   uint8 (n, SIDE, SIDE), the small pictures in the same order; written last
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from facefold import files
from facefold.data import images, integrity
from facefold.data.competition import Competition
from facefold.processes import cores
from facefold.stored import Stored
from facefold.terminal import no_bar

SIDE = 32  # pixels; faces of 200 pixels that differ by JPEG quality, size or light alone correlate by 0.97 or more at this size
_CHUNK = 1024  # images looked at ahead of what is on disk: bounds the memory
VERSION = 1  # raise it when images.glance changes its mind
_COLUMNS = {"split": str, "id": str, **{field.name: field.type for field in fields(images.Header)}}


@dataclass(frozen=True)
class Glance:
    """headers: split, id and the columns of `images.Header`, n rows; grey: uint8 (n, SIDE, SIDE), read from disk by the rows asked
    for."""

    headers: pd.DataFrame
    grey: Stored


def load(competition: Competition) -> Glance:
    """The glance at all images that `integrity.check` found sound, taken now where it is not kept for these very images."""
    stem = f"glance_{VERSION}_{integrity.fingerprint(competition.root)[:12]}"
    table, pixels = (competition.root / "cache" / f"{stem}.{kind}" for kind in ("csv", "npy"))
    if not (files.whole(table) and files.whole(pixels)):
        with files.locked(competition.root / "competition", wait=True):
            _take(competition, table, pixels)
    return Glance(files.read_csv(table, _COLUMNS), Stored([pixels]))


def _take(competition: Competition, table: Path, pixels: Path) -> None:
    for old in [*table.parent.glob("glance_*"), *table.parent.glob(".glance_*.part")]:
        old.unlink()  # of images that have changed since, or of a process that was killed
    rows = [(split, id) for split in ("train", "test") for id in getattr(competition, split)["id"]]
    headers = []
    with (
        files.replacing(pixels) as temporary,
        open(temporary, "wb") as out,
        ThreadPoolExecutor(cores()) as pool,
        tqdm(total=len(rows), desc="a glance at each", unit="img", disable=len(rows) < 1000 or no_bar()) as bar,
    ):
        files.npy_header(out, np.dtype(np.uint8), (len(rows), SIDE, SIDE))
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            for grey, header in pool.map(
                lambda row: images.glance(competition.image_path(*row), SIDE), part
            ):  # OpenCV decodes unlocked
                headers.append(astuple(header))
                out.write(grey.tobytes())
            bar.update(len(part))
        out.flush()
        facts = pd.DataFrame(headers, columns=[field.name for field in fields(images.Header)])
        files.write_csv(table, pd.concat([pd.DataFrame(rows, columns=["split", "id"]), facts], axis=1))
        files.seal(table)
        files.seal(pixels, temporary)
