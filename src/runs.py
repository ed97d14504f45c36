"""List all runs under runs/, and export their predictions.

    python src/runs.py                       a table: score with interval, seconds, device, epochs, settings that differ
    python src/runs.py --csv runs.csv        .. and write it
    python src/runs.py --export mine/        the predictions of all complete runs, in two csv files

Scores are out of fold, in the metric of competition/task.toml. A run is complete, has so many of its folds finished, is
stale (trained with another version of the recipe, other folds or other images than those there now) or damaged; what to
do about these is said below the table. Settings that all runs share are left out.

--export writes DIR/oof.csv, id,label,fold and a column called like each run, and DIR/test.csv, id and these columns; of
more than two classes a column RUN:CLASS for each class. Test predictions are the mean over the folds. A team mate who
has the same competition adds a run by `blend.py --add RUN=DIR/oof.csv,DIR/test.csv`, where RUN is any name of the
table, such as lite0#1 or lite0~size=160.
"""

from facefold.cli import build_parser, path_argument, run_main
from facefold.options import add_target_option
from facefold.utils.errors import InputError


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--csv", type=path_argument, metavar="FILE.csv", help="write the table as well")
    parser.add_argument("--export", type=path_argument, metavar="DIR", help="write oof.csv and test.csv of all runs")
    add_target_option(parser)
    args = parser.parse_args()
    if args.csv and args.csv.suffix != ".csv":
        raise InputError(f"--csv {args.csv}: the name of a csv file ends in .csv")

    from facefold.data.competition import load_competition
    from facefold.data.folds import load_folds
    from facefold.data.image_hashes import load_images_hash
    from facefold.ensemble.run_table import export_predictions, format_run_table, load_run_states, make_run_table
    from facefold.utils.files import write_csv

    root, target = args.root.resolve(), args.target
    competition, folds = load_competition(root), load_folds(root, target)
    test_ids = competition.test["id"].tolist()
    states = load_run_states(target.directory(root), folds, load_images_hash(root), test_ids)
    if not states:
        raise InputError(f"{target.folder}runs/ holds no runs. Run `python src/train.py{target.option} --recipe NAME`.")
    exported = export_predictions(args.export, states, folds, test_ids) if args.export else []
    table = make_run_table(states, folds)
    print(format_run_table(table, folds))
    for state in states:
        if state.problem:
            print(f"{state.name}: {state.problem}")
    if args.csv:
        write_csv(args.csv, table)
        print(f"wrote {args.csv}")
    if exported:
        print(f"wrote oof.csv and test.csv of {', '.join(exported)} into {args.export}")


if __name__ == "__main__":
    run_main(main)
