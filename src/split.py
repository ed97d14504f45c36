"""Divide the train rows into folds, once; everything that is trained and scored later uses these.

    python src/split.py                      5 folds, seed 0
    python src/split.py --folds 10 --seed 3
    python src/split.py --groups bytes       only byte-identical images count as one picture
    python src/split.py --target age         for a regression on a column of meta.csv

Every fold gets the same share of each label, and near-duplicates (the same picture re-encoded, resized, brighter or mirrored;
`--groups near`) stay together (scikit-learn's StratifiedGroupKFold), so that no picture is validated by a model that has
seen it. Writes folds/: fold_<k>_train.csv, fold_<k>_valid.csv, folds.csv and folds.json (with checksums: edited folds are
refused later). With --target each fold gets the same share of ten bins of that column instead, and the folds lie in
targets/<column>/folds/. Folds that are there are kept as they are unless other ones are asked for. Other folds, while runs
depend on those in place, are refused unless --force says so; these runs are stale then.
"""

import argparse

from facefold.cli import add_target_option, build_parser, hold_root, run_main
from facefold.data.audit import audit_competition
from facefold.data.duplicates import find_duplicates
from facefold.data.folds import GROUPINGS, count_divided_groups, group_rows, load_folds, make_folds, write_folds
from facefold.task import target_rows
from facefold.utils.errors import InputError


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--folds", type=int, metavar="K", help="how many (default: as many as there are, else 5)")
    parser.add_argument(
        "--seed", type=int, help="another seed deals other folds (default: that of the folds there are, else 0)"
    )
    parser.add_argument(
        "--groups",
        choices=tuple(GROUPINGS),
        help="what no fold divides: images of the same bytes, or near-duplicates (default: as in the folds "
        "there are, else near)",
    )
    parser.add_argument("--force", action="store_true", help="replace folds that runs depend on")
    add_target_option(parser)
    args = parser.parse_args()
    with hold_root(args.root, alone=True):
        split(args)


def split(args: argparse.Namespace) -> None:
    """Keep the folds there are, or deal new ones, and print what they are."""
    found, images = audit_competition(args.root)
    rows = target_rows(found, args.target)
    try:
        old = load_folds(args.root, args.target)
        k, seed, grouping = old.k, old.seed, old.grouping
    except (
        InputError
    ):  # none yet, or none that can be used: dealt anew, and `write` refuses where runs would lose theirs
        old, k, seed, grouping = None, 5, 0, "near"
    k, seed = k if args.folds is None else args.folds, seed if args.seed is None else args.seed
    grouping = args.groups or grouping
    near = group_rows(find_duplicates(found, images), "group")
    new = args.force or old is None or (k, seed, grouping) != (old.k, old.seed, old.grouping)
    if new:
        grouping = grouping or "near"
        alike = near if grouping == "near" else group_rows(images)
        made = make_folds(rows, alike, k, seed, args.target.sha256(args.root), grouping, args.target)
        new = write_folds(args.root, made, force=args.force)
    else:
        made = old  # frozen: a later version of this program might deal others
    print(
        f"{k} folds, seed {seed}, {'written to' if new else 'already in'} {args.target.directory(args.root) / 'folds'}"
    )
    print(
        f"{near.duplicated(keep=False).sum():,} rows stand in {near[near.duplicated()].nunique():,} groups of near-duplicates; "
        f"these folds divide {count_divided_groups(made.table, near):,} of the groups"
    )
    for fold, held in made.table.groupby("fold"):
        what = f"mean {args.target.name}" if args.target.regression else "share of label 1"
        print(f"fold {fold}  {len(held):6,} rows to validate  {what}: {held['label'].mean():.4f}")


if __name__ == "__main__":
    run_main(main)
