"""The leaks that a person may choose to use, and the words about those that a blend used, by its facts (blend.json)."""

from facefold.ensemble.leaks.base import Leak
from facefold.ensemble.leaks.duplicates import DuplicateLeak
from facefold.ensemble.leaks.order import OrderLeak

LEAKS: dict[str, type[Leak]] = {leak.name: leak for leak in (OrderLeak, DuplicateLeak)}  # in the order of use


def _leaks(facts: dict) -> list[tuple[type[Leak], dict]]:
    return [(leak, facts["leaks"][name]) for name, leak in LEAKS.items() if name in facts["leaks"]]


def used_leaks(facts: dict) -> list[tuple[type[Leak], dict]]:
    """Return the leaks that the submission depends on, in the order of use, each with its own facts."""
    return [(leak, leak_facts) for leak, leak_facts in _leaks(facts) if leak_facts["used"]]


def unused_leaks(facts: dict) -> list[str]:
    """Return a sentence about each leak that was asked for and is not in the submission."""
    return [leak.unused for leak, leak_facts in _leaks(facts) if not leak_facts["used"]]


def announce_leaks(facts: dict) -> str:
    """Return the first line of everything that shows the blend; empty if no leak was used."""
    return " ".join(leak.announcement.format(**leak_facts) for leak, leak_facts in used_leaks(facts))


def describe_leaks(facts: dict) -> list[str]:
    """Return a paragraph about each leak that was asked for."""
    return [leak.describe(leak_facts) for leak, leak_facts in _leaks(facts)]
