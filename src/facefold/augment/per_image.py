"""Augmentation of one image (albumentations): the change of row `id` in epoch `e` depends on (seed, e, id) alone."""

import albumentations as A
import cv2
import numpy as np

from facefold.augment.policies import Policy, load_policy
from facefold.utils.seeding import seed_of

cv2.setNumThreads(0)  # folds run side by side as one-thread processes; OpenCV's pool would fight them for the cores


def _transforms(policy: Policy) -> list[A.BasicTransform]:
    every = [
        A.HorizontalFlip(p=policy.flip_p),
        A.VerticalFlip(p=policy.upside_p),
        A.Affine(
            scale=policy.scale,
            rotate=policy.rotate,
            translate_percent=policy.translate,
            border_mode=cv2.BORDER_REFLECT_101,
            p=policy.affine_p,
        ),
        A.CropAndPad(percent=(-policy.crop[1], -policy.crop[0]), p=policy.crop_p),
        A.GridDistortion(
            num_steps=5, distort_limit=policy.distort, border_mode=cv2.BORDER_REFLECT_101, p=policy.distort_p
        ),
        A.ColorJitter(
            brightness=policy.brightness,
            contrast=policy.contrast,
            saturation=policy.saturation,
            hue=policy.hue,
            p=policy.jitter_p,
        ),
        A.RGBShift(*[policy.shift] * 3, p=policy.shift_p),
        A.ToGray(p=policy.gray_p),
        A.CoarseDropout(
            num_holes_range=(1, 1), hole_height_range=policy.hole, hole_width_range=policy.hole, p=policy.hole_p
        ),
        A.GaussNoise(std_range=policy.noise, p=policy.noise_p),
        A.SaltAndPepper(amount=policy.salt, p=policy.salt_p),
    ]
    return [transform for transform in every if transform.p]


class ImageAugment:
    """One policy: `augment(image, epoch, id)` maps uint8 (H, W, 3) to uint8 (H, W, 3)."""

    def __init__(self, policy: str, seed: int):
        self._seed = seed
        self._transform = A.Compose(_transforms(load_policy(policy)))

    def __call__(self, image: np.ndarray, epoch: int, id: str) -> np.ndarray:
        self._transform.set_random_seed(seed_of(self._seed, "augment", epoch, id))
        return self._transform(image=image)["image"]
