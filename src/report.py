"""Draw report.html: one self-contained page on what to upload, how good it is, and how it came about.

    python src/report.py [--root DIR] [--target age]

Reads runs/ and submissions/ (run blend.py first) and writes report.html into the root: the honest score, the
leaderboard, accuracy by fold, the confusion matrix, learning curves, time and memory, and how to repeat it.
With --target it is targets/<column>/report.html: mean absolute errors instead, by band and drawn against the values.
It opens in any browser without network, on a phone and in the dark.
"""

from facefold import files, runs, step
from facefold.combine import members, outcome, regression
from facefold.data import competition, drawn, folds
from facefold.errors import InputError
from facefold.review import html, regression_sections, sections


def main() -> None:
    parser = step.parser(__doc__)
    step.add_target(parser)
    args = parser.parse_args()
    root, target, combine = args.root.resolve(), args.target, regression if args.target.regression else outcome
    place = target.place(root)
    contest, dealt, made = competition.load(root), folds.load(root, target), combine.load(root, target)
    test_ids = contest.test["id"].tolist()
    loaded = [runs.load(place, None, member["recipe"], dealt, test_ids) for member in made.facts["members"]]
    if [members.describe(member) for member in loaded] != made.facts["members"] or dealt.hash != made.facts["folds"]["hash"]:
        raise InputError(f"{target.folder}submissions/ was blended from other runs than those now under {target.folder}runs/. "
                         f"Run `python src/blend.py{target.option}` again.")
    histories = {member.recipe: [runs.history(place, member.recipe, k) for k in range(dealt.k)] for member in loaded}

    warning = "Drawn competition, not real data. " if drawn.is_drawn(root) else ""
    if target.regression:
        parts = regression_sections.parts(made, loaded, histories, target)
    else:
        warning += f"{outcome.announcement(made.facts)} " if outcome.announcement(made.facts) else ""
        parts = [*sections.verdict(made.facts), *sections.leaderboard(made), *sections.errors(made, loaded),
                 *sections.learning_curves(histories), *sections.cost(loaded), *sections.repeat(made.facts)]
    title = f"{warning}Upload {target.folder}submissions/submission.csv: {combine.headline(made.facts)}"
    path = place / "report.html"
    files.write_text(path, html.page("What to upload", [html.heading(title, 1), *parts]))
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    step.run(main)
