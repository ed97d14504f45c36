"""What every image goes through before any augmentation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preprocessing:
    """The middle of an image, resized.

    size: height and width in pixels. crop: share of each side that is kept, 0 < crop <= 1.
    """

    size: int
    crop: float = 1.0
