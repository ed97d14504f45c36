"""The whole job: audit, split, train, blend, report, in order; what is already there is not done again.

    ./run_all.sh --data face-gender.zip          the Kaggle zip as downloaded, or a folder
    ./run_all.sh                                 goes on with what is in competition/; with no data at all, a drawn
                                                 competition and the demo profile show the whole job in minutes
    ./run_all.sh --recipes lite0,lite1 --folds 5 --seed 0

Ends with the file to upload, its honest score and the time of each step. Kill it at any time: the same command goes on.
Profiles: demo (minutes, for a look), cpu (an evening's laptop), gpu (four larger backbones from timm's hub).
"""

import argparse
import math
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from facefold import processes, runs, step
from facefold.combine import outcome
from facefold.data import competition, corrections, drawn, folds
from facefold.models import pretrained
from facefold.models import recipe as recipes
from facefold.models.profiles import PROFILES
from facefold.training import engine, estimate


def run_step(name: str, *options: object) -> float:
    """Run one step in a process of its own; returns its seconds. Leaves with the step's exit code when that is not 0."""
    started = time.perf_counter()
    print(f"\n== {name}", flush=True)
    process = subprocess.Popen([sys.executable, str(Path(__file__).with_name(f"{name}.py")), *map(str, options)],
                               env={**os.environ, processes.STARTER: str(os.getpid())})
    try:
        code = process.wait()
    except BaseException as stop:
        if isinstance(stop, KeyboardInterrupt):  # a terminal's Ctrl-C reached the step as well: its own line comes first
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
        process.terminate()
        process.wait()
        raise
    if code:
        raise SystemExit(code if code > 0 else 128 - code)
    return time.perf_counter() - started


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `1 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def print_plan(root: Path, chosen: list[recipes.Recipe], k: int, device: str, suffix: str) -> None:
    """What training will do and about how long it takes here, from a few timed steps of each recipe that is not finished."""
    contest = competition.load(root)
    rows, places = len(contest.train), engine.slots(device, None)
    print(f"\nplan: {rows:,} train and {len(contest.test):,} test images, {k} folds, {len(places)} at a time on {places[0].type}")
    left = {recipe: sum(not runs.sealed(root, recipe.name + suffix, fold) for fold in range(k)) for recipe in chosen}
    timed = [recipe for recipe in chosen if left[recipe]]
    expected = estimate.seconds_of(timed, places[0], rows - rows // k, rows // k, len(contest.test)) if timed else []
    each = dict(zip(timed, expected, strict=True))
    for recipe in chosen:
        print(f"  {recipe.name + suffix:18} {left[recipe]} folds to go, "
              + (f"about {duration(each[recipe])} each: {recipe.about}" if recipe in each else "nothing to do"))
    total = sum(each[recipe] * left[recipe] for recipe in timed) / len(places)
    print(f"  then blend and report, a minute; about {duration(total + 60 if timed else 20)} in all", flush=True)


def main() -> None:
    parser = step.parser(__doc__)
    parser.add_argument("--data", type=Path, metavar="ZIP|DIR", help="the competition: Kaggle's zip as downloaded, or a folder")
    parser.add_argument("--profile", choices=sorted(PROFILES),
                        help="default: gpu where CUDA is there, else cpu; demo where the data are drawn")
    parser.add_argument("--recipes", metavar="A,B", help=f"instead of the profile's: any of {', '.join(recipes.names())}")
    parser.add_argument("--folds", type=int, metavar="K", help="default: as many as there are, else 5")
    parser.add_argument("--seed", type=int, help="of the folds and of training (default: that of the folds there are, else 0)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: CUDA where it is there")
    parser.add_argument("--weights-dir", type=Path, metavar="DIR", help="pretrained weights as local files, see train.py")
    parser.add_argument("--corrections", type=Path, metavar="FILE", help="training rows to drop or flip, see clean.py")
    args = parser.parse_args()
    args.root.mkdir(parents=True, exist_ok=True)
    with step.at_work(args.root, alone=True):
        do(args)


def do(args: argparse.Namespace) -> None:
    """All steps in order."""
    root = args.root.resolve()
    named = recipes.load_all(args.recipes) if args.recipes else None
    for recipe in named or []:
        pretrained.require(recipe, args.weights_dir)
    competition_there = (root / "competition").is_dir() and any((root / "competition").iterdir())
    draw = args.data is None and not competition_there
    print(f"audit, split, train, blend and report in {root}; the plan with its times follows audit and split, which take seconds")

    seconds = {"audit": run_step("audit", "--root", root, *(["--drawn"] if draw else ["--data", args.data] if args.data else []))}
    toy = drawn.is_drawn(root)
    profile = args.profile or ("demo" if toy else "gpu" if engine.slots(args.device, 1)[0].type == "cuda" else "cpu")
    chosen = named or [recipes.load(name) for name in PROFILES[profile]]
    for recipe in chosen:
        pretrained.require(recipe, args.weights_dir)
    given = {"--folds": args.folds, "--seed": args.seed}
    seconds["split"] = run_step("split", "--root", root, *(part for pair in given.items() if pair[1] is not None for part in pair))
    dealt = folds.load(root)
    mended = corrections.read(args.corrections, dealt) if args.corrections else corrections.NONE
    suffix = runs.CORRECTED if mended.actions else ""
    print_plan(root, chosen, dealt.k, args.device, suffix)
    given = {"--weights-dir": args.weights_dir, "--corrections": args.corrections}
    seconds["train"] = run_step("train", "--root", root, "--recipe", ",".join(recipe.name for recipe in chosen), "--seed", dealt.seed,
                                "--device", args.device, *(part for pair in given.items() if pair[1] is not None for part in pair))
    seconds["blend"] = run_step("blend", "--root", root, "--recipes", ",".join(recipe.name + suffix for recipe in chosen))
    seconds["report"] = run_step("report", "--root", root)

    print("\n" + ", ".join(f"{name} {duration(spent)}" for name, spent in seconds.items()))
    print(f"read {root / 'report.html'}")
    if toy:
        print("These images are drawn by a program: the score says that the job works here, nothing else. With real data: "
              "./run_all.sh --data <the competition's zip as downloaded>")
    print(f"upload {root / 'submissions' / 'submission.csv'}: {outcome.headline(outcome.load(root).facts)}")


if __name__ == "__main__":
    step.run(main)
