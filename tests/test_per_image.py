"""Augmentation of single images: the policies are those of albumentations, and each draw depends on its id alone."""

import albumentations as A
import cv2
import numpy as np
import pytest

from facefold.augment.per_image import ImageAugment
from facefold.augment.policies import POLICIES
from facefold.utils.errors import InputError
from facefold.utils.seeding import derive_seed


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_an_image_in_an_epoch_does_not_depend_on_those_before(policy):
    fresh, used = ImageAugment(policy, 7), ImageAugment(policy, 7)
    for row in range(5):
        used(image(row), 0, f"other{row}")
    assert np.array_equal(fresh(image(), 3, "0042"), used(image(), 3, "0042"))


def test_seed_epoch_and_id_each_change_the_draw():
    base = ImageAugment("standard", 0)(image(), 0, "1")
    others = [
        ImageAugment("standard", 1)(image(), 0, "1"),
        ImageAugment("standard", 0)(image(), 1, "1"),
        ImageAugment("standard", 0)(image(), 0, "01"),
    ]
    assert not any(np.array_equal(base, other) for other in others)


def test_none_changes_nothing_and_the_others_keep_shape_and_type():
    assert np.array_equal(ImageAugment("none", 0)(image(), 0, "1"), image())
    for policy in POLICIES:
        changed = ImageAugment(policy, 0)(image(), 0, "1")
        assert changed.shape == (32, 32, 3) and changed.dtype == np.uint8


def test_policies_are_these_of_albumentations_to_the_bit():
    light = [
        A.HorizontalFlip(p=0.5),
        A.Affine(
            scale=(0.92, 1.08),
            rotate=(-8, 8),
            translate_percent=(-0.04, 0.04),
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.7,
        ),
    ]
    standard = [
        A.HorizontalFlip(p=0.5),
        A.Affine(
            scale=(0.85, 1.15),
            rotate=(-12, 12),
            translate_percent=(-0.06, 0.06),
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.9,
        ),
        A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.02, 0.02), p=0.7),
        A.ToGray(p=0.1),
        A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(0.1, 0.3), hole_width_range=(0.1, 0.3), p=0.25),
    ]
    aligned = [
        A.HorizontalFlip(p=0.5),
        A.Affine(
            scale=(0.96, 1.04),
            rotate=(-4, 4),
            translate_percent=(-0.02, 0.02),
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.5,
        ),
        *standard[2:],
    ]
    articles = [
        A.HorizontalFlip(p=0.5),
        A.VerticalFlip(p=0.1),
        A.Affine(
            scale=(1.0, 1.0), rotate=(-15, 15), translate_percent=(0.0, 0.0), border_mode=cv2.BORDER_REFLECT_101, p=0.5
        ),
        A.CropAndPad(percent=(-0.1, 0.0), p=0.5),
        A.GridDistortion(num_steps=5, distort_limit=(-0.2, 0.2), border_mode=cv2.BORDER_REFLECT_101, p=0.2),
        A.ColorJitter(brightness=(0.7, 1.3), contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=(0.0, 0.0), p=0.5),
        A.RGBShift(r_shift_limit=(-20, 20), g_shift_limit=(-20, 20), b_shift_limit=(-20, 20), p=0.3),
        A.ToGray(p=0.1),
        A.GaussNoise(std_range=(0.02, 0.08), p=0.15),
        A.SaltAndPepper(amount=(0.01, 0.04), p=0.1),
    ]
    for policy, transforms in {
        "none": [],
        "light": light,
        "aligned": aligned,
        "standard": standard,
        "articles": articles,
    }.items():
        augment, reference = ImageAugment(policy, 5), A.Compose(transforms)
        for row in range(40):
            reference.set_random_seed(derive_seed(5, "augment", 1, str(row)))
            assert np.array_equal(augment(image(row), 1, str(row)), reference(image=image(row))["image"])


def test_unknown_policy_lists_those_there_are():
    with pytest.raises(
        InputError, match="there is no augmentation policy 'heavy'; there are: aligned, articles, light, none, standard"
    ):
        ImageAugment("heavy", 0)


def test_seeds_of_joined_parts_differ():
    assert derive_seed("a", "bc") != derive_seed("ab", "c")
    assert derive_seed(1, 2) == derive_seed("1", "2") < 2**32
