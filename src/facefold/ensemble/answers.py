"""A submission beside the answers that a competition kept back."""

from pathlib import Path

import pandas as pd

from facefold.data.csv_file import Findings, read_csv_rows

_WAY_OUT = (
    "Both files are id,label with the same ids; blend.py writes such a submission to submissions/submission.csv, and "
    "import_utkface.py the answers to solution.csv."
)


def load_answers(submission: Path, solution: Path) -> pd.DataFrame:
    """id (text), label (int64, the answer) and given (int64, what was submitted), in the order of the solution.

    Columns that follow id,label in the solution are ignored. All that is wrong with the two files is one `InputError`.
    """
    findings = Findings()
    answers, given = _labels(solution, findings, more=True), _labels(submission, findings, more=False)
    if answers and given:
        for id in answers:
            if id not in given:
                findings.add("missing", f"{submission}: id '{id}' of {solution.name} is missing")
        for id, (row, _) in given.items():
            if id not in answers:
                findings.add("unknown", f"{submission}, row {row}: id '{id}' is not in {solution.name}")
    findings.raise_any("the submission cannot be scored:", _WAY_OUT)
    rows = [(id, int(label), int(given[id][1])) for id, (_, label) in answers.items()]
    return pd.DataFrame(rows, columns=["id", "label", "given"])


def _labels(path: Path, findings: Findings, more: bool) -> dict[str, tuple[int, str]]:
    """Row in the file and label of each id."""
    found = {}
    for row, (id, label, *_) in read_csv_rows(path, ["id", "label"], findings, more):
        found[id] = (row, label)
        if label not in ("0", "1"):
            findings.add((path, "label"), f"{path}, row {row}: label {label!r} is not 0 or 1")
    return found
