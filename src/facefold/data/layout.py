"""Install a competition: from the zip as downloaded, or a folder, to root/competition/.

Known layouts, at the top or one folder down: train.csv, test.csv, sampleSubmit.csv (sample_submission.csv, any case),
optionally meta.csv; the images in train/, train/train/, or those inside train.zip; test likewise; .jpg, .jpeg, any
case.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from facefold.data.archive import Member, open_archive, open_zip
from facefold.data.competition import README, SPLITS, SYNTHETIC_MARKER, is_empty
from facefold.data.csv_file import MAX_CSV_BYTES
from facefold.data.images import MAX_BYTES
from facefold.utils.console import progress_bar
from facefold.utils.errors import InputError
from facefold.utils.files import require_disk_space, write_bytes

_RESULTS = ("submissions", "runs", "folds", "cache", "targets", "compare", "tensorboard")  # of the later steps
_CSV = ("train.csv", "test.csv", "sampleSubmit.csv", "meta.csv")
_SAMPLE = re.compile(r"sample_?(submit|submission)\.csv", re.IGNORECASE)
_OTHER_IMAGES = {".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".heic", ".avif"}


def install_competition(source: Path, root: Path) -> bool:
    """Install `source` (zip or folder) as root/competition/; return False if these very csv files are there.

    Everything is written to competition.part, which is then renamed. Its content is checked later, so that all
    findings are listed at once and can be fixed there. A synthetic competition is replaced, and all results from it
    are removed, once the new one is complete.

    Raises `InputError`, and leaves competition/ as it is, if the source is no competition, damaged or unsafe, if
    another competition is there, or if the disk is too full.
    """
    target = root / "competition"
    if target.exists() and source.resolve() == target.resolve():
        return False
    try:
        with open_archive(source) as members:
            members = _members_of_competition(source, members)
            csv_files = _find_csv_files(source, members)
            synthetic = (target / SYNTHETIC_MARKER).exists()
            if synthetic:
                _require_outside(source, root)
            elif not is_empty(target):
                _require_same(target, csv_files)
                return False
            with staged_competition(root) as staged:
                with _open_images(members, staged) as images:
                    require_disk_space(root, sum(member.size for member in images.values()), "the images")
                    files = {**csv_files, **images}
                    for name, member in progress_bar(files.items(), len(files), "unpacking", "file"):
                        member.copy(staged / name)
                if synthetic:
                    _remove_results(root)
    except OSError as error:  # no space, no permission, a disk that fails
        raise InputError(f"{source} could not be installed as {target}: {error}") from error
    return True


@contextmanager
def staged_competition(root: Path) -> Iterator[Path]:
    """Yield an empty root/competition.part; it replaces root/competition if the block ends without an error."""
    part, target, old = root / "competition.part", root / "competition", root / "competition.old"
    for left_over in (part, old):
        shutil.rmtree(left_over, ignore_errors=True)
    for split in SPLITS:
        (part / split).mkdir(parents=True)
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
        error.filename = error.filename or str(part)  # the error of a full disk has no file name
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _members_of_competition(source: Path, members: list[Member]) -> list[Member]:
    """Return the members below the folder, at the top or one down, that holds train.csv; their paths are inside it."""
    folders = {
        member.path.parent
        for member in members
        if member.path.name.lower() == "train.csv" and len(member.path.parts) <= 2
    }
    if not folders:
        raise InputError(
            f"{source} holds no train.csv, neither at the top nor one folder down; "
            "--data takes the competition's zip as downloaded, or the folder it was unpacked to"
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
        if name in _CSV:
            if name in files:
                raise InputError(f"{source} holds {name} twice: {files[name].name} and {member.name}; remove one")
            if member.size > MAX_CSV_BYTES:
                raise InputError(f"{member.name} is larger than {MAX_CSV_BYTES >> 20} MiB")
            files[name] = member
    return files


def _require_same(target: Path, csv_files: dict[str, Member]) -> None:
    """Raise `InputError` unless `target` has the same csv files; a meta.csv that it lacks is added."""
    meta, meta_path = csv_files.get("meta.csv"), target / "meta.csv"
    names = _CSV if meta and meta_path.exists() else _CSV[:3]
    different = [name for name in names if not _is_copy(target / name, csv_files.get(name))]
    if different:
        raise InputError(
            f"{target} holds another competition; not the same: {', '.join(different)}. "
            f"Choose another folder with --root, or delete {target}, and folds/, runs/ and submissions/ with it."
        )
    if meta and not meta_path.exists():
        write_bytes(meta_path, meta.read())


def _is_copy(path: Path, member: Member | None) -> bool:
    if member is None or not path.is_file():
        return member is None and not path.is_file()
    return path.read_bytes() == member.read()


def _require_outside(source: Path, root: Path) -> None:
    for name in ("competition", *_RESULTS):
        if source.resolve().is_relative_to((root / name).resolve()):
            raise InputError(
                f"{source} is inside {root / name}, which is removed with the synthetic competition; move it out first"
            )


def _remove_results(root: Path) -> None:
    (root / "report.html").unlink(missing_ok=True)
    for name in _RESULTS:
        if not (root / name / README).exists():
            shutil.rmtree(root / name, ignore_errors=True)
            continue
        for path in [path for path in (root / name).iterdir() if path.name != README]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def _open_images(members: list[Member], staged: Path) -> Iterator[dict[str, Member]]:
    """Yield the images by the name that they get, train/<id>.jpg or test/<id>.jpg.

    Zips inside the source are copied to `staged` and removed at the end.
    """
    images: dict[str, Member] = {}
    problems: list[str] = []
    with ExitStack() as zips:
        for split in SPLITS:
            found = _files_in(members, (split,), (split, split))
            for member in members:
                if str(member.path).lower() == f"{split}.zip":
                    copy = staged / f".{split}.zip"
                    require_disk_space(staged, member.size, member.name)
                    member.copy(copy)
                    zips.callback(copy.unlink)
                    inside = zips.enter_context(open_zip(copy, member.name))
                    found += _files_in(inside, (), (split,), (split, split))
            for member in found:
                suffix, name = member.path.suffix.lower(), f"{split}/{member.path.stem}.jpg"
                if suffix in _OTHER_IMAGES:
                    problems.append(f"{member.name} is not a .jpg; convert it")
                elif suffix in (".jpg", ".jpeg"):
                    if name in images:
                        problems.append(f"{images[name].name} and {member.name} would both be {name}")
                    if member.size > MAX_BYTES:
                        problems.append(f"{member.name} is larger than {MAX_BYTES >> 20} MiB")
                    images[name] = member
        if problems:
            raise InputError.of(
                "the images of this competition cannot be installed:",
                problems,
                "Fix the folder, or download the competition again.",
            )
        yield images


def _files_in(members: list[Member], *folders: tuple[str, ...]) -> list[Member]:
    """Return the members that are in one of `folders`, whatever the case of its name."""
    return [member for member in members if tuple(part.lower() for part in member.path.parent.parts) in folders]
