"""Find the images that were probably meant where that of a row is missing: same name, other suffix, zeros or folder."""

import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from facefold.data.competition import SPLITS
from facefold.data.csv_file import quoted
from facefold.data.image_names import PHOTO_SUFFIXES

_SUFFIXES = {*PHOTO_SUFFIXES, ".dcm", ".zip"}
_SHOWN = 3


def nearest_files(
    missing: Iterable[tuple[str, str]], left_out: Iterable[PurePosixPath]
) -> dict[tuple[str, str], PurePosixPath]:
    """Return for each (split, id) in `missing` the image in `left_out` that may be its own, if there is one.

    It has the id as its name, whatever its suffixes (1.jpg.jpg), leading zeros, case and Unicode form. Of several the
    one counts that is in the last folder of the id, then one whose folders or name tell of the split
    (train_images/1.jpg), then the first by name.
    """
    first: dict[tuple[str, str, str], PurePosixPath] = {}  # by key, by folder or split, the other of which is empty
    for path in sorted(image for image in left_out if is_image_name(image.name)):
        key, text = _key(path.name), str(path).lower()
        first.setdefault((key, path.parent.name.lower(), ""), path)
        for split in ("", *(split for split in SPLITS if split in text)):
            first.setdefault((key, "", split), path)
    nearest = {}
    for split, id in missing:
        key, folder = _key(id), PurePosixPath(id).parent.name.lower()
        wanted = [*([(key, folder, "")] if folder else []), (key, "", split), (key, "", "")]
        if found := next((first[name] for name in wanted if name in first), None):
            nearest[split, id] = found
    return nearest


def is_image_name(name: str) -> bool:
    """Return whether a file is an image, or a zip of images, by its suffix."""
    return PurePosixPath(name).suffix.lower() in _SUFFIXES


def describe_nearest(path: str) -> str:
    """Return how the line on a missing image goes on: its nearest file."""
    return f"is missing; the nearest file is {path}"


def describe_left_out(left_out: Iterable[PurePosixPath], where: str) -> str:
    """Return a sentence on the images that no row of the csv files has as its own; empty without any."""
    paths = sorted(path for path in left_out if is_image_name(path.name))
    if not paths:
        return ""
    names = ", ".join(quoted(str(path)) for path in paths[:_SHOWN]) + (", .." if len(paths) > _SHOWN else "")
    return f"Images and zips in {where} that are of no row, and were left out: {len(paths):,} ({names})."


def _key(name: str) -> str:
    """Return the name without the suffixes of images and leading zeros, in small letters and in one Unicode form."""
    path = PurePosixPath(unicodedata.normalize("NFC", name))
    while path.stem and path.suffix.lower() in _SUFFIXES:
        path = path.with_suffix("")
    return path.name.lower().lstrip("0") or "0"
