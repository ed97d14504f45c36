"""The target: the label of train.csv, or a number that meta.csv has for every train row, such as the age."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from facefold.utils.files import sha256_file, sha256_text

if TYPE_CHECKING:
    import numpy as np

BINS = 10
ROWS_PER_BIN = 20


@dataclass(frozen=True)
class Target:
    """What is predicted: `label`, a classification, or a column of meta.csv, a regression."""

    name: str = "label"

    @property
    def regression(self) -> bool:
        return self.name != "label"

    @property
    def folder(self) -> str:
        """The path below the root to its folds/, runs/, submissions/ and report.html; two targets never share it."""
        return f"targets/{self.name}/" if self.regression else ""

    def directory(self, root: Path) -> Path:
        return root / self.folder

    @property
    def option(self) -> str:
        """The option that selects it in a step, with a leading blank."""
        return f" --target {shlex.quote(self.name)}" if self.regression else ""

    @property
    def column(self) -> str:
        """The column of oof.csv and test.csv: a probability of label 1, or a predicted value."""
        return "pred" if self.regression else "prob"

    def sources(self, root: Path) -> list[Path]:
        """Return the files that hold its rows and values."""
        return [root / "competition" / name for name in ("train.csv", *(["meta.csv"] if self.regression else []))]

    def sha256(self, root: Path) -> str:
        """Return the hex sha256 of its sources: that of the one file, or of both files' hashes."""
        hashes = [sha256_file(source) for source in self.sources(root)]
        return hashes[0] if len(hashes) == 1 else sha256_text("".join(hashes))


LABEL = Target()


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
