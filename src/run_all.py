"""The whole job: audit, split, train, blend, report, in order; what is already there is not done again.

    ./run_all.sh --data face-gender.zip          the Kaggle zip as downloaded, or a folder
    ./run_all.sh                                 goes on with what is in competition/; with no data at all, a drawn
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

from facefold import budget, plan, runs, step, terminal
from facefold.combine import outcome, regression
from facefold.data import corrections, drawn, folds
from facefold.models import pretrained
from facefold.models import recipe as recipes
from facefold.models.profiles import PROFILES
from facefold.step import run_step
from facefold.training import curves, engine, objective, ray_engine


def given_only(options: dict[str, object]) -> list[object]:
    """The options that have a value, as a step's arguments."""
    return [part for pair in options.items() if pair[1] is not None for part in pair]


def main() -> None:
    parser = step.parser(__doc__)
    parser.add_argument(
        "--data", type=Path, metavar="ZIP|DIR", help="the competition: Kaggle's zip as downloaded, or a folder"
    )
    parser.add_argument(
        "--profile",
        choices=sorted(PROFILES),
        help="default: gpu where CUDA is there, else cpu; demo where the data are drawn",
    )
    parser.add_argument(
        "--recipes", metavar="A,B", help=f"instead of the profile's: any of {', '.join(recipes.names())}"
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
    step.add_target(parser)
    step.add_engine(parser)
    args = parser.parse_args()
    ray_engine.check(args.engine, {"--budget": args.budget})
    args.root.mkdir(parents=True, exist_ok=True)
    with step.at_work(args.root, alone=True):
        do(args)


def do(args: argparse.Namespace) -> None:
    """All steps in order."""
    out = terminal.hush() if args.quiet else sys.stdout
    events = ["--tensorboard"] if args.tensorboard and curves.require() else []
    started, limit = time.time(), budget.seconds(args.budget) if args.budget else None
    root, target = args.root.resolve(), args.target
    device, elsewhere = (
        (args.device, "") if args.engine == "local" else ("auto", " of this machine; the folds go to the Ray cluster")
    )
    place, common = target.place(root), ("--root", root, "--target", target.name)
    named = recipes.load_all(args.recipes) if args.recipes else None
    for recipe in named or []:
        pretrained.require(recipe, args.weights_dir)
    competition_there = (root / "competition").is_dir() and any((root / "competition").iterdir())
    draw = args.data is None and not competition_there
    print(
        f"audit, split, train, blend and report in {root}; the plan with its times follows audit and split, which take seconds"
    )

    seconds = {
        "audit": run_step(
            "audit", "--root", root, *(["--drawn"] if draw else ["--data", args.data] if args.data else [])
        )
    }
    toy = drawn.is_drawn(root)
    profile = args.profile or (
        "regression"
        if target.regression
        else "demo"
        if toy
        else "gpu"
        if args.device == "cuda" or engine.slots(device, 1)[0].type == "cuda"
        else "cpu"
    )
    chosen = named or [recipes.load(name) for name in PROFILES[profile]]
    for recipe in chosen:
        objective.require(recipe, target)
        pretrained.require(recipe, args.weights_dir)
    seconds["split"] = run_step("split", *common, *given_only({"--folds": args.folds, "--seed": args.seed}))
    dealt = folds.load(root, target)
    mended = corrections.read(args.corrections, dealt) if args.corrections else corrections.NONE
    suffix = runs.CORRECTED if mended.actions else ""
    scene = plan.survey(root, place, chosen, dealt.k, device, suffix, budget.TIMED if limit else 0.0)
    made = plan.whole(scene, chosen)
    options = {
        "--weights-dir": args.weights_dir,
        "--corrections": args.corrections,
        "--engine": args.engine,
        "--address": args.address,
    }
    if limit:
        held = "as --folds says" if args.folds else "as there are runs on them" if runs.names(place) else ""
        spent = time.time() - started
        made = budget.within(scene, chosen, limit - spent, held)
        options["--budget"] = budget.write(place, started + limit, scene, made, suffix)
    print("\n" + "\n".join(plan.lines(made, scene, engine.slots(device, None)[0].type + elsewhere, suffix)))
    if limit:
        print(budget.line(limit, spent), flush=True)
    if made.folds != dealt.k:
        seconds["split"] += run_step("split", *common, "--folds", made.folds)
    chosen = [work.recipe for work in made.works]
    seconds["train"] = run_step(
        "train",
        *common,
        "--recipe",
        ",".join(recipe.name for recipe in chosen),
        "--seed",
        dealt.seed,
        "--device",
        args.device,
        *events,
        *given_only(options),
    )
    ready = [name for recipe in chosen if runs.whole(place, name := recipe.name + suffix, made.folds)]
    seconds["blend"] = run_step("blend", *common, "--recipes", ",".join(ready))
    seconds["report"] = run_step("report", *common)

    print("\n" + ", ".join(f"{name} {step.duration(taken)}" for name, taken in seconds.items()))
    if limit:
        late = [name for work in [*made.works, *made.out] if (name := work.recipe.name + suffix) not in ready]
        print(budget.kept(limit, time.time() - started, late))
    print(f"read {place / 'report.html'}")
    if toy:
        print(
            "These images are drawn by a program: the score says that the job works here, nothing else. With real data: "
            "./run_all.sh --data <the competition's zip as downloaded>"
        )
    combine = regression if target.regression else outcome
    print(
        f"upload {place / 'submissions' / 'submission.csv'}: {combine.headline(combine.load(root, target).facts)}",
        file=out,
    )


if __name__ == "__main__":
    step.run(main)
