"""Blends of a regression: the counterpart of `methods`, `scores` and `outcome` for a target that is a number.

    mean            the mean of the predicted values
    best_single     the recipe with the least mean absolute error
    weighted_mean   weights >= 0 that sum to 1, of the least squared error
    ridge           a linear model of the predicted values: scikit-learn's Ridge, standardised, penalty 1

Scores are nested as for labels, and a method earns its place by the paired difference of the absolute errors. Beside them
stands what no model is needed for, the median of the other folds' values; of one recipe there is nothing to choose. What belongs to
labels alone (votes, logits, calibration, second pass, order, twins) is refused with its reason.
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.linear_model import Ridge

from facefold.ensemble import blend as blend_module
from facefold.ensemble.blend import Blend, BlendSchema, name_width
from facefold.ensemble.members import OofMatrix, Rows
from facefold.ensemble.methods import Method, Weighted
from facefold.ensemble.metrics import Z95
from facefold.ensemble.selection import PairedTest, choose_method, cross_predict, nested_predict
from facefold.ensemble.weights import equal_weights, weighted_mean
from facefold.task import Target
from facefold.utils.errors import InputError

_VOTES = "counts votes, and numbers have no majority"
_PROBABILITIES = "is made for probabilities"
REFUSED = {
    "majority": _VOTES,
    "weighted_votes": _VOTES,
    "logit_mean": _PROBABILITIES,
    "calibrated_mean": _PROBABILITIES,
    "stack_probs": _PROBABILITIES,
    "stack_features": "is a logistic regression",
    "rank_mean": "loses the unit",
    "greedy": "searches for accuracy",
    "second_pass": "decides labels that are in doubt",
}
_SCORES = ("mae", "low", "high", "rmse", "bias")
_GAIN = ("gain", "gain_low", "gain_high", "gain_p")
_FORM = BlendSchema(
    {
        "target",
        "picked",
        "why",
        "weights",
        "notes",
        "score",
        "picked_score",
        "gain_over_best_single",
        "options",
        "members",
        "folds",
        "images_hash",
        "files",
    },
    {"name": str, "kind": str, **dict.fromkeys((*_SCORES, *_GAIN), float), "weights": str},
    {"id": str, "label": float, "pred": float, "fold": "int64"},
    {"id": str, "pred": float},
)


@dataclass(frozen=True)
class Errors:
    """How well `rows` values were predicted: mean absolute error with its 95 % interval (normal), root of the mean squared error,
    and mean of prediction minus value."""

    rows: int
    mae: float
    low: float
    high: float
    rmse: float
    bias: float


@dataclass(frozen=True)
class Gain:
    """By how much a's absolute error is less than b's on the same rows, with its 95 % interval and p (normal, two-sided)."""

    gain: float
    low: float
    high: float
    p: float


def score_errors(pred: np.ndarray, values: np.ndarray) -> Errors:
    """Errors of pred (n,) against values (n,)."""
    error = pred - values
    mae, half = float(np.abs(error).mean()), _half(np.abs(error))
    return Errors(
        len(values), mae, max(0.0, mae - half), mae + half, math.sqrt(float((error**2).mean())), float(error.mean())
    )


def compare_errors(a: np.ndarray, b: np.ndarray, values: np.ndarray) -> Gain:
    """Compare the predictions a and b, both (n,), row by row."""
    less = np.abs(b - values) - np.abs(a - values)
    gain, half = float(less.mean()), _half(less)
    p = 2 * float(norm.sf(Z95 * abs(gain) / half)) if half else float(gain == 0)
    return Gain(gain, gain - half, gain + half, p)


def _half(values: np.ndarray) -> float:
    return Z95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0


BY_ERROR = PairedTest(compare_errors, "paired absolute errors", lambda gain: f"{gain:.3g}", decides=False)


def best_by_error(pred: np.ndarray, values: np.ndarray) -> np.ndarray:
    """All weight on the member of the least mean absolute error, float64 (m,)."""
    return np.eye(pred.shape[1])[np.argmin(np.abs(pred - values[:, None]).mean(axis=0))]


def squared_error_simplex(pred: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weights >= 0 that sum to 1, float64 (m,), whose mean of pred (n, m) has the least squared error on values (n,).

    Convex: SLSQP with the exact gradient from equal weights finds the minimum. Errors are in standard deviations, so that the
    tolerance has no unit; six decimals are kept.
    """
    scale = values.std() or 1.0
    errors, members = (pred - values[:, None]) / scale, pred.shape[1]
    products = errors.T @ errors / len(errors)
    found = minimize(
        lambda w: (w @ products @ w, 2 * products @ w),
        np.full(members, 1 / members),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * members,
        options={"ftol": 1e-12, "maxiter": 500},
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
    )
    if not found.success:
        raise RuntimeError(f"the weights of {members} members did not converge: {found.message}")
    return np.round(np.clip(found.x, 0, 1), 6) + 0.0


@dataclass(frozen=True)
class LineFit:
    """The value is pred @ coef + shift; no weights, as coefficients neither sum to one nor stay above zero."""

    coef: np.ndarray
    shift: float
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def notes(self) -> dict:
        return {"coef": self.coef.tolist(), "shift": self.shift}

    def predict(self, rows: Rows) -> np.ndarray:
        return rows.prob @ self.coef + self.shift


@dataclass(frozen=True)
class Line:
    """Ridge regression on the members' values, in standard deviations of the target; six decimals are kept."""

    name: str = "ridge"

    def fit(self, rows: Rows, values: np.ndarray, fold: np.ndarray) -> LineFit:
        mean, scale = values.mean(), values.std() or 1.0
        model = Ridge(alpha=1.0).fit((rows.prob - mean) / scale, (values - mean) / scale)
        coef = np.round(model.coef_, 6)
        return LineFit(coef, round(float(mean - mean * coef.sum() + scale * model.intercept_), 6))


def regression_methods(rule: str | np.ndarray) -> list[Method]:
    """All methods from simple to complicated; the weighted mean has the weights of `rule`: auto, equal, or fixed ones (m,)."""

    def fixed(pred: np.ndarray, values: np.ndarray) -> np.ndarray:
        return rule

    learn = {"auto": squared_error_simplex, "equal": equal_weights}[rule] if isinstance(rule, str) else fixed
    return [
        Weighted("mean", equal_weights, weighted_mean),
        Weighted("best_single", best_by_error, weighted_mean),
        Weighted("weighted_mean", learn, weighted_mean),
        Line(),
    ]


REGRESSION_METHOD_NAMES = tuple(method.name for method in regression_methods("auto"))


def refuse_options(target: Target, method: str, rule: str, use_order: bool, use_twins: bool) -> None:
    """Raise `InputError` for options that belong to labels, or do not go together; `rule` as the person wrote it."""
    if method in REFUSED:
        raise InputError(
            f"--method {method} {REFUSED[method]}: {target.name} is a number. With{target.option} there are auto, "
            f"{', '.join(REGRESSION_METHOD_NAMES)}"
        )
    if use_order or use_twins:
        raise InputError(f"--use-{'order' if use_order else 'twins'} reads labels; with{target.option} leave it out")
    if rule == "accuracy":
        raise InputError(f"--weights accuracy: there is none of {target.name}; say auto, equal, or name=w,name=w")
    if rule != "auto" and method not in ("auto", "weighted_mean") and (method, rule) != ("mean", "equal"):
        raise InputError(
            f"--method {method} has no weights to set; leave --weights out, or take --method weighted_mean"
        )


def make_regression_blend(matrix: OofMatrix, target: Target, method: str, rule: str | np.ndarray) -> Blend:
    """Score every recipe and method, pick `method` (auto: the simplest unbeaten; with weights by hand the weighted mean), fit on
    all rows, predict the test rows. Options are those that `refuse` lets through.

    leaderboard: name, kind (recipe, method, procedure, baseline), mean absolute error with interval, root mean squared error, bias,
    paired gain over best_single with interval and p, weights; least error first. oof: id, label, pred, fold. submissions: id and
    the target's column.
    """
    every = regression_methods(rule)
    if method == "auto" and not (isinstance(rule, str) and rule == "auto"):
        method = "weighted_mean"
    only = "best_single" if method == "auto" and len(matrix.names) == 1 else method
    candidates = every if only == "auto" else [made for made in every if made.name == only]
    nothing = np.full(len(matrix.ids), np.nan)
    data = (Rows(matrix.prob, nothing), matrix.labels, matrix.fold)
    test = Rows(matrix.test_prob, np.full(len(matrix.test_ids), np.nan))
    scores = {made.name: cross_predict(made, *data) for made in every}
    choice = choose_method(candidates, scores, matrix.labels, BY_ERROR)
    picked, honest = choice.method.name, nested_predict(candidates, *data, BY_ERROR)

    submissions, learned, notes = {}, {}, {}
    for made in every:
        fitted = made.fit(*data)
        submissions[made.name] = pd.DataFrame({"id": matrix.test_ids, target.name: fitted.predict(test)})
        learned[made.name] = {name: float(f"{weight:.6g}") for name, weight in zip(matrix.names, fitted.weights)}
        notes |= {made.name: fitted.notes} if fitted.notes else {}
    board = [(name, "recipe", matrix.prob[:, j], {}) for j, name in enumerate(matrix.names)]
    board += [(name, "method", pred, learned[name]) for name, pred in scores.items()]
    if len(candidates) > 1:
        board.append((method, "procedure", honest, {}))
    board.append(("median", "baseline", _medians(matrix.labels, matrix.fold), {}))
    facts = {
        "target": target.name,
        "picked": picked,
        "why": choice.why,
        "weights": learned[picked],
        "notes": notes,
        "score": asdict(score_errors(honest, matrix.labels)),
        "picked_score": asdict(score_errors(scores[picked], matrix.labels)),
        "gain_over_best_single": asdict(compare_errors(honest, scores["best_single"], matrix.labels)),
    }
    oof = pd.DataFrame({"id": matrix.ids, "label": matrix.labels, "pred": honest, "fold": matrix.fold})
    answered = submissions[picked].rename(columns={target.name: "pred"})
    return Blend(_leaderboard(board, matrix.labels, scores["best_single"]), oof, facts, submissions, answered)


def _medians(values: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """For each row the median of the values (n,) in other folds."""
    return np.select([fold == k for k in np.unique(fold)], [np.median(values[fold != k]) for k in np.unique(fold)])


def load_blend(root: Path, target: Target) -> Blend:
    """`outcome.load` for a regression."""
    return blend_module.load_blend(root, target, _FORM)


def format_headline(facts: dict) -> str:
    """The honest score in words: `nested mean absolute error 5.61 [5.53, 5.69] by mean`."""
    got = facts["score"]
    return f"nested mean absolute error {got['mae']:.3f} [{got['low']:.3f}, {got['high']:.3f}] by {facts['picked']}"


def format_leaderboard(leaderboard: pd.DataFrame) -> str:
    """The leaderboard for a terminal."""
    width = name_width(leaderboard)
    lines = [
        f"{'':{width}}{'':10} mean abs. error  95 % interval      rms error    bias  gain over best single      weights"
    ]
    for row in leaderboard.itertuples():
        lines.append(
            f"{row.name:{width}}{row.kind:10} {row.mae:15.3f}  [{row.low:.3f}, {row.high:.3f}]  {row.rmse:11.3f} "
            f"{row.bias:+7.3f}  {row.gain:+.3f} [{row.gain_low:+.3f}, {row.gain_high:+.3f}]  {row.weights}".rstrip()
        )
    return "\n".join(lines)


def format_error(oof: pd.Series, folds: pd.DataFrame) -> str:
    """`5.612 [5.530, 5.694] on 18000 rows`. oof: predicted values (n,) by id; folds: id, label."""
    got = score_errors(oof.loc[folds["id"].tolist()].to_numpy(), folds["label"].to_numpy())
    return f"{got.mae:.3f} [{got.low:.3f}, {got.high:.3f}] on {got.rows} rows"


def _leaderboard(
    board: list[tuple[str, str, np.ndarray, dict]], values: np.ndarray, reference: np.ndarray
) -> pd.DataFrame:
    lines = []
    for name, kind, pred, shown in board:
        errors, gain = asdict(score_errors(pred, values)), compare_errors(pred, reference, values)
        lines.append(
            (
                name,
                kind,
                *(errors[column] for column in _SCORES),
                gain.gain,
                gain.low,
                gain.high,
                gain.p,
                ",".join(f"{member}={weight:.4g}" for member, weight in shown.items()),
            )
        )
    lines.sort(key=lambda line: line[2])
    return pd.DataFrame(lines, columns=list(_FORM.leaderboard))
