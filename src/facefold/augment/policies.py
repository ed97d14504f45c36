"""The augmentation policies: probabilities and ranges for both implementations, and a batch's random parameters."""

from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from facefold.utils.errors import InputError

Range = tuple[float, float]

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = np.array(list(permutations(range(4))), dtype=np.int64)  # (24, 4): all orders of these


@dataclass(frozen=True)
class Policy:
    """The probability (`*_p`; 0 leaves it out) and uniform ranges of each operation, in the order of application."""

    flip_p: float = 0.0
    affine_p: float = 0.0
    scale: Range = (1.0, 1.0)  # of each side, drawn for each side
    rotate: Range = (0.0, 0.0)  # degrees, counter-clockwise
    translate: Range = (0.0, 0.0)  # shares of each side, drawn for each side, cut to whole pixels
    jitter_p: float = 0.0  # the four operations of the jitter are applied in a random order
    brightness: Range = (1.0, 1.0)  # factors
    contrast: Range = (1.0, 1.0)
    saturation: Range = (1.0, 1.0)
    hue: Range = (0.0, 0.0)  # turns of the colour circle, within a sixth
    gray_p: float = 0.0
    hole_p: float = 0.0  # one black rectangle inside the image
    hole: Range = (0.0, 0.0)  # shares of each side, drawn for each side
    # The operations below exist in per_image.py only.
    upside_p: float = 0.0  # a vertical flip
    crop_p: float = 0.0  # strips cut off, the rest resized to the whole size
    crop: Range = (0.0, 0.0)  # shares of each side, drawn for each of the four strips
    shift_p: float = 0.0  # a number added to each colour
    shift: Range = (0.0, 0.0)  # grey levels of 255
    distort_p: float = 0.0  # a grid of 5 x 5 cells whose lines are moved
    distort: Range = (0.0, 0.0)  # shares of a cell
    noise_p: float = 0.0  # Gaussian noise, drawn for each pixel and colour
    noise: Range = (0.0, 0.0)  # its standard deviation as a share of 255
    salt_p: float = 0.0  # salt and pepper: white and black pixels
    salt: Range = (0.0, 0.0)  # share of the pixels that become one of both

    @property
    def per_image_only(self) -> bool:
        """Whether it has an operation that per_batch.py does not have."""
        return any((self.upside_p, self.crop_p, self.shift_p, self.distort_p, self.noise_p, self.salt_p))


_STANDARD = Policy(
    flip_p=0.5,
    affine_p=0.9,
    scale=(0.85, 1.15),
    rotate=(-12, 12),
    translate=(-0.06, 0.06),
    jitter_p=0.7,
    brightness=(0.8, 1.2),
    contrast=(0.8, 1.2),
    saturation=(0.8, 1.2),
    hue=(-0.02, 0.02),
    gray_p=0.1,
    hole_p=0.25,
    hole=(0.1, 0.3),
)

POLICIES = {
    "none": Policy(),
    "light": Policy(flip_p=0.5, affine_p=0.7, scale=(0.92, 1.08), rotate=(-8, 8), translate=(-0.04, 0.04)),
    "standard": _STANDARD,
    # If all images are cut and rotated the same way, those to be predicted too, little geometry is enough.
    "aligned": replace(_STANDARD, affine_p=0.5, scale=(0.96, 1.04), rotate=(-4, 4), translate=(-0.02, 0.02)),
    # The operations that the competition article names; it has no ranges.
    "articles": Policy(
        flip_p=0.5,
        upside_p=0.1,
        affine_p=0.5,
        rotate=(-15, 15),
        crop_p=0.5,
        crop=(0.0, 0.1),
        jitter_p=0.5,
        brightness=(0.7, 1.3),
        gray_p=0.1,
        shift_p=0.3,
        shift=(-20, 20),
        distort_p=0.2,
        distort=(-0.2, 0.2),
        noise_p=0.15,
        noise=(0.02, 0.08),
        salt_p=0.1,
        salt=(0.01, 0.04),
    ),
}


def load_policy(name: str) -> Policy:
    """Return the policy of that name; `InputError` if there is none."""
    if name not in POLICIES:
        raise InputError(f"there is no augmentation policy '{name}'; there are: {', '.join(sorted(POLICIES))}")
    return POLICIES[name]


def load_whole_batch_policy(name: str) -> Policy:
    """Return the policy of that name; `InputError` if whole batches cannot be augmented by it."""
    policy = load_policy(name)
    if policy.per_image_only:
        raise InputError(
            f"augmentation policy '{name}' has operations for single images only: use augmenter = \"albumentations\""
        )
    return policy


def policy_settings(name: str) -> dict:
    """Return the settings of the policy that are not the defaults: they decide its images."""
    return {key: value for key, value in vars(load_policy(name)).items() if value != getattr(Policy, key)}


@dataclass(frozen=True)
class AugmentParams:
    """The random parameters of n images. The numbers of a row count only if its operation was drawn.

    flip, affine, jitter, gray, erase: bool (n,). scale, translate: float64 (n, 2), of x and y, the latter in whole
    pixels. rotate: float64 (n,), degrees. factors: float64 (n, 4), a column each of `BRIGHTNESS` to `HUE`. order: int64
    (n,), a row of `ORDERS`. hole: int64 (n, 4), left, top, right, bottom, the last two not inside.
    """

    flip: np.ndarray
    affine: np.ndarray
    scale: np.ndarray
    rotate: np.ndarray
    translate: np.ndarray
    jitter: np.ndarray
    factors: np.ndarray
    order: np.ndarray
    gray: np.ndarray
    erase: np.ndarray
    hole: np.ndarray


_SAMPLED_NUMBERS = 19  # per image


def sample_params(policy: Policy, seeds: np.ndarray, height: int, width: int) -> AugmentParams:
    """Draw for images of height x width pixels, each from its own seed (uint64 (n,)) alone.

    Args:
        policy: The probabilities and ranges.
        seeds: The seed of each image.
        height: In pixels.
        width: In pixels.
    """
    samples = iter(_uniform(seeds, _SAMPLED_NUMBERS).T)
    sides = np.array([width, height])

    def occurs(probability: float) -> np.ndarray:
        return next(samples) < probability

    def uniform(low: float, high: float) -> np.ndarray:
        return low + (high - low) * next(samples)

    def uniform_xy(low: float, high: float) -> np.ndarray:
        return np.stack([uniform(low, high), uniform(low, high)], axis=1)

    # The lines sample in this order: reordering them changes every augmented image.
    flip, affine = occurs(policy.flip_p), occurs(policy.affine_p)
    scale, rotate = uniform_xy(*policy.scale), uniform(*policy.rotate)
    translate = np.trunc(uniform_xy(*policy.translate) * sides)
    jitter = occurs(policy.jitter_p)
    ranges = (policy.brightness, policy.contrast, policy.saturation, policy.hue)
    factors = np.stack([uniform(*limits) for limits in ranges], axis=1)
    order = (next(samples) * len(ORDERS)).astype(np.int64)
    gray, erase = occurs(policy.gray_p), occurs(policy.hole_p)
    size = (uniform_xy(*policy.hole) * sides).astype(np.int64)
    corner = (uniform_xy(0, 1) * (sides - size + 1)).astype(np.int64)
    hole = np.hstack([corner, corner + size])
    return AugmentParams(flip, affine, scale, rotate, translate, jitter, factors, order, gray, erase, hole)


def _uniform(seeds: np.ndarray, count: int) -> np.ndarray:
    """Draw float64 (n, count) in [0, 1): splitmix64 (Steele, Lea and Flood 2014), started at each mixed seed."""
    with np.errstate(over="ignore"):
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits = _mix_bits(_mix_bits(seeds.astype(np.uint64))[:, None] + steps)
    return (bits >> np.uint64(11)) * 2.0**-53


def _mix_bits(bits: np.ndarray) -> np.ndarray:
    """Apply the output function of splitmix64 to each uint64."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
