"""Pack for a Kaggle notebook without internet: one that predicts with the last blend, or one that trains.

    python src/pack.py --out DIR --user NAME --competition SLUG
                                              predict the test images with the trained weights
    python src/pack.py --train lite0,lite1 --session 11h --out DIR --user NAME --competition SLUG
                                              train there, in sessions
    python src/pack.py .. --push              upload it as well and run the notebook, with Kaggle's own client

Without --push the last lines are the commands that do it. DIR/dataset holds the source and, as wheels, the small
packages that a notebook's image may lack (torch is the image's own); DIR/kernel the notebook.

The predicting notebook, kernel.py, has the weights and out-of-fold predictions of the runs that were blended. No test
predictions are packed: it computes them again, blends as blend.py did and prints whether submission.csv is the same,
byte for byte. To try it here: python DIR/kernel/kernel.py INPUT OUTPUT, with DIR/dataset and the competition below
INPUT.

The notebook that trains, train.ipynb, stops at the end of an epoch before the time of its session is over. Run it again
(kaggle kernels push -p DIR/kernel) once it has ended: it finds its former output among its inputs and continues, until
all recipes are trained. After that it predicts the test images that it finds, also hidden ones. Two GPUs train two
folds at a time. Finished folds and checkpoints of the recipes that are in runs/ here are packed and continued.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from facefold.cli import build_parser, hold_root, path_argument, run_main
from facefold.options import add_images_option, add_weights_dir_option, images_options, recipe_list
from facefold.utils.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

SESSION = "11h"  # Kaggle ends a session after 12 hours


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument(
        "--out",
        type=path_argument,
        required=True,
        metavar="DIR",
        help="the upload folder: a new one, or an earlier one to replace",
    )
    parser.add_argument(
        "--user", required=True, metavar="NAME", help="your name at Kaggle, as in the address of your page"
    )
    parser.add_argument(
        "--competition",
        metavar="SLUG",
        help="what follows /competitions/ in the address of its page (default: that of submissions/log.csv)",
    )
    parser.add_argument("--train", metavar="A,B", help=f"train these there: any of {recipe_list()}")
    parser.add_argument(
        "--session", metavar="8h30m", help=f"with --train: the time of a session, below Kaggle's 12 hours ({SESSION})"
    )
    parser.add_argument("--cpu", action="store_true", help="with --train: without GPUs (default: two T4s)")
    add_weights_dir_option(parser)
    parser.add_argument(
        "--python", default="3.11", metavar="3.N", help="of the notebook, for the wheels (default: 3.11)"
    )
    parser.add_argument("--no-wheels", action="store_true", help="pack none: where no package index can be reached")
    add_images_option(parser, "where the images are in the competition's folder at Kaggle, if they are not found")
    parser.add_argument("--push", action="store_true", help="upload it and run the notebook, by the program `kaggle`")
    args = parser.parse_args()
    check_options(args)

    from facefold.kaggle.pack import require_names

    args.root, args.out = args.root.resolve(), args.out.resolve()
    args.competition = args.competition or last_competition(args.root)
    require_names(args.user, args.competition)
    if args.train:
        pack_training(args)
    else:
        pack_blend(args)


def check_options(args: argparse.Namespace) -> None:
    """Raise `InputError` for options that need --train, and for a session that is no time below Kaggle's."""
    from facefold.kaggle.session import parse_session

    training = {"--session": args.session, "--cpu": args.cpu, "--weights-dir": args.weights_dir}
    if not args.train and (misplaced := [name for name, value in training.items() if value]):
        raise InputError(f"{' and '.join(misplaced)}: for a notebook that trains; name its recipes with --train")
    args.session = args.session or SESSION
    parse_session(args.session, "--session")


def pack_blend(args: argparse.Namespace) -> None:
    """Pack the last blend for a notebook that predicts."""
    from facefold.data.competition import load_competition
    from facefold.data.folds import load_folds
    from facefold.ensemble.blend import load_blend, require_same_task
    from facefold.ensemble.members import load_blended_members
    from facefold.ensemble.submission import require_same_images
    from facefold.kaggle.pack import fetch_wheels, fill_upload, require_wheels, staged_upload, write_metadata
    from facefold.training.predict import require_network, trained_recipe

    if not args.no_wheels:
        require_wheels(args.python)
    competition, blend = load_competition(args.root), load_blend(args.root)
    require_same_task(blend, competition.task)
    require_same_images(blend, args.root, competition.task)
    if added := blend.facts.get("added"):
        raise InputError(
            f"the blend has {', '.join(added)}: a notebook cannot predict again what was made elsewhere. Blend without "
            "--add first: `python src/blend.py`"
        )
    folds = load_folds(args.root, competition.task)
    test_ids = competition.test["id"].tolist()
    members = load_blended_members(args.root, blend.facts, folds, test_ids)
    for member in members:
        require_network(member.name, trained_recipe(member.name, member.runs))
    gpu = any(run["device"].startswith("cuda") for member in members for run in member.runs)
    with staged_upload(args.out) as staged:
        write_metadata(staged, args.user, args.competition, gpu)
        fill_upload(staged, args.root, blend.facts, folds.k, images_options(args.images))
        wheels = [] if args.no_wheels else fetch_wheels(staged, args.python)
    finish(args, ", ".join(member.name for member in members), wheels)


def pack_training(args: argparse.Namespace) -> None:
    """Pack what a notebook needs to train, and what is trained here already."""
    from facefold.kaggle.pack import fetch_wheels, require_wheels, staged_upload, write_metadata
    from facefold.kaggle.training_pack import fill_training_upload, find_trained_folds, find_weights
    from facefold.models.recipe import load_recipes

    recipes = load_recipes(args.train)
    weights_dir = args.weights_dir and args.weights_dir.resolve()
    weights = find_weights(recipes, weights_dir)
    if not args.no_wheels:
        require_wheels(args.python, weights.packages)
    with hold_root(args.root, alone=True):  # no fold is trained, or removed, meanwhile
        trained = find_trained_folds(args.root, recipes, weights_dir, gpu=not args.cpu)
        with staged_upload(args.out) as staged:
            write_metadata(staged, args.user, args.competition, gpu=not args.cpu, trains=True)
            audit = images_options(args.images)
            fill_training_upload(staged, args.root, recipes, args.session, weights, trained, audit)
            wheels = [] if args.no_wheels else fetch_wheels(staged, args.python, weights.packages)
    finish(args, f"{', '.join(recipe.name for recipe in recipes)} ({trained})", wheels)


def finish(args: argparse.Namespace, what: str, wheels: Sequence[str]) -> None:
    """Print what was packed; upload it, or print how to."""
    from facefold.kaggle.client import push_upload

    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    packed = f"packed {what} and {len(wheels)} wheels into {args.out} ({size / 1e6:.0f} MB)"
    push = f"kaggle kernels push -p {args.out / 'kernel'}"
    if args.push:
        print(packed, flush=True)
        print(*push_upload(args.out), sep="\n")
    else:
        print(f"{packed}; now:\n  kaggle datasets create -p {args.out / 'dataset'} --dir-mode zip\n  {push}")
    if args.train:
        print(f"each time a session has ended, the next one: {push}")


def last_competition(root: Path) -> str:
    """Return the competition of the last upload. Raise `InputError` if there was none."""
    from facefold.kaggle.submit import load_submission_log

    if log := load_submission_log(root):
        return log[-1].competition
    raise InputError(
        "which competition? Name it with --competition SLUG: what follows /competitions/ in the address of its page"
    )


if __name__ == "__main__":
    run_main(main)
