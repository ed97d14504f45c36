"""Make a competition of the UTKFace data set: predict the gender of a face, 0 male and 1 female.

    python src/import_utkface.py UTKFace.zip --test-size 5708 --seed 0 --root DIR

Takes the zip or the folder as downloaded (https://susanqq.github.io/UTKFace/, "aligned and cropped"). Label, age and
race come from the names of the files, <age>_<gender>_<race>_<date>.jpg.chip.jpg. Other names are listed and left out,
never guessed; a name that is in several folders is taken once. Writes to the root:
    competition/train.csv, test.csv, sampleSubmit.csv, train/<id>.jpg, test/<id>.jpg
    competition/meta.csv   id,age,race of the train rows
    solution.csv           id,label,age,race of the test rows: the answers, for `python src/score.py`

The ids are 1.. in an order drawn from --seed, and all images get the same time, so neither says anything. The test rows
have the same share of each label as all rows. Near-duplicates may be in train and test, as in the published
competition: `python src/audit.py` names them. An existing competition is never overwritten.
"""

from facefold.cli import build_parser, hold_root, path_argument, run_main
from facefold.options import add_seed_option


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("source", type=path_argument, metavar="ZIP|DIR", help="UTKFace as downloaded")
    parser.add_argument(
        "--test-size", type=int, default=5708, metavar="N", help="faces to hold out for the test (default: 5708)"
    )
    add_seed_option(parser, "another seed gives other ids and another test set (default: 0)")
    args = parser.parse_args()

    from facefold.data.utkface import install_utkface, solution_path

    with hold_root(args.root, alone=True):
        imported = install_utkface(args.source, args.root, args.test_size, args.seed)
    if imported.repeated:
        print(f"{imported.repeated:,} files have a name that is in another folder too; each name was taken once")
    if imported.malformed:
        print(f"{len(imported.malformed):,} names are not <age>_<gender>_<race>_<date>.jpg and were left out:")
        print("\n".join(f"  - {name}" for name in imported.malformed))
    for name, rows in (("train", imported.train), ("test", imported.test)):
        print(
            f"{name:5} {len(rows):6,} faces, share of label 1: {rows['label'].mean():.4f}, "
            f"ages {rows['age'].min()} to {rows['age'].max()}"
        )
    print(
        f"{'written to' if imported.new else 'already in'} {args.root / 'competition'}; the answers of the test rows "
        f"are in {solution_path(args.root)}. Next: python src/audit.py --root {args.root}"
    )


if __name__ == "__main__":
    run_main(main)
