"""The interface of a leak: something other than the images that improves a blend, used if a person asks for it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from facefold.data.competition import Competition
from facefold.ensemble.members import OofMatrix


@dataclass(frozen=True)
class BlendScores:
    """Scores for label 1, float64.

    nested: (n,), of the whole procedure, each fold by what the other folds choose; oof: (n,), of the chosen method,
    computed as those of the test rows are; test: (t,).
    """

    nested: np.ndarray
    oof: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class LeakResult:
    """What a leak changes.

    scores: after its use, those before if it is not used; candidates: its nested scores (n,) by their name in the
    leaderboard; facts: for blend.json, with `used`, whether the gain is significant, `picked` and `why`.
    """

    scores: BlendScores
    candidates: dict[str, np.ndarray]
    facts: dict


class Leak(ABC):
    """One leak of a competition. The texts are formatted with the facts of `apply`.

    name: of the option --use-<name>, of submissions/<name>.csv and in blend.json; kind: of its rows in the leaderboard.
    announcement: the first line of everything that shows a blend with this leak, by the facts of `require`; headline:
    what follows the chosen method; unused: what to say if it gains nothing.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    announcement: ClassVar[str]
    headline: ClassVar[str]
    unused: ClassVar[str]

    @classmethod
    @abstractmethod
    def find(cls, competition: Competition) -> Self:
        """Look for the leak in the competition."""

    @abstractmethod
    def require(self, matrix: OofMatrix) -> dict:
        """Return the facts of the announcement. Raises `InputError` if there is nothing to use."""

    @abstractmethod
    def apply(self, matrix: OofMatrix, scores: BlendScores) -> LeakResult:
        """Use the leak after scoring it on train rows whose labels have no part in their own score."""

    @staticmethod
    @abstractmethod
    def describe(facts: dict) -> str:
        """Return what the leak is and gains, a paragraph for the report, by the facts of `apply`."""
