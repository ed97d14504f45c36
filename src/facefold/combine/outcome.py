"""What a blend leaves behind, and the only code that knows its file names.

    submissions/<method>.csv      id,label by each method    submissions/submission.csv   the picked one
    submissions/leaderboard.csv   a row a recipe and method  submissions/oof_blend.csv    id,label,prob,pred,fold: nested
    submissions/blend.json        what was picked, why, from what; written last, with the sha256 of the three named files
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from facefold import files
from facefold.combine import methods, nested
from facefold.combine.members import OofMatrix
from facefold.combine.scores import Scores, decide, paired, score
from facefold.data.competition import Competition, write_submission
from facefold.errors import InputError

SEALED = ("submission.csv", "leaderboard.csv", "oof_blend.csv")
_LEADERBOARD = {"name": str, "kind": str, "accuracy": float, "low": float, "high": float, "log_loss": float,
                "auc": float, "ece": float, "weights": str}
_FACTS = {"picked", "why", "weights", "score", "picked_score", "gain_over_best_single", "options", "members", "folds",
          "images_hash", "files"}
_OOF = {"id": str, "label": "int64", "prob": float, "pred": "int64", "fold": "int64"}


@dataclass(frozen=True)
class Outcome:
    """A blend. Every score in it is of rows that neither learned nor chose what predicted them.

    leaderboard: name, kind (recipe, method, procedure), accuracy, low, high, log_loss, auc, ece, weights; best first.
    oof: id, label, prob, pred, fold of the whole procedure, choice of the method included; facts: blend.json.
    submissions: id, label of the test rows by method.
    """

    leaderboard: pd.DataFrame
    oof: pd.DataFrame
    facts: dict
    submissions: dict[str, pd.DataFrame]


def make(matrix: OofMatrix, method: str, rule: str | np.ndarray) -> Outcome:
    """Score every recipe and method, pick `method` (auto: the simplest unbeaten), fit on all rows, predict the test rows.

    `rule` is that of `methods.with_weights`. Raises `InputError` where method and rule do not go together.
    """
    candidates = methods.candidates(method, rule)
    data = (matrix.prob, matrix.labels, matrix.fold)
    singles = [methods.single(j, name) for j, name in enumerate(matrix.names)]
    blends = methods.with_weights(rule)
    rows = [(made.name, "recipe", score(nested.predict(made, *data), matrix.labels), "") for made in singles]
    scores, submissions, weights = {}, {}, {}
    for made in blends:
        scores[made.name] = nested.predict(made, *data)
        fitted = made.fit(matrix.prob, matrix.labels)
        submissions[made.name] = pd.DataFrame({"id": matrix.test_ids, "label": decide(fitted.predict(matrix.test_prob))})
        weights[made.name] = {name: float(f"{weight:.6g}") for name, weight in zip(matrix.names, fitted.weights, strict=True)}
        shown = ",".join(f"{name}={weight:.4g}" for name, weight in weights[made.name].items())
        rows.append((made.name, "method", score(scores[made.name], matrix.labels), shown))
    choice = nested.choose(candidates, scores, matrix.labels)
    picked = choice.method.name
    honest = nested.predict_choice(candidates, *data) if len(candidates) > 1 else scores[picked]
    honest_score = score(honest, matrix.labels)
    if len(candidates) > 1:
        rows.append((method, "procedure", honest_score, ""))
    facts = {"picked": picked, "why": choice.why, "weights": weights[picked], "score": asdict(honest_score),
             "picked_score": asdict(score(scores[picked], matrix.labels)),
             "gain_over_best_single": asdict(paired(honest, scores["best_single"], matrix.labels))}
    oof = pd.DataFrame({"id": matrix.ids, "label": matrix.labels, "prob": honest, "pred": decide(honest), "fold": matrix.fold})
    return Outcome(_leaderboard(rows), oof, facts, submissions)


def write(root: Path, outcome: Outcome, competition: Competition, origin: dict) -> Outcome:
    """Write all of submissions/; `origin` (options, members, folds, images_hash) joins the facts in blend.json.

    Returns the outcome with all its facts.
    """
    directory = root / "submissions"
    (directory / "blend.json").unlink(missing_ok=True)  # until it is back, the files beside it belong to no blend
    for name, table in outcome.submissions.items():
        write_submission(competition, table, directory / f"{name}.csv")
    write_submission(competition, outcome.submissions[outcome.facts["picked"]], directory / "submission.csv")
    files.write_csv(directory / "leaderboard.csv", outcome.leaderboard)
    files.write_csv(directory / "oof_blend.csv", outcome.oof)
    facts = {**outcome.facts, **origin, "files": {name: files.sha256_file(directory / name) for name in SEALED}}
    files.write_json(directory / "blend.json", facts)
    return Outcome(outcome.leaderboard, outcome.oof, facts, outcome.submissions)


def load(root: Path) -> Outcome:
    """The blend under submissions/ (without its submissions). `InputError` when there is none or a file of it was changed."""
    directory = root / "submissions"
    if not (directory / "blend.json").exists():
        raise InputError(f"{directory / 'blend.json'} is missing: nothing was blended yet. Run `python src/blend.py`.")
    facts = files.read_json(directory / "blend.json")
    if not _FACTS <= set(facts):
        raise InputError(f"{directory / 'blend.json'} is not what the blend wrote. Run `python src/blend.py` again.")
    for name in SEALED:
        if not (directory / name).exists() or files.sha256_file(directory / name) != facts.get("files", {}).get(name):
            raise InputError(f"{directory / name} is missing or not what the blend wrote (checksum differs). "
                             "Run `python src/blend.py` again.")
    leaderboard = files.read_csv(directory / "leaderboard.csv", _LEADERBOARD)
    return Outcome(leaderboard, files.read_csv(directory / "oof_blend.csv", _OOF), facts, {})


def headline(facts: dict) -> str:
    """The honest score in words: `nested accuracy 0.9345 [0.931, 0.938] by mean`."""
    got = facts["score"]
    return f"nested accuracy {got['accuracy']:.4f} [{got['low']:.3f}, {got['high']:.3f}] by {facts['picked']}"


def _leaderboard(rows: list[tuple[str, str, Scores, str]]) -> pd.DataFrame:
    ranked = sorted(rows, key=lambda row: (-row[2].accuracy, round(row[2].log_loss, 9)))
    table = [(name, kind, s.accuracy, s.low, s.high, s.log_loss, s.auc, s.ece, weights) for name, kind, s, weights in ranked]
    return pd.DataFrame(table, columns=list(_LEADERBOARD))
