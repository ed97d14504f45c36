"""How the blend came about: the commands, and the versions and settings of everything that went in."""

from dataclasses import fields
from typing import Any

from facefold.data.fold_methods import parse_method
from facefold.data.folds import Folds
from facefold.ensemble.trust import add_options
from facefold.models.recipe import Recipe
from facefold.models.run_name import parse_run_name
from facefold.runs import Member
from facefold.task import Task


def origin(facts: dict, folds: Folds, members: list[Member]) -> dict[str, Any]:
    """Return the commands, and the versions and settings of everything that went in.

    facts: blend.json; members: the runs, without what was added.
    """
    runs = [run for member in members for run in member.runs]
    return {
        "commands": _commands(facts, folds, {member.name: pseudo_options(member) for member in members}),
        "versions": sorted({pair for run in runs for pair in run.get("versions", {}).items()}),
        "settings": {
            member.name: _changed_settings(member.runs[0]["settings"])
            for member in members
            if "settings" in member.runs[0]
        },
    }


def pseudo_options(member: Member) -> str:
    """Return the options of train.py for the runs that labelled the test images; empty without pseudo-labels."""
    pseudo = member.runs[0].get("pseudo_labels")
    if not pseudo:
        return ""
    distill = f" --distill {pseudo['share']:g}" if "share" in pseudo else ""
    return f" --pseudo {','.join(sorted(pseudo['test_sha256']))} --pseudo-weight {pseudo['weight']:g}{distill}"


def _commands(facts: dict, folds: Folds, pseudo: dict[str, str]) -> list[str]:
    options = facts["options"]
    target = Task.from_facts(facts["task"]).option
    method = parse_method(facts["folds"]["method"])
    count = "" if method.file else f" --folds {folds.k}"
    recipes: dict[str, list[str]] = {}  # by the other options of train.py
    for member in facts["members"]:
        name = parse_run_name(member["recipe"])
        seed = f" --seed {member['seed']}" if name.seed is None else ""
        more = seed + " --corrections FILE" * name.corrected + pseudo[member["recipe"]] + " --extra DIR" * name.extra
        recipes.setdefault(more, []).append(name.recipe)
    return [
        f"python src/split.py{target}{count} --seed {folds.seed}{method.options}",
        # Those that need the predictions of others come after them.
        *(
            f"python src/train.py{target} --recipe {','.join(names)}{more}"
            for more, names in sorted(recipes.items(), key=lambda item: "--pseudo" in item[0])
        ),
        f"python src/blend.py{target} --recipes {','.join(options['recipes'])} --method {options['method']} "
        f"--weights '{options['weights']}'"
        + add_options(facts.get("added", {}))
        + "".join(f" --use-{name}" for name in options["leaks"]),
    ]


def _changed_settings(settings: dict) -> str:
    """Return the settings of a run that are not the defaults, as lines of a recipe file."""
    defaults = {field.name: field.default for field in fields(Recipe)}
    changed = {key: value for key, value in settings.items() if key != "name" and value != defaults.get(key)}
    return "\n".join(
        f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {str(value).lower()}"
        for key, value in changed.items()
    )
