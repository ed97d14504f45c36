"""What each means of a blend gained, as far as its runs allow a comparison on the same rows.

All comparisons are paired, by the task's metric, of predictions that have not seen the rows they are compared on.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from facefold.ensemble.added import AddedMember
from facefold.ensemble.blend import Blend
from facefold.ensemble.decisions import SIGNIFICANT, decision_kind
from facefold.ensemble.leaks import used_leaks
from facefold.ensemble.members import oof_scores
from facefold.ensemble.metrics import Metric, target_metric
from facefold.ensemble.ratings import Gain
from facefold.models.run_name import CORRECTED_SUFFIX, EXTRA_SUFFIX, PSEUDO_SUFFIX, RunName, parse_run_name
from facefold.report.bars import make_axis
from facefold.runs import Member
from facefold.task import Task

_SUFFIXES = {CORRECTED_SUFFIX: "corrected labels", PSEUDO_SUFFIX: "pseudo-labels", EXTRA_SUFFIX: "extra rows"}
_DECISIONS = {
    "threshold": ("a threshold", "0.5"),
    "offsets": ("offsets of the classes", "the likeliest class"),
    "cuts": ("cut points", "the likeliest class"),
}


class Comparison(NamedTuple):
    """What gains by how much over what, in words; over is empty where the heading says it."""

    what: str
    over: str
    gain: Gain

    @property
    def real(self) -> bool:
        return self.gain.p < SIGNIFICANT


def format_gain(gain: float, low: float, high: float, metric: Metric) -> tuple[str, str]:
    """Return a gain and its interval as text."""
    return metric.signed_gain(gain), f"{metric.signed_gain(low)} to {metric.signed_gain(high)}"


def gains_section(blend: Blend, members: list[Member], target: Task) -> dict[str, Any]:
    """Return the comparisons with the axis of each group, and what gains are called and how they are written."""
    metric = target_metric(target).scaled(blend.facts["score"])
    groups = compare_means(blend, members, target)
    rows = {
        heading: [(row.gain.gain, row.gain.low, row.gain.high) for row in group] for heading, group in groups.items()
    }
    return {
        "means": groups,
        "mean_axes": {
            name: make_axis(metric.gain_scale * np.array(group), 0.0, signed=True) for name, group in rows.items()
        },
        "gain_name": "points" if metric.points else "gain",
        "gain_format": f"{{:+.{metric.gain_digits}f}}",
        "format_gain": lambda *gain: format_gain(*gain, metric),
    }


def compare_means(blend: Blend, members: list[Member], target: Task) -> dict[str, list[Comparison]]:
    """Return the comparisons by the heading of their group, without the groups that have none."""
    metric, oof = target_metric(target), blend.oof
    compared = _Compared(target, metric, oof["id"].tolist(), oof["label"].to_numpy(), members)
    groups = {
        "Blending": [*_ladder(blend, compared), *_decision(blend.facts, target)],
        "Variants of a run": [*compared.variants(), *compared.seeds()],
        "Each in the mean of all, over the mean without it": list(compared.left_out()),
    }
    return {heading: rows for heading, rows in groups.items() if rows}


class _Compared:
    """The members' out-of-fold predictions in the order of ids (n,): prob, each (n,) or (n, C), by name."""

    def __init__(self, target: Task, metric: Metric, ids: list[str], labels: np.ndarray, members: list[Member]):
        self.target, self.metric, self.labels = target, metric, labels
        self.prob = {member.name: oof_scores(member, ids, target) for member in members}
        runs = [member for member in members if not isinstance(member, AddedMember)]
        self.names = {member.name: parse_run_name(member.name) for member in runs}
        self.seed_of = {member.name: member.runs[0]["seed"] for member in runs}

    def mean(self, names: list[str]) -> np.ndarray:
        """Return the mean (n,) or (n, C) of these members."""
        return sum(self.prob[name] for name in names) / len(names)

    def compare(self, what: str, over: str, a: np.ndarray, b: np.ndarray) -> Comparison:
        return Comparison(what, over, self.metric.compare(a, b, self.labels))

    def variants(self) -> Iterator[Comparison]:
        """Compare each run with the one whose name lacks one part, and that has its seed."""
        for name, parts in self.names.items():
            for what, other in _without_one_part(parts):
                if other in self.names and self.seed_of[other] == self.seed_of[name]:
                    yield self.compare(what, other, self.prob[name], self.prob[other])

    def seeds(self) -> Iterator[Comparison]:
        """Compare the mean of the runs that differ in their seed alone with the first of them."""
        families: dict[str, list[str]] = {}
        for name, parts in sorted(self.names.items(), key=lambda item: item[1].seed or 0):
            families.setdefault(str(replace(parts, seed=None)), []).append(name)
        for names in families.values():
            if len(names) > 1:
                what = f"the mean of {len(names)} seeds"
                yield self.compare(what, names[0], self.mean(names), self.prob[names[0]])

    def left_out(self) -> Iterator[Comparison]:
        """Compare the mean of all members with the mean of all but one, the most useful one first."""
        names = list(self.prob)
        if len(names) < 2:
            return
        every = self.mean(names)
        rows = [self.compare(name, "", every, self.mean([other for other in names if other != name])) for name in names]
        yield from sorted(rows, key=lambda row: -row.gain.gain)


def _without_one_part(parts: RunName) -> Iterator[tuple[str, str]]:
    """Yield what a part of a run's name stands for, and the name without it; a seed is no part of this kind."""
    for setting in parts.settings:
        others = tuple(one for one in parts.settings if one != setting)
        yield "=".join(setting), str(replace(parts, settings=others))
    if parts.epochs is not None:
        yield f"{parts.epochs} epochs", str(replace(parts, epochs=None))
    for suffix in parts.suffixes:
        yield _SUFFIXES[suffix], str(replace(parts, suffixes=tuple(one for one in parts.suffixes if one != suffix)))


def _ladder(blend: Blend, compared: _Compared) -> Iterator[Comparison]:
    """Compare the mean with the best single member, and what is submitted with the mean."""
    names, facts, target = list(compared.prob), blend.facts, compared.target
    if len(names) < 2:
        return
    gains = blend.leaderboard[blend.leaderboard["kind"] == "method"].set_index("name")
    gain = Gain(*gains.loc["mean", ["gain", "gain_low", "gain_high", "gain_p"]])
    yield Comparison(f"the mean of {len(names)}", "the best single recipe", gain)
    mean = compared.mean(names)
    submitted = blend.oof[list(target.columns)].to_numpy().reshape(mean.shape)
    if np.allclose(submitted, mean, rtol=0, atol=1e-9):  # the mean itself, but for what the order of a sum rounds
        return
    what = f"choosing {facts['picked']}" if facts["options"]["method"] == "auto" else facts["picked"]
    what += " with its decision" if facts["decision"]["kind"] != "none" else ""
    what += "".join(f" with the {leak.kind}" for leak, _ in used_leaks(facts))
    yield compared.compare(what, "the mean", submitted, mean)


def _decision(facts: dict, target: Task) -> Iterator[Comparison]:
    """Return what the decision gained that was learned on the other folds, whether or not it was kept."""
    if facts["threshold_gain"]:
        gain = {name: facts["threshold_gain"][name] for name in ("gain", "low", "high", "p")}
        what, over = _DECISIONS[decision_kind(target)]
        kept = "" if facts["decision"]["kind"] != "none" else ", not kept"
        yield Comparison(f"{what} learned{kept}", over, Gain(**gain))
