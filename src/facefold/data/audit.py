"""Whether every image is there and sound: each file is opened once, and the result kept until a file changes.

cache/images.csv   split,id,sha256,bytes,width,height, in the order of train.csv, then test.csv
cache/images.json  what the table was made from (both csv files; name, size and time of every image); written last
"""

import os
from collections.abc import Iterator
from concurrent.futures import as_completed
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from facefold.data.competition import Competition, Findings, load_competition, usable_rows
from facefold.data.images import ImageFacts, ImageProblem, inspect_image
from facefold.utils.console import no_bar
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory, read_csv, read_json, sha256_file, sha256_text, write_csv, write_json
from facefold.utils.processes import core_count, process_pool

RULES = 1  # raise it when images.inspect changes its mind, so that tables made under the old rules are made anew
_COLUMNS = {"split": str, "id": str, "sha256": str, "bytes": "int64", "width": "int64", "height": "int64"}
_CHUNK = 100
_CHUNKS_A_WORKER = 10  # starting a process takes a second or two: it must have as much to do
_WAY_OUT = (
    "Replace these images by sound ones, or take the rows and the images out, then run `python src/audit.py` again. "
    "To start over from the download: delete competition/ and run `python src/audit.py --data ZIP`."
)


def audit_competition(root: Path) -> tuple[Competition, pd.DataFrame]:
    """The competition and the table of its images; the findings in csv files and images are one `InputError`."""
    try:
        found = load_competition(root)
    except InputError as csv_error:
        try:
            _facts(root, usable_rows(root))
        except InputError as image_error:
            raise InputError(f"{csv_error}\n{image_error}")
        raise
    return found, check_images(found)


def check_images(competition: Competition) -> pd.DataFrame:
    """Table of all images: split, id, sha256 (hex), bytes, width, height (int64), in the order of train.csv, then test.csv.

    `InputError` lists every image that is missing or unsound. A second call on unchanged files reads
    the kept table; a file replaced by one of the same name, size and modification time goes unseen.
    """
    cache = competition.root / "cache"
    stamp = _stamp(competition)
    kept = _kept(cache, stamp)
    if kept is not None:
        return kept
    with lock_directory(competition.root / "competition", wait=True):
        return _checked(competition, cache, stamp)


def _checked(competition: Competition, cache: Path, stamp: dict) -> pd.DataFrame:
    """Open every image, and keep the table."""
    facts = _facts(competition.root, usable_rows(competition.root))
    rows = [
        (*row, *(getattr(fact, name) for name in ("sha256", "bytes", "width", "height"))) for row, fact in facts.items()
    ]
    table = pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)
    write_csv(cache / "images.csv", table)
    write_json(cache / "images.json", {**stamp, "images": sha256_file(cache / "images.csv")})
    return table


def images_without_row(competition: Competition) -> list[str]:
    """The .jpg files without a row, as `train/<name>`, sorted: no fault, but perhaps not what was meant."""
    found = []
    for split in ("train", "test"):
        expected = {f"{id}.jpg" for id in getattr(competition, split)["id"]}
        found += [
            f"{split}/{name}"
            for name, _, _ in _listing(competition.root / "competition" / split)
            if name not in expected and name.lower().endswith((".jpg", ".jpeg"))
        ]
    return found


def load_images_hash(root: Path) -> str:
    """Sha256 of the table that `check` kept: the identity of all images and their ids. `InputError` when there is none, or when
    it was edited."""
    path = root / "cache" / "images.csv"
    if not path.is_file() or not path.with_suffix(".json").is_file():
        raise InputError(f"{path} is missing: the images were not checked yet. Run `python src/audit.py` first.")
    found = sha256_file(path)
    if read_json(path.with_suffix(".json")).get("images") != found:
        raise InputError(
            f"{path} is not what the audit wrote (its checksum differs). Run `python src/audit.py`, which makes it again."
        )
    return found


def _facts(root: Path, rows: dict[tuple[str, str], int]) -> dict[tuple[str, str], ImageFacts]:
    """The facts of the image of each (split, id), in the order of `rows`, which tells their row in the csv file."""
    results = dict(_inspected([((split, id), root / "competition" / split / f"{id}.jpg") for split, id in rows]))
    findings = Findings()
    for (split, id), row in rows.items():
        problem = results[split, id]
        if isinstance(problem, str):
            findings.add(problem, f"competition/{split}/{id}.jpg ({split}.csv, row {row}) {problem}")
    findings.raise_any("some images cannot be used:", _WAY_OUT)
    return {row: results[row] for row in rows}


def _stamp(competition: Competition) -> dict:
    folder = competition.root / "competition"
    listing = [
        f"{split}/{name}\t{size}\t{time}"
        for split in ("train", "test")
        for name, size, time in _listing(folder / split)
    ]
    listing = [line.encode("utf-8", "backslashreplace").decode() for line in listing]  # names that are not UTF-8
    return {
        "rules": RULES,
        "listing": sha256_text("\n".join(listing)),
        **{name: sha256_file(folder / name) for name in ("train.csv", "test.csv")},
    }


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size in bytes and modification time in ns of each entry, sorted; broken links are left out."""
    if not folder.is_dir():
        return []
    found = []
    for entry in os.scandir(folder):
        try:
            stat = entry.stat()
        except FileNotFoundError:
            continue
        found.append((entry.name, stat.st_size, stat.st_mtime_ns))
    return sorted(found)


def _kept(cache: Path, stamp: dict) -> pd.DataFrame | None:
    """The table of an earlier check of these very files, None when there is none or it is damaged."""
    try:
        old = read_json(cache / "images.json")
        if old != {**stamp, "images": sha256_file(cache / "images.csv")}:
            return None
        return read_csv(cache / "images.csv", _COLUMNS)
    except (InputError, FileNotFoundError):
        return None


def _inspected(tasks: list[tuple[tuple[str, str], Path]]) -> Iterator[tuple[tuple[str, str], ImageFacts | str]]:
    """(split, id) with the image's facts or what is wrong with it, in any order; all processors share the work."""
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    workers = min(core_count(), len(chunks) // _CHUNKS_A_WORKER)
    with tqdm(total=len(tasks), desc="checking images", unit="img", disable=len(chunks) < 10 or no_bar()) as bar:
        if workers < 2:
            for chunk in map(_inspect_chunk, chunks):
                bar.update(len(chunk))
                yield from chunk
            return
        with process_pool(workers) as inspecting:
            for future in as_completed([inspecting.submit(_inspect_chunk, chunk) for chunk in chunks]):
                bar.update(len(future.result()))
                yield from future.result()


def _inspect_chunk(chunk: list[tuple[tuple[str, str], Path]]) -> list[tuple[tuple[str, str], ImageFacts | str]]:
    results = []
    for row, path in chunk:
        try:
            results.append((row, inspect_image(path)))
        except ImageProblem as problem:
            results.append((row, str(problem)))
    return results
