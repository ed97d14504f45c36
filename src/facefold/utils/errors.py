"""The one exception that is meant for people."""

from collections.abc import Iterable


class InputError(Exception):
    """Something the person can mend: bad input, bad usage, a stale run.

    The message says what is wrong, where (file, row) and what to do. A step prints it without a
    traceback and exits with 2; see `facefold.step`.
    """

    @classmethod
    def of(cls, headline: str, findings: Iterable[str], way_out: str = "", limit: int = 50) -> "InputError":
        """One error for many findings: a headline, a line a finding (at most `limit`), and what to do."""
        findings = list(findings)
        lines = [headline] + [f"  - {finding}" for finding in findings[:limit]]
        if len(findings) > limit:
            lines.append(f"  .. and {len(findings) - limit} more")
        if way_out:
            lines.append(way_out)
        return cls("\n".join(lines))
