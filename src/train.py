"""Train recipes on folds: leaves weights, OOF and test probabilities, features and learning curves under runs/.

    python src/train.py --recipe lite0,cnn5 --fold all
    python src/train.py --recipe lite0_age --target age

On the CPU as many folds run side by side as there are cores, each in one thread; with CUDA one fold a visible GPU. Finished
folds are skipped. Kill it at any time: the same command goes on at the epoch where it stopped and ends with the same bytes.
A run made by another version of the recipe, other folds, images, seed or corrections is refused; --force trains over it.
A recipe with another number of epochs is one of its own: lite0@3 is lite0 with 3 epochs, trained into runs/lite0@3/.
--corrections FILE (see clean.py) drops or flips training rows, never held-out ones, and trains into runs/<recipe>+corrected/.
--target COLUMN predicts a number that meta.csv has for every train row (mean absolute error as the loss, on standardised values)
and trains into targets/<COLUMN>/runs/, on the folds of `split.py --target COLUMN`.
--engine ray makes each fold a task of a Ray cluster, with the same bytes; every machine must see the root: docs/cluster.md.
"""

import argparse
from pathlib import Path

from facefold.cli import add_engine_options, add_target_option, build_parser, hold_root, run_main
from facefold.data.audit import check_images, load_images_hash
from facefold.data.cache import build_caches
from facefold.data.competition import load_competition
from facefold.data.corrections import NO_CORRECTIONS, load_corrections
from facefold.data.folds import load_folds
from facefold.ensemble.metrics import format_oof_score
from facefold.models.pretrained import require_weights
from facefold.models.recipe import load_recipe, load_recipes, recipe_names
from facefold.runs import Identity, is_run_complete, join_folds, joined_oof_path, load_history
from facefold.training.budget import Keeper
from facefold.training.curves import Curves, curves_dir, require_tensorboard
from facefold.training.jobs import FoldJob, needs_training, order_jobs, remove_feature_caches, run_job
from facefold.training.loss import require_loss_settings
from facefold.training.ray_workers import RayWorkers, check_engine_options
from facefold.training.space import require
from facefold.training.workers import LocalWorkers
from facefold.utils.console import be_quiet, print_progress
from facefold.utils.errors import InputError


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument(
        "--recipe", "--recipes", required=True, metavar="NAME[,NAME]", help=f"any of {', '.join(recipe_names())}"
    )
    parser.add_argument("--fold", default="all", metavar="K|all", help="one fold, several as 0,2, or all (default)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random in training (default: 0)")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: CUDA where it is there"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="folds side by side (default: a core each, or a GPU each)"
    )
    parser.add_argument(
        "--weights-dir",
        type=Path,
        metavar="DIR",
        help="take pretrained weights from DIR/<timm name>.safetensors or .pth",
    )
    parser.add_argument("--force", action="store_true", help="train over runs that are stale or damaged")
    parser.add_argument(
        "--corrections", type=Path, metavar="FILE", help="id,action: training rows to drop or flip, see clean.py"
    )
    add_target_option(parser)
    parser.add_argument(
        "--budget", type=Path, metavar="FILE", help="begin no fold of a run that would end too late, see run_all.py"
    )
    parser.add_argument("--tensorboard", action="store_true", help="learning curves as event files, into tensorboard/")
    add_engine_options(parser)
    parser.add_argument("--quiet", action="store_true", help="the results alone: no bars, no line an epoch")
    args = parser.parse_args()
    check_engine_options(args.engine, {"--workers": args.workers, "--budget": args.budget})
    if args.quiet:
        be_quiet()
    if args.tensorboard:
        require_tensorboard()
    with hold_root(args.root):
        train(args)


def train(args: argparse.Namespace) -> None:
    """Train the folds that are missing, and join those of each recipe."""
    competition, split, place = (
        load_competition(args.root),
        load_folds(args.root, args.target),
        args.target.directory(args.root),
    )
    chosen = load_recipes(args.recipe)
    for recipe in chosen:
        require_loss_settings(recipe, args.target)
        require_weights(recipe, args.weights_dir)
    every = [str(fold) for fold in range(split.k)]
    wanted = every if args.fold == "all" else list(dict.fromkeys(part.strip() for part in args.fold.split(",")))
    strange = [fold for fold in wanted if fold not in every]
    if strange:
        raise InputError(f"--fold {','.join(strange)}: the folds are 0 to {split.k - 1}, or all")
    mended = load_corrections(args.corrections, split) if args.corrections else NO_CORRECTIONS
    check_images(competition)  # an image that changed since the audit must not meet a cache of the old one
    images_hash = load_images_hash(args.root)
    identities = [
        Identity(recipe.name, recipe.hash, split.hash, images_hash, args.seed, mended.hash, args.target.name)
        for recipe in chosen
    ]
    machines = (
        RayWorkers(args.address, args.device) if args.engine == "ray" else LocalWorkers(args.device, args.workers)
    )
    missing = [
        FoldJob(
            args.root.resolve(),
            identity,
            mended,
            int(fold),
            args.weights_dir and args.weights_dir.resolve(),
            machines.loader_workers,
            args.tensorboard,
            waits=args.engine == "ray",
        )
        for identity in identities
        for fold in wanted
        if needs_training(args.root, identity, int(fold), args.force)
    ]
    if args.tensorboard:
        draw_finished(place, identities, wanted, missing)
    if missing:
        print_progress(
            require(
                place, competition, [load_recipe(job.identity.recipe) for job in missing], split.k, len(machines.places)
            )
        )
    for identity in dict.fromkeys(job.identity for job in missing):
        build_caches(competition, load_recipe(identity.recipe).size)
        joined_oof_path(place, identity.name).unlink(missing_ok=True)  # it will be of other folds than these
    ordered, after = order_jobs(missing, len(machines.places))

    def some_whole() -> bool:
        return any(is_run_complete(place, identity.name, split.k) for identity in identities)

    keeper = Keeper(args.budget, ordered, len(machines.places), some_whole) if args.budget else None
    machines.run(ordered, run_job, after, keeper)
    for identity in identities:
        if keeper and identity.name in keeper.left_out:
            late = keeper.late(identity.name)
            print(f"{identity.name}: left out, it would have ended {late} too late; what is trained of it is kept")
            continue
        remove_feature_caches(args.root, identity)
        try:
            member = join_folds(place, identity, split, competition.test["id"].tolist())
        except InputError as reason:
            if wanted == every:
                raise
            print(f"{identity.name}: not joined yet, for a fold not asked for: {reason}")
            continue
        score = format_oof_score(member.oof, split, mended)
        print(f"{identity.name}: OOF {score}, {args.target.folder}runs/{identity.name}/oof.csv")


def draw_finished(place: Path, identities: list[Identity], wanted: list[str], missing: list[FoldJob]) -> None:
    """Event files of the folds that were trained before."""
    asked = {(identity.name, int(fold)) for identity in identities for fold in wanted}
    for name, fold in asked - {(job.identity.name, job.fold) for job in missing}:
        Curves(curves_dir(place, name, fold), load_history(place, name, fold).to_dict("records")).close()


if __name__ == "__main__":
    run_main(main)
