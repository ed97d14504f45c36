"""Score a submission against the answers, where they are known.

    python src/score.py submissions/submission.csv solution.csv

Both files are id,label (label 0 or 1) with the same ids in any order; what follows these columns in the solution is ignored.
Prints the accuracy with its 95 % interval (Wilson 1927), over all rows and by the answer. Reads nothing else: --root is not used.
"""

from pathlib import Path

import pandas as pd

from facefold.cli import build_parser, run_main
from facefold.ensemble.answers import load_answers
from facefold.ensemble.metrics import wilson_interval


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("submission", type=Path, metavar="SUBMISSION", help="id,label as handed in")
    parser.add_argument("solution", type=Path, metavar="SOLUTION", help="id,label,.. as they should be")
    args = parser.parse_args()
    table = load_answers(args.submission, args.solution)
    print(f"accuracy {accuracy(table)}")
    for label, rows in table.groupby("label"):
        print(f"label {label}  {accuracy(rows)}")


def accuracy(rows: pd.DataFrame) -> str:
    """`0.9345 [0.9278, 0.9406], 5,334 of 5,708 right` of rows with label and given."""
    right = int((rows["label"] == rows["given"]).sum())
    low, high = wilson_interval(right, len(rows))
    return f"{right / len(rows):.4f} [{low:.4f}, {high:.4f}], {right:,} of {len(rows):,} right"


if __name__ == "__main__":
    run_main(main)
