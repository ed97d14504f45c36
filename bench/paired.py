"""Compare two sets of OOF probabilities on the same rows: accuracies, the paired difference, its interval, by part.

    python bench/paired.py --root DIR OOF_CSV OTHER_OOF_CSV [--corrections FILE]

DIR holds folds/ and the cache/ of audit.py, whose table of near-duplicates separates the train rows that have one in
train from those that have none: folds that divide duplicates flatter the former. With --corrections also against the
corrected labels. Files of single folds (runs/<recipe>/fold_<k>/oof.csv) are compared on their own rows, which have to
be the same ones.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from facefold.data.corrections import DROPPED, load_corrections  # noqa: E402
from facefold.data.folds import load_folds  # noqa: E402
from facefold.ensemble.metrics import ACCURACY  # noqa: E402
from facefold.ensemble.scores import decide, log_loss, wilson_interval  # noqa: E402


def same_rows(files: list[Path], rows: pd.DataFrame) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Return ids, labels and the probabilities of both files (n,), in the order of `rows` (id, label), maybe a part.

    Raise `ValueError` if the files have different ids, or others than `rows`.
    """
    tables = [pd.read_csv(path, dtype={"id": str}, keep_default_na=False).set_index("id")["prob"] for path in files]
    if set(tables[0].index) != set(tables[1].index):
        raise ValueError(f"{files[0]} and {files[1]} are not of the same rows")
    if not tables[0].index.isin(rows["id"]).all():
        raise ValueError(f"{files[0]} has rows that the folds do not have")
    rows = rows[rows["id"].isin(tables[0].index)]
    before, after = (table.loc[rows["id"]].to_numpy() for table in tables)
    return rows["id"].tolist(), rows["label"].to_numpy(), before, after


def with_duplicate(duplicates: pd.DataFrame, ids: list[str]) -> np.ndarray:
    """Return whether each id shares a group with another train row, bool (n,). duplicates: split, id, group."""
    rows = duplicates[duplicates["split"] == "train"].set_index("id")["group"]
    return (rows.map(rows.value_counts()) > 1).reindex(ids).to_numpy(dtype=bool)


def line(name: str, a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> str:
    """Format one row of the table: prob a and b (n,) against labels (n,)."""
    right = [int((decide(prob) == labels).sum()) for prob in (a, b)]
    accuracies = [
        f"{count / len(labels):.4f} [{low:.4f}, {high:.4f}]"
        for count in right
        for low, high in [wilson_interval(count, len(labels))]
    ]
    gain = ACCURACY.compare(b, a, labels)
    return (
        f"{name:28}{len(labels):>7}  {accuracies[0]}  {accuracies[1]}  {100 * gain.gain:+.2f} [{100 * gain.low:+.2f}, "
        f"{100 * gain.high:+.2f}] points  {gain.p:.3f}  {log_loss(a, labels):.4f}  {log_loss(b, labels):.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("oof", type=Path, nargs=2, help="id,prob: before and after")
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="holds folds/ and cache/")
    parser.add_argument(
        "--corrections", type=Path, metavar="CSV", help="id,action: score against corrected labels as well"
    )
    args = parser.parse_args()
    split = load_folds(args.root)
    try:
        ids, labels, before, after = same_rows(args.oof, split.table)
    except ValueError as error:
        parser.error(str(error))
    groups = sorted((args.root / "cache").glob("duplicates_*.csv"))
    if not groups:
        parser.error(f"{args.root / 'cache'} holds no table of near-duplicates: run audit.py with this --root first")
    duplicates = with_duplicate(pd.read_csv(groups[-1], dtype=str, keep_default_na=False), ids)
    parts = {"all rows": np.ones(len(ids), dtype=bool), "with a duplicate in train": duplicates, "without": ~duplicates}
    print(
        f"{'':28}{'rows':>7}  before                    after                     difference                       p   "
        "   log losses"
    )
    for name, mask in parts.items():
        if mask.any():
            print(line(name, before[mask], after[mask], labels[mask]))
    if args.corrections:
        corrected = load_corrections(args.corrections, split).labels(ids, labels)
        kept = corrected != DROPPED
        if kept.any():
            print(line("against corrected labels", before[kept], after[kept], corrected[kept]))


if __name__ == "__main__":
    main()
