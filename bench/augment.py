"""Time a batch augmented on the CPU by augment/per_batch.py against albumentations and augment/branchless.py.

    python bench/augment.py [--rounds N]

One thread, batches of 32 images of smooth noise; albumentations augments image by image, branchless.py in the steps
that a GPU records. In every round all augment the same batch in the same epoch, one after the other, alternating which
is first; a ratio is the median of the rounds' ratios of processor time.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from facefold.augment.branchless import BranchlessAugment  # noqa: E402
from facefold.augment.per_batch import BatchAugment  # noqa: E402
from facefold.augment.per_image import ImageAugment  # noqa: E402

BATCH, WARM_UP = 32, 3
IDS = [str(row) for row in range(BATCH)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="rounds of each pair (default: 100)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"policy    pixels  times faster than albumentations, than branchless, with the quartiles of {rounds} rounds")
    for policy in ("light", "standard"):
        for size in (64, 128):
            many, *others = paired(policy, size, rounds)
            quartiles = [np.quantile(other / many, (0.25, 0.5, 0.75)) for other in others]
            ratios = "   ".join(f"{middle:5.2f}  {low:.2f} to {high:.2f}" for low, middle, high in quartiles)
            print(f"{policy:9} {size:6}  {ratios}")


def paired(policy: str, size: int, rounds: int) -> list[np.ndarray]:
    """Return CPU seconds (rounds,) of the batch at once, of albumentations, its images stacked, and of branchless."""
    coarse = np.random.default_rng(0).integers(0, 256, (BATCH, 8, 8, 3), dtype=np.uint8)
    images = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC) for image in coarse])
    pixels, one, many = torch.from_numpy(images), ImageAugment(policy, 0), BatchAugment(policy, 0)
    branchless = BranchlessAugment(policy, 0)

    def by_image(epoch: int) -> None:
        torch.from_numpy(np.stack([one(image, epoch, id) for image, id in zip(images, IDS)]))

    def at_once(epoch: int) -> None:
        many(pixels, epoch, IDS)

    def in_the_same_steps(epoch: int) -> None:
        branchless(pixels, torch.from_numpy(branchless.table(epoch, IDS, size, size)))

    ways = (at_once, by_image, in_the_same_steps)
    times = {way: [] for way in ways}
    for epoch in range(WARM_UP + rounds):
        for way in ways if epoch % 2 else ways[::-1]:
            times[way].append(seconds(way, epoch))
    return [np.array(times[way][WARM_UP:]) for way in ways]


def seconds(augment: Callable[[int], None], epoch: int) -> float:
    started = time.thread_time()
    augment(epoch)
    return time.thread_time() - started


if __name__ == "__main__":
    main()
