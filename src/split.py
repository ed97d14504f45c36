"""Divide the train rows into folds, once; everything that is trained and scored later uses these.

    python src/split.py                      5 folds, seed 0
    python src/split.py --folds 10 --seed 3
    python src/split.py --groups bytes       only byte-identical images count as the same picture
    python src/split.py --groups none        every row by itself, also where rows have the same picture
    python src/split.py --target age         for a regression on a column of meta.csv

Every fold gets the same share of each label, and near-duplicates (the same picture re-encoded, resized, brighter or
mirrored; `--groups near`) stay together (scikit-learn's StratifiedGroupKFold), so that no picture is validated by a
model that has seen it. If one picture has more rows than a fold should have, the folds are unequal, and the step says
which picture it is. Writes folds/: fold_<k>_train.csv, fold_<k>_valid.csv, folds.csv and folds.json (with checksums:
edited folds are refused later). With --target each fold gets the same share of ten bins of that column instead, and the
folds are in targets/<column>/folds/. Existing folds are kept unless other ones are asked for. Other folds, while runs
depend on the existing ones, are refused unless --force is used; these runs are stale then.
"""

import argparse

from facefold.cli import add_seed_option, add_target_option, build_parser, hold_root, run_main
from facefold.utils.errors import InputError

GROUPING_NAMES = ("bytes", "near", "none")


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--folds", type=int, metavar="K", help="how many (default: as the existing folds, else 5)")
    add_seed_option(parser, "another seed gives other folds (default: as the existing ones, else 0)", default=None)
    parser.add_argument(
        "--groups",
        choices=GROUPING_NAMES,
        help="what no fold divides: images of the same bytes, near-duplicates, or nothing (default: as the existing "
        "folds, else near)",
    )
    parser.add_argument("--force", action="store_true", help="replace folds that runs depend on")
    add_target_option(parser)
    args = parser.parse_args()
    with hold_root(args.root, alone=True):
        split(args)


def split(args: argparse.Namespace) -> None:
    """Keep the existing folds, or make new ones, and print what they are."""
    import pandas as pd

    from facefold.data.audit import audit_competition
    from facefold.data.competition import target_rows
    from facefold.data.duplicates import find_duplicates
    from facefold.data.folds import (
        count_divided_groups,
        describe_large_group,
        group_rows,
        load_folds,
        make_folds,
        write_folds,
    )
    from facefold.runs import run_names

    competition, images = audit_competition(args.root)
    rows = target_rows(competition, args.target)
    near, identical = group_rows(find_duplicates(competition, images), "group"), group_rows(images)
    alone = pd.Series(identical.index, index=identical.index)
    try:
        old = load_folds(args.root, args.target)
        k, seed, grouping = old.k, old.seed, old.grouping
    except InputError:  # none yet, or none that can be used: `write_folds` refuses if runs would lose theirs
        old, k, seed, grouping = None, 5, 0, "near"
    k, seed = k if args.folds is None else args.folds, seed if args.seed is None else args.seed
    grouping = args.groups or grouping
    folds, new = old, False  # kept as they are: a later version of this program might make others
    if args.force or old is None or (k, seed, grouping) != (old.k, old.seed, old.grouping):
        grouping = grouping or "near"
        groups = {"near": near, "bytes": identical, "none": alone}[grouping]
        folds = make_folds(rows, groups, k, seed, args.target.sha256(args.root), grouping, args.target)
        new = write_folds(args.root, folds, args.force, run_names(args.target.directory(args.root)))
    directory = args.target.directory(args.root) / "folds"
    print(f"{k} folds, seed {seed}, {'written to' if new else 'already in'} {directory}")
    print(
        f"{near.duplicated(keep=False).sum():,} rows are in {near[near.duplicated()].nunique():,} groups of "
        f"near-duplicates; these folds divide {count_divided_groups(folds.table, near):,} of the groups"
    )
    if note := describe_large_group(folds, identical):
        print(note)
    what = f"mean {args.target.name}" if args.target.regression else "share of label 1"
    for fold, valid in folds.table.groupby("fold"):
        print(f"fold {fold}  {len(valid):6,} rows to validate  {what}: {valid['label'].mean():.4f}")


if __name__ == "__main__":
    run_main(main)
