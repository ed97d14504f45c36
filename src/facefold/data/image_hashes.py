"""What images a competition has, as hashes of the table that the audit kept; with nothing but the standard library."""

import csv
import hashlib
import json
from pathlib import Path

from facefold.utils.errors import InputError
from facefold.utils.files import read_json, sha256_file


def load_images_hash(root: Path) -> str:
    """Return the sha256 of the table that `check_images` kept: the identity of all images and their ids.

    Raises `InputError` if there is no table, or if it was edited.
    """
    path = root / "cache" / "images.csv"
    if not path.is_file() or not path.with_suffix(".json").is_file():
        raise InputError(f"{path} is missing: the images were not checked yet. Run `python src/audit.py` first.")
    sha256 = sha256_file(path)
    if read_json(path.with_suffix(".json")).get("images") != sha256:
        raise InputError(
            f"{path} is not what the audit wrote (its checksum differs). Run `python src/audit.py` to write it again."
        )
    return sha256


def hash_splits(root: Path) -> dict[str, str]:
    """Return the sha256 of the audit's rows on the images of each split: what they are, in which order."""
    hashes = {split: hashlib.sha256(b"[") for split in ("train", "test")}  # of a list in JSON, row by row
    begun = set()
    with open(root / "cache" / "images.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        for row in csv.reader(file):
            if row[0] in hashes:
                hashes[row[0]].update(f"{', ' if row[0] in begun else ''}{json.dumps(row)}".encode())
                begun.add(row[0])
    for one in hashes.values():
        one.update(b"]")
    return {split: one.hexdigest() for split, one in hashes.items()}
