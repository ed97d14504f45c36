"""Accuracy of the blend by the columns of meta.csv, numbers in bands, each group with its interval and size.

Groups differ for many reasons (rows to learn from, difficulty of the images, wrong labels): the numbers say where to be
careful, not why.
"""

import math

import numpy as np
import pandas as pd

from facefold.ensemble.scores import score_decisions

MAX_GROUPS = 12  # bands of a number; other columns with more values than this are left out


def parse_numbers(column: pd.Series) -> np.ndarray | None:
    """Return float64 (n,), nan where the text is blank, for a column of numbers with many values; else None.

    None as well where the numbers are so large or so near each other that the edges of bands would not differ.
    """
    blank = column.str.strip() == ""
    numbers = pd.to_numeric(column.where(~blank), errors="coerce").to_numpy(np.float64)
    known = numbers[np.isfinite(numbers)]
    if not (np.isfinite(numbers) | blank).all() or len(np.unique(known)) <= MAX_GROUPS:
        return None
    half_spread = known.max() / 2 - known.min() / 2  # in halves: the whole may be more than a number can be
    return numbers if max(1e-9 * np.abs(known).max(), 1e-300) < half_spread < 1e300 else None


def band_edges(numbers: np.ndarray, most: int = MAX_GROUPS) -> np.ndarray:
    """Return the edges of at most `most` bands of equal width, as narrow as possible, that hold the numbers (n,).

    Numbers are finite. The width is 1, 2 or 5 times a power of ten. A band holds its lower edge, not its upper one.
    """
    low, high = float(numbers.min()), float(numbers.max())
    tens = 10.0 ** (math.floor(math.log10(high - low)) - 2)
    for width in (factor * power for power in (tens, 10 * tens, 100 * tens) for factor in (1, 2, 5)):
        first, last = math.floor(low / width), math.floor(high / width) + 1
        first -= first * width > low  # a quotient too small for a float is 0
        if last - first <= most:
            break
    return np.arange(first, last + 1) * width


def group_column(column: pd.Series) -> pd.Series | None:
    """Return the group of each row, an ordered category, nan where blank; None for a column that makes no groups."""
    numbers = parse_numbers(column)
    if numbers is None:
        values = column.str.strip().replace("", np.nan)
        names = sorted(values.dropna().unique(), key=lambda name: (len(name), name) if name.isdigit() else (99, name))
        return values.astype(pd.CategoricalDtype(names, ordered=True)) if 1 < len(names) <= MAX_GROUPS else None
    finite = numbers[np.isfinite(numbers)]
    edges = band_edges(finite)
    integers = np.equal(finite % 1, 0).all() and np.equal(edges % 1, 0).all()
    names = [
        f"{low:.12g}-{high - 1:.12g}" if integers and high - low > 1 else f"{low:.12g} to {high:.12g}"
        for low, high in zip(edges, edges[1:], strict=False)
    ]
    return pd.Series(pd.cut(numbers, edges, right=False, labels=names), index=column.index)


def group_accuracy(group: pd.Series, oof: pd.DataFrame) -> pd.DataFrame:
    """Return the table group, rows, accuracy, low, high (95 %), label_0, label_1 (accuracy by label, nan without rows).

    group: by id (the index), nan where it is not known; oof: id, label, pred. Groups without rows are left out.
    """
    oof = oof.set_index("id")
    oof = oof.assign(group=group, correct=oof["label"] == oof["pred"])
    table = []
    for name, rows in oof.groupby("group", observed=True):
        by_label = {f"label_{label}": rows.loc[rows["label"] == label, "correct"].mean() for label in (0, 1)}
        table.append({"group": name, "rows": len(rows), **score_decisions(rows["correct"]), **by_label})
    return pd.DataFrame(table, columns=["group", "rows", "accuracy", "low", "high", "label_0", "label_1"])


def align_meta(meta: pd.DataFrame | None, oof: pd.DataFrame) -> pd.DataFrame:
    """Return meta.csv by id in the order of `oof`, blank where it lacks a row; no columns without meta.csv."""
    return pd.DataFrame() if meta is None else meta.set_index("id").reindex(oof["id"]).fillna("")


def accuracy_by_column(meta: pd.DataFrame | None, oof: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return `group_accuracy` of each column of meta.csv that makes groups, by its name; empty without meta.csv."""
    groups = {name: group_column(column) for name, column in align_meta(meta, oof).items()}
    return {name: group_accuracy(group, oof) for name, group in groups.items() if group is not None}
