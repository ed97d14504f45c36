"""The whole job: audit, split, train, blend, report, in order; what is already there is not done again.

    ./run_all.sh --data face-gender.zip          the Kaggle zip as downloaded, or a folder
    ./run_all.sh                                 goes on with what is in competition/; with no data at all, a synthetic
                                                 competition and the demo profile show the whole job in minutes
    ./run_all.sh --recipes lite0,lite1 --folds 5 --seed 0
    ./run_all.sh --target age                    a regression on a column of meta.csv, apart from all of the label's
    ./run_all.sh --budget 90m                    what fits into 90 minutes from now on: the recipes in their order, each that fits
                                                 beside those before; fewer folds or epochs where not even one does

Ends with the file to upload, its honest score and the time of each step. Kill it at any time: the same command goes on.
Profiles: demo (minutes, for a look), cpu (an evening's laptop), gpu (four backbones from timm's hub), articles (docs/articles.md),
regression (of --target).
"""

import argparse
import sys
import time
from pathlib import Path

from facefold.cli import (
    add_engine_options,
    add_target_option,
    build_parser,
    format_duration,
    hold_root,
    run_main,
    run_step,
)
from facefold.data.competition import is_empty
from facefold.data.corrections import NO_CORRECTIONS, load_corrections
from facefold.data.folds import load_folds
from facefold.data.synthetic import is_synthetic
from facefold.ensemble import blend as blend_module
from facefold.ensemble import regression
from facefold.models.pretrained import require_weights
from facefold.models.recipe import PROFILES, load_recipe, load_recipes, recipe_names
from facefold.runs import CORRECTED_SUFFIX, is_run_complete, run_names
from facefold.training.budget import TIMED, kept, line, parse_budget, within, write
from facefold.training.curves import require_tensorboard
from facefold.training.loss import require_loss_settings
from facefold.training.plan import lines, survey, whole
from facefold.training.ray_workers import check_engine_options
from facefold.training.workers import device_slots
from facefold.utils.console import silence


def given_only(options: dict[str, object]) -> list[object]:
    """The options that have a value, as a step's arguments."""
    return [part for pair in options.items() if pair[1] is not None for part in pair]


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, metavar="ZIP|DIR", help="the competition: Kaggle's zip as downloaded, or a folder"
    )
    parser.add_argument(
        "--profile",
        choices=sorted(PROFILES),
        help="default: gpu where CUDA is there, else cpu; demo if the data are synthetic",
    )
    parser.add_argument(
        "--recipes", metavar="A,B", help=f"instead of the profile's: any of {', '.join(recipe_names())}"
    )
    parser.add_argument("--folds", type=int, metavar="K", help="default: as many as there are, else 5")
    parser.add_argument(
        "--seed", type=int, help="of the folds and of training (default: that of the folds there are, else 0)"
    )
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: CUDA where it is there"
    )
    parser.add_argument(
        "--weights-dir", type=Path, metavar="DIR", help="pretrained weights as local files, see train.py"
    )
    parser.add_argument("--corrections", type=Path, metavar="FILE", help="training rows to drop or flip, see clean.py")
    parser.add_argument("--budget", metavar="90m|1.5h", help="the time there is; see above")
    parser.add_argument("--tensorboard", action="store_true", help="learning curves as event files, see train.py")
    parser.add_argument("--quiet", action="store_true", help="errors and the last line alone")
    add_target_option(parser)
    add_engine_options(parser)
    args = parser.parse_args()
    check_engine_options(args.engine, {"--budget": args.budget})
    args.root.mkdir(parents=True, exist_ok=True)
    with hold_root(args.root, alone=True):
        do(args)


def do(args: argparse.Namespace) -> None:
    """All steps in order."""
    out = silence() if args.quiet else sys.stdout
    events = ["--tensorboard"] if args.tensorboard and require_tensorboard() else []
    started, limit = time.time(), parse_budget(args.budget) if args.budget else None
    root, target = args.root.resolve(), args.target
    device, elsewhere = (
        (args.device, "") if args.engine == "local" else ("auto", " of this machine; the folds go to the Ray cluster")
    )
    place, common = target.directory(root), ("--root", root, "--target", target.name)
    named = load_recipes(args.recipes) if args.recipes else None
    for recipe in named or []:
        require_weights(recipe, args.weights_dir)
    draw = args.data is None and is_empty(root / "competition")
    print(
        f"audit, split, train, blend and report in {root}; the plan with its times follows audit and split, which take seconds"
    )

    seconds = {
        "audit": run_step(
            "audit", "--root", root, *(["--synthetic"] if draw else ["--data", args.data] if args.data else [])
        )
    }
    toy = is_synthetic(root)
    profile = args.profile or (
        "regression"
        if target.regression
        else "demo"
        if toy
        else "gpu"
        if args.device == "cuda" or device_slots(device, 1)[0].type == "cuda"
        else "cpu"
    )
    chosen = named or [load_recipe(name) for name in PROFILES[profile]]
    for recipe in chosen:
        require_loss_settings(recipe, target)
        require_weights(recipe, args.weights_dir)
    seconds["split"] = run_step("split", *common, *given_only({"--folds": args.folds, "--seed": args.seed}))
    folds = load_folds(root, target)
    mended = load_corrections(args.corrections, folds) if args.corrections else NO_CORRECTIONS
    suffix = CORRECTED_SUFFIX if mended.actions else ""
    scene = survey(root, place, chosen, folds.k, device, suffix, TIMED if limit else 0.0)
    made = whole(scene, chosen)
    options = {
        "--weights-dir": args.weights_dir,
        "--corrections": args.corrections,
        "--engine": args.engine,
        "--address": args.address,
    }
    if limit:
        held = "as --folds says" if args.folds else "as there are runs on them" if run_names(place) else ""
        spent = time.time() - started
        made = within(scene, chosen, limit - spent, held)
        options["--budget"] = write(place, started + limit, scene, made, suffix)
    print("\n" + "\n".join(lines(made, scene, device_slots(device, None)[0].type + elsewhere, suffix)))
    if limit:
        print(line(limit, spent), flush=True)
    if made.folds != folds.k:
        seconds["split"] += run_step("split", *common, "--folds", made.folds)
    chosen = [work.recipe for work in made.works]
    seconds["train"] = run_step(
        "train",
        *common,
        "--recipe",
        ",".join(recipe.name for recipe in chosen),
        "--seed",
        folds.seed,
        "--device",
        args.device,
        *events,
        *given_only(options),
    )
    ready = [name for recipe in chosen if is_run_complete(place, name := recipe.name + suffix, made.folds)]
    seconds["blend"] = run_step("blend", *common, "--recipes", ",".join(ready))
    seconds["report"] = run_step("report", *common)

    print("\n" + ", ".join(f"{name} {format_duration(taken)}" for name, taken in seconds.items()))
    if limit:
        late = [name for work in [*made.works, *made.out] if (name := work.recipe.name + suffix) not in ready]
        print(kept(limit, time.time() - started, late))
    print(f"read {place / 'report.html'}")
    if toy:
        print(
            "These images are synthetic: the score says that the job works here, nothing else. With real data: "
            "./run_all.sh --data <the competition's zip as downloaded>"
        )
    combine = regression if target.regression else blend_module
    print(
        f"upload {place / 'submissions' / 'submission.csv'}: {combine.format_headline(combine.load_blend(root, target).facts)}",
        file=out,
    )


if __name__ == "__main__":
    run_main(main)
