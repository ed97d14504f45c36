"""Draw report.html: one self-contained page on what to upload, how good it is, and how it came about.

    python src/report.py [--root DIR] [--target age] [--log TRACKER]

Reads competition/, runs/ and submissions/ (run blend.py first) and writes report.html into the root: the nested score
and whether a leak was used; leaderboard, folds, confusion matrix, ROC, calibration, accuracy by the groups of
competition/meta.csv, who corrects whom, learning curves; images of the data, of the worst errors, of doubtful test
images and of suspicious labels; time and memory, and all it takes to repeat it. With --target it is
targets/<column>/report.html: mean absolute errors instead, by band and against the values. It opens in any browser
without network, on a phone, in the dark and on paper. --log adds it to the blend in a tracker: docs/options.md.
"""

from pathlib import Path

from facefold.cli import add_log_option, add_target_option, build_parser, load_step_costs, run_main
from facefold.utils.console import short_path


def main() -> Path:
    parser = build_parser(__doc__)
    add_target_option(parser)
    add_log_option(parser)
    args = parser.parse_args()

    from facefold.data.competition import load_competition
    from facefold.data.folds import load_folds
    from facefold.data.synthetic import is_synthetic
    from facefold.ensemble.blend import load_blend, require_same_task
    from facefold.ensemble.leaderboard import format_headline, log_blend, picked_row
    from facefold.ensemble.leaks import announce_leaks, describe_leaks
    from facefold.ensemble.members import load_blended_members
    from facefold.ensemble.trust import describe_added, knowing_members
    from facefold.report import figures
    from facefold.report.html import render_page
    from facefold.report.multiclass import class_sections
    from facefold.report.reproducibility import origin
    from facefold.report.sections import label_sections, regression_sections
    from facefold.runs import load_histories
    from facefold.training.sweep import load_tables
    from facefold.training.tracking import load_tracking
    from facefold.utils.files import lock_directory, write_text

    root, target = args.root.resolve(), args.target
    target_root, tracking = target.directory(root), load_tracking(args.log, root, target)
    competition, folds, blend = load_competition(root), load_folds(root, target), load_blend(root, target)
    require_same_task(blend, target)
    members = load_blended_members(root, blend.facts, folds, competition.test["id"].tolist())
    runs = [member for member in members if member.runs]
    histories = {member.name: load_histories(target_root, member.name, range(folds.k)) for member in runs}
    steps = {name: cost for name, cost in load_step_costs(root).items() if name == "audit"} | load_step_costs(
        target_root
    )
    title = f"Upload {target.folder}submissions/submission.csv: {format_headline(blend.facts)}"
    if target.regression:
        template, data = "regression.html.j2", regression_sections(blend, target)
    elif target.multiclass:
        template, data = "multiclass.html.j2", class_sections(competition, blend, members, target)
    else:
        template, data = "report.html.j2", label_sections(competition, folds, blend, members)
        leaks = announce_leaks(blend.facts)
        unused = "A member seems to know its labels" if knowing_members(blend.facts) else "No leak was used"
        title = f"{leaks} {title}" if leaks else f"{title}. {unused}."
    if is_synthetic(root):
        title = f"Synthetic competition, not real data. {title}"
    shared = {
        "title": title,
        "facts": blend.facts,
        "figures": figures,
        "leaderboard": blend.leaderboard,
        "picked": picked_row(blend.leaderboard, blend.facts),
        "leaks": describe_leaks(blend.facts),
        "added": describe_added(blend.facts),
        "histories": histories,
        "folds": folds,
        "members": members,
        "steps": steps,
        "sweeps": {} if target.regression else load_tables(root),
        "origin": origin(blend.facts, folds, runs),
    }
    page, path = render_page(template, **data, **shared), target_root / "report.html"
    with lock_directory(target_root / "submissions", wait=True):
        write_text(path, page)
    log_blend(tracking, target_root / "submissions", blend.facts, path)
    print(f"wrote {short_path(path)} ({len(page.encode()) / 1e6:.1f} MB)")
    return path


if __name__ == "__main__":
    run_main(main)
