"""Time a batch augmented on the CPU by augment/per_batch.py against image by image by albumentations.

    python bench/augment.py [--rounds N]

One thread, batches of 32 images of smooth noise. In every round both augment the same batch in the same epoch, one
after the other, alternating which is first; the ratio is the median of the rounds' ratios of processor time.
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

from facefold.augment.per_batch import BatchAugment  # noqa: E402
from facefold.augment.per_image import ImageAugment  # noqa: E402

BATCH, WARM_UP = 32, 3
IDS = [str(row) for row in range(BATCH)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="rounds of each pair (default: 100)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"policy    pixels  times faster, with the quartiles of {rounds} rounds")
    for policy in ("light", "standard"):
        for size in (64, 128):
            one, many = paired(policy, size, rounds)
            low, middle, high = np.quantile(one / many, (0.25, 0.5, 0.75))
            print(f"{policy:9} {size:6}  {middle:5.2f}  {low:.2f} to {high:.2f}")


def paired(policy: str, size: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return CPU seconds (rounds,) of albumentations, images stacked to a batch, and of the batch at once."""
    coarse = np.random.default_rng(0).integers(0, 256, (BATCH, 8, 8, 3), dtype=np.uint8)
    images = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC) for image in coarse])
    pixels, one, many = torch.from_numpy(images), ImageAugment(policy, 0), BatchAugment(policy, 0)

    def by_image(epoch: int) -> None:
        torch.from_numpy(np.stack([one(image, epoch, id) for image, id in zip(images, IDS)]))

    def at_once(epoch: int) -> None:
        many(pixels, epoch, IDS)

    for epoch in range(WARM_UP):
        by_image(epoch), at_once(epoch)
    times = {by_image: [], at_once: []}
    for epoch in range(rounds):
        for augment in (by_image, at_once) if epoch % 2 else (at_once, by_image):
            times[augment].append(seconds(augment, epoch))
    return np.array(times[by_image]), np.array(times[at_once])


def seconds(augment: Callable[[int], None], epoch: int) -> float:
    started = time.thread_time()
    augment(epoch)
    return time.thread_time() - started


if __name__ == "__main__":
    main()
