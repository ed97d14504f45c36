"""Draw report.html: one self-contained page on what to upload, how good it is, and how it came about.

    python src/report.py [--root DIR]

Reads competition/, runs/ and submissions/ (run blend.py first) and writes report.html into the root: the honest score and
whether a leak was used, the leaderboard, folds, confusion matrix, ROC, calibration, accuracy by the groups of
competition/meta.csv, who corrects whom, learning curves; pictures of the data, of the worst errors, of doubtful test images and
of suspicious labels; time and memory, and all it takes to repeat it. It opens in any browser without network, on a phone, in the
dark and on paper.
"""

import numpy as np

from facefold import files, runs, step
from facefold.combine import members, outcome
from facefold.data import competition, drawn, folds
from facefold.errors import InputError
from facefold.review import galleries, html, origin, sections


def main() -> None:
    args = step.parser(__doc__).parse_args()
    root = args.root.resolve()
    contest, dealt, made = competition.load(root), folds.load(root), outcome.load(root)
    test_ids = contest.test["id"].tolist()
    loaded = [runs.load(root, None, member["recipe"], dealt, test_ids) for member in made.facts["members"]]
    if [members.describe(member) for member in loaded] != made.facts["members"] or dealt.hash != made.facts["folds"]["hash"]:
        raise InputError("submissions/ was blended from other runs than those now under runs/. Run `python src/blend.py` again.")
    histories = {member.recipe: [runs.history(root, member.recipe, k) for k in range(dealt.k)] for member in loaded}
    judges = [member for member in loaded if not member.recipe.endswith(runs.CORRECTED)] or loaded

    toy = "Drawn competition, not real data. " if drawn.is_drawn(root) else ""
    leaks = outcome.announcement(made.facts)
    title = (f"{toy}{leaks}{' ' if leaks else ''}Upload submissions/submission.csv: {outcome.headline(made.facts)}"
             + ("" if leaks else ". No leak was used."))
    parts = [*sections.leaderboard(made, loaded), *sections.errors(made, loaded), *sections.calibration(made),
             *sections.by_group(made, contest), *sections.agreement(made, loaded), *sections.learning_curves(histories),
             html.heading("Errors and doubts in pictures"), *galleries.wrong(contest, made.oof),
             *galleries.doubtful(contest, made.test),
             *galleries.suspects(contest, dealt, np.mean([member.oof.to_numpy() for member in judges], axis=0)),
             html.heading("The data"), *sections.data(made, contest), *galleries.look(contest),
             *galleries.predictions(contest, made.test), *origin.cost(loaded, step.timings(root)), *origin.repeat(made.facts, dealt, loaded)]
    top = [html.heading(title, 1), *sections.glance(made, loaded), *sections.verdict(made.facts), html.contents(parts)]
    target = root / "report.html"
    files.write_text(target, html.page("What to upload", [*top, *parts]))
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    step.run(main)
