"""The strata of a target: labels themselves, values in equal bins."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from facefold.task import LABEL, strata, task_named


def test_each_target_has_its_own_directory_option_and_column(tmp_path):
    age = task_named("age")
    assert LABEL.directory(tmp_path) == tmp_path and age.directory(tmp_path) == tmp_path / "targets" / "age"
    assert task_named("mean income").option == " --target 'mean income'"  # as a person types it
    assert (LABEL.option, age.option, LABEL.column, age.column) == ("", " --target age", "prob", "pred")
    assert [path.name for path in age.sources(tmp_path)] == ["train.csv", "meta.csv"]


def test_labels_are_their_own_strata_and_values_fall_into_equal_bins():
    assert strata(np.array([1, 0, 1])).tolist() == [1, 0, 1]
    bins = strata(np.arange(400.0))
    assert np.bincount(bins).tolist() == [40] * 10 and (np.diff(bins) >= 0).all()
    assert len(set(strata(np.arange(39.0)))) == 1  # two bins of 20 rows would need 40


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_equal_values_share_a_bin_and_bins_are_in_order(rows, kinds, seed):
    values = np.random.default_rng(seed).integers(0, kinds, rows).astype(float)
    bins = strata(values)
    order = np.argsort(values, kind="stable")
    assert (np.diff(bins[order]) >= 0).all() and all(len(set(bins[values == value])) == 1 for value in values)
