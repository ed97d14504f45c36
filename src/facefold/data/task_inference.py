"""Infer the task from the csv files of a competition: the columns of id and label, the classes, metric and submission.

The sample decides. Its first column that train.csv has as well is the id. Its other column, if train.csv has it, is the
label. Several other columns are the classes: the values of one column of train.csv, or columns of 0 and 1 there.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from facefold.data.csv_file import CsvFile, Findings, quoted
from facefold.task import METRICS, Task
from facefold.utils.errors import InputError

TRAIN, TEST, SAMPLE = "train.csv", "test.csv", "sampleSubmit.csv"
PROBABILITY_METRICS = ("auc", "mean_auc", "log_loss")  # they judge probabilities
_HOUSE = ("0", "1")
_SLIPS = 0.01  # of the rows: fewer that hold no number are slips of the pen
_UNKNOWN = ("nan", "na", "n/a", "null", "?")  # among numbers they are no classes
_MANY = 20  # different numbers that are not whole: more of them are no classes
_SHOWN = 8


@dataclass(frozen=True)
class Choices:
    """What a person says of a competition, in place of what is inferred; empty: it is inferred."""

    metric: str = ""
    submission: str = ""
    id_column: str = ""
    label_column: str = ""

    @property
    def any(self) -> bool:
        return bool(self.metric or self.submission or self.id_column or self.label_column)


NO_CHOICES = Choices()


def find_id_column(files: Mapping[str, CsvFile]) -> str:
    """Return the column of the ids, '' if there is none: all files have it, and in one of them it is the first.

    Of several the first without repeated values counts, in the order of the sample, test.csv and train.csv.
    """
    known = [files[name] for name in (SAMPLE, TEST, TRAIN) if name in files]
    shared = [file.header[0] for file in known if all(file.header[0] in other.header for other in known)]
    distinct = (name for name in shared if all(len(set(file.column(name))) == len(file.rows) for file in known))
    return next(distinct, shared[0] if shared else "")


def infer_task(files: Mapping[str, CsvFile], choices: Choices = NO_CHOICES) -> Task:
    """Infer the task from train.csv, and from test.csv and sampleSubmit.csv if they are there.

    Labels that are no class are not refused here. Raises `InputError`, of one line, if the columns are not clear or
    `choices` do not suit the files; it names the option that helps.
    """
    train, sample = files[TRAIN], files.get(SAMPLE)
    id_column = choices.id_column or find_id_column(files)
    if choices.id_column and choices.id_column not in train.header:
        raise InputError(f"--id-column {choices.id_column}: competition/{TRAIN} has {', '.join(train.header)}")
    if not id_column:
        expected = ",".join(files[SAMPLE if sample else TEST].header)
        raise InputError(f"{_header_of(train)}, expected '{expected}'")
    wanted = [name for name in sample.header if name != id_column] if sample else []
    label_columns = _find_label_columns(files, id_column, wanted, choices)
    if len(label_columns) > 1:
        classes = label_columns
    else:
        values = train.column(label_columns[0])
        classes = tuple(wanted) if len(wanted) > 1 else find_classes(values, label_columns[0])
    kind = "multiclass" if len(classes) > 2 else "binary"
    values = sample.column(wanted[0]) if len(wanted) == 1 else []
    submission = choices.submission or _infer_submission(kind, classes, wanted, values, choices.metric)
    metric = choices.metric or _default_metric(kind, submission, wanted)
    _check_choices(kind, metric, submission, wanted)
    return Task(
        kind=kind,
        classes=classes,
        metric=metric,
        submission=submission,
        id_column=id_column,
        label_columns=label_columns,
    )


def keep_choices(task: Task, choices: Choices) -> Choices:
    """Return `choices` with what the present task says of the rest, as far as it does not follow from them."""
    label = task.label_columns[0] if len(task.label_columns) == 1 else ""
    same = not (choices.id_column or choices.label_column)
    return Choices(
        metric=choices.metric or (task.metric if same else ""),
        submission=choices.submission or (task.submission if same and not choices.metric else ""),
        id_column=choices.id_column or task.id_column,
        label_column=choices.label_column or label,
    )


def find_classes(values: Iterable[str], column: str) -> tuple[str, ...]:
    """Return the classes: the different values, sorted, as numbers if all are; blanks are none.

    If nearly all rows have numbers, only the whole ones are classes, so that a slip of the pen is none. Raises
    `InputError` for many numbers that are not whole.
    """
    counts = Counter(value for value in values if value and value == value.strip())
    distinct, whole = set(counts), {value for value in counts if _is_whole(value)}
    names = {value for value in distinct if not math.isfinite(as_number(value))}
    slips = sum(counts[value] for value in names if value.lower() not in _UNKNOWN)
    lone = len(names) == 1 and counts.total() - slips <= 1  # a number in one row, and one name in all others
    if slips > max(1, counts.total() * _SLIPS) and not lone:
        return tuple(sorted(distinct, key=_natural_order))
    if whole <= set(_HOUSE) and whole:
        return _HOUSE
    if not names and len(distinct - whole) > _MANY:
        raise InputError(
            f"competition/{TRAIN}: column {column} has {len(distinct):,} different numbers, which are no classes; to "
            f"predict a number, write it to competition/meta.csv, and name its column with --target"
        )
    if not names:
        return tuple(sorted(distinct, key=lambda value: (as_number(value), value)))
    return tuple(sorted(whole, key=int)) if whole else tuple(sorted(distinct, key=_natural_order))


def _natural_order(name: str) -> tuple[list[str | int], str]:
    """Return a key by which names are sorted with their numbers as numbers: 5-9 before 10-14."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], name


def check_task(task: Task, files: Mapping[str, CsvFile], findings: Findings) -> None:
    """Add to `findings` the columns of the task that the files lack, and a sample of other columns."""
    for name in (TRAIN, TEST, SAMPLE):
        needed = [task.id_column, *(task.label_columns if name == TRAIN else ())]
        if name in files and not set(needed) <= set(files[name].header):
            expected = ",".join(needed) if len(needed) < _SHOWN else _some(needed)
            findings.add("header", f"{_header_of(files[name], name)}, expected '{expected}'")
    if SAMPLE in files and task.id_column in files[SAMPLE].header:
        wanted = [name for name in files[SAMPLE].header if name != task.id_column]
        if len(wanted) != 1 and set(wanted) != set(task.classes):
            what = f"a column for the labels, or one for each class ({_some(task.classes)})"
            findings.add("header", f"{_header_of(files[SAMPLE], SAMPLE)}, expected {task.id_column} and {what}")
        try:
            _check_choices(task.kind, task.metric, task.submission, wanted)
        except InputError as error:
            findings.add("submission", str(error))


def label_indices(task: Task, file: CsvFile, name: str, findings: Findings) -> list[int]:
    """Return the index in `task.classes` of each row's label, -1 for what is no label, which is added to `findings`.

    name: what messages call the file.
    """
    add, index = findings.of_file(name), {name: number for number, name in enumerate(task.classes)}
    if len(task.label_columns) > 1:
        columns = [file.column(name) for name in task.label_columns]
        labels = []
        for (row, _), cells in zip(file.rows, zip(*columns, strict=True), strict=True):
            labels.append(_hot(cells))
            if labels[-1] < 0:
                add(
                    "label",
                    f", row {row}: {_some(task.label_columns)} are not 0 but for one 1: {quoted(','.join(cells))}",
                )
        return labels
    (column,), rule = task.label_columns, "is " + ("not 0 or 1" if task.classes == _HOUSE else "none of the classes ")
    rule += "" if task.classes == _HOUSE else _some(task.classes)
    labels = file.column(column)
    for (row, _), label in zip(file.rows, labels, strict=True):
        if label not in index:
            add("label", f", row {row}: {column} {quoted(label)} {rule}")
    return [index.get(label, -1) for label in labels]


def check_several_labels(task: Task, train: CsvFile, findings: Findings) -> None:
    """Add to `findings` that all rows of train.csv have the same label, if a column of it has the labels."""
    if len(task.label_columns) == 1:
        (column,) = task.label_columns
        seen = set(train.column(column))
        if len(seen) == 1 and seen <= set(task.classes):
            findings.add("class", f"competition/{TRAIN}: every {column} is {seen.pop()}; two classes are needed")


def describe_task(task: Task) -> str:
    """Say in one line how the competition was read."""
    many = len(task.label_columns) > 1
    where = "a column of 0 and 1 each" if many else f"column {task.label_columns[0]}"
    return (
        f"{len(task.classes)} classes ({_some(task.classes)}) in {where}, ids in {task.id_column}, scored by "
        f"{task.metric}, submission: {task.submission}"
    )


def describe_options(task: Task, columns: int) -> str:
    """Say how to change what `describe_task` says. columns: of the sample, without the ids."""
    possible = task.kind == "binary" or columns > 1
    metrics = [name for name in METRICS[task.kind] if possible or name not in PROBABILITY_METRICS]
    others = "|".join(name for name in metrics if name != task.metric)
    form = "--submission " + ("probabilities" if task.submission == "labels" else "labels")
    return f"to change it: --metric {others}, {form + ', ' if possible else ''}or edit competition/task.toml"


def describe_other_reading(task: Task, sample: Sequence[str], other_columns: Sequence[str] = ()) -> str:
    """Say what else the files may mean, and its option; empty if it is clear.

    sample: the values of the only other column of the sample; empty for none or several. other_columns: further columns
    of train.csv that hold classes.
    """
    if other_columns and len(task.label_columns) == 1 and not sample:
        return f"column {other_columns[0]} has such values as well: --label-column {other_columns[0]}"
    numbers = all(math.isfinite(as_number(name)) for name in task.classes)
    if task.multiclass and task.metric == "qwk" and sample and not numbers:
        order = _some(task.classes)
        return f"the order of the classes counts: if it is not {order}, edit classes in competition/task.toml"
    odd = next((value for value in sample if _is_probability(value, task.classes)), "")
    if odd and task.submission == "probabilities" and task.metric == "auc":
        return f"the sample's {odd} is no class, so it asks for probabilities; if scored by log loss: --metric log_loss"
    if odd and task.submission == "labels":
        return f"the sample's {odd} is no class: if it asks for probabilities: --submission probabilities"
    other = next((value for value in sample if not _is_class(value, task.classes)), "")
    if other and task.submission == "labels":
        return f"the sample's {quoted(other)} is no class; the submission has classes all the same"
    if task.multiclass and task.metric == "accuracy" and all(map(_is_whole, task.classes)) and sample:
        return "the classes are whole numbers and were taken as names; if their order counts: --metric qwk"
    return ""


def as_number(text: str) -> float:
    """Return the number that a cell holds; nan if it holds none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _find_label_columns(
    files: Mapping[str, CsvFile], id_column: str, wanted: list[str], choices: Choices
) -> tuple[str, ...]:
    train, asked = files[TRAIN], choices.label_column
    if asked and (asked not in train.header or asked == id_column):
        others = ", ".join(name for name in train.header if name != id_column)
        raise InputError(f"--label-column {asked}: competition/{TRAIN} has {others or 'none but the id'}")
    if len(wanted) > 1:
        return _columns_of_classes(train, id_column, wanted, asked)
    if asked:
        return (asked,)
    if wanted and wanted[0] in train.header:
        return (wanted[0],)
    others = [name for name in train.header if name != id_column]
    if TEST in files and len(others) > 1:  # what the test rows have is no answer
        others = [name for name in others if name not in files[TEST].header]
    if len(others) == 1 and others[0] == others[0].strip():
        return (others[0],)
    if not wanted and "label" in others:
        return ("label",)
    expected = ",".join([id_column, *(wanted or ["label"])])
    hint = f"; name the column of the labels with --label-column ({_some(others)})" if len(others) > 1 else ""
    raise InputError(f"{_header_of(train)}, expected '{expected}'{hint}")


def _columns_of_classes(train: CsvFile, id_column: str, wanted: list[str], asked: str) -> tuple[str, ...]:
    """Return the label columns if the sample has one column per class."""
    same = not asked and set(wanted) <= set(train.header)
    if same and all(_hot(cells) >= 0 for cells in zip(*map(train.column, wanted), strict=True)):
        return tuple(wanted)
    # A column that is called like a class holds no names of classes, though its 0 and 1 may be such names.
    apart = {id_column, *wanted} if same else {id_column}
    names = [asked] if asked else [name for name in train.header if name not in apart]
    fitting = [name for name in names if set(train.column(name)) <= set(wanted)]
    if fitting:
        return (max(fitting, key=lambda name: len(set(train.column(name)))),)
    if same:
        return tuple(wanted)
    what = f"column {asked} of" if asked else "any column of"
    raise InputError(
        f"competition/{SAMPLE}, row 1: the columns {_some(wanted)} are neither the values of {what} "
        f"competition/{TRAIN}, nor columns of 0 and 1 there; name the column of the labels with --label-column, or "
        "correct the files"
    )


def _infer_submission(
    kind: str, classes: Sequence[str], wanted: Sequence[str], sample: Iterable[str], metric: str
) -> str:
    if len(wanted) > 1 or metric in PROBABILITY_METRICS:
        return "probabilities"
    probable = kind == "binary" and not metric and any(_is_probability(value, classes) for value in sample)
    return "probabilities" if probable else "labels"


def _default_metric(kind: str, submission: str, wanted: Sequence[str]) -> str:
    if submission == "labels":
        return "accuracy"
    return "auc" if kind == "binary" and len(wanted) < 2 else "log_loss"


def _check_choices(kind: str, metric: str, submission: str, wanted: Sequence[str]) -> None:
    if metric not in METRICS[kind]:
        what = "two classes" if kind == "binary" else "more than two classes"
        raise InputError(f"--metric {metric}: with {what} it is one of {', '.join(METRICS[kind])}")
    if kind == "multiclass" and submission == "probabilities" and len(wanted) == 1:
        raise InputError(
            f"competition/{SAMPLE} has one column ({wanted[0]}) next to the ids, which cannot hold the probabilities "
            "of several classes; for labels use --submission labels"
        )


def _is_probability(text: str, classes: Iterable[str]) -> bool:
    return 0 <= as_number(text) <= 1 and not _is_class(text, classes)


def _is_class(text: str, classes: Iterable[str]) -> bool:
    """Return whether a cell of the sample is a class, or empty; 0.0 is the class 0."""
    return not text.strip() or text in classes or as_number(text) in [as_number(name) for name in classes]


def _is_whole(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdecimal()


def _hot(cells: Sequence[str]) -> int:
    """Return the position of the only 1 among zeros; -1 if that is not what these are."""
    values = [as_number(cell) for cell in cells]
    return values.index(1) if sorted(values) == [0] * (len(values) - 1) + [1] else -1


def _header_of(file: CsvFile, name: str = TRAIN) -> str:
    return f"competition/{name}, row 1: the header is {quoted(','.join(file.header))}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", .. {len(names):,} in all" if len(names) > _SHOWN else "")
