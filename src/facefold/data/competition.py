"""The csv contract of a competition: read it, find everything that is wrong with it, guard what is handed in.

competition/train.csv         id,label   label 0 or 1
competition/test.csv          id
competition/sampleSubmit.csv  id,label   the ids of test.csv; its order is that of the submission
competition/meta.csv          id,..      optional: facts on train and test rows, never an input of a model
competition/train/<id>.jpg, competition/test/<id>.jpg
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from facefold.utils.errors import InputError

SYNTHETIC_MARKER = "DRAWN.txt"  # lies in a competition that data.synthetic wrote, and says so
README = "README.md"  # of the repository, in its empty folders: no part of a competition
MAX_CSV_BYTES = 200 << 20
MAX_OF_A_KIND = 10
MAX_FINDINGS = 200
_HEADERS = {"train.csv": ["id", "label"], "test.csv": ["id"], "sampleSubmit.csv": ["id", "label"]}
_WAY_OUT = (
    "Mend these in a text editor or by script, or take the files as downloaded (a spreadsheet adds a BOM, CRLF, blanks, "
    "and eats leading zeros), then run `python src/audit.py` again."
)
_NO_DATA = (
    "Put a competition there with `python src/audit.py --data ZIP|DIR` (the Kaggle zip as downloaded), "
    "or try the built-in drawn one: `python src/audit.py --drawn`."
)


@dataclass(frozen=True)
class Competition:
    """train: id (text), label (int64). test: id. sample: id, label (text, as given). meta: id and any text columns, or None."""

    root: Path
    train: pd.DataFrame
    test: pd.DataFrame
    sample: pd.DataFrame
    meta: pd.DataFrame | None

    def image_path(self, split: str, id: str) -> Path:
        """Where the image of a row lies; `split` is train or test."""
        return self.root / "competition" / split / f"{id}.jpg"


class Findings:
    """What is wrong, a line each, at most `MAX_OF_A_KIND` lines of one kind: a fault that every row has hides no other."""

    def __init__(self) -> None:
        self._kinds: dict[object, list[str]] = {}

    def add(self, kind: object, text: str) -> None:
        self._kinds.setdefault(kind, []).append(text)

    def raise_any(self, headline: str, way_out: str) -> None:
        """Raise one `InputError` with all of them; return when there are none."""
        lines = []
        for kind in self._kinds.values():
            lines += kind[:MAX_OF_A_KIND]
            if len(kind) > MAX_OF_A_KIND:
                lines.append(f".. and {len(kind) - MAX_OF_A_KIND} more like the last one")
        if lines:
            raise InputError.of(headline, lines, way_out, limit=MAX_FINDINGS)


@dataclass(frozen=True)
class _Sheet:
    """A csv file as it stands: the header, and the cells of each row with the row's number in the file (header = 1)."""

    name: str
    header: list[str]
    rows: list[tuple[int, list[str]]]

    def table(self) -> pd.DataFrame:
        return pd.DataFrame([cells for _, cells in self.rows], columns=self.header, dtype=str)


def is_empty(folder: Path) -> bool:
    """Return whether `folder` is missing or holds nothing but the README.md of the repository."""
    return not folder.exists() or all(path.name == README for path in folder.iterdir())


def load_competition(root: Path) -> Competition:
    """Read root/competition/*.csv. All that breaks the contract is one `InputError`; images are not opened here."""
    folder = root / "competition"
    if not folder.is_dir():
        raise InputError(f"{folder} is missing: there is no competition yet.\n{_NO_DATA}")
    sheets = _sheets(folder)
    train = sheets["train.csv"].table().astype({"label": "int64"})
    meta = sheets["meta.csv"].table() if "meta.csv" in sheets else None
    return Competition(root, train, sheets["test.csv"].table(), sheets["sampleSubmit.csv"].table(), meta)


def usable_rows(root: Path) -> dict[tuple[str, str], int]:
    """(split, id) of the rows whose image can be looked for, with the row's number, however bad the csv files are otherwise."""
    rows: dict[tuple[str, str], int] = {}
    for split in ("train", "test"):
        name = f"{split}.csv"
        sheet = _read(root / "competition" / name, name, _HEADERS[name], Findings())
        ids = _check_ids(sheet, Findings()) if sheet is not None else {}
        rows.update({(split, id): row for id, row in ids.items() if not _id_fault(id)})
    return rows


def read_csv_rows(path: Path, header: list[str], findings: Findings, more: bool = False) -> list[tuple[int, list[str]]]:
    """The rows of another csv file that a person may have edited, under the same rules: (number in the file, cells), the id first.

    more: other columns may follow those of `header`. What breaks the rules is added to `findings`.
    """
    sheet = _read(path, str(path), header, findings, more)
    if sheet is None:
        return []
    _check_ids(sheet, findings)
    return sheet.rows if sheet.header[: len(header)] == header and (more or sheet.header == header) else []


def _sheets(folder: Path) -> dict[str, _Sheet]:
    """The sheets of `folder` by file name. `InputError` lists every finding."""
    prefix = "competition/"
    findings = Findings()
    headers: dict[str, list[str] | None] = dict(_HEADERS)
    if (folder / "meta.csv").exists():
        headers["meta.csv"] = None
    sheets, ids = {}, {}
    for name, header in headers.items():
        sheet = _read(folder / name, prefix + name, header, findings)
        if sheet is not None:
            sheets[name] = sheet
            ids[name] = _check_ids(sheet, findings)
    if "train.csv" in sheets:
        _check_labels(sheets["train.csv"], findings)
    if "train.csv" in ids and "test.csv" in ids:
        for id, row in ids["test.csv"].items():
            if id in ids["train.csv"]:
                where = f"{prefix}test.csv, row {row}"
                findings.add("both", f"{where}: id {_quoted(id)} is also a train id (row {ids['train.csv'][id]})")
    if "test.csv" in ids and "sampleSubmit.csv" in ids:
        _check_sample(prefix, ids["test.csv"], ids["sampleSubmit.csv"], findings)
    if len(ids) == 4:
        for id, row in ids["meta.csv"].items():
            if id not in ids["train.csv"] and id not in ids["test.csv"]:
                findings.add(
                    "meta", f"{prefix}meta.csv, row {row}: id {_quoted(id)} is neither in train.csv nor in test.csv"
                )
    findings.raise_any("the competition's csv files are not as they should be:", _WAY_OUT)
    return sheets


def _read(path: Path, name: str, header: list[str] | None, findings: Findings, more: bool = False) -> _Sheet | None:
    """Cells of a csv file that has the header wanted (None: any that begins with id; more: or begins with it); None when that much
    is not to be had."""
    text = _text(path, name, findings)
    if text is None:
        return None
    lines = _records(text, name, findings)
    if lines is None:
        return None
    if not lines:
        findings.add((name, "empty"), f"{name} is empty")
        return None
    got = lines[0][1]
    wanted, more = header or ["id"], more or header is None
    if got[: len(wanted)] != wanted or (got != wanted and not more):
        expected = ",".join(wanted) + (",.." if more else "")
        findings.add((name, "header"), f"{name}, row 1: the header is {_quoted(','.join(got))}, expected '{expected}'")
        if got[: len(wanted)] != wanted:
            return None
    if len(set(got)) < len(got) or "" in got:
        findings.add((name, "columns"), f"{name}, row 1: column names must be there and differ")
    rows = []
    for row, cells in lines[1:]:
        if not any(cell.strip() for cell in cells):
            findings.add((name, "blank"), f"{name}, row {row} is blank")
        elif len(cells) != len(got):
            findings.add((name, "cells"), f"{name}, row {row} has {len(cells)} cells, the header has {len(got)}")
        else:
            rows.append((row, cells))
    if not rows:
        findings.add((name, "empty"), f"{name} has no rows")
    return _Sheet(name, got, rows)


def _text(path: Path, name: str, findings: Findings) -> str | None:
    """The file's text with \\n line ends and no BOM; having had others is a finding."""
    if not path.is_file():
        findings.add((name, "missing"), f"{name} is missing")
        return None
    if path.stat().st_size > MAX_CSV_BYTES:
        findings.add((name, "large"), f"{name} is larger than {MAX_CSV_BYTES >> 20} MiB")
        return None
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        findings.add((name, "utf-8"), f"{name}, row {row}: not UTF-8 (byte 0x{byte:02x}); save it as UTF-8 without BOM")
        return None
    if text.startswith("\ufeff"):
        findings.add((name, "bom"), f"{name} begins with a BOM; save it as UTF-8 without BOM")
        text = text[1:]
    if "\r" in text:
        findings.add((name, "crlf"), f"{name} has CRLF (Windows) line ends; save it with LF line ends")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def _records(text: str, name: str, findings: Findings) -> list[tuple[int, list[str]]] | None:
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True)
    records, row = [], 1
    try:
        for cells in reader:
            records.append((row, cells))
            row = reader.line_num + 1
    except csv.Error as error:
        findings.add((name, "csv"), f"{name}, row {row}: not readable as csv from here on ({error})")
        return None
    return records


def _check_ids(sheet: _Sheet, findings: Findings) -> dict[str, int]:
    """The row of each id, in the file's order."""
    rows: dict[str, int] = {}
    for row, cells in sheet.rows:
        id = cells[0]
        fault = _id_fault(id)
        if fault:
            findings.add((sheet.name, fault), f"{sheet.name}, row {row}: id {_quoted(id)} {fault}")
        if id in rows:
            findings.add(
                (sheet.name, "twice"), f"{sheet.name}, row {row}: id {_quoted(id)} stands in row {rows[id]} already"
            )
        else:
            rows[id] = row
    return rows


def _id_fault(id: str) -> str:
    """Why `<id>.jpg` would be no file of the folder it belongs to; empty when it would be one."""
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


def _check_labels(sheet: _Sheet, findings: Findings) -> None:
    seen = set()
    for row, cells in sheet.rows:
        seen.add(cells[1])
        if cells[1] not in ("0", "1"):
            findings.add((sheet.name, "label"), f"{sheet.name}, row {row}: label {_quoted(cells[1])} is not 0 or 1")
    if len(seen) == 1 and seen <= {"0", "1"}:
        findings.add((sheet.name, "class"), f"{sheet.name}: every label is {seen.pop()}; two classes are needed")


def _check_sample(prefix: str, test: dict[str, int], sample: dict[str, int], findings: Findings) -> None:
    name = f"{prefix}sampleSubmit.csv"
    for id, row in test.items():
        if id not in sample:
            findings.add("unsampled", f"{name}: id {_quoted(id)} of test.csv (row {row}) is missing")
    for id, row in sample.items():
        if id not in test:
            findings.add("untested", f"{name}, row {row}: id {_quoted(id)} is not in test.csv")


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _quoted(text: str) -> str:
    """A cell for a message: no control characters reach the terminal, long ones are cut."""
    return _short(repr(text))
