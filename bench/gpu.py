r"""Measure how near the product's training step comes to a GPU's limit, and where a whole job's seconds go.

    python bench/gpu.py [--recipes lite0~augmenter=batch,..] [--batch 64] [--repeats 200] [--data ZIP] [--json FILE]

Needs a CUDA GPU; at most 4 minutes. Every recipe trains on images in the GPU's memory, drawn at random, as a fold does:
rows and draws are made by the processor in a thread, the step is `DeviceStep`, augmentation, optimiser and moving
average included. In milliseconds per step, each a median of --repeats after a warm-up:

    step     what the trainer takes, in a row, until the last one is done; and images per second
    replay   the recorded graph alone, repeated in a row: what the GPU needs
    eager    the same functions, each kernel launched by the processor

`of limit` is the step's floating point operations (two per multiply-add; convolutions and matrix products, forward and
backward) per second as a share of what a product of two square matrices in half precision reaches there. `drawing` is
what the processor needs to draw a batch, without the copy to pinned memory: while it is less than the step, the GPU
does not wait.

With --data a whole job follows, in its own process: `run_all.py --data ZIP --recipes R --device cuda` in a new folder,
R the first recipe, seconds by phase as it prints them.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

SRC = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SRC))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from steps import backward_flops  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from facefold.data.cache import ImageCache  # noqa: E402
from facefold.models.recipe import Recipe, load_recipe  # noqa: E402
from facefold.training.device_batch import read_ahead  # noqa: E402
from facefold.training.device_step import EAGER_STEPS  # noqa: E402
from facefold.training.fold import FoldTrainer  # noqa: E402
from facefold.training.fold_task import FoldTask  # noqa: E402

# The models of the table in docs/results.md, without pretrained weights: a step costs the same.
RECIPES = (
    "lite0~augmenter=batch~freeze_stages=0~weights=none",
    "lite2_224~weights=none",
    "resnet50~weights=none",
    "convnext_tiny~weights=none",
    "vit_small~weights=none",
    "efficientnetv2_s~weights=none",
)
ROWS, WARM_UP, SQUARE = 2048, 2 * EAGER_STEPS + 4, 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default=",".join(RECIPES), help="default: six models of docs/results.md")
    parser.add_argument("--batch", type=int, default=64, help="rows of a batch, whatever the recipe says (default: 64)")
    parser.add_argument("--repeats", type=int, default=200, help="steps of each kind (default: 200)")
    parser.add_argument("--data", type=Path, metavar="ZIP", help="a competition, for a whole job")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "bench/gpu.py: torch sees no CUDA GPU here\n")
    torch.backends.cudnn.benchmark = True
    device, started = torch.device("cuda"), time.perf_counter()
    limit = matrix_limit(device)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {args.batch}, n = {args.repeats}")
    print(f"{half_format()} product of {SQUARE} x {SQUARE}: {limit / 1e12:.0f} TFLOP/s")
    print(
        f"{'recipe':52} {'step':>7} {'images/s':>9} {'replay':>7} {'ratio':>6} {'eager':>7} {'drawing':>8} "
        f"{'of limit':>9}"
    )
    rows = []
    for name in args.recipes.split(","):
        rows.append(measure(load_recipe(name.strip()), args.batch, args.repeats, device, limit))
        print(format_row(rows[-1]), flush=True)
    print(f"{time.perf_counter() - started:.0f} s")
    if args.data:
        whole_job(args.data.resolve(), args.recipes.split(",")[0])
    if args.json:
        args.json.write_text(json.dumps({"limit": limit, "rows": rows}, indent=1))


def matrix_limit(device: torch.device) -> float:
    """Return the floating point operations per second of a product of matrices in half precision: the best of 20."""
    left, right = (torch.randn(SQUARE, SQUARE, device=device, dtype=half_format()) for _ in range(2))
    return max(2 * SQUARE**3 / (seconds(lambda: left @ right, 5) / 5) for _ in range(20))


def half_format() -> torch.dtype:
    """Return the format that recipes train in on this GPU."""
    return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16


def seconds(work: Callable[[], object], count: int) -> float:
    """Return the seconds of `count` times `work` in a row, until the GPU is done."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def make_trainer(recipe: Recipe, batch: int, device: torch.device, folder: Path) -> FoldTrainer:
    """Return the trainer of a fold of noise, with batches of `batch` rows."""
    noise = np.random.default_rng(0).integers(0, 256, (ROWS + 8, *recipe.shape, 3), dtype=np.uint8)
    cache = ImageCache([str(row) for row in range(ROWS + 8)], noise)
    table = pd.DataFrame({"id": cache.ids, "label": np.arange(len(noise)) % 2, "group": cache.ids})
    settings = {**vars(recipe), "batch": batch, "start_size": 0}
    recipe = Recipe(**{name: value for name, value in settings.items() if name in Recipe.__dataclass_fields__})
    task = FoldTask(recipe, 0, 0, table[:ROWS], table[ROWS:], cache, cache, folder / "checkpoint.pt", {}, folder)
    return FoldTrainer(task, device)


def measure(recipe: Recipe, batch: int, repeats: int, device: torch.device, limit: float) -> dict:
    """Return the figures of one recipe, see the module."""
    gc.collect()  # the trainer before this one
    torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(recipe, batch, device, Path(folder))
    trainer.model.train()

    def batches():
        while True:
            yield from trainer.batches

    host = read_ahead(batches(), device)
    for step in range(WARM_UP):
        trainer.take_step(next(host), 0, step + 1)
    blocks = [seconds(lambda: trainer.take_step(next(host), 0, WARM_UP), 10) / 10 for _ in range(repeats // 10)]
    step_seconds = median(blocks)
    drawn = batches()
    drawing = seconds(lambda: next(drawn), 10) / 10
    device_step = trainer.device_step
    shape = device_step._shape
    replay = shape.replay and median(seconds(shape.replay, 10) / 10 for _ in range(repeats // 10))
    run = lambda: device_step._run(shape.buffers, recipe.shape, trainer.training_step.update)  # noqa: E731
    eager = median(seconds(run, 5) / 5 for _ in range(max(2, repeats // 40)))
    mapping = {torch.ops.aten.convolution_backward: backward_flops}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    host.close()
    return {
        "recipe": recipe.name,
        "form": device_step.form,
        "step_ms": 1e3 * step_seconds,
        "images_per_second": batch / step_seconds,
        "replay_ms": replay and 1e3 * replay,
        "eager_ms": 1e3 * eager,
        "drawing_ms": 1e3 * drawing,
        "of_limit": counter.get_total_flops() / step_seconds / limit,
    }


def format_row(row: dict) -> str:
    """Return a line of the table; of a step that cannot be recorded without its replay, and with the reason."""
    replay = (
        f"{row['replay_ms']:7.2f} {row['step_ms'] / row['replay_ms']:6.2f}"
        if row["replay_ms"]
        else f"{'-':>7} {'-':>6}"
    )
    line = (
        f"{row['recipe']:52} {row['step_ms']:7.2f} {row['images_per_second']:9,.0f} {replay} {row['eager_ms']:7.2f} "
        f"{row['drawing_ms']:8.2f} {100 * row['of_limit']:8.1f}%"
    )
    return line if row["replay_ms"] else f"{line}  {row['form']}"


def whole_job(data: Path, recipe: str) -> None:
    """Run a job from the download to the report; print the seconds of its steps."""
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, str(SRC / "run_all.py"), "--root", root, "--data", str(data)]
        started = time.perf_counter()
        done = subprocess.run([*command, "--recipes", recipe, "--device", "cuda"], capture_output=True, text=True)
        took = time.perf_counter() - started
        print(f"{' '.join(command[1:])} --recipes {recipe} --device cuda: exit code {done.returncode}, {took:.0f} s")
        with suppress(IndexError):
            print("\n".join(done.stdout.strip().splitlines()[-4:]) + done.stderr[-2000:])


if __name__ == "__main__":
    main()
