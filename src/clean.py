"""Find the train labels that are likely wrong, from the out-of-fold (OOF) probabilities of finished runs.

    python src/clean.py                                               list the suspects, change nothing
    python src/clean.py --write-corrections corrections.csv --top 100            .. and propose to drop the first 100
    python src/clean.py --write-corrections corrections.csv --confidence 0.95 --action relabel
    python src/train.py --recipe lite0 --corrections corrections.csv          train without them, then blend.py compares

Suspects come from groups of the same picture with different labels, of which at least one is wrong, and from confident
learning (Northcutt et al. 2021; cleanlab's default) on the mean OOF probability. What the same picture is says --groups
of split.py; rows of equal --group are not one. With a weak model many suspects are difficult images with correct
labels: look at label_issues.html before you change anything.

Writes runs/label_issues.csv, the most suspicious first:
    id, label     the train id and its label
    prob          OOF probability of label 1, or of the label among more than two classes; the mean over the recipes
    kind          conflict (within a group) or confident (confident learning)
    rank          1, 2, ..
    suggested     the likely label; confident: the likeliest other one; conflict: that of most rows of the group, in a
                  tie by the probabilities, so that the rows of a conflict that have this label keep it
    confidence    probability of the suggested label, in a conflict the mean over the group
    group         picture of the row: the first train id that shows it
and label_issues.html: the first 200 as images, with their nearest neighbours in the features of the models.

A file of corrections is id,action and meant to be edited: keep, drop (leave the row out) or relabel (take the other
label; of more than two classes relabel:CLASS). drop is the default: a row dropped by mistake costs one row, a row
relabelled by mistake teaches an error. The rows of a conflict that have the suggested label are written as keep. An
edited file is replaced only with --force.

Corrections change training rows only; rows are scored by their original labels. A little leaks all the same: the label
of a training row was judged by models that had trained on the rows that are held out now. The score against corrected
labels, which is reported as well, is too high: predictions like the scored ones chose the corrections.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from facefold.cli import build_parser, path_argument, run_main
from facefold.utils.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--recipes", metavar="A,B", help="use their OOF (default: all runs without corrections)")
    parser.add_argument(
        "--write-corrections",
        type=path_argument,
        metavar="FILE",
        help="propose corrections, with --top or --confidence",
    )
    parser.add_argument("--top", type=int, metavar="N", help="correct the first N suspects")
    parser.add_argument("--confidence", type=float, metavar="C", help="correct suspects of at least this confidence")
    parser.add_argument("--action", choices=("drop", "relabel"), help="what to do with them (default: drop)")
    parser.add_argument("--force", action="store_true", help="replace FILE even if it was edited")
    args = parser.parse_args()
    check_options(args)
    list_suspects(args)


def list_suspects(args: argparse.Namespace) -> None:
    """Write the suspects and their page, and propose corrections if the options ask for some."""
    import numpy as np

    from facefold.data.competition import load_competition
    from facefold.data.duplicates import rows_by_picture
    from facefold.data.folds import load_folds
    from facefold.data.image_hashes import load_images_hash
    from facefold.ensemble.label_issues import CONFLICT, find_label_issues
    from facefold.models.run_name import parse_run_name
    from facefold.report.pages import MAX_ROWS, label_issues_page, nearest_neighbours
    from facefold.runs import (
        current_identity,
        label_issues_path,
        load_member,
        parse_run_names,
        run_names,
    )
    from facefold.task import load_task
    from facefold.utils.files import lock_directory, write_csv, write_text

    root = args.root.resolve()
    task = load_task(root)
    competition, folds, images_hash = load_competition(root), load_folds(root, task), load_images_hash(root)
    uncorrected = [name for name in run_names(root) if not parse_run_name(name).corrected]
    # sorted: the last bit of a mean depends on the order
    names = sorted(parse_run_names(args.recipes) if args.recipes else uncorrected)
    if not names:
        raise InputError("there are no runs to judge labels by. Run `python src/train.py --recipe NAME` first.")
    test_ids = competition.test["id"].tolist()
    members = [load_member(root, current_identity(name, folds, images_hash), name, folds, test_ids) for name in names]
    prob = np.mean([member.oof.to_numpy() for member in members], axis=0)
    issues = find_label_issues(rows_by_picture(competition, folds), prob)
    confident = issues[issues["kind"] != CONFLICT]
    different = "different" if task.multiclass else "both"
    title = (
        f"{len(issues)} of {len(folds.table)} labels to look at: {len(issues) - len(confident)} in groups with "
        f"{different} labels, {len(confident)} by confident learning on {', '.join(names)}"
    )
    neighbours = nearest_neighbours(root, names, folds, issues["id"].head(MAX_ROWS).tolist())
    shown = issues
    if task.classes != ("0", "1"):
        shown = issues.assign(**{column: np.array(task.classes)[issues[column]] for column in ("label", "suggested")})
        neighbours["label"] = np.array(task.classes)[neighbours["label"].astype(np.int64)]
    page = label_issues_page(competition, shown, neighbours, title)
    with lock_directory(root / "runs", wait=True):
        write_csv(label_issues_path(root), shown)
        write_text(root / "label_issues.html", page)

    print(title)
    for label, count in folds.table["label"].value_counts().sort_index().items():
        wrong = (confident["label"] == label).sum()
        print(
            f"label {task.classes[label]}: {count} rows, {wrong} of them are wrong or too difficult for these models, "
            "by confident learning"
        )
    print(f"look at {root / 'label_issues.html'}; all of them are in {label_issues_path(root)}")
    if args.write_corrections:
        propose(args, issues, parse_run_name(names[0]).recipe, task.classes if task.multiclass else ())


def propose(args: argparse.Namespace, issues: pd.DataFrame, recipe: str, classes: Sequence[str] = ()) -> None:
    """Write the corrections that the options propose, and print what to do with them."""
    from facefold.data.corrections import write_corrections
    from facefold.ensemble.label_issues import propose_corrections

    corrections = propose_corrections(issues, args.action or "drop", args.top, args.confidence or 0.0, classes)
    if corrections.empty:
        found = "there are no suspects" if issues.empty else f"no suspect has confidence {args.confidence:g} or more"
        raise InputError(f"{found}; {args.write_corrections} is unchanged")
    write_corrections(args.write_corrections, corrections, args.force)
    counts = ", ".join(f"{count} {action}" for action, count in corrections["action"].value_counts().items())
    print(
        f"{args.write_corrections}: {counts}. Look through it, then `python src/train.py --recipe {recipe} "
        f"--corrections {args.write_corrections}`"
    )


def check_options(args: argparse.Namespace) -> None:
    """Raise `InputError` for options that do not go together."""
    values = {name: getattr(args, name) for name in ("top", "confidence", "action", "force")}
    used = [name for name, value in values.items() if value is not None and value is not False]
    if used and not args.write_corrections:
        raise InputError(f"--{used[0]} belongs to --write-corrections FILE")
    if args.write_corrections and args.top is None and args.confidence is None:
        raise InputError("--write-corrections: say how many with --top N, or how confident with --confidence C")
    if args.top is not None and args.top < 1:
        raise InputError(f"--top {args.top}: at least 1")
    if args.confidence is not None and not 0 <= args.confidence <= 1:
        raise InputError(f"--confidence {args.confidence}: a probability, 0 to 1")


if __name__ == "__main__":
    run_main(main)
