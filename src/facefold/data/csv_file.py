"""Read csv files that a person may have edited, and collect everything that is wrong with them.

The rules: UTF-8, commas, the expected columns, no blank rows, as many cells in each row as in the header, and ids that
can be file names, each once. A BOM and CRLF line ends, which Kaggle serves as well, are read as if they were not there.
"""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from facefold.utils.errors import InputError

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}  # of spreadsheets, where a comma is part of a number
MAX_CSV_BYTES = 200 << 20
MAX_PER_KIND = 10
MAX_FINDINGS = 200


class Findings:
    """Everything that is wrong, a line each.

    At most `MAX_PER_KIND` lines of one kind are kept, so that a fault of all rows hides no other fault.
    """

    def __init__(self) -> None:
        self._kinds: dict[object, list[str]] = {}

    def add(self, kind: object, text: str) -> None:
        self._kinds.setdefault(kind, []).append(text)

    def of_file(self, name: str) -> Callable[[str, str], None]:
        """Return a function that adds a fault of the file `name`: its kind, and how its line goes on after the name."""
        return lambda kind, text: self.add((name, kind), name + text)

    def extend(self, other: "Findings") -> None:
        """Add those of `other`, after the own ones."""
        for kind, texts in other._kinds.items():
            self._kinds.setdefault(kind, []).extend(texts)

    def raise_any(self, headline: str, hint: str) -> None:
        """Raise one `InputError` with all of them; return if there are none."""
        lines = []
        for kind in self._kinds.values():
            lines += kind[:MAX_PER_KIND]
            if len(kind) > MAX_PER_KIND:
                lines.append(f".. and {len(kind) - MAX_PER_KIND} more like the last one")
        if lines:
            raise InputError.of(headline, lines, hint, limit=MAX_FINDINGS)


@dataclass(frozen=True)
class CsvFile:
    """A csv file as text.

    rows: (number in the file, cells) of each row; the header is row 1. row_of_id: the number of the first row with each
    id, in the file's order.
    """

    header: list[str]
    rows: list[tuple[int, list[str]]]
    row_of_id: dict[str, int]

    def column(self, name: str) -> list[str]:
        at = self.header.index(name)
        return [cells[at] for _, cells in self.rows]

    def table(self) -> pd.DataFrame:
        return pd.DataFrame([cells for _, cells in self.rows], columns=self.header, dtype=str)


def read_table(path: Path, name: str, findings: Findings, max_bytes: int = MAX_CSV_BYTES) -> CsvFile | None:
    """Read a csv file of any columns, and no ids yet; None if it cannot be read.

    name: what messages call the file. findings: everything that breaks the rules is added here. max_bytes: a larger
    file breaks them.
    """
    add = findings.of_file(name)
    records = _records(path, add, max_bytes)
    if records and not any(cell.strip() for cell in records[0][1]):
        add("header", ", row 1 is blank: the names of the columns are missing")
        return None
    return _check_cells(records[0][1], records[1:], add) if records else None


def index_ids(file: CsvFile, column: str, name: str, findings: Findings) -> CsvFile:
    """Return the file with the row of each id, which are in `column`; arguments as of `read_table`."""
    add, row_of_id, at = findings.of_file(name), {}, file.header.index(column)
    for row, cells in file.rows:
        id = cells[at]
        where = f", row {row}: id {quoted(id)}"
        if fault := row_id_fault(id):
            add(fault, f"{where} {fault}")
        if id in row_of_id:
            add("twice", f"{where} appears twice, first in row {row_of_id[id]}")
        else:
            row_of_id[id] = row
    return replace(file, row_of_id=row_of_id)


def compare_ids(findings: Findings, path: Path, rows: dict[str, int], expected: dict, source: str) -> None:
    """Add the ids that differ between the rows of `path`, if it could be read, and `expected`, those of `source`."""
    for id in expected if rows else ():
        if id not in rows:
            findings.add((path, "missing"), f"{path}: id '{id}' of {source} is missing")
    for id, row in rows.items():
        if id not in expected:
            findings.add((path, "unknown"), f"{path}, row {row}: id '{id}' is not in {source}")


def _check_cells(columns: list[str], records: list[tuple[int, list[str]]], add: Callable[[str, str], None]) -> CsvFile:
    rows = []
    if len(set(columns)) < len(columns) or "" in columns:
        add("columns", ", row 1: column names must not be empty or repeated")
    for row, cells in records:
        if not any(cell.strip() for cell in cells):
            add("blank", f", row {row} is blank")
        elif len(cells) != len(columns):
            add("cells", f", row {row} has {len(cells)} cells, the header has {len(columns)}")
        else:
            rows.append((row, cells))
    if not rows:
        add("empty", " has no rows")
    return CsvFile(columns, rows, {})


def read_csv_rows(path: Path, header: list[str], findings: Findings) -> list[tuple[int, list[str]]]:
    """Read the rows of a csv file as (number in the file, cells), the id first; none if the header is wrong.

    header: the expected columns, the id first. findings: everything that breaks the rules is added here.
    """
    add = findings.of_file(str(path))
    records = _records(path, add)
    if not records:
        return []
    columns = records[0][1]
    if columns != header:
        add("header", f", row 1: the header is {quoted(','.join(columns))}, expected '{','.join(header)}'")
    if columns[: len(header)] != header:
        return []
    # With columns too many the ids are known, and what is wrong with the rows is listed as well.
    file = index_ids(_check_cells(columns, records[1:], add), columns[0], str(path), findings)
    return file.rows if columns == header else []


def id_fault(id: str) -> str:
    """Return why `id`, or `<id>.jpg`, cannot be a file of its folder; empty if it can."""
    if not id.strip():
        return "is blank"
    if id != id.strip():
        return "has blanks around it"
    if "/" in id or "\\" in id:
        return "would leave the folder"
    if id.startswith("."):
        return "begins with a dot"
    if not id.isprintable():
        return "holds a control or invisible character"
    if len(id.encode("utf-8")) > 200:
        return "is too long for a file name"
    return ""


def row_id_fault(id: str) -> str:
    """Return why the image of a row cannot have this id; empty if it can. An id may name folders: `a/1.jpg`."""
    parts = id.split("/")
    if len(parts) > 1 and any(part in ("", ".", "..") for part in parts):
        return "would leave the folder"
    return next(filter(None, map(id_fault, parts)), "")


def quoted(text: str) -> str:
    """Quote a cell for a message: control characters never reach the terminal, and long cells are cut."""
    text = repr(text)
    return text if len(text) <= 60 else text[:57] + "..."


def _records(
    path: Path, add: Callable[[str, str], None], max_bytes: int = MAX_CSV_BYTES
) -> list[tuple[int, list[str]]]:
    """Parse the lines of a file as (number in the file, cells); none if that is not possible, for which it adds why."""
    if not path.is_file():
        add("missing", " is missing")
        return []
    if path.stat().st_size > max_bytes:
        add("large", f" is larger than {max_bytes >> 20} MiB")
        return []
    return parse_records(path.read_bytes(), add)


def parse_records(data: bytes, add: Callable[[str, str], None]) -> list[tuple[int, list[str]]]:
    """Parse the content of a csv file as (number in the file, cells); none, and `add` says why, if it has no cells."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        row, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        add("utf-8", f", row {row}: not UTF-8 (byte 0x{byte:02x}); save it as UTF-8")
        return []
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True)
    records, row = [], 1
    try:
        for cells in reader:
            records.append((row, cells))
            row = reader.line_num + 1
    except csv.Error as error:
        add("csv", f", row {row}: not readable as csv from here on ({error})")
        return []
    if not records:
        add("empty", " is empty")
    elif len(records[0][1]) == 1 and (
        found := [name for sign, name in _SEPARATORS.items() if sign in records[0][1][0]]
    ):
        add(
            "separator",
            f", row 1: the cells are separated by {' and '.join(found)}, not by commas; save the file with commas",
        )
        return []
    return records
