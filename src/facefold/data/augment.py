"""Augmentation policies (albumentations), drawn per row: the change of row `id` in epoch `e` depends on (seed, e, id) alone."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for its version at import

import albumentations as A
import cv2
import numpy as np

from facefold.errors import InputError
from facefold.seeding import seed_of

cv2.setNumThreads(0)  # folds run side by side as one-thread processes; OpenCV's pool would fight them for the cores


def _light() -> list[A.BasicTransform]:
    return [
        A.HorizontalFlip(p=0.5),
        A.Affine(scale=(0.92, 1.08), rotate=(-8, 8), translate_percent=(-0.04, 0.04), border_mode=cv2.BORDER_REFLECT_101, p=0.7),
    ]


def _standard() -> list[A.BasicTransform]:
    return [
        A.HorizontalFlip(p=0.5),
        A.Affine(scale=(0.85, 1.15), rotate=(-12, 12), translate_percent=(-0.06, 0.06), border_mode=cv2.BORDER_REFLECT_101, p=0.9),
        A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.02, 0.02), p=0.7),
        A.ToGray(p=0.1),
        A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(0.1, 0.3), hole_width_range=(0.1, 0.3), p=0.25),
    ]


POLICIES = {"none": list, "light": _light, "standard": _standard}


class Augment:
    """One policy: `augment(image, epoch, id)` maps uint8 (H, W, 3) to uint8 (H, W, 3)."""

    def __init__(self, policy: str, seed: int):
        if policy not in POLICIES:
            raise InputError(f"there is no augmentation policy '{policy}'; there are: {', '.join(sorted(POLICIES))}")
        self._seed = seed
        self._transform = A.Compose(POLICIES[policy]())

    def __call__(self, image: np.ndarray, epoch: int, id: str) -> np.ndarray:
        self._transform.set_random_seed(seed_of(self._seed, "augment", epoch, id))
        return self._transform(image=image)["image"]
