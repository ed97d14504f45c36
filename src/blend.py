"""Blend the trained recipes into one submission, and say honestly how good it is.

    python src/blend.py                                   every recipe under runs/, the method chosen
    python src/blend.py --recipes lite0,cnn5 --method majority
    python src/blend.py --weights lite0=2,cnn5=1          a weighted vote or mean with your weights

Methods, from simple to complicated:
    mean             the mean probability
    best_single      the recipe with the best out-of-fold accuracy
    majority         a vote a recipe; a tie goes by the mean probability
    logit_mean       the mean of the logits: who is surer counts for more
    rank_mean        the mean of the ranks: who is surer counts for no more
    calibrated_mean  the mean after each recipe's probabilities were calibrated, where that helps
    weighted_mean    weights >= 0 that sum to 1, of the least log loss
    weighted_votes   whole votes 0 to 5 a recipe, searched for accuracy
    greedy           recipes added one by one, with replacement, for accuracy, in many bags
    stack_probs      a logistic regression on the recipes' logits
    stack_features   a logistic regression on their penultimate features, one a fold
    second_pass      the mean, but rows near 0.5 are decided by a specialist on logits and features
`--use-order` reads the picked method's predictions once more by the order of the ids, where the numbering of the
competition leaked it (neighbours share their label): two decoders, the better one by nested score. It is a choice of
yours and said on the first line; where the labels show no order it is refused.
`--use-twins` answers test images that show the same picture as a train image (near-duplicates) by the label of most of these
twins, a leak as well: your choice, said on the first line, refused where there are no twins.
`--target age` blends the runs of a regression: mean, best_single, weighted_mean (of the least squared error) and ridge, scored by
the mean absolute error, into targets/age/submissions/. Votes and what else belongs to labels is refused.
`--method auto` takes the simplest that no other beats by a real margin on the same rows. The threshold is 0.5
unless another one gains by such a margin.

Runs that learned from corrected labels (train.py --corrections) are called lite0+corrected, and compared with lite0 in the
same leaderboard: by the given labels, as everything is, and in columns of their own by the corrected ones.

Every score is nested: what was learned or chosen on some folds is scored on the others, the choice of auto
too. Only what you chose by hand (recipes, weights) is not accounted for.

Writes to submissions/: submission.csv (upload this), <method>.csv for every method, leaderboard.csv, oof_blend.csv, test_blend.csv,
blend.json (what was picked, why, and the hashes of what went in), with --use-order order.csv, with --use-twins twins.csv. The
same runs give the same bytes.
"""

from functools import partial
from pathlib import Path

import numpy as np

from facefold.cli import add_target_option, build_parser, run_main
from facefold.data.audit import check_images, load_images_hash
from facefold.data.competition import load_competition
from facefold.data.duplicates import find_duplicates
from facefold.data.folds import load_folds
from facefold.ensemble import blend as blend_module
from facefold.ensemble import regression
from facefold.ensemble.members import describe_member, join_members, load_features
from facefold.ensemble.methods import METHOD_NAMES, candidate_methods
from facefold.ensemble.stacking import fit_feature_stackers
from facefold.ensemble.weights import parse_weights
from facefold.runs import current_identity, load_member, parse_run_names, run_names, shared_corrections
from facefold.utils.errors import InputError


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--recipes", metavar="A,B", help="the recipes to blend (default: all that have runs)")
    parser.add_argument(
        "--method",
        default="auto",
        help="how to blend (default: auto)",
        choices=tuple(dict.fromkeys(("auto", *METHOD_NAMES, *regression.REGRESSION_METHOD_NAMES))),
    )
    parser.add_argument(
        "--weights",
        default="auto",
        metavar="RULE",
        help="of the weighted methods: auto (learned, the default), equal, accuracy, or name=w,name=w",
    )
    parser.add_argument("--use-order", action="store_true", help="use the labels' order by id, a leak; never a default")
    parser.add_argument("--use-twins", action="store_true", help="use the labels of near-duplicates in train, a leak")
    add_target_option(parser)
    args = parser.parse_args()
    root, target = args.root.resolve(), args.target
    place = target.directory(root)

    competition, folds = load_competition(root), load_folds(root, target)
    if target.regression:
        regression.refuse_options(target, args.method, args.weights, args.use_order, args.use_twins)
    groups = find_duplicates(competition, check_images(competition)) if args.use_twins else None
    images = load_images_hash(root)
    test_ids = competition.test["id"].tolist()
    names = parse_run_names(args.recipes) if args.recipes else run_names(place)
    loaded = [load_member(place, current_identity(name, folds, images), name, folds, test_ids) for name in names]
    matrix, mended = join_members(loaded, folds, test_ids), shared_corrections(loaded)

    if len(matrix.names) == 1 and args.method not in ("auto", "best_single"):
        raise InputError(
            f"one recipe only ({matrix.names[0]}): --method {args.method} has nothing to combine. "
            "Train another recipe, or leave --method out."
        )
    if line := blend_module.leak_announcements(matrix, args.use_order, groups):
        print(line)
    rule: str | np.ndarray = args.weights
    if rule not in ("auto", "equal", "accuracy"):
        rule, absent = parse_weights(args.weights, matrix.names)
        if absent:
            print(f"weight 0, because --weights does not name them: {', '.join(absent)}")
        print(
            "note: weights given by hand count as chosen beforehand; if these rows suggested them, the scores flatter"
        )
    if target.regression:
        made = regression.make_regression_blend(matrix, target, args.method, rule)
    else:
        candidate_methods(args.method, rule)  # options that do not go together are refused before the features are read
        stacked = fit_feature_stackers(matrix, partial(load_features, root, matrix.names))
        made = blend_module.make_blend(matrix, stacked, args.method, rule, args.use_order, mended, groups)
    origin = {
        "options": {
            "method": args.method,
            "weights": args.weights,
            "recipes": matrix.names,
            "use_order": args.use_order,
            "use_twins": args.use_twins,
        },
        "members": [describe_member(member) for member in sorted(loaded, key=lambda member: member.recipe)],
        "folds": {"hash": folds.hash, "k": folds.k, "seed": folds.seed, "method": folds.method},
        "images_hash": images,
    }
    made = blend_module.write_blend(root, made, competition, origin, target)

    for line in [] if target.regression else blend_module.unused_options(made.facts):
        print(line)
    shown_by = regression if target.regression else blend_module
    print(shown_by.format_leaderboard(made.leaderboard))
    if len(matrix.names) == 1 and made.facts["picked"] == "best_single":
        print(f"one recipe only, so there is nothing to blend: the submission is {matrix.names[0]}'s")
    print(made.facts["why"])
    print(f"upload {shown(place / 'submissions' / 'submission.csv')}: {shown_by.format_headline(made.facts)}")


def shown(path: Path) -> Path:
    """The path as a person would type it from where they are."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    run_main(main)
