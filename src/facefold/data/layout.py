"""Install a competition: from the zip as downloaded, or a folder, to root/competition/.

`facefold.data.source` says where the csv files and images may be. They get the names of `facefold.data.competition`;
their content stays as it is. With --in-place the images stay where they are, and task.toml says where.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from facefold.data.archive import Member, open_archive
from facefold.data.audit import audit_competition, was_accepted
from facefold.data.competition import (
    MARK,
    SPLITS,
    SYNTHETIC_MARKER,
    infer_in,
    rows_file,
    rows_with_usable_id,
    stored_task,
)
from facefold.data.image_names import find_file
from facefold.data.images import ImageProblem, inspect_image
from facefold.data.nearest import describe_left_out, describe_nearest, nearest_files
from facefold.data.results import FOLDERS, find_results, remove_results
from facefold.data.source import Row, Source, SourceImages, open_images, read_source
from facefold.data.staging import (
    CSV,
    has_installed_csv_files,
    installed_source,
    is_empty,
    staged_competition,
    write_mark,
)
from facefold.data.task_inference import NO_CHOICES, Choices
from facefold.task import TASK_FILE
from facefold.utils.console import progress_bar
from facefold.utils.errors import InputError
from facefold.utils.files import require_disk_space, write_bytes, write_text

_SAME_TIME = 0.001  # seconds: a folder's times are rounded when they are set


def install_competition(
    source: Path,
    root: Path,
    choices: Choices = NO_CHOICES,
    image_folders: Mapping[str, str] | None = None,
    in_place: bool = False,
) -> bool:
    """Install `source` (zip or folder) as root/competition/; return False if these very csv files are there.

    Everything is written to competition.part, which is then renamed. Its content is checked later, so that all
    findings are listed at once and can be fixed there. A synthetic competition is replaced, and all results from it
    are removed, once the new one is complete. One that was installed and that no audit accepted is replaced as well. If
    the same csv files are there, images that were repaired in the source since are taken.

    Raises `InputError`, and leaves competition/ as it is, if the source is no competition, damaged or unsafe, if it has
    no image that fits a row but others, or several, if another competition is there, if a file that no step wrote would
    be lost, or if the disk is too full.

    Args:
        source: The zip or folder.
        root: The folder that holds competition/.
        choices: What a person says of the columns.
        image_folders: The folder of the images by split, inside the source.
        in_place: Whether the images of a folder are not copied; task.toml is then written, too.
    """
    target = root / "competition"
    if target.exists() and source.resolve() == target.resolve():
        return False
    if in_place and not source.is_dir():
        raise InputError(f"--in-place needs a folder, which {source} is not: unpack it, or leave the option out")
    try:
        with open_archive(source) as members:
            found, results = read_source(source, members, image_folders or {}), []
            if (target / SYNTHETIC_MARKER).exists():
                _require_outside(source, root)
                results = find_results(root)
            elif not is_empty(target):
                different = _different_csv_files(target, found.csv_files)
                if not different:
                    _update_competition(found, target, choices, in_place)
                    return False
                if not _was_refused(root):
                    raise InputError(
                        f"{target} holds another competition; not the same: {', '.join(different)}. Choose another "
                        f"folder with --root, or delete {target}, and folds/, runs/ and submissions/ with it."
                    )
            with staged_competition(root, _stamp(source)) as staged:
                _fill(staged, found, choices, in_place)
                remove_results(results)  # while SYNTHETIC.txt still says whose they are, should it be killed here
    except OSError as error:  # no space, no permission, a disk that fails
        raise InputError(f"{source} could not be installed as {target}: {error}") from error
    return True


def _fill(staged: Path, source: Source, choices: Choices, in_place: bool) -> None:
    """Write the files of a competition. `InputError` if it lacks images that the source has elsewhere."""
    for name, member in source.csv_files.items():
        member.copy(staged / name)
    rows = rows_with_usable_id(staged, choices.id_column)
    with open_images(source, staged, rows) as images:
        _require_images(source, staged, rows, images)
        if in_place:
            _write_task_in_place(staged, source, images, choices)
            return
        require_disk_space(staged, sum(member.size for member in images.files.values()), "the images")
        for name, member in progress_bar(images.files.items(), len(images.files), "unpacking", "file"):
            member.copy(staged / name)


def _write_task_in_place(folder: Path, source: Source, images: SourceImages, choices: Choices) -> None:
    """Write the task.toml that says where the images of `source` are; `folder` holds the csv files."""
    folders, zipped = {}, {member.name for member in images.inside}
    for name in images.own.values():
        if images.files[name].name in zipped:
            raise InputError(f"{images.files[name].name} is inside a zip: unpack it, or leave --in-place out")
    for split in SPLITS:
        paths = {id: source.real_path(images.files[name]) for (of, id), name in images.own.items() if of == split}
        common = Path(os.path.commonpath([path.parent for path in paths.values()])) if paths else source.path.absolute()
        wrong = next((id for id, path in paths.items() if find_file(common, id, deep=True) != path), None)
        if wrong is not None:
            raise InputError(
                f"--in-place: below {common} several images have the name of id '{wrong}', or another name than the "
                "id; leave --in-place out, so that they are copied"
            )
        folders[f"{split}_images"] = str(common)
    task = infer_in(folder, choices, **folders)
    write_text(folder / TASK_FILE, task.text())


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


def _update_competition(source: Source, target: Path, choices: Choices, in_place: bool) -> None:
    """Take from the source a meta.csv that `target` lacks, and the images that were changed in the source since.

    A sound image stays if it was changed in `target`, or if that of the source is not sound.
    """
    meta = source.csv_files.get("meta.csv")
    if meta and not (target / "meta.csv").exists():
        write_bytes(target / "meta.csv", meta.read())
    stamp = _stamp(source.path)
    chosen = choices.id_column or source.image_folders  # other images may be those of the rows now
    if stamp and installed_source(target) == stamp and not chosen:
        return
    known = stored_task(target)
    if known and (known.train_images or known.test_images) and not in_place:  # nothing was copied
        return
    taken, kept, folder = [], [], target / ".facefold.tmp"
    shutil.rmtree(folder, ignore_errors=True)  # what a killed step left
    folder.mkdir()
    try:
        rows = rows_with_usable_id(target, choices.id_column)
        with open_images(source, folder, rows) as images:
            if in_place:
                _require_images(source, target, rows, images)
                _write_task_in_place(target, source, images, choices)
                return
            for name, member in images.files.items():
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


def _require_images(source: Source, folder: Path, rows: dict[Row, int], images: SourceImages) -> None:
    """Raise `InputError` if images of rows are missing and the source has them elsewhere; else the audit names them.

    Args:
        source: Of the competition.
        folder: Holds its csv files.
        rows: Of `rows_with_usable_id`.
        images: Of `open_images`.
    """
    missing = [row for row in rows if row not in images.own]
    used = {images.files[name].name for name in images.own.values()}
    left_out: list[PurePosixPath] = [
        member.path for member in source.members + images.inside if member.name not in used
    ]
    nearest = nearest_files(missing, left_out)
    if nearest:
        raise InputError.of(
            f"{source.path} has the images of these rows elsewhere, or as other files ({len(missing):,} are missing):",
            [
                f"{split}/{id}.jpg ({rows_file(folder, split)}, row {rows[split, id]}) {describe_nearest(str(path))}"
                for (split, id), path in nearest.items()
            ],
            f"{describe_left_out(left_out, str(source.path))}\nName them as their ids are, name their folders with "
            "--images train=DIR,test=DIR, or move them to train/ and test/, then run the same command again. Nothing "
            "was installed.",
            limit=10,
        )
