"""Compute features of all images, for a classifier to learn from: features/<name>.npy and .csv under --root.

    python src/embed.py --name lite2 --recipe lite2_svm
    python src/embed.py --name rex --backbone rexnet_150 --size 224
    python src/embed.py --name clip --function my_features:clip
    python src/train.py --features lite2 --classifier svm

--recipe and --backbone take a pretrained backbone as it is (of a recipe: backbone, weights, size, crop, precision,
layout and tta) and write the mean of the features of an image's views, by default it and its mirror. --function names a
function of yours, in the current folder or an installed package, that takes a list of image paths and returns an array
(images, F). Any program may write these files: float (n, F), and the column id, each train and test id once, in any
order.

Kill it at any time: the same command continues at the last block of 512 images and ends with the same bytes.
"""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from facefold.cli import build_parser, hold_root, root_option, run_main
from facefold.options import add_device_option, add_size_option, add_weights_dir_option
from facefold.utils.errors import InputError

if TYPE_CHECKING:
    from facefold.models.recipe import Recipe


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--name", required=True, help="of the files: letters, digits, _ and -")
    parser.add_argument("--recipe", metavar="NAME", help="the pretrained backbone of a recipe")
    parser.add_argument("--backbone", metavar="NAME", help="timm's name")
    add_size_option(parser, "pixels of the square images, or height x width, for --backbone (default: 224)")
    parser.add_argument("--weights", help="for --backbone: hub (default) or package:<name>")
    add_weights_dir_option(parser)
    parser.add_argument("--function", metavar="MODULE:NAME", help="a function of yours")
    add_device_option(parser)
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes for --recipe and --backbone (default: one per core, or GPU)"
    )
    args = parser.parse_args()
    from facefold.models.recipe import EMBEDDINGS_NAME

    if not re.fullmatch(EMBEDDINGS_NAME, args.name):
        raise InputError(f"--name {args.name}: letters, digits, _ and - are allowed")
    if sum(map(bool, (args.recipe, args.backbone, args.function))) != 1:
        raise InputError("name one of --recipe, --backbone and --function")
    if args.function and args.workers is not None:
        raise InputError("--workers belongs to --recipe and --backbone")
    if not args.backbone and (args.size is not None or args.weights):
        raise InputError("--size and --weights belong to --backbone")
    with hold_root(args.root):
        embed(args)


def embed(args: argparse.Namespace) -> None:
    """Write the features and say where they are."""
    from facefold.data.audit import check_images
    from facefold.data.cache import build_caches
    from facefold.data.competition import load_competition
    from facefold.data.embeddings import new_embeddings
    from facefold.models.embed import EmbedJob, embed_by_function, embed_jobs
    from facefold.models.requirements import require_all_weights
    from facefold.training.workers import run_jobs, select_devices

    competition = load_competition(args.root)
    check_images(competition)
    with new_embeddings(args.root, args.name) as path:
        if args.function:
            embed_by_function(competition, args.name, args.function)
        else:
            recipe, devices = backbone_recipe(args), select_devices(args.device, args.workers)
            require_all_weights(recipe, args.weights_dir)
            build_caches(competition, recipe.preprocessing)
            whole = EmbedJob(args.root.resolve(), args.name, recipe, args.weights_dir and args.weights_dir.resolve())
            jobs, after = embed_jobs(whole, len(devices))
            run_jobs(jobs, devices, after)
    options = f"{root_option(args.root)} --features {args.name} --classifier svm"
    print(f"{path}: now `python src/train.py{options}`")


def backbone_recipe(args: argparse.Namespace) -> Recipe:
    """Return the recipe whose backbone computes the features, under a classifier that nothing reads."""
    from facefold.models.recipe import load_recipe, parse_recipe

    if args.recipe:
        known = load_recipe(args.recipe)
        if known.embeddings:
            raise InputError(f"--recipe {args.recipe} reads features/{known.embeddings}.npy and has no backbone")
        names = ("backbone", "weights", "size", "crop", "precision", "layout", "tta")
        settings = {name: getattr(known, name) for name in names}
        if known.tta == "choose":  # there are no folds here whose rows could choose
            settings["tta"] = "flip_zoom"
    else:
        settings = {
            "backbone": args.backbone,
            "weights": args.weights or "hub",
            "size": 224 if args.size is None else args.size,
        }
    settings |= {"freeze_backbone": True, "classifier": "svm"}
    return parse_recipe(args.name, settings, args.recipe or "--backbone")


if __name__ == "__main__":
    run_main(main)
