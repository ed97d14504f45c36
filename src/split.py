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

from facefold import step
from facefold.data import duplicates, folds, integrity, target
from facefold.errors import InputError


def main() -> None:
    parser = step.parser(__doc__)
    parser.add_argument("--folds", type=int, metavar="K", help="how many (default: as many as there are, else 5)")
    parser.add_argument(
        "--seed", type=int, help="another seed deals other folds (default: that of the folds there are, else 0)"
    )
    parser.add_argument(
        "--groups",
        choices=tuple(folds.METHODS),
        help="what no fold divides: images of the same bytes, or near-duplicates (default: as in the folds "
        "there are, else near)",
    )
    parser.add_argument("--force", action="store_true", help="replace folds that runs depend on")
    step.add_target(parser)
    args = parser.parse_args()
    with step.at_work(args.root, alone=True):
        split(args)


def split(args: argparse.Namespace) -> None:
    """Keep the folds there are, or deal new ones, and print what they are."""
    found, images = integrity.load(args.root)
    rows = target.rows(found, args.target)
    try:
        old = folds.load(args.root, args.target)
        k, seed, grouping = old.k, old.seed, old.grouping
    except (
        InputError
    ):  # none yet, or none that can be used: dealt anew, and `write` refuses where runs would lose theirs
        old, k, seed, grouping = None, 5, 0, "near"
    k, seed = k if args.folds is None else args.folds, seed if args.seed is None else args.seed
    grouping = args.groups or grouping
    near = folds.groups(duplicates.find(found, images), "group")
    new = args.force or old is None or (k, seed, grouping) != (old.k, old.seed, old.grouping)
    if new:
        grouping = grouping or "near"
        alike = near if grouping == "near" else folds.groups(images)
        made = folds.make(rows, alike, k, seed, args.target.sha256(args.root), grouping, args.target)
        new = folds.write(args.root, made, force=args.force)
    else:
        made = old  # frozen: a later version of this program might deal others
    print(f"{k} folds, seed {seed}, {'written to' if new else 'already in'} {args.target.place(args.root) / 'folds'}")
    print(
        f"{near.duplicated(keep=False).sum():,} rows stand in {near[near.duplicated()].nunique():,} groups of near-duplicates; "
        f"these folds divide {folds.divided(made.table, near):,} of the groups"
    )
    for fold, held in made.table.groupby("fold"):
        what = f"mean {args.target.name}" if args.target.regression else "share of label 1"
        print(f"fold {fold}  {len(held):6,} rows to validate  {what}: {held['label'].mean():.4f}")


if __name__ == "__main__":
    step.run(main)
