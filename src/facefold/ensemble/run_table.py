"""All runs as a table, and the predictions of the complete ones in two wide tables."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.folds import Folds
from facefold.ensemble.members import OofMatrix, join_members
from facefold.ensemble.metrics import target_metric
from facefold.runs import (
    Member,
    current_identity,
    fold_dir,
    is_fold_sealed,
    load_member,
    require_current,
    run_names,
)
from facefold.utils.console import format_table
from facefold.utils.errors import InputError
from facefold.utils.files import STAGED, csv_text, read_json, staged_files, write_text

_OWN = ("seed", "corrections", "pseudo", "extra")  # the parts of an identity that are a run's own
_LEFT_OUT = ("name", "about", "epochs")  # of the settings: the table has the run's name, and the epochs that it ran
EXPORTED = ("oof.csv", "test.csv")


@dataclass(frozen=True)
class RunState:
    """A run under runs/.

    name: of its folder. state: complete, `1 of 3 folds`, stale or damaged. runs: run.json of its finished folds.
    member: of a complete run. problem: what is stale or damaged and what to do, in words.
    """

    name: str
    state: str
    runs: list[dict]
    member: Member | None = None
    problem: str = ""


def load_run_states(directory: Path, folds: Folds, images_hash: str, test_ids: list[str]) -> list[RunState]:
    """Load all runs under `directory`, sorted by name; what is wrong with one is in its `problem`."""
    return [_load_run_state(directory, name, folds, images_hash, test_ids) for name in run_names(directory)]


def _load_run_state(directory: Path, name: str, folds: Folds, images_hash: str, test_ids: list[str]) -> RunState:
    sealed = [k for k in range(folds.k) if is_fold_sealed(directory, name, k)]
    try:
        runs = [read_json(fold_dir(directory, name, k) / "run.json") for k in sealed]
    except InputError as error:
        return RunState(name, "damaged", [], problem=str(error))
    try:
        identity = current_identity(name, folds, images_hash)
        for k, run in zip(sealed, runs, strict=True):
            own = {key: run[key] for key in _OWN if key in run}
            require_current(fold_dir(directory, name, k), run, replace(identity, **own))
    except InputError as error:
        return RunState(name, "stale", runs, problem=str(error))
    if len(sealed) < folds.k:
        return RunState(name, f"{len(sealed)} of {folds.k} folds", runs)
    try:
        return RunState(name, "complete", runs, load_member(directory, identity, name, folds, test_ids))
    except InputError as error:
        return RunState(name, "damaged", runs, problem=str(error))


def score_run(member: Member, folds: Folds) -> dict[str, float]:
    """Return the scores of a run's out-of-fold predictions by the given labels, with intervals."""
    oof = member.oof.loc[folds.table["id"]].to_numpy()
    return target_metric(folds.target).score(oof, folds.table["label"].to_numpy())


def make_run_table(states: list[RunState], folds: Folds) -> pd.DataFrame:
    """Return a row for each run, the complete ones first and the best of them on top.

    The columns are run, state, the metric with its interval, seconds (of all folds), device, epochs, and the settings
    that are not the same in all runs. What is not known is empty.
    """
    metric, rows = target_metric(folds.target), []
    settings = [state.runs[0].get("settings", {}) if state.runs else {} for state in states]
    keys = dict.fromkeys(key for one in settings for key in one if key not in _LEFT_OUT)
    differ = [key for key in keys if len({str(one.get(key)) for one in settings if one}) > 1]
    for state, own in zip(states, settings, strict=True):
        score, rank = dict.fromkeys((metric.key, *metric.interval_keys), np.nan), (np.inf,)
        if state.member:
            found = score_run(state.member, folds)
            score, rank = {key: found[key] for key in score}, metric.rank(found)
        seconds = [run["seconds"] for run in state.runs if "seconds" in run]
        row = {
            "run": state.name,
            "state": state.state,
            **score,
            "seconds": sum(seconds) if seconds else np.nan,
            "device": _joined(run.get("device", "") for run in state.runs),
            "epochs": _joined(run.get("epochs_run", "") for run in state.runs),
            **{key: _joined([own.get(key, "")]) for key in differ},
        }
        rows.append((rank, row))
    rows.sort(key=lambda ranked: ranked[0])
    return pd.DataFrame([row for _, row in rows])


def _joined(values: Iterable[object]) -> str:
    """Return the different values, as a recipe file writes them."""
    texts = (str(value).lower() if isinstance(value, bool) else str(value) for value in values)
    return " ".join(sorted(dict.fromkeys(filter(None, texts))))


def format_run_table(table: pd.DataFrame, folds: Folds) -> str:
    """Return the table of `make_run_table` as lines of text."""
    metric = target_metric(folds.target)
    metric = metric.scaled({metric.key: table[metric.key].min()})
    cells = table.astype(object).where(table.notna(), "-").replace("", "-")
    for column in (metric.key, *metric.interval_keys):
        cells[column] = [f"{value:.{metric.digits}f}" if value == value else "-" for value in table[column]]
    cells["seconds"] = [f"{value:,.0f}" if value == value else "-" for value in table["seconds"]]
    return format_table([list(cells.columns), *cells.to_numpy().tolist()])


def export_predictions(directory: Path, states: list[RunState], folds: Folds, test_ids: list[str]) -> list[str]:
    """Write the predictions of the complete runs into the folder `directory`, and return their names.

    oof.csv: id, label (as train.csv has it), fold, and a column for each run, of more than two classes run:class for
    each class. test.csv: id and the same columns, the means over the folds' models. All digits are written.
    Raise `InputError` if no run is complete or the folder holds anything but an earlier export.
    """
    own = {*EXPORTED, STAGED}
    if directory.exists() and (not directory.is_dir() or {path.name for path in directory.iterdir()} - own):
        raise InputError(f"--export {directory}: it holds other files; name a new folder")
    members = [state.member for state in states if state.member]
    if not members:
        raise InputError("--export: no run is complete, so that there is nothing to export")
    matrix = join_members(members, folds, test_ids)
    labels = matrix.labels if folds.target.regression else np.array(folds.target.classes)[matrix.labels]
    rows = {"id": matrix.ids, "label": labels, "fold": matrix.fold}
    tables = (rows | _columns(matrix, matrix.prob), {"id": matrix.test_ids} | _columns(matrix, matrix.test_prob))
    with staged_files(directory, EXPORTED[-1]) as staged:
        for name, columns in zip(EXPORTED, tables, strict=True):
            write_text(staged / name, csv_text(pd.DataFrame(columns)))
    return matrix.names


def _columns(matrix: OofMatrix, prob: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of prob (n, m) or (n, m, C) by their names."""
    if not matrix.target.multiclass:
        return dict(zip(matrix.names, prob.T, strict=True))
    return {
        f"{name}:{one}": prob[:, j, k]
        for j, name in enumerate(matrix.names)
        for k, one in enumerate(matrix.target.classes)
    }
