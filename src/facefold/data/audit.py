"""Check that every image is there and sound, keep small grey copies of all of them, and find those that look broken.

cache/images.csv                split,id,sha256,bytes,width,height, in the order of train.csv, then test.csv
cache/images.json               what the table was made from (csv files; name, size and time of every image)
cache/thumbnails_<version>_<images hash>.csv   split,id and the fields of `JpegHeader`, rows as in images.csv
cache/thumbnails_<version>_<images hash>.npy   uint8 (n, THUMBNAIL_SIDE, THUMBNAIL_SIDE), in the same order
"""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from facefold.data.competition import (
    SPLITS,
    Competition,
    find_image,
    image_folder,
    load_competition,
    rows_file,
    rows_with_usable_id,
    stored_task,
)
from facefold.data.csv_file import Findings
from facefold.data.image_hashes import load_images_hash
from facefold.data.image_names import has_image_suffix
from facefold.data.images import ImageFacts, ImageProblem, JpegHeader, inspect_image, map_images, read_thumbnail
from facefold.data.nearest import describe_left_out, describe_nearest, nearest_files
from facefold.data.task_inference import Choices
from facefold.task import LABEL, Task
from facefold.utils.console import progress_bar
from facefold.utils.errors import InputError
from facefold.utils.files import (
    HASHED,
    is_intact,
    lock_directory,
    read_csv,
    read_json,
    remove_files,
    sha256_file,
    sha256_text,
    write_checksum,
    write_csv,
    write_json,
    write_npy_blocks,
)
from facefold.utils.npy import NpyRows
from facefold.utils.processes import core_count, process_pool

RULES = 3  # raise it when the rules for an image change, so that all images are checked again
THUMBNAIL_VERSION = 1  # raise it when read_thumbnail changes what it returns
# Pixels. At this size copies of a 200 pixel face in other JPEG quality, size or light correlate by 0.97 or more.
THUMBNAIL_SIDE = 32
# Robust standard deviations of the logarithm of the detail below its median: blurred faces had 8 to 11, the next 5.2.
BLUR = 6.0
DARK, BRIGHT = 20, 235  # mean grey level; faces had 26 to 225
_LEAST_DETAIL = 0.1  # grey levels: detail below this is none; also the least spread of its logarithm
_CHUNK = 100
_CHUNKS_PER_WORKER = 10  # starting a process takes a second or two: it must have as much to do
_BLOCK = 4096
_IMAGE_COLUMNS = {"split": str, "id": str, "sha256": str, "bytes": "int64", "width": "int64", "height": "int64"}
_HEADER_COLUMNS = {"split": str, "id": str, **JpegHeader.__annotations__}
_SHARED = "is the image of an earlier row as well; each needs its own (that of the id a/1.jpg may be called a__1.jpg)"
_HINT = (
    "Replace these images by sound ones, or take the rows and the images out, then run `python src/audit.py` again. "
    "To start over from the download: delete competition/ and run `python src/audit.py --data ZIP`."
)


class Thumbnails(NamedTuple):
    """headers: split, id and the fields of `JpegHeader`, n rows; grey: uint8 (n, THUMBNAIL_SIDE, THUMBNAIL_SIDE)."""

    headers: pd.DataFrame
    grey: NpyRows


def audit_competition(root: Path, choices: Choices | None = None) -> tuple[Competition, pd.DataFrame]:
    """Load the competition and check its images; the table of the images is that of `check_images`.

    choices: as of `load_competition`. One `InputError` lists all that is wrong with the csv files and the images.
    """
    try:
        competition = load_competition(root, choices)
    except InputError as csv_error:
        folder, id_column = root / "competition", choices.id_column if choices else ""
        try:
            _inspect_rows(root, rows_with_usable_id(folder, id_column), stored_task(folder) or LABEL)
        except InputError as image_error:
            raise InputError(f"{csv_error}\n{image_error}") from None
        raise
    return competition, check_images(competition)


def check_images(competition: Competition) -> pd.DataFrame:
    """Check every image; return split, id, sha256 (hex), bytes, width, height (int64), train rows first.

    One `InputError` lists all images that are missing or unsound. A second call on unchanged files reads the kept
    table; a file replaced by one of the same name, size and modification time goes unseen.
    """
    cache = competition.root / "cache"
    source = _source_of_table(competition)
    try:
        if read_json(cache / "images.json") == {**source, "images": sha256_file(cache / "images.csv")}:
            return read_csv(cache / "images.csv", _IMAGE_COLUMNS)
    except (InputError, FileNotFoundError):
        pass  # there is no table yet, or it is damaged
    with lock_directory(competition.root / "competition", wait=True):
        rows = rows_with_usable_id(competition.root / "competition", competition.task.id_column)
        results = _inspect_rows(competition.root, rows, competition.task)
        cells = [(*row, *facts) for row, facts in zip(rows, results, strict=True)]
        table = pd.DataFrame(cells, columns=list(_IMAGE_COLUMNS)).astype(_IMAGE_COLUMNS)
        write_csv(cache / "images.csv", table)
        write_json(cache / "images.json", {**source, "images": sha256_file(cache / "images.csv")})
    return table


def images_without_row(competition: Competition) -> list[str]:
    """Return the images without a row, as `train/<name>`, sorted: allowed, but perhaps not what was meant.

    A folder with the images of both splits, or one from which they were not copied, is not looked at.
    """
    names = []
    for split in SPLITS:
        folder = competition.root / "competition" / split
        if image_folder(competition.root, split, competition.task) != folder:
            continue
        expected = {competition.image_path(split, id).name for id in competition.ids(split)}
        names += [
            f"{split}/{name}" for name, _, _ in _list_files(folder) if name not in expected and has_image_suffix(name)
        ]
    return names


def was_accepted(root: Path) -> bool:
    """Return whether an audit has accepted the competition with these csv files, whatever became of its images."""
    try:
        kept = read_json(root / "cache" / "images.json")
        folder = root / "competition"
        return all(kept[name] == sha256_file(folder / name) for name in ("train.csv", rows_file(folder, "test")))
    except (InputError, OSError, KeyError):
        return False


def load_thumbnails(competition: Competition) -> Thumbnails:
    """Load the thumbnails of all images, which `check_images` has checked; make them if these images have none yet."""
    stem = f"thumbnails_{THUMBNAIL_VERSION}_{load_images_hash(competition.root)[:12]}"
    table, pixels = (competition.root / "cache" / f"{stem}.{kind}" for kind in ("csv", "npy"))
    if not (is_intact(table) and is_intact(pixels)):
        with lock_directory(competition.root / "competition", wait=True):
            _write_thumbnails(competition, table, pixels)
    return Thumbnails(read_csv(table, _HEADER_COLUMNS), NpyRows([pixels]))


def find_broken_images(thumbnails: Thumbnails) -> pd.DataFrame:
    """Find images that a person should look at, without a model; return split, id, why, far, the worst first.

    An image stands out if it has hardly any detail for this competition (a blur, one shade) or is nearly black or
    white: of 23,708 faces these rules name five, a barcode and four blurs in which nobody can see a face. The distance
    of an image from the others (from their mean, or outside their principal components) was tried and left out: of the
    40 farthest at most three were no photograph of a face, the others hats, glasses and dark skin on a bright ground.

    why: no detail, very dark or very bright. far: the value as a multiple of the limit.
    """
    from scipy.ndimage import gaussian_filter  # slow to import, and only audit.py needs it

    grey = thumbnails.grey
    detail, light = np.empty(len(grey)), np.empty(len(grey))
    for start in range(0, len(grey), _BLOCK):
        block = slice(start, start + _BLOCK)
        images = grey[block].astype(np.float32)
        detail[block] = (images - gaussian_filter(images, (0, 1, 1))).std(axis=(1, 2))
        light[block] = images.mean(axis=(1, 2))
    log_detail = np.log(np.maximum(detail, _LEAST_DETAIL))
    below = np.median(log_detail) - log_detail
    spread = max(1.4826 * np.median(np.abs(below)), _LEAST_DETAIL)  # the standard deviation, if it is normal
    far = np.column_stack([below / spread / BLUR, (255 - light) / (255 - DARK), light / BRIGHT])
    why = np.array(["no detail", "very dark", "very bright"])[far.argmax(axis=1)]
    table = thumbnails.headers[["split", "id"]].assign(why=why, far=far.max(axis=1))
    return table[table["far"] > 1].sort_values("far", ascending=False, kind="stable").reset_index(drop=True)


def _source_of_table(competition: Competition) -> dict:
    """Return what the table of the images depends on, apart from the content of the images."""
    root, lines = competition.root, []
    for split in SPLITS:
        folder = image_folder(root, split, competition.task)
        files = _list_files(folder, deep=folder != root / "competition" / split)
        lines += [f"{split}/{name}\t{size}\t{time}" for name, size, time in files]
    listing = "\n".join(lines).encode("utf-8", "backslashreplace").decode()  # names may not be UTF-8
    csv_files = ("train.csv", rows_file(root / "competition", "test"))
    id_column = competition.task.id_column
    return {
        "rules": RULES,
        **({} if id_column == LABEL.id_column else {"id_column": id_column}),
        "listing": sha256_text(listing),
        **{name: sha256_file(root / "competition" / name) for name in csv_files},
    }


def _list_files(folder: Path, deep: bool = False) -> list[tuple[str, int, int]]:
    """List the name, size in bytes and modification time in ns of each entry, sorted, without broken links.

    deep: the entries of subfolders as well.
    """
    paths = folder.rglob("*") if deep else folder.glob("*")
    stats = {str(path.relative_to(folder)): path.stat() for path in paths if path.exists()}
    return [(name, stats[name].st_size, stats[name].st_mtime_ns) for name in sorted(stats)]


def _inspect_rows(root: Path, rows: dict[tuple[str, str], int], task: Task) -> list[ImageFacts]:
    """Inspect the image of each (split, id). rows: (split, id) -> row number in the csv file, for the messages."""
    paths = [find_image(root, split, id, task) for split, id in rows]
    results, first = inspect_files(paths), {}
    for at, path in enumerate(paths):
        if first.setdefault(path, at) != at and not isinstance(results[at], str):
            results[at] = _SHARED
    _raise_problems(root, rows, paths, results)
    return results


def inspect_files(paths: list[Path]) -> list[ImageFacts | str]:
    """Return the facts of each image, or what is wrong with it, as the end of a sentence that begins with its name."""
    workers = min(core_count(), len(paths) // (_CHUNK * _CHUNKS_PER_WORKER))
    with process_pool(workers) if workers > 1 else nullcontext() as pool:
        results = pool.map(_inspect, paths, chunksize=_CHUNK) if pool else map(_inspect, paths)
        return list(progress_bar(results, len(paths), "checking images"))


def _raise_problems(
    root: Path, rows: dict[tuple[str, str], int], paths: list[Path], results: list[ImageFacts | str]
) -> None:
    """Raise one `InputError` for all results that say what is wrong; a missing image with the file it may be."""
    findings, folder, nearest, left_out = Findings(), root / "competition", {}, []
    if missing := [row for row, result in zip(rows, results, strict=True) if result == "is missing"]:
        expected = set(paths)
        files = [path for path in folder.rglob("*") if path not in expected and path.is_file()]
        left_out = [PurePosixPath(path.relative_to(folder)) for path in files]
        nearest = nearest_files(missing, left_out)
    for (row, number), path, result in zip(rows.items(), paths, results, strict=True):
        if isinstance(result, str):
            fault = describe_nearest(f"competition/{nearest[row]}") if row in nearest else result
            name = path.relative_to(root) if path.is_relative_to(folder) else path
            findings.add(result, f"{name} ({rows_file(folder, row[0])}, row {number}) {fault}")
    hint = f"{describe_left_out(left_out, str(folder))}\n{_HINT}" if nearest else _HINT
    findings.raise_any("some images cannot be used:", hint)


def _inspect(path: Path) -> ImageFacts | str:
    """Return the facts of an image, or what is wrong with it."""
    if path.exists() and not path.is_file():
        return "is a folder, pipe or device, not a file"
    try:
        return inspect_image(path)
    except ImageProblem as problem:
        return str(problem)


def _write_thumbnails(competition: Competition, table: Path, pixels: Path) -> None:
    remove_files(table.parent, f"thumbnails_[0-9]*_{HASHED}.*")  # of images that have changed since
    rows = [(split, id) for split in SPLITS for id in competition.ids(split)]
    thumbnails = map_images(lambda row: read_thumbnail(competition.image_path(*row), THUMBNAIL_SIDE), rows)
    headers = []

    def keep_headers() -> Iterator[np.ndarray]:
        for row, (grey, header) in zip(rows, progress_bar(thumbnails, len(rows), "thumbnails"), strict=True):
            headers.append((*row, *header))
            yield grey[None]

    write_npy_blocks(pixels, len(rows), keep_headers())
    write_csv(table, pd.DataFrame(headers, columns=list(_HEADER_COLUMNS)))
    write_checksum(table)
