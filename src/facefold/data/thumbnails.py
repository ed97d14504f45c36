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

from facefold.data.audit import load_images_hash
from facefold.data.competition import Competition
from facefold.data.images import JpegHeader, read_thumbnail
from facefold.utils.console import no_bar
from facefold.utils.files import atomic_path, is_intact, lock_directory, npy_header, read_csv, write_checksum, write_csv
from facefold.utils.npy import NpyRows
from facefold.utils.processes import core_count

SIDE = 32  # pixels; faces of 200 pixels that differ by JPEG quality, size or light alone correlate by 0.97 or more at this size
_CHUNK = 1024  # images looked at ahead of what is on disk: bounds the memory
VERSION = 1  # raise it when images.glance changes its mind
_COLUMNS = {"split": str, "id": str, **{field.name: field.type for field in fields(JpegHeader)}}


@dataclass(frozen=True)
class Thumbnails:
    """headers: split, id and the columns of `images.Header`, n rows; grey: uint8 (n, SIDE, SIDE), read from disk by the rows asked
    for."""

    headers: pd.DataFrame
    grey: NpyRows


def load_thumbnails(competition: Competition) -> Thumbnails:
    """The glance at all images that `integrity.check` found sound, taken now where it is not kept for these very images."""
    stem = f"glance_{VERSION}_{load_images_hash(competition.root)[:12]}"
    table, pixels = (competition.root / "cache" / f"{stem}.{kind}" for kind in ("csv", "npy"))
    if not (is_intact(table) and is_intact(pixels)):
        with lock_directory(competition.root / "competition", wait=True):
            _take(competition, table, pixels)
    return Thumbnails(read_csv(table, _COLUMNS), NpyRows([pixels]))


def _take(competition: Competition, table: Path, pixels: Path) -> None:
    for old in [*table.parent.glob("glance_*"), *table.parent.glob(".glance_*.part")]:
        old.unlink()  # of images that have changed since, or of a process that was killed
    rows = [(split, id) for split in ("train", "test") for id in getattr(competition, split)["id"]]
    headers = []
    with (
        atomic_path(pixels) as temporary,
        open(temporary, "wb") as out,
        ThreadPoolExecutor(core_count()) as pool,
        tqdm(total=len(rows), desc="a glance at each", unit="img", disable=len(rows) < 1000 or no_bar()) as bar,
    ):
        npy_header(out, np.dtype(np.uint8), (len(rows), SIDE, SIDE))
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            for grey, header in pool.map(
                lambda row: read_thumbnail(competition.image_path(*row), SIDE), part
            ):  # OpenCV decodes unlocked
                headers.append(astuple(header))
                out.write(grey.tobytes())
            bar.update(len(part))
        out.flush()
        facts = pd.DataFrame(headers, columns=[field.name for field in fields(JpegHeader)])
        write_csv(table, pd.concat([pd.DataFrame(rows, columns=["split", "id"]), facts], axis=1))
        write_checksum(table)
        write_checksum(pixels, temporary)
