"""Read the csv files of a competition, and find everything that is wrong with them.

competition/train.csv         id,label  or any other columns, as task.toml says, or else as they are inferred
competition/test.csv          id,..     if the source has one; else the ids are those of the sample
competition/sampleSubmit.csv  id,label  or a column per class; its order is that of the submission
competition/meta.csv          id,..     optional: facts on train and test rows, never an input of a model
competition/task.toml         how these are read (`Task`)
competition/train/, competition/test/   the images: `<id>.jpg`, another suffix, or the id if it has one
                                         of the id a/1.jpg `1.jpg`, or `a__1.jpg` if another id ends like it
"""

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.csv_file import CsvFile, Findings, id_fault, index_ids, quoted, read_table, row_id_fault
from facefold.data.image_names import find_file
from facefold.data.task_inference import (
    NO_CHOICES,
    SAMPLE,
    TEST,
    TRAIN,
    Choices,
    as_number,
    check_several_labels,
    check_task,
    find_id_column,
    infer_task,
    keep_choices,
    label_indices,
)
from facefold.task import LABEL, TASK_FILE, Task, read_task
from facefold.utils.errors import InputError

SPLITS = ("train", "test")
SYNTHETIC_MARKER = "SYNTHETIC.txt"  # the file in a competition that data.synthetic wrote
MARK = ".facefold"  # the file in competition/ that tells that a step wrote it; its first line is the folder's name
_NAMES = (TRAIN, TEST, SAMPLE, "meta.csv")
_HEADLINE = "the competition's csv files are not as they should be:"
_HINT = (
    "Fix these in a text editor or by script, or take the files as downloaded (a spreadsheet adds blanks and eats "
    "leading zeros), then run `python src/audit.py` again."
)
_SHARED_IDS = (
    " If train and test have different images of the same ids, write train/ before the ids of train.csv (1 becomes "
    "train/1), also in meta.csv: the images keep their names, and the submission its ids."
)
_OTHER_ID = "id."  # what a column `id` is called here if another one has the ids
_NO_DATA = (
    "Put a competition there with `python src/audit.py --data ZIP|DIR` (the Kaggle zip as downloaded), "
    "or try the built-in synthetic one: `python src/audit.py --synthetic`."
)


@dataclass(frozen=True)
class Competition:
    """The tables of a competition.

    train: id (text), label (int64, an index of the task's classes). test: id. sample: all columns as text, the id's
    called `id`; without a sampleSubmit.csv `id` and an empty column of the label's name. meta: id and any columns, all
    text, or None. extra, test_extra: id and the further columns of train.csv and test.csv, all text, or None.
    """

    root: Path
    train: pd.DataFrame
    test: pd.DataFrame
    sample: pd.DataFrame
    meta: pd.DataFrame | None
    task: Task = LABEL
    extra: pd.DataFrame | None = None
    test_extra: pd.DataFrame | None = None

    def ids(self, split: str) -> list[str]:
        """Return the ids of `split` (train or test) in the order of its csv file."""
        return (self.train if split == "train" else self.test)["id"].tolist()

    def image_path(self, split: str, id: str) -> Path:
        return find_image(self.root, split, id, self.task)

    @property
    def sample_header(self) -> list[str]:
        """The header of a submission: the sample's, as it is in the file."""
        names = {"id": self.task.id_column, _OTHER_ID: "id"}
        return [names.get(name, name) for name in self.sample.columns]


def image_folder(root: Path, split: str, task: Task = LABEL) -> Path:
    """Return the folder with the images of `split`, which may have subfolders if they were not copied."""
    elsewhere = task.train_images if split == "train" else task.test_images
    return Path(elsewhere) if elsewhere else root / "competition" / split


def find_image(root: Path, split: str, id: str, task: Task = LABEL) -> Path:
    """Return the path of an image, which need not be there: `find_file` in its folder."""
    folder = image_folder(root, split, task)
    return find_file(folder, id, deep=folder != root / "competition" / split)


def load_competition(root: Path, choices: Choices | None = None) -> Competition:
    """Load root/competition/*.csv; images are not opened. One `InputError` lists all that breaks the rules.

    The task is that of task.toml; without one, or with `choices`, which come first, it is inferred.
    """
    folder = root / "competition"
    if not folder.is_dir():
        raise InputError(f"{folder} is missing: there is no competition yet.\n{_NO_DATA}")
    known = stored_task(folder)
    faults = {name: Findings() for name in _NAMES}
    files = _read_files(folder, faults)
    findings, task = Findings(), known
    try:
        if TRAIN in files and (known is None or choices):
            task = _infer(files, known, choices or NO_CHOICES)
    except InputError as error:
        findings.add("task", str(error))
    files = {name: _index(name, file, task, faults[name]) for name, file in files.items()}
    for name in _NAMES:
        findings.extend(faults[name])
    if task is not None:
        check_task(task, files, findings)
    if task is None or TRAIN not in files:
        findings.raise_any(_HEADLINE, _HINT)
    labels = []
    if set(task.label_columns) <= set(files[TRAIN].header):
        labels = label_indices(task, files[TRAIN], f"competition/{TRAIN}", findings)
        check_several_labels(task, files[TRAIN], findings)
    shared = _check_ids_across({name: file.row_of_id for name, file in files.items()}, findings)
    findings.raise_any(_HEADLINE, _HINT + (_SHARED_IDS if shared else ""))
    return _competition_of(root, task, files, labels)


def rows_with_usable_id(folder: Path, id_column: str = "") -> dict[tuple[str, str], int]:
    """Return (split, id) -> row number of the rows with a usable id, however bad the csv files in `folder` are.

    id_column: of the task; empty: that of task.toml, the one that `find_id_column` finds, or else the first.
    """
    rows: dict[tuple[str, str], int] = {}
    if not id_column:
        with suppress(InputError):
            known = stored_task(folder)
            id_column = known.id_column if known else ""
    files = _read_files(folder, {name: Findings() for name in _NAMES})
    found = id_column or find_id_column(files)
    for split in SPLITS:
        if file := files.get(rows_file(folder, split)):
            column = found if found in file.header else file.header[0]
            indexed = index_ids(file, column, "", Findings())
            rows.update({(split, id): row for id, row in indexed.row_of_id.items() if not row_id_fault(id)})
    return rows


def infer_in(folder: Path, choices: Choices, **settings: str) -> Task:
    """Infer the task of the csv files in `folder`, with these further settings of a `Task`."""
    files = _read_files(folder, {name: Findings() for name in _NAMES})
    if TRAIN not in files:
        raise InputError(f"{folder / TRAIN} cannot be read")
    return replace(_infer(files, stored_task(folder), choices), **settings)


def stored_task(folder: Path) -> Task | None:
    """Return the task of the task.toml in `folder`, a competition/; None without one. Errors as of `load_task`."""
    path = folder / TASK_FILE
    return read_task(path) if path.is_file() else None


def rows_file(folder: Path, split: str) -> str:
    """Return the name of the file in `folder` that has the rows of `split`."""
    return SAMPLE if split == "test" and not (folder / TEST).is_file() else f"{split}.csv"


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
        values.append(as_number(text))
        if not math.isfinite(values[-1]):
            where = f"competition/meta.csv, row {row}"
            findings.add("number", f"{where}: {target.name} {text!r} of id '{id}' is not a number")
    findings.raise_any(f"--target {target.name} cannot be used:", hint)
    if len(set(values)) == 1:
        raise InputError(
            f"--target {target.name}: it is {values[0]:g} in every train row, which leaves nothing to learn"
        )
    return pd.DataFrame({"id": competition.train["id"], "label": np.array(values)})


def _read_files(folder: Path, faults: dict[str, Findings]) -> dict[str, CsvFile]:
    """Read the csv files that are there; train.csv has to be, and test.csv or the sample. faults: by file name."""
    files = {}
    for name in _NAMES:
        needed = name == TRAIN or (name == TEST and not (folder / SAMPLE).is_file())
        if needed or (folder / name).exists():
            file = read_table(folder / name, f"competition/{name}", faults[name])
            if file is not None:
                files[name] = file
    return files


def _infer(files: dict[str, CsvFile], known: Task | None, choices: Choices) -> Task:
    """Infer the task; of a `known` one stays what the choices do not change."""
    if known is None:
        return infer_task(files, choices)
    task = infer_task(files, keep_choices(known, choices))
    same = task.label_columns == known.label_columns and set(task.classes) == set(known.classes)
    classes = known.classes if same else task.classes
    kept = {name: getattr(known, name) for name in ("groups", "train_images", "test_images")}
    return replace(task, classes=classes, **kept)


def _index(name: str, file: CsvFile, task: Task | None, findings: Findings) -> CsvFile:
    """Return the file with the rows of its ids."""
    id_column = task.id_column if task else file.header[0]
    if name == "meta.csv":
        if file.header[0] not in ("id", id_column):
            found = quoted(",".join(file.header))
            findings.add("header", f"competition/{name}, row 1: the header is {found}, expected '{id_column},..'")
            return file
        id_column = file.header[0]
    return index_ids(file, id_column, f"competition/{name}", findings) if id_column in file.header else file


def _competition_of(root: Path, task: Task, files: dict[str, CsvFile], labels: list[int]) -> Competition:
    names = {"id": _OTHER_ID, task.id_column: "id"}
    tables = {
        name: file.table().rename(columns=names if task.id_column in file.header else {})
        for name, file in files.items()
    }
    ids = tables[TRAIN]["id"]
    train = pd.DataFrame({"id": ids, "label": np.array(labels, dtype=np.int64)})
    test = tables.get(TEST, tables.get(SAMPLE))[["id"]]
    sample = tables.get(SAMPLE)
    if sample is None:
        several = task.multiclass and task.submission == "probabilities"
        sample = test.assign(**dict.fromkeys(task.classes if several else task.label_columns[:1], ""))
    extra = tables[TRAIN].drop(columns=[_OTHER_ID if name == "id" else name for name in task.label_columns])
    test_extra = tables.get(TEST)
    return Competition(
        root,
        train,
        test,
        sample,
        tables.get("meta.csv"),
        task,
        extra if len(extra.columns) > 1 else None,
        test_extra if test_extra is not None and len(test_extra.columns) > 1 else None,
    )


def _check_ids_across(rows: dict[str, dict[str, int]], findings: Findings) -> bool:
    """Check the ids of each file against those of the others; return whether a test id is a train id as well.

    rows: row number by id, by file name.
    """
    train, test, sample, meta = (rows.get(name) for name in _NAMES)
    test_name = TEST if test is not None else SAMPLE
    asked = sample if test is None else test
    shared = [id for id in asked or {} if id in (train or {})]
    for id in shared:
        where = f"competition/{test_name}, row {asked[id]}"
        findings.add("both", f"{where}: id {quoted(id)} is also a train id (row {train[id]})")
    if test is not None and sample is not None:
        name = "competition/sampleSubmit.csv"
        for id, row in test.items():
            if id not in sample:
                findings.add("unsampled", f"{name}: id {quoted(id)} of test.csv (row {row}) is missing")
        for id, row in sample.items():
            if id not in test:
                findings.add("untested", f"{name}, row {row}: id {quoted(id)} is not in test.csv")
    if train is not None and asked is not None and meta is not None:
        for id, row in meta.items():
            if id not in train and id not in asked:
                where = f"competition/meta.csv, row {row}"
                findings.add("meta", f"{where}: id {quoted(id)} is neither in train.csv nor in {test_name}")
    return bool(shared)
