"""Seconds and memory of ensemble selection at the size of a large competition.

    python bench/greedy.py [MEMBERS [ROWS]]

Prints the size of the matrix, the seconds of one fit with all its bags, and the peak of the memory allocated meanwhile.
"""

import argparse
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from facefold.ensemble.greedy import search_greedy_weights  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("members", type=int, nargs="?", default=50)
    parser.add_argument("rows", type=int, nargs="?", default=18_000)
    args = parser.parse_args()
    members, rows = args.members, args.rows
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, rows)
    skill = draw.uniform(1, 3, members)
    prob = 1 / (1 + np.exp(-(2 * labels[:, None] - 1) * skill - draw.normal(size=(rows, members)) * 2))
    started = time.perf_counter()
    search_greedy_weights(prob, labels)
    seconds = time.perf_counter() - started
    tracemalloc.start()
    search_greedy_weights(prob, labels)
    peak = tracemalloc.get_traced_memory()[1]
    print(
        f"{members} members x {rows:,} rows ({prob.nbytes / 1e6:.1f} MB): {seconds:.2f} s, peak {peak / 1e6:.1f} MB "
        "above it"
    )


if __name__ == "__main__":
    main()
