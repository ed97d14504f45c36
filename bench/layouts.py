"""Run the whole job on each of eleven layouts of real competitions, and score its submission by their answers.

    python bench/layouts.py LAYOUTS [--only cassava,png] [--recipe demo_cnn] [--folds 2] [--out table.csv]

LAYOUTS is a folder that holds, for each name below, the folder <name>/ as downloaded and <name>-solution.csv. Each runs
as a user would: `run_all.py --data LAYOUTS/<name>`, with --metric where the files cannot tell it. Next to the score
stands that of a constant answer: the most frequent label, or the shares of the classes, of the train rows.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, cohen_kappa_score, log_loss, roc_auc_score

RUN_ALL = Path(__file__).resolve().parents[1] / "src" / "run_all.py"


@dataclass(frozen=True)
class Layout:
    """metric: of the competition; named: whether its user has to name it."""

    metric: str
    named: bool = False


LAYOUTS = {
    "cassava": Layout("accuracy"),
    "melanoma": Layout("auc", named=True),
    "dogbreed": Layout("log_loss"),
    "imagefolder": Layout("accuracy"),
    "png": Layout("accuracy"),
    "text": Layout("accuracy"),
    "extension": Layout("accuracy"),
    "extra": Layout("accuracy"),
    "proba": Layout("auc"),
    "aptos": Layout("qwk", named=True),
    "onehot": Layout("mean_auc", named=True),
}


def read(path: Path) -> pd.DataFrame:
    """Read a csv file as text, indexed by its first column."""
    return pd.read_csv(path, dtype=str, keep_default_na=False).pipe(lambda table: table.set_index(table.columns[0]))


def score(metric: str, submission: pd.DataFrame, solution: pd.DataFrame) -> float:
    """Return the metric of a submission; both are indexed by the same ids."""
    if set(submission.index) != set(solution.index):
        raise SystemExit(f"the submission has other ids: {sorted(set(submission.index) ^ set(solution.index))[:3]}")
    submission = submission.loc[solution.index]
    if metric == "mean_auc":
        return float(
            roc_auc_score(solution.to_numpy(float), submission[list(solution)].to_numpy(float), average="macro")
        )
    answers = solution.iloc[:, 0]
    if metric == "log_loss":
        columns = sorted(submission)
        return float(log_loss(answers, submission[columns].to_numpy(float), labels=columns))
    by_metric: dict[str, Callable[[], float]] = {
        "accuracy": lambda: accuracy_score(answers, submission.iloc[:, 0]),
        "auc": lambda: roc_auc_score(answers.astype(int), submission.iloc[:, 0].astype(float)),
        "qwk": lambda: cohen_kappa_score(answers.astype(int), submission.iloc[:, 0].astype(int), weights="quadratic"),
    }
    return float(by_metric[metric]())


def constant_answer(metric: str, oof_labels: np.ndarray, classes: list[str], like: pd.DataFrame) -> pd.DataFrame:
    """Return the answer that is the same for every row: the most frequent label, or the classes' shares."""
    shares = np.bincount(oof_labels, minlength=len(classes)) / len(oof_labels)
    if metric in ("accuracy", "qwk"):
        return like.assign(**{like.columns[0]: classes[int(shares.argmax())]})
    values = shares[1:] if like.shape[1] == 1 else shares
    return like.assign(**dict(zip(like.columns, values, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layouts", type=Path)
    parser.add_argument("--only", default=",".join(LAYOUTS))
    parser.add_argument("--recipe", default="demo_cnn")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="the table as csv")
    args = parser.parse_args()
    sys.path.insert(0, str(RUN_ALL.parent))
    from facefold.task import load_task

    rows = []
    for name in args.only.split(","):
        layout = LAYOUTS[name]
        with tempfile.TemporaryDirectory() as folder:
            root, started = Path(folder), time.monotonic()
            options = ["--metric", layout.metric] if layout.named else []
            command = [sys.executable, RUN_ALL, "--root", root, "--data", args.layouts / name, *options]
            command += ["--recipes", args.recipe, "--folds", str(args.folds), "--quiet"]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: exit code {done.returncode}: {done.stderr.strip()}", flush=True)
                continue
            seconds, task = time.monotonic() - started, load_task(root)
            submission, solution = (
                read(root / "submissions" / "submission.csv"),
                read(args.layouts / f"{name}-solution.csv"),
            )
            oof = pd.read_csv(root / "submissions" / "oof_blend.csv")
            constant = constant_answer(layout.metric, oof["label"].to_numpy(), list(task.classes), submission)
            nested = done.stdout.strip().rpartition(": nested ")[2]
            row = (name, task.kind, task.metric, task.submission, score(layout.metric, submission, solution))
            row += (score(layout.metric, constant, solution), nested, round(seconds))
        rows.append(row)
        print("{:12} {:10} {:9} {:13} {:.4f} (constant {:.4f}); nested {}; {} s".format(*row), flush=True)
    table = pd.DataFrame(rows, columns=["layout", "kind", "metric", "form", "score", "constant", "nested", "seconds"])
    if args.out:
        table.to_csv(args.out, index=False)
    if len(rows) < len(args.only.split(",")):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
