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

from facefold import step
from facefold.data import drawn, duplicates, glance, integrity, leaks, suspects, unpack
from facefold.errors import InputError
from facefold.review import audit_page


def main() -> None:
    parser = step.parser(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, metavar="ZIP|DIR", help="the competition to put in place")
    source.add_argument("--drawn", action="store_true", help="draw a small competition and put it in place")
    parser.add_argument("--strict", action="store_true", help="exit with 2 where labels leak")
    args = parser.parse_args()
    with step.at_work(args.root, alone=True):
        audit(args)


def audit(args: argparse.Namespace) -> None:
    """Put the competition in place where one is named, check it, and print the page."""
    start = time.monotonic()
    if args.data is not None:
        new = unpack.install(args.data, args.root)
        print(f"{args.data} {'was put into' if new else 'is already in'} {args.root / 'competition'}")
    if args.drawn and drawn.draw(args.root):
        print(f"a competition was drawn into {args.root / 'competition'}")
    found, images = integrity.load(args.root)
    if drawn.is_drawn(args.root):
        print("note        this competition is DRAWN: its scores mean nothing elsewhere")
    seen, groups = glance.load(found), duplicates.find(found, images)
    told = leaks.twins(groups, found.train.set_index("id")["label"])
    cues, broken = leaks.cues(found, images, seen.headers), suspects.find(seen.headers, seen.grey)
    leaking = audit_page.leaks(told, cues)
    page = [
        *audit_page.contents(found, images),
        *audit_page.near(found, groups),
        *audit_page.twins(told, found),
        *audit_page.cues(cues),
        *audit_page.suspects(broken),
        *audit_page.extras(integrity.extras(found)),
        *audit_page.what_to_do(leaking, audit_page.mixed_labels(found, groups), len(broken) > 0),
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
    step.run(main)
