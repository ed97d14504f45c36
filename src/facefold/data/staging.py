"""Replace competition/ as a whole: write the new one to competition.part, then rename it.

What is removed on the way must be ours: competition.part and competition.old hold a mark with their own name, which a
folder that somebody moved there does not have, and competition/ holds nothing but a competition.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facefold.data.competition import MARK, SPLITS, SYNTHETIC_MARKER
from facefold.data.image_names import has_image_suffix
from facefold.task import TASK_FILE
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file, sha256_text, write_text

CSV = ("train.csv", "test.csv", "sampleSubmit.csv", "meta.csv")
README = "README.md"  # of the repository, in its empty folders: no part of a competition


def is_litter(name: str) -> bool:
    """Return whether a file is no part of a competition but of the repository, a desktop or an editor."""
    return name in (README, "Thumbs.db", "desktop.ini") or name.startswith(".")


def is_empty(folder: Path) -> bool:
    """Return whether `folder` is missing or holds nothing of a competition."""
    return not folder.exists() or all(is_litter(path.name) for path in folder.iterdir())


@contextmanager
def staged_competition(root: Path, source: str = "") -> Iterator[Path]:
    """Yield an empty root/competition.part; it replaces root/competition if the block ends without an error.

    Raises `InputError` before anything is changed if that would remove files that no step wrote. source: what the mark
    of the new competition says of where it comes from.
    """
    part, target, old = root / "competition.part", root / "competition", root / "competition.old"
    if target.is_symlink():
        raise InputError(
            f"{target} is a link, and would be replaced by a folder; remove the link, or name the other disk with "
            "--root"
        )
    for left_over in (part, old):
        _require_mark(left_over)
    _require_competition_only(target)
    for left_over in (part, old):
        shutil.rmtree(left_over, ignore_errors=True)
    part.mkdir(parents=True)
    write_mark(part, part.name)
    for split in SPLITS:
        (part / split).mkdir()
    try:
        yield part
        os.sync()  # once for all files: an fsync for each of many thousand takes minutes on a slow disk
        if target.exists():
            for path in [path for path in target.iterdir() if is_litter(path.name) and path.name != MARK]:
                _copy(path, part / path.name)
            write_mark(target, old.name)
            os.replace(target, old)
        os.replace(part, target)
        write_mark(target, target.name, source)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        error.filename = error.filename or str(part)  # the error of a full disk has no file name
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_mark(folder: Path, name: str, source: str = "") -> None:
    """Write the mark: the name of the folder, where it comes from, and a checksum of its csv files."""
    write_text(folder / MARK, f"{name}\n{source}\n{_hash_csv_files(folder)}\n")


def installed_source(folder: Path) -> str:
    """Return what the mark says of where the competition comes from; empty without a mark."""
    return _read_mark(folder)[1]


def has_installed_csv_files(folder: Path) -> bool:
    """Return whether the csv files are those that were installed: a change of their times alone is none."""
    return _read_mark(folder)[2] == _hash_csv_files(folder)


def _read_mark(folder: Path) -> list[str]:
    """Return the three lines of the mark, empty ones where it is missing."""
    mark = folder / MARK
    lines = mark.read_text(encoding="utf-8", errors="replace").split("\n") if mark.is_file() else []
    return [*lines, "", "", ""][:3]


def _hash_csv_files(folder: Path) -> str:
    return sha256_text("\n".join(sha256_file(folder / name) for name in CSV if (folder / name).is_file()))


def _require_mark(folder: Path) -> None:
    """Raise `InputError` if `folder` is there and is not what a killed step left."""
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if folder.is_symlink() or _read_mark(folder)[0] != folder.name:
        raise InputError(
            f"{folder} was not written by this program, which needs the name while it installs a competition; rename "
            "it, then run the same command again. Nothing was changed."
        )


def _require_competition_only(target: Path) -> None:
    """Raise `InputError` if `target` holds anything that is no part of a competition."""
    if not target.exists():
        return
    foreign = [path for path in target.iterdir() if path.name not in (*CSV, *SPLITS, SYNTHETIC_MARKER, TASK_FILE)]
    for split in SPLITS:
        foreign += [path for path in (target / split).glob("*") if path.is_dir() or not has_image_suffix(path.name)]
    foreign = [path for path in foreign if not is_litter(path.name)]
    if foreign:
        raise InputError.of(
            f"{target} is to be replaced, and holds files that are no part of a competition:",
            map(str, sorted(foreign)),
            "Move them away, then run the same command again. Nothing was changed.",
            limit=10,
        )


def _copy(source: Path, target: Path) -> None:
    """Copy a hidden file or folder of somebody's; links stay links, and pipes stay where they are."""
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    elif source.is_file() or source.is_symlink():
        shutil.copyfile(source, target, follow_symlinks=False)
