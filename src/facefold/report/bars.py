"""The scale of the intervals that a table draws next to its numbers: a dot and a line in each row, all on one axis."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from matplotlib.ticker import MaxNLocator

FAR = 4  # typical intervals: rows farther than that from the median row are off the scale
_MARGIN = 0.08  # on both sides, of the width: room for the arrow of what is off the scale
_LABELLED = (5, 95)  # percent: a label nearer to an edge would stand on the next column
_PHONE = 95  # pixels that the axis has there at least; a character has 7, and 2 are between two labels


@dataclass(frozen=True)
class Axis:
    """An axis from low to high. ticks: (percent, label); reference: the value of its line, None without one."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    reference: float | None

    def percent(self, value: float) -> float:
        """Return where a value is, 0 to 100 from left to right; one off the scale is at its edge."""
        return round(float(np.clip(100 * (value - self.low) / (self.high - self.low), 0, 100)), 1)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def make_axis(
    table: np.ndarray, reference: float | None = None, signed: bool = False, whole: Collection[int] = ()
) -> Axis:
    """Return the axis on which the rows of table (n, 3), value, low and high, can be distinguished.

    A few rows that are far from all others are off the scale.

    Args:
        table: Rows that are not finite are not looked at.
        reference: A value that is on the scale as well.
        signed: Whether labels have a sign.
        whole: Rows that are never off the scale.
    """
    rows = np.asarray(table, float)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.any():
        rows, finite = np.array([[0.5, 0, 1]]), np.array([True])
    value, low, high = rows[finite].T
    near = np.abs(value - np.median(value)) <= FAR * np.median(high - low)
    near |= np.isin(np.flatnonzero(finite), list(whole))
    if 3 * near.sum() < 2 * len(near):
        near[:] = True
    ends = [low[near].min(), high[near].max(), *([] if reference is None else [reference])]
    start, end = min(ends), max(ends)
    margin = _MARGIN * (end - start) or 0.5
    axis = Axis(start - margin, end + margin, (), reference)
    return replace(axis, ticks=_find_ticks(axis, start, end, signed))


def _find_ticks(axis: Axis, start: float, end: float, signed: bool) -> tuple[tuple[float, str], ...]:
    """Return the ticks between start and end, as many as have room for their labels on a phone."""
    for count in (4, 3, 2, 1):
        ticks = MaxNLocator(count, steps=[1, 2, 4, 5, 10], min_n_ticks=1).tick_values(start, end)
        labels = [(axis.percent(tick), f"{tick:+.6g}" if signed and tick else f"{tick:.6g}") for tick in ticks]
        labels = [(x, text) for x, text in labels if _LABELLED[0] <= x <= _LABELLED[1]]
        room = min((b[0] - a[0] for a, b in pairwise(labels)), default=100) * _PHONE / 100
        if room >= 7 * max((len(text) for _, text in labels), default=0) + 2:
            break
    return tuple(labels)
