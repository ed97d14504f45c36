"""How train rows are divided into folds, as folds.json records it: stratified, in the order of time, or by a file."""

import json
import shlex
import warnings
from dataclasses import dataclass

import numpy as np

_STRATIFIED = "StratifiedGroupKFold(shuffle=True) of scikit-learn; group: "
GROUPINGS = {
    "bytes": _STRATIFIED + "byte-identical images",
    "near": _STRATIFIED + "near-duplicate images",
    "none": _STRATIFIED + "each image by itself",
}
_COLUMNS = "; and equal values of "
_BINNED = "; strata: bins of the target"
_TIME = "blocks in the order of "
_FILE = "as in the file with the sha256 "


@dataclass(frozen=True)
class FoldMethod:
    """How rows are divided. One that another program used has nothing but its text.

    grouping: a key of `GROUPINGS`: which images no fold divides. columns: rows with an equal value in any of them stay
    together too. time: the column in whose order rows are cut into blocks. file: the hex sha256 of the file that says
    each row's fold.
    """

    grouping: str | None = None
    columns: tuple[str, ...] = ()
    time: str = ""
    file: str = ""
    other: str = ""

    @property
    def drawn(self) -> bool:
        """Whether the seed decides."""
        return self.grouping is not None

    @property
    def options(self) -> str:
        """The options of split.py that ask for it, with a leading blank; empty if another program used it."""
        if self.file:
            return " --folds-file FILE"
        if self.time:
            return f" --time {shlex.quote(self.time)}"
        columns = f" --group {shlex.quote(','.join(self.columns))}" if self.columns else ""
        return f" --groups {self.grouping}{columns}" if self.drawn else ""

    def text(self, regression: bool = False) -> str:
        """Return what folds.json records."""
        if self.file:
            return _FILE + self.file
        if self.time:
            return _TIME + _json(self.time)
        if not self.drawn:
            return self.other
        columns = _COLUMNS + _json(self.columns) if self.columns else ""
        return GROUPINGS[self.grouping] + columns + (_BINNED if regression else "")


def parse_method(text: str) -> FoldMethod:
    """Return the method that folds.json records as `text`."""
    if text.startswith(_FILE):
        return FoldMethod(file=text.removeprefix(_FILE))
    base, _, columns = text.removesuffix(_BINNED).partition(_COLUMNS)
    grouping = next((key for key, words in GROUPINGS.items() if words == base), None)
    try:
        if text.startswith(_TIME):
            return FoldMethod(time=json.loads(text.removeprefix(_TIME)))
        if grouping:
            return FoldMethod(grouping, tuple(json.loads(columns)) if columns else ())
    except ValueError:
        pass
    return FoldMethod(other=text)


def stratified_folds(stratum: np.ndarray, group: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return the fold of each row, int64 (n,), by scikit-learn's StratifiedGroupKFold.

    It refuses to divide if every stratum has fewer rows than there are folds; then k rows of a stratum of their own are
    added, and left out again.

    Args:
        stratum: (n,), of which each fold gets an equal share.
        group: (n,), which no fold divides.
        k: The number of folds.
        seed: Of the shuffle.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import, and only needed for new folds

    rows, fold = len(stratum), np.empty(len(stratum), dtype=np.int64)
    code = np.unique(stratum, return_inverse=True)[1]
    if np.bincount(code).max() < k:
        stratum = np.concatenate([code, np.full(k, code.max() + 1)])
        names = np.unique(group, return_inverse=True)[1]
        group = np.concatenate([names, names.max() + 1 + np.arange(k)])
    splitter = StratifiedGroupKFold(n_splits=k, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # callers say so, or refuse it
        for number, (_, valid) in enumerate(splitter.split(stratum, stratum, group)):
            fold[valid[valid < rows]] = number
    return fold


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
