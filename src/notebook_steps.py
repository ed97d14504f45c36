"""The steps as functions, for a notebook: they return tables and figures.

    import sys
    sys.path.insert(0, "src")                       # this folder
    from notebook_steps import audit, split, train, blend, report

    audit(data="face-gender.zip")
    split(folds=5)
    runs = train(recipe=["lite0", "cnn5"])          # runs.scores, runs.curves["lite0"], runs.curves["lite0"].table
    blend(weights={"lite0": 2, "cnn5": 1})
    report()

The arguments are the options of the steps and are checked by their parsers: `no_detect=True` is --no-detect, a list is
`a,b`, a dictionary is `a=1,b=2`; None and False leave an option out. `help(train)` is the manual of train.py. A step
prints what it prints on the command line, and what it returns is shown if it is the last line of a cell.

Bad input is an `InputError`, shown in a notebook by its message alone. After an interrupt the same call continues
where it stopped. This module is not in facefold, which never imports a step, and not called notebook, as a package of
Jupyter is.
"""

import importlib
import inspect
import io
import warnings
from contextlib import redirect_stdout, suppress
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from facefold.cli import call_main
from facefold.utils.errors import InputError
from facefold.utils.processes import stop_server

if TYPE_CHECKING:
    import pandas as pd


class Result(SimpleNamespace):
    """What a step returns, by name. A notebook shows tables, drawings and pages; texts were printed before."""

    def _ipython_display_(self) -> None:
        from IPython.display import display

        for part in vars(self).values():
            for name, value in part.items() if isinstance(part, dict) else (("", part),):
                if isinstance(value, (str, Path)):
                    continue
                if name:
                    print(name)
                display(value)


class Drawing:
    """A drawing of the report: `png`, its bytes, and the `table` of what it shows. A notebook shows it."""

    def __init__(self, png: bytes, table: "pd.DataFrame"):
        self.png, self.table = png, table

    def __repr__(self) -> str:
        return "Drawing"

    def _repr_png_(self) -> bytes:
        return self.png


class Page:
    """A page on disk. A notebook shows it in a frame, and saves it in its output."""

    def __init__(self, path: Path):
        self.path = path

    def __repr__(self) -> str:
        return f"Page({str(self.path)!r})"

    def _repr_html_(self) -> str:
        page = escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 50em; border: 0; background: #fff"></iframe>'


def audit(**options: object) -> Result:
    """Return findings, a table of what to look at (finding, split, id, label, detail), and text, the page."""
    text, findings = _call("audit", options)
    return Result(findings=findings, text=text)


def split(**options: object) -> Result:
    """Return counts, the rows of each class in each fold, and folds: id, label, group, fold of each train row."""
    folds = _call("split", options)
    from facefold.report.tables import count_rows

    return Result(counts=count_rows(folds), folds=folds.table)


def train(**options: object) -> Result:
    """Return scores, the out-of-fold ones with intervals and seconds, and curves, the learning curves of each run.

    scores has a row per run of which all folds are finished; curves has those folds that were asked for.
    """
    trained = _call("train", options)
    import pandas as pd

    from facefold.report.figures import draw_learning_curves
    from facefold.report.tables import score_runs
    from facefold.runs import load_histories

    finished = [member for member in trained.members.values() if member is not None]
    metric, curves = ("valid_mae", "mean absolute error") if trained.folds.target.regression else (), {}
    for name in trained.members:
        if histories := load_histories(trained.target_root, name, trained.numbers):
            table = pd.concat(histories, names=["fold", None]).reset_index("fold")
            curves[name] = Drawing(draw_learning_curves(histories, *metric, format="png"), table)
    return Result(scores=score_runs(finished, trained.folds), curves=curves)


def blend(**options: object) -> Result:
    """Return the leaderboard with its intervals as a table and as a drawing, the headline, and why this method."""
    result = _call("blend", options)
    from facefold.ensemble.leaderboard import format_headline, picked_row
    from facefold.ensemble.metrics import target_metric
    from facefold.report.figures import draw_intervals
    from facefold.task import Task

    board, metric = result.leaderboard, target_metric(Task.from_facts(result.facts["task"]))
    table, picked = board[["name", metric.key, *metric.interval_keys]], picked_row(board, result.facts)
    scores, xlabel = table.drop(columns="name"), f"nested {metric.name}"
    intervals = Drawing(draw_intervals(board["name"], scores, xlabel, picked=picked, format="png"), table)
    headline = format_headline(result.facts)
    return Result(leaderboard=board, intervals=intervals, headline=headline, why=result.facts["why"])


def report(**options: object) -> Result:
    """Return the page, which a notebook shows, and its path."""
    path = _call("report", options)
    return Result(page=Page(path), path=path)


def _call(name: str, options: dict[str, object]) -> Any:
    """Return what the `main` of a step returns; what it raises for people is shown by IPython in a line."""
    with suppress(ImportError), warnings.catch_warnings(action="ignore"):
        import tqdm.auto  # noqa: F401  # as libraries do, which makes it advise widgets for bars that no step shows
    try:
        return call_main(name, importlib.import_module(name).main, options)
    except (InputError, KeyboardInterrupt) as error:
        stopped = "stopped; nothing is lost, the same call continues where this one ended"
        line = f"{name}: {error if isinstance(error, InputError) else stopped}"
        error._render_traceback_ = lambda: [line]
        raise
    finally:
        stop_server()  # of a step that was interrupted


def _manual(name: str) -> str:
    """Return what --help of a step prints."""
    with redirect_stdout(io.StringIO()) as text, suppress(SystemExit):
        call_main(name, importlib.import_module(name).main, {"help": True})
    return text.getvalue()


for _step in (audit, split, train, blend, report):
    _step.__doc__ = f"{inspect.cleandoc(_step.__doc__)}\n\n{_manual(_step.__name__)}"
