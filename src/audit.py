"""Install a competition and check all of it, before anything is trained.

    python src/audit.py --data face-gender.zip     the zip as downloaded from Kaggle, or the folder it was unpacked to
    python src/audit.py --synthetic                without data: a small synthetic competition
    python src/audit.py                            check the competition that is installed
    python src/audit.py --strict                   leaks are an error
    python src/audit.py --data siim.zip --metric auc        what the files do not say

The task is inferred from the csv files and written to competition/task.toml, which you may edit: the columns of id and
label, the classes in the order of the sample, the metric, and whether labels or probabilities are submitted. The page
says how they were read; --metric, --submission, --id-column and --label-column say it otherwise, and write it again.
Ids may have a suffix or a folder; images are found in any folder or zip inside, of any common format; without a csv
each folder of train images is a class. With --in-place they are not copied, and --data has to stay where it is.

Writes train.csv, test.csv, sampleSubmit.csv, train/ and test/ to competition/ under --root, opens every image, and
prints a page on what is there: rows, the balance of the labels, sizes; identical files and near-duplicates (the same
picture re-encoded, resized, brighter or mirrored) inside train, inside test and across; whether the order of the ids,
the file's size or time, the image's size or the JPEG header predict the label; images that may be broken; columns of
train.csv that say which images belong together; and what to do.

A synthetic competition is replaced, and its results are removed. So is one that the audit refused, once its source is
repaired; of the same csv files only the images that were repaired are taken. Nothing that you put there is removed: it
is refused by name.

Everything that breaks the rules is listed at once, by file, row and rule, and the exit code is 2; with --strict also if
something other than the pixels gives labels away. Results are kept in cache/, so a second run takes seconds. meta.csv
(id, then anything: age, ..) may be next to train.csv; no model is trained on it.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from facefold.cli import build_parser, hold_root, path_argument, run_main
from facefold.options import add_competition_options, check_competition_options
from facefold.utils.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def main() -> tuple[str, pd.DataFrame]:
    parser = build_parser(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=path_argument, metavar="ZIP|DIR", help="the competition to install")
    source.add_argument("--synthetic", action="store_true", help="install a small synthetic competition")
    parser.add_argument("--strict", action="store_true", help="exit with 2 if labels leak")
    add_competition_options(parser)
    args = parser.parse_args()
    check_competition_options(args)
    with hold_root(args.root, alone=True):
        return audit(args)


def audit(args: argparse.Namespace) -> tuple[str, pd.DataFrame]:
    """Install the competition if one is named, check it, print the page, and return it and its findings."""
    from facefold.data.audit import audit_competition, find_broken_images, images_without_row, load_thumbnails
    from facefold.data.duplicates import find_duplicates
    from facefold.data.layout import install_competition
    from facefold.data.leaks import find_cues, labels_of_duplicates
    from facefold.data.synthetic import is_synthetic, write_synthetic_competition
    from facefold.data.task_inference import Choices
    from facefold.report.audit_text import audit_page, findings_table, list_leaks
    from facefold.task import TASK_FILE
    from facefold.utils.files import write_text

    start, target = time.monotonic(), args.root / "competition"
    choices = Choices(args.metric, args.submission, args.id_column, args.label_column)
    if args.data is not None:
        new = install_competition(args.data, args.root, choices, args.images, args.in_place)
        print(f"{args.data} {'was installed as' if new else 'is already in'} {target}")
    if args.synthetic and write_synthetic_competition(args.root):
        print(f"a synthetic competition was written to {target}")
    competition, images = audit_competition(args.root, choices if choices.any else None)
    if choices.any or not (target / TASK_FILE).exists():
        write_text(target / TASK_FILE, competition.task.text())
    if is_synthetic(args.root):
        print("note        this competition is SYNTHETIC: its scores mean nothing elsewhere")
    thumbnails, groups = load_thumbnails(competition), find_duplicates(competition, images)
    answers = labels_of_duplicates(groups, competition.train.set_index("id")["label"])
    cues, broken = find_cues(competition, images, thumbnails.headers), find_broken_images(thumbnails)
    unused, leaks = images_without_row(competition), list_leaks(answers, cues)
    page = audit_page(competition, images, groups, answers, cues, broken, unused)
    print(page, end="")
    if args.strict and leaks:
        raise InputError.of(
            "--strict: something other than the pixels gives labels away:",
            leaks,
            "Ask the host of the competition for one without, or run the audit without --strict and know it.",
        )
    print(f"checked in {time.monotonic() - start:.1f} s: nothing breaks the rules")
    return page, findings_table(competition, groups, leaks, broken, unused)


if __name__ == "__main__":
    run_main(main)
