"""Build a blend of trained runs, and load the last one that was written.

    submissions/<method>.csv      id,label by each method
    submissions/submission.csv    the one to submit
    submissions/leaderboard.csv   one row per recipe, method and leak, with nested scores
    submissions/oof_blend.csv     id,label,prob,pred,fold: nested
    submissions/test_blend.csv    id,prob,pred: the labels of submission.csv; scores that decide for 1 from 0.5 on
    submissions/order.csv         with the order of the ids, if it was used
    submissions/duplicates.csv    with the labels of near-duplicates, if they were used, after the order
    submissions/blend.json        what was chosen, why, from what; written last, with the sha256 of the files above

Those of a regression target lie in targets/<target>/submissions/. Their tables have `pred`, the value, and no `prob`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.corrections import NO_CORRECTIONS, Corrections
from facefold.ensemble.leaderboard import Entry, leaderboard_columns, make_leaderboard
from facefold.ensemble.leaks import used_leaks
from facefold.ensemble.leaks.base import BlendScores, Leak
from facefold.ensemble.members import OofMatrix, Rows, cross_fit, cross_predict
from facefold.ensemble.methods import blend_methods, candidate_methods, member_weights
from facefold.ensemble.metrics import (
    AccuracyGain,
    Metric,
    compare_accuracy,
    decide,
    score_corrected,
    score_decisions,
    target_metric,
)
from facefold.ensemble.second_pass import first_pass, fit_second_pass
from facefold.ensemble.selection import (
    choose_method,
    nested_predict,
    nested_threshold,
    shift_scores,
)
from facefold.ensemble.stacking import Stacked
from facefold.task import LABEL, Task
from facefold.utils.errors import InputError
from facefold.utils.files import read_csv, read_json, sha256_file

SEALED = ("submission.csv", "leaderboard.csv", "oof_blend.csv", "test_blend.csv")
_FACTS = {
    "target",
    "task",
    "picked",
    "threshold",
    "score",
    "leaks",
    "corrections",
    "files",
}  # always read


@dataclass(frozen=True)
class Blend:
    """A blend. All scores in it are of rows that neither learned nor chose what predicted them.

    Attributes:
        leaderboard: name, kind (recipe, method, procedure, ..), the scores with their intervals, the paired gain over
            best_single with interval and p, weights; the best first. If members learned from corrected labels also
            accuracy and interval against these; everything else is against the given labels.
        oof: id, label, prob, pred, fold of the whole procedure, choice of method and threshold included.
        test: id, prob, pred of the test rows: the submitted labels, and the scores shifted to the threshold 0.5.
        submissions: id, label of the test rows by method, the chosen one's at its threshold, the others' at 0.5; and by
            each leak that is used. A loaded blend has none.
        facts: The content of blend.json.
    """

    leaderboard: pd.DataFrame
    oof: pd.DataFrame
    test: pd.DataFrame
    submissions: dict[str, pd.DataFrame]
    facts: dict


def make_blend(
    matrix: OofMatrix,
    stacked: Stacked,
    method: str,
    rule: str | np.ndarray,
    leaks: Sequence[Leak] = (),
    corrections: Corrections = NO_CORRECTIONS,
) -> Blend:
    """Score all members and methods, choose one, fit it on all rows and predict the test rows.

    Raises `InputError` if a leak is not there.

    Args:
        matrix: The members.
        stacked: Of `fit_feature_stackers`.
        method: A name, or auto: the simplest that no other beats.
        rule: Of the weights, see `blend_methods`.
        leaks: Those to use, in this order, if each gains significantly; score and submission include them.
        corrections: Those that members learned from, to score by; nothing is learned from them here.
    """
    metric, data = target_metric(matrix.target), (Rows(matrix.prob, stacked.oof), matrix.labels, matrix.fold)
    candidates = candidate_methods(matrix.target, method, rule, len(matrix.names))
    methods = blend_methods(matrix.target, rule)
    nested = {name: cross_predict(fit, *data) for name, fit in methods.items()}
    choice = choose_method({name: nested[name] for name in candidates}, matrix.labels, metric)
    threshold, threshold_gain = nested_threshold(nested[choice.name], *data[1:]) if metric.decides else (0.5, None)

    fitted = {name: fit(*data) for name, fit in methods.items()}
    weights = {name: member_weights(matrix.names, fit) for name, fit in fitted.items()}
    test = {name: fit.predict(Rows(matrix.test_prob, stacked.test)) for name, fit in fitted.items()}
    test[choice.name] = shift_scores(test[choice.name], threshold)
    oof = shift_scores(nested[choice.name], threshold)
    scores = BlendScores(nested_predict(candidates, *data, metric), oof, test[choice.name])

    procedure = {method: scores.nested} if len(candidates) > 1 or threshold != 0.5 else {}
    entries, leak_facts = _leaderboard_entries(matrix, nested, weights, procedure), {}
    for leak in leaks:
        result = leak.apply(matrix, scores)
        entries += [Entry(name, leak.kind, values, {}) for name, values in result.candidates.items()]
        scores, leak_facts[leak.name] = result.scores, result.facts
        test |= {leak.name: scores.test} if result.facts["used"] else {}

    corrected = corrections.labels(matrix.ids, matrix.labels) if corrections.actions else None
    facts = {
        "target": matrix.target.name,
        "task": asdict(matrix.target),
        "picked": choice.name,
        "why": choice.why + _threshold_reason(threshold, threshold_gain),
        "weights": weights[choice.name],
        "threshold": threshold,
        "threshold_gain": threshold_gain and asdict(threshold_gain),
        "notes": {name: fit.notes for name, fit in fitted.items() if fit.notes},
        "second_pass": second_pass_report(nested["second_pass"], *data) if metric.decides else None,
        "leaks": leak_facts,
        "corrections": None if corrected is None else _corrections_facts(corrections, scores.nested, corrected),
        "score": asdict(metric.score(scores.nested, matrix.labels)),
        "picked_score": asdict(metric.score(nested[choice.name], matrix.labels)),
        "gain_over_best_single": asdict(metric.compare(scores.nested, nested["best_single"], matrix.labels)),
    }
    leaderboard = make_leaderboard(entries, matrix.labels, nested["best_single"], metric, corrected)
    return Blend(leaderboard, *_prediction_tables(matrix, metric, scores, test), facts)


def _corrections_facts(corrections: Corrections, nested: np.ndarray, corrected: np.ndarray) -> dict:
    return {"hash": corrections.hash, "changes": str(corrections), "score": score_corrected(nested, corrected)}


def _leaderboard_entries(
    matrix: OofMatrix, nested: dict[str, np.ndarray], weights: dict[str, dict], procedure: dict[str, np.ndarray]
) -> list[Entry]:
    """Return all entries but those of leaks.

    nested, weights: by method. procedure: the nested scores of the choice of a method, by its name; empty without one.
    """
    entries = [Entry(name, "recipe", matrix.prob[:, j], {}) for j, name in enumerate(matrix.names)]
    entries += [Entry(name, "method", scores, weights[name]) for name, scores in nested.items()]
    entries += [Entry(name, "procedure", scores, {}) for name, scores in procedure.items()]
    if matrix.target.regression:
        entries.append(Entry("median", "baseline", _fold_medians(matrix.labels, matrix.fold), {}))
    return entries


def _prediction_tables(
    matrix: OofMatrix, metric: Metric, scores: BlendScores, test: dict[str, np.ndarray]
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return oof, test and submissions of a `Blend`; test: scores (t,) by method and by leak."""

    def table(ids: list[str], values: np.ndarray, **columns: np.ndarray) -> pd.DataFrame:
        pred = {"prob": values, "pred": decide(values)} if metric.decides else {"pred": values}
        return pd.DataFrame({"id": ids, **columns, **pred})

    submissions = {
        name: table(matrix.test_ids, values)[["id", "pred"]].rename(columns={"pred": matrix.target.name})
        for name, values in test.items()
    }
    oof = table(matrix.ids, scores.nested, label=matrix.labels).assign(fold=matrix.fold)
    return oof, table(matrix.test_ids, scores.test), submissions


def second_pass_report(after: np.ndarray, rows: Rows, labels: np.ndarray, fold: np.ndarray) -> dict:
    """Return how many rows the second pass doubts, their accuracy before and after it, and the paired gain.

    Each accuracy is {accuracy, low, high}; the result is {rows: 0} alone if no row is doubtful.

    Args:
        after: The nested scores (n,) of the second pass.
        rows: The n rows.
        labels: int (n,) of 0 and 1.
        fold: int (n,). A row is doubtful if the fit on the other folds says so.
    """
    doubtful = np.zeros(len(labels), bool)
    for held_out, fitted in cross_fit(fit_second_pass, rows, labels, fold):
        doubtful[held_out] = fitted.doubtful(rows[held_out])
    count, before = int(doubtful.sum()), first_pass(rows)
    if count == 0:
        return {"rows": 0}
    before, after, labels = before[doubtful], after[doubtful], labels[doubtful]
    return {
        "rows": count,
        "before": score_decisions(decide(before) == labels),
        "after": score_decisions(decide(after) == labels),
        "gain": asdict(compare_accuracy(after, before, labels)),
    }


def submitted_name(facts: dict) -> str:
    """Return whose predictions are submitted: those with the last leak that is used, or else the chosen method's."""
    return [facts["picked"], *(leak.name for leak, _ in used_leaks(facts))][-1]


def load_blend(root: Path, target: Task = LABEL) -> Blend:
    """Load the blend under submissions/, but its submissions. `InputError` if there is none or a file was changed."""
    directory, command = target.directory(root) / "submissions", f"Run `python src/blend.py{target.option}`"
    if not (directory / "blend.json").exists():
        raise InputError(f"{directory / 'blend.json'} is missing: nothing was blended yet. {command}.")
    facts = read_json(directory / "blend.json")
    if _FACTS - set(facts):
        raise InputError(f"{directory / 'blend.json'} is not what the blend wrote. {command} again.")
    for name in dict.fromkeys([*SEALED, *facts["files"]]):
        path, needed = directory / name, name in SEALED  # a person may remove the submission of a method
        if needed and not path.exists() or path.exists() and sha256_file(path) != facts["files"].get(name):
            raise InputError(
                f"{directory / name} is missing or not what the blend wrote (checksum differs). {command} again."
            )
    metric = target_metric(target)
    predicted = {"prob": float, "pred": "int64"} if metric.decides else {"pred": float}
    return Blend(
        read_csv(directory / "leaderboard.csv", leaderboard_columns(metric, bool(facts["corrections"]))),
        read_csv(directory / "oof_blend.csv", {"id": str, "label": predicted["pred"], **predicted, "fold": "int64"}),
        read_csv(directory / "test_blend.csv", {"id": str, **predicted}),
        {},
        facts,
    )


def _fold_medians(values: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return for each row the median of the values (n,) in the other folds."""
    return np.select([fold == k for k in np.unique(fold)], [np.median(values[fold != k]) for k in np.unique(fold)])


def _threshold_reason(threshold: float, gain: AccuracyGain | None) -> str:
    if threshold == 0.5:
        return ""
    return (
        f" It decides for label 1 from {threshold:g} on, which gains {100 * gain.gain:.2f} points over 0.5 "
        f"(p = {gain.p:.2g}); the probabilities written are shifted so that this is 0.5."
    )
