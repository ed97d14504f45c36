"""What every image goes through before any augmentation."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Shape(NamedTuple):
    """Height and width of images in pixels; as text 192x128, and 128 for a square."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}" if self.height != self.width else str(self.height)

    @classmethod
    def of(cls, size: int | Sequence[int]) -> "Shape":
        """Return the shape of a size: of a square in pixels, or height and width."""
        return cls(size, size) if isinstance(size, int) else cls(*size)

    @classmethod
    def parse(cls, text: str) -> "Shape | None":
        """Return what 192x128 says, and None for any other text."""
        match = re.fullmatch("([0-9]+)x([0-9]+)", text)
        return cls(*map(int, match.groups())) if match else None


@dataclass(frozen=True)
class Preprocessing:
    """The middle of an image, resized.

    size: of a square in pixels, or height and width. crop: share of each side that is kept, 0 < crop <= 1.
    """

    size: int | Shape
    crop: float = 1.0

    @property
    def image_bytes(self) -> int:
        """The bytes of an image, uint8 (height, width, 3)."""
        return 3 * math.prod(Shape.of(self.size))
