"""Pseudo-labels (Lee 2013): which runs label the test images, how much these count, and how much train rows learn."""

import json
import math
from dataclasses import dataclass

from facefold.utils.errors import InputError
from facefold.utils.files import sha256_text

# Half of a train row. The labels are predictions, which are wrong more often than train labels are, and wrong in the
# direction in which the new model errs as well (confirmation bias): as long as there are fewer than twice as many test
# images as train rows, the labels of the competition decide.
DEFAULT_WEIGHT = 0.5


@dataclass(frozen=True)
class PseudoLabels:
    """The runs whose predictions of the test images are soft labels, by name; none by default.

    makers: (name, hex sha256 of each fold's test.csv) of each run, sorted by name. weight: of a test image in the loss,
    where a train row has 1. share: of the runs' soft label in what a train row is trained towards, the rest is its
    label; 0: train rows keep their labels.
    """

    makers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    weight: float = DEFAULT_WEIGHT
    share: float = 0.0

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.makers]

    @property
    def facts(self) -> dict:
        """Return what run.json records; empty without any run."""
        if not self.makers:
            return {}
        distilled = {"share": self.share} if self.share else {}
        return {"weight": self.weight, "test_sha256": dict(self.makers)} | distilled

    @property
    def hash(self) -> str:
        """Hex sha256 of the predictions, the weight and the share; empty without any run."""
        return sha256_text(json.dumps(self.facts, sort_keys=True)) if self.makers else ""


NO_PSEUDO_LABELS = PseudoLabels()


def require_weight(weight: float) -> None:
    """Raise `InputError` unless the weight of a test image is a positive number."""
    if not (math.isfinite(weight) and weight > 0):
        raise InputError(f"--pseudo-weight {weight:g}: a positive number, where a train row has 1")


def require_share(share: float) -> None:
    """Raise `InputError` unless the share of the soft label in a train row's is above 0 and at most 1."""
    if not 0 < share <= 1:
        raise InputError(f"--distill {share:g}: a share above 0, at most 1, of the soft label in that of a train row")
