"""Submit to Kaggle, and keep a log of the submissions.

    python src/submit.py -m "lite0 and cnn5, the mean" --competition SLUG
    python src/submit.py -m "another blend"                                 to the same competition as last time
    python src/submit.py --public 0.9381                                    record the public score of the last one

SLUG is what follows /competitions/ in the address of the competition's page. Checks that submissions/submission.csv is
the file that the blend wrote, and its ids, order and labels; then calls Kaggle's own client, `kaggle`, which must be
installed (pip install kaggle) and needs a token. Its errors are explained. Each file that Kaggle accepted is a line of
submissions/log.csv: time, competition, the file's sha256, the nested score, the public score once it is recorded. A
file that was submitted already is refused: it would cost one of the day's submissions and score the same.
"""

from dataclasses import replace
from datetime import UTC, datetime

from facefold.cli import build_parser, run_main
from facefold.utils.errors import InputError


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("-m", "--message", metavar="TEXT", help="what Kaggle shows next to the submission")
    parser.add_argument("--competition", metavar="SLUG", help="default: that of the last line of the log")
    parser.add_argument("--public", type=float, metavar="SCORE", help="the public score of the last line of the log")
    args = parser.parse_args()
    if (args.message is None) == (args.public is None):
        raise InputError(
            "say what to do: -m TEXT submits, --public SCORE records the public score of the last submission"
        )

    from facefold.data.competition import load_competition
    from facefold.data.synthetic import is_synthetic
    from facefold.ensemble.blend import load_blend
    from facefold.ensemble.leaderboard import format_headline
    from facefold.ensemble.submission import check_submission
    from facefold.kaggle.submit import LogEntry, load_submission_log, submit_file, write_submission_log
    from facefold.utils.files import sha256_file

    root = args.root.resolve()
    log = load_submission_log(root)
    if args.public is not None:
        if not log:
            raise InputError("submissions/log.csv has no line yet: nothing was submitted by this program")
        if not 0 <= args.public <= 1:
            raise InputError(f"--public {args.public:g}: an accuracy is in 0 to 1, as on the leaderboard")
        write_submission_log(root, [*log[:-1], replace(log[-1], public=f"{args.public:g}")])
        nested = f"nested score {log[-1].honest} [{log[-1].low}, {log[-1].high}]"
        print(f"{log[-1].message}: public score {args.public:g}, {nested}")
        return
    slug = args.competition or (log[-1].competition if log else "")
    if not slug:
        raise InputError(
            "which competition? Name it once with --competition SLUG: "
            "what follows /competitions/ in the address of its page"
        )
    if is_synthetic(root):
        raise InputError("this competition is synthetic: there is nowhere to submit to")
    competition, blend, path = load_competition(root), load_blend(root), root / "submissions" / "submission.csv"
    rows, sha256 = check_submission(competition, path), sha256_file(path)
    if before := [entry for entry in log if (entry.competition, entry.sha256) == (slug, sha256)]:
        raise InputError(
            f"this very file was submitted on {before[-1].time} ({before[-1].message}): "
            "its score would be the same. "
            f"To submit it all the same: kaggle competitions submit -f {path} -m TEXT {slug}"
        )
    print(f"{path}: {rows:,} rows; {format_headline(blend.facts)}")
    answer = submit_file(slug, path, args.message)
    score, low, high = (f"{blend.facts['score'][part]:.4f}" for part in ("accuracy", "low", "high"))
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    write_submission_log(root, [*log, LogEntry(now, slug, sha256, args.message, score, low, high)])
    print(answer)
    print("written to submissions/log.csv; when its public score is there: python src/submit.py --public SCORE")


if __name__ == "__main__":
    run_main(main)
