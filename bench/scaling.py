"""How seconds and memory of every step grow with the number of images.

    python bench/scaling.py [--sizes 1000,4000,18000,100000] [--train-up-to 18000] [--pixels 64] [--work DIR] [--json
    FILE] python bench/scaling.py --sizes 1000000 --pixels 32 --tests 200000 --steps audit,split,again,train --recipe
    demo_cnn@1 \
                            --train-up-to 1000000 --keep DIR

For each size n a competition of n train and n / 3 (or --tests) test images is drawn (data/synthetic.py), and every step
runs as a person runs it, each in a process of its own whose tree is watched 20 times a second:

    audit    all images are opened once              train    one fold of --recipe, one thread, up to --train-up-to rows; the
    split    5 folds                                          decoding of the cache and the test predictions are in it
    again    audit once more: nothing has changed    blend    two recipes' runs, made up (1,280 and 256 features a row)
                                                     report   of that blend

Seconds are of the wall, CPU seconds of all processes. `anon` is memory that is not pages of mapped files (RssAnon),
`resident` is all (VmHWM), both summed over the processes alive at once, at their peak. Below are the exponents between
each two sizes (slope in log-log) of CPU seconds and of anonymous memory, both with the start of Python in them, so that
small sizes look flatter than they are. A step whose CPU exponent between the two largest sizes it ran at is above 1.1
grows faster than linearly; one whose anonymous memory grows there by more than 10 % does so with the data, by the bytes
a row that are printed. Linux only.
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

from facefold.data.audit import load_images_hash  # noqa: E402
from facefold.data.competition import load_competition  # noqa: E402
from facefold.data.folds import load_folds  # noqa: E402
from facefold.data.synthetic import write_synthetic_competition  # noqa: E402
from facefold.models.recipe import load_recipe  # noqa: E402
from facefold.runs import Identity, fold_dir, seal_fold, write_history, write_predictions  # noqa: E402
from facefold.utils.files import write_text  # noqa: E402

MADE_UP = {"lite0": (1.0, 1280), "cnn5": (1.4, 256)}  # recipe: noise of its logits, features a row
STEPS = ("audit", "split", "again", "train", "blend", "report")
SUPERLINEAR, GROWS = 1.1, 1.1


def make_up_runs(root: Path) -> None:
    """Finished runs of `MADE_UP` on the folds of root: wrong where noise says so, features that know the logit."""
    competition, folds = load_competition(root), load_folds(root)
    for number, (name, (noise, width)) in enumerate(MADE_UP.items()):
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
            write_text(directory / "weights.safetensors", "made up")
            seal_fold(directory, identity, {"seconds": 2.0, "device": "cpu", "precision": "float32"})


def measured(step: str, root: Path, *options: str) -> dict[str, float]:
    """Run a step and watch it: wall and CPU seconds, peaks in MiB. A step that fails ends the bench with what it
    said.
    """
    with tempfile.TemporaryFile("w+") as said:
        started, peaks = time.perf_counter(), tree.Peaks()
        process = tree.start([sys.executable, SRC / f"{step}.py", "--root", root, *options], stdout=said, stderr=said)
        try:
            while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                peaks.sample(process.pid)
                time.sleep(0.05)
            seconds, cpu_seconds = time.perf_counter() - started, tree.waited(process)
        finally:
            tree.end(process)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{step}.py on {root} ended with exit code {process.returncode}:\n{said.read()}")
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "anon": peaks.anonymous, "resident": peaks.high_water}


def slope(small: tuple[float, float], large: tuple[float, float]) -> float:
    """The exponent of growth between (n, value) and (n, value)."""
    return math.log(large[1] / small[1]) / math.log(large[0] / small[0])


def steps_at(size: int, root: Path, args: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """The steps asked for in their order, each as its name and what `measured` gave."""
    write_synthetic_competition(root, train=size, test=args.tests or size // 3, size=args.pixels)
    options = {
        "audit": (),
        "split": (),
        "again": (),
        "report": (),
        "blend": ("--recipes", ",".join(MADE_UP)),
        "train": ("--recipe", args.recipe, "--fold", "0", "--workers", "1", "--device", "cpu"),
    }
    for step in args.steps.split(","):
        if step == "train" and size > args.train_up_to:
            continue
        if step == "blend":
            make_up_runs(root)
        yield step, measured("audit" if step == "again" else step, root, *options[step])


def verdict(sizes: list[int], rows: list[dict[str, float]]) -> str:
    """What the two largest sizes say of a step."""
    (small, large), (before, after) = sizes[-2:], rows[-2:]
    exponent = slope((small, before["cpu_seconds"]), (large, after["cpu_seconds"]))
    said = f"{'' if exponent > SUPERLINEAR else 'not '}faster than linear ({exponent:.2f}), anonymous memory "
    bytes_a_row = (after["anon"] - before["anon"]) * 2**20 / (large - small)
    return said + (
        f"grows by {bytes_a_row:,.0f} bytes a row" if after["anon"] > GROWS * before["anon"] else "does not grow"
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
    parser.add_argument("--pixels", type=int, default=64, help="a side of the drawn images (default: 64)")
    parser.add_argument("--tests", type=int, metavar="N", help="test rows (default: a third of the train rows)")
    parser.add_argument(
        "--steps", default=",".join(STEPS), metavar="STEP[,STEP]", help=f"of {','.join(STEPS)} (default: all)"
    )
    parser.add_argument(
        "--recipe", default="demo_cnn", metavar="NAME", help="what the train step trains (default: demo_cnn)"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="draw the competition there, or take the one drawn there, and leave it"
    )
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="where the temporary folder is made (default: the system's)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well, after each step")
    args = parser.parse_args()
    if strange := set(args.steps.split(",")) - set(STEPS):
        parser.error(f"--steps {','.join(sorted(strange))}: the steps are {','.join(STEPS)}")
    if args.keep and "," in args.sizes:
        parser.error("--keep DIR holds a competition of one size")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found: dict[int, dict[str, dict[str, float]]] = {}
    print(f"{'rows':>8} {'step':8}{'seconds':>10}{'CPU s':>10}{'CPU ms a row':>14}{'anon MiB':>10}{'resident MiB':>14}")
    for size in sorted(int(part) for part in args.sizes.split(",")):
        with (
            nullcontext(args.keep)
            if args.keep
            else tempfile.TemporaryDirectory(prefix="scaling_", dir=args.work) as folder
        ):
            for step, row in steps_at(size, Path(folder), args):
                found.setdefault(size, {})[step] = row
                print(
                    f"{size:>8} {step:8}{row['seconds']:>10.1f}{row['cpu_seconds']:>10.1f}"
                    f"{1000 * row['cpu_seconds'] / size:>14.2f}{row['anon']:>10.0f}{row['resident']:>14.0f}",
                    flush=True,
                )
                if args.json:
                    args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for step in found[min(found)]:
        sizes = [size for size in found if step in found[size]]
        if len(sizes) > 1:
            pairs = [(small, large, found[small][step], found[large][step]) for small, large in zip(sizes, sizes[1:])]
            print(
                f"\n{step:8}"
                + "".join(
                    f"  {small} to {large}: CPU "
                    f"{slope((small, before['cpu_seconds']), (large, after['cpu_seconds'])):.2f}, anon "
                    f"{slope((small, before['anon']), (large, after['anon'])):.2f}"
                    for small, large, before, after in pairs
                )
                + f"\n{'':8}  {verdict(sizes, [found[size][step] for size in sizes])}"
            )


if __name__ == "__main__":
    main()
