r"""Measure how seconds and memory of every step grow with the number of images.

    python bench/scaling.py [--sizes 1000,4000,18000,100000] [--train-up-to 18000] [--pixels 64] [--work DIR] \
        [--json FILE]
    python bench/scaling.py --sizes 1000000 --pixels 32 --tests 200000 --steps audit,split,again,train \
        --recipe demo_cnn@1 --train-up-to 1000000 --keep DIR

For each size n a synthetic competition of n train and n / 3 (or --tests) test images is written (data/synthetic.py),
and every step runs as a user runs it, each in its own process, whose tree is watched 20 times a second:

    audit    all images are opened once
    split    5 folds
    again    audit once more: nothing has changed
    train    one fold of --recipe, one thread, up to --train-up-to rows; with the cache's decoding and test predictions
    blend    two recipes' synthetic runs (1,280 and 256 features per row)
    report   of that blend

Seconds are of the wall, CPU seconds of all processes. `anon` is memory that is not pages of mapped files (RssAnon),
`resident` is all (VmHWM), both summed over the processes alive at once, at their peak. Below are the exponents between
each two sizes (slope in log-log) of CPU seconds and of anonymous memory, both with the start of Python in them, so that
small sizes look flatter than they are. A step whose CPU exponent between the two largest sizes it ran at is above 1.1
grows faster than linearly; one whose anonymous memory grows there by more than 10 % does so with the data, by the bytes
per row that are printed. Linux only.
"""

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import tree

SRC = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SRC))

from facefold.data.competition import load_competition  # noqa: E402
from facefold.data.folds import load_folds  # noqa: E402
from facefold.data.image_hashes import load_images_hash  # noqa: E402
from facefold.data.synthetic import write_synthetic_competition  # noqa: E402
from facefold.models.recipe import load_recipe  # noqa: E402
from facefold.runs import Identity, fold_dir, seal_fold, write_history, write_predictions  # noqa: E402
from facefold.utils.files import write_text  # noqa: E402

SYNTHETIC_RUNS = {"lite0": (1.0, 1280), "cnn5": (1.4, 256)}  # recipe: noise of its logits, features per row
STEPS = ("audit", "split", "again", "train", "blend", "report")
SUPERLINEAR, GROWS = 1.1, 1.1


def write_synthetic_runs(root: Path) -> None:
    """Write finished `SYNTHETIC_RUNS` on the folds of root: logits are labels and noise, features know the logit."""
    competition, folds = load_competition(root), load_folds(root)
    for number, (name, (noise, width)) in enumerate(SYNTHETIC_RUNS.items()):
        draw = np.random.default_rng(number)
        identity = Identity(name, load_recipe(name).hash, folds.hash, load_images_hash(root), seed=0)
        for k in range(folds.k):
            directory, valid = fold_dir(root, name, k), folds.valid(k)
            kinds = {"oof": valid["label"].to_numpy(), "test": draw.integers(0, 2, len(competition.test))}
            for (part, kind), ids in zip(kinds.items(), (valid["id"], competition.test["id"])):
                logit = (2 * kind - 1) * 1.5 + noise * draw.normal(size=len(ids))
                features = draw.normal(size=(len(ids), width)).astype(np.float32) + 0.1 * logit[:, None]
                write_predictions(directory, part, ids.tolist(), 1 / (1 + np.exp(-logit)), features)
            write_history(
                directory,
                pd.DataFrame(
                    {
                        "epoch": [0, 1],
                        "lr": 1e-3,
                        "train_loss": [0.6, 0.4],
                        "valid_loss": [0.5, 0.4],
                        "valid_acc": [0.8, 0.9],
                        "seconds": 1.0,
                    }
                ),
            )
            write_text(directory / "weights.safetensors", "synthetic")
            seal_fold(directory, identity, {"seconds": 2.0, "device": "cpu", "precision": "float32"})


def measured(step: str, root: Path, *options: str) -> dict[str, float]:
    """Run a step; return wall and CPU seconds and peaks in MiB. A failing step ends the bench with its output."""
    with tempfile.TemporaryFile("w+") as output:
        started, peaks = time.perf_counter(), tree.Peaks()
        process = tree.start(
            [sys.executable, SRC / f"{step}.py", "--root", root, *options], stdout=output, stderr=output
        )
        try:
            while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                peaks.sample(process.pid)
                time.sleep(0.05)
            seconds, cpu_seconds = time.perf_counter() - started, tree.waited(process)
        finally:
            tree.end(process)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{step}.py on {root} ended with exit code {process.returncode}:\n{output.read()}")
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "anon": peaks.anonymous, "resident": peaks.high_water}


def slope(small: tuple[float, float], large: tuple[float, float]) -> float:
    """Return the exponent of growth between (n, value) and (n, value)."""
    return math.log(large[1] / small[1]) / math.log(large[0] / small[0])


def steps_at(size: int, root: Path, args: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the steps of --steps in order, each as its name and the result of `measured`."""
    write_synthetic_competition(root, train=size, test=args.tests or size // 3, size=args.pixels)
    options = {
        "audit": (),
        "split": (),
        "again": (),
        "report": (),
        "blend": ("--recipes", ",".join(SYNTHETIC_RUNS)),
        "train": ("--recipe", args.recipe, "--fold", "0", "--workers", "1", "--device", "cpu"),
    }
    for step in args.steps.split(","):
        if step == "train" and size > args.train_up_to:
            continue
        if step == "blend":
            write_synthetic_runs(root)
        yield step, measured("audit" if step == "again" else step, root, *options[step])


def verdict(sizes: list[int], rows: list[dict[str, float]]) -> str:
    """Describe how a step grows between the two largest sizes."""
    (small, large), (before, after) = sizes[-2:], rows[-2:]
    exponent = slope((small, before["cpu_seconds"]), (large, after["cpu_seconds"]))
    growth = f"{'' if exponent > SUPERLINEAR else 'not '}faster than linear ({exponent:.2f}), anonymous memory "
    row_bytes = (after["anon"] - before["anon"]) * 2**20 / (large - small)
    return growth + (
        f"grows by {row_bytes:,.0f} bytes per row" if after["anon"] > GROWS * before["anon"] else "does not grow"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes",
        default="1000,4000,18000,100000",
        metavar="N[,N]",
        help="train rows (default: 1000,4000,18000,100000)",
    )
    parser.add_argument(
        "--train-up-to",
        type=int,
        default=18_000,
        metavar="N",
        help="the train step runs at no larger size (default: 18000)",
    )
    parser.add_argument("--pixels", type=int, default=64, help="a side of the images (default: 64)")
    parser.add_argument("--tests", type=int, metavar="N", help="test rows (default: a third of the train rows)")
    parser.add_argument(
        "--steps", default=",".join(STEPS), metavar="STEP[,STEP]", help=f"of {','.join(STEPS)} (default: all)"
    )
    parser.add_argument(
        "--recipe", default="demo_cnn", metavar="NAME", help="what the train step trains (default: demo_cnn)"
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="write the competition there, or take the one that is there, and keep it",
    )
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="where to create the temporary folder (default: the system's)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well, after each step")
    args = parser.parse_args()
    if unknown := set(args.steps.split(",")) - set(STEPS):
        parser.error(f"--steps {','.join(sorted(unknown))}: the steps are {','.join(STEPS)}")
    if args.keep and "," in args.sizes:
        parser.error("--keep DIR holds a competition of one size")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results: dict[int, dict[str, dict[str, float]]] = {}
    print(
        f"{'rows':>8} {'step':8}{'seconds':>10}{'CPU s':>10}{'CPU ms per row':>14}{'anon MiB':>10}{'resident MiB':>14}"
    )
    for size in sorted(int(part) for part in args.sizes.split(",")):
        with (
            nullcontext(args.keep)
            if args.keep
            else tempfile.TemporaryDirectory(prefix="scaling_", dir=args.work) as folder
        ):
            for step, row in steps_at(size, Path(folder), args):
                results.setdefault(size, {})[step] = row
                print(
                    f"{size:>8} {step:8}{row['seconds']:>10.1f}{row['cpu_seconds']:>10.1f}"
                    f"{1000 * row['cpu_seconds'] / size:>14.2f}{row['anon']:>10.0f}{row['resident']:>14.0f}",
                    flush=True,
                )
                if args.json:
                    args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for step in results[min(results)]:
        sizes = [size for size in results if step in results[size]]
        if len(sizes) > 1:
            pairs = [
                (small, large, results[small][step], results[large][step]) for small, large in zip(sizes, sizes[1:])
            ]
            print(
                f"\n{step:8}"
                + "".join(
                    f"  {small} to {large}: CPU "
                    f"{slope((small, before['cpu_seconds']), (large, after['cpu_seconds'])):.2f}, anon "
                    f"{slope((small, before['anon']), (large, after['anon'])):.2f}"
                    for small, large, before, after in pairs
                )
                + f"\n{'':8}  {verdict(sizes, [results[size][step] for size in sizes])}"
            )


if __name__ == "__main__":
    main()
