"""Labels from the order of the ids, if ids were numbered in the order of a hidden key such as sorted file names.

`label_order_cue` measures whether the train ids show such an order, `decode_order` uses it, and `score_decoders`
computes what it gains on rows whose labels take no part. All of them sort by the ids as numbers: the order of the rows
changes nothing. The models are in `decoders.py`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from facefold.data.competition import Competition
from facefold.data.leaks import Cue, label_order_cue, order_by_id
from facefold.ensemble.calibration import CALIBRATION_C, fit_logistic
from facefold.ensemble.leaks.base import BlendScores, Leak, LeakResult
from facefold.ensemble.leaks.decoders import align_posterior, fit_chain, hmm_posterior
from facefold.ensemble.members import OofMatrix
from facefold.ensemble.metrics import ACCURACY, Metric, target_metric
from facefold.ensemble.ratings import Gain
from facefold.ensemble.scores import decide, logit
from facefold.ensemble.selection import Choice, choose_method
from facefold.utils.errors import InputError

PLAIN = "no_order"
DECODERS = {  # from simple to complicated
    "hmm": hmm_posterior,
    "align": align_posterior,
}
MAX_PARTS = 10


@dataclass(frozen=True)
class DecoderScores:
    """What the order gains on train rows that are treated as test rows.

    prob: probabilities of label 1 (n,) by decoder, and as before under `no_order`; gains: of each decoder over
    no_order; choice: the simplest that no other beats by a significant paired gain; nested: (n,), each part by what
    would be chosen on the other parts; parts: how many there are.
    """

    prob: dict[str, np.ndarray]
    gains: dict[str, Gain]
    choice: Choice
    nested: np.ndarray
    parts: int


class OrderLeak(Leak):
    name = "order"
    kind = "id order"
    announcement = (
        "THE ORDER OF THE IDS WAS USED: neighbours by id share their label "
        "(correlation {correlation:.3f}, chance 0 +- {chance:.3f}), a leak of this "
        "competition's numbering that tells nothing about new images."
    )
    headline = ", read by the order of the ids ({picked})"
    unused = "no decoder gains by a real margin: the order of the ids is not in the submission after all"

    @classmethod
    def find(cls, competition: Competition) -> "OrderLeak":
        return cls()

    def require(self, matrix: OofMatrix) -> dict:
        cue = _require_order(matrix.ids, matrix.labels, "the train labels")
        order_by_id(matrix.test_ids)
        return {"correlation": cue.value, "chance": cue.margin}

    def apply(self, matrix: OofMatrix, scores: BlendScores) -> LeakResult:
        scored = score_decoders(
            matrix.ids, matrix.labels, scores.nested, len(matrix.test_ids), metric=target_metric(matrix.target)
        )
        picked = scored.choice.name
        facts = {
            **self.require(matrix),
            "used": picked != PLAIN,
            "picked": picked,
            "why": scored.choice.why,
            "parts": scored.parts,
            "gains": {name: asdict(gain) for name, gain in scored.gains.items()},
        }
        if facts["used"]:
            test = decode_order(picked, matrix.ids, matrix.labels, scores.oof, matrix.test_ids, scores.test)
            scores = replace(scores, nested=scored.nested, test=test)
        return LeakResult(scores, {f"order_{name}": scored.prob[name] for name in DECODERS}, facts)

    @staticmethod
    def describe(facts: dict) -> str:
        gains = ", ".join(
            f"{name} {100 * gain['gain']:+.2f} points [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]"
            for name, gain in facts["gains"].items()
        )
        return f"The order of the ids, over the same predictions without it: {gains}. {facts['why']}"


def decode_order(
    name: str,
    train_ids: Sequence[str],
    labels: np.ndarray,
    oof_prob: np.ndarray,
    test_ids: Sequence[str],
    test_prob: np.ndarray,
) -> np.ndarray:
    """Return probabilities of label 1, float64 (t,), of the test rows, in the order of `test_ids`.

    Raises `InputError` if the train labels or the test predictions show no order, and for `align` if the test ids are
    not in the order of the train ids' key.

    Args:
        name: One of `DECODERS`.
        train_ids: (n,).
        labels: int (n,) of 0 and 1.
        oof_prob: float64 (n,), to calibrate by.
        test_ids: (t,).
        test_prob: float64 (t,), computed like `oof_prob`.
    """
    _require_order(train_ids, labels, "the train labels")
    _require_order(test_ids, decide(test_prob), "the predicted test labels")
    train, test = order_by_id(train_ids), order_by_id(test_ids)
    ordered = np.asarray(labels)[train]
    calibrated = _calibrated(np.asarray(oof_prob)[train], ordered, np.asarray(test_prob)[test])
    chain = fit_chain(ordered)
    posterior = DECODERS[name](calibrated, ordered, chain)
    if name == "align":
        gap = hmm_posterior(calibrated, ordered, chain).log_evidence - posterior.log_evidence
        if gap > 0:
            raise InputError(
                "the test ids are in an order, but not in that of the train ids: their predictions are "
                f"exp({gap:.0f}) times likelier on their own (hmm) than together with the train labels (align). "
                "Leave the order out."
            )
    prob = np.empty(len(test))
    prob[test] = posterior.prob
    return prob


def score_decoders(
    ids: Sequence[str],
    labels: np.ndarray,
    oof_prob: np.ndarray,
    test_rows: int,
    seed: int = 0,
    metric: Metric = ACCURACY,
) -> DecoderScores:
    """Score all decoders on the train rows.

    The rows are split at random into parts of about the share of the test rows among all, and each part is decoded as
    if it were the test set, with calibration, chain and alignment learned from the other parts. So each row is scored
    once, with at most as many labelled neighbours as the test rows have. Raises `InputError` if the labels show no
    order, or if the rows are too few to split.

    Args:
        ids: Train ids (n,).
        labels: int (n,) of 0 and 1, in the order of `ids`.
        oof_prob: Out-of-fold probabilities of label 1, float64 (n,).
        test_rows: The number of test rows.
        seed: Of the split.
        metric: What the choice is made by. The gains are in accuracy.
    """
    _require_order(ids, labels, "the train labels")
    labels, oof_prob, rows = np.asarray(labels), np.asarray(oof_prob, dtype=np.float64), len(ids)
    parts = min(MAX_PARTS, max(2, round((rows + test_rows) / test_rows)))
    order = order_by_id(ids)
    part = np.random.default_rng(seed).permutation(rows) % parts  # of the rows in the order of their ids
    splits = [(order[part == k], order[part != k]) for k in range(parts)]
    prob = {name: oof_prob.copy() for name in (PLAIN, *DECODERS)}
    for held_out, rest in splits:
        if len(np.unique(labels[rest])) < 2:
            raise InputError(
                f"{rows} train rows are too few to score the order on: one label only in {len(rest)} of them"
            )
        calibrated = _calibrated(oof_prob[rest], labels[rest], oof_prob[held_out])
        chain = fit_chain(labels[rest])
        for name, decoder in DECODERS.items():
            prob[name][held_out] = decoder(calibrated, labels[rest], chain).prob
    nested = np.empty(rows)
    for held_out, rest in splits:
        best = choose_method({name: decoded[rest] for name, decoded in prob.items()}, labels[rest], metric).name
        nested[held_out] = prob[best][held_out]
    gains = {name: ACCURACY.compare(prob[name], prob[PLAIN], labels) for name in DECODERS}
    return DecoderScores(prob, gains, choose_method(prob, labels, metric), nested, parts)


def _require_order(ids: Sequence[str], labels: np.ndarray, what: str) -> Cue:
    """Return the evidence that labels (n,), in words `what`, are in the order of ids (n,); `InputError` without any.

    Labels that alternate are refused as well: how a random split shuffles them is another model than sections of one
    label, which is what the decoders know.
    """
    cue = label_order_cue(ids, labels)
    if cue.value < -cue.margin:
        raise InputError(
            f"{what} alternate: neighbours by id correlate by {cue.value:.3f}, and chance alone gives 0 +- "
            f"{cue.margin:.3f} with {len(labels)} rows. That is a leak, but one that the decoders cannot use: they "
            "look for neighbours of the same label. Leave the order of the ids out."
        )
    if cue.value <= cue.margin:
        raise InputError(
            f"{what} show no order: neighbours by id correlate by {cue.value:.3f}, and chance alone "
            f"gives 0 +- {cue.margin:.3f} with {len(labels)} rows. The order of the ids cannot help; "
            "leave it out."
        )
    return cue


def _calibrated(prob: np.ndarray, labels: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Calibrate `other` (t,) as prob (n,) is calibrated to labels (n,): a line in the logit (Platt 1999)."""
    return fit_logistic(logit(prob)[:, None], labels, c=CALIBRATION_C).predict(logit(other)[:, None])
