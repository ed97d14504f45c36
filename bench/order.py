"""Measure what the order of the ids is worth: accuracy before and after, for classifiers from good to poor.

    python bench/order.py TRAIN_CSV ORDER_CSV OOF_CSV

TRAIN_CSV (id,label), ORDER_CSV (id,rank: each train row's rank by the hidden key), OOF_CSV (id,prob: of
all train rows or of some). The labelled rows are renumbered as the published competition was: a random split of 13,666
and 4,334 of 18,000, each part in the order of the ranks. Noise on the logits simulates poorer classifiers.

Rows without a probability take that of one of the five rows of the same label next to them in rank, so that hard
stretches of the order stay hard: drawn from anywhere, errors would be independent and the decoders would look better
than they are. `real rows` are those of OOF_CSV alone, with all others as train rows, so that only the noise is
simulated; it is printed if OOF_CSV has some rows only.

                 before     hmm   align  seconds of align
    renumbered   0.9423  0.9809  0.9882  2.4
    renumbered   0.9289  0.9721  0.9848  2.1
    renumbered   0.8676  0.9470  0.9725  1.9
    renumbered   0.8010  0.9404  0.9657  2.2

(18,000 faces, all out-of-fold rows of lite0, means of 3 splits, two busy cores. The first row is the classifier as it
is, the others have noise. A change of label read too early or too late costs several rows at once, so the numbers move
with the split.)
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from facefold.ensemble.leaks.order import DECODERS, decode_order  # noqa: E402
from facefold.ensemble.scores import TINY, decide  # noqa: E402

SHARE = 4334 / 18000
ACCURACIES = (None, 0.93, 0.87, 0.80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("order")
    parser.add_argument("oof")
    parser.add_argument("--splits", type=int, default=3, help="random splits of the labelled rows (default: 3)")
    args = parser.parse_args()
    text = {"id": str}
    rows = pd.read_csv(args.train, dtype=text).merge(pd.read_csv(args.order, dtype=text), on="id")
    rows = rows.merge(pd.read_csv(args.oof, dtype=text), on="id", how="left").sort_values("rank")
    labels, real, rng = rows["label"].to_numpy(), rows["prob"].notna().to_numpy(), np.random.default_rng(0)
    logits = filled(rows["prob"].to_numpy(), labels, rng)

    print(f"{'':12} before     hmm   align  seconds of align")
    for accuracy in ACCURACIES:
        noisy = logits + noise_for(accuracy, logits[real], labels[real], rng) * rng.normal(size=len(logits))
        prob = 1 / (1 + np.exp(-noisy))
        if not real.all():
            print_means("real rows", [held_out(real, labels, prob)])
        splits = [rng.permutation(len(labels)) < SHARE * len(labels) for _ in range(args.splits)]
        print_means("renumbered", [held_out(test, labels, prob) for test in splits])


def filled(prob: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return logits (n,) in order of rank; missing ones are drawn from five neighbours of the same label."""
    clipped = np.clip(prob, TINY, 1 - TINY)
    logits, known = np.log(clipped / (1 - clipped)), ~np.isnan(prob)
    for label in (0, 1):
        have, lack = np.flatnonzero(known & (labels == label)), np.flatnonzero(~known & (labels == label))
        near = np.searchsorted(have, lack) + rng.integers(-3, 2, size=len(lack))
        logits[lack] = logits[have[np.clip(near, 0, len(have) - 1)]]
    return logits


def noise_for(accuracy: float | None, logits: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> float:
    """Return the deviation of noise that lowers the accuracy to `accuracy`; 0 for None or if it is lower already."""
    if accuracy is None:
        return 0.0
    draw, low, high = rng.normal(size=(8, len(logits))), 0.0, 50.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if (((logits + middle * draw) >= 0) == labels).mean() > accuracy else (low, middle)
    return low


def held_out(test: np.ndarray, labels: np.ndarray, prob: np.ndarray) -> tuple[float, float, float, float]:
    """Return accuracies on the rows `test` without order, by hmm and by align, and align's seconds.

    Train and test rows are each renumbered in order.
    """
    train_ids, test_ids = [[str(i) for i in range(1, n + 1)] for n in ((~test).sum(), test.sum())]
    right, seconds = [(decide(prob[test]) == labels[test]).mean()], 0.0
    for name in DECODERS:
        begun = time.perf_counter()
        decoded = decode_order(name, train_ids, labels[~test], prob[~test], test_ids, prob[test])
        seconds = time.perf_counter() - begun
        right.append((decide(decoded) == labels[test]).mean())
    return *right, seconds


def print_means(what: str, results: list[tuple]) -> None:
    before, hmm, align, seconds = np.mean(results, axis=0)
    print(f"{what:12} {before:.4f}  {hmm:.4f}  {align:.4f}  {seconds:.1f}")


if __name__ == "__main__":
    main()
