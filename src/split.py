"""Divide the train rows into folds, once; everything that is trained and scored later uses these.

    python src/split.py                      5 folds, seed 0
    python src/split.py --folds 10 --seed 3

Every fold gets the same share of each label, and byte-identical images stay together (scikit-learn's StratifiedGroupKFold),
so that no image is validated by a model that has seen it. Writes folds/: fold_<k>_train.csv, fold_<k>_valid.csv, folds.csv
and folds.json (with checksums: edited folds are refused later). The same folds again: nothing to do. Other folds, while
runs depend on those in place, are refused unless --force says so; these runs are stale then.
"""

from facefold import files, step
from facefold.data import folds, integrity
from facefold.errors import InputError


def main() -> None:
    parser = step.parser(__doc__)
    parser.add_argument("--folds", type=int, metavar="K", help="how many (default: as many as there are, else 5)")
    parser.add_argument("--seed", type=int, help="another seed deals other folds (default: that of the folds there are, else 0)")
    parser.add_argument("--force", action="store_true", help="replace folds that runs depend on")
    args = parser.parse_args()
    found, images = integrity.load(args.root)
    groups = folds.groups(images)
    try:
        old = folds.load(args.root)
        k, seed = old.k, old.seed
    except InputError:  # none yet, or none that can be used: they are dealt anew, and `write` refuses where runs would lose theirs
        k, seed = 5, 0
    k, seed = k if args.folds is None else args.folds, seed if args.seed is None else args.seed
    made = folds.make(found.train, groups, k, seed, files.sha256_file(args.root / "competition" / "train.csv"))
    new = folds.write(args.root, made, force=args.force)
    print(f"{k} folds, seed {seed}, {'written to' if new else 'already in'} {args.root / 'folds'}")
    for fold, rows in made.table.groupby("fold"):
        print(f"fold {fold}  {len(rows):6,} rows to validate  share of label 1: {rows['label'].mean():.4f}")


if __name__ == "__main__":
    step.run(main)
