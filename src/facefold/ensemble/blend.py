"""Build a blend of trained runs, and load the last one that was written.

    submissions/<method>.csv      id,label by each method, or id and probabilities
    submissions/submission.csv    the one to submit
    submissions/leaderboard.csv   one row per recipe, method and leak, with nested scores
    submissions/oof_blend.csv     id,label,prob,pred,fold: nested
    submissions/test_blend.csv    id,prob,pred: the labels of submission.csv; scores that decide for 1 from 0.5 on
    submissions/order.csv         with the order of the ids, if it was used
    submissions/duplicates.csv    with the labels of near-duplicates, if they were used, after the order
    submissions/added_<name>_*    what was added, see `added`
    submissions/blend.json        what was chosen, why, from what; written last, with the sha256 of the files above

Of more than two classes there is a column prob_<class> of each in place of prob, and label and pred are the index of a
class. Those of a regression target lie in targets/<target>/submissions/. Their tables have `pred`, the value, and no
`prob`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from facefold.data.corrections import NO_CORRECTIONS, Corrections
from facefold.ensemble.added import ADDED
from facefold.ensemble.decisions import Decision, decision_kind, nested_decision
from facefold.ensemble.leaderboard import Entry, leaderboard_columns, make_leaderboard
from facefold.ensemble.leaks import used_leaks
from facefold.ensemble.leaks.base import BlendScores, Leak
from facefold.ensemble.members import Fit, OofMatrix, Rows, cross_predict
from facefold.ensemble.methods import FEATURE_METHODS, blend_methods, candidate_methods, member_weights
from facefold.ensemble.metrics import Metric, target_metric
from facefold.ensemble.ratings import Gain
from facefold.ensemble.scores import decide, score_corrected
from facefold.ensemble.second_pass import second_pass_report
from facefold.ensemble.selection import Choice, choose_method, nested_predict
from facefold.ensemble.stacking import Stacked
from facefold.ensemble.trust import judge_added
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
    "picked_score",
    "leaks",
    "corrections",
    "files",
}  # always read


@dataclass(frozen=True)
class Blend:
    """A blend. All scores in it are of rows that neither learned nor chose what predicted them.

    Attributes:
        leaderboard: name, kind (recipe, added, method, procedure, ..), the scores with their intervals, the paired gain
            over best_single with interval and p, weights; the best first. If members learned from corrected labels also
            accuracy and interval against these; everything else is against the given labels.
        oof: id, label, prob, pred, fold of the whole procedure, choice of method and decision included. Of a task with
            more than two classes prob is a column prob_<class> of each.
        test: id, prob, pred of the test rows: the submitted labels, and the scores of which `decide` gives them.
        submissions: id, label of the test rows by method, the chosen one's by its decision, the others' by `decide`;
            and by each leak that is used. Of a task that submits probabilities id and these. A loaded blend has none.
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

    Args:
        matrix: The members.
        stacked: Of `fit_feature_stackers`.
        method: A name, or auto: the simplest that no other beats.
        rule: Of the weights, see `blend_methods`.
        leaks: Those to use, in this order, if each gains significantly; score and submission include them. Raises
            `InputError` if one is not there.
        corrections: Those that members learned from, to score by; nothing is learned from them here.
    """
    metric, data = target_metric(matrix.target), (Rows(matrix.prob, stacked.oof), matrix.labels, matrix.fold)
    methods, candidates = _find_methods(matrix, method, rule)
    nested = {name: cross_predict(fit, *data) for name, fit in methods.items()}
    choice = choose_method({name: nested[name] for name in candidates}, matrix.labels, metric)
    decision, decision_gain = nested_decision(nested[choice.name], *data[1:], decision_kind(matrix.target), metric)

    fitted = {name: fit(*data) for name, fit in methods.items()}
    weights = {name: member_weights(matrix.names, fit) for name, fit in fitted.items()}
    test = {name: fit.predict(Rows(matrix.test_prob, stacked.test)) for name, fit in fitted.items()}
    test[choice.name] = decision.apply(test[choice.name])
    oof = decision.apply(nested[choice.name])
    scores = BlendScores(nested_predict(candidates, *data, matrix.target), oof, test[choice.name])
    blended = scores.nested

    procedure = {method: scores.nested} if len(candidates) > 1 or decision != Decision() else {}
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
        **_choice_facts(choice, decision, decision_gain, metric, matrix.target.classes),
        "weights": weights[choice.name],
        "notes": {name: fit.notes for name, fit in fitted.items() if fit.notes},
        "second_pass": _second_pass_facts(methods, nested, data),
        "leaks": leak_facts,
        "corrections": None if corrected is None else _corrections_facts(corrections, scores.nested, corrected),
        "score": metric.score(scores.nested, matrix.labels),
        "picked_score": metric.score(nested[choice.name], matrix.labels),
        "gain_over_best_single": asdict(metric.compare(blended, nested["best_single"], matrix.labels)),
        **({"added": judge_added(matrix)} if matrix.added else {}),
    }
    leaderboard = make_leaderboard(entries, matrix.labels, nested["best_single"], metric, corrected)
    return Blend(leaderboard, *_prediction_tables(matrix, scores, test), facts)


def _find_methods(matrix: OofMatrix, method: str, rule: str | np.ndarray) -> tuple[dict[str, Fit], dict[str, Fit]]:
    """Return all methods, and those to choose among: without runs there are no features to stack."""
    methods = blend_methods(matrix.target, rule)
    if not matrix.runs.names:
        methods = {name: fit for name, fit in methods.items() if name not in FEATURE_METHODS}
    candidates = candidate_methods(matrix.target, method, rule, len(matrix.names))
    return methods, {name: fit for name, fit in candidates.items() if name in methods}


def _choice_facts(
    choice: Choice, decision: Decision, gain: Gain | None, metric: Metric, classes: Sequence[str]
) -> dict:
    """Return what was chosen, and why. gain: of the decision, None for the plain rule."""
    return {
        "picked": choice.name,
        "why": choice.why + _decision_reason(decision, gain, metric, classes),
        "threshold": decision.threshold,
        "threshold_gain": gain and asdict(gain),
        "decision": asdict(decision),
    }


def _second_pass_facts(
    methods: dict[str, Fit], nested: dict[str, np.ndarray], data: tuple[Rows, np.ndarray, np.ndarray]
) -> dict | None:
    if "second_pass" not in methods:
        return None
    return second_pass_report(nested["second_pass"], *data, methods["second_pass"])


def _corrections_facts(corrections: Corrections, nested: np.ndarray, corrected: np.ndarray) -> dict:
    return {"hash": corrections.hash, "changes": str(corrections), "score": score_corrected(nested, corrected)}


def _leaderboard_entries(
    matrix: OofMatrix, nested: dict[str, np.ndarray], weights: dict[str, dict], procedure: dict[str, np.ndarray]
) -> list[Entry]:
    """Return all entries but those of leaks.

    nested, weights: by method. procedure: the nested scores of the choice of a method, by its name; empty without one.
    """
    entries = [
        Entry(name, "added" if name in matrix.added else "recipe", matrix.prob[:, j], {})
        for j, name in enumerate(matrix.names)
    ]
    entries += [Entry(name, "method", scores, weights[name]) for name, scores in nested.items()]
    entries += [Entry(name, "procedure", scores, {}) for name, scores in procedure.items()]
    if matrix.target.regression:
        entries.append(Entry("median", "baseline", _fold_medians(matrix.labels, matrix.fold), {}))
    return entries


def _prediction_tables(
    matrix: OofMatrix, scores: BlendScores, test: dict[str, np.ndarray]
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return oof, test and submissions of a `Blend`; test: scores (t,) or (t, C) by method and by leak."""
    target = matrix.target

    def table(ids: list[str], values: np.ndarray, **columns: np.ndarray) -> pd.DataFrame:
        predicted = dict(zip(target.columns, values.reshape(len(ids), -1).T, strict=True))
        decided = {} if target.regression else {"pred": decide(values)}
        return pd.DataFrame({"id": ids, **columns, **predicted, **decided})

    def submission(values: np.ndarray) -> pd.DataFrame:
        rows = table(matrix.test_ids, values)
        if target.submission == "probabilities":
            return rows[["id", *target.columns]]
        return rows[["id", "pred"]].rename(columns={"pred": target.name})

    submissions = {name: submission(values) for name, values in test.items()}
    oof = table(matrix.ids, scores.nested, label=matrix.labels).assign(fold=matrix.fold)
    return oof, table(matrix.test_ids, scores.test), submissions


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
        path = directory / name
        needed = name in SEALED or name.startswith(ADDED)  # a person may remove the submission of a method
        if needed and not path.exists() or path.exists() and sha256_file(path) != facts["files"].get(name):
            raise InputError(
                f"{directory / name} is missing or not what the blend wrote (checksum differs). {command} again."
            )
    blended = Task.from_facts(facts["task"])
    predicted = dict.fromkeys(blended.columns, float) | ({} if blended.regression else {"pred": "int64"})
    label = float if blended.regression else "int64"
    board = leaderboard_columns(target_metric(blended), bool(facts["corrections"]))
    return Blend(
        read_csv(directory / "leaderboard.csv", board),
        read_csv(directory / "oof_blend.csv", {"id": str, "label": label, **predicted, "fold": "int64"}),
        read_csv(directory / "test_blend.csv", {"id": str, **predicted}),
        {},
        facts,
    )


def require_same_task(blend: Blend, task: Task) -> None:
    """Raise `InputError` if task.toml was changed since the blend, so far as it is judged or written otherwise."""
    then = Task.from_facts(blend.facts["task"])
    for name in ("kind", "classes", "metric", "submission"):
        before, now = getattr(then, name), getattr(task, name)
        if before != now:
            raise InputError(
                f"the blend is for {name} {before}, and competition/task.toml has {now} now. Run "
                f"`python src/blend.py{task.option}` again."
            )


def _fold_medians(values: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return for each row the median of the values (n,) in the other folds."""
    return np.select([fold == k for k in np.unique(fold)], [np.median(values[fold != k]) for k in np.unique(fold)])


def _decision_reason(decision: Decision, gain: Gain | None, metric: Metric, classes: Sequence[str]) -> str:
    """Return what was learned about the labels, in a sentence; empty for the plain rule."""
    if decision == Decision():
        return ""
    if decision.kind == "threshold":
        return (
            f" It decides for label {classes[1]} from {decision.threshold:g} on, which gains "
            f"{metric.format_gain(gain.gain)} over 0.5 (p = {gain.p:.2g}); the probabilities written are "
            "shifted so that this is 0.5."
        )
    rule = {
        "offsets": "by the largest log probability plus an offset of each class",
        "cuts": "by cut points on the expected class",
    }[decision.kind]
    return (
        f" It decides {rule}, which gains {metric.format_gain(gain.gain)} over the likeliest class (p = {gain.p:.2g}); "
        "the probabilities written are changed so that the decided class is the likeliest."
    )
