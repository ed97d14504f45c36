"""Augment single images by albumentations: the result of image `id` in epoch `e` depends on (seed, e, id) alone."""

import albumentations as A
import cv2
import numpy as np

from facefold.augment.policies import Policy, load_policy
from facefold.utils.seeding import derive_seed

cv2.setNumThreads(0)  # folds train in parallel one-thread processes; OpenCV's threads would compete for the cores


class ImageAugment:
    """`augment(image, epoch, id)` augments uint8 (H, W, 3) by one policy to uint8 (H, W, 3)."""

    def __init__(self, policy: str, seed: int):
        self._seed = seed
        self._transform = A.Compose(_transforms(load_policy(policy)))

    def __call__(self, image: np.ndarray, epoch: int, id: str) -> np.ndarray:
        self._transform.set_random_seed(derive_seed(self._seed, "augment", epoch, id))
        return self._transform(image=image)["image"]


def _transforms(policy: Policy) -> list[A.BasicTransform]:
    border, hole = cv2.BORDER_REFLECT_101, policy.hole
    transforms = [
        A.HorizontalFlip(p=policy.flip_p),
        A.VerticalFlip(p=policy.upside_p),
        A.Affine(
            scale=policy.scale,
            rotate=policy.rotate,
            translate_percent=policy.translate,
            border_mode=border,
            p=policy.affine_p,
        ),
        A.CropAndPad(percent=(-policy.crop[1], -policy.crop[0]), p=policy.crop_p),
        A.GridDistortion(num_steps=5, distort_limit=policy.distort, border_mode=border, p=policy.distort_p),
        A.ColorJitter(policy.brightness, policy.contrast, policy.saturation, policy.hue, p=policy.jitter_p),
        A.RGBShift(policy.shift, policy.shift, policy.shift, p=policy.shift_p),
        A.ToGray(p=policy.gray_p),
        A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=hole, hole_width_range=hole, p=policy.hole_p),
        A.GaussNoise(std_range=policy.noise, p=policy.noise_p),
        A.SaltAndPepper(amount=policy.salt, p=policy.salt_p),
    ]
    return [transform for transform in transforms if transform.p]
