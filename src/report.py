"""Draw report.html: one self-contained page on what to upload, how good it is, and how it came about.

    python src/report.py [--root DIR] [--target age]

Reads competition/, runs/ and submissions/ (run blend.py first) and writes report.html into the root: the honest score and
whether a leak was used, the leaderboard, folds, confusion matrix, ROC, calibration, accuracy by the groups of
competition/meta.csv, who corrects whom, learning curves; pictures of the data, of the worst errors, of doubtful test images and
of suspicious labels; time and memory, and all it takes to repeat it. With --target it is targets/<column>/report.html: mean
absolute errors instead, by band and drawn against the values. It opens in any browser without network, on a phone, in the dark
and on paper.
"""

import numpy as np
import pandas as pd

from facefold.cli import add_target_option, build_parser, load_timings, run_main
from facefold.data.competition import Competition, load_competition
from facefold.data.folds import Folds, load_folds
from facefold.data.synthetic import is_synthetic
from facefold.ensemble.blend import Blend, load_blend
from facefold.ensemble.leaderboard import format_headline
from facefold.ensemble.leaks import announce_leaks
from facefold.ensemble.members import load_blended_members
from facefold.report import galleries, html, regression_sections, reproducibility, sections
from facefold.runs import CORRECTED_SUFFIX, Member, load_history
from facefold.utils.files import lock_directory, write_text


def main() -> None:
    parser = build_parser(__doc__)
    add_target_option(parser)
    args = parser.parse_args()
    root, target = args.root.resolve(), args.target
    place = target.directory(root)
    competition, folds, made = load_competition(root), load_folds(root, target), load_blend(root, target)
    test_ids = competition.test["id"].tolist()
    loaded = load_blended_members(root, made.facts, folds, test_ids)
    histories = {member.name: [load_history(place, member.name, k) for k in range(folds.k)] for member in loaded}
    steps = {name: got for name, got in load_timings(root).items() if name == "audit"} | load_timings(place)
    leaks = announce_leaks(made.facts)
    if target.regression:
        top, parts = [], regression_sections.parts(made, folds, loaded, histories, steps, target)
    else:
        parts = of_labels(competition, folds, made, loaded, histories, steps)
        top = [*sections.glance(made, loaded), *sections.verdict(made.facts)]
    toy = "Synthetic competition, not real data. " if is_synthetic(root) else ""
    title = (
        f"{toy}{leaks}{' ' if leaks else ''}Upload {target.folder}submissions/submission.csv: {format_headline(made.facts)}"
        + ("" if leaks or target.regression else ". No leak was used.")
    )
    path = place / "report.html"
    with lock_directory(place / "submissions", wait=True):
        write_text(path, html.page("What to upload", [html.heading(title, 1), *top, html.contents(parts), *parts]))
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def of_labels(
    competition: Competition,
    folds: Folds,
    made: Blend,
    loaded: list[Member],
    histories: dict[str, list[pd.DataFrame]],
    steps: dict[str, dict],
) -> list[str]:
    """The sections below the verdict, of a blend of labels."""
    judges = [member for member in loaded if not member.name.endswith(CORRECTED_SUFFIX)] or loaded
    return [
        *sections.leaderboard(made, loaded),
        *sections.errors(made, loaded),
        *sections.calibration(made),
        *sections.by_group(made, competition),
        *sections.agreement(made, loaded),
        *sections.learning_curves(histories),
        html.heading("Errors and doubts in pictures"),
        *galleries.wrong(competition, made.oof),
        *galleries.doubtful(competition, made.test),
        *galleries.suspects(competition, folds, np.mean([member.oof.to_numpy() for member in judges], axis=0)),
        html.heading("The data"),
        *sections.data(made, competition),
        *galleries.look(competition),
        *galleries.predictions(competition, made.test),
        *reproducibility.cost(loaded, steps),
        *reproducibility.repeat(made.facts, folds, loaded),
    ]


if __name__ == "__main__":
    run_main(main)
