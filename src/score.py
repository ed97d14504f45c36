"""Score a submission against the answers, if they are known.

    python src/score.py submissions/submission.csv solution.csv

Both files are id,label (label 0 or 1) with the same ids in any order; further columns of the solution are ignored.
Prints the accuracy with its 95 % interval (Wilson 1927), over all rows and by the answer. Reads nothing else: --root is
not used.
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

    from facefold.ensemble.submission import load_answers

    table = load_answers(args.submission, args.solution)
    print(f"accuracy {format_accuracy(table)}")
    for label, rows in table.groupby("label"):
        print(f"label {label}  {format_accuracy(rows)}")


def format_accuracy(rows: pd.DataFrame) -> str:
    """Return `0.9345 [0.9278, 0.9406], 5,334 of 5,708 right` of rows with label and pred."""
    from facefold.ensemble.scores import score_decisions

    correct = rows["label"] == rows["pred"]
    score = "{accuracy:.4f} [{low:.4f}, {high:.4f}]".format(**score_decisions(correct))
    return f"{score}, {correct.sum():,} of {len(rows):,} right"


if __name__ == "__main__":
    run_main(main)
