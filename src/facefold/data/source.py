"""Find the csv files and images of a competition in its source: a zip or folder of almost any layout.

The csv files are at the top or one folder down: train.csv (labels.csv, train_labels.csv), test.csv, sampleSubmit.csv
(sample_submission.csv), meta.csv, in any case, each also as train.csv.zip. Without the first, every folder of train
images is a class. Images are wherever their path says whose they are: `a/12.jpg` for the ids `12`, `12.jpg`, `a/12` and
`b/a/12.jpg`, in a folder or zip whose name says train or test, or else in any other (`facefold.data.image_matches`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path, PurePosixPath

from facefold.data.archive import Member, open_zip, single_file
from facefold.data.class_folders import Row, class_images, image_paths, is_zip_of_images, place_images, write_csv_files
from facefold.data.competition import SPLITS
from facefold.data.csv_file import MAX_CSV_BYTES
from facefold.data.image_matches import ImageMatches
from facefold.data.image_names import has_image_suffix
from facefold.data.staging import CSV
from facefold.utils.errors import InputError
from facefold.utils.files import require_disk_space

TRAIN_FILES = (
    "train.csv",
    "train_labels.csv",
    "labels.csv",
    "training_labels.csv",
    "trainlabels.csv",
)  # the first counts
_SHOWN = 8  # folders that an error names
_SAMPLE = re.compile(r"sample[-_ ]?(submit|submission)\.csv", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """What a source holds.

    Attributes:
        path: The zip or folder, as messages call it.
        folder: The part of it that holds the competition, all of it if the csv files have a folder of their own.
        members: The files; their paths are inside `folder`.
        csv_files: By the name that they get.
        assigned: The image of each row, if the rows were written from the images; else empty.
        image_folders: Where a person says the images of a split are: folders or zips inside `folder`.
    """

    path: Path
    folder: PurePosixPath
    members: list[Member]
    csv_files: dict[str, Member]
    assigned: dict[Row, PurePosixPath] = field(default_factory=dict)
    image_folders: Mapping[str, PurePosixPath] = field(default_factory=dict)

    def real_path(self, member: Member) -> Path:
        """Return the path of a member of a folder on disk."""
        return self.path.absolute() / self.folder / member.path


@dataclass(frozen=True)
class SourceImages:
    """files: the images by the name that they get. own: that name of the image of each row. inside: members of zips."""

    files: dict[str, Member]
    own: dict[Row, str]
    inside: list[Member]


def read_source(path: Path, members: list[Member], image_folders: Mapping[str, str]) -> Source:
    """Find the competition among the members of the zip or folder `path`; `InputError` if there is none."""
    folder = _find_folder(path, members)
    inside = [
        replace(member, path=member.path.relative_to(folder)) for member in members if folder in member.path.parents
    ]
    csv_files = _find_csv_files(path, inside)
    named = {split: PurePosixPath(name) for split, name in image_folders.items()}
    for split, name in named.items():
        if name.is_relative_to(folder) and not _holds_images(inside, name):
            named[split] = name.relative_to(folder)
    elsewhere = any(not _holds_images(inside, name) for name in named.values())
    if elsewhere or not _holds_images(inside, PurePosixPath()):
        folder, inside = PurePosixPath(), members  # the images are in folders next to that of the csv files
        named = {split: PurePosixPath(name) for split, name in image_folders.items()}
        _check_image_folders(path, members, named)
    assigned = {} if "train.csv" in csv_files else write_csv_files(csv_files, inside)
    return Source(path, folder, inside, csv_files, assigned, named)


def _holds_images(members: list[Member], folder: PurePosixPath) -> bool:
    """Return whether images, or zips of them, are in a folder, or in a zip of this name, in which it may be."""
    images = (member.path for member in members if has_image_suffix(member.path.name))
    zips = (member.path for member in members if is_zip_of_images(member))
    return any(path.is_relative_to(folder) for path in images) or any(
        path.is_relative_to(folder) or folder.is_relative_to(path) for path in zips
    )


def _check_image_folders(source: Path, members: list[Member], named: Mapping[str, PurePosixPath]) -> None:
    """Raise `InputError` for a folder of --images that is not in the source."""
    for split, name in named.items():
        if not _holds_images(members, name):
            folders = {member.path.parent for member in members if has_image_suffix(member.path.name)}
            folders |= {member.path for member in members if is_zip_of_images(member)}
            found = sorted(str(folder) for folder in folders if folder.name)
            more = f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
            raise InputError(
                f"--images {split}={name}: {source} holds no such folder or zip of images; it has "
                f"{', '.join(found[:_SHOWN]) + more or 'none'}"
            )


def _find_folder(source: Path, members: list[Member]) -> PurePosixPath:
    """Return the folder, at the top or one down, that holds the csv file of the train rows, or a folder per class."""
    folders: set[PurePosixPath] = set()
    for name in TRAIN_FILES:
        folders = folders or {
            member.path.parent
            for member in members
            if member.path.name.lower() in (name, f"{name}.zip") and len(member.path.parts) <= 2
        }
    if not folders:
        paths = image_paths(members)
        below = {PurePosixPath(): paths}
        for path in (path for path in paths if len(path.parts) > 1):
            top = PurePosixPath(path.parts[0])
            below.setdefault(top, []).append(path.relative_to(top))
        folders = {top for top, inside in below.items() if len(set(class_images(place_images(inside)).values())) > 1}
        with_csv = {member.path.parent for member in members if _csv_name(member.path.name) in CSV}
        folders = folders & with_csv or folders
    if not folders:
        hidden = [f"; {member.name} {member.problem}" for member in members if member.is_folder]
        raise InputError(
            f"{source} holds no train.csv, neither at the top nor one folder down, and no folder per class "
            "(train/<class>/<image>); --data takes the competition's zip as downloaded, or the folder it was unpacked "
            f"to{''.join(hidden[:3])}"
        )
    folder, *others = sorted(folders, key=lambda path: (len(path.parts), path))
    if others and folder.parts:
        names = ", ".join(map(str, [folder, *others]))
        raise InputError(f"{source} holds several competitions ({names}); name one folder with --data")
    return folder


def _find_csv_files(source: Path, members: list[Member]) -> dict[str, Member]:
    files: dict[str, Member] = {}
    found = [(_csv_name(str(member.path)), member) for member in members]
    best = min((TRAIN_FILES.index(name) for name, _ in found if name in TRAIN_FILES), default=0)
    for name, member in found:
        name = "train.csv" if name == TRAIN_FILES[best] else name
        if name in CSV and (name != "train.csv" or _csv_name(str(member.path)) == TRAIN_FILES[best]):
            if member.problem:
                raise InputError(f"{member.name} {member.problem}")
            if name in files and member.path.suffix.lower() == files[name].path.suffix.lower():
                raise InputError(f"{source} holds {name} twice: {files[name].name} and {member.name}; remove one")
            if name not in files or member.path.suffix.lower() != ".zip":
                files[name] = member
    files = {name: single_file(file) if file.path.suffix.lower() == ".zip" else file for name, file in files.items()}
    for member in files.values():
        if member.size > MAX_CSV_BYTES:
            raise InputError(f"{member.name} is larger than {MAX_CSV_BYTES >> 20} MiB")
    return files


def _csv_name(path: str) -> str:
    """Return what the csv file at the top is called here; another path as it is, in small letters."""
    name = path.lower()
    name = name.removesuffix(".zip") if name.endswith(".csv.zip") else name
    return "sampleSubmit.csv" if _SAMPLE.fullmatch(name) else name


def _is_first_zip(member: Member) -> bool:
    return str(member.path).lower() in ("train.zip", "test.zip")


@contextmanager
def open_images(source: Source, folder: Path, rows: Iterable[Row]) -> Iterator[SourceImages]:
    """Yield the images by the name that they get, train/<name> or test/<name>, and which of them each row has.

    Zips inside the source are copied to `folder` and removed at the end: train.zip and test.zip, and the others if the
    image of a row is in no folder. Images in train/ and test/ that no row needs are taken as well, if they can be read.
    """
    rows, inside, numbers = list(rows), [], count()
    with ExitStack() as zips:

        def unpack(members: Iterable[Member]) -> None:
            for member in members:
                copy = folder / f".{next(numbers)}.zip"
                require_disk_space(folder, member.size, member.name)
                zips.callback(copy.unlink, missing_ok=True)
                member.copy(copy)
                packed = zips.enter_context(open_zip(copy, member.name))
                inside.extend(replace(one, path=member.path / one.path) for one in packed)

        def match() -> ImageMatches:
            return ImageMatches([*source.members, *inside], rows, source.assigned, source.image_folders)

        unpack(member for member in source.members if _is_first_zip(member))
        matches = match()
        if len(matches.own) < len(rows):
            others = [member for member in source.members if is_zip_of_images(member) and not member.problem]
            unpack(member for member in others if not _is_first_zip(member))
            matches = match()
        matches.add_without_row()
        problems = [f"{member.name} {member.problem}" for member in source.members if _hides_images(member)]
        problems += matches.problems
        if problems:
            raise InputError.of(
                "the images of this competition cannot be installed:",
                problems,
                "Fix these, or download the competition again.",
            )
        yield SourceImages(matches.files, matches.own, inside)


def _hides_images(member: Member) -> bool:
    """Return whether this is a folder of images that cannot be read."""
    parts = tuple(part.lower() for part in member.path.parts)
    return member.is_folder and parts in {(split,) * depth for split in SPLITS for depth in (1, 2)}
