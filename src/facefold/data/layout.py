"""Install a competition: from the zip as downloaded, or a folder, to root/competition/.

Known layouts, at the top or one folder down: train.csv, test.csv, sampleSubmit.csv (sample_submission.csv, any case),
optionally meta.csv; the images in train/, train/train/, or those inside train.zip; test likewise; .jpg, .jpeg, any
case.
"""

import os
import re
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from facefold.data.archive import Member, open_archive, open_zip
from facefold.data.audit import audit_competition, was_accepted
from facefold.data.competition import MARK, SPLITS, SYNTHETIC_MARKER, is_empty, rows_with_usable_id
from facefold.data.csv_file import MAX_CSV_BYTES
from facefold.data.images import MAX_BYTES, ImageProblem, inspect_image
from facefold.data.nearest import describe_left_out, describe_nearest, nearest_files
from facefold.data.results import FOLDERS, find_results, remove_results
from facefold.data.staging import CSV, has_installed_csv_files, installed_source, staged_competition, write_mark
from facefold.utils.console import progress_bar
from facefold.utils.errors import InputError
from facefold.utils.files import require_disk_space, write_bytes

_SAMPLE = re.compile(r"sample_?(submit|submission)\.csv", re.IGNORECASE)
_OTHER_IMAGES = {".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".heic", ".avif"}
_SAME_TIME = 0.001  # seconds: a folder's times are rounded when they are set


def install_competition(source: Path, root: Path) -> bool:
    """Install `source` (zip or folder) as root/competition/; return False if these very csv files are there.

    Everything is written to competition.part, which is then renamed. Its content is checked later, so that all
    findings are listed at once and can be fixed there. A synthetic competition is replaced, and all results from it
    are removed, once the new one is complete. One that was installed and that no audit accepted is replaced as well. If
    the same csv files are there, images that were repaired in the source since are taken.

    Raises `InputError`, and leaves competition/ as it is, if the source is no competition, damaged or unsafe, if it has
    the images elsewhere, if another competition is there, if a file that no step wrote would be lost, or if the disk is
    too full.
    """
    target = root / "competition"
    if target.exists() and source.resolve() == target.resolve():
        return False
    try:
        with open_archive(source) as members:
            members, results = _members_of_competition(source, members), []
            csv_files = _find_csv_files(source, members)
            if (target / SYNTHETIC_MARKER).exists():
                _require_outside(source, root)
                results = find_results(root)
            elif not is_empty(target):
                different = _different_csv_files(target, csv_files)
                if not different:
                    _update_competition(source, target, members, csv_files.get("meta.csv"))
                    return False
                if not _was_refused(root):
                    raise InputError(
                        f"{target} holds another competition; not the same: {', '.join(different)}. Choose another "
                        f"folder with --root, or delete {target}, and folds/, runs/ and submissions/ with it."
                    )
            with staged_competition(root, _stamp(source)) as staged:
                _fill(staged, source, members, csv_files)
                remove_results(results)  # while SYNTHETIC.txt still says whose they are, should it be killed here
    except OSError as error:  # no space, no permission, a disk that fails
        raise InputError(f"{source} could not be installed as {target}: {error}") from error
    return True


def _fill(staged: Path, source: Path, members: list[Member], csv_files: dict[str, Member]) -> None:
    """Write the files of a competition. `InputError` if it lacks images that the source has elsewhere."""
    for name, member in csv_files.items():
        member.copy(staged / name)
    rows = rows_with_usable_id(staged)
    with _open_images(members, staged, rows) as (images, inside):
        _require_images(source, rows, images, members + inside)
        require_disk_space(staged, sum(member.size for member in images.values()), "the images")
        for name, member in progress_bar(images.items(), len(images), "unpacking", "file"):
            member.copy(staged / name)


def _members_of_competition(source: Path, members: list[Member]) -> list[Member]:
    """Return the members below the folder, at the top or one down, that holds train.csv; their paths are inside it."""
    folders = {
        member.path.parent
        for member in members
        if member.path.name.lower() == "train.csv" and len(member.path.parts) <= 2
    }
    if not folders:
        hidden = [f"; {member.name} {member.problem}" for member in members if member.is_folder]
        raise InputError(
            f"{source} holds no train.csv, neither at the top nor one folder down; --data takes the competition's zip "
            f"as downloaded, or the folder it was unpacked to{''.join(hidden[:3])}"
        )
    folder, *others = sorted(folders, key=lambda path: (len(path.parts), path))
    if others and folder.parts:
        names = ", ".join(map(str, [folder, *others]))
        raise InputError(f"{source} holds several competitions ({names}); name one folder with --data")
    return [
        replace(member, path=member.path.relative_to(folder)) for member in members if folder in member.path.parents
    ]


def _find_csv_files(source: Path, members: list[Member]) -> dict[str, Member]:
    """Return the csv files of a competition by the name that they get."""
    files: dict[str, Member] = {}
    for member in members:
        path = str(member.path)
        name = "sampleSubmit.csv" if _SAMPLE.fullmatch(path) else path.lower()
        if name in CSV:
            if member.problem:
                raise InputError(f"{member.name} {member.problem}")
            if name in files:
                raise InputError(f"{source} holds {name} twice: {files[name].name} and {member.name}; remove one")
            if member.size > MAX_CSV_BYTES:
                raise InputError(f"{member.name} is larger than {MAX_CSV_BYTES >> 20} MiB")
            files[name] = member
    return files


def _different_csv_files(target: Path, csv_files: dict[str, Member]) -> list[str]:
    """Return the csv files that `target` does not have the same; a meta.csv that one of the two lacks is none."""
    names = CSV if "meta.csv" in csv_files and (target / "meta.csv").exists() else CSV[:3]
    return [name for name in names if not _is_copy(target / name, csv_files.get(name))]


def _was_refused(root: Path) -> bool:
    """Return whether competition/ was installed by a step, nobody has changed it since, and no audit accepted it."""
    target = root / "competition"
    images = [path for split in SPLITS for path in (target / split).glob("*")]
    if was_accepted(root) or not has_installed_csv_files(target) or any(_was_changed_here(path) for path in images):
        return False
    try:
        audit_competition(root)
    except InputError:
        return True
    return False


def _was_changed_here(path: Path) -> bool:
    """Return whether an image of competition/ was written after it was installed, or no step installed it."""
    mark = path.parent.parent / MARK
    return not mark.is_file() or path.stat().st_ctime_ns > mark.stat().st_ctime_ns


def _stamp(source: Path) -> str:
    """Return what changes with a zip; empty for a folder."""
    facts = source.stat()
    return f"{facts.st_size} {facts.st_mtime_ns}" if source.is_file() else ""


def _update_competition(source: Path, target: Path, members: list[Member], meta: Member | None) -> None:
    """Take from the source a meta.csv that `target` lacks, and the images that were changed in the source since.

    A sound image stays if it was changed in `target`, or if that of the source is not sound.
    """
    if meta and not (target / "meta.csv").exists():
        write_bytes(target / "meta.csv", meta.read())
    stamp = _stamp(source)
    if stamp and installed_source(target) == stamp:
        return
    taken, kept, folder = [], [], target / ".facefold.tmp"
    shutil.rmtree(folder, ignore_errors=True)  # what a killed step left
    folder.mkdir()
    try:
        with _open_images(members, folder, rows_with_usable_id(target)) as (images, _):
            for name, member in images.items():
                if not _is_image_of(target / name, member):
                    (taken if _take_image(member, target / name, folder / "image") else kept).append(name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if (target / MARK).is_file() and not kept:
        write_mark(target, target.name, stamp)
    for names, what in (
        (taken, "taken from the source, where they differ"),
        (kept, "kept, as they were changed here, or are broken in the source"),
    ):
        if names:
            some = ", ".join(names[:3]) + (", .." if len(names) > 3 else "")
            print(f"{target}: images {what}: {len(names):,} ({some})", flush=True)


def _take_image(member: Member, path: Path, temporary: Path) -> bool:
    """Replace the image `path` by that of the source, by way of `temporary`; return False if `path` has to stay."""
    member.copy(temporary)
    if path.exists() and _is_sound(path) and (_was_changed_here(path) or not _is_sound(temporary)):
        return False
    os.replace(temporary, path)
    return True


def _is_image_of(path: Path, member: Member) -> bool:
    """Return whether `path` is a copy of the image; of the same size and time counts."""
    if not path.is_file() or path.stat().st_size != member.size:
        return False
    return abs(path.stat().st_mtime - member.mtime) < _SAME_TIME or _is_copy(path, member)


def _is_sound(path: Path) -> bool:
    try:
        return bool(inspect_image(path))
    except ImageProblem:
        return False


def _is_copy(path: Path, member: Member | None) -> bool:
    if member is None or not path.is_file():
        return member is None and not path.is_file()
    return path.read_bytes() == member.read()


def _require_outside(source: Path, root: Path) -> None:
    for name in ("competition", *FOLDERS):
        if source.resolve().is_relative_to((root / name).resolve()):
            raise InputError(
                f"{source} is inside {root / name}, which is removed with the synthetic competition; move it out first"
            )


@contextmanager
def _open_images(
    members: list[Member], folder: Path, rows: Iterable[tuple[str, str]]
) -> Iterator[tuple[dict[str, Member], list[Member]]]:
    """Yield the images by the name that they get, train/<id>.jpg or test/<id>.jpg, and the members of zips inside.

    Zips inside the source are copied to `folder` and removed at the end. What is no image is an error if one of `rows`,
    (split, id), needs it, and ignored otherwise.
    """
    found: list[tuple[str, Member]] = []
    inside: list[Member] = []
    with ExitStack() as zips:
        for split in SPLITS:
            found += [(split, member) for member in _files_in(members, (split,), (split, split))]
            for member in members:
                if str(member.path).lower() == f"{split}.zip":
                    copy = folder / f".{split}.zip"
                    require_disk_space(folder, member.size, member.name)
                    member.copy(copy)
                    zips.callback(copy.unlink)
                    packed = zips.enter_context(open_zip(copy, member.name))
                    found += [(split, one) for one in _files_in(packed, (), (split,), (split, split))]
                    inside += [replace(one, path=member.path / one.path) for one in packed]
        problems = [f"{member.name} {member.problem}" for member in members if _hides_images(member)]
        images = _name_images(found, {_image_name(*row) for row in rows}, problems)
        if problems:
            raise InputError.of(
                "the images of this competition cannot be installed:",
                problems,
                "Fix these, or download the competition again.",
            )
        yield images, inside


def _hides_images(member: Member) -> bool:
    """Return whether this is a folder of images that cannot be read."""
    parts = tuple(part.lower() for part in member.path.parts)
    return member.is_folder and parts in {(split,) * depth for split in SPLITS for depth in (1, 2)}


def _image_name(split: str, name: str) -> str:
    """Return the name of an image of competition/, in one Unicode form."""
    return unicodedata.normalize("NFC", f"{split}/{name}.jpg")


def _name_images(found: list[tuple[str, Member]], needed: set[str], problems: list[str]) -> dict[str, Member]:
    """Return the images by the name that they get; what is wrong with them is added to `problems`.

    needed: the names, of `_image_name`, that a row has. A link or pipe of another name is left out.
    """
    images: dict[str, Member] = {}
    names: dict[str, str] = {}  # by the name in one Unicode form
    for split, member in found:
        suffix, name = member.path.suffix.lower(), f"{split}/{member.path.stem}.jpg"
        if suffix in _OTHER_IMAGES:
            problems.append(f"{member.name} is not a .jpg; convert it")
        elif suffix in (".jpg", ".jpeg"):
            if member.problem and _image_name(split, member.path.stem) not in needed:
                continue
            other = names.setdefault(_image_name(split, member.path.stem), name)
            if member.problem:
                problems.append(f"{member.name} {member.problem}")
            if other in images:
                problems.append(f"{images[other].name} and {member.name} would both be {name}")
            if member.size > MAX_BYTES:
                problems.append(f"{member.name} is larger than {MAX_BYTES >> 20} MiB")
            images[name] = member
    return images


def _require_images(
    source: Path, rows: dict[tuple[str, str], int], images: dict[str, Member], members: list[Member]
) -> None:
    """Raise `InputError` if images of rows are missing and `members` has them elsewhere; else the audit names them.

    Args:
        source: What messages call the source.
        rows: Of `rows_with_usable_id`.
        images: By the name that they get.
        members: Of the source, and of the zips inside.
    """
    names = {unicodedata.normalize("NFC", name): member for name, member in images.items()}
    own = {row: names.get(_image_name(*row)) for row in rows}
    missing = [row for row, member in own.items() if member is None]
    used = {member.name for member in own.values() if member}
    left_out = [member.path for member in members if member.name not in used]
    nearest = nearest_files(missing, left_out)
    if nearest:
        raise InputError.of(
            f"{source} has the images of these rows elsewhere, or as other files ({len(missing):,} are missing):",
            [
                f"{split}/{id}.jpg ({split}.csv, row {rows[split, id]}) {describe_nearest(id, str(path))}"
                for (split, id), path in nearest.items()
            ],
            f"{describe_left_out(left_out, str(source))}\nMove them to train/ and test/, rename them to <id>.jpg, then "
            "run the same command again. Nothing was installed.",
            limit=10,
        )


def _files_in(members: list[Member], *folders: tuple[str, ...]) -> list[Member]:
    """Return the members that are in one of `folders`, whatever the case of its name."""
    return [member for member in members if tuple(part.lower() for part in member.path.parent.parts) in folders]
