"""The last lines of a job: what helped, what to try next and what that costs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from facefold.ensemble.blend import Blend
from facefold.ensemble.metrics import Metric, target_metric
from facefold.models.run_name import parse_run_name
from facefold.task import Task
from facefold.utils.console import format_duration
from facefold.utils.files import read_json


def describe_gain(blend: Blend) -> str:
    """Say what blending brought over the best recipe alone, paired on the same rows, with its 95 % interval."""
    metric = target_metric(Task.from_facts(blend.facts["task"])).scaled(blend.facts["score"])
    board, picked = blend.leaderboard, blend.facts["picked"]
    single, *others = board.loc[board["kind"].isin(["recipe", "added"]), "name"]
    if not others:
        return f"{single} alone: there is nothing to blend it with"
    if picked == "best_single":
        return f"no blend beats {single} alone by a real margin"
    gain, low, high = (metric.signed_gain(blend.facts["gain_over_best_single"][key]) for key in ("gain", "low", "high"))
    over = f"{_unit(metric)} over the best recipe alone [{low}, {high}]"
    return f"blending: {gain} {over}, both as other folds choose them"


def suggest_next(root: Path, blend: Blend, profile: Sequence[str], late: Sequence[str], workers: int) -> str:
    """Suggest the recipes of the next job, and say why and about how long it takes where that is known.

    Args:
        root: The folder that holds runs/.
        blend: Of the runs that there are.
        profile: Recipes that suit the machine and the task.
        late: Runs that a budget left out.
        workers: Folds that train side by side.
    """
    if late:
        return f"the same command with more time, for {', '.join(late)}"
    runs = blend.leaderboard.loc[blend.leaderboard["kind"] == "recipe", "name"]
    parsed = {name: parse_run_name(name) for name in runs}
    names = list(dict.fromkeys(parts.recipe for parts in parsed.values()))
    trained, command = {parts.stem for parts in parsed.values()}, "the same command with --recipes"
    if others := [name for name in profile if name not in trained]:
        more = ",".join([*names, others[0]])
        return f"{command} {more}, as another network errs elsewhere; its plan says for how long"
    facts = {name: [read_json(path) for path in (root / "runs" / name).glob("fold_*/run.json")] for name in runs}
    # Runs of earlier versions lack settings and seconds.
    networks = [name for name, folds in facts.items() if not folds[0].get("settings", {}).get("classifier")]
    if not networks:
        return "look at the errors in the report: the recipes of this machine's profile are trained"
    seedless = {name: replace(parts, seed=None, suffixes=()) for name, parts in parsed.items()}
    best, folds = seedless[networks[0]], facts[networks[0]]
    seeds = {facts[name][0]["seed"] for name in runs if seedless[name] == best}
    seed = next(number for number in range(1, len(seeds) + 2) if number not in seeds)
    seconds = sum(fold.get("seconds", 0.0) for fold in folds) / min(workers, len(folds))
    time = f": about {format_duration(seconds)} more" if seconds else ""
    more = ",".join([*names, str(replace(best, seed=seed))])
    return f"{command} {more}, another seed of the best network{time}"


def _unit(metric: Metric) -> str:
    return "points of accuracy" if metric.points else f"of {metric.name}"
