"""List and read the files of a zip or folder, guarded against unsafe and damaged archives."""

import calendar
import errno
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from facefold.utils.errors import InputError

MAX_TOTAL = 20 << 30
MAX_RATIO = 200  # deflate reaches 1000; csv files stay near 10, JPEG near 1
_DEPTH = 4  # folders below the source
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class Member:
    """One file of a zip or folder.

    name: what messages call it. path: inside the source. size: declared, in bytes. mtime: in seconds; it is kept,
    because it may show how the competition was made. open: opens the content.
    """

    name: str
    path: PurePosixPath
    size: int
    mtime: float
    open: Callable[[], BinaryIO]

    def blocks(self) -> Iterator[bytes]:
        """Yield the content. `InputError` if it is damaged, or not as long as declared."""
        left = self.size
        with _zip_errors(self.name), self.open() as source:
            while block := source.read(1 << 20):
                left -= len(block)
                if left < 0:
                    raise InputError(f"{self.name} is longer than it says; nothing was unpacked")
                yield block
        if left:
            raise InputError(f"{self.name} is shorter than it says; nothing was unpacked")

    def read(self) -> bytes:
        return b"".join(self.blocks())

    def copy(self, target: Path) -> None:
        """Write the content to a file that gets the member's time."""
        with open(target, "wb") as file:
            file.writelines(self.blocks())
        os.utime(target, (self.mtime, self.mtime))


@contextmanager
def open_archive(source: Path) -> Iterator[list[Member]]:
    """Open a zip or folder and yield its files. `InputError` if it is neither, damaged or not safe to unpack."""
    if not source.exists():
        raise InputError(f"{source} does not exist; use the zip as downloaded, or the folder it was unpacked to")
    if source.is_dir():
        yield _folder_members(source)
    elif zipfile.is_zipfile(source):
        with open_zip(source, source.name) as members:
            yield members
    elif source.suffix.lower() == ".zip":
        raise InputError(f"{source} is not a complete zip (a download that broke off?); download it again")
    else:
        raise InputError(f"{source} is neither a zip nor a folder; use the zip as downloaded, or the folder")


@contextmanager
def open_zip(path: Path, name: str) -> Iterator[list[Member]]:
    """Open a zip and yield its files; `name` is what messages call it."""
    with _zip_errors(name):
        archive = zipfile.ZipFile(path)
    with archive:
        yield _zip_members(archive, name)


@contextmanager
def _zip_errors(name: str) -> Iterator[None]:
    """Turn whatever a damaged archive makes zipfile raise into an `InputError`."""
    try:
        yield
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: an offset before the file's beginning
            raise
        raise InputError(
            f"{name} is damaged, or packed in a way that is not known here ({error}); download it again"
        ) from error


def _folder_members(folder: Path) -> list[Member]:
    members = []
    for directory, subdirectories, names in os.walk(folder):
        below = Path(directory).relative_to(folder)
        names = sorted(name for name in subdirectories + names if not _is_ignored(name))
        subdirectories[:] = [name for name in names if name in subdirectories and len(below.parts) < _DEPTH]
        for path in [Path(directory) / name for name in names]:
            if path.is_symlink():
                raise InputError(f"{path} is a symbolic link; use real files and folders only")
            if path.is_file():
                inside, facts = PurePosixPath(below / path.name), path.stat()
                opener = partial(open, path, "rb")
                members.append(Member(_printable(str(path)), inside, facts.st_size, facts.st_mtime, opener))
    return members


def _zip_members(archive: zipfile.ZipFile, name: str) -> list[Member]:
    members, total = [], 0
    for info in archive.infolist():
        path = PurePosixPath(info.filename.replace("\\", "/"))
        where = f"{name}: member {info.filename[:80]!r}"
        if path.is_absolute() or ".." in path.parts or ":" in info.filename:
            raise InputError(
                f"{where} would leave the folder it is unpacked to; this is not Kaggle's zip, nothing was unpacked"
            )
        if stat.S_ISLNK(info.external_attr >> 16):
            raise InputError(f"{where} is a symbolic link; this is not Kaggle's zip, nothing was unpacked")
        if info.flag_bits & 1:
            raise InputError(f"{where} is encrypted; unpack it yourself and use the folder")
        total += info.file_size
        if total > MAX_TOTAL or (info.file_size > 1 << 20 and info.file_size > MAX_RATIO * info.compress_size):
            raise InputError(
                f"{where} unpacks to {info.file_size:,} bytes from {info.compress_size:,}, {total:,} in all; "
                "this looks like a zip bomb, nothing was unpacked"
            )
        if path.name and not info.filename.endswith(("/", "\\")) and not any(map(_is_ignored, path.parts)):
            printable, opener = f"{name}/{_printable(str(path))}", partial(archive.open, info)
            members.append(Member(printable, path, info.file_size, _zip_mtime(info), opener))
    return members


def _printable(name: str) -> str:
    """Escape the control characters of a name, so that none reaches the terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in name)


def _zip_mtime(info: zipfile.ZipInfo) -> float:
    try:
        return calendar.timegm((*info.date_time, 0, 0, 0))  # a zip names no time zone
    except ValueError:  # a month 0, from a program that left it out
        return 0.0


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
