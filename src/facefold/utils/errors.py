"""The one exception that is meant for people, and what they can do about a disk's errors."""

import errno
from collections.abc import Iterable


class InputError(Exception):
    """Something the user can fix: bad input, bad usage, a stale run.

    The message says what is wrong, where (file, row) and what to do. A step prints it without a traceback and exits
    with 2; see `facefold.cli`.
    """

    @classmethod
    def of(cls, headline: str, findings: Iterable[str], hint: str = "", limit: int = 50) -> "InputError":
        """Return one error for many findings: a headline, one line per finding (at most `limit`), and what to do."""
        findings = list(findings)
        lines = [headline] + [f"  - {finding}" for finding in findings[:limit]]
        if len(findings) > limit:
            lines.append(f"  .. and {len(findings) - limit} more")
        if hint:
            lines.append(hint)
        return cls("\n".join(lines))


_ADVICE = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EACCES: "change the permissions, or choose another --root",
    errno.EPERM: "change the permissions, or choose another --root",
    errno.EROFS: "choose a --root that can be written",
}


def disk_error_advice(error: OSError) -> str:
    """Return what to do about a full or locked disk; empty for another error."""
    if error.errno not in _ADVICE:
        return ""
    where = error.filename or "writing"
    return f"{error.strerror}: {where}; {_ADVICE[error.errno]}, then run the same command again: nothing is lost"
