"""Submit a file by Kaggle's own client, an executable that the user installs, and keep the log of submissions.

submissions/log.csv   time (UTC), competition, sha256 of the file, message, nested score (column `honest`) with its
                      interval, public score (empty if unknown), outcome: accepted; unknown until Kaggle's answer is
                      there; refused if a person said so
"""

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pandas as pd

from facefold.kaggle.client import call_client, find_hint
from facefold.task import load_task
from facefold.utils.errors import InputError
from facefold.utils.files import read_csv, write_csv

_KEEP = "fix it in a text editor, and keep its lines: without them the same file could be uploaded twice"
# Parts of the client's answers (versions 1.5 to 2.2) in small letters, and a hint. The first match counts.
_HINTS = (
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
)
_SENT = "successfully submitted"
ACCEPTED, REFUSED, UNKNOWN = "accepted", "refused", "unknown"


class UnknownOutcome(InputError):
    """The client's answer does not say whether Kaggle has the file."""


@dataclass(frozen=True)
class LogEntry:
    """A line of the log; the scores are text, empty if unknown. outcome: `ACCEPTED`, `REFUSED` or `UNKNOWN`."""

    time: str
    competition: str
    sha256: str
    message: str
    honest: str = ""
    low: str = ""
    high: str = ""
    public: str = ""
    outcome: str = ACCEPTED


_COLUMNS = dict.fromkeys((field.name for field in fields(LogEntry)), str)


def load_submission_log(root: Path) -> list[LogEntry]:
    """Load the log of submissions, the oldest first. A log without `outcome` is an older one: all were accepted.

    Bytes that are not UTF-8, as an editor may leave them, become surrogates, and are written as they were.
    """
    path, columns = _log(root), dict(_COLUMNS)
    if not path.exists():
        return []
    if not path.read_text(encoding="utf-8", errors="surrogateescape").partition("\n")[0].endswith(",outcome"):
        del columns["outcome"]
    table = read_csv(path, columns, encoding_errors="surrogateescape", advice=_KEEP)
    return [LogEntry(*row) for row in table.itertuples(index=False)]


def write_submission_log(root: Path, entries: list[LogEntry]) -> None:
    write_csv(_log(root), pd.DataFrame(entries, columns=list(_COLUMNS)))


def require_known_outcome(log: list[LogEntry]) -> None:
    """Raise `InputError` if the last upload was cut short, so that it is not known whether Kaggle has it."""
    if log and log[-1].outcome == UNKNOWN:
        raise InputError(
            f"whether Kaggle has the submission of {log[-1].time} ({log[-1].message}) is not known: its answer is "
            f"missing. {_how_to_settle(log[-1].competition)}"
        )


def record_outcome(root: Path, log: list[LogEntry], outcome: str) -> str:
    """Record what came of the last submission, whose outcome is unknown; return a line that says so."""
    if not log or log[-1].outcome != UNKNOWN:
        raise InputError(f"--outcome {outcome}: submissions/log.csv has no submission whose outcome is unknown")
    write_submission_log(root, [*log[:-1], replace(log[-1], outcome=outcome)])
    return f"{log[-1].message}: {outcome}, written to submissions/log.csv"


def record_public_score(root: Path, log: list[LogEntry], public: float) -> str:
    """Record the public score of the last submission that was not refused; return a line that says so."""
    last = max((number for number, entry in enumerate(log) if entry.outcome != REFUSED), default=None)
    if last is None:
        raise InputError("submissions/log.csv has no line yet: nothing was submitted by this program")
    from facefold.ensemble.metrics import target_metric  # with scipy

    metric = target_metric(load_task(root))
    low, high = metric.bounds
    if not low <= public <= high:
        raise InputError(f"--public {public:g}: {metric.name} is in {low:g} to {high:g}, as on the leaderboard")
    entry = replace(log[last], public=f"{public:g}")
    write_submission_log(root, [*log[:last], entry, *log[last + 1 :]])
    return f"{entry.message}: public score {public:g}, nested score {entry.honest} [{entry.low}, {entry.high}]"


def submit_file(slug: str, path: Path, message: str) -> str:
    """Submit a file and return the client's answer, one line.

    Raise `InputError` with a hint if Kaggle refuses it, and `UnknownOutcome` if the answer is not understood.
    """
    if not re.fullmatch("[a-z0-9][a-z0-9-]*", slug):
        raise InputError(
            f"--competition {slug}: it is what follows /competitions/ in the address of its page: "
            "small letters, digits, dashes"
        )
    answer = call_client(
        ["competitions", "submit", "-f", str(path), f"--message={message}", slug], f"upload {path} in the browser"
    )
    if answer.code == 0 and _SENT in answer.text:  # some versions report a failure and exit with 0
        return next(line for line in answer.lines if _SENT in line.lower())
    if hint := find_hint(answer, _HINTS):
        raise InputError(f"{path.name} was not submitted: {hint.format(slug=slug)}.\n{answer}")
    raise UnknownOutcome(f"{path.name}: it is not known whether Kaggle has it. {answer}\n{_how_to_settle(slug)}")


def _how_to_settle(slug: str) -> str:
    """Return what to do about a submission whose outcome is unknown."""
    return (
        f"Look whether it is in https://www.kaggle.com/competitions/{slug}/submissions; then say so: python "
        "src/submit.py --outcome accepted, or --outcome refused, after which it can be submitted again"
    )


def _log(root: Path) -> Path:
    return root / "submissions" / "log.csv"
