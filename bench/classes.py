"""Seconds and memory of a blend of many classes, on probabilities that are drawn.

    python bench/classes.py [CLASSES [ROWS [MEMBERS]]] [--metric accuracy] [--test-rows 2000] [--methods]

Members are softmaxes of noisy logits, of growing noise; a part of the noise is shared, as that of an image is. The
features are taken as computed already (a noisy mean). Prints the size of the matrix, the seconds of each method's fit
and prediction if --methods asks for them, the seconds of the whole blend with the choice nested, the headline, and the
peak of the process's memory above what it had before.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from facefold.ensemble.blend import make_blend  # noqa: E402
from facefold.ensemble.leaderboard import format_headline  # noqa: E402
from facefold.ensemble.members import OofMatrix, Rows  # noqa: E402
from facefold.ensemble.methods import target_methods  # noqa: E402
from facefold.ensemble.scores import class_prob  # noqa: E402
from facefold.ensemble.stacking import Stacked  # noqa: E402
from facefold.task import METRICS, Task  # noqa: E402

FOLDS = 5
SKILL = 5.0  # of the logit of a row's own class
SUBMITS_LABELS = ("accuracy", "macro_f1", "balanced_accuracy", "qwk")


def draw_prob(labels: np.ndarray, classes: int, members: int, draw: np.random.Generator) -> np.ndarray:
    """Return float64 (n, m, C)."""
    prob = np.empty((len(labels), members, classes))
    shared = 1.5 * draw.normal(size=(len(labels), classes))
    for j in range(members):
        logits = shared + (1.0 + 0.3 * j) * draw.normal(size=shared.shape)
        logits[np.arange(len(labels)), labels] += SKILL
        prob[:, j] = class_prob(logits)
    return prob


def draw_matrix(task: Task, rows: int, test_rows: int, members: int) -> tuple[OofMatrix, Stacked]:
    draw, classes = np.random.default_rng(0), len(task.classes)
    labels = draw.permutation(np.arange(rows) % classes)
    prob = draw_prob(labels, classes, members, draw)
    test = np.stack([draw_prob(np.arange(test_rows) % classes, classes, members, draw) for _ in range(FOLDS)])
    ids, names = [str(row) for row in range(rows)], [f"member{j}" for j in range(members)]
    test_ids = [f"t{row}" for row in range(test_rows)]
    fold = draw.permutation(np.arange(rows) % FOLDS)
    matrix = OofMatrix(ids, labels, fold, np.array(ids), names, prob, test_ids, test, task)
    return matrix, Stacked(prob.mean(axis=1), test.mean(axis=(0, 2)))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classes", type=int, nargs="?", default=120)
    parser.add_argument("rows", type=int, nargs="?", default=18_000)
    parser.add_argument("members", type=int, nargs="?", default=4)
    parser.add_argument("--metric", default="accuracy", choices=METRICS["multiclass"])
    parser.add_argument("--test-rows", type=int, default=2_000)
    parser.add_argument("--methods", action="store_true", help="time the fit of each method first")
    args = parser.parse_args()
    submission = "labels" if args.metric in SUBMITS_LABELS else "probabilities"
    names = tuple(f"class{c}" for c in range(args.classes))
    task = Task(kind="multiclass", classes=names, metric=args.metric, submission=submission)
    matrix, stacked = draw_matrix(task, args.rows, args.test_rows, args.members)
    size = (matrix.prob.nbytes + matrix.fold_test_prob.nbytes) / 1e6
    print(f"{args.classes} classes x {args.rows:,} rows x {args.members} members, {task.metric}: {size:.0f} MB")
    for name, fit in target_methods(task).items() if args.methods else ():
        rows, started = Rows(matrix.prob, stacked.oof), time.perf_counter()
        fitted = fit(rows, matrix.labels, matrix.fold)
        between = time.perf_counter()
        fitted.predict(rows)
        print(f"{name:16} {between - started:6.2f} s to fit, {time.perf_counter() - between:6.2f} s to predict")
    before, started, cpu = peak_mb(), time.perf_counter(), time.process_time()
    blend = make_blend(matrix, stacked, "auto", "auto")
    seconds, cpu, peak = time.perf_counter() - started, time.process_time() - cpu, peak_mb() - before
    print(f"blend {seconds:.0f} s, {cpu:.0f} s of all cores, peak {peak:.0f} MB above the {before:.0f} MB before")
    print(format_headline(blend.facts))
    print(blend.facts["why"])


if __name__ == "__main__":
    main()
