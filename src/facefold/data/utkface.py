"""UTKFace (Zhang, Song and Qi, CVPR 2017) as a competition: the names of its files tell age, gender and race.

<age>_<gender>_<race>_<date>.jpg, with .chip.jpg behind it where the face was aligned and cropped
gender: 0 male, 1 female; race: 0 White, 1 Black, 2 Asian, 3 Indian, 4 other
"""

import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from facefold.data.archive import open_archive, staged_competition
from facefold.data.competition import is_empty
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file, sha256_text, write_csv
from facefold.utils.seeding import seed_of

OLDEST = 116
# A few names of UTKFace have a blank behind the date, which is not used; the three facts before it are whole.
_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+ ?(\.jpg(?:\.chip\.jpg)?)", re.IGNORECASE)
_TIME = 946_684_800  # 2000-01-01 UTC, of every image: the times of the files may tell who was collected when


@dataclass(frozen=True)
class Imported:
    """train, test: id, label, age, race; malformed: names that were left out; twice: how many files bore a name that was there
    already; new: whether anything was written."""

    train: pd.DataFrame
    test: pd.DataFrame
    malformed: list[str]
    twice: int
    new: bool


def install_utkface(source: Path, root: Path, test_size: int, seed: int) -> Imported:
    """Make root/competition/ and root/solution.csv of `source`, a zip or folder of UTKFace; what is there already is kept.

    The ids are 1.. in an order drawn from `seed`, so that neither an id nor its neighbours tell anything; all images get one
    time. The test rows are drawn in equal shares of the labels; near-duplicates may stand on both sides, as in the published
    competition (the audit names them). meta.csv has age and race of the train rows, solution.csv label, age and race of the test
    rows. Raises `InputError` when another competition or other answers are there, or when the source has too few faces.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist; give the zip or the folder of UTKFace")
    if not source.is_dir() and not zipfile.is_zipfile(source):
        raise InputError(
            f"{source} is neither a folder nor a whole zip; give the zip or the folder of UTKFace as downloaded"
        )
    if seed < 0:
        raise InputError(f"--seed {seed}: a seed is a whole number from 0 on")
    with open_archive(source) as members:
        faces, malformed, twice = parse_file_names(list(members))
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
        new = not _there(root, tables["train.csv"])
        if new:
            _require_answers(root, test)
            with staged_competition(root) as part:
                for row in tqdm(
                    table.itertuples(),
                    total=len(table),
                    desc="unpacking",
                    unit="img",
                    disable=len(table) < 1000 or None,
                ):
                    target = part / row.split / f"{row.id}.jpg"
                    members[row.path](target)
                    os.utime(target, (_TIME, _TIME))
                for name, rows in tables.items():
                    write_csv(part / name, rows)
                write_csv(solution_path(root), test)  # before competition/ is there: a killed import never lacks it
    return Imported(train, test, malformed, twice, new)


def solution_path(root: Path) -> Path:
    return root / "solution.csv"


def parse_file_names(paths: list[PurePosixPath]) -> tuple[pd.DataFrame, list[str], int]:
    """The faces as path, age, label, race (sorted by name), the malformed names of JPEG files, and how many bore a name twice.

    A name that stands in several folders (Kaggle's archives hold crop_part1/ beside UTKFace/) is one face and taken once, from
    the first folder. Raises `InputError` without any face, and where a face is there both cropped (.chip.jpg) and not.
    """
    found: dict[str, tuple] = {}
    malformed, twice, endings = [], 0, {}
    for path in sorted(paths, key=lambda path: (len(path.parts), str(path))):
        if path.suffix.lower() not in (".jpg", ".jpeg"):
            continue
        match = _NAME.fullmatch(path.name)
        if not match or int(match[1]) > OLDEST:
            malformed.append(str(path))
        elif path.name in found:
            twice += 1
        else:
            found[path.name] = (path, int(match[1]), int(match[2]), int(match[3]))
            endings.setdefault(path.name.removesuffix(match[4]), path)
    if not found:
        raise InputError.of(
            "no file is called <age>_<gender>_<race>_<date>.jpg or .jpg.chip.jpg:",
            malformed[:10],
            "Give the zip or the folder of UTKFace as downloaded.",
        )
    if len(endings) < len(found):
        raise InputError(
            f"{len(found) - len(endings)} faces are there both cropped (.jpg.chip.jpg) and not (.jpg); one in train "
            "and one in test would tell the label. Give the folder of one kind."
        )
    table = pd.DataFrame([found[name] for name in sorted(found)], columns=["path", "age", "label", "race"])
    return table, malformed, twice


def split_faces(faces: pd.DataFrame, test_size: int, seed: int) -> pd.DataFrame:
    """`faces` with id (text) and split (train or test), sorted by the id as a number; `test_size` of them are test rows."""
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
    number = np.random.default_rng(seed_of(seed, "ids")).permutation(rows) + 1
    return faces.assign(split=split, id=number.astype(str)).iloc[np.argsort(number)].reset_index(drop=True)


def _there(root: Path, train: pd.DataFrame) -> bool:
    """Whether this very competition is in place. `InputError` when another one is."""
    target = root / "competition"
    if is_empty(target):
        return False
    written = train.to_csv(index=False, lineterminator="\n")
    if (target / "train.csv").is_file() and sha256_file(target / "train.csv") == sha256_text(written):
        return True
    raise InputError(f"{target} holds another competition and is left as it is; choose another folder with --root")


def _require_answers(root: Path, test: pd.DataFrame) -> None:
    path = solution_path(root)
    if path.exists() and sha256_file(path) != sha256_text(test.to_csv(index=False, lineterminator="\n")):
        raise InputError(f"{path} holds other answers; move it away, or choose another folder with --root")
