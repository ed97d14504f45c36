"""The file names of images: an id may have its suffix or not, and a folder before it."""

import os
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PurePosixPath

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")  # of a competition
# Of photographs. Pillow alone does not read .heic: named as unreadable, it is not left out unseen.
PHOTO_SUFFIXES = (
    *IMAGE_SUFFIXES,
    *(".jpe", ".jfif", ".mpo", ".gif", ".jp2", ".avif", ".ppm", ".pgm", ".heic", ".heif"),
)


def has_image_suffix(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def name_key(name: str) -> str:
    """Return a name or id in one Unicode form, its suffix in small letters: 12.JPG is the image of 12.jpg."""
    name = unicodedata.normalize("NFC", name)
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{suffix.lower()}" if has_image_suffix(name) else name


def name_keys(name: str) -> tuple[str, ...]:
    """Return the keys of the ids that a file of this name may have: with its suffix, and without."""
    key = name_key(name)
    return (key, name_key(key[: key.rindex(".")])) if has_image_suffix(name) else (key,)


def flat_name(id: str, name: str) -> str:
    """Return what the image `name` is called in a folder where ids such as a/1.jpg and b/1.jpg are: a__1.jpg."""
    return "__".join([*id.split("/")[:-1], name])


def find_file(folder: Path, id: str, deep: bool = False) -> Path:
    """Return the path of the image of `id`, which need not be there; deep: subfolders count as well.

    It is `<id>.jpg`, else `id` if that has a suffix, else `<id>` and another suffix. The name on
    disk may be in another Unicode form than the id: some systems and zips take accents from their letters. Of an id
    with folders that of `flat_name` comes first, then, if deep, the one in most of these folders.
    """
    *parents, name = id.split("/")
    if parents and (flat := _find_name(folder, flat_name(id, name), deep=False)).exists():
        return flat
    for inside in (folder.joinpath(*parents[at:]) for at in range(len(parents) if deep else 0)):
        if (path := _find_name(inside, name, deep=False)).exists():
            return path
    return _find_name(folder, name, deep)


def _find_name(folder: Path, name: str, deep: bool) -> Path:
    first = folder / f"{name}.jpg"
    if first.exists():
        return first
    exact = folder / name
    if has_image_suffix(name) and exact.exists():
        return exact
    try:
        files = _list_names(str(folder), folder.stat().st_mtime_ns, deep)
    except OSError:  # there is no such folder
        files = {}
    fallback = exact if has_image_suffix(name) else first
    exact_keys = [unicodedata.normalize("NFC", key) for key in (first.name, name)]
    keys = [*exact_keys, *map(name_key, exact_keys)]
    return Path(next((files[key] for key in keys if key in files), fallback))


@lru_cache(maxsize=1 << 16)  # of ids with folders, in any order, each folder is listed once
def _list_names(folder: str, _mtime: int, deep: bool) -> dict[str, str]:
    """Return the path of each image of `folder` by its name, with and without suffix, and by its `name_keys`.

    Of several the one of that very name counts, then the first one by name, of the top before others.
    """
    found: dict[str, str] = {}
    similar: dict[str, str] = {}
    for directory, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(subfolders) if deep else []
        for name in _images_first(names):
            path, exact = os.path.join(directory, name), unicodedata.normalize("NFC", name)
            for key in (exact, exact[: exact.rindex(".")]):
                found.setdefault(key, path)
            for key in name_keys(name):
                similar.setdefault(key, path)
    return {**similar, **found}


def _images_first(names: Iterable[str]) -> list[str]:
    """Return the names of images, .jpg before other suffixes."""
    return sorted(
        (name for name in names if has_image_suffix(name)), key=lambda name: (not name.endswith(".jpg"), name)
    )
