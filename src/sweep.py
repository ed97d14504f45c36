"""Search a recipe's settings on one fold, and score what is found on the others.

    python src/sweep.py --recipe lite0 --over lr=3e-4,1e-3,3e-3 --over size=96,128 --budget 2h

Tries the recipe itself, then every combination of the values (of more than --trials so many, drawn by --seed), each
trained on all folds but --fold and judged by its loss there. A trial whose loss is above the median of the earlier ones
at the same epoch is stopped; one whose loss is not finite has diverged and is never the best. Writes
sweep/<recipe>/sweep.csv, which report.py shows, and prints the commands that train what was found under its name,
lite0~lr=0.0003~size=96, which any step takes.

The best of many trials is flattered by the rows that chose it. With --score the best and the recipe itself are trained
on all folds, as train.py does, and compared on the rows of the others. Kill it at any time: the same command continues,
and ends with the same table. --budget starts no further trials that would end too late; with more of it, the same
command goes on.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from facefold.cli import build_parser, hold_root, root_option, run_main, run_step
from facefold.options import add_device_option, add_seed_option, add_weights_dir_option, recipe_list
from facefold.utils.console import format_duration, parse_budget
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory
from facefold.utils.processes import start_server

if TYPE_CHECKING:
    from facefold.training.sweep import SweepJob


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--recipe", required=True, metavar="NAME", help=f"any of {recipe_list()}, or a variant of one")
    parser.add_argument(
        "--over", action="append", required=True, metavar="KEY=V,V[,..]", help="a setting and the values to try"
    )
    parser.add_argument("--fold", type=int, default=0, metavar="K", help="the fold that judges (default: 0)")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="at most (default: 20)")
    parser.add_argument("--budget", metavar="90m|1.5h", help="start no trial that would end later than this")
    parser.add_argument("--score", action="store_true", help="compare the best with the recipe on the other folds")
    add_weights_dir_option(parser)
    add_seed_option(parser, "of training and of the trials that are drawn (default: 0)")
    add_device_option(parser)
    parser.add_argument(
        "--workers", type=int, metavar="N", help="trials side by side (default: one per core, or per GPU)"
    )
    args = parser.parse_args()
    if args.trials < 2:
        raise InputError(f"--trials {args.trials}: at least two, the recipe itself and another one")
    with hold_root(args.root):
        sweep(args)


def sweep(args: argparse.Namespace) -> None:
    """Run the trials, write and print their table, and score the best of them if that is asked for."""
    started, budget = time.monotonic(), parse_budget(args.budget) if args.budget else None
    jobs, base = plan_trials(args), args.recipe

    from facefold.training.sweep import remove_features, sweep_dir, sweep_table, write_table

    with lock_directory(sweep_dir(args.root, base)):  # another sweep of the recipe would remove the activations of this
        done = run_trials(args, jobs, started, budget)
        table = sweep_table(done)
        path = write_table(args.root, base, table)
        remove_features(args.root, base)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    left = len(jobs) - len(done)
    print(
        f"wrote {path}"
        + (f"; {left} trials are left: the same command with a larger --budget continues" if left else "")
    )
    best, diverged = table["trial"][0], set(table["trial"][table["ended"] == "diverged"])
    if best in diverged:
        print("every trial diverged, its loss was not finite: search at smaller values of lr")
    elif best == base:
        print(f"no trial has a smaller loss than {base} itself")
    elif args.score and base not in diverged:
        score_best(args, best)
    else:
        if base in diverged:
            print(f"{base} itself diverged, so there is nothing to compare the best with; train it:")
        else:
            print("the best, to be scored on other rows than those that chose it: add --score, or train it:")
        print(f"  python src/train.py{root_option(args.root)} {' '.join(train_options(args, best))}")


def plan_trials(args: argparse.Namespace) -> list[SweepJob]:
    """Return the trials in order, and build the caches of their images."""
    from dataclasses import replace

    from facefold.data.audit import check_images
    from facefold.data.cache import build_caches
    from facefold.data.competition import load_competition
    from facefold.data.folds import load_folds
    from facefold.data.image_hashes import load_images_hash
    from facefold.models.requirements import require_buildable, require_trainable
    from facefold.models.run_name import parse_run_name
    from facefold.runs import current_identity
    from facefold.task import load_task
    from facefold.training.sweep import SweepJob, distinct_networks, parse_grid, sweep_recipes

    task = load_task(args.root)
    recipes = sweep_recipes(args.recipe, parse_grid(args.over), args.trials, args.seed)
    if len(recipes) == 1:
        raise InputError(f"--over has only what {args.recipe} has already")
    competition, folds = load_competition(args.root), load_folds(args.root, task)
    if not 0 <= args.fold < folds.k:
        raise InputError(f"--fold {args.fold}: the folds are 0 to {folds.k - 1}")
    require_trainable(recipes, task, args.weights_dir)
    require_buildable(distinct_networks(recipes))
    check_images(competition)
    images_hash = load_images_hash(args.root)
    for preprocessing in dict.fromkeys(recipe.preprocessing for recipe in recipes):
        build_caches(competition, preprocessing)
    root, weights_dir = args.root.resolve(), args.weights_dir and args.weights_dir.resolve()
    jobs = []
    for recipe in recipes:
        identity = replace(
            current_identity(recipe.name, folds, images_hash), seed=parse_run_name(recipe.name).seed or args.seed
        )
        jobs.append(SweepJob(root, args.recipe, recipe, identity, args.fold, weights_dir))
    return jobs


def run_trials(args: argparse.Namespace, jobs: list[SweepJob], started: float, budget: float | None) -> list[SweepJob]:
    """Run the trials generation by generation, as far as the budget goes; return those that have ended."""
    start_server()
    from dataclasses import replace

    from facefold.training.sweep import GENERATION, expected_seconds, loss_bounds
    from facefold.training.workers import LocalWorkers

    workers, done = LocalWorkers(args.device, args.workers), []
    for first in range(0, len(jobs), GENERATION):
        bounds = loss_bounds(done)
        changes = {"bounds": bounds, "loader_workers": workers.loader_workers}
        generation = [replace(job, **changes) for job in jobs[first : first + GENERATION]]
        unfinished = [job for job in generation if not job.finished]
        late = budget is not None and time.monotonic() - started + expected_seconds(done, len(workers.devices)) > budget
        if done and unfinished and late:
            break
        workers.run(unfinished, {})
        done += generation
        print(f"{len(done)} of {len(jobs)} trials, {format_duration(time.monotonic() - started)}", flush=True)
    return done


def train_options(args: argparse.Namespace, names: str) -> list[str]:
    """Return the options of train.py that train these recipes as the trials were."""
    weights = ["--weights-dir", str(args.weights_dir)] if args.weights_dir else []
    seed = ["--seed", str(args.seed)] if args.seed else []
    return ["--recipe", names, *seed, *weights]


def score_best(args: argparse.Namespace, best: str) -> None:
    """Train the recipe and the best trial on all folds, and compare them on the folds that did not choose."""
    from facefold.data.competition import load_competition
    from facefold.data.folds import load_folds
    from facefold.data.image_hashes import load_images_hash
    from facefold.ensemble.metrics import target_metric
    from facefold.runs import current_identity, load_member

    root, competition = args.root.resolve(), load_competition(args.root)
    folds, test_ids = load_folds(root, competition.task), competition.test["id"].tolist()
    workers = ["--workers", args.workers] if args.workers else []
    run_step("train", "--root", root, "--device", args.device, *workers, *train_options(args, f"{args.recipe},{best}"))
    images_hash, others = load_images_hash(root), (folds.table["fold"] != args.fold).to_numpy()
    metric, labels, scores = target_metric(competition.task), folds.table["label"].to_numpy()[others], []
    for name in (best, args.recipe):
        member = load_member(root, current_identity(name, folds, images_hash), name, folds, test_ids)
        scores.append(member.oof.to_numpy()[others])
        score = metric.format_score(metric.score(scores[-1], labels))
        print(f"{name}: {score} on {len(labels):,} rows of the other folds")
    gain = metric.compare(*scores, labels)
    low, high = metric.format_gain(gain.low), metric.format_gain(gain.high)
    print(f"gain {metric.format_gain(gain.gain)}, between {low} and {high} ({metric.test}, p = {gain.p:.2g})")


if __name__ == "__main__":
    run_main(main)
