"""Draw report.html: one self-contained page on what to upload, how good it is, and how it came about.

    python src/report.py [--root DIR]

Reads runs/ and submissions/ (run blend.py first) and writes report.html into the root: the honest score, the
leaderboard, accuracy by fold, the confusion matrix, learning curves, time and memory, and how to repeat it.
It opens in any browser without network, on a phone and in the dark.
"""

from facefold import files, runs, step
from facefold.combine import members, outcome
from facefold.data import competition, drawn, folds
from facefold.errors import InputError
from facefold.review import html, sections


def main() -> None:
    args = step.parser(__doc__).parse_args()
    root = args.root.resolve()
    contest, dealt, made = competition.load(root), folds.load(root), outcome.load(root)
    test_ids = contest.test["id"].tolist()
    loaded = [runs.load(root, None, member["recipe"], dealt, test_ids) for member in made.facts["members"]]
    if [members.describe(member) for member in loaded] != made.facts["members"] or dealt.hash != made.facts["folds"]["hash"]:
        raise InputError("submissions/ was blended from other runs than those now under runs/. Run `python src/blend.py` again.")
    histories = {member.recipe: [runs.history(root, member.recipe, k) for k in range(dealt.k)] for member in loaded}

    warning = "Drawn competition, not real data. " if drawn.is_drawn(root) else ""
    warning += f"{outcome.announcement(made.facts)} " if outcome.announcement(made.facts) else ""
    title = f"{warning}Upload submissions/submission.csv: {outcome.headline(made.facts)}"
    parts = [html.heading(title, 1), *sections.verdict(made.facts), *sections.leaderboard(made), *sections.errors(made, loaded),
             *sections.learning_curves(histories), *sections.cost(loaded), *sections.repeat(made.facts)]
    target = root / "report.html"
    with files.locked(root / "submissions", wait=True):
        files.write_text(target, html.page("What to upload", parts))
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    step.run(main)
