"""Put a competition in place and check all of it, before anything is trained.

    python src/audit.py --data face-gender.zip     the zip as downloaded from Kaggle, or the folder it was unpacked to
    python src/audit.py --drawn                    no data at hand: a small competition drawn by this program
    python src/audit.py                            check what is in place
    python src/audit.py --strict                   leaks are an error

Puts train.csv, test.csv, sampleSubmit.csv, train/<id>.jpg and test/<id>.jpg into competition/ under --root, opens every
image, and prints a page on what is there: rows, the balance of the labels, sizes; identical files and near-duplicates
(the same picture re-encoded, resized, brighter or mirrored) inside train, inside test and across; whether the order of the
ids, the file's size or time, the image's size or the JPEG header tell the label; images that may be broken; and what to do.

Whatever breaks the contract is listed in one go, by file, row and rule, and the exit code is 2; with --strict also where
something other than the picture gives labels away. All is kept in cache/, so a second run takes seconds. meta.csv (id, then
anything: age, ..) may lie beside train.csv; no model is trained on it.
"""

import argparse
import time
from pathlib import Path

from facefold.cli import build_parser, hold_root, run_main
from facefold.data.archive import install_competition
from facefold.data.audit import audit_competition, images_without_row
from facefold.data.duplicates import find_duplicates
from facefold.data.leaks import find_cues, labels_of_duplicates
from facefold.data.suspects import find_broken_images
from facefold.data.synthetic import draw_competition, is_synthetic
from facefold.data.thumbnails import load_thumbnails
from facefold.report.audit_text import (
    describe_actions,
    describe_broken_images,
    describe_contents,
    describe_cues,
    describe_extras,
    describe_near_duplicates,
    describe_shared_pictures,
    has_mixed_labels,
    list_leaks,
)
from facefold.utils.errors import InputError


def main() -> None:
    parser = build_parser(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, metavar="ZIP|DIR", help="the competition to put in place")
    source.add_argument("--drawn", action="store_true", help="draw a small competition and put it in place")
    parser.add_argument("--strict", action="store_true", help="exit with 2 where labels leak")
    args = parser.parse_args()
    with hold_root(args.root, alone=True):
        audit(args)


def audit(args: argparse.Namespace) -> None:
    """Put the competition in place where one is named, check it, and print the page."""
    start = time.monotonic()
    if args.data is not None:
        new = install_competition(args.data, args.root)
        print(f"{args.data} {'was put into' if new else 'is already in'} {args.root / 'competition'}")
    if args.drawn and draw_competition(args.root):
        print(f"a competition was drawn into {args.root / 'competition'}")
    found, images = audit_competition(args.root)
    if is_synthetic(args.root):
        print("note        this competition is DRAWN: its scores mean nothing elsewhere")
    seen, groups = load_thumbnails(found), find_duplicates(found, images)
    told = labels_of_duplicates(groups, found.train.set_index("id")["label"])
    cues, broken = find_cues(found, images, seen.headers), find_broken_images(seen.headers, seen.grey)
    leaking = list_leaks(told, cues)
    page = [
        *describe_contents(found, images),
        *describe_near_duplicates(found, groups),
        *describe_shared_pictures(told, found),
        *describe_cues(cues),
        *describe_broken_images(broken),
        *describe_extras(images_without_row(found)),
        *describe_actions(leaking, has_mixed_labels(found, groups), len(broken) > 0),
    ]
    print("\n".join(page))
    if args.strict and leaking:
        raise InputError.of(
            "--strict: something other than the picture gives labels away:",
            leaking,
            "Ask who made the competition for one without, or run the audit without --strict and know it.",
        )
    print(f"checked in {time.monotonic() - start:.1f} s: nothing breaks the contract")


if __name__ == "__main__":
    run_main(main)
