"""Submit to Kaggle, and keep a log of the submissions.

    python src/submit.py -m "lite0 and cnn5, the mean" --competition SLUG
    python src/submit.py -m "another blend"                                 to the same competition as last time
    python src/submit.py --public 0.9381                                    record the public score of the last one
    python src/submit.py --outcome accepted                                 Kaggle has the one that was cut short

SLUG is what follows /competitions/ in the address of the competition's page. Checks that submissions/submission.csv is
the file that the blend wrote, and its ids, order and labels; then calls Kaggle's own client, `kaggle`, which must be
installed (pip install kaggle) and needs a token. Its errors are explained. Each file that Kaggle accepted is a line of
submissions/log.csv: time, competition, the file's sha256, the nested score, the public score once it is recorded. A
file that was submitted already is refused: it would cost one of the day's submissions and score the same. The line is
written before the upload, with the outcome `unknown`: if this step is ended before Kaggle's answer, nothing is uploaded
again until you have looked and said what came of it; its line stays.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from facefold.cli import build_parser, run_main
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory

if TYPE_CHECKING:
    from facefold.kaggle.submit import LogEntry


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("-m", "--message", metavar="TEXT", help="what Kaggle shows next to the submission")
    parser.add_argument("--competition", metavar="SLUG", help="with -m; default: that of the last line of the log")
    parser.add_argument("--public", type=float, metavar="SCORE", help="the public score of the last line of the log")
    parser.add_argument(
        "--outcome", choices=("accepted", "refused"), help="what came of the submission whose outcome is unknown"
    )
    args = parser.parse_args()
    if sum(value is not None for value in (args.message, args.public, args.outcome)) != 1:
        raise InputError(
            "say what to do: -m TEXT submits, --public SCORE records the public score of the last submission"
        )
    if args.competition and args.message is None:
        raise InputError(
            f"--competition {args.competition}: for -m alone; --public and --outcome are of the last submission in "
            "submissions/log.csv, whatever its competition"
        )
    submit(args)


def submit(args: argparse.Namespace) -> None:
    """Submit, or complete the log's last line."""
    from facefold.kaggle.submit import load_submission_log, record_outcome, record_public_score, require_known_outcome

    root = args.root.resolve()
    if not root.is_dir():
        raise InputError(f"--root {args.root} is no folder")
    with lock_directory(root / "submissions"):  # each writes the whole log again: of two at once one would lose a line
        log = load_submission_log(root)
        if args.outcome is not None:
            print(record_outcome(root, log, args.outcome))
            return
        require_known_outcome(log)
        if args.public is not None:
            print(record_public_score(root, log, args.public))
        else:
            upload(root, log, args)


def upload(root: Path, log: list[LogEntry], args: argparse.Namespace) -> None:
    """Check submissions/submission.csv, submit it and keep the log."""
    from facefold.data.competition import load_competition
    from facefold.data.synthetic import is_synthetic
    from facefold.ensemble.blend import load_blend, require_same_task
    from facefold.ensemble.leaderboard import format_headline
    from facefold.ensemble.metrics import target_metric
    from facefold.ensemble.submission import check_submission, require_same_images
    from facefold.kaggle.submit import (
        ACCEPTED,
        REFUSED,
        UNKNOWN,
        LogEntry,
        UnknownOutcome,
        submit_file,
        write_submission_log,
    )
    from facefold.utils.files import sha256_file

    slug = args.competition or (log[-1].competition if log else "")
    if not slug:
        raise InputError(
            "which competition? Name it once with --competition SLUG: "
            "what follows /competitions/ in the address of its page"
        )
    if re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", args.message):  # control characters; bytes that are not UTF-8
        shown = re.sub(r"\\udc(..)", r"\\x\1", repr(args.message))
        raise InputError(f"-m {shown}: a line of text is needed, in UTF-8")
    if is_synthetic(root):
        raise InputError("this competition is synthetic: there is nowhere to submit to")
    competition, blend, path = load_competition(root), load_blend(root), root / "submissions" / "submission.csv"
    require_same_task(blend, competition.task)
    require_same_images(blend, root, competition.task)
    rows, sha256 = check_submission(competition, path), sha256_file(path)
    same = [entry for entry in log if (entry.competition, entry.sha256) == (slug, sha256)]
    if before := [entry for entry in same if entry.outcome != REFUSED]:
        raise InputError(
            f"this very file was submitted on {before[-1].time} ({before[-1].message}): "
            "its score would be the same. "
            f"To submit it all the same: kaggle competitions submit -f {path} -m TEXT {slug}"
        )
    print(f"{path}: {rows:,} rows; {format_headline(blend.facts)}")
    metric = target_metric(competition.task)
    score, low, high = (f"{blend.facts['score'][part]:.4f}" for part in (metric.key, *metric.interval_keys))
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    entry = LogEntry(now, slug, sha256, args.message, score, low, high, outcome=UNKNOWN)
    write_submission_log(root, [*log, entry])  # before the upload: whatever ends this step, the next one knows of it
    try:
        answer = submit_file(slug, path, args.message)
    except UnknownOutcome:
        raise
    except InputError:
        write_submission_log(root, log)
        raise
    write_submission_log(root, [*log, replace(entry, outcome=ACCEPTED)])
    print(answer)
    print("written to submissions/log.csv; when its public score is there: python src/submit.py --public SCORE")


if __name__ == "__main__":
    run_main(main)
