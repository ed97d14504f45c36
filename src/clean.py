"""Find the train labels that are likely wrong, from the out-of-fold (OOF) probabilities of finished runs, and show them.

    python src/clean.py                                               list the suspects, change nothing
    python src/clean.py --write-corrections corrections.csv --top 100            .. and propose to drop the first 100
    python src/clean.py --write-corrections corrections.csv --confidence 0.95 --action flip
    python src/train.py --recipe lite0 --corrections corrections.csv          train without them, then blend.py compares

Suspects come by confident learning (Northcutt et al. 2021) on the mean OOF probability, and from groups of the same image
in folds.csv that hold both labels: of the same picture one label is wrong, so they come first. With a weak model many
suspects are hard pictures with right labels: look at label_issues.html before you change anything.

Writes runs/label_issues.csv, the most suspicious first:
    id, label     the train id and its given label        prob   OOF probability of label 1, the mean over the recipes
    kind          conflict (within a group) or confident (confident learning)          rank   1, 2, ..
    suggested     the likely label; confident: the other one; conflict: that of most rows of the group, where even by prob,
                  so that one side of a conflict is suggested what it has
    confidence    probability of the suggested label, in a conflict the mean over the group          group   of folds.csv
and label_issues.html: the first 200 as pictures, with their nearest neighbours in the features of the models.

A file of corrections is id,action and meant to be edited: keep, drop (leave the row out) or flip (take the other label).
drop is the default: a row wrongly dropped costs one row, a row wrongly flipped teaches an error. The side of a conflict that
is suggested what it has is written as keep. A file that says something else already is replaced only with --force.

What stays honest: corrections reach training rows only; rows are scored by their given labels. A little leaks all the same:
the label of a training row was judged by models that had trained on the rows held out now. And a score against corrected
labels, which is shown beside the other, flatters: predictions like the scored ones chose the corrections.
"""

from pathlib import Path

import numpy as np

from facefold.cli import build_parser, run_main
from facefold.data.audit import load_images_hash
from facefold.data.competition import load_competition
from facefold.data.corrections import write_corrections
from facefold.data.folds import load_folds
from facefold.ensemble.label_issues import CONFLICT, find_label_issues, propose_corrections
from facefold.report import contact_sheet
from facefold.runs import CORRECTED_SUFFIX, current_identity, label_issues_path, load_member, parse_run_names, run_names
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory, write_csv, write_text


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument(
        "--recipes", metavar="A,B", help="whose OOF (default: all runs that learned from the given labels)"
    )
    parser.add_argument(
        "--write-corrections", type=Path, metavar="FILE", help="propose corrections, with --top or --confidence"
    )
    parser.add_argument("--top", type=int, metavar="N", help="of the first N suspects")
    parser.add_argument("--confidence", type=float, metavar="C", help="of the suspects of confidence C or more")
    parser.add_argument("--action", choices=("drop", "flip"), help="what to do with them (default: drop)")
    parser.add_argument("--force", action="store_true", help="replace FILE even if it says something else")
    args = parser.parse_args()
    check(args)
    root = args.root.resolve()
    competition, folds, images_hash = load_competition(root), load_folds(root), load_images_hash(root)
    given = [name for name in run_names(root) if not name.endswith(CORRECTED_SUFFIX)]
    names = sorted(
        parse_run_names(args.recipes) if args.recipes else given
    )  # a mean depends on the order in its last bit
    if not names:
        raise InputError("there are no runs to judge labels by. Run `python src/train.py --recipe NAME` first.")
    test_ids = competition.test["id"].tolist()
    members = [load_member(root, current_identity(name, folds, images_hash), name, folds, test_ids) for name in names]
    found = find_label_issues(folds.table.assign(prob=np.mean([member.oof.to_numpy() for member in members], axis=0)))
    table = found.table
    conflicts = int((table["kind"] == CONFLICT).sum())
    lead = (
        f"{len(table)} of {len(folds.table)} labels to look at: {conflicts} in groups that hold both labels, "
        f"{len(table) - conflicts} by confident learning on {', '.join(names)}"
    )
    near = contact_sheet.neighbours(root, names, folds, table["id"].head(contact_sheet.SHOWN).tolist())
    page = contact_sheet.page(competition, table, near, lead)
    with lock_directory(root / "runs", wait=True):
        write_csv(label_issues_path(root), table)
        write_text(root / "label_issues.html", page)

    print(lead)
    for i in (0, 1):
        print(
            f"given {i}: {(folds.table['label'] == i).sum()} rows, their mean probability of {i} is {found.thresholds[i]:.3f}; {found.joint[i, i]} "
            f"seem {i}, {found.joint[i, 1 - i]} seem {1 - i}; about {found.wrong[i]} are wrong, or too hard for these models"
        )
    print(f"look at {root / 'label_issues.html'}; all of them are in {label_issues_path(root)}")
    if args.write_corrections:
        proposed = propose_corrections(table, args.action or "drop", args.top, args.confidence or 0.0)
        if proposed.empty:
            raise InputError(
                f"no suspect is of confidence {args.confidence:g} or more; {args.write_corrections} was not written"
            )
        write_corrections(args.write_corrections, proposed, args.force)
        counts = ", ".join(f"{count} {action}" for action, count in proposed["action"].value_counts().items())
        print(
            f"{args.write_corrections}: {counts}. Look through it, then `python src/train.py --recipe {names[0]} "
            f"--corrections {args.write_corrections}`"
        )


def check(args) -> None:
    """Refuse options that do not go together."""
    given = [name for name in ("top", "confidence", "action", "force") if getattr(args, name) not in (None, False)]
    if given and not args.write_corrections:
        raise InputError(f"--{given[0]} belongs to --write-corrections FILE")
    if args.write_corrections and args.top is None and args.confidence is None:
        raise InputError("--write-corrections: say how many with --top N, or how sure with --confidence C")
    if args.top is not None and args.top < 1:
        raise InputError(f"--top {args.top}: at least 1")
    if args.confidence is not None and not 0 <= args.confidence <= 1:
        raise InputError(f"--confidence {args.confidence}: a probability, 0 to 1")


if __name__ == "__main__":
    run_main(main)
