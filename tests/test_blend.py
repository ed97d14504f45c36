"""A blend from matrix to facts: the threshold that moved, what each score is worth, and the words about it."""

from dataclasses import replace

import numpy as np
import pytest

from facefold.ensemble.blend import make_blend
from facefold.ensemble.leaderboard import format_headline, format_leaderboard, format_weights_note
from facefold.ensemble.leaks import OrderLeak, announce_leaks
from facefold.ensemble.members import OofMatrix
from facefold.ensemble.methods import METHOD_NAMES
from facefold.ensemble.scores import decide
from facefold.ensemble.stacking import Stacked
from facefold.task import LABEL
from facefold.utils.errors import InputError


def case(shift: float, rows: int = 1500) -> tuple[OofMatrix, Stacked]:
    """Three members in three folds, whose probabilities are all too high by `shift`."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, rows)
    prob = np.clip(0.5 + shift + 0.12 * (2 * labels - 1)[:, None] + 0.12 * rng.normal(size=(rows, 3)), 0, 1)
    test = np.clip(0.5 + shift + 0.2 * rng.normal(size=(3, 200, 3)), 0, 1)
    ids = [str(i) for i in range(rows)]
    test_ids = [f"t{i}" for i in range(200)]
    matrix = OofMatrix(ids, labels, np.arange(rows) % 3, np.array(ids), ["a", "b", "c"], prob, test_ids, test)
    return matrix, Stacked(prob.mean(axis=1), test.mean(axis=(0, 2)))


def test_a_moved_threshold_reaches_the_submission_and_the_score():
    matrix, stacked = case(0.15)
    blend = make_blend(matrix, stacked, "mean", "auto")
    threshold = blend.facts["threshold"]
    assert threshold == pytest.approx(0.65, abs=0.03) and blend.facts["threshold_gain"]["p"] < 0.05
    assert blend.facts["why"].startswith(
        f"mean was asked for. It decides for label 1 from {threshold:g} on, which gains "
    )
    assert blend.facts["why"].endswith("); the probabilities written are shifted so that this is 0.5.")
    assert (blend.submissions["mean"]["label"] == decide(matrix.test_prob.mean(axis=1) - threshold + 0.5)).all()
    assert (blend.submissions["majority"]["label"] == ((matrix.test_prob >= 0.5).sum(axis=1) > 1)).all()
    assert blend.facts["score"]["accuracy"] > blend.facts["picked_score"]["accuracy"] + 0.05
    animals = replace(matrix, target=replace(matrix.target, classes=("cat", "dog")))
    assert "It decides for label dog from" in make_blend(animals, stacked, "mean", "auto").facts["why"]
    assert (blend.oof["pred"] == blend.oof["label"]).mean() == blend.facts["score"]["accuracy"]


def test_a_threshold_without_a_real_gain_stays():
    blend = make_blend(*case(0.0), "mean", "auto")
    assert blend.facts["threshold"] == 0.5 and blend.facts["why"] == "mean was asked for."
    assert blend.facts["score"] == blend.facts["picked_score"]


def test_auto_explains_itself_and_every_row_of_the_leaderboard_has_its_gain():
    blend = make_blend(*case(0.0, 300), "auto", "auto")
    board = blend.leaderboard.set_index("name")
    assert set(board.index) == {"a", "b", "c", "auto", *METHOD_NAMES}
    assert board.loc["best_single", "gain"] == 0 and board.loc["best_single", "gain_p"] == 1
    assert board.loc["mean", "gain"] == pytest.approx(
        board.loc["mean", "accuracy"] - board.loc["best_single", "accuracy"]
    )
    for name in ("log_loss", "auc", "ece"):
        assert (board[f"{name}_low"] <= board[name]).all() and (board[name] <= board[f"{name}_high"]).all()
    assert blend.facts["picked"] == "mean" and blend.facts["why"].startswith("mean is the simplest candidate")
    assert set(blend.facts["notes"]) == {"calibrated_mean", "second_pass"}
    again = make_blend(*case(0.0, 300), "auto", "auto")
    assert again.facts == blend.facts and again.leaderboard.equals(blend.leaderboard) and again.oof.equals(blend.oof)


def in_order(shuffled: bool = False) -> tuple[OofMatrix, Stacked, np.ndarray]:
    """1,200 train and 400 test rows of one sequence of labels in runs of 20 by id, and two members of accuracy 0.8."""
    rng = np.random.default_rng(3)
    labels = np.arange(1600) // 20 % 2
    logits = 2.2 * (2 * labels - 1)[:, None] + 2.6 * rng.normal(size=(1600, 2))
    prob = 1 / (1 + np.exp(-logits))
    test = np.sort(rng.choice(1600, 400, replace=False))
    train = np.setdiff1d(np.arange(1600), test)
    numbers = rng.permutation(1200) if shuffled else np.arange(1200)
    ids, test_ids = [str(i) for i in numbers], [str(5000 + i) for i in range(400)]
    matrix = OofMatrix(
        ids,
        labels[train],
        np.arange(1200) % 5,
        np.array(ids),
        ["a", "b"],
        prob[train],
        test_ids,
        np.repeat(prob[test][None], 5, axis=0),
    )
    return matrix, Stacked(prob[train].mean(axis=1), prob[test].mean(axis=1)), labels[test]


def test_the_order_of_the_ids_is_used_only_when_asked_for_and_then_said():
    matrix, stacked, hidden = in_order()
    plain = make_blend(matrix, stacked, "mean", "auto")
    assert plain.facts["leaks"] == {} and "order" not in plain.submissions and announce_leaks(plain.facts) == ""
    read = make_blend(matrix, stacked, "mean", "auto", leaks=[OrderLeak()])
    before, after = (
        (blend[name]["label"] == hidden).mean()
        for blend, name in ((plain.submissions, "mean"), (read.submissions, "order"))
    )
    assert after > before + 0.04
    assert read.facts["score"]["accuracy"] == pytest.approx(
        after, abs=0.07
    )  # 400 test rows, and fewer labels around each row that is scored
    assert read.facts["gain_over_best_single"] == plain.facts["gain_over_best_single"]  # of blending, not of the leak
    assert format_headline(read.facts).endswith(
        f" by mean, read by the order of the ids ({read.facts['leaks']['order']['picked']})"
    )
    assert announce_leaks(read.facts).startswith(
        "THE ORDER OF THE IDS WAS USED: neighbours by id share their label (correlation 0.8"
    )
    assert {"order_hmm", "order_align"} <= set(read.leaderboard["name"])


def test_where_the_labels_show_no_order_it_is_refused():
    matrix, stacked, _ = in_order(shuffled=True)
    with pytest.raises(InputError, match="the train labels show no order: neighbours by id correlate by"):
        make_blend(matrix, stacked, "mean", "auto", leaks=[OrderLeak()])


def test_long_names_keep_their_column():
    matrix, stacked = case(0.0, 200)
    for long, column in (("b", 16), ("lite0_96_aligned+corrected", 27)):  # its 26 letters and a space
        blend = make_blend(replace(matrix, names=["a", long, "c"]), stacked, "mean", "auto")
        lines = format_leaderboard(blend.leaderboard, LABEL).splitlines()[1:]
        assert {line[column:].split()[0] for line in lines} == {"recipe", "method"}
    mixed = blend.leaderboard.assign(kind=["near-duplicates", *blend.leaderboard["kind"][1:]])
    assert len({line.index("[") for line in format_leaderboard(mixed, LABEL).splitlines()[1:]}) == 1


def test_learned_weights_that_lost_are_said_only_if_they_could_win():
    """Who asks for learned weights and gets the plain mean shall read why."""
    facts = {"picked": "mean", "options": {"method": "auto", "weights": "auto", "recipes": ["a", "b"]}}

    def note(picked: str = "mean", **options: object) -> str:
        return format_weights_note({"picked": picked, "options": {**facts["options"], **options}})

    assert note() == "learned weights do not beat the mean"
    assert note("best_single") == "learned weights do not beat best_single"
    assert note("weighted_mean") == note("greedy") == note("stack_features") == ""
    assert note(weights="equal") == note(method="mean") == note(recipes=["a"]) == ""
