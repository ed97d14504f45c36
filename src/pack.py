"""Pack the last blend for a Kaggle notebook without internet, which then predicts the test images by the trained weights.

    python src/pack.py --out DIR --user NAME --competition SLUG
    kaggle datasets create -p DIR/dataset --dir-mode zip    the next time: kaggle datasets version .. -m TEXT
    kaggle kernels push -p DIR/kernel

DIR/dataset holds the source, the weights and out-of-fold predictions of the runs that were blended, and as wheels the small
packages that a notebook's image may lack (torch is the image's own); DIR/kernel the notebook, kernel.py. No test predictions
are packed: kernel.py makes them anew, blends as blend.py did and says whether submission.csv is the same, byte for
byte. To try it here: python DIR/kernel/kernel.py INPUT OUTPUT, with DIR/dataset and the competition below INPUT.
"""

from pathlib import Path

from facefold import kaggle, step, upload
from facefold.combine import members, outcome
from facefold.data import competition, folds
from facefold.errors import InputError


def main() -> None:
    parser = step.parser(__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="the upload folder: a new one, or an earlier one to replace",
    )
    parser.add_argument(
        "--user", required=True, metavar="NAME", help="your name at Kaggle, as in the address of your page"
    )
    parser.add_argument(
        "--competition",
        metavar="SLUG",
        help="what follows /competitions/ in the address of its page (default: that of submissions/log.csv)",
    )
    parser.add_argument(
        "--python", default="3.11", metavar="3.N", help="of the notebook, for the wheels (default: 3.11)"
    )
    parser.add_argument("--no-wheels", action="store_true", help="pack none: where no package index can be reached")
    args = parser.parse_args()
    root, out = args.root.resolve(), args.out.resolve()
    log = kaggle.read_log(root)
    slug = args.competition or (log[-1].competition if log else "")
    if not slug:
        raise InputError(
            "which competition? Say it with --competition SLUG: what follows /competitions/ in the address of its page"
        )
    contest, dealt, made = competition.load(root), folds.load(root), outcome.load(root)
    test_ids = contest.test["id"].tolist()
    loaded = members.of_blend(root, made.facts, dealt, test_ids)
    upload.clear(out)
    gpu = any(run["device"].startswith("cuda") for member in loaded for run in member.runs)
    upload.describe(out, args.user, slug, gpu)
    upload.fill(out, root, made.facts, dealt.k)
    wheels = [] if args.no_wheels else upload.fetch_wheels(out, args.python)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    names = ", ".join(member.recipe for member in loaded)
    print(f"packed {names} and {len(wheels)} wheels into {out} ({size / 1e6:.0f} MB); now:")
    print(f"  kaggle datasets create -p {out / 'dataset'} --dir-mode zip\n  kaggle kernels push -p {out / 'kernel'}")


if __name__ == "__main__":
    step.run(main)
