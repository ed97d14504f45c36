"""Measure how near a training step comes to the processor's limit, and where its time goes.

    python bench/steps.py --recipes lite0,cnn5 [--formats] [--repeats 15] [--json FILE]

One thread on the CPU, as training runs there, timed in CPU seconds of the process: other work on the machine then
takes nothing but cache and clock. The limit is torch.mm of two square matrices in float32 and in bfloat16. A recipe's
step is `TrainingStep` with the recipe's optimiser, number format and layout, EMA update included, on random pixels, or
on their activations after the frozen stages, as a fold reads them. --formats adds the same step in other formats, from
pixels: in float32, and in bfloat16 with torch's own gradients of depthwise convolutions; so the rule of
models/precision.py can be checked. A step's floating point operations (two per multiply-add; convolutions and matrix
products, forward and backward, frozen stages without their backward) are counted by torch's FlopCounterMode. Steps and
products take turns, so that a machine whose speed drifts drifts for all; the times are medians of --repeats after a
warm-up, with the 25th and 75th percentile.

The second table is torch.profiler's view of --profiled steps: shares of the time of a step in percent, augmentation of
a batch included (albumentations, in the same thread as in training). `copies` are changes of format or layout, `other`
is what is left: residual additions, dropout, loss, clipping, autograd's and the profiler's own work. It needs 4 GiB
more than the steps.

FlopCounterMode takes all pairs of channels for the weight gradient of a grouped convolution (torch 2.15); here it is as
many operations as the forward pass, which is what is computed.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from facefold.augment.per_image import ImageAugment  # noqa: E402
from facefold.models.build import build_model  # noqa: E402
from facefold.models.precision import Precision  # noqa: E402
from facefold.models.recipe import load_recipe  # noqa: E402
from facefold.training.fold_task import prepare_model  # noqa: E402
from facefold.training.loss import BinaryLoss  # noqa: E402
from facefold.training.step import TrainingStep  # noqa: E402
from facefold.utils.processes import ENVIRONMENT  # noqa: E402

# These variables are read when a process starts, before this line.
if __name__ == "__main__" and not ENVIRONMENT.keys() <= os.environ.keys():
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ENVIRONMENT})

import numpy as np  # noqa: E402
import torch  # noqa: E402
from timm.optim import create_optimizer_v2  # noqa: E402
from timm.utils import ModelEmaV3  # noqa: E402
from torch.profiler import ProfilerActivity, profile, record_function  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

ROOM = 4 << 30  # bytes of memory that the profiler and the steps under it find ready
GROUPS = {
    "batch norm": ("aten::batch_norm", "aten::native_batch_norm_backward"),
    "activation": (
        "aten::relu",
        "aten::relu_",
        "aten::threshold_backward",
        "aten::relu6",
        "aten::hardtanh",
        "aten::hardtanh_",
        "aten::hardtanh_backward",
        "aten::silu",
        "aten::silu_",
        "aten::silu_backward",
        "aten::gelu",
        "aten::gelu_backward",
        "aten::sigmoid",
        "aten::sigmoid_backward",
    ),
    "linear": (
        "aten::linear",
        "aten::addmm",
        "aten::mm",
        "aten::bmm",
        "aten::matmul",
        "aten::scaled_dot_product_attention",
    ),
    "pooling": (
        "aten::max_pool2d",
        "aten::max_pool2d_with_indices_backward",
        "aten::adaptive_avg_pool2d",
        "aten::mean",
    ),
    "copies": ("aten::to", "aten::contiguous", "aten::clone", "aten::copy_"),
}
GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


class Bench:
    """One recipe, ready to take steps on a batch: as trained, or from pixels in `dtype` with torch's own gradients."""

    def __init__(self, name: str, dtype: torch.dtype | None = None):
        self.recipe = recipe = load_recipe(name)
        torch.manual_seed(0)
        if dtype is None:
            self.net, _, self.format = prepare_model(recipe, torch.device("cpu"), None, pretrained=False)
        else:
            self.net, _ = build_model(recipe, pretrained=False)
            self.net.set_memory_format(channels_last=True)
            self.format = Precision(dtype, True)
        self.net.train()
        self.optimizer = create_optimizer_v2(
            self.net, opt=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        self.ema = ModelEmaV3(self.net, decay=recipe.ema, use_warmup=True) if recipe.ema else None
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.noise = np.random.default_rng(0).integers(0, 256, (recipe.batch, *recipe.shape, 3), dtype=np.uint8)
        self.inputs, self.labels = torch.from_numpy(self.noise), torch.arange(recipe.batch).remainder(2).float()
        if dtype is None and self.net.has_frozen_stages:
            with torch.inference_mode():
                self.inputs = self.net.frozen_stages(self.inputs).permute(0, 2, 3, 1).half()
            self.inputs = self.inputs.clone()  # an inference tensor takes no part in training
        self.augment = ImageAugment(recipe.augment, 0)
        loss_fn = BinaryLoss(recipe.label_smoothing)
        self.training_step = TrainingStep(self.net, self.optimizer, self.scaler, self.format, recipe, loss_fn)
        if dtype is not None:
            self.training_step.forward = self.net  # from pixels, the frozen stages included

    def step(self) -> None:
        self.training_step(self.inputs, self.labels)
        if self.ema:
            with record_function("EMA"):
                self.ema.update(self.net, step=1)

    def augment_batch(self) -> None:
        with record_function("augmentation"):
            for row, image in enumerate(self.noise):
                self.augment(image, 0, str(row))

    def flops(self) -> int:
        """Count the floating point operations of one step."""
        mapping = {torch.ops.aten.convolution_backward: backward_flops}
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            self.step()
        return counter.get_total_flops()

    def shares(self, steps: int) -> dict[str, float]:
        """Return percent of the time by group, over `steps` steps and augmented batches."""
        # The profiler's records scatter the memory that a step frees, and a step without room faults new memory in.
        torch.ones(ROOM, dtype=torch.uint8)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            started = time.perf_counter()  # as the profiler's own times
            for _ in range(steps):
                self.step()
                self.augment_batch()
            total = 1e6 * (time.perf_counter() - started)
        spent: Counter[str] = Counter()
        for event in profiler.events():
            if group_of(event) and not any(group_of(above) for above in ancestors(event)):
                spent[group_of(event)] += event.cpu_time_total
        spent["other"] = total - sum(spent.values())
        return {group: 100 * value / total for group, value in spent.most_common()}


def backward_flops(
    grad_out: list,
    _x: list,
    weight: list,
    _bias,
    _stride,
    _padding,
    _dilation,
    _transposed,
    _output_padding,
    _groups,
    output_mask: list,
    out_shape=None,
    **_kwargs,
) -> int:
    """Count the operations of a convolution's two gradients, each as many as its forward pass, from the shapes."""
    forward = 2 * prod(weight) * grad_out[0] * prod(grad_out[2:])
    return forward * (int(output_mask[0]) + int(output_mask[1]))


def ancestors(event) -> list:
    events = []
    while event.cpu_parent is not None:
        event = event.cpu_parent
        events.append(event)
    return events


def group_of(event) -> str | None:
    """Return the group of a profiled operation, None if it has none of its own."""
    if event.name in ("EMA", "augmentation"):
        return event.name
    if event.name.startswith("Optimizer."):
        return "optimiser"
    if event.name == "aten::conv2d":
        return f"{kind(event.input_shapes[1])} forward"
    if event.name == "aten::convolution_backward":
        return f"{kind(event.input_shapes[2])} backward"
    return GROUP_OF.get(event.name)


def kind(weight: list[int]) -> str:
    """Return the kind of a convolution by the shape of its weight (out, in / groups, height, width)."""
    if weight[1] == 1 and weight[0] > 1:
        return "depthwise"
    return "pointwise" if weight[2:] == [1, 1] else "dense"


def product(side: int, dtype: torch.dtype) -> Callable[[], None]:
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    return lambda: torch.mm(a, b)


def timed(works: dict[str, Callable[[], None]], repeats: int) -> dict[str, np.ndarray]:
    """Return CPU seconds (repeats,) of each work, in turns, after one call each that does not count."""
    for work in works.values():
        work()
    seconds = {name: np.zeros(repeats) for name in works}
    for repeat in range(repeats):
        for name, work in works.items():
            started = time.process_time()
            work()
            seconds[name][repeat] = time.process_time() - started
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="lite0,cnn5", metavar="NAME[,NAME]")
    parser.add_argument("--formats", action="store_true", help="each recipe in float32 and in plain bfloat16 as well")
    parser.add_argument("--repeats", type=int, default=15, help="timed steps and products of each (default: 15)")
    parser.add_argument("--profiled", type=int, default=5, help="steps under the profiler (default: 5)")
    parser.add_argument("--side", type=int, default=2048, help="of the matrices of the limit (default: 2048)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    benches = {name: Bench(name) for name in args.recipes.split(",")}
    if args.formats:
        benches = {
            label: bench
            for name, own in benches.items()
            for label, bench in (
                (name, own),
                (f"{name} float32", Bench(name, torch.float32)),
                (f"{name} bfloat16", Bench(name, torch.bfloat16)),
            )
        }
    formats = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    seconds = timed(
        {
            **{f"mm {name}": product(args.side, dtype) for name, dtype in formats.items()},
            **{name: bench.step for name, bench in benches.items()},
            **{f"{name} augmentation": bench.augment_batch for name, bench in benches.items()},
        },
        args.repeats,
    )
    limits = {name: 2 * args.side**3 / 1e9 / np.median(seconds[f"mm {name}"]) for name in formats}
    for name, limit in limits.items():
        low, high = 2 * args.side**3 / 1e9 / np.percentile(seconds[f"mm {name}"], [75, 25])
        print(f"limit, {name} mm of {args.side}: {limit:.0f} GFLOP/s ({low:.0f} to {high:.0f})")
    print(f"torch {torch.__version__}, one thread, n = {args.repeats}, medians (25th to 75th percentile)\n")
    print(
        f"{'':20}{'form':>24}{'ms a step':>22}{'images/s':>10}{'with aug.':>10}{'GFLOP/image':>12}{'GFLOP/s':>9}"
        f"{'of limit':>9}"
    )
    result = {"limits_gflops": limits, "repeats": args.repeats, "torch": torch.__version__, "recipes": {}}
    for name, bench in benches.items():
        batch, flops, step = bench.recipe.batch, bench.flops() / 1e9, np.median(seconds[name])
        low, high = 1000 * np.percentile(seconds[name], [25, 75])
        augmentation = np.median(seconds[f"{name} augmentation"])
        limit = limits[str(bench.format.dtype).removeprefix("torch.")]
        figures = {
            "form": bench.format.name,
            "batch": batch,
            "step_seconds": step,
            "images_per_second": batch / step,
            "with_augmentation": batch / (step + augmentation),
            "gflop_an_image": flops / batch,
            "gflops": flops / step,
            "share": flops / step / limit,
            "percent": bench.shares(args.profiled),
        }
        result["recipes"][name] = figures
        print(
            f"{name:20}{bench.format.name:>24}{f'{1000 * step:.0f} ({low:.0f} to {high:.0f})':>22}{batch / step:>10.1f}"
            f"{figures['with_augmentation']:>10.1f}{flops / batch:>12.3f}{flops / step:>9.1f}{figures['share']:>9.1%}"
        )
    groups = sorted({group for figures in result["recipes"].values() for group in figures["percent"]})
    print("\n" + f"{'percent of time':22}" + "".join(f"{name:>22}" for name in benches))
    for group in groups:
        print(f"{group:22}" + "".join(f"{result['recipes'][name]['percent'].get(group, 0):>22.1f}" for name in benches))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
