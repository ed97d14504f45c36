"""Make a competition of UTKFace (Zhang, Song and Qi, CVPR 2017), whose file names say age, gender and race.

<age>_<gender>_<race>_<date>.jpg, followed by .chip.jpg if the face was aligned and cropped
gender: 0 male, 1 female; race: 0 White, 1 Black, 2 Asian, 3 Indian, 4 other
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from facefold.data.archive import open_archive
from facefold.data.staging import is_empty, staged_competition
from facefold.utils.console import progress_bar
from facefold.utils.errors import InputError
from facefold.utils.files import csv_text, sha256_file, sha256_text, write_csv
from facefold.utils.seeding import derive_seed

OLDEST = 116
# A few names of UTKFace have a blank after the date, which is not used; the three facts before it are complete.
_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+ ?(\.jpg(?:\.chip\.jpg)?)", re.IGNORECASE)
_MTIME = 946_684_800  # 2000-01-01 UTC, of all images: the times of the files may say who was collected when


class UtkfaceImport(NamedTuple):
    """The result of an import.

    train, test: id, label, age, race. malformed: names that were left out. repeated: files whose name is in another
    folder too. new: whether anything was written.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    malformed: list[str]
    repeated: int
    new: bool


def install_utkface(source: Path, root: Path, test_size: int, seed: int) -> UtkfaceImport:
    """Write root/competition/ and root/solution.csv from a zip or folder of UTKFace, unless they are there already.

    The ids are 1.. in an order drawn from `seed`, so that neither an id nor its neighbours say anything; all images get
    one time. The test rows are drawn in equal shares of the labels; near-duplicates may be in train and test, as in the
    published competition (the audit names them). meta.csv has age and race of the train rows, solution.csv label, age
    and race of the test rows.

    Raises `InputError` if another competition or other answers are there, or if the source has too few faces.

    Args:
        source: The zip or folder as downloaded.
        root: The competition is written to root/competition.
        test_size: Faces to hold out.
        seed: Another seed gives other ids and another test set.
    """
    with open_archive(source) as members:
        faces, malformed, repeated = parse_file_names([member.path for member in members])
        table = split_faces(faces, test_size, seed)
        train, test = (
            table.loc[table["split"] == split, ["id", "label", "age", "race"]].reset_index(drop=True)
            for split in ("train", "test")
        )
        tables = {
            "train.csv": train[["id", "label"]],
            "test.csv": test[["id"]],
            "meta.csv": train[["id", "age", "race"]],
            "sampleSubmit.csv": test[["id"]].assign(label=0),
        }
        new = not _is_installed(root, tables["train.csv"])
        if new:
            solution = solution_path(root)
            if solution.exists() and sha256_file(solution) != sha256_text(csv_text(test)):
                raise InputError(f"{solution} holds other answers; move it away, or choose another folder with --root")
            member_of = {member.path: member for member in members}
            with staged_competition(root) as staged:
                for row in progress_bar(table.itertuples(), len(table), "unpacking"):
                    path = staged / row.split / f"{row.id}.jpg"
                    member_of[row.path].copy(path)
                    os.utime(path, (_MTIME, _MTIME))
                for name, rows in tables.items():
                    write_csv(staged / name, rows)
                write_csv(solution, test)  # before competition/ is there: a killed import never lacks it
    return UtkfaceImport(train, test, malformed, repeated, new)


def solution_path(root: Path) -> Path:
    return root / "solution.csv"


def parse_file_names(paths: list[PurePosixPath]) -> tuple[pd.DataFrame, list[str], int]:
    """Parse the names of JPEG files to path, age, label, race (sorted by name), malformed names and a count of repeats.

    A name that is in several folders (Kaggle's archives hold crop_part1/ next to UTKFace/) is one face, taken from the
    first folder. Raises `InputError` without any face, and if a face is there both cropped (.chip.jpg) and not.
    """
    faces: dict[str, tuple] = {}
    malformed, repeated, stems = [], 0, set()
    for path in sorted(paths, key=lambda path: (len(path.parts), str(path))):
        if path.suffix.lower() not in (".jpg", ".jpeg"):
            continue
        match = _NAME.fullmatch(path.name)
        if not match or int(match[1]) > OLDEST:
            malformed.append(str(path))
        elif path.name in faces:
            repeated += 1
        else:
            faces[path.name] = (path, int(match[1]), int(match[2]), int(match[3]))
            stems.add(path.name.removesuffix(match[4]))
    if not faces:
        raise InputError.of(
            "no file is called <age>_<gender>_<race>_<date>.jpg or .jpg.chip.jpg:",
            malformed[:10],
            "Use the zip or the folder of UTKFace as downloaded.",
        )
    if len(stems) < len(faces):
        raise InputError(
            f"{len(faces) - len(stems)} faces are there both cropped (.jpg.chip.jpg) and not (.jpg); one in train "
            "and one in test would give the label away. Use the folder of one kind."
        )
    table = pd.DataFrame([faces[name] for name in sorted(faces)], columns=["path", "age", "label", "race"])
    return table, malformed, repeated


def split_faces(faces: pd.DataFrame, test_size: int, seed: int) -> pd.DataFrame:
    """Add id (text) and split (train, or test for `test_size` rows) to `faces`, and sort by the id as a number."""
    rows, smallest = len(faces), faces["label"].value_counts().reindex([0, 1], fill_value=0).min()
    if smallest < 4:
        raise InputError(
            f"{rows} faces with {smallest} of one gender: at least 4 of each are needed for a train and a test set"
        )
    if not 2 <= test_size <= rows - 4:
        raise InputError(
            f"--test-size {test_size}: there are {rows} faces here, so it is 2 to {rows - 4}; "
            f"--test-size {max(2, rows // 4)} holds out a quarter"
        )
    _, test = train_test_split(np.arange(rows), test_size=test_size, stratify=faces["label"], random_state=seed)
    split = np.full(rows, "train", dtype=object)
    split[test] = "test"
    number = np.random.default_rng(derive_seed(seed, "ids")).permutation(rows) + 1
    return faces.assign(split=split, id=number.astype(str)).iloc[np.argsort(number)].reset_index(drop=True)


def _is_installed(root: Path, train: pd.DataFrame) -> bool:
    """Return whether this very competition is installed. `InputError` if it is another one."""
    target = root / "competition"
    if is_empty(target):
        return False
    if (target / "train.csv").is_file() and sha256_file(target / "train.csv") == sha256_text(csv_text(train)):
        return True
    raise InputError(f"{target} holds another competition and is left as it is; choose another folder with --root")
