"""Labels from the order of the ids, where ids were numbered in the order of a hidden key such as sorted file names.

`leaks.label_order` measures whether the train ids show such an order, `decode` uses it, and `decode_scores` says what it
is worth on rows whose labels took no part. All of them sort by the ids as numbers: the order of the rows given changes
nothing. The models are in `order_decoders.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from facefold.data.leaks import OrderEvidence, label_order_evidence, order_by_id
from facefold.ensemble.calibration import fit_logistic
from facefold.ensemble.leaks.decoders import Chain, Reading, align_posterior, fit_chain, hmm_posterior
from facefold.ensemble.metrics import Paired, Scores, compare_paired, decide, logit, score_predictions
from facefold.ensemble.selection import choose_method
from facefold.utils.errors import InputError

MOST_PARTS = 10
CERTAIN = 100.0  # inverse strength of the calibration's ridge: a few dozen rows feel it, more do not


@dataclass(frozen=True)
class Decoder:
    """A way to read test rows from calibrated probabilities (t,), train labels (n,), both in order, and the labels' chain.

    Without `read` the probabilities stay as they are.
    """

    name: str
    read: Callable[[np.ndarray, np.ndarray, Chain], Reading] | None


PLAIN = "no_order"
DECODERS = {
    decoder.name: decoder
    for decoder in (  # from simple to complicated
        Decoder(PLAIN, None),
        Decoder("hmm", hmm_posterior),
        Decoder("align", align_posterior),
    )
}
DECODER_NAMES = tuple(DECODERS)


@dataclass(frozen=True)
class DecodeScores:
    """What the order is worth, told by train rows that were treated as test rows.

    prob: the probabilities of label 1 (n,) by decoder (`no_order`: as given), in the order of the rows given; scores and
    gains (over no_order) go with them. picked: the simplest that no other beats by a real paired margin, and why in a
    sentence. honest: (n,), each part read by what would be picked on the other parts. parts: how many there were.
    """

    prob: dict[str, np.ndarray]
    scores: dict[str, Scores]
    gains: dict[str, Paired]
    picked: str
    why: str
    honest: np.ndarray
    parts: int


def require_order(train_ids: Sequence[str], labels: np.ndarray, test_ids: Sequence[str]) -> OrderEvidence:
    """The evidence of `leaks.label_order`. Raises `InputError` where it shows no order, or ids of either set are not distinct numbers."""
    evidence = label_order_evidence(train_ids, labels)
    _require_order(evidence, "the train labels")
    order_by_id(test_ids)
    return evidence


def order_announcement(correlation: float, chance: float) -> str:
    """The first line of whatever shows a blend that used the order of the ids."""
    return (
        f"THE ORDER OF THE IDS WAS USED: neighbours by id share their label (correlation {correlation:.3f}, chance 0 +- "
        f"{chance:.3f}), a leak of this competition's numbering that tells nothing about new images."
    )


def decode_order(
    name: str,
    train_ids: Sequence[str],
    labels: np.ndarray,
    oof_prob: np.ndarray,
    test_ids: Sequence[str],
    test_prob: np.ndarray,
) -> np.ndarray:
    """Probabilities of label 1, float64 (t,), of the test rows, in the order of `test_ids`.

    name: one of `NAMES`; labels and oof_prob: (n,) in the order of `train_ids`; test_prob: (t,), made like oof_prob.
    Raises `InputError` where the train labels or the test predictions show no order, and for `align` where the test
    ids are not in the order of the train ids' key.
    """
    if not (read := DECODERS[name].read):
        return np.asarray(test_prob, dtype=np.float64)
    _require_order(label_order_evidence(train_ids, labels), "the train labels")
    _require_order(label_order_evidence(test_ids, decide(test_prob)), "the predicted test labels")
    train, test = order_by_id(train_ids), order_by_id(test_ids)
    ordered = np.asarray(labels)[train]
    seen = _calibrated(np.asarray(oof_prob)[train], ordered, np.asarray(test_prob)[test])
    chain = fit_chain(ordered)
    reading = read(seen, ordered, chain)
    if name == "align" and (alone := hmm_posterior(seen, ordered, chain).evidence) > reading.evidence:
        raise InputError(
            "the test ids are in an order, but not in that of the train ids: their predictions are "
            f"exp({alone - reading.evidence:.0f}) times likelier on their own (hmm) than beside the train labels "
            "(align). Leave the order out."
        )
    prob = np.empty(len(test))
    prob[test] = reading.prob
    return prob


def score_decoders(
    ids: Sequence[str], labels: np.ndarray, oof_prob: np.ndarray, test_rows: int, seed: int = 0
) -> DecodeScores:
    """Score all decoders on the train rows: labels and oof_prob (n,) in the order of `ids`.

    The rows are dealt at random to parts of about the share of the test rows among all, and each part is read as if it
    were the test set, with calibration, chain and alignment learned from the other parts alone. So each row is scored
    once, as thinly surrounded by labels as the test rows are or more thinly. Raises `InputError` where the labels show
    no order, or where rows are too few to deal.
    """
    _require_order(label_order_evidence(ids, labels), "the train labels")
    labels, oof_prob, rows = np.asarray(labels), np.asarray(oof_prob, dtype=np.float64), len(ids)
    parts = min(MOST_PARTS, max(2, round((rows + test_rows) / test_rows)))
    order = order_by_id(ids)
    part = np.random.default_rng(seed).permutation(rows) % parts  # of the rows in the order of their ids
    prob = {name: oof_prob.copy() for name in DECODER_NAMES}
    for k in range(parts):
        held, rest = order[part == k], order[part != k]
        if len(np.unique(labels[rest])) < 2:
            raise InputError(
                f"{rows} train rows are too few to score the order on: one label only in {len(rest)} of them"
            )
        seen, chain = _calibrated(oof_prob[rest], labels[rest], oof_prob[held]), fit_chain(labels[rest])
        for name, decoder in DECODERS.items():
            if decoder.read:
                prob[name][held] = decoder.read(seen, labels[rest], chain).prob
    honest = np.empty(rows)
    for k in range(parts):
        held, rest = order[part == k], order[part != k]
        honest[held] = prob[_choose(prob, labels, rest)[0]][held]
    return DecodeScores(
        prob,
        {name: score_predictions(got, labels) for name, got in prob.items()},
        {name: compare_paired(prob[name], prob[PLAIN], labels) for name in DECODER_NAMES if name != PLAIN},
        *_choose(prob, labels, order),
        honest,
        parts,
    )


def _choose(prob: dict[str, np.ndarray], labels: np.ndarray, rows: np.ndarray) -> tuple[str, str]:
    """What `nested.choose` picks on `rows`, and why."""
    choice = choose_method(list(DECODERS.values()), {name: got[rows] for name, got in prob.items()}, labels[rows])
    return choice.method.name, choice.why


def _require_order(evidence: OrderEvidence, what: str) -> None:
    if not evidence.shows:
        raise InputError(
            f"{what} show no order: neighbours by id correlate by {evidence.correlation:.3f}, and chance alone "
            f"gives 0 +- {evidence.chance:.3f} with {evidence.rows} rows. The order of the ids cannot help; "
            "leave it out."
        )


def _calibrated(prob: np.ndarray, labels: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`other` (t,) by the calibration that suits prob (n,) to labels (n,): a line in the logit (Platt 1999)."""
    return fit_logistic(logit(prob)[:, None], labels, c=CERTAIN).predict(logit(other)[:, None])
