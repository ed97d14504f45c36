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
--engine ray makes each fold a task of a Ray cluster, with the same bytes; every machine must see the root: deploy/README.md.
"""

import argparse
from pathlib import Path

from facefold import budget, jobs, runs, step, terminal
from facefold.combine import regression
from facefold.combine.scores import accuracy_in_words
from facefold.data import cache, competition, corrections, folds, integrity
from facefold.errors import InputError
from facefold.models import pretrained
from facefold.models import recipe as recipes
from facefold.training import curves, engine, objective, ray_engine, space


def main() -> None:
    parser = step.parser(__doc__)
    parser.add_argument(
        "--recipe", "--recipes", required=True, metavar="NAME[,NAME]", help=f"any of {', '.join(recipes.names())}"
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
    step.add_target(parser)
    parser.add_argument(
        "--budget", type=Path, metavar="FILE", help="begin no fold of a run that would end too late, see run_all.py"
    )
    parser.add_argument("--tensorboard", action="store_true", help="learning curves as event files, into tensorboard/")
    step.add_engine(parser)
    parser.add_argument("--quiet", action="store_true", help="the results alone: no bars, no line an epoch")
    args = parser.parse_args()
    ray_engine.check(args.engine, {"--workers": args.workers, "--budget": args.budget})
    if args.quiet:
        terminal.be_quiet()
    if args.tensorboard:
        curves.require()
    with step.at_work(args.root):
        train(args)


def train(args: argparse.Namespace) -> None:
    """Train the folds that are missing, and join those of each recipe."""
    contest, split, place = (
        competition.load(args.root),
        folds.load(args.root, args.target),
        args.target.place(args.root),
    )
    chosen = recipes.load_all(args.recipe)
    for recipe in chosen:
        objective.require(recipe, args.target)
        pretrained.require(recipe, args.weights_dir)
    every = [str(fold) for fold in range(split.k)]
    wanted = every if args.fold == "all" else list(dict.fromkeys(part.strip() for part in args.fold.split(",")))
    strange = [fold for fold in wanted if fold not in every]
    if strange:
        raise InputError(f"--fold {','.join(strange)}: the folds are 0 to {split.k - 1}, or all")
    mended = corrections.read(args.corrections, split) if args.corrections else corrections.NONE
    integrity.check(contest)  # an image that changed since the audit must not meet a cache of the old one
    images_hash = integrity.fingerprint(args.root)
    identities = [
        runs.Identity(recipe.name, recipe.hash, split.hash, images_hash, args.seed, mended.hash, args.target.name)
        for recipe in chosen
    ]
    machines = (
        ray_engine.Cluster(args.address, args.device)
        if args.engine == "ray"
        else engine.Local(args.device, args.workers)
    )
    for recipe, identity in zip(chosen, identities):
        if not runs.whole(place, identity.name, split.k):
            jobs.require_places(recipe, machines.places)
    missing = [
        jobs.FoldJob(
            args.root.resolve(),
            identity,
            mended,
            int(fold),
            args.weights_dir and args.weights_dir.resolve(),
            machines.loader_workers,
            args.tensorboard,
            recipe.ranks,
            waits=args.engine == "ray",
        )
        for recipe, identity in zip(chosen, identities)
        for fold in wanted
        if jobs.todo(args.root, identity, int(fold), args.force)
    ]
    if args.tensorboard:
        draw_finished(place, identities, wanted, missing)
    if missing:
        terminal.say(
            space.require(
                place, contest, [recipes.load(job.identity.recipe) for job in missing], split.k, len(machines.places)
            )
        )
    for identity in dict.fromkeys(job.identity for job in missing):
        cache.build(contest, recipes.load(identity.recipe).size)
        runs.joined_oof(place, identity.name).unlink(missing_ok=True)  # it will be of other folds than these
    ordered, after = jobs.plan(missing, len(machines.places))

    def some_whole() -> bool:
        return any(runs.whole(place, identity.name, split.k) for identity in identities)

    keeper = budget.Keeper(args.budget, ordered, len(machines.places), some_whole) if args.budget else None
    machines.run(ordered, jobs.work, after, keeper)
    for identity in identities:
        if keeper and identity.name in keeper.left_out:
            late = keeper.late(identity.name)
            print(f"{identity.name}: left out, it would have ended {late} too late; what is trained of it is kept")
            continue
        jobs.tidy(args.root, identity)
        try:
            member = runs.join(place, identity, split, contest.test["id"].tolist())
        except InputError as reason:
            if wanted == every:
                raise
            print(f"{identity.name}: not joined yet, for a fold not asked for: {reason}")
            continue
        score = (
            f"mean absolute error {regression.error_in_words(member.oof, split.table)}"
            if args.target.regression
            else f"accuracy {accuracy_in_words(member.oof, split.table, mended)}"
        )
        print(f"{identity.name}: OOF {score}, {args.target.folder}runs/{identity.name}/oof.csv")


def draw_finished(place: Path, identities: list[runs.Identity], wanted: list[str], missing: list[jobs.FoldJob]) -> None:
    """Event files of the folds that were trained before."""
    asked = {(identity.name, int(fold)) for identity in identities for fold in wanted}
    for name, fold in asked - {(job.identity.name, job.fold) for job in missing}:
        curves.Curves(curves.folder(place, name, fold), runs.history(place, name, fold).to_dict("records")).close()


if __name__ == "__main__":
    step.run(main)
