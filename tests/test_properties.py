"""What holds for every input: the csv contract, folds, blends. The readers are fed with rubbish as by bench/fuzz.py,
for seconds.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facefold.data.competition import load_competition
from facefold.data.folds import Folds, make_folds
from facefold.ensemble.members import Rows, join_members
from facefold.ensemble.methods import METHODS
from facefold.ensemble.scores import decide
from facefold.ensemble.submission import write_submission
from facefold.ensemble.weights import (
    accuracy_weights,
    best_member_weights,
    equal_weights,
    log_loss_weights,
    weighted_mean,
)
from facefold.runs import Member

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import fuzz  # noqa: E402

SEEDS = st.integers(0, 10**6)
IDS = st.lists(
    st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="/\\"), min_size=1, max_size=8).filter(
        lambda id: not id.startswith(".")
    ),
    min_size=8,
    max_size=30,
    unique=True,
)


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_rubbish_is_told_or_harmless(tmp_path, target):
    strategy, check = fuzz.TARGETS[target]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def one(data):
        check(tmp_path, data)

    one()


def test_the_fuzz_keeps_what_crashes(monkeypatch):
    def check(_folder, data):
        assert len(data) < 2

    monkeypatch.setitem(fuzz.TARGETS, "csv", (st.binary(max_size=3), check))
    tally = fuzz.fuzz("csv", 0.01, 0)
    assert tally.inputs > 1 and {data for _, data in tally.crashes} == {b"\0\0"}  # shrunk; one of each round


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(IDS)
def test_ids_of_any_script_come_back_as_they_were_written(tmp_path, ids):
    folder = tmp_path / "competition"
    folder.mkdir(exist_ok=True)
    labels = [row % 2 for row in range(len(ids) - 2)]
    pd.DataFrame({"id": ids[2:], "label": labels}).to_csv(folder / "train.csv", index=False, lineterminator="\n")
    pd.DataFrame({"id": ids[:2]}).to_csv(folder / "test.csv", index=False, lineterminator="\n")
    pd.DataFrame({"id": ids[1::-1], "label": 0}).to_csv(folder / "sampleSubmit.csv", index=False, lineterminator="\n")
    competition = load_competition(tmp_path)
    assert competition.train["id"].tolist() == ids[2:] and competition.train["label"].tolist() == labels
    predicted = pd.DataFrame({"id": ids[:2], "label": [0, 1]})
    for order in (predicted, predicted[::-1]):
        write_submission(competition, order, tmp_path / "s.csv")
        submission = pd.read_csv(tmp_path / "s.csv", dtype=str, keep_default_na=False)
        assert submission.to_numpy().tolist() == [[ids[1], "1"], [ids[0], "0"]]


@settings(max_examples=12, deadline=None)
@given(st.integers(20, 80), st.integers(2, 5), st.integers(0, 99), SEEDS)
def test_each_row_validates_once_and_shares_of_the_labels_are_equal(rows, k, seed, draw):
    labels = np.random.default_rng(draw).permutation(np.arange(rows) % 2)
    train = pd.DataFrame({"id": [f"{row:03d}" for row in range(rows)], "label": labels})
    folds = make_folds(train, pd.Series(train["id"].tolist(), index=train["id"]), k, seed, "sha")
    valid = [folds.valid(fold)["id"].tolist() for fold in range(k)]
    assert sorted(sum(valid, [])) == train["id"].tolist()
    for fold in range(k):
        assert not set(folds.train(fold)["id"]) & set(valid[fold]) and len(folds.train(fold)) + len(valid[fold]) == rows
    ones = folds.table.groupby("fold")["label"].agg(["size", "sum"])
    assert ones["sum"].max() - ones["sum"].min() <= 1 and ones["size"].max() - ones["size"].min() <= 2
    assert (
        folds.hash == make_folds(train, pd.Series(train["id"].tolist(), index=train["id"])[::-1], k, seed, "sha").hash
    )


def case(seed: int, rows: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities (rows, count) of models of different skill, labels, folds."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % 2)
    logit = (2 * labels - 1)[:, None] * rng.uniform(0, 2, count) + rng.normal(size=(rows, count))
    return 1 / (1 + np.exp(-logit)), labels, np.arange(rows) // 2 % 5


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 5))
def test_weights_are_shares_of_one(seed, count):
    prob, labels, _ = case(seed, 100, count)
    for rule in (equal_weights, accuracy_weights, best_member_weights, log_loss_weights):
        weights = rule(prob, labels)
        assert (weights >= 0).all() and weights.sum() > 0
        blended = weighted_mean(prob, weights)
        assert (blended >= prob.min(axis=1) - 1e-9).all() and (
            blended <= prob.max(axis=1) + 1e-9
        ).all()  # a mean, so they count as shares
    assert log_loss_weights(prob, labels).sum() == pytest.approx(1, abs=1e-5)


@settings(max_examples=3, deadline=None)
@given(SEEDS)
def test_the_order_of_rows_changes_no_decision(seed):
    """Of the methods that draw nothing; the bags of `greedy` are drawn by row."""
    prob, labels, fold = case(seed, 120, 3)
    order = np.random.default_rng(seed).permutation(len(labels))
    rows, shuffled = Rows(prob, prob[:, 0]), Rows(prob[order], prob[order, 0])
    for name, fit in METHODS.items():
        if name not in ("greedy", "second_pass"):
            one = fit(rows, labels, fold).predict(rows)
            other = fit(shuffled, labels[order], fold[order]).predict(rows)
            clear = np.abs(one - 0.5) > 1e-3
            assert (decide(one) == decide(other))[clear].all(), name


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.permutations(range(3)))
def test_ids_decide_what_is_joined(seed, order):
    rng = np.random.default_rng(seed)
    ids, test_ids = [f"i{row}" for row in range(12)], [f"t{row}" for row in range(5)]
    folds = Folds(
        pd.DataFrame({"id": ids, "label": np.arange(12) % 2, "group": ids, "fold": np.arange(12) // 2 % 2}),
        2,
        0,
        "h",
        "s",
        "m",
    )

    def member(name: str, shuffle: bool) -> Member:
        own = np.random.default_rng(len(name))
        oof, test = pd.Series(own.random(12), index=ids), pd.DataFrame(own.random((5, 2)), index=test_ids)
        return Member(
            name,
            oof.iloc[rng.permutation(12)] if shuffle else oof,
            test.iloc[rng.permutation(5)] if shuffle else test,
            [],
        )

    names = ["m", "mm", "mmm"]
    one = join_members([member(name, False) for name in names], folds, test_ids)
    other = join_members([member(names[place], True) for place in order], folds, test_ids)
    assert (
        one.names == other.names
        and np.array_equal(one.prob, other.prob)
        and np.array_equal(one.test_prob, other.test_prob)
    )
