"""Predict the test images anew, by the weights that training left, in place of the test predictions there are.

    python src/repredict.py --root DIR [--recipes A,B]

For runs whose test predictions are missing, as in what pack.py leaves, or were made of other test images than those now in
competition/test. Nothing is trained. On the machine that trained them the same images give the same bytes. Each run.json is
sealed again, and says then of which images its test predictions are.
"""

from facefold import runs, step, trained
from facefold.data import cache, competition, folds, integrity
from facefold.training import engine


def main() -> None:
    parser = step.parser(__doc__)
    parser.add_argument("--recipes", metavar="A,B", help="the runs to predict by (default: all)")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: CUDA where it is there"
    )
    args = parser.parse_args()
    root = args.root.resolve()
    with step.at_work(root, alone=True):
        contest, dealt = competition.load(root), folds.load(root)
        integrity.check(contest)
        jobs = [
            trained.TestJob(root, name, dealt.k)
            for name in (runs.named(args.recipes) if args.recipes else runs.names(root))
        ]
        for size in {job.size for job in jobs}:
            cache.open_cache(contest, "test", size)  # now, so that processes side by side do not
        engine.run(jobs, engine.slots(args.device, None), trained.work)


if __name__ == "__main__":
    step.run(main)
