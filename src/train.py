"""Train recipes on folds: leaves weights, OOF and test probabilities, features and learning curves under runs/.

    python src/train.py --recipe lite0,cnn5 --fold all
    python src/train.py --recipe lite0_age --target age
    python src/train.py --features NAME --classifier svm      on features/NAME.npy, see embed.py

On the CPU as many folds run side by side as there are cores, each in one thread; with CUDA one fold per visible GPU.
Finished folds are skipped. Kill it at any time: the same command continues at the epoch where it stopped and ends with
the same bytes. A run of another version of the recipe, other folds, images, seed, corrections, pseudo-labels or
extra rows is refused; --force trains over it.
A variant of a recipe is one of its own, with a run of its own, and is called so wherever recipes are named: lite0@3 is
lite0 with 3 epochs, lite0#1 with seed 1, lite0~lr=0.0003~size=160 with these settings, lite0~size=160@3#1 with all.
-o size=160,lr=3e-4 takes the variant with these settings of each recipe in --recipe.
--corrections FILE (see clean.py) drops or relabels training rows, never held-out ones, and trains into
runs/<recipe>+corrected/.
--pseudo A,B trains on the test images as well, into runs/<recipe>+pseudo/ (pseudo-labels, Lee 2013). A and B are
finished runs. In fold k the soft label of a test image is the mean of what their fold-k models predict for it, which
have not seen the rows of fold k, so the out-of-fold score stays honest: docs/options.md.
--distill SHARE gives each train row such a soft label too, next to its own, by classifiers that are fitted without its
fold and without fold k.
--extra DIR trains on the labelled images in DIR as well, into runs/<recipe>+extra/: train.csv with the images next to
it or in train/, or a folder per class. They are never held out. Near-duplicates of test images are dropped, those of
held-out rows left out of that fold: docs/options.md.
--target COLUMN predicts a number that meta.csv has for every train row (mean absolute error as the loss, on
standardised values) and trains into targets/<COLUMN>/runs/, on the folds of `split.py --target COLUMN`.
--engine ray makes each fold a task of a Ray cluster, with the same bytes; every machine must see the root:
docs/cluster.md.
--log wandb:PROJECT shows the curve of each fold, epoch by epoch, in Weights & Biases, mlflow:EXPERIMENT in MLflow,
tensorboard in event files: docs/options.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from facefold.cli import build_parser, hold_root, path_argument, run_main
from facefold.data.pseudo_labels import DEFAULT_WEIGHT, require_share, require_weight
from facefold.options import (
    add_device_option,
    add_engine_options,
    add_log_option,
    add_seed_option,
    add_settings_option,
    add_target_option,
    add_weights_dir_option,
    check_engine_options,
    recipe_list,
)
from facefold.utils.console import format_duration, print_progress, quiet
from facefold.utils.errors import InputError
from facefold.utils.processes import start_server

if TYPE_CHECKING:
    from facefold.data.competition import Competition
    from facefold.data.corrections import Corrections
    from facefold.data.extra_rows import ExtraRows
    from facefold.data.folds import Folds
    from facefold.data.pseudo_labels import PseudoLabels
    from facefold.models.recipe import Recipe
    from facefold.runs import Identity, Member
    from facefold.training.ray_workers import RayWorkers
    from facefold.training.tracking import Tracking
    from facefold.training.workers import LocalWorkers


CLASSIFIER_NAMES = ("logistic", "svm", "network", "boosting")  # without the import that --help need not wait for


class Trained(NamedTuple):
    """What there is of the runs that were asked for.

    target_root: the folder that holds runs/. numbers: the folds that were asked for. members: by the run; None if folds
    of it are missing.
    """

    target_root: Path
    folds: Folds
    numbers: list[int]
    members: dict[str, Member | None]


class Additions(NamedTuple):
    """What a run learns from that is neither its recipe nor the train rows as they are."""

    corrections: Corrections
    pseudo: PseudoLabels
    extra: ExtraRows


def main() -> Trained:
    parser = build_parser(__doc__)
    parser.add_argument("--recipe", "--recipes", metavar="NAME[,NAME]", help=f"any of {recipe_list()}")
    parser.add_argument("--fold", default="all", metavar="K|all", help="one fold, several as 0,2, or all (default)")
    parser.add_argument("--features", metavar="NAME", help="learn from features/NAME.npy, see embed.py")
    parser.add_argument("--classifier", choices=CLASSIFIER_NAMES, help="what learns from --features")
    add_settings_option(parser)
    add_seed_option(parser, "of everything random in training, for recipes named without # (default: 0)")
    add_device_option(parser)
    parser.add_argument(
        "--workers", type=int, metavar="N", help="folds side by side (default: one per core, or per GPU)"
    )
    add_weights_dir_option(parser)
    parser.add_argument("--force", action="store_true", help="train over runs that are stale or damaged")
    parser.add_argument(
        "--corrections",
        type=path_argument,
        metavar="FILE",
        help="id,action: training rows to drop or relabel, see clean.py",
    )
    parser.add_argument("--pseudo", metavar="A,B", help="finished runs whose predictions label the test images")
    parser.add_argument(
        "--pseudo-weight",
        type=float,
        metavar="W",
        help=f"of a test image in the loss, where a train row has 1 (default: {DEFAULT_WEIGHT:g})",
    )
    parser.add_argument(
        "--distill",
        type=float,
        metavar="SHARE",
        help="of a soft label, by the classifiers that --pseudo names, in what a train row is trained towards: 0.5",
    )
    parser.add_argument(
        "--extra", type=path_argument, metavar="DIR", help="train.csv or a folder per class: images to train on as well"
    )
    add_target_option(parser)
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument(
        "--budget",
        type=path_argument,
        metavar="FILE",
        help="start no fold of a run that would end too late, see run_all.py",
    )
    limit.add_argument(
        "--session",
        type=path_argument,
        metavar="FILE",
        help="stop at the end of an epoch before the session is over, see run_all.py",
    )
    add_log_option(parser)
    add_engine_options(parser)
    parser.add_argument("--quiet", action="store_true", help="print the results alone: no bars, no line per epoch")
    args = parser.parse_args()
    if bool(args.recipe) == bool(args.features) or bool(args.features) != bool(args.classifier):
        raise InputError("name recipes with --recipe, or --features together with --classifier")
    if args.features:
        args.recipe = f"{args.features}.{args.classifier}"
    check_engine_options(args, {"--workers": args.workers, "--budget": args.budget, "--session": args.session})
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers {args.workers}: at least one")
    check_options(args)
    from facefold.training.tracking import load_tracking

    tracking = load_tracking(args.log, args.root, args.target)
    with quiet(args.quiet), hold_root(args.root):
        return train(args, tracking)


def check_options(args: argparse.Namespace) -> None:
    """Raise `InputError` for a weight without runs, one that is not positive, and options that do not go together."""
    if args.pseudo is None and args.pseudo_weight is not None:
        raise InputError("--pseudo-weight belongs to --pseudo A,B")
    for option in [name for name in ("budget", "session") if getattr(args, name)]:
        if args.pseudo is not None:
            raise InputError(
                f"--{option} is for the runs that run_all.py plans, which have no pseudo-labels; leave it out"
            )
        if args.extra is not None:
            raise InputError(
                f"--{option} is for the runs that run_all.py plans, which have no extra rows; leave it out"
            )
    if args.pseudo_weight is None:
        args.pseudo_weight = DEFAULT_WEIGHT
    require_weight(args.pseudo_weight)
    if args.distill is None:
        args.distill = 0.0
    elif args.pseudo is None:
        raise InputError("--distill belongs to --pseudo A,B")
    else:
        require_share(args.distill)


def train(args: argparse.Namespace, tracking: Tracking) -> Trained:
    """Train the folds that are missing, join those of each recipe, and return what there is of them."""
    from facefold.data.audit import check_images
    from facefold.data.competition import load_competition
    from facefold.data.corrections import NO_CORRECTIONS, load_corrections
    from facefold.data.embeddings import embeddings_source, load_embeddings
    from facefold.data.folds import load_folds
    from facefold.data.image_hashes import load_images_hash
    from facefold.models.recipe import load_recipes
    from facefold.models.run_name import run_suffix
    from facefold.runs import find_other_sources, find_unfinished_folds, is_fold_sealed, require_distinct

    competition, folds = load_competition(args.root), load_folds(args.root, args.target)
    recipes, numbers = load_recipes(args.recipe, args.settings), parse_fold_numbers(args.fold, folds.k)
    corrections = load_corrections(args.corrections, folds) if args.corrections else NO_CORRECTIONS
    check_images(competition)  # an image that changed since the audit must not meet a cache of the old one
    images_hash = load_images_hash(args.root)
    sources = {
        recipe.name: embeddings_source(recipe.embeddings, load_embeddings(competition, recipe.embeddings))
        for recipe in recipes
        if recipe.embeddings
    }
    extra = load_extra(args, recipes, competition, folds)
    own = {recipe.name + run_suffix(bool(corrections.actions), True, bool(extra.rows)): recipe for recipe in recipes}
    pseudo = load_makers(args, own, folds, images_hash, competition.test["id"].tolist())
    additions = Additions(corrections, pseudo, extra)
    identities = identify(args, recipes, folds, images_hash, additions)
    require_distinct({identity.name: identity.seed for identity in identities})
    target_root = args.target.directory(args.root)
    if args.force:
        from facefold.models.requirements import require_buildable, require_trainable

        require_trainable(recipes, args.target, args.weights_dir)  # before a fold is removed
        require_buildable(recipes)
    unfinished = {
        identity: find_unfinished_folds(target_root, identity, numbers, args.force) for identity in identities
    }
    for identity, missing in unfinished.items():
        if source := sources.get(identity.recipe):
            finished = [fold for fold in numbers if fold not in missing]
            missing += find_other_sources(target_root, identity, finished, source, args.force)
    for recipe, identity in zip(recipes, identities, strict=True):
        tracking = log_finished(tracking, target_root, recipe, identity, set(numbers) - set(unfinished[identity]))
    left_out = {}
    if any(unfinished.values()):
        left_out = train_missing(args, recipes, unfinished, competition, folds, additions, tracking)
    members = dict.fromkeys(identity.name for identity in identities)
    for recipe, identity in zip(recipes, identities, strict=True):
        left = [fold for fold in numbers if not is_fold_sealed(target_root, identity.name, fold)]
        if identity.name in left_out:
            late = format_duration(left_out[identity.name])
            print(f"{identity.name}: left out, it would have ended {late} too late; what is trained of it is kept")
        elif args.session and left:
            print(f"{identity.name}: {len(left)} of {len(numbers)} folds are left, as the session is over")
        elif member := join_and_score(args, identity, folds, corrections, competition.test["id"].tolist()):
            members[identity.name] = member
            log_score(tracking, recipe, identity, member, folds)
    return Trained(target_root, folds, numbers, members)


def identify(
    args: argparse.Namespace,
    recipes: list[Recipe],
    folds: Folds,
    images_hash: str,
    additions: Additions,
) -> list[Identity]:
    """Return the identity of each recipe's run, with the seed of its name, or of --seed where that has none."""
    from facefold.models.run_name import parse_run_name
    from facefold.runs import Identity

    return [
        Identity(
            recipe.name,
            recipe.hash,
            folds.hash,
            images_hash,
            parse_run_name(recipe.name).seed or args.seed,
            additions.corrections.hash,
            args.target.name,
            args.target.hash,
            additions.pseudo.hash,
            additions.extra.hash,
        )
        for recipe in recipes
    ]


def load_makers(
    args: argparse.Namespace, own: dict[str, Recipe], folds: Folds, images_hash: str, test_ids: list[str]
) -> PseudoLabels:
    """Return the pseudo-labels by the runs that --pseudo names, none without it.

    own: the recipes that learn from them, by the run.
    """
    from facefold.data.pseudo_labels import NO_PSEUDO_LABELS

    if args.pseudo is None:
        return NO_PSEUDO_LABELS
    from facefold.runs import parse_run_names
    from facefold.training.soft_labels import load_pseudo_labels
    from facefold.training.teachers import require_teachers

    names, root = parse_run_names(args.pseudo), args.target.directory(args.root)
    if circular := [name for name in names if name in own]:
        raise InputError(f"--pseudo {', '.join(circular)}: a run cannot label the test images for itself")
    if fitted := [recipe.name for recipe in own.values() if recipe.classifier]:
        raise InputError(f"{', '.join(fitted)}: a classifier of scikit-learn takes no soft labels; leave --pseudo out")
    if args.distill:
        require_teachers(names, folds)
    return load_pseudo_labels(names, args.pseudo_weight, args.distill, folds, images_hash, root, test_ids)


def load_extra(args: argparse.Namespace, recipes: list[Recipe], competition: Competition, folds: Folds) -> ExtraRows:
    """Return the rows that --extra names, none without it, and print what is left out of them."""
    from facefold.data.extra_rows import NO_EXTRA_ROWS, load_extra_rows

    if args.extra is None:
        return NO_EXTRA_ROWS
    if embedded := [recipe.name for recipe in recipes if recipe.embeddings]:
        raise InputError(f"{', '.join(embedded)}: there are no features of extra rows; leave --extra out")
    extra = load_extra_rows(args.extra.resolve(), competition, folds)
    print_progress(f"--extra {args.extra}: {extra.describe(folds)}")
    return extra


def parse_fold_numbers(text: str, k: int) -> list[int]:
    """Return the folds that --fold names, each once."""
    known = [str(fold) for fold in range(k)]
    names = known if text == "all" else list(dict.fromkeys(part.strip() for part in text.split(",")))
    if any(name not in known for name in names):
        unknown = ",".join(name for name in names if name not in known)
        raise InputError(f"--fold {unknown}: the folds are 0 to {k - 1}, or all")
    return [int(name) for name in names]


def train_missing(
    args: argparse.Namespace,
    recipes: list[Recipe],
    unfinished: dict[Identity, list[int]],
    competition: Competition,
    folds: Folds,
    additions: Additions,
    tracking: Tracking,
) -> dict[str, float]:
    """Train the unfinished folds; return the runs that a budget left out, and how many seconds too long each takes."""
    if args.engine == "local":
        start_server()  # it imports while this process does
    from facefold.data.cache import build_caches_ahead
    from facefold.models.requirements import check_disk_space, require_buildable, require_trainable
    from facefold.runs import is_run_complete, joined_oof_path
    from facefold.training.budget import BudgetGuard, SessionGuard, load_budget
    from facefold.training.jobs import FoldJob, order_jobs

    session = load_budget(args.session, [i.name for i in unfinished], "--session") if args.session else None
    require_trainable(recipes, args.target, args.weights_dir)
    workers = choose_workers(args)
    root, target_root = args.root.resolve(), args.target.directory(args.root)
    missing = [
        FoldJob(
            root,
            recipe,
            identity,
            additions.corrections,
            fold,
            args.weights_dir and args.weights_dir.resolve(),
            workers.loader_workers,
            tracking,
            waits=args.engine == "ray",
            pseudo=additions.pseudo,
            extra=additions.extra,
            until=session.until if session else math.inf,
        )
        for recipe, (identity, numbers) in zip(recipes, unfinished.items(), strict=True)
        for fold in numbers
    ]
    names = {job.identity.recipe for job in missing}
    to_train = [recipe for recipe in recipes if recipe.name in names]
    of_images = [recipe for recipe in to_train if not recipe.embeddings]
    require_buildable(of_images)
    require_one_source(args, recipes, unfinished, folds.k)
    print_progress(
        check_disk_space(
            target_root, competition, of_images, bool(additions.pseudo.makers), additions.extra, workers.devices[0]
        )
    )
    jobs, after = order_jobs(missing, workers.devices)

    def any_complete() -> bool:
        return any(is_run_complete(target_root, identity.name, folds.k) for identity in unfinished)

    guard = SessionGuard(session, jobs) if session else None
    if args.budget:
        guard = BudgetGuard(args.budget, jobs, len(workers.devices), any_complete)
    preprocessings = list(dict.fromkeys(recipe.preprocessing for recipe in of_images))
    on_gpu = args.engine == "local" and workers.devices[0] != "cpu"  # whose processor decodes while it trains
    with build_caches_ahead(competition, preprocessings, additions.extra, meanwhile=on_gpu):
        for name in {job.identity.name for job in missing}:
            joined_oof_path(target_root, name).unlink(missing_ok=True)  # stale: it is rebuilt from the new folds
        workers.run(jobs, after, guard)
    return guard.left_out if args.budget else {}


def require_one_source(
    args: argparse.Namespace, recipes: list[Recipe], unfinished: dict[Identity, list[int]], k: int
) -> None:
    """Raise `InputError` for folds and checkpoints that began from other weights than the unfinished folds would.

    Checkpoints that are of no use are one as well, or removed with --force.
    """
    from facefold.models.requirements import weights_source
    from facefold.runs import require_same_weights
    from facefold.training.jobs import require_usable_checkpoint

    for recipe, (identity, numbers) in zip(recipes, unfinished.items(), strict=True):
        find_source = cache(partial(weights_source, recipe, args.weights_dir))
        if numbers and not recipe.embeddings:
            require_same_weights(args.target.directory(args.root), identity, k, find_source)
        for fold in numbers:
            require_usable_checkpoint(args.root.resolve(), identity, fold, args.force, find_source)


def choose_workers(args: argparse.Namespace) -> LocalWorkers | RayWorkers:
    """Return what runs the jobs: processes of this machine, or a Ray cluster."""
    if args.engine == "ray":
        from facefold.training.ray_workers import RayWorkers

        return RayWorkers(args.address, args.device)
    from facefold.training.workers import LocalWorkers

    return LocalWorkers(args.device, args.workers)


def join_and_score(
    args: argparse.Namespace, identity: Identity, folds: Folds, corrections: Corrections, test_ids: list[str]
) -> Member | None:
    """Join the folds of a run, print its OOF score and return it; None if a fold is missing that was not asked for."""
    from facefold.ensemble.metrics import format_oof_score
    from facefold.runs import join_folds, remove_feature_caches

    remove_feature_caches(args.root, identity, folds.k)
    try:
        member = join_folds(args.target.directory(args.root), identity, folds, test_ids)
    except InputError as error:
        if len(parse_fold_numbers(args.fold, folds.k)) == folds.k:
            raise
        print(f"{identity.name}: not joined yet, because of a fold that was not asked for: {error}")
        return None
    score = format_oof_score(member.oof, folds, corrections)
    print(f"{identity.name}: OOF {score}, {args.target.folder}runs/{identity.name}/oof.csv")
    return member


def log_finished(
    tracking: Tracking, target_root: Path, recipe: Recipe, identity: Identity, finished: Iterable[int]
) -> Tracking:
    """Log a run's settings and its folds that were trained before; return the tracking without what fails."""
    if not tracking.sinks:
        return tracking
    from facefold.runs import fold_dir, load_history
    from facefold.training.jobs import tracked_run
    from facefold.training.tracking import SUMMARY, Tracker
    from facefold.utils.files import read_json

    tracking = tracking.without_failing(tracked_run(recipe, identity, SUMMARY))
    for fold in sorted(finished):
        directory = fold_dir(target_root, identity.name, fold)
        facts = {"fold": fold, "versions": read_json(directory / "run.json").get("versions", {})}
        with Tracker(tracking, tracked_run(recipe, identity, directory.name, **facts)) as tracker:
            tracker.begin(load_history(target_root, identity.name, fold).to_dict("records"))
    return tracking


def log_score(tracking: Tracking, recipe: Recipe, identity: Identity, member: Member, folds: Folds) -> None:
    """Log the OOF score of a run."""
    if not tracking.sinks:
        return
    from facefold.ensemble.metrics import oof_figures
    from facefold.training.jobs import tracked_run
    from facefold.training.tracking import SUMMARY, Tracker

    with Tracker(tracking, tracked_run(recipe, identity, SUMMARY)) as tracker:
        tracker.begin()
        tracker.add_figures(oof_figures(member.oof, folds))


if __name__ == "__main__":
    run_main(main)
