"""List and read the files of a zip or folder, guarded against unsafe and damaged archives."""

import calendar
import errno
import io
import lzma
import os
import re
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from facefold.utils.errors import InputError

MAX_RATIO = 200  # of a member, and of all members to the zip; deflate reaches 1000; csv files stay near 10, JPEG near 1
_SMALL = 1 << 20  # bytes: less than this is no bomb
_UTF8 = 1 << 11  # the flag of a zip's member: its name is UTF-8
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_DEFLATE64 = 9
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class Member:
    """One file of a zip or folder.

    Attributes:
        name: What messages call it.
        path: Inside the source.
        size: Declared, in bytes.
        mtime: In seconds; it is kept, because it may show how the competition was made.
        open: Opens the content.
        problem: Why it must not be used, as the end of a sentence that begins with its name; empty if it may. A source
            may hold such files, links above all, as long as nobody needs them.
        is_folder: Whether it is a folder that cannot be listed, instead of a file.
    """

    name: str
    path: PurePosixPath
    size: int
    mtime: float
    open: Callable[[], BinaryIO]
    problem: str = ""
    is_folder: bool = False

    def blocks(self) -> Iterator[bytes]:
        """Yield the content. `InputError` if it is damaged, not as long as declared, or must not be used."""
        if self.problem:
            raise InputError(f"{self.name} {self.problem}")
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
    elif not source.is_file():
        raise InputError(f"{source} is neither a file nor a folder; use the zip as downloaded, or the folder")
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
        yield _zip_members(archive, name, path.stat().st_size)


def paths_in_zip(member: Member) -> list[PurePosixPath]:
    """Return the paths of the files of a zip inside, without unpacking it to the disk."""
    with _zip_errors(member.name), member.open() as file, zipfile.ZipFile(file) as archive:
        return [one.path for one in _zip_members(archive, member.name, member.size) if not one.problem]


def single_file(member: Member) -> Member:
    """Return the only file of a small zip inside, such as train.csv.zip, which is read into memory."""
    data = member.read()
    with _zip_errors(member.name):
        archive = zipfile.ZipFile(io.BytesIO(data))
    files = _zip_members(archive, member.name, len(data))
    if len(files) != 1:
        raise InputError(f"{member.name} holds {len(files)} files, expected one; unpack it")
    return files[0]


def memory_member(name: str, data: bytes) -> Member:
    """Return a file that no source has, with this content."""
    return Member(name, PurePosixPath(name), len(data), time.time(), partial(io.BytesIO, data))


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
    members, unreadable = [], []
    for directory, subdirectories, names in os.walk(folder, onerror=unreadable.append):
        below = Path(directory).relative_to(folder)
        names = set(names)
        for name in sorted(name for name in [*subdirectories, *names] if not _is_ignored(name)):
            if name in names or os.path.islink(os.path.join(directory, name)):
                members.append(_folder_member(folder, below / name))
        subdirectories[:] = sorted(name for name in subdirectories if not _is_ignored(name))
    for error in unreadable:
        path = Path(error.filename)
        if path == folder:
            raise error
        problem = f"cannot be read ({error.strerror}); change its permissions"
        members.append(_unusable(path, path.relative_to(folder), problem, is_folder=True))
    return members


def _folder_member(folder: Path, inside: Path) -> Member:
    path = folder / inside
    try:
        facts = path.lstat()
        if stat.S_ISLNK(facts.st_mode):
            problem = "is a symbolic link; use real files and folders only"
            return _unusable(path, inside, problem, is_folder=path.is_dir())
    except OSError as error:
        return _unusable(path, inside, f"cannot be read ({error.strerror}); change the permissions of its folder")
    if not stat.S_ISREG(facts.st_mode):
        return _unusable(path, inside, "is no regular file (a pipe, socket or device); use real files only")
    opener = partial(open, path, "rb")
    return Member(printable(str(path)), PurePosixPath(inside), facts.st_size, facts.st_mtime, opener)


def _unusable(path: Path, inside: Path, problem: str, is_folder: bool = False) -> Member:
    opener = partial(open, path, "rb")
    return Member(printable(str(path)), PurePosixPath(inside), 0, 0.0, opener, problem, is_folder)


def _zip_members(archive: zipfile.ZipFile, name: str, size: int) -> list[Member]:
    """Return the files of a zip of `size` bytes."""
    members, total = [], 0
    for info in archive.infolist():
        file_name, problem = _decode_name(info)
        path = PurePosixPath(file_name.replace("\\", "/"))
        where = f"{name}: member {file_name[:80]!r}"
        if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", file_name):  # a drive of Windows
            raise InputError(
                f"{where} would leave the folder it is unpacked to; this is not Kaggle's zip, nothing was unpacked"
            )
        if stat.S_ISLNK(info.external_attr >> 16):
            raise InputError(f"{where} is a symbolic link; this is not Kaggle's zip, nothing was unpacked")
        if info.flag_bits & 1:
            raise InputError(f"{where} is encrypted; unpack it yourself and use the folder")
        total += info.file_size
        if _is_bomb(info.file_size, info.compress_size) or _is_bomb(total, size):
            raise InputError(
                f"{where} unpacks to {info.file_size:,} bytes from {info.compress_size:,}, {total:,} in all from a zip "
                f"of {size:,}; this looks like a zip bomb, nothing was unpacked"
            )
        if info.compress_type not in _METHODS:
            method = "Deflate64" if info.compress_type == _DEFLATE64 else f"method {info.compress_type}"
            problem = f"is packed by {method}; repack it with another program, or unpack it and use the folder"
        if path.name and not file_name.endswith(("/", "\\")) and not any(map(_is_ignored, path.parts)):
            shown, opener = f"{name}/{printable(str(path))}", partial(archive.open, info)
            members.append(Member(shown, path, info.file_size, _zip_mtime(info), opener, problem))
    return members


def _is_bomb(size: int, packed: int) -> bool:
    return size > _SMALL and size > MAX_RATIO * packed


def _decode_name(info: zipfile.ZipInfo) -> tuple[str, str]:
    """Return the name of a member, and why it must not be used; empty if it may.

    A name without the flag is in the encoding of the machine that packed it, which the zip does not tell; zipfile reads
    code page 437. It is UTF-8 if it can be: other encodings hardly ever look like it.
    """
    unicode_extra = info.filename != info.orig_filename.partition("\0")[0]  # zipfile took the name from an extra field
    if info.flag_bits & _UTF8 or info.filename.isascii() or unicode_extra:
        return info.filename, ""
    raw = info.filename.encode("cp437")
    try:
        return raw.decode("utf-8"), ""
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace"), (
            "has a name that is not UTF-8; unpack the zip with a program that knows the encoding (unzip -O GBK), and "
            "use the folder"
        )


def printable(name: str) -> str:
    """Escape the control characters of a name, so that none reaches the terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in name)


def _zip_mtime(info: zipfile.ZipInfo) -> float:
    try:
        return calendar.timegm((*info.date_time, 0, 0, 0))  # a zip names no time zone
    except ValueError:  # a month 0, from a program that left it out
        return 0.0


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
