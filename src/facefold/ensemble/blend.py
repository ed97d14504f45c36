"""What a blend leaves behind, and the only code that knows its file names.

    submissions/<method>.csv      id,label by each method    submissions/submission.csv   the picked one
    submissions/leaderboard.csv   a row a recipe and method  submissions/oof_blend.csv    id,label,prob,pred,fold: nested
    submissions/test_blend.csv    id,prob,pred: the labels of submission.csv, and what decides them, for 1 from 0.5 on
    submissions/order.csv         where the order of the ids was used: id,label by it
    submissions/twins.csv         where the labels of twins were used: id,label with these, after the order where that was too
                                  submission.csv is the last of these that is there, else the picked method's
    submissions/blend.json        what was picked, why, from what; written last, with the sha256 of the four named files

Those of another target than the label lie in targets/<target>/submissions/, see `combine/regression.py`.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facefold.data.competition import Competition, write_submission
from facefold.data.corrections import NO_CORRECTIONS, Corrections
from facefold.data.leaks import label_order_evidence
from facefold.ensemble.leaks.duplicates import (
    TWINS,
    DuplicateScores,
    apply_duplicates,
    duplicate_announcement,
    require_duplicates,
    score_duplicates,
)
from facefold.ensemble.leaks.order import (
    DECODER_NAMES,
    PLAIN,
    DecodeScores,
    decode_order,
    order_announcement,
    require_order,
    score_decoders,
)
from facefold.ensemble.members import OofMatrix, Rows
from facefold.ensemble.methods import candidate_methods, with_weights
from facefold.ensemble.metrics import (
    Paired,
    compare_paired,
    decide,
    score_corrected,
    score_predictions,
    wilson_interval,
)
from facefold.ensemble.second_pass import SecondPass, first_pass
from facefold.ensemble.selection import (
    choose_method,
    cross_fit,
    cross_predict,
    nested_predict,
    nested_threshold,
    shift_scores,
)
from facefold.ensemble.stacking import Stacked
from facefold.task import LABEL, Target
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory, read_csv, read_json, sha256_file, write_csv, write_json

LEAKS = ("order", "twins")  # what a person may choose to use, in the order of use
SEALED = ("submission.csv", "leaderboard.csv", "oof_blend.csv", "test_blend.csv")
_SCORES = (
    "accuracy",
    "low",
    "high",
    *(f"{name}{end}" for name in ("log_loss", "auc", "ece") for end in ("", "_low", "_high")),
)
_GAIN = ("gain", "gain_low", "gain_high", "gain_p")
_LEADERBOARD = {"name": str, "kind": str, **dict.fromkeys((*_SCORES, *_GAIN), float), "weights": str}
_CORRECTED = dict.fromkeys(("corrected_accuracy", "corrected_low", "corrected_high"), float)
_FACTS = {
    "picked",
    "why",
    "weights",
    "threshold",
    "threshold_gain",
    "notes",
    "second_pass",
    "order",
    "twins",
    "score",
    "picked_score",
    "corrections",
    "gain_over_best_single",
    "options",
    "members",
    "folds",
    "images_hash",
    "files",
}
_TEST = {"id": str, "prob": float, "pred": "int64"}
_OOF = {"id": str, "label": "int64", "prob": float, "pred": "int64", "fold": "int64"}


@dataclass(frozen=True)
class BlendSchema:
    """What the files of a blend hold: the facts in blend.json, the columns (name -> type) of leaderboard.csv, where there are
    corrections with those by them, of oof_blend.csv and of test_blend.csv."""

    facts: set[str]
    leaderboard: dict[str, type]
    oof: dict[str, Any]
    test: dict[str, Any]


_FORM = BlendSchema(_FACTS, _LEADERBOARD, _OOF, _TEST)


@dataclass(frozen=True)
class Blend:
    """A blend. Every score in it is of rows that neither learned nor chose what predicted them.

    leaderboard: name, kind (recipe, method, procedure), the scores with their intervals, the paired gain in accuracy over
    best_single with interval and p, weights; most accurate first. Where members learned from corrected labels also accuracy
    and interval against these; everything else is against the given labels.
    oof: id, label, prob, pred, fold of the whole procedure, choice of method and threshold included; facts: blend.json.
    submissions: id, label of the test rows by method, the picked one's at its threshold, the others' at 0.5.
    test: id, prob, pred of the test rows: the submitted labels, and the probability moved so that 0.5 is the threshold.
    """

    leaderboard: pd.DataFrame
    oof: pd.DataFrame
    facts: dict
    submissions: dict[str, pd.DataFrame]
    test: pd.DataFrame


def make_blend(
    matrix: OofMatrix,
    stacked: Stacked,
    method: str,
    rule: str | np.ndarray,
    use_order: bool = False,
    corrections: Corrections = NO_CORRECTIONS,
    groups: pd.DataFrame | None = None,
) -> Blend:
    """Score every recipe and method, pick `method` (auto: the simplest unbeaten), fit on all rows, predict the test rows.

    `stacked` is what `stacking.stack` makes of the matrix, `rule` that of `methods.with_weights`. With `use_order` the
    picked method's predictions are read once more by the order of the ids (`order.py`), with `groups` (the table of
    `duplicates.find`) rows with twins in train take their label (`twins.py`), the order's answer or not; score and submission are
    of that. `corrections` are those that members learned from: they are scored by, nothing is learned from them here.
    Raises `InputError` where method and rule do not go together, or where there is no order or no twin to use.
    """
    candidates, blends = candidate_methods(method, rule), with_weights(rule)
    if len(matrix.names) == 1 and len(candidates) > 1:
        candidates = [
            made for made in candidates if made.name != "mean"
        ]  # of one recipe best_single is the plainer name
    data = (Rows(matrix.prob, stacked.oof), matrix.labels, matrix.fold)
    test = Rows(matrix.test_prob, stacked.test)
    scores = {made.name: cross_predict(made, *data) for made in blends}
    choice = choose_method(candidates, scores, matrix.labels)
    picked = choice.method.name
    threshold, threshold_gain = nested_threshold(scores[picked], *data[1:])
    honest = nested_predict(candidates, *data)

    test_prob, weights, notes = {}, {}, {}
    for made in blends:
        fitted = made.fit(*data)
        test_prob[made.name] = shift_scores(fitted.predict(test), threshold if made.name == picked else 0.5)
        weights[made.name] = {name: float(f"{weight:.6g}") for name, weight in zip(matrix.names, fitted.weights)}
        notes |= {made.name: fitted.notes} if fitted.notes else {}

    board = [(name, "recipe", matrix.prob[:, j], {}) for j, name in enumerate(matrix.names)]
    board += [(name, "method", values, weights[name]) for name, values in scores.items()]
    if len(candidates) > 1 or threshold != 0.5:
        board.append((method, "procedure", honest, {}))
    read = None
    if use_order:
        read = score_decoders(matrix.ids, matrix.labels, honest, len(matrix.test_ids))
        board += [(f"order_{name}", "id order", read.prob[name], {}) for name in DECODER_NAMES if name != PLAIN]
        if read.picked != PLAIN:
            alike = shift_scores(
                scores[picked], threshold
            )  # made like the test predictions, which `honest` is not quite
            test_prob["order"] = decode_order(
                read.picked, matrix.ids, matrix.labels, alike, matrix.test_ids, test_prob[picked]
            )
            honest = read.honest
    told = None
    if groups is not None:
        count = require_duplicates(groups, matrix.ids, matrix.labels, matrix.test_ids)
        told = score_duplicates(groups, matrix.ids, matrix.labels, matrix.fold, honest)
        board.append((TWINS, "near-duplicates", told.prob, {}))
        if told.picked == TWINS:
            before = test_prob.get("order", test_prob[picked])
            test_prob["twins"] = apply_duplicates(groups, matrix.ids, matrix.labels, matrix.test_ids, before, told.sure)
            honest = told.honest
    corrected = corrections.labels(matrix.ids, matrix.labels) if corrections.actions else None
    facts = {
        "picked": picked,
        "why": choice.why + _why_threshold(threshold, threshold_gain),
        "weights": weights[picked],
        "threshold": threshold,
        "threshold_gain": asdict(threshold_gain),
        "notes": notes,
        "second_pass": second_pass_report(scores["second_pass"], *data),
        "order": _order_facts(read, matrix),
        "twins": _twin_facts(told, count, matrix) if told else None,
        "corrections": None
        if corrected is None
        else {"hash": corrections.hash, "changes": str(corrections), "score": score_corrected(honest, corrected)},
        "score": asdict(score_predictions(honest, matrix.labels)),
        "picked_score": asdict(score_predictions(scores[picked], matrix.labels)),
        "gain_over_best_single": asdict(compare_paired(honest, scores["best_single"], matrix.labels)),
    }
    submissions = {
        name: pd.DataFrame({"id": matrix.test_ids, "label": decide(prob)}) for name, prob in test_prob.items()
    }
    oof = pd.DataFrame(
        {"id": matrix.ids, "label": matrix.labels, "prob": honest, "pred": decide(honest), "fold": matrix.fold}
    )
    last = _submitted(submissions, picked)
    decided = submissions[last].rename(columns={"label": "pred"}).assign(prob=test_prob[last])[list(_TEST)]
    return Blend(_leaderboard(board, matrix.labels, scores["best_single"], corrected), oof, facts, submissions, decided)


def leak_announcements(matrix: OofMatrix, use_order: bool, groups: pd.DataFrame | None) -> str:
    """The first line of a blend that is to use the order of the ids or the labels of twins (`groups`), empty without.

    Raises `InputError` where what was asked for is not there.
    """
    said = []
    if use_order:
        evidence = require_order(matrix.ids, matrix.labels, matrix.test_ids)
        said.append(order_announcement(evidence.correlation, evidence.chance))
    if groups is not None:
        count = require_duplicates(groups, matrix.ids, matrix.labels, matrix.test_ids)
        said.append(duplicate_announcement(count, len(matrix.test_ids)))
    return " ".join(said)


def second_pass_report(after: np.ndarray, rows: Rows, labels: np.ndarray, fold: np.ndarray) -> dict:
    """What the second pass does to the rows it doubts: how many, their accuracy before and after, and the paired gain.

    `after` are its nested scores (n,); a row is doubtful where the fit that predicted it says so. Each accuracy is
    {accuracy, low, high}; {rows: 0} alone where no row is doubtful.
    """
    doubtful = np.zeros(len(labels), bool)
    for held, fitted in cross_fit(SecondPass(), rows, labels, fold):
        doubtful[held] = fitted.doubtful(rows[held])
    count, before = int(doubtful.sum()), first_pass(rows)
    if count == 0:
        return {"rows": 0}

    def accuracy(prob: np.ndarray) -> dict:
        correct = int((decide(prob) == labels)[doubtful].sum())
        low, high = wilson_interval(correct, count)
        return {"accuracy": correct / count, "low": low, "high": high}

    return {
        "rows": count,
        "before": accuracy(before),
        "after": accuracy(after),
        "gain": asdict(compare_paired(after[doubtful], before[doubtful], labels[doubtful])),
    }


def write_blend(root: Path, outcome: Blend, competition: Competition, origin: dict, target: Target = LABEL) -> Blend:
    """Write all of the target's submissions/; `origin` (options, members, folds, images_hash) joins the facts in blend.json.

    Returns the outcome with all its facts.
    """
    directory = target.directory(root) / "submissions"
    with lock_directory(directory, wait=True):  # of two blends at once the later one wins, whole
        return _written(directory, outcome, competition, origin, target)


def _written(directory: Path, outcome: Blend, competition: Competition, origin: dict, target: Target) -> Blend:
    (directory / "blend.json").unlink(missing_ok=True)  # until it is back, the files beside it belong to no blend
    for name in LEAKS:
        (directory / f"{name}.csv").unlink(missing_ok=True)  # of an earlier blend that used it
    for name, table in outcome.submissions.items():
        write_submission(competition, table, directory / f"{name}.csv", target.name)
    submitted = outcome.submissions[_submitted(outcome.submissions, outcome.facts["picked"])]
    write_submission(competition, submitted, directory / "submission.csv", target.name)
    write_csv(directory / "leaderboard.csv", outcome.leaderboard)
    write_csv(directory / "oof_blend.csv", outcome.oof)
    write_csv(directory / "test_blend.csv", outcome.test)
    facts = {**outcome.facts, **origin, "files": {name: sha256_file(directory / name) for name in SEALED}}
    write_json(directory / "blend.json", facts)
    return replace(outcome, facts=facts)


def load_blend(root: Path, target: Target = LABEL, form: BlendSchema = _FORM) -> Blend:
    """The blend under submissions/ (without its submissions). `InputError` when there is none or a file of it was changed."""
    directory, again = target.directory(root) / "submissions", f"Run `python src/blend.py{target.option}`"
    if not (directory / "blend.json").exists():
        raise InputError(f"{directory / 'blend.json'} is missing: nothing was blended yet. {again}.")
    facts = read_json(directory / "blend.json")
    if not form.facts <= set(facts):
        raise InputError(f"{directory / 'blend.json'} is not what the blend wrote. {again} again.")
    for name in SEALED:
        if not (directory / name).exists() or sha256_file(directory / name) != facts.get("files", {}).get(name):
            raise InputError(
                f"{directory / name} is missing or not what the blend wrote (checksum differs). {again} again."
            )
    columns = form.leaderboard | (_CORRECTED if facts.get("corrections") else {})
    leaderboard = read_csv(directory / "leaderboard.csv", columns)
    oof, test = (
        read_csv(directory / "oof_blend.csv", form.oof),
        read_csv(directory / "test_blend.csv", form.test),
    )
    return Blend(leaderboard, oof, facts, {}, test)


def format_leaderboard(leaderboard: pd.DataFrame) -> str:
    """The leaderboard for a terminal."""
    mended = "corrected_accuracy" in leaderboard
    width, kind = name_width(leaderboard), max(10, leaderboard["kind"].str.len().max())
    lines = [
        f"{'':{width}}{'':{kind}} accuracy  95 % interval    log loss     auc     ece  gain over best single   "
        f"{'by corrected labels   ' if mended else ''}weights"
    ]
    for row in leaderboard.itertuples():
        lines.append(
            f"{row.name:{width}}{row.kind:{kind}} {row.accuracy:8.4f}  [{row.low:.4f}, {row.high:.4f}]  {row.log_loss:7.4f} "
            f"{row.auc:7.4f} {row.ece:7.4f}  {100 * row.gain:+.2f} [{100 * row.gain_low:+.2f}, "
            f"{100 * row.gain_high:+.2f}]  "
            + (f"{row.corrected_accuracy:.4f} [{row.corrected_low:.3f}, {row.corrected_high:.3f}]  " if mended else "")
            + row.weights
        )
        lines[-1] = lines[-1].rstrip()
    return "\n".join(lines)


def name_width(leaderboard: pd.DataFrame) -> int:
    """Of the column of names in a terminal, the space after them included."""
    return max(16, 1 + int(leaderboard["name"].str.len().max()))


def format_headline(facts: dict) -> str:
    """The honest score in words: `nested accuracy 0.9345 [0.931, 0.938] by mean`."""
    got = facts["score"]
    by_leak = f", read by the order of the ids ({facts['order']['decoder']})" if _used_order(facts) else ""
    by_leak += ", twins by the labels of their twins" if _used_twins(facts) else ""
    mended = facts["corrections"]
    beside = f"{by_leak} ({mended['score']['accuracy']:.4f} against the corrected labels)" if mended else by_leak
    return f"nested accuracy {got['accuracy']:.4f} [{got['low']:.3f}, {got['high']:.3f}] by {facts['picked']}{beside}"


def format_announcement(facts: dict) -> str:
    """The first line of whatever shows a blend that used the order of the ids or the labels of twins; else empty."""
    said = [order_announcement(facts["order"]["correlation"], facts["order"]["chance"])] if _used_order(facts) else []
    said += (
        [duplicate_announcement(facts["twins"]["answered"], facts["twins"]["test_rows"])] if _used_twins(facts) else []
    )
    return " ".join(said)


def unused_options(facts: dict) -> list[str]:
    """What was asked for and is not in the submission, a sentence each."""
    lines = []
    if facts["order"] and not _used_order(facts):
        lines.append("no decoder gains by a real margin: the order of the ids is not in the submission after all")
    if facts["twins"] and not _used_twins(facts):
        lines.append("the labels of twins gain nothing by a real margin: they are not in the submission after all")
    return lines


def _submitted(submissions: dict[str, pd.DataFrame], picked: str) -> str:
    """Whose labels are handed in: the last leak's that was used, else the picked method's."""
    return next((name for name in reversed(LEAKS) if name in submissions), picked)


def _used_order(facts: dict) -> bool:
    return bool(facts["order"]) and facts["order"]["decoder"] != PLAIN


def _used_twins(facts: dict) -> bool:
    return bool(facts["twins"]) and facts["twins"]["picked"] == TWINS


def _twin_facts(told: DuplicateScores, count: int, matrix: OofMatrix) -> dict:
    """answered of test_rows test rows, train_answered of train_rows train rows, and what that is worth on the latter."""
    return {
        "picked": told.picked,
        "why": told.why,
        "answered": count,
        "test_rows": len(matrix.test_ids),
        "train_answered": told.rows,
        "train_rows": len(matrix.ids),
        "right": told.right,
        "before": told.before,
        "gain": asdict(told.gain),
    }


def _order_facts(read: DecodeScores | None, matrix: OofMatrix) -> dict | None:
    if read is None:
        return None
    evidence = label_order_evidence(matrix.ids, matrix.labels)
    return {
        "decoder": read.picked,
        "why": read.why,
        "correlation": evidence.correlation,
        "chance": evidence.chance,
        "parts": read.parts,
        "scores": {name: asdict(got) for name, got in read.scores.items()},
        "gains": {name: asdict(gain) for name, gain in read.gains.items()},
    }


def _why_threshold(threshold: float, gain: Paired) -> str:
    if threshold == 0.5:
        return ""
    return (
        f" It decides for label 1 from {threshold:g} on, which gains {100 * gain.gain:.2f} points over 0.5 (p = {gain.p:.2g}); the "
        "probabilities written are moved so that this is 0.5."
    )


def _leaderboard(
    board: list[tuple[str, str, np.ndarray, dict]],
    labels: np.ndarray,
    reference: np.ndarray,
    corrected: np.ndarray | None,
) -> pd.DataFrame:
    table = []
    for name, kind, prob, weights in board:
        scores, gain = score_predictions(prob, labels), compare_paired(prob, reference, labels)
        shown = ",".join(f"{member}={weight:.4g}" for member, weight in weights.items())
        table.append(
            (
                name,
                kind,
                *(getattr(scores, column) for column in _SCORES),
                gain.gain,
                gain.low,
                gain.high,
                gain.p,
                shown,
            )
        )
        if corrected is not None:
            table[-1] += tuple(score_corrected(prob, corrected)[part] for part in ("accuracy", "low", "high"))
    table.sort(key=lambda row: (-row[2], round(row[2 + _SCORES.index("log_loss")], 9)))
    return pd.DataFrame(table, columns=[*_LEADERBOARD, *([] if corrected is None else _CORRECTED)])
