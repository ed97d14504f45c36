"""Find columns of train.csv that say which images belong together, such as a patient: they should not cross folds."""

import re
import shlex

from facefold.data.competition import Competition
from facefold.data.task_inference import as_number

_LEAST, _MOST_SHARE, _LEAST_SHARE = 5, 0.9, 0.02  # of values; the shares are of the rows
_SUBJECT = re.compile("patient|subject|person|user|driver|group|series|study|site_?id", re.IGNORECASE)


def find_group_columns(competition: Competition) -> list[str]:
    """Return a line for each further column of train.csv whose values look like those of a group; none if one is set.

    These are columns of names, not of numbers unless the column's name says what they are, with many values of which
    most are in several rows.
    """
    if competition.extra is None or competition.task.groups:
        return []
    lines, rows = [], len(competition.extra)
    for column in competition.extra.columns.drop("id"):
        counts = competition.extra[column].value_counts()
        names = _SUBJECT.search(column) or not all(as_number(value) == as_number(value) for value in counts.index)
        if names and max(_LEAST, _LEAST_SHARE * rows) <= len(counts) <= _MOST_SHARE * rows:
            line = f"column {column}: {len(counts):,} values for {rows:,} rows, up to {counts.iloc[0]:,} of one"
            if competition.test_extra is not None and column in competition.test_extra.columns:
                crossing = int(competition.test_extra[column].isin(counts.index).sum())
                line += f", {crossing:,} test rows have one of them" if crossing else ", none of them in test.csv"
            lines.append(f"{line}; `split.py --group {shlex.quote(column)}` keeps them together")
    return lines
