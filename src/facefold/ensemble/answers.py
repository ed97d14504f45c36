"""Compare a submission with the answers, if they are known."""

from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.csv_file import CsvFile, Findings, compare_ids, index_ids, quoted, read_table
from facefold.data.task_inference import as_number, find_classes
from facefold.ensemble.scores import decide

_HINT = (
    "Both files are id,label with the same ids, or have a column per class; blend.py writes such a submission to "
    "submissions/submission.csv, and import_utkface.py the answers to solution.csv."
)


def load_answers(submission: Path, solution: Path) -> pd.DataFrame:
    """Join a submission with the answers, in the order of the solution.

    Return id (text), label (the answer) and pred, both int64 if the answers are 0 and 1, else text. If the submission
    has probabilities, pred is the likeliest class, and `prob_<class>` has those of each (float64). The solution is
    id,label, and further columns are ignored, or has the columns of the submission, one for each class, of 0 and 1.
    Everything that is wrong with the two files is one `InputError`.
    """
    findings = Findings()
    answers = _read(solution, findings)
    file = _read(submission, findings)
    if answers is None or file is None:
        findings.raise_any("the submission cannot be scored:", _HINT)
    named = len(file.header) > 2 and file.header[0] == answers.header[0]
    classes, label_column = _classes(answers, file, named)
    if not classes:
        _add_header(findings, answers, file, submission, solution)
        findings.raise_any("the submission cannot be scored:", _HINT)
    labels = _labels(answers, classes, label_column)
    if named:
        prob = {name: [as_number(text) for text in file.column(name)] for name in classes}
    else:
        prob = _single_column(file, classes, submission, findings)
    for column, values in (prob or {}).items():
        for (row, cells), value in zip(file.rows, values, strict=True):
            if not 0 <= value <= 1:
                text = quoted(cells[file.header.index(column if named else file.header[1])])
                findings.add("prob", f"{submission}, row {row}: {text} is no probability")
    if answers.rows:
        compare_ids(findings, submission, file.row_of_id, answers.row_of_id, solution.name)
    findings.raise_any("the submission cannot be scored:", _HINT)
    table = pd.DataFrame({"id": answers.column(answers.header[0]), "label": labels})
    predicted = pd.DataFrame({"id": file.column(file.header[0])})
    if prob:
        values = np.column_stack([prob[name] for name in classes])
        predicted["pred"] = np.array(classes)[decide(values if named else values[:, 1])]
        predicted = predicted.assign(**{f"prob_{name}": values[:, at] for at, name in enumerate(classes)})
    else:
        predicted["pred"] = file.column(file.header[1])
    table = table.merge(predicted, on="id", validate="one_to_one")
    return table.astype({"label": "int64", "pred": "int64"}) if set(classes) == {"0", "1"} else table


def _read(path: Path, findings: Findings) -> CsvFile | None:
    file = read_table(path, str(path), findings)
    return index_ids(file, file.header[0], str(path), findings) if file else None


def _classes(answers: CsvFile, file: CsvFile, named: bool) -> tuple[tuple[str, ...], str]:
    """Return the classes, and the column of the labels in the answers, '' for one per class; () if it is not clear."""
    columns = file.header[1:]
    if not named:
        same = len(answers.header) > 1 and file.header == answers.header[:2]
        return (find_classes(answers.column(columns[0]), columns[0]), columns[0]) if same else ((), "")
    if set(columns) <= set(answers.header):
        return tuple(columns), ""
    label = answers.header[1] if len(answers.header) > 1 else answers.header[0]
    return (tuple(columns), label) if set(answers.column(label)) <= set(columns) else ((), "")


def _labels(answers: CsvFile, classes: tuple[str, ...], label_column: str) -> list[str]:
    if label_column:
        return answers.column(label_column)
    values = np.column_stack([[as_number(text) for text in answers.column(name)] for name in classes])
    return [classes[at] for at in np.nan_to_num(values).argmax(axis=1)]


def _single_column(
    file: CsvFile, classes: tuple[str, ...], submission: Path, findings: Findings
) -> dict[str, list[float]] | None:
    """Return the probability of each class if the column holds those of the second of two classes; None for labels."""
    texts = file.column(file.header[1])
    values = [as_number(text) for text in texts]
    if len(classes) == 2 and not set(texts) <= set(classes) and all(0 <= value <= 1 for value in values):
        return {classes[0]: [1 - value for value in values], classes[1]: values}
    for (row, _), text in zip(file.rows, texts, strict=True):
        if set(classes) == {"0", "1"} and text not in classes:
            findings.add("label", f"{submission}, row {row}: {file.header[1]} {text!r} is not 0 or 1")
    return None


def _add_header(findings: Findings, answers: CsvFile, file: CsvFile, submission: Path, solution: Path) -> None:
    blamed, path = (answers, solution) if set(file.header) <= set(answers.header) else (file, submission)
    expected = ",".join(file.header) + ",.." if blamed is answers else ",".join(answers.header[:2])
    found = quoted(",".join(blamed.header))
    findings.add("header", f"{path}, row 1: the header is {found}, expected '{expected}'")
