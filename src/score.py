"""Score a submission against the answers, if they are known.

    python src/score.py submissions/submission.csv solution.csv

Both files are id,label with the same ids in any order; further columns of the solution are ignored. The submission may
have probabilities, of the second of two classes or in a column per class, and the solution may have such columns of 0
and 1. Prints the accuracy with its 95 % interval (Wilson 1927), over all rows and by the answer; of probabilities also
AUC and log loss; and the quadratic weighted kappa of more than two classes that are whole numbers. Reads nothing else:
--root is not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facefold.cli import build_parser, path_argument, run_main

if TYPE_CHECKING:
    import pandas as pd


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("submission", type=path_argument, metavar="SUBMISSION", help="id,label as submitted")
    parser.add_argument("solution", type=path_argument, metavar="SOLUTION", help="id,label,.. as they should be")
    args = parser.parse_args()

    from facefold.ensemble.answers import load_answers

    table = load_answers(args.submission, args.solution)
    print(f"accuracy {format_accuracy(table)}")
    for label, rows in table.groupby("label"):
        print(f"label {label}  {format_accuracy(rows)}")
    for line in more_scores(table):
        print(line)


def more_scores(table: pd.DataFrame) -> list[str]:
    """Return a line for each score but the accuracy that the table of `load_answers` allows."""
    from sklearn.metrics import cohen_kappa_score, log_loss, roc_auc_score

    columns = [name for name in table.columns if name.startswith("prob_")]
    classes, labels = [name.removeprefix("prob_") for name in columns], table["label"].astype(str)
    lines, pairs = [], table[["label", "pred"]].astype(str)
    if columns:
        present = [at for at, name in enumerate(classes) if (labels == name).any()]
        areas = [
            roc_auc_score(labels == classes[at], table[columns[at]]) for at in present[-1 if len(columns) < 3 else 0 :]
        ]
        lines.append(f"{'auc' if len(columns) < 3 else 'mean_auc'} {sum(areas) / len(areas):.4f}")
        codes = [classes.index(label) for label in labels]
        lines.append(f"log_loss {log_loss(codes, table[columns], labels=range(len(classes))):.4f}")
    whole = pairs.apply(lambda column: column.str.fullmatch(r"-?\d+")).to_numpy().all()
    if whole and labels.nunique() > 2:
        lines.append(f"qwk {cohen_kappa_score(*(pairs[name].astype(int) for name in pairs), weights='quadratic'):.4f}")
    return lines


def format_accuracy(rows: pd.DataFrame) -> str:
    """Return `0.9345 [0.9278, 0.9406], 5,334 of 5,708 right` of rows with label and pred."""
    from facefold.ensemble.scores import score_decisions

    correct = rows["label"] == rows["pred"]
    score = "{accuracy:.4f} [{low:.4f}, {high:.4f}]".format(**score_decisions(correct))
    return f"{score}, {correct.sum():,} of {len(rows):,} right"


if __name__ == "__main__":
    run_main(main)
