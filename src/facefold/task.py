"""What is predicted: the classes of the competition, or a number that meta.csv has for every train row.

The audit infers the task from the competition's files and writes it to competition/task.toml, which a person may edit.
Without that file it is the one of a competition `id,label` with labels 0 and 1.
"""

from __future__ import annotations

import json
import shlex
import tomllib
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file, sha256_text

if TYPE_CHECKING:
    import numpy as np

TASK_FILE = "task.toml"
METRICS = {  # the metrics of each kind of task, the default one first
    "binary": ("accuracy", "auc", "log_loss", "macro_f1", "balanced_accuracy"),
    "multiclass": ("accuracy", "log_loss", "macro_f1", "balanced_accuracy", "qwk", "mean_auc"),
    "regression": ("mae", "rmse"),
}
FORMS = {"binary": ("labels", "probabilities"), "multiclass": ("labels", "probabilities"), "regression": ("values",)}
BINS = 10
ROWS_PER_BIN = 20
_HEADING = (
    "# What is predicted, as the audit read it from the competition's files. You may edit it; then run\n"
    "# `python src/audit.py` again.\n"
)


@dataclass(frozen=True)
class Task:
    """What is predicted and how it is answered.

    Attributes:
        name: `label`, what the competition asks for, or the column of meta.csv that --target names.
        kind: binary, multiclass or regression.
        classes: In the order of the columns of probabilities; a label is an index of it. Of a binary task the second
            one is predicted. Empty for a regression.
        metric: One of `METRICS`.
        submission: labels, probabilities or values.
        id_column: Of train.csv, test.csv and sampleSubmit.csv.
        label_columns: Of train.csv: the label's, or for several columns of 0 and 1 that of each class.
        groups: Columns of train.csv or meta.csv; rows with the same value stay in one fold.
        train_images: The folder of the train images if it is not competition/train, in which they are not copied.
        test_images: Likewise.
    """

    name: str = "label"
    kind: str = "binary"
    classes: tuple[str, ...] = ("0", "1")
    metric: str = "accuracy"
    submission: str = "labels"
    id_column: str = "id"
    label_columns: tuple[str, ...] = ("label",)
    groups: tuple[str, ...] = ()
    train_images: str = ""
    test_images: str = ""

    @property
    def regression(self) -> bool:
        return self.kind == "regression"

    @property
    def multiclass(self) -> bool:
        return self.kind == "multiclass"

    @property
    def folder(self) -> str:
        """The path below the root to its folds/, runs/, submissions/ and report.html; two tasks never share it."""
        return "" if self.name == "label" else f"targets/{self.name}/"

    def directory(self, root: Path) -> Path:
        return root / self.folder

    @property
    def option(self) -> str:
        """The option that selects it in a step, with a leading blank."""
        return "" if self.name == "label" else f" --target {shlex.quote(self.name)}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of oof.csv and test.csv: `prob` of the second of two classes, of each of more, or `pred`."""
        if self.multiclass:
            return tuple(f"prob_{name}" for name in self.classes)
        return ("pred",) if self.regression else ("prob",)

    @property
    def column(self) -> str:
        """The only one of `columns`."""
        (column,) = self.columns
        return column

    @property
    def outputs(self) -> int:
        """How many numbers a network gives for an image: a logit for two classes, one per class for more, a value."""
        return len(self.columns)

    @cached_property
    def hash(self) -> str:
        """The sha256 in hex of what the numbers of a run mean; empty for labels 0 and 1, and for a regression."""
        if self.regression or (self.kind, self.classes) == ("binary", ("0", "1")):
            return ""
        return sha256_text(json.dumps([self.kind, self.classes]))

    @property
    def label_key(self) -> str:
        """The sha256 in hex of what a row's label is read from and means; empty for `LABEL` and for a regression."""
        key = (self.id_column, self.label_columns, self.classes)
        if self.regression or key == (LABEL.id_column, LABEL.label_columns, LABEL.classes):
            return ""
        return sha256_text(json.dumps(key))

    def sources(self, root: Path) -> list[Path]:
        """Return the files that hold its rows and values."""
        return [root / "competition" / name for name in ("train.csv", *(["meta.csv"] if self.regression else []))]

    def sha256(self, root: Path) -> str:
        """Return the hex sha256 of its sources: that of the one file, or of both files' hashes."""
        hashes = [sha256_file(source) for source in self.sources(root)]
        return hashes[0] if len(hashes) == 1 else sha256_text("".join(hashes))

    @classmethod
    def from_facts(cls, facts: dict) -> Task:
        """Return the task that a JSON file has as `asdict` gives it."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()})

    def text(self) -> str:
        """Return the content of task.toml."""
        settings = {name: value for name, value in asdict(self).items() if name != "name" and value != ""}
        lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in settings.items()]
        return _HEADING + "".join(lines)


LABEL = Task()


def task_named(name: str) -> Task:
    """Return `LABEL`, or the task of a column of meta.csv."""
    if name == LABEL.name:
        return LABEL
    return Task(name, kind="regression", classes=(), metric="mae", submission="values", label_columns=(name,))


def load_task(root: Path, name: str = LABEL.name) -> Task:
    """Return the competition's task, or that of the column `name` of meta.csv.

    Raises `InputError` for a task.toml that cannot be read, or whose settings are unknown or do not go together.
    """
    if name != LABEL.name:
        return task_named(name)
    path = root / "competition" / TASK_FILE
    return read_task(path) if path.is_file() else LABEL


def read_task(path: Path) -> Task:
    """Read a task.toml; raises `InputError` as `load_task`."""
    try:
        return parse_task(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def parse_task(text: str, name: str) -> Task:
    """Read the text of a task.toml, which messages call `name`; raises `InputError` as `load_task`."""
    advice = "correct it, or delete it and run `python src/audit.py`, which writes it again"
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name} is not TOML ({error}); {advice}") from None
    types = {field.name: tuple if field.type.startswith("tuple") else str for field in fields(Task)}
    del types["name"]
    for key, value in settings.items():
        if key not in types:
            raise InputError(f"{name}: there is no setting {key}; there are {', '.join(types)}; {advice}")
        texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not (texts if types[key] is tuple else isinstance(value, str)):
            what = "a list of texts" if types[key] is tuple else "a text"
            raise InputError(f"{name}: {key} = {value!r} has to be {what}; {advice}")
    task = Task(**{key: tuple(value) if types[key] is tuple else value for key, value in settings.items()})
    if problem := _task_problem(task):
        raise InputError(f"{name}: {problem}; {advice}")
    return task


def _task_problem(task: Task) -> str:
    """Return which settings of a task do not go together; empty if all do."""
    if task.kind not in METRICS:
        return f"kind = {task.kind!r} is none of {', '.join(METRICS)}"
    counts = {"binary": len(task.classes) == 2, "multiclass": len(task.classes) > 2, "regression": not task.classes}
    if not counts[task.kind] or len(set(task.classes)) < len(task.classes):
        return f"classes = {list(task.classes)} do not suit kind = {task.kind!r}"
    if task.metric not in METRICS[task.kind]:
        return f"metric = {task.metric!r} is none of {', '.join(METRICS[task.kind])}, those for kind = {task.kind!r}"
    if task.submission not in FORMS[task.kind]:
        return f"submission = {task.submission!r} is none of {', '.join(FORMS[task.kind])}"
    if len(task.label_columns) not in (1, len(task.classes)):
        return f"label_columns = {list(task.label_columns)} are neither one column nor one for each class"
    return ""


def strata(values: np.ndarray) -> np.ndarray:
    """Return the strata of a split, int64 (n,): the labels (int) themselves, or bins of the values (float).

    There are at most `BINS` bins of equally many rows, `ROWS_PER_BIN` or more; equal values share a bin.
    """
    import numpy as np

    if np.issubdtype(values.dtype, np.integer):
        return values
    count = int(np.clip(len(values) // ROWS_PER_BIN, 1, BINS))
    edges = np.unique(np.quantile(values, np.arange(1, count) / count))
    return np.searchsorted(edges, values, side="left")
