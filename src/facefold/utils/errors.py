"""The one exception that is meant for people, and what they can do about a disk's errors."""

import difflib
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


_ALIKE = 0.85  # of 1: sizes and size are, lite9 and lite0 are not
_FILE_FOR_FOLDER = "a file is where a folder should be; move it away"
_FOLDER_FOR_FILE = "a folder is where a file should be; move it away, or name another file"
_ADVICE = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EACCES: "change the permissions, or choose another --root",
    errno.EPERM: "change the permissions, or choose another --root",
    errno.EROFS: "choose a --root that can be written",
    errno.EEXIST: _FILE_FOR_FOLDER,
    errno.ENOTDIR: _FILE_FOR_FOLDER,
    errno.EISDIR: _FOLDER_FOR_FILE,
    errno.ENAMETOOLONG: "choose a --root with a shorter path, or a shorter name",
    errno.ELOOP: "a link leads back to itself; remove it",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.EIO: "the disk reports a fault; check it",
    errno.ESTALE: "the network disk has lost it; check the mount",
}


def disk_error_advice(error: OSError) -> str:
    """Return what to do about an error of the disk, or about a file or folder; empty for another one.

    An error with the name of a file is one of the user's disk: what our own code opens is either in the root or named
    on the command line.
    """
    path = error.filename2 or error.filename  # the second is the target of a rename
    if error.errno not in _ADVICE and path is None:
        return ""
    where, advice = path or "writing", _ADVICE.get(error.errno, "check it")
    if isinstance(where, bytes):
        where = where.decode("utf-8", "surrogateescape")
    return f"{error.strerror}: {where}; {advice}, then run the same command again: nothing is lost"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean X?)" with the known word that is most like `word`, nothing if none is."""
    nearest = difflib.get_close_matches(word, list(known), 1, _ALIKE)
    return f" (did you mean {nearest[0]}?)" if nearest else ""
