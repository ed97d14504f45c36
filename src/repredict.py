"""Predict the test images anew, by the weights that training left, in place of the test predictions there are.

    python src/repredict.py --root DIR [--recipes A,B]

For runs whose test predictions are missing, as in what pack.py leaves, or were made of other test images than those now in
competition/test. Nothing is trained. On the machine that trained them the same images give the same bytes. Each run.json is
sealed again, and says then of which images its test predictions are.
"""

from facefold.cli import build_parser, hold_root, run_main
from facefold.data.audit import check_images
from facefold.data.cache import open_cache
from facefold.data.competition import load_competition
from facefold.data.folds import load_folds
from facefold.runs import parse_run_names, run_names
from facefold.training.predict import TestJob, run_test_job
from facefold.training.workers import run_jobs, select_devices


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--recipes", metavar="A,B", help="the runs to predict by (default: all)")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: CUDA where it is there"
    )
    args = parser.parse_args()
    root = args.root.resolve()
    with hold_root(root, alone=True):
        competition, folds = load_competition(root), load_folds(root)
        check_images(competition)
        jobs = [
            TestJob(root, name, folds.k)
            for name in (parse_run_names(args.recipes) if args.recipes else run_names(root))
        ]
        for size in {job.size for job in jobs}:
            open_cache(competition, "test", size)  # now, so that processes side by side do not
        run_jobs(jobs, select_devices(args.device, None), run_test_job)


if __name__ == "__main__":
    run_main(main)
