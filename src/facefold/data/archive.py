"""Put a competition in place: from the zip as downloaded, or a folder, to root/competition/.

Known layouts, at the top or one folder down: train.csv, test.csv, sampleSubmit.csv (sample_submission.csv, any case),
optionally meta.csv; the images in train/, train/train/, or those inside train.zip; test likewise; .jpg, .jpeg, any case.
"""

import calendar
import lzma
import os
import re
import shutil
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

from tqdm import tqdm

from facefold.data.competition import MAX_CSV_BYTES, README, SYNTHETIC_MARKER, is_empty
from facefold.utils.console import no_bar
from facefold.utils.errors import InputError
from facefold.utils.files import require_disk_space, sha256_file

MAX_TOTAL = 20 << 30
MAX_IMAGE = 256 << 20
MAX_RATIO = 200  # deflate reaches 1000; csv files stay near 10, JPEG near 1
_MADE = (
    "submissions",
    "runs",
    "folds",
    "cache",
    "targets",
    "compare",
    "tensorboard",
)  # from a competition, by the later steps
_SAMPLE = re.compile(r"sample_?(submit|submission)\.csv", re.IGNORECASE)
_OTHER_IMAGES = {".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".heic", ".avif"}
_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class _Member:
    """One file of the source: where it lies in it (for messages), its path below the base, its declared size, its time in
    seconds (kept: it may tell how the competition was made), how to open it."""

    shown: str
    path: PurePosixPath
    size: int
    time: float
    open: Callable[[], BinaryIO]


def install_competition(source: Path, root: Path) -> bool:
    """Bring `source` (zip or folder) to root/competition/; True when it was put there, False when these very csv files are there.

    Everything is written to competition.part, which is then renamed; what it holds is checked later, so that all findings
    come in one go and can be mended in place. Raises `InputError`, and leaves competition/ as it was, for a source that is
    no competition, is damaged or unsafe, when another competition is there, or when the disk is too full. A drawn competition
    is replaced, and what was made from it removed, once the new one is complete.
    """
    if not source.exists():
        raise InputError(
            f"{source} does not exist; --data takes the competition's zip, or the folder it was unpacked to"
        )
    target = root / "competition"
    if target.exists() and source.resolve() == target.resolve():
        return False
    try:
        with _members(source) as members, staged_competition(root) as part:
            base = _base(source, members)
            members = [_below(member, base) for member in members if base in member.path.parents]
            _copy_csv(source, members, part)
            toy = (target / SYNTHETIC_MARKER).exists()
            if toy:
                _require_outside(source, root)
            elif not is_empty(target):
                _require_same(target, part)
                raise _Same
            with _images(members, part) as images:
                require_disk_space(root, sum(member.size for member in images.values()), "the images")
                quiet = len(images) < 1000 or no_bar()
                for name, member in tqdm(images.items(), desc="unpacking", unit="img", disable=quiet):
                    _copy(member, part / name)
            if toy:
                _remove_what_was_made(root)
    except _Same:
        return False
    except OSError as error:  # no room, no permission, a disk that fails
        raise InputError(f"{source} could not be brought to {target}: {error}")
    return True


@contextmanager
def staged_competition(root: Path) -> Iterator[Path]:
    """Yield root/competition.part, empty; when the block ends well it becomes root/competition, in place of one that is there."""
    part, target, old = root / "competition.part", root / "competition", root / "competition.old"
    for left_over in (part, old):
        shutil.rmtree(left_over, ignore_errors=True)
    (part / "train").mkdir(parents=True)
    (part / "test").mkdir()
    try:
        yield part
        os.sync()  # once for all files: an fsync for each of many thousand takes minutes on a slow disk
        if (target / README).exists():
            shutil.copyfile(target / README, part / README)
        if target.exists():
            os.replace(target, old)
        os.replace(part, target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        error.filename = error.filename or str(part)  # a full disk tells no name
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def open_archive(source: Path) -> Iterator[dict[PurePosixPath, Callable[[Path], None]]]:
    """The files of a zip or folder that is no competition, guarded as in `install`: the path of each inside it, and a call that
    writes it to a target."""
    with _members(source) as members:
        yield {member.path: partial(_copy, member) for member in members}


class _Same(Exception):
    """The competition is in place already."""


@contextmanager
def _members(source: Path) -> Iterator[list[_Member]]:
    if source.is_dir():
        yield _folder_members(source)
    elif zipfile.is_zipfile(source):
        with _open_zip(source, source.name) as archive:
            yield _zip_members(archive, source.name)
    elif source.suffix.lower() == ".zip":
        raise InputError(f"{source} is no whole zip (a download that broke off?); download it again")
    else:
        raise InputError(f"{source} is neither a zip nor a folder; --data takes the competition's zip as downloaded")


@contextmanager
def _reading(shown: str) -> Iterator[None]:
    """Everything a damaged archive makes zipfile raise is an `InputError`."""
    try:
        yield
    except _BROKEN as error:
        raise InputError(f"{shown} is damaged, or packed in a way that is not known here ({error}); download it again")


def _open_zip(path: Path, shown: str) -> zipfile.ZipFile:
    with _reading(shown):
        return zipfile.ZipFile(path)


def _folder_members(folder: Path) -> list[_Member]:
    members = []
    for directory, subdirectories, names in os.walk(folder):
        below = Path(directory).relative_to(folder)
        subdirectories[:] = (
            [] if len(below.parts) > 3 else [name for name in sorted(subdirectories) if not _ignored(name)]
        )
        for name in sorted(subdirectories + names):
            path = Path(directory) / name
            if _ignored(name):
                continue
            if path.is_symlink():
                raise InputError(f"{path} is a symbolic link; --data takes real files and folders only")
            if path.is_file():
                facts = path.stat()
                members.append(
                    _Member(
                        _printable(str(path)),
                        PurePosixPath(below / name),
                        facts.st_size,
                        facts.st_mtime,
                        lambda path=path: open(path, "rb"),
                    )
                )
    return members


def _zip_members(archive: zipfile.ZipFile, shown: str) -> list[_Member]:
    """Members that are files; `InputError` for an archive that is not safe to unpack."""
    members, total = [], 0
    for info in archive.infolist():
        path = PurePosixPath(info.filename.replace("\\", "/"))
        where = f"{shown}: member {info.filename[:80]!r}"
        if path.is_absolute() or ".." in path.parts or ":" in info.filename:
            raise InputError(
                f"{where} would leave the folder it is unpacked to; this is not Kaggle's zip, nothing was unpacked"
            )
        if stat.S_ISLNK(info.external_attr >> 16):
            raise InputError(f"{where} is a symbolic link; this is not Kaggle's zip, nothing was unpacked")
        if info.flag_bits & 1:
            raise InputError(f"{where} is encrypted; unpack it yourself and give the folder with --data")
        total += info.file_size
        if total > MAX_TOTAL or (info.file_size > 1 << 20 and info.file_size > MAX_RATIO * info.compress_size):
            raise InputError(
                f"{where} unpacks to {info.file_size:,} bytes from {info.compress_size:,}, {total:,} in all; "
                "this looks like a zip bomb, nothing was unpacked"
            )
        if path.name and not info.filename.endswith(("/", "\\")) and not any(_ignored(name) for name in path.parts):
            members.append(
                _Member(
                    f"{shown}/{_printable(str(path))}",
                    path,
                    info.file_size,
                    _zip_time(info),
                    lambda info=info: archive.open(info),
                )
            )
    return members


def _printable(name: str) -> str:
    """A name for a message: no control characters reach the terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in name)


def _zip_time(info: zipfile.ZipInfo) -> float:
    try:
        return calendar.timegm((*info.date_time, 0, 0, 0))  # a zip names no time zone
    except ValueError:  # a month 0, from a program that left it out
        return 0.0


def _ignored(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _base(source: Path, members: list[_Member]) -> PurePosixPath:
    """The folder, at the top or one down, that holds train.csv."""
    bases = {
        member.path.parent
        for member in members
        if member.path.name.lower() == "train.csv" and len(member.path.parts) <= 2
    }
    bases = sorted(bases, key=lambda path: (len(path.parts), path))
    if not bases:
        raise InputError(
            f"{source} holds no train.csv, neither at the top nor one folder down; "
            "--data takes the competition's zip as downloaded, or the folder it was unpacked to"
        )
    if len(bases) > 1 and len(bases[0].parts) == 1:
        raise InputError(
            f"{source} holds several competitions ({', '.join(map(str, bases))}); name one folder with --data"
        )
    return bases[0]


def _below(member: _Member, base: PurePosixPath) -> _Member:
    return _Member(member.shown, member.path.relative_to(base), member.size, member.time, member.open)


def _copy_csv(source: Path, members: list[_Member], part: Path) -> None:
    found: dict[str, _Member] = {}
    for member in members:
        name = str(member.path)
        stored = "sampleSubmit.csv" if _SAMPLE.fullmatch(name) else name.lower()
        if stored in ("train.csv", "test.csv", "sampleSubmit.csv", "meta.csv"):
            if stored in found:
                raise InputError(f"{source} holds {stored} twice: {found[stored].shown} and {member.shown}; remove one")
            if member.size > MAX_CSV_BYTES:
                raise InputError(f"{member.shown} is larger than {MAX_CSV_BYTES >> 20} MiB")
            found[stored] = member
    for stored, member in found.items():
        _copy(member, part / stored)


def _require_same(target: Path, part: Path) -> None:
    """Raise `InputError` unless both folders hold the same csv files; a meta.csv that is new is added."""
    names = ["train.csv", "test.csv", "sampleSubmit.csv"]
    if (part / "meta.csv").exists() and (target / "meta.csv").exists():
        names.append("meta.csv")
    different = [name for name in names if _sha(target / name) != _sha(part / name)]
    if different:
        raise InputError(
            f"{target} holds another competition; not the same: {', '.join(different)}. "
            f"Choose another folder with --root, or delete {target}, and folds/, runs/ and submissions/ with it."
        )
    if (part / "meta.csv").exists() and not (target / "meta.csv").exists():
        os.replace(part / "meta.csv", target / "meta.csv")


def _require_outside(source: Path, root: Path) -> None:
    for name in ("competition", *_MADE):
        if source.resolve().is_relative_to((root / name).resolve()):
            raise InputError(
                f"{source} lies in {root / name}, which makes room with the drawn competition; move it out first"
            )


def _remove_what_was_made(root: Path) -> None:
    (root / "report.html").unlink(missing_ok=True)
    for name in _MADE:
        if not (root / name / README).exists():
            shutil.rmtree(root / name, ignore_errors=True)
            continue
        for path in [path for path in (root / name).iterdir() if path.name != README]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sha(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


@contextmanager
def _images(members: list[_Member], part: Path) -> Iterator[dict[str, _Member]]:
    """Target (train/<id>.jpg) and member of every image; archives inside the source are unpacked beside the target meanwhile."""
    found: dict[str, _Member] = {}
    wrong: list[str] = []
    opened: list[zipfile.ZipFile] = []
    try:
        for split in ("train", "test"):
            _add_images(members, split, [(split,), (split, split)], found, wrong)
            for member in members:
                if str(member.path).lower() == f"{split}.zip":
                    inner = part / f".{split}.zip"
                    require_disk_space(part, member.size, member.shown)
                    _copy(member, inner)
                    opened.append(_open_zip(inner, member.shown))
                    inside = _zip_members(opened[-1], member.shown)
                    _add_images(inside, split, [(), (split,), (split, split)], found, wrong)
        if wrong:
            raise InputError.of(
                "the images of this competition cannot be put in place:",
                wrong,
                "Mend the folder, or download the competition again.",
            )
        yield found
    finally:
        for archive in opened:
            archive.close()
            os.unlink(archive.filename)


def _add_images(
    members: list[_Member], split: str, folders: list[tuple], found: dict[str, _Member], wrong: list[str]
) -> None:
    for member in members:
        if tuple(part.lower() for part in member.path.parent.parts) not in folders:
            continue
        suffix = member.path.suffix.lower()
        name = f"{split}/{member.path.stem}.jpg"
        if suffix in _OTHER_IMAGES:
            wrong.append(f"{member.shown} is not a .jpg; convert it")
        elif suffix in (".jpg", ".jpeg"):
            if name in found:
                wrong.append(f"{found[name].shown} and {member.shown} would both be {name}")
            if member.size > MAX_IMAGE:
                wrong.append(f"{member.shown} is larger than {MAX_IMAGE >> 20} MiB")
            found[name] = member


def _copy(member: _Member, target: Path) -> None:
    """Stream a member to a file, and not a byte more than it declared; the file gets the member's time."""
    with _reading(member.shown), member.open() as source, open(target, "wb") as sink:
        left = member.size
        while block := source.read(1 << 20):
            left -= len(block)
            if left < 0:
                raise InputError(f"{member.shown} is longer than it says; nothing was unpacked")
            sink.write(block)
    if left:
        raise InputError(f"{member.shown} is shorter than it says; nothing was unpacked")
    os.utime(target, (member.time, member.time))
