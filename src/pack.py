"""Pack the last blend for a Kaggle notebook without internet, which predicts the test images with the trained weights.

    python src/pack.py --out DIR --user NAME --competition SLUG
    kaggle datasets create -p DIR/dataset --dir-mode zip    the next time: kaggle datasets version .. -m TEXT
    kaggle kernels push -p DIR/kernel

DIR/dataset holds the source, the weights and out-of-fold predictions of the runs that were blended, and as wheels the
small packages that a notebook's image may lack (torch is the image's own); DIR/kernel the notebook, kernel.py. No test
predictions are packed: kernel.py computes them again, blends as blend.py did and prints whether submission.csv is the
same, byte for byte. To try it here: python DIR/kernel/kernel.py INPUT OUTPUT, with DIR/dataset and the competition
below INPUT.
"""

from pathlib import Path

from facefold.cli import add_images_option, build_parser, images_options, path_argument, run_main
from facefold.utils.errors import InputError


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument(
        "--out",
        type=path_argument,
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
    add_images_option(parser, "where the images are in the competition's folder at Kaggle, if they are not found")
    args = parser.parse_args()

    from facefold.data.competition import load_competition
    from facefold.data.folds import load_folds
    from facefold.ensemble.blend import load_blend
    from facefold.ensemble.members import load_blended_members
    from facefold.kaggle.pack import (
        fetch_wheels,
        fill_upload,
        require_names,
        require_wheels,
        staged_upload,
        write_metadata,
    )
    from facefold.training.predict import require_network, trained_recipe

    root, out = args.root.resolve(), args.out.resolve()
    slug = args.competition or last_competition(root)
    require_names(args.user, slug)
    if not args.no_wheels:
        require_wheels(args.python)
    competition, blend = load_competition(root), load_blend(root)
    if added := blend.facts.get("added"):
        raise InputError(
            f"the blend has {', '.join(added)}: a notebook cannot predict again what was made elsewhere. Blend without "
            "--add first: `python src/blend.py`"
        )
    folds = load_folds(root, competition.task)
    test_ids = competition.test["id"].tolist()
    members = load_blended_members(root, blend.facts, folds, test_ids)
    for member in members:
        require_network(member.name, trained_recipe(member.name, member.runs))
    gpu = any(run["device"].startswith("cuda") for member in members for run in member.runs)
    with staged_upload(out) as staged:
        write_metadata(staged, args.user, slug, gpu)
        fill_upload(staged, root, blend.facts, folds.k, images_options(args.images))
        wheels = [] if args.no_wheels else fetch_wheels(staged, args.python)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    names = ", ".join(member.name for member in members)
    print(f"packed {names} and {len(wheels)} wheels into {out} ({size / 1e6:.0f} MB); now:")
    print(f"  kaggle datasets create -p {out / 'dataset'} --dir-mode zip\n  kaggle kernels push -p {out / 'kernel'}")


def last_competition(root: Path) -> str:
    """Return the competition of the last upload. Raise `InputError` if there was none."""
    from facefold.kaggle.submit import load_submission_log

    if log := load_submission_log(root):
        return log[-1].competition
    raise InputError(
        "which competition? Name it with --competition SLUG: what follows /competitions/ in the address of its page"
    )


if __name__ == "__main__":
    run_main(main)
