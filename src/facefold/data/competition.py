"""Read the csv files of a competition, find everything that is wrong with them, and write the submission.

competition/train.csv         id,label   label 0 or 1
competition/test.csv          id
competition/sampleSubmit.csv  id,label   the ids of test.csv; its order is that of the submission
competition/meta.csv          id,..      optional: facts on train and test rows, never an input of a model
competition/train/<id>.jpg, competition/test/<id>.jpg
"""

import math
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.csv_file import CsvFile, Findings, id_fault, quoted, read_csv_file
from facefold.task import Task
from facefold.utils.errors import InputError

SPLITS = ("train", "test")
SYNTHETIC_MARKER = "SYNTHETIC.txt"  # the file in a competition that data.synthetic wrote
MARK = ".facefold"  # the file in competition/ that tells that a step wrote it; its first line is the folder's name
README = "README.md"  # of the repository, in its empty folders: no part of a competition
_HEADERS = {"train.csv": ["id", "label"], "test.csv": ["id"], "sampleSubmit.csv": ["id", "label"], "meta.csv": ["id"]}
_HINT = (
    "Fix these in a text editor or by script, or take the files as downloaded (a spreadsheet adds blanks and eats "
    "leading zeros), then run `python src/audit.py` again."
)
_NO_DATA = (
    "Put a competition there with `python src/audit.py --data ZIP|DIR` (the Kaggle zip as downloaded), "
    "or try the built-in synthetic one: `python src/audit.py --synthetic`."
)


@dataclass(frozen=True)
class Competition:
    """The tables of a competition.

    train: id (text), label (int64). test: id. sample: id, label (text, as in the file). meta: id and any columns, all
    text, or None.
    """

    root: Path
    train: pd.DataFrame
    test: pd.DataFrame
    sample: pd.DataFrame
    meta: pd.DataFrame | None

    def ids(self, split: str) -> list[str]:
        """Return the ids of `split` (train or test) in the order of its csv file."""
        return (self.train if split == "train" else self.test)["id"].tolist()

    def image_path(self, split: str, id: str) -> Path:
        return find_image(self.root, split, id)


def find_image(root: Path, split: str, id: str) -> Path:
    """Return the path of an image, which need not be there.

    Its name on disk may be in another Unicode form than the id: some systems and zips take accents from their letters.
    """
    path = root / "competition" / split / f"{id}.jpg"
    if id.isascii() or path.exists():
        return path
    forms = (path.with_name(unicodedata.normalize(form, path.name)) for form in ("NFC", "NFD"))
    return next((other for other in forms if other.exists()), path)


def is_litter(name: str) -> bool:
    """Return whether a file is no part of a competition but of the repository, a desktop or an editor."""
    return name in (README, "Thumbs.db", "desktop.ini") or name.startswith(".")


def is_empty(folder: Path) -> bool:
    """Return whether `folder` is missing or holds nothing of a competition."""
    return not folder.exists() or all(is_litter(path.name) for path in folder.iterdir())


def load_competition(root: Path) -> Competition:
    """Load root/competition/*.csv; images are not opened. One `InputError` lists all that breaks the rules."""
    folder = root / "competition"
    if not folder.is_dir():
        raise InputError(f"{folder} is missing: there is no competition yet.\n{_NO_DATA}")
    findings, files = Findings(), {}
    for name, header in _HEADERS.items():
        meta = name == "meta.csv"
        if meta and not (folder / name).exists():
            continue
        file = read_csv_file(folder / name, f"competition/{name}", header, findings, more_columns=meta)
        if file is not None:
            files[name] = file
    if "train.csv" in files:
        _check_labels(files["train.csv"], findings)
    _check_ids_across({name: file.row_of_id for name, file in files.items()}, findings)
    findings.raise_any("the competition's csv files are not as they should be:", _HINT)
    train, test, sample, meta = (files[name].table() if name in files else None for name in _HEADERS)
    return Competition(root, train.astype({"label": "int64"}), test, sample, meta)


def rows_with_usable_id(folder: Path) -> dict[tuple[str, str], int]:
    """Return (split, id) -> row number of the rows with a usable id, however bad the csv files in `folder` are."""
    rows: dict[tuple[str, str], int] = {}
    for split in SPLITS:
        name = f"{split}.csv"
        file = read_csv_file(folder / name, name, _HEADERS[name], Findings())
        if file is not None:
            rows.update({(split, id): row for id, row in file.row_of_id.items() if not id_fault(id)})
    return rows


def target_rows(competition: Competition, target: Task) -> pd.DataFrame:
    """Return id and `label`, the target's value, of the train rows in the order of train.csv: int64, or float64.

    Raises `InputError` if meta.csv lacks the column or its name cannot name a folder, by row for values that are
    missing or not numbers, and for a column with only one value.
    """
    if not target.regression:
        return competition.train
    hint = "Every train row needs a number there, to be trained and scored by: fix meta.csv, or leave --target out."
    if competition.meta is None:
        raise InputError(f"--target {target.name}: competition/meta.csv (id,{target.name},..) is missing. {hint}")
    columns = [name for name in competition.meta.columns if name != "id"]
    if target.name not in columns or id_fault(target.name):
        raise InputError(
            f"--target {target.name}: competition/meta.csv has no such column that can name a folder; it has "
            f"{', '.join(columns) or 'none but id'}"
        )
    cells = zip(competition.meta["id"], competition.meta[target.name], strict=True)
    meta = {id: (row, text) for row, (id, text) in enumerate(cells, start=2)}
    findings, values = Findings(), []
    for train_row, id in enumerate(competition.train["id"], start=2):
        if id not in meta:
            findings.add("missing", f"competition/train.csv, row {train_row}: id '{id}' has no row in meta.csv")
            continue
        row, text = meta[id]
        values.append(_number(text))
        if not math.isfinite(values[-1]):
            where = f"competition/meta.csv, row {row}"
            findings.add("number", f"{where}: {target.name} {text!r} of id '{id}' is not a number")
    findings.raise_any(f"--target {target.name} cannot be used:", hint)
    if len(set(values)) == 1:
        raise InputError(
            f"--target {target.name}: it is {values[0]:g} in every train row, which leaves nothing to learn"
        )
    return pd.DataFrame({"id": competition.train["id"], "label": np.array(values)})


def describe_sample(competition: Competition) -> str:
    """Say what a competition wants in place of labels, by the first value of its sample that is no label; else ''."""
    for row, text in enumerate(competition.sample["label"], start=2):
        value = _number(text)
        if text.strip() and value not in (0, 1):
            wanted = "probabilities" if 0 < value < 1 else "something other than labels"
            where = f"competition/sampleSubmit.csv, row {row}"
            return f"{where}: {quoted(text)} is neither 0 nor 1: the competition wants {wanted}"
    return ""


def require_label_sample(competition: Competition, target: Task, labels: bool) -> None:
    """Raise `InputError` if the sample has no labels, unless a person asks for `labels` all the same.

    A regression has no labels to ask for.
    """
    if target.regression and labels:
        raise InputError(f"--labels is for labels; with{target.option} leave it out")
    if not (target.regression or labels) and (wanted := describe_sample(competition)):
        raise InputError(
            f"{wanted}, and blend.py writes labels 0 and 1 only. To have these all the same, use --labels."
        )


def _check_labels(train: CsvFile, findings: Findings) -> None:
    add = findings.of_file("competition/train.csv")
    for row, (_, label, *_) in train.rows:
        if label not in ("0", "1"):
            add("label", f", row {row}: label {quoted(label)} is not 0 or 1")
    seen = {label for _, (_, label, *_) in train.rows}
    if seen in ({"0"}, {"1"}):
        add("class", f": every label is {seen.pop()}; two classes are needed")


def _check_ids_across(rows: dict[str, dict[str, int]], findings: Findings) -> None:
    """Check the ids of each file against those of the others. rows: row number by id, by file name."""
    train, test, sample, meta = (rows.get(name) for name in _HEADERS)
    if train is not None and test is not None:
        for id, row in test.items():
            if id in train:
                where = f"competition/test.csv, row {row}"
                findings.add("both", f"{where}: id {quoted(id)} is also a train id (row {train[id]})")
    if test is not None and sample is not None:
        name = "competition/sampleSubmit.csv"
        for id, row in test.items():
            if id not in sample:
                findings.add("unsampled", f"{name}: id {quoted(id)} of test.csv (row {row}) is missing")
        for id, row in sample.items():
            if id not in test:
                findings.add("untested", f"{name}, row {row}: id {quoted(id)} is not in test.csv")
    if len(rows) == len(_HEADERS):
        for id, row in meta.items():
            if id not in train and id not in test:
                where = f"competition/meta.csv, row {row}"
                findings.add("meta", f"{where}: id {quoted(id)} is neither in train.csv nor in test.csv")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
