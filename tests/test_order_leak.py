"""The order decoders: against enumeration, on sequences with known answers, and what they refuse."""

import re
from itertools import combinations, product

import numpy as np
import pytest

from facefold.data.leaks import label_order_cue
from facefold.ensemble.leaks import decoders
from facefold.ensemble.leaks.decoders import Chain, align_posterior, fit_chain, hmm_posterior
from facefold.ensemble.leaks.order import DECODERS, decode_order, score_decoders
from facefold.ensemble.scores import decide
from facefold.utils.errors import InputError

CHAIN = Chain(np.array([0.2, 0.3]), np.array([0.1, 0.85]))


def sorted_key(rows, seed, section=60, skill=1.5):
    """Labels of `rows` rows in sections of about `section`, and what a classifier of 0.93 (skill 1.5) says of them."""
    rng = np.random.default_rng(seed)
    labels = np.cumsum(rng.random(rows) < 1 / section) % 2
    logit = 2 * skill * (skill * (2 * labels - 1) + rng.normal(size=rows))
    return labels, 1 / (1 + np.exp(-logit))


def competition(seed=0, rows=1500, skill=1.5):
    """Return train ids, labels, prob, test ids, labels, prob of one sorted key, each numbered in order."""
    labels, prob = sorted_key(rows, seed, skill=skill)
    test = np.random.default_rng(seed + 1).permutation(rows) < rows // 4
    train_ids = [str(number) for number in range(1, (~test).sum() + 1)]
    test_ids = [str(number) for number in range(len(train_ids) + 1, rows + 1)]
    return train_ids, labels[~test], prob[~test], test_ids, labels[test], prob[test]


def weight(states, chain):
    return chain.stationary[states[0]] * np.prod([chain.transition[a, b] for a, b in zip(states, states[1:])])


def looks(label, prob, state, prior, chain):
    return chain.share[state] * prob / prior if label else (1 - chain.share[state]) * (1 - prob) / (1 - prior)


def test_hmm_is_the_sum_over_all_labels_and_states():
    train, prob = np.array([0, 0, 1, 1, 1, 0]), np.array([0.9, 0.4, 0.55, 0.2, 0.7])
    chain = CHAIN.filled(6 / 11).thinned(5 / 11)
    one, total = np.zeros(5), 0.0
    for states in product((0, 1), repeat=5):
        for labels in product((0, 1), repeat=5):
            chance = weight(states, chain) * np.prod([looks(*row, 0.5, chain) for row in zip(labels, prob, states)])
            one, total = one + chance * np.array(labels), total + chance
    posterior = hmm_posterior(prob, train, CHAIN)
    assert posterior.prob == pytest.approx(one / total, abs=1e-12)
    assert posterior.log_evidence == pytest.approx(np.log(total))


@pytest.mark.parametrize(
    "train, prob", [([0, 1, 1, 0], [0.9, 0.4, 0.3]), ([1, 0], [0.2, 0.9, 0.6, 0.5]), ([0, 0, 1, 1, 1], [0.5])]
)
def test_align_is_the_sum_over_all_mergings_labels_and_states(train, prob):
    train, prob = np.array(train), np.array(prob)
    n, t, prior, chain = len(train), len(prob), train.mean(), CHAIN.filled(len(train) / (len(train) + len(prob)))
    known = np.where(train[:, None] == 1, chain.share, 1 - chain.share)
    one, total, alone = np.zeros(t), 0.0, 0.0
    positions = list(combinations(range(n + t), t))
    for position in positions:
        rest = [k for k in range(n + t) if k not in position]
        for states in product((0, 1), repeat=n + t):
            seen = weight(states, chain) * np.prod([known[i, states[k]] for i, k in enumerate(rest)]) / len(positions)
            for labels in product((0, 1), repeat=t):
                chance = seen * np.prod(
                    [looks(labels[j], prob[j], states[k], prior, chain) for j, k in enumerate(position)]
                )
                one, total = one + chance * np.array(labels), total + chance
    thin = chain.thinned(n / (n + t))
    for states in product((0, 1), repeat=n):
        alone += weight(states, thin) * np.prod([known[i, state] for i, state in enumerate(states)])
    posterior = align_posterior(prob, train, CHAIN)
    assert posterior.prob == pytest.approx(one / total, abs=1e-12)
    assert posterior.log_evidence == pytest.approx(np.log(total / alone))


def test_the_band_leaves_nothing_out(monkeypatch):
    _, labels, _, _, _, prob = competition(rows=800)
    narrow = align_posterior(prob, labels)
    monkeypatch.setattr(decoders, "EXTRA_ROWS", 800)
    whole = align_posterior(prob, labels)
    assert narrow.prob == pytest.approx(whole.prob, abs=1e-9)
    assert narrow.log_evidence == pytest.approx(whole.log_evidence, abs=1e-9)


def test_a_thinned_chain_is_the_chain_of_the_rows_kept():
    step, kept = CHAIN.transition, 0.3
    direct = sum(kept * (1 - kept) ** (gap - 1) * np.linalg.matrix_power(step, gap) for gap in range(1, 200))
    assert CHAIN.thinned(kept).transition == pytest.approx(direct, abs=1e-12)
    assert CHAIN.thinned(kept).filled(kept).transition == pytest.approx(step, abs=1e-12)
    assert CHAIN.thinned(kept).stationary == pytest.approx([0.6, 0.4])


def test_the_chain_of_labels_is_found():
    rng, true = np.random.default_rng(0), Chain(np.array([0.02, 0.03]), np.array([0.05, 0.9]))
    state, labels = 0, []
    for _ in range(20000):
        state = state ^ int(rng.random() < true.change[state])
        labels.append(int(rng.random() < true.share[state]))
    found = fit_chain(np.array(labels))
    assert found.change == pytest.approx(true.change, abs=0.004)
    assert found.share == pytest.approx(true.share, abs=0.015)


def test_rare_labels_and_single_changes_are_decoded_to_probabilities():
    prob = np.random.default_rng(0).random(40)
    for labels in ([0, 1], [0] * 99 + [1], [0, 1] * 30, [1] * 30 + [0] * 30):
        for decoder in (hmm_posterior, align_posterior):
            result = decoder(np.concatenate([prob, [0.0, 1.0]]), np.array(labels)).prob
            assert result.shape == (42,) and ((result >= 0) & (result <= 1)).all()


def test_a_sure_classifier_that_contradicts_the_train_labels_breaks_nothing():
    _, labels, _, _, truth, _ = competition(rows=3000)
    for prob in (truth[::-1], 1 - truth, np.zeros(750), np.arange(750) % 2):
        result = align_posterior(prob.astype(float), labels)
        assert np.isfinite(result.prob).all() and np.isfinite(result.log_evidence)


def test_label_order_by_hand_goes_by_number_not_by_text():
    cue = label_order_cue(["10", "9", "2", "1"], np.array([1, 1, 0, 0]))  # in order 0 0 1 1, as -.5 -.5 .5 .5
    assert cue.value == pytest.approx((0.25 - 0.25 + 0.25) / 1)
    assert cue.margin == pytest.approx(1.959963984540054 / 2)
    assert cue.value <= cue.margin


def test_a_classifier_is_improved_and_more_so_by_the_train_labels():
    before, hmm, align = [], [], []
    for seed in range(3):
        train_ids, labels, oof, test_ids, truth, prob = competition(seed, rows=3000, skill=0.8)
        before.append((decide(prob) == truth).mean())
        for name, right in zip(DECODERS, (hmm, align), strict=True):
            right.append((decide(decode_order(name, train_ids, labels, oof, test_ids, prob)) == truth).mean())
    assert np.mean(before) == pytest.approx(0.79, abs=0.02)
    assert np.mean(hmm) > 0.92
    assert np.mean(align) > np.mean(hmm) + 0.01


def test_a_decoded_probability_means_what_it_says():
    surest, right = [], []
    for seed in range(4):
        _, labels, _, _, truth, prob = competition(seed, rows=3000, skill=0.8)
        result = align_posterior(prob, labels).prob
        surest.append(np.maximum(result, 1 - result).mean())
        right.append((decide(result) == truth).mean())
    assert np.mean(surest) == pytest.approx(np.mean(right), abs=0.01)


@pytest.mark.parametrize("name", DECODERS)
def test_the_order_of_the_rows_changes_nothing(name):
    train_ids, labels, oof, test_ids, _, prob = competition(rows=400)
    straight = decode_order(name, train_ids, labels, oof, test_ids, prob)
    rng = np.random.default_rng(0)
    a, b = rng.permutation(len(labels)), rng.permutation(len(prob))
    mixed = decode_order(name, [train_ids[i] for i in a], labels[a], oof[a], [test_ids[i] for i in b], prob[b])
    assert np.array_equal(mixed, straight[b])


def test_scores_pick_align_and_take_rows_in_any_order():
    ids, labels, oof, *_ = competition(rows=2400, skill=0.8)
    result = score_decoders(ids, labels, oof, test_rows=600)
    assert result.choice.name == "align" and result.parts == 4
    assert result.choice.why.startswith(
        "align is the simplest method that no other beats by a real margin on the same rows"
    )
    assert np.array_equal(result.prob["no_order"], oof)
    accuracy = {name: (decide(decoded) == labels).mean() for name, decoded in result.prob.items()}
    assert accuracy["align"] > accuracy["hmm"] > accuracy["no_order"]
    assert result.gains["align"].gain == pytest.approx(accuracy["align"] - accuracy["no_order"])
    assert (decide(result.nested) == labels).mean() > accuracy["hmm"]
    a = np.random.default_rng(1).permutation(len(ids))
    mixed = score_decoders([ids[i] for i in a], labels[a], oof[a], test_rows=600)
    assert all(np.array_equal(mixed.prob[name], result.prob[name][a]) for name in result.prob)


def test_a_rows_own_label_has_no_part_in_its_score():
    ids, labels, oof, *_ = competition(rows=300)
    before = score_decoders(ids, labels, oof, test_rows=100)
    for row in (0, 77, 150, len(ids) - 1):
        other = labels.copy()
        other[row] = 1 - other[row]
        after = score_decoders(ids, other, oof, test_rows=100)
        for name in before.prob:
            assert after.prob[name][row] == before.prob[name][row]


def test_a_classifier_that_knows_everything_is_left_alone():
    ids, labels, *_ = competition(rows=400)
    result = score_decoders(ids, labels, np.where(labels == 1, 0.999, 0.001), test_rows=100)
    assert result.choice.name == "no_order"
    assert np.array_equal(result.nested, result.prob["no_order"])


def test_shuffled_ids_are_refused():
    train_ids, labels, oof, test_ids, _, prob = competition()
    mixed = np.random.default_rng(0).permutation(len(labels))
    cue = label_order_cue(train_ids, labels[mixed])
    expected = (
        f"the train labels show no order: neighbours by id correlate by {cue.value:.3f}, and chance alone "
        "gives 0 +- 0.058 with 1125 rows. The order of the ids cannot help; leave it out."
    )
    for call in (
        lambda: decode_order("hmm", train_ids, labels[mixed], oof[mixed], test_ids, prob),
        lambda: score_decoders(train_ids, labels[mixed], oof[mixed], test_rows=375),
    ):
        with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
            call()


def test_a_shuffled_test_set_is_refused():
    train_ids, labels, oof, test_ids, _, prob = competition()
    with pytest.raises(InputError, match="^the predicted test labels show no order: neighbours by id correlate by "):
        decode_order("hmm", train_ids, labels, oof, test_ids, np.random.default_rng(0).permutation(prob))


def test_a_test_set_in_the_order_of_another_key_is_not_aligned():
    train_ids, labels, oof, test_ids, truth, prob = competition()
    backwards = [str(9999 - int(text)) for text in test_ids]
    expected = (
        r"the test ids are in an order, but not in that of the train ids: their predictions are exp\(\d+\) times "
        r"likelier on their own \(hmm\) than together with the train labels \(align\)\. Leave the order out\."
    )
    with pytest.raises(InputError, match=f"^{expected}$"):
        decode_order("align", train_ids, labels, oof, backwards, prob)
    assert (decide(decode_order("hmm", train_ids, labels, oof, backwards, prob)) == truth).mean() > 0.97


@pytest.mark.parametrize(
    "ids, labels, message",
    [
        (
            ["1", "a7", "3"],
            [0, 1, 1],
            "id 'a7' is not a whole number: only numbered ids have an order to use; leave the order out",
        ),
        (
            ["1", "-2", "3"],
            [0, 1, 1],
            "id '-2' is not a whole number: only numbered ids have an order to use; leave the order out",
        ),
        (["1", "07", "7"], [0, 1, 1], "two ids are the number 7: their order is not known; leave the order out"),
        (["1", "2", "3"], [1, 1, 1], "the order of the ids says nothing if only one label occurs"),
    ],
)
def test_ids_without_an_order_are_refused(ids, labels, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        label_order_cue(ids, np.array(labels))


def test_too_few_rows_to_split_are_refused():
    ids, labels = [str(number) for number in range(1, 31)], np.array([0] * 28 + [1] * 2)
    unlucky = next(seed for seed in range(20) if len(set((np.random.default_rng(seed).permutation(30) % 2)[-2:])) == 1)
    message = "30 train rows are too few to score the order on: one label only in 15 of them"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        score_decoders(ids, labels, np.full(30, 0.5), test_rows=30, seed=unlucky)


def test_labels_that_alternate_are_a_leak_that_no_decoder_knows():
    ids, labels = [str(number) for number in range(1, 401)], np.arange(400) % 2
    with pytest.raises(InputError) as caught:
        score_decoders(ids, labels, np.full(400, 0.5), 100)
    assert str(caught.value) == (
        "the train labels alternate: neighbours by id correlate by -0.998, and chance alone gives 0 +- 0.098 with 400 "
        "rows. That is a leak, but one that the decoders cannot use: they look for neighbours of the same label. Leave "
        "the order of the ids out."
    )
