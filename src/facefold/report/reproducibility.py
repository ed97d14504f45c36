"""How the blend came about: the commands, and the versions and settings of everything that went in."""

from dataclasses import fields
from typing import Any

from facefold.data.fold_methods import parse_method
from facefold.data.folds import Folds
from facefold.models.recipe import Recipe
from facefold.runs import CORRECTED_SUFFIX, Member
from facefold.task import Task


def origin(facts: dict, folds: Folds, members: list[Member]) -> dict[str, Any]:
    """Return the commands, and the versions and settings of everything that went in; facts: blend.json."""
    runs = [run for member in members for run in member.runs]
    return {
        "commands": _commands(facts, folds),
        "versions": sorted({pair for run in runs for pair in run.get("versions", {}).items()}),
        "settings": {
            member.name: _changed_settings(member.runs[0]["settings"])
            for member in members
            if "settings" in member.runs[0]
        },
    }


def _commands(facts: dict, folds: Folds) -> list[str]:
    options = facts["options"]
    target = Task.from_facts(facts["task"]).option
    seeds = ",".join(sorted({str(member["seed"]) for member in facts["members"]}))
    method = parse_method(facts["folds"]["method"])
    count = "" if method.file else f" --folds {folds.k}"
    corrected = [name.removesuffix(CORRECTED_SUFFIX) for name in options["recipes"] if name.endswith(CORRECTED_SUFFIX)]
    plain = [name for name in options["recipes"] if not name.endswith(CORRECTED_SUFFIX)]
    return [
        f"python src/split.py{target}{count} --seed {folds.seed}{method.options}",
        *(
            f"python src/train.py{target} --recipe {','.join(names)} --seed {seeds}{option}"
            for names, option in ((plain, ""), (corrected, " --corrections FILE"))
            if names
        ),
        f"python src/blend.py{target} --recipes {','.join(options['recipes'])} --method {options['method']} "
        f"--weights '{options['weights']}'"
        + "".join(f" --use-{name}" for name in options["leaks"])
        + (" --labels" if options.get("labels") else ""),
    ]


def _changed_settings(settings: dict) -> str:
    """Return the settings of a run that are not the defaults, as lines of a recipe file."""
    defaults = {field.name: field.default for field in fields(Recipe)}
    changed = {key: value for key, value in settings.items() if key != "name" and value != defaults.get(key)}
    return "\n".join(
        f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {str(value).lower()}"
        for key, value in changed.items()
    )
