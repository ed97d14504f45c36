"""The arithmetic of the benches: what they read from others' lines, count and conclude."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file
from torch.utils.flop_counter import FlopCounterMode

BENCH = Path(__file__).parents[1] / "bench"
sys.path.insert(0, str(BENCH))
import golden  # noqa: E402
import paired  # noqa: E402
import peers  # noqa: E402
import scaling  # noqa: E402
import steps  # noqa: E402
import tree  # noqa: E402


def test_lines_that_end_an_epoch():
    ours = "lite0 fold 1 epoch 2/5: train loss 0.3000, valid loss 0.2000, valid accuracy 0.9123, 250 s\n"
    assert peers.ours_mark(ours) == (1, 0.9123)
    assert peers.ours_mark("lite0: OOF accuracy 0.9391 on 18000 rows, runs/lite0/oof.csv\n") is None
    timm = "Test: [{}/28]  Time: 0.100 (0.100)  Loss:   0.200 ( 0.190)  Acc@1:  93.750 ( 92.500)"
    timm += "  Acc@5: 100.000 (100.000)\n"
    assert peers.timm_mark(timm.format("  28")) == (0, 0.925)
    assert peers.timm_mark(timm.format("   0")) is None
    assert peers.fastai_mark("fastai epoch 2 accuracy 0.937500\n") == (0, 0.9375)


def test_five_folds_and_rates():
    row = {"seconds": 110.0, "cpu_seconds": 220.0}
    ours, timm = (SimpleNamespace(name=name, images=100, rows=[row]) for name in ("ours", "timm"))
    assert peers.five_folds(ours, 110, once=10, cores=2) == 260  # 10 + 100 x 5 / 2
    assert peers.five_folds(timm, 110, once=10, cores=2) == 550
    ours.rows = [row, {"seconds": 130.0, "cpu_seconds": 260.0}, {"seconds": 140.0, "cpu_seconds": 280.0}]
    assert peers.rates(ours) == {
        "wall": 7.5,
        "cpu": 3.75,
        "n": 2,
        "wall_least": 5,
        "wall_most": 10,
    }  # without the first epoch
    assert peers.rates(timm)["n"] == 1 and peers.rates(timm)["cpu"] == pytest.approx(
        100 / 220
    )  # but where it is the only one


def test_a_peer_is_ended_where_its_next_epoch_is_beyond_the_limit():
    peer = peers.Peer("timm", [], peers.timm_mark, 100, Path())
    assert not peer.beyond(0)  # no epoch yet: nothing to go by
    peer.rows, peer.cpu_seconds = [{"cpu_seconds": 100}], 110  # the next one ends at 210
    assert peer.beyond(209) and not peer.beyond(210)
    peer.rows, peer.cpu_seconds = (
        [{"cpu_seconds": 100}, {"cpu_seconds": 180}],
        180,
    )  # at 260: the first had the start in it
    assert peer.beyond(259) and not peer.beyond(260)


def test_flops_of_a_depthwise_convolution():
    net, x = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), torch.randn(2, 8, 4, 4, requires_grad=True)
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: steps.backward_flops}
    ) as counted:
        net(x).sum().backward()
    assert counted.get_total_flops() == 3 * (
        2 * 9 * 8 * 4 * 4 * 2
    )  # multiply-adds: 9 taps, 8 channels, 4 x 4 pixels, 2 images
    assert [steps.kind(shape) for shape in ([8, 1, 3, 3], [8, 4, 1, 1], [8, 3, 3, 3])] == [
        "depthwise",
        "pointwise",
        "dense",
    ]


def test_verdict_on_growth():
    assert scaling.slope((10, 1), (100, 100)) == pytest.approx(2)
    rows = [{"cpu_seconds": 1.0, "anon": 100.0}, {"cpu_seconds": 100.0, "anon": 190.0}]
    assert (
        scaling.verdict([1000, 10_000], rows)
        == "faster than linear (2.00), anonymous memory grows by 10,486 bytes per row"
    )
    rows[1] = {"cpu_seconds": 10.0, "anon": 101.0}
    assert scaling.verdict([1000, 10_000], rows) == "not faster than linear (1.00), anonymous memory does not grow"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_session_is_watched_and_ended():
    child = "import time; kept = bytearray(32 << 20); print('ready', flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = tree.start([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        peaks = tree.Peaks()
        peaks.sample(process.pid)
        assert len(tree.members(process.pid)) == 2 and peaks.anonymous > 32 and peaks.high_water >= peaks.resident
        assert tree.cpu_seconds(process.pid) > 0
    finally:
        tree.end(process)
        process.stdout.close()
    assert tree.members(process.pid) == [] and process.returncode == -9


def test_the_difference_of_two_sets_of_predictions():
    duplicates = pd.DataFrame(
        {"split": ["train", "train", "train", "test"], "id": ["a", "b", "c", "d"], "group": ["g", "g", "h", "h"]}
    )
    assert paired.with_duplicate(duplicates, ["c", "b", "a"]).tolist() == [
        False,
        True,
        True,
    ]  # a duplicate in test does not count
    labels, before, after = np.array([1, 1, 0, 0]), np.array([0.9, 0.2, 0.2, 0.9]), np.array([0.9, 0.8, 0.2, 0.9])
    assert paired.line("all", before, after, labels).split()[:3] == ["all", "4", "0.5000"]
    assert " 0.7500 [" in paired.line("all", before, after, labels) and " +25.00 [" in paired.line(
        "all", before, after, labels
    )


def test_files_of_one_fold_are_compared_on_their_rows(tmp_path):
    rows = pd.DataFrame({"id": ["a", "b", "01"], "label": [0, 1, 1]})
    before, after, other = (tmp_path / f"{name}.csv" for name in ("before", "after", "other"))
    before.write_text("id,prob\n01,0.9\na,0.1\n")
    after.write_text("id,prob\na,0.2\n01,0.8\n")
    other.write_text("id,prob\na,0.2\nb,0.8\n")
    ids, labels, *probs = paired.same_rows([before, after], rows)
    assert ids == ["a", "01"] and labels.tolist() == [0, 1]
    assert [prob.tolist() for prob in probs] == [[0.1, 0.9], [0.2, 0.8]]
    with pytest.raises(ValueError, match=r"before\.csv has rows that the folds do not have$"):
        paired.same_rows([before, after], rows[:2])
    with pytest.raises(ValueError, match=r"before\.csv and .*other\.csv are not of the same rows$"):
        paired.same_rows([before, other], rows)


def test_arrays_are_compared_without_their_names(tmp_path):
    ones, zeros = np.ones((2, 3), np.float32), np.zeros(4, np.int64)
    saved = {
        "before": {"stem.weight": ones, "head.bias": zeros, "copy": ones},
        "renamed": {"a": zeros, "b": ones, "c": ones},
        "another shape": {"stem.weight": ones.reshape(3, 2), "head.bias": zeros, "copy": ones},
        "another type": {"stem.weight": ones, "head.bias": zeros.view(np.float64), "copy": ones},
        "once only": {"stem.weight": ones, "head.bias": zeros},
    }
    found = {}
    for name, arrays in saved.items():
        save_file(arrays, tmp_path / f"{name}.safetensors")
        found[name] = golden.digests(tmp_path / f"{name}.safetensors")
    before = {"w.safetensors": found.pop("before")}
    assert {name: golden.differences(before, {"w.safetensors": after}) for name, after in found.items()} == {
        "renamed": {},
        "another shape": {"w.safetensors": "differs, 1 of 3 arrays are gone, 1 are new"},
        "another type": {"w.safetensors": "differs, 1 of 3 arrays are gone, 1 are new"},
        "once only": {"w.safetensors": "differs, 1 of 3 arrays are gone, 0 are new"},
    }


def test_files_are_compared_by_name_and_bytes(tmp_path):
    (tmp_path / "a.csv").write_text("id,prob\n1,0.5\n")
    (tmp_path / "b.csv").write_text("id,prob\n1,0.50\n")
    one, other = (golden.digests(tmp_path / name) for name in ("a.csv", "b.csv"))
    assert golden.differences({"x": one, "y": one, "z": one}, {"x": one, "y": other, "new": one}) == {
        "new": "only in the working tree",
        "y": "differs",
        "z": "only at the baseline",
    }
    before, after = "name,accuracy\nmean,0.9\ntwins,0.8\n", "name,accuracy\nmean,0.9\nduplicates,0.8\n"
    assert golden.changed_lines(before, after) == ["-twins,0.8", "+duplicates,0.8"]


def test_the_spelling_of_an_option_is_the_one_in_the_help():
    assert golden.spelling("--use-twins", "  --use-twins   use ..") == "--use-twins"
    assert golden.spelling("--use-twins", "[--use-order] [--use-duplicates]") == "--use-duplicates"
    with pytest.raises(golden.JobFailed, match="^--help mentions no spelling of --drawn"):
        golden.spelling("--drawn", "[--data ZIP] [--drawn-faces] [--synthetic-data]")


def test_the_key_of_a_job_is_that_of_its_commands(tmp_path, monkeypatch):
    key = golden.key_of("leaks", tmp_path)
    assert golden.key_of("leaks", tmp_path / "another.zip") == key != golden.key_of("corrections", tmp_path)
    monkeypatch.setitem(golden.JOBS, "leaks", golden.JOBS["leaks"].replace("golden_head", "demo_cnn"))
    assert golden.key_of("leaks", tmp_path) != key
