"""The page of a blend: what all reports share, and the sections of the task's kind."""

from pathlib import Path

from facefold.data.competition import Competition
from facefold.data.folds import Folds
from facefold.data.synthetic import is_synthetic
from facefold.ensemble.blend import Blend
from facefold.ensemble.metrics import target_metric
from facefold.report import figures
from facefold.report.board import leaderboard_section
from facefold.report.gains import gains_section
from facefold.report.galleries import find_suspects
from facefold.report.html import render_page
from facefold.report.multiclass import class_sections
from facefold.report.reproducibility import origin
from facefold.report.sections import fold_section, label_sections, regression_sections
from facefold.report.verdict import extra_rows, first_screen, label_noise, page_title
from facefold.runs import Member, load_histories
from facefold.training.sweep import load_tables


def blend_page(
    root: Path, competition: Competition, folds: Folds, blend: Blend, members: list[Member], steps: dict[str, dict]
) -> str:
    """Return the HTML of a report.

    Args:
        root: The folder that holds competition/.
        competition: What was blended.
        folds: Of the target.
        blend: Of `load_blend`.
        members: Of `load_blended_members`.
        steps: What each step cost, see `cli.load_step_costs`.
    """
    target, target_root = folds.target, folds.target.directory(root)
    metric, runs = target_metric(target).scaled(blend.facts["score"]), [member for member in members if member.runs]
    histories = {member.name: load_histories(target_root, member.name, range(folds.k)) for member in runs}
    if target.regression:
        data, noise = regression_sections(blend, target), None
    else:
        suspects = find_suspects(competition, folds, members)
        noise = label_noise(suspects, len(folds.table))
        data = {"competition": competition, "classes": target.classes, "suspects": suspects}
        if target.multiclass:
            data |= class_sections(competition, blend, members, target)
        else:
            data |= label_sections(competition, blend, members)
    data["tiles"] = [tile for tile in data["tiles"] if tile.name.lower() != metric.name]
    return render_page(
        f"{target.kind}.html.j2",
        title=page_title(blend.facts, target, is_synthetic(root)),
        target=target,
        metric=metric,
        format_score=lambda value: "-" if value != value else f"{value:.{metric.digits}f}",
        facts=blend.facts,
        oof=blend.oof,
        test=blend.test,
        figures=figures,
        **first_screen(blend, members, target, noise),
        **gains_section(blend, members, target),
        **leaderboard_section(blend, members, metric),
        **fold_section(blend, members, target),
        # One epoch is no curve.
        histories={name: one for name, one in histories.items() if max(map(len, one.values())) > 1},
        folds=folds,
        members=members,
        extra=extra_rows(members),
        steps=steps,
        sweeps={} if target.regression else load_tables(root),
        origin=origin(blend.facts, folds, runs),
        **data,
    )
