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

from facefold import files, runs, step
from facefold.combine import members, outcome, regression
from facefold.data import competition, drawn, folds
from facefold.review import galleries, html, origin, regression_sections, sections


def main() -> None:
    parser = step.parser(__doc__)
    step.add_target(parser)
    args = parser.parse_args()
    root, target, combine = args.root.resolve(), args.target, regression if args.target.regression else outcome
    place = target.place(root)
    contest, dealt, made = competition.load(root), folds.load(root, target), combine.load(root, target)
    test_ids = contest.test["id"].tolist()
    loaded = members.of_blend(root, made.facts, dealt, test_ids)
    histories = {member.recipe: [runs.history(place, member.recipe, k) for k in range(dealt.k)] for member in loaded}
    steps = {name: got for name, got in step.timings(root).items() if name == "audit"} | step.timings(place)
    leaks = "" if target.regression else outcome.announcement(made.facts)
    if target.regression:
        top, parts = [], regression_sections.parts(made, dealt, loaded, histories, steps, target)
    else:
        parts = of_labels(contest, dealt, made, loaded, histories, steps)
        top = [*sections.glance(made, loaded), *sections.verdict(made.facts)]
    toy = "Drawn competition, not real data. " if drawn.is_drawn(root) else ""
    title = (
        f"{toy}{leaks}{' ' if leaks else ''}Upload {target.folder}submissions/submission.csv: {combine.headline(made.facts)}"
        + ("" if leaks or target.regression else ". No leak was used.")
    )
    path = place / "report.html"
    with files.locked(place / "submissions", wait=True):
        files.write_text(
            path, html.page("What to upload", [html.heading(title, 1), *top, html.contents(parts), *parts])
        )
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def of_labels(
    contest: competition.Competition,
    dealt: folds.Folds,
    made: outcome.Outcome,
    loaded: list[runs.Member],
    histories: dict[str, list[pd.DataFrame]],
    steps: dict[str, dict],
) -> list[str]:
    """The sections below the verdict, of a blend of labels."""
    judges = [member for member in loaded if not member.recipe.endswith(runs.CORRECTED)] or loaded
    return [
        *sections.leaderboard(made, loaded),
        *sections.errors(made, loaded),
        *sections.calibration(made),
        *sections.by_group(made, contest),
        *sections.agreement(made, loaded),
        *sections.learning_curves(histories),
        html.heading("Errors and doubts in pictures"),
        *galleries.wrong(contest, made.oof),
        *galleries.doubtful(contest, made.test),
        *galleries.suspects(contest, dealt, np.mean([member.oof.to_numpy() for member in judges], axis=0)),
        html.heading("The data"),
        *sections.data(made, contest),
        *galleries.look(contest),
        *galleries.predictions(contest, made.test),
        *origin.cost(loaded, steps),
        *origin.repeat(made.facts, dealt, loaded),
    ]


if __name__ == "__main__":
    step.run(main)
