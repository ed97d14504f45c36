"""Put a competition in place and check all of it, before anything is trained.

    python src/audit.py --data face-gender.zip     the zip as downloaded from Kaggle, or the folder it was unpacked to
    python src/audit.py --drawn                    no data at hand: a small competition drawn by this program
    python src/audit.py                            check what is in place

Puts train.csv, test.csv, sampleSubmit.csv, train/<id>.jpg and test/<id>.jpg into competition/ under --root, opens every
image once, and prints what is there: rows, the balance of the labels, sizes, identical files. Whatever breaks the contract
is listed in one go, by file, row and rule, and the exit code is 2. The result is kept in cache/images.csv, so a second
run takes a second. meta.csv (id, then anything: age, ..) may lie beside train.csv; no model is trained on it.
"""

import time
from pathlib import Path

import pandas as pd

from facefold import step
from facefold.data import competition, drawn, integrity, unpack


def main() -> None:
    parser = step.parser(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, metavar="ZIP|DIR", help="the competition to put in place")
    source.add_argument("--drawn", action="store_true", help="draw a small competition and put it in place")
    args = parser.parse_args()
    start = time.monotonic()
    if args.data is not None:
        new = unpack.install(args.data, args.root)
        print(f"{args.data} {'was put into' if new else 'is already in'} {args.root / 'competition'}")
    if args.drawn and drawn.draw(args.root):
        print(f"a competition was drawn into {args.root / 'competition'}")
    found, images = integrity.load(args.root)
    if drawn.is_drawn(args.root):
        print("note        this competition is DRAWN: its scores mean nothing elsewhere")
    print_rows(found)
    print_images(images)
    print_twins(found, images)
    print_extras(integrity.extras(found))
    print(f"checked in {time.monotonic() - start:.1f} s: nothing breaks the contract")


def print_rows(found: competition.Competition) -> None:
    ones = int(found.train["label"].sum())
    meta = "" if found.meta is None else f", {len(found.meta):,} in meta.csv"
    print(f"rows        {len(found.train):,} train, {len(found.test):,} test{meta}")
    print(f"labels      {len(found.train) - ones:,} of 0, {ones:,} of 1: share of 1 is {ones / len(found.train):.4f}")


def print_images(images: pd.DataFrame) -> None:
    def spread(column: str) -> str:
        values = images[column]
        return f"{values.min():,} / {values.median():,.0f} / {values.max():,}"

    print(f"images      width {spread('width')}, height {spread('height')} pixels (min / median / max)")
    print(f"bytes       {spread('bytes')} a file, {images['bytes'].sum() / 1e6:,.1f} MB in all")


def print_twins(found: competition.Competition, images: pd.DataFrame) -> None:
    """Byte-identical files: groups inside train, how many of these have both labels, and rows of test that also are in train."""
    labelled = images[images["split"] == "train"].merge(found.train, on="id", validate="one_to_one")
    groups = labelled.groupby("sha256")["label"].agg(["size", "nunique"])
    groups = groups[groups["size"] > 1]
    test = images.loc[images["split"] == "test", "sha256"]
    print(f"identical   {len(groups):,} groups inside train ({groups['size'].sum():,} rows), "
          f"{(groups['nunique'] > 1).sum():,} of them with both labels;")
    print(f"            {test.isin(labelled['sha256']).sum():,} test images are also in train, "
          f"{test.duplicated(keep=False).sum():,} have a twin inside test")


def print_extras(extras: list[str]) -> None:
    if extras:
        print(f"no row      {len(extras):,} images have no row in the csv and are not used: {', '.join(extras[:3])}"
              + (", .." if len(extras) > 3 else ""))


if __name__ == "__main__":
    step.run(main)
