"""Draw report.html: one self-contained page on what to upload, how good it is, and how it came about.

    python src/report.py [--root DIR] [--target age] [--log TRACKER]

Reads competition/, runs/ and submissions/ (run blend.py first) and writes report.html into the root. The first screen
draws the nested score and what blending gained, and says what is to be doubted: leaks, predictions made elsewhere,
labels, extra rows. Below are what each means gained on the same rows (blending, the decision, a setting, seeds,
pseudo-labels, extra rows, each recipe in the mean), as far as the blended runs allow it; a leaderboard to sort and
filter; folds, confusion matrix, ROC, calibration, accuracy by the groups of competition/meta.csv, who corrects whom;
images of the data, of the worst errors, of doubtful test images and of suspicious labels; learning curves, time and
memory, and all it takes to repeat it. With --target it is targets/<column>/report.html: mean absolute errors instead,
by band and against the values. It opens in any browser without network, on a phone, in the dark and on paper. --log
adds it to the blend in a tracker: docs/options.md.
"""

from pathlib import Path

from facefold.cli import build_parser, load_step_costs, run_main
from facefold.options import add_log_option, add_target_option
from facefold.utils.console import short_path


def main() -> Path:
    parser = build_parser(__doc__)
    add_target_option(parser)
    add_log_option(parser)
    args = parser.parse_args()

    from facefold.data.competition import load_competition
    from facefold.data.folds import load_folds
    from facefold.ensemble.blend import load_blend, require_same_task
    from facefold.ensemble.leaderboard import log_blend
    from facefold.ensemble.members import load_blended_members
    from facefold.ensemble.submission import require_same_images
    from facefold.report.blend_page import blend_page
    from facefold.training.tracking import load_tracking
    from facefold.utils.files import lock_directory, write_text

    root, target = args.root.resolve(), args.target
    target_root, tracking = target.directory(root), load_tracking(args.log, root, target)
    competition, folds, blend = load_competition(root), load_folds(root, target), load_blend(root, target)
    require_same_task(blend, target)
    require_same_images(blend, root, target)
    members = load_blended_members(root, blend.facts, folds, competition.test["id"].tolist())
    steps = {name: cost for name, cost in load_step_costs(root).items() if name == "audit"} | load_step_costs(
        target_root
    )
    page, path = blend_page(root, competition, folds, blend, members, steps), target_root / "report.html"
    with lock_directory(target_root / "submissions", wait=True):
        write_text(path, page)
    log_blend(tracking, target_root / "submissions", blend.facts, path)
    print(f"wrote {short_path(path)} ({len(page.encode()) / 1e6:.1f} MB)")
    return path


if __name__ == "__main__":
    run_main(main)
