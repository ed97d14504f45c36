"""What is predicted: the label of train.csv, or a number that meta.csv has for every train row, such as the age."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.competition import Competition, Findings
from facefold.utils.errors import InputError
from facefold.utils.files import sha256_file, sha256_text

BINS = 10
ROWS_A_BIN = 20


@dataclass(frozen=True)
class Target:
    """name: `label`, which is classified, or a column of meta.csv, which is a regression."""

    name: str = "label"

    @property
    def regression(self) -> bool:
        return self.name != "label"

    @property
    def folder(self) -> str:
        """Where its folds/, runs/, submissions/ and report.html lie, below the root: they never meet those of another target."""
        return f"targets/{self.name}/" if self.regression else ""

    def directory(self, root: Path) -> Path:
        return root / self.folder

    @property
    def option(self) -> str:
        """What a step is told to work on it."""
        return f" --target {self.name}" if self.regression else ""

    @property
    def column(self) -> str:
        """The column of oof.csv and test.csv: a probability of label 1, or a predicted value."""
        return "pred" if self.regression else "prob"

    def sources(self, root: Path) -> list[Path]:
        """The files that hold its rows and values."""
        return [root / "competition" / name for name in ("train.csv", *(["meta.csv"] if self.regression else []))]

    def sha256(self, root: Path) -> str:
        """Hex sha256 of its sources: that of the one file, or of both files' sums."""
        sums = [sha256_file(source) for source in self.sources(root)]
        return sums[0] if len(sums) == 1 else sha256_text("".join(sums))


LABEL = Target()


def target_rows(competition: Competition, target: Target) -> pd.DataFrame:
    """id and `label`, the target's value, of the train rows in the order of train.csv: int64 of 0 and 1, or float64.

    Raises `InputError` for a column that meta.csv lacks or that cannot name a folder, by row for values that are missing or no
    numbers, and for a column that has one value only.
    """
    if not target.regression:
        return competition.train
    way_out = "Every train row needs a number there, to be trained and scored by: mend meta.csv, or leave --target out."
    if competition.meta is None:
        raise InputError(f"--target {target.name}: competition/meta.csv (id,{target.name},..) is missing. {way_out}")
    columns = [name for name in competition.meta.columns if name != "id"]
    if target.name not in columns or Path(target.name).name != target.name or target.name.startswith("."):
        raise InputError(
            f"--target {target.name}: competition/meta.csv has no such column that can name a folder; it has "
            f"{', '.join(columns) or 'none but id'}"
        )
    findings, given = Findings(), competition.meta.set_index("id")[target.name]
    line = {id: number for number, id in enumerate(competition.meta["id"], start=2)}
    values = []
    for number, id in enumerate(competition.train["id"], start=2):
        if id not in line:
            findings.add("missing", f"competition/train.csv, row {number}: id '{id}' has no row in meta.csv")
        elif math.isfinite(value := _number(given[id])):
            values.append(value)
        else:
            where = f"competition/meta.csv, row {line[id]}"
            findings.add("number", f"{where}: {target.name} {given[id]!r} of id '{id}' is not a number")
    findings.raise_any(f"--target {target.name} cannot be used:", way_out)
    if len(set(values)) == 1:
        raise InputError(
            f"--target {target.name}: it is {values[0]:g} in every train row, which leaves nothing to learn"
        )
    return pd.DataFrame({"id": competition.train["id"], "label": np.array(values)})


def strata(values: np.ndarray) -> np.ndarray:
    """What a split gives every part its share of, int64 (n,): the labels (int) themselves, or at most `BINS` bins of values
    (float) with equally many rows, `ROWS_A_BIN` or more; equal values share a bin."""
    if np.issubdtype(values.dtype, np.integer):
        return values
    count = int(np.clip(len(values) // ROWS_A_BIN, 1, BINS))
    edges = np.unique(np.quantile(values, np.arange(1, count) / count))
    return np.searchsorted(edges, values, side="left")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
