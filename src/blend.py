"""Blend the trained recipes into one submission, with an unbiased estimate of its score.

    python src/blend.py                                   every recipe under runs/, the method chosen
    python src/blend.py --recipes lite0,cnn5 --method majority
    python src/blend.py --weights lite0=2,cnn5=1          a weighted vote or mean with your weights
    python src/blend.py --recipes lite0,lite0#1,lite0#2   three seeds of a recipe (see train.py)
    python src/blend.py --add mate=oof.csv,test.csv       predictions made elsewhere as one more member, see below

Everything that is chosen goes by the metric of competition/task.toml. Methods, from simple to complicated:
    mean             the mean probability
    best_single      the recipe with the best out-of-fold score
    majority         one vote per recipe; a tie goes by the mean probability
    logit_mean       the mean of the logits: confident recipes count for more
    rank_mean        the mean of the ranks: confident recipes count for no more
    calibrated_mean  the mean after each recipe's probabilities were calibrated; of two classes, only if that helps
    weighted_mean    weights >= 0 that sum to 1, of the least log loss
    weighted_votes   integer votes 0 to 5 per recipe, searched for accuracy
    greedy           recipes added one by one, with replacement, for the metric (for one of probabilities: for the log
                     loss), in many bags
    stack_probs      a logistic regression on the recipes' logits
    stack_features   a logistic regression on their penultimate features, one per fold
    second_pass      the mean, but rows near 0.5 are decided by a specialist on logits and features; of more than two
                     classes those whose two likeliest are close, between these two
`--method auto` takes the simplest that no other beats by a real margin on the same rows; the last line says if learned
weights lost. The threshold is 0.5 unless another one gains by such a margin. Of more than two classes the likeliest is
predicted, unless offsets of the classes, or for quadratic weighted kappa cut points on the expected class, gain so.
Where probabilities are submitted, nothing is decided.

Leaks are never used by default, announced on the first line, and refused if there is nothing to use:
`--use-order` decodes the chosen method's predictions by the order of the ids, if neighbours by id share their label.
`--use-duplicates` gives test images that show the same picture as train images the label of most of these.

`--target age` blends the runs of a regression: mean, best_single, weighted_mean (of the least squared error) and ridge,
scored by the mean absolute error, into targets/age/submissions/. What is for labels only is refused.

Runs that learned from corrected labels (train.py --corrections) are called lite0+corrected, and compared with lite0 in
the same leaderboard: by the given labels, as everything is, and in columns of their own by the corrected ones.
All scores are nested: what was learned or chosen on some folds is scored on the others, including the choice of auto.
Only what you choose by hand (recipes, weights) is not accounted for.

--add NAME=OOF.csv,TEST.csv, once or more often, takes predictions made elsewhere: a team mate's, a notebook's. OOF.csv
has a row for each train id, predicted by models that have not seen it, TEST.csv one for each test id. The columns are
id and prob (of label 1, or the second of two classes), prob_<class> of each of more classes, or pred of a number; fold
is optional. A single column of another name, columns called like the classes, and in a table of `runs.py --export` the
column called NAME, such as lite0#1 or lite0~size=160, are read as well. The member is called "NAME (not verified
here)". It has neither features nor models: stack_features and second_pass use the features of the runs alone, and
predict.py and pack.py need a blend without it. Predictions that seem to know their labels are named, and stay in.
--recipes NAME blends them without runs.

Submissions are labels or probabilities, in the columns of sampleSubmit.csv, as competition/task.toml says; audit.py
--submission changes it.

Writes to submissions/: submission.csv (upload this), <method>.csv for all methods, leaderboard.csv, oof_blend.csv,
test_blend.csv, blend.json (what was chosen, why, and the hashes of the inputs), order.csv or duplicates.csv for a leak
that is used, and copies of the files of --add. The same runs and files give the same bytes. --log shows the nested
score in a tracker too: docs/options.md.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from facefold.cli import build_parser, run_main
from facefold.options import add_log_option, add_target_option, added_argument
from facefold.utils.console import short_path
from facefold.utils.errors import InputError

if TYPE_CHECKING:
    from facefold.ensemble.blend import Blend

# fmt: off
METHOD_CHOICES = ("mean", "best_single", "majority", "logit_mean", "rank_mean", "calibrated_mean", "weighted_mean",
                  "weighted_votes", "greedy", "stack_probs", "stack_features", "second_pass", "ridge")
# fmt: on
LEAK_NAMES = ("order", "duplicates")


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    weights = "of the weighted methods: auto (learned, the default), equal, accuracy, or name=w,name=w"
    parser.add_argument("--recipes", metavar="A,B", help="the recipes to blend (default: all that have runs)")
    parser.add_argument("--method", default="auto", choices=("auto", *METHOD_CHOICES), help="default: auto")
    parser.add_argument("--weights", default="auto", metavar="RULE", help=weights)
    added = {"metavar": "NAME=OOF.csv,TEST.csv", "help": "predictions made elsewhere, as a member of the blend"}
    parser.add_argument("--add", type=added_argument, action="append", default=[], **added)
    parser.add_argument("--use-order", action="store_true", help="use the labels' order by id, a leak; never a default")
    parser.add_argument("--use-duplicates", action="store_true", help="use the labels of near-duplicates, a leak")
    add_target_option(parser)
    add_log_option(parser)
    return parser.parse_args()


def main() -> Blend:
    args = parse_args()

    from facefold.data.competition import load_competition
    from facefold.data.folds import load_folds
    from facefold.data.image_hashes import load_images_hash
    from facefold.ensemble.added import load_added, plain_name, runs_to_blend
    from facefold.ensemble.blend import make_blend
    from facefold.ensemble.leaderboard import format_headline, format_leaderboard, format_weights_note, log_blend
    from facefold.ensemble.leaks import LEAKS, unused_leaks
    from facefold.ensemble.members import join_members, load_features
    from facefold.ensemble.methods import check_features, check_options
    from facefold.ensemble.stacking import fit_feature_stackers
    from facefold.ensemble.submission import write_blend
    from facefold.ensemble.trust import describe_added, note_former_additions
    from facefold.ensemble.weights import RULES, parse_weights
    from facefold.runs import current_identity, load_member, require_distinct, shared_corrections
    from facefold.training.tracking import load_tracking

    root, target, directory = args.root.resolve(), args.target, args.target.directory(args.root.resolve())
    leak_names = [name for name in LEAK_NAMES if getattr(args, f"use_{name}")]
    tracking = load_tracking(args.log, root, target)
    competition, folds = load_competition(root), load_folds(root, target)
    check_options(target, args.method, args.weights, leak_names)
    leaks = [LEAKS[name].find(competition) for name in leak_names]
    images_hash, test_ids = load_images_hash(root), competition.test["id"].tolist()
    added = [load_added(name, paths, folds, test_ids) for name, paths in args.add]
    added_names = [plain_name(member.name) for member in added]
    names = runs_to_blend(directory, args.recipes, added_names)
    identities = {name: current_identity(name, folds, images_hash) for name in names}
    runs = [load_member(directory, identities[name], name, folds, test_ids) for name in sorted(names)]
    require_distinct({member.name: member.runs[0]["seed"] for member in runs})
    members = sorted([*runs, *added], key=lambda member: member.name)
    matrix = join_members(members, folds, test_ids)
    check_features(args.method, matrix.runs.names)
    plain_names = [plain_name(name) for name in matrix.names]
    if len(members) == 1 and args.method not in ("auto", "best_single"):
        raise InputError(
            f"one recipe only ({matrix.names[0]}): --method {args.method} has nothing to combine. "
            "Train another recipe, or leave --method out."
        )
    if leaks:
        print(" ".join(leak.announcement.format(**leak.require(matrix)) for leak in leaks))
    rule, absent = parse_weights(args.weights, plain_names)
    if absent:
        print(f"weight 0, because --weights does not name them: {', '.join(absent)}")
    if args.weights not in RULES:
        print("note: weights by hand count as chosen beforehand; if these rows suggested them, the scores are too high")

    for note in [*(note for member in added for note in member.notes), *note_former_additions(directory, added_names)]:
        print(note)

    stacked = fit_feature_stackers(matrix.runs, partial(load_features, root, matrix.runs.names, target=target))
    blend = make_blend(matrix, stacked, args.method, rule, leaks, shared_corrections(runs))
    options = {"recipes": plain_names, "method": args.method, "weights": args.weights, "leaks": leak_names}
    blend = write_blend(root, blend, competition, folds, members, images_hash, options)
    submissions = directory / "submissions"
    log_blend(tracking, submissions, blend.facts, submissions / "leaderboard.csv")

    lines = [*unused_leaks(blend.facts), format_leaderboard(blend.leaderboard, target)]
    if len(members) == 1 and blend.facts["picked"] == "best_single":
        lines.append(f"one recipe only, so there is nothing to blend: the submission is {matrix.names[0]}'s")
    path, note = submissions / "submission.csv", format_weights_note(blend.facts)
    upload = f"upload {short_path(path)}: {format_headline(blend.facts)}" + (f"; {note}" if note else "")
    print("\n".join([*lines, *describe_added(blend.facts), blend.facts["why"], upload]))
    return blend


if __name__ == "__main__":
    run_main(main)
