"""The sections of the report on how it came about: time and memory, the commands, and every option and hash."""

from dataclasses import fields

import numpy as np

from facefold.data.folds import Folds, grouping_key
from facefold.models.recipe import Recipe
from facefold.report import html
from facefold.runs import CORRECTED_SUFFIX, Member
from facefold.task import Target


def cost(members: list[Member], steps: dict[str, dict]) -> list[str]:
    """Time and memory of the recipes, from run.json ('-' where a run does not say), and of the steps (`step.timings`)."""

    def of(member: Member, key: str, join, form: str = "{:,.0f}") -> str:
        values = [run[key] for run in member.runs if run.get(key) is not None]
        return form.format(join(values)) if values else "-"

    def kinds(values: list[str]) -> str:
        return ", ".join(sorted(set(values)))

    rows = [
        (
            member.name,
            of(member, "seconds", sum),
            of(member, "cpu_seconds", sum),
            of(member, "images_per_second", np.mean),
            of(member, "peak_memory_mb", max),
            of(member, "device", kinds, "{}"),
            of(member, "precision", kinds, "{}"),
        )
        for member in members
    ]
    header = ["recipe", "seconds, all folds", "CPU seconds", "images/s, mean", "peak memory, MB", "device", "precision"]
    parts = [html.heading("Time and memory"), html.table(header, rows, numbers=range(1, 5))]
    if steps:
        rows = [
            (name, *(f"{got[key]:,.0f}" for key in ("seconds", "cpu_seconds", "peak_memory_mb")))
            for name, got in steps.items()
        ]
        parts += [
            html.paragraph(
                "Steps, each as it was run last; one that found its work done took less time than the work."
            ),
            html.table(["step", "seconds", "CPU seconds", "peak memory of one process, MB"], rows, numbers=range(1, 4)),
        ]
    return parts


def repeat(facts: dict, folds: Folds, members: list[Member]) -> list[str]:
    """The commands, the recipes' settings, and the hashes and versions of everything that went in."""
    options, recipes = facts["options"], ",".join(facts["options"]["recipes"])
    target = Target(facts["target"]).option
    seeds = ",".join(sorted({str(member["seed"]) for member in facts["members"]}))
    groups = grouping_key(facts["folds"]["method"])
    corrected = [name.removesuffix(CORRECTED_SUFFIX) for name in options["recipes"] if name.endswith(CORRECTED_SUFFIX)]
    given = [name for name in options["recipes"] if not name.endswith(CORRECTED_SUFFIX)]
    trained = [
        f"python src/train.py{target} --recipe {','.join(names)} --seed {seeds}{option}\n"
        for names, option in ((given, ""), (corrected, " --corrections FILE"))
        if names
    ]
    commands = (
        f"python src/split.py{target} --folds {folds.k} --seed {folds.seed}"
        + (f" --groups {groups}\n" if groups else "\n")
        + "".join(trained)
        + f"python src/blend.py{target} --recipes {recipes} --method {options['method']} --weights '{options['weights']}'"
        + "".join(f" --use-{name}" for name in options["leaks"])
    )
    hashes = [
        ("submission.csv", facts["files"]["submission.csv"]),
        ("train.csv and meta.csv" if target else "train.csv", folds.train_sha256),
        ("folds.csv", folds.hash),
        ("images", facts["images_hash"]),
    ]
    hashes += [
        (f"recipe {member['recipe']}, seed {member['seed']}", member["recipe_hash"]) for member in facts["members"]
    ]
    if corrected:
        hashes.append(("corrections (FILE; they are in each run.json under corrected)", facts["corrections"]["hash"]))
    versions = sorted({pair for member in members for run in member.runs for pair in run.get("versions", {}).items()})
    settings = [
        [html.heading(member.name, 3), html.code(_toml(member.runs[0]["settings"]))]
        for member in members
        if "settings" in member.runs[0]
    ]
    return [
        html.heading("How to repeat it"),
        html.code(commands),
        html.paragraph("On the CPU these end with the same bytes, given these versions and inputs."),
        html.table(["what", "sha256"], hashes),
        *([html.table(["package", "version"], versions)] if versions else []),
        *(
            [
                html.paragraph("The recipes' settings, as recipe files; what is not named has its default."),
                html.columns(settings),
            ]
            if settings
            else []
        ),
    ]


def _toml(settings: dict) -> str:
    """The settings of a run that are not the defaults, as lines of a recipe file."""
    defaults = {field.name: field.default for field in fields(Recipe)}
    changed = {key: value for key, value in settings.items() if key != "name" and value != defaults.get(key)}
    return "\n".join(
        f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {str(value).lower()}"
        for key, value in changed.items()
    )
