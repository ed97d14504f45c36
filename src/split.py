"""Divide the train rows into folds, once; everything that is trained and scored later uses these.

    python src/split.py                      5 folds, seed 0
    python src/split.py --folds 10 --seed 3
    python src/split.py --groups bytes       only byte-identical images count as the same picture
    python src/split.py --groups none        every row by itself, also where rows have the same picture
    python src/split.py --group patient      rows of one patient, a column of train.csv or meta.csv, stay together
    python src/split.py --time date          blocks of rows in the order of a column
    python src/split.py --folds-file my.csv  the folds of a file with the columns id,fold
    python src/split.py --target age         for a regression on a column of meta.csv

Every fold gets the same share of each label, and near-duplicates (the same picture re-encoded, resized, brighter or
mirrored; `--groups near`) stay together (scikit-learn's StratifiedGroupKFold), so that no picture is validated by a
model that has seen it. If one picture has more rows than a fold should have, the folds are unequal, and the step says
which picture it is. With --group rows that share a value in any of its columns stay together as well, also through
other rows; an empty value groups nothing, and `--group ""` means no columns (default: as the existing folds, else those
of competition/task.toml). Of more than two classes, one with fewer rows than folds is in fewer folds, and is named.

--time COLUMN cuts the rows, sorted by numbers or ISO dates, into blocks, the first fold being the earliest; rows of one
time stay together, and neither labels nor groups are looked at. --folds-file FILE takes folds 0 to k-1 as they are. The
groups that these two divide are named.

Writes folds/: fold_<k>_train.csv, fold_<k>_valid.csv, folds.csv and folds.json (with checksums: edited folds are
refused later). With --target each fold gets the same share of ten bins of that column instead, and the folds are in
targets/<column>/folds/. Existing folds are kept unless other ones are asked for. Other folds, while runs depend on the
existing ones, are refused unless --force is used; these runs are stale then.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from facefold.cli import build_parser, hold_root, path_argument, run_main
from facefold.options import add_folds_option, add_seed_option, add_target_option
from facefold.utils.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from facefold.data.competition import Competition
    from facefold.data.fold_methods import FoldMethod
    from facefold.data.folds import Folds

GROUPING_NAMES = ("bytes", "near", "none")


def main() -> Folds:
    parser = build_parser(__doc__)
    add_folds_option(parser, "how many (default: as the existing folds, else 5)")
    add_seed_option(parser, "another seed gives other folds (default: as the existing ones, else 0)", default=None)
    parser.add_argument(
        "--groups",
        choices=GROUPING_NAMES,
        help="what no fold divides: images of the same bytes, near-duplicates, or nothing (default: as the existing "
        "folds, else near)",
    )
    parser.add_argument("--group", metavar="COLUMN[,COLUMN]", help="rows with an equal value stay together too")
    parser.add_argument("--time", metavar="COLUMN", help="cut the rows into blocks in the order of this column")
    parser.add_argument("--folds-file", type=path_argument, metavar="FILE", help="id,fold of every train row")
    parser.add_argument("--force", action="store_true", help="replace folds that runs depend on")
    add_target_option(parser)
    args = parser.parse_args()
    check_options(args)
    with hold_root(args.root, alone=True):
        return split(args)


def check_options(args: argparse.Namespace) -> None:
    """Raise `InputError` for options that do not go together."""
    for option, others in {"folds_file": ("folds", "time"), "time": ("groups", "group")}.items():
        both = [f"--{name}" for name in others if getattr(args, name) is not None]
        if getattr(args, option) is not None and both:
            name = option.replace("_", "-")
            raise InputError(f"--{name} alone says how rows are divided; leave {' and '.join(both)} out")
    if args.folds_file and not args.folds_file.is_file():
        raise InputError(f"--folds-file {args.folds_file}: there is no such file")


def split(args: argparse.Namespace) -> Folds:
    """Keep the existing folds, or make new ones, print what they are, and return them."""
    from facefold.data.audit import audit_competition
    from facefold.data.duplicates import picture_groups
    from facefold.data.fold_methods import parse_method
    from facefold.data.fold_rows import column_groups, describe_fold, describe_folds, join_groups, parse_columns
    from facefold.data.folds import (
        count_divided_groups,
        describe_large_group,
        group_rows,
        load_fold_settings,
        load_folds,
        write_folds,
    )
    from facefold.runs import run_names

    competition, images = audit_competition(args.root)
    near, identical = picture_groups(competition, images, "near"), group_rows(images)
    try:
        old = load_folds(args.root, args.target)
    except InputError:  # none yet, or none that can be used: `write_folds` refuses if runs would lose theirs
        old = None
    former = load_fold_settings(args.root, args.target)  # of folds for another train.csv too
    k, seed = former[:2] if former else (5, 0)
    k, seed = k if args.folds is None else args.folds, seed if args.seed is None else args.seed
    task_columns = competition.task.groups
    columns = task_columns if args.group is None else parse_columns(args.group)
    method = choose_method(args, former, (k, seed), columns)
    groups = picture_groups(competition, images, args.groups or method.grouping)
    if joined := method.columns if method.drawn else columns:
        groups = join_groups([groups, *column_groups(competition, joined, "--group")])
    folds, new = old, False  # kept as they are: a later version of this program might make others
    if old is None or args.force or (k, seed, method) != (old.k, old.seed, parse_method(old.method)):
        folds = divide(args, competition, groups, (k, seed), method, old)
        new = write_folds(args.root, folds, args.force, run_names(args.target.directory(args.root)))
    directory = args.target.directory(args.root) / "folds"
    print(f"{folds.k} folds, seed {seed}, {'written to' if new else 'already in'} {directory}")
    print(
        f"{near.duplicated(keep=False).sum():,} rows are in {near[near.duplicated()].nunique():,} groups of "
        f"near-duplicates; these folds divide {count_divided_groups(folds.table, near):,} of the groups"
    )
    for note in (*describe_folds(folds, groups, task_columns), describe_large_group(folds, identical)):
        if note:
            print(note)
    for fold, valid in folds.table.groupby("fold"):
        print(f"fold {fold}  {len(valid):6,} rows to validate  {describe_fold(valid, args.target)}")
    return folds


def choose_method(
    args: argparse.Namespace, former: tuple[int, int, str] | None, drawn: tuple[int, int], columns: tuple[str, ...]
) -> FoldMethod:
    """Return the method that is asked for, else that of the former folds.

    former: their number, seed and method. drawn: folds and seed. columns: rows of equal values stay together, unless
    the former folds say otherwise.
    """
    from facefold.data.fold_methods import FoldMethod, parse_method
    from facefold.utils.files import sha256_file

    if args.folds_file:
        return FoldMethod(file=sha256_file(args.folds_file))
    if args.time is not None:
        return FoldMethod(time=args.time)
    kept = parse_method(former[2]) if former else FoldMethod()
    if former and args.groups is None and args.group is None:
        same = drawn == former[:2] and not args.force
        if kept.drawn or kept.time or (kept.file and drawn[0] == former[0]) or same:
            return kept
    return FoldMethod(
        args.groups or kept.grouping or "near", kept.columns if kept.drawn and args.group is None else columns
    )


def divide(
    args: argparse.Namespace,
    competition: Competition,
    groups: pd.Series,
    drawn: tuple[int, int],
    method: FoldMethod,
    old: Folds | None,
) -> Folds:
    """Return new folds. groups: of each train id (the index). drawn: folds and seed. old: the existing folds."""
    from dataclasses import replace

    from facefold.data.competition import target_rows
    from facefold.data.fold_rows import cut_in_time, read_folds_file
    from facefold.data.folds import assign_folds, make_folds, require_both_labels

    (k, seed), target = drawn, args.target
    rows = target_rows(competition, target)  # refuses a target whose files are missing
    sha256 = target.sha256(args.root)
    if method.drawn:
        folds = make_folds(rows, groups, k, seed, sha256, method.grouping, target)
        return replace(folds, method=method.text(target.regression))
    if method.file and not args.folds_file and old is None:
        raise InputError(
            "the folds came from a file and do not suit the competition any more: name the file for this one with "
            "--folds-file, or draw folds with --groups near"
        )
    if method.file and not args.folds_file:  # its folds stay, whatever the seed
        return replace(old, seed=seed)
    if method.file:
        fold = read_folds_file(args.folds_file, rows["id"].tolist())
    else:
        fold = cut_in_time(competition, method.time, k)
    folds = assign_folds(rows, groups, fold, seed, sha256, method.text(), target)
    require_both_labels(folds)
    return folds


if __name__ == "__main__":
    run_main(main)
