"""How well the blend does on parts of the rows: by the columns of meta.csv, numbers in bands, each with its interval and size.

Whatever differs between groups differs for many reasons (how many rows were learned from, how hard the pictures, how wrong the
labels are): the figures say where to be careful, not why.
"""

import math

import numpy as np
import pandas as pd

from facefold.ensemble.metrics import wilson_interval

MOST = 12  # bands of a number; other columns with more values than this are left out
_COLUMNS = ["group", "rows", "accuracy", "low", "high", "label_0", "label_1"]


def number(values: pd.Series) -> np.ndarray | None:
    """float64 (n,), nan where the text is blank, for a column that is a number with many values; else None."""
    numbers = pd.to_numeric(values.where(values.str.strip() != ""), errors="coerce").to_numpy(np.float64)
    whole = np.isfinite(numbers) | (values.str.strip() == "").to_numpy()
    return numbers if whole.all() and len(np.unique(numbers[np.isfinite(numbers)])) > MOST else None


def edges(numbers: np.ndarray, most: int = MOST) -> np.ndarray:
    """The edges of at most `most` bands of equal width (1, 2 or 5 times a power of ten) that hold the finite numbers (n,) and
    are no wider than need be; a band holds its lower edge, not its upper one."""
    low, high = float(numbers.min()), float(numbers.max())
    tens = 10.0 ** (math.floor(math.log10(high - low)) - 2)
    for width in (factor * power for power in (tens, 10 * tens, 100 * tens) for factor in (1, 2, 5)):
        first, last = math.floor(low / width), math.floor(high / width) + 1
        if last - first <= most:
            break
    return np.arange(first, last + 1) * width


def bands(values: pd.Series) -> pd.Series | None:
    """The group of each row, an ordered category, nan where nothing is given; None for a column that makes no groups."""
    numbers = number(values)
    if numbers is None:
        given = values.str.strip().replace("", np.nan)
        names = sorted(given.dropna().unique(), key=lambda name: (len(name), name) if name.isdigit() else (99, name))
        return given.astype(pd.CategoricalDtype(names, ordered=True)) if 1 < len(names) <= MOST else None
    cuts = edges(numbers[np.isfinite(numbers)])
    whole = np.equal(numbers[np.isfinite(numbers)] % 1, 0).all() and np.equal(cuts % 1, 0).all()
    names = [
        f"{low:g}-{high - 1:g}" if whole and high - low > 1 else f"{low:g} to {high:g}"
        for low, high in zip(cuts, cuts[1:])
    ]
    return pd.Series(pd.cut(numbers, cuts, right=False, labels=names), index=values.index)


def table(group: pd.Series, oof: pd.DataFrame) -> pd.DataFrame:
    """Table group, rows, accuracy, low, high (95 %), label_0, label_1: the accuracy on the rows of each label, nan without any.

    group: by id (the index), nan where it is not known; oof: id, label, pred. Groups without rows are left out.
    """
    rows = oof.set_index("id").assign(group=group, right=oof.set_index("id").eval("label == pred"))
    found = []
    for name, part in rows.groupby("group", observed=True):
        correct = int(part["right"].sum())
        by_label = [part.loc[part["label"] == label, "right"].mean() for label in (0, 1)]
        found.append((name, len(part), correct / len(part), *wilson_interval(correct, len(part)), *by_label))
    return pd.DataFrame(found, columns=_COLUMNS)


def tables(meta: pd.DataFrame | None, oof: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """`table` for each column of meta.csv that makes groups, by the column's name; none without meta.csv."""
    if meta is None:
        return {}
    known = meta.set_index("id").reindex(oof["id"]).fillna("")
    found = {name: bands(known[name]) for name in known}
    return {name: table(group, oof) for name, group in found.items() if group is not None}
