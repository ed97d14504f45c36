"""Submit a file by Kaggle's own client, an executable that the user installs, and keep the log of submissions.

submissions/log.csv   time (UTC), competition, sha256 of the file, message, nested score (column `honest`) with its
                      interval, public score; empty if unknown
"""

import re
import shutil
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from facefold.utils.errors import InputError
from facefold.utils.files import read_csv, write_csv

_INSTALL = "install Kaggle's client with `pip install kaggle`, or upload {path} in the browser"
# Parts of the client's answers (versions 1.5 to 1.8) in small letters, and a hint. The first match counts.
_HINTS = (
    (
        ("could not find kaggle.json", "you must authenticate", "missing username", "missing key"),
        "there is no token. Create one at https://www.kaggle.com/settings (API, Create New Token), and put the file "
        "where the client looks for it, ~/.kaggle/kaggle.json, or set KAGGLE_USERNAME and KAGGLE_KEY",
    ),
    (("401", "unauthorized"), "the token is not valid any more. Create a new one at https://www.kaggle.com/settings"),
    (
        ("accept the competition rules", "accept this competition's rules"),
        "the rules are not accepted. Do so, signed in, at https://www.kaggle.com/competitions/{slug}/rules",
    ),
    (
        ("allowance", "too many submissions", "submission limit", "submissions today", "429"),
        "the team has used its submissions of today. The count begins again at midnight UTC",
    ),
    (
        ("deadline", "is closed", "has closed", "has ended", "no longer accept", "not accepting"),
        "the competition is closed. Its page says whether late submissions are taken",
    ),
    (
        ("competitions.participate", "403", "forbidden"),
        "the account takes no part in '{slug}', or there is no such competition. Join it and accept the rules at "
        "https://www.kaggle.com/competitions/{slug}/rules, or fix --competition: what follows /competitions/ in the "
        "address of its page",
    ),
    (
        ("could not find competition", "404", "not found"),
        "there is no competition '{slug}', or it is closed. --competition takes what follows /competitions/ in the "
        "address of its page",
    ),
    (
        ("400", "bad request"),
        "Kaggle refuses without a reason. It does so where the team has used its submissions of today, where the "
        "account has not joined, and where the competition is closed: "
        "https://www.kaggle.com/competitions/{slug}/submissions shows which",
    ),
    (
        ("connectionerror", "max retries", "name resolution", "timed out", "proxy"),
        "Kaggle could not be reached. Check the network",
    ),
)
_SENT = "successfully submitted"


@dataclass(frozen=True)
class LogEntry:
    """A line of the log; the scores are text, empty if unknown."""

    time: str
    competition: str
    sha256: str
    message: str
    honest: str = ""
    low: str = ""
    high: str = ""
    public: str = ""


_COLUMNS = dict.fromkeys((field.name for field in fields(LogEntry)), str)


def load_submission_log(root: Path) -> list[LogEntry]:
    """Load the log of submissions, the oldest first."""
    path = _log(root)
    return [LogEntry(*row) for row in read_csv(path, _COLUMNS).itertuples(index=False)] if path.exists() else []


def write_submission_log(root: Path, entries: list[LogEntry]) -> None:
    write_csv(_log(root), pd.DataFrame(entries, columns=list(_COLUMNS)))


def submit_file(slug: str, path: Path, message: str) -> str:
    """Submit a file and return the client's answer, one line. Raise `InputError` with a hint if Kaggle refuses it."""
    if not re.fullmatch("[a-z0-9][a-z0-9-]*", slug):
        raise InputError(
            f"--competition {slug}: it is what follows /competitions/ in the address of its page: "
            "small letters, digits, dashes"
        )
    client = shutil.which("kaggle")
    if client is None:
        raise InputError(f"there is no `kaggle` on the PATH: {_INSTALL.format(path=path)}")
    done = subprocess.run(
        [client, "competitions", "submit", "-f", str(path), f"--message={message}", slug],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    answer = [
        line.strip() for line in re.split(r"[\r\n]+", done.stdout) if line.strip() and not re.search(r"\d+%\|", line)
    ]
    output = done.stdout.lower()
    if done.returncode == 0 and _SENT in output:  # some versions report a failure and exit with 0
        return next(line for line in answer if _SENT in line.lower())
    hint = next(
        (hint.format(slug=slug) for marks, hint in _HINTS if any(mark in output for mark in marks)),
        "its answer is not known here",
    )
    lines = "\n".join(f"  {line}" for line in answer[-8:]) or f"  nothing, and exited with {done.returncode}"
    raise InputError(f"{path.name} was not submitted: {hint}.\nKaggle's client answered:\n{lines}")


def _log(root: Path) -> Path:
    return root / "submissions" / "log.csv"
