"""What only a GPU can show: at most 90 seconds on one. Skipped where there is none."""

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from command import SRC, words
from facefold.augment.branchless import BranchlessAugment
from facefold.augment.per_batch import BatchAugment
from facefold.runs import load_weights
from facefold.training import dataset as dataset_module
from facefold.training import device_step, outputs
from facefold.training.fold import FoldTrainer, train_fold
from facefold.training.predict import predict_fold
from facefold.training.step import TrainingStep
from facefold.utils.files import read_json
from tiny_fold import TINY, make_task

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU here")
GPU, CPU = torch.device("cuda"), torch.device("cpu")
BATCHES = {**TINY, "augmenter": "batch", "lr": 5e-3, "precision": "float32", "dropout": 0.0}


def fit(task, device=GPU):
    torch.cuda.reset_peak_memory_stats()
    return predict_fold(task, train_fold(task, device), device)


@pytest.fixture
def task(tmp_path):
    """Return a function that makes a task with a folder of its own."""

    def make(settings: dict, name: str):
        (tmp_path / name).mkdir()
        return make_task(tmp_path / name, settings)

    return make


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """Multiply float32 as such: by default convolutions round it to 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def refuse_to_record(self, run):
    raise RuntimeError("not today")


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"optimizer": "sgd", "momentum": 0.9, "lr": 0.02},
        {"mixup": 0.4, "cutmix": 1.0},
        {"augmenter": "albumentations"},
    ],
    ids=["adamw", "sgd", "mixed", "image by image"],
)
def test_a_graph_and_its_kernels_one_by_one_agree(task, monkeypatch, changed):
    """Two runs on a GPU differ in the order of its sums: by less than 0.01 of a probability after 16 steps."""
    recorded = fit(task({**BATCHES, **changed}, "recorded"))
    monkeypatch.setattr(device_step.CudaGraphs, "record", refuse_to_record)
    eager = fit(task({**BATCHES, **changed}, "eager"))
    assert recorded.facts["training_step"] == "CUDA graph" and eager.facts["training_step"] == "eager: not today"
    np.testing.assert_allclose(recorded.oof_prob, eager.oof_prob, atol=0.01)
    np.testing.assert_allclose(recorded.history["train_loss"], eager.history["train_loss"], rtol=0.02, atol=1e-3)


def test_a_graph_trains_as_the_cpu(task):
    here, there = fit(task(BATCHES, "here"), CPU), fit(task(BATCHES, "there"))
    np.testing.assert_allclose(there.oof_prob, here.oof_prob, atol=0.02)
    np.testing.assert_allclose(there.test_prob, here.test_prob, atol=0.02)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_recorded(task, precision):
    if precision == "bfloat16" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no units for bfloat16")
    result = fit(task({**BATCHES, "precision": precision, "clip": 1.0, "dropout": 0.1}, precision))
    assert result.facts["training_step"] == "CUDA graph" and result.facts["precision"].startswith(precision)
    assert result.history["train_loss"].iloc[-1] < 0.5 * result.history["train_loss"].iloc[0]
    assert result.facts["metrics"]["accuracy"] > 0.9


def test_a_repeated_step_draws_a_new_dropout_which_comes_again_with_the_seed(task):
    settings = {**BATCHES, "dropout": 0.5, "ema": 0.0, "lr": 1e-30}
    trainer = FoldTrainer(task(settings, "dropout"), GPU)
    trainer.model.train()
    host = next(iter(trainer.batches))

    def losses(seed: int) -> list[float]:
        torch.manual_seed(seed)
        return [float(trainer.take_step(host, 0, 0)) for _ in range(4)]

    losses(0)
    first, second, again = losses(1), losses(2), losses(1)
    assert trainer.device_step.form == "CUDA graph"
    assert first == pytest.approx(again, abs=1e-4) and min(np.abs(np.diff(first))) > 1e-3
    assert max(abs(one - other) for one, other in zip(first, second, strict=True)) > 1e-3


def test_memory_that_runs_out_splits_the_batch_and_the_parts_are_recorded(task, monkeypatch):
    update = TrainingStep.update

    def update_in_parts(self, inputs, labels):
        if self.accumulate < 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return update(self, inputs, labels)

    whole = fit(task(BATCHES, "whole"))
    monkeypatch.setattr(TrainingStep, "update", update_in_parts)
    parts = fit(task(BATCHES, "parts"))
    assert parts.facts["parts_of_a_batch"] == 2 and parts.facts["training_step"] == "CUDA graph"
    assert abs(parts.facts["metrics"]["accuracy"] - whole.facts["metrics"]["accuracy"]) < 0.1


def test_memory_that_really_runs_out_is_met_by_parts(task, monkeypatch):
    """The second fold may have seven tenths of the memory that the first one took."""
    monkeypatch.setattr(outputs, "GPU_BATCH", 16)  # whose predictions need less than its training
    settings = {**BATCHES, "width": 64, "batch": 64, "epochs": 4}
    fit(task(settings, "warm"))  # what libraries keep
    gc.collect()
    torch.cuda.empty_cache()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    needed = fit(task(settings, "ample")).facts["peak_memory_mb"] * 2**20 - allocated
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((reserved + 0.7 * needed) / torch.cuda.mem_get_info()[1])
    try:
        assert fit(task(settings, "tight")).facts["parts_of_a_batch"] > 1
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_fold_whose_images_do_not_fit_reads_them_batch_by_batch(task, monkeypatch):
    resident = fit(task(BATCHES, "resident"))
    monkeypatch.setattr(dataset_module, "fits_on_gpu", lambda images, device: False)
    streamed = fit(task(BATCHES, "streamed"))
    assert streamed.facts["training_step"] == "CUDA graph"
    np.testing.assert_allclose(streamed.oof_prob, resident.oof_prob, atol=0.01)


@pytest.mark.parametrize("policy", ["light", "aligned", "standard"])
def test_both_ways_to_augment_agree_with_the_cpu(policy):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 40, 40, 3), dtype=np.uint8))
    ids, branchless, grouped = [str(row) for row in range(64)], BranchlessAugment(policy, 0), BatchAugment(policy, 0)
    table = torch.from_numpy(branchless.table(1, ids, 40, 40))
    expected = grouped(pixels, 1, ids).int()
    for augmented in (grouped(pixels.to(GPU), 1, ids), branchless(pixels.to(GPU), table.to(GPU))):
        difference = (augmented.cpu().int() - expected).abs()
        assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01


def test_a_killed_job_goes_on_and_another_process_predicts_the_same(make_competition, tmp_path):
    root = tmp_path / "root"
    make_competition(root, 200, 60, 64, 2)
    step = words("train", root, "--recipe", "lite0_96~augmenter=batch@4", "--device", "cuda")
    process = subprocess.Popen(step, start_new_session=True)
    while not list(root.glob("runs/*/fold_*/checkpoint.pt")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(step, capture_output=True, text=True)
    assert done.returncode == 0 and "epoch 4/4" in done.stdout and "epoch 1/4" not in done.stdout.partition("fold 1")[0]
    name = "lite0_96~augmenter=batch@4"
    runs = [read_json(root / "runs" / name / f"fold_{fold}" / "run.json") for fold in (0, 1)]
    assert [run["training_step"] for run in runs] == ["CUDA graph"] * 2
    assert all(np.isfinite(value).all() for value in load_weights(root, name, 0).values())
    trained = (root / "runs" / name / "fold_0" / "test.csv").read_text()
    subprocess.run([sys.executable, str(SRC / "predict.py"), "--root", str(root), "--test"], check=True)
    again = (root / "runs" / name / "fold_0" / "test.csv").read_text()
    assert _probabilities(again) == pytest.approx(_probabilities(trained), abs=0.01)


def _probabilities(text: str) -> list[float]:
    return [float(line.split(",")[1]) for line in text.splitlines()[1:]]


def test_predictions_are_those_of_the_cpu(task):
    on_gpu = task({**BATCHES, "epochs": 1}, "gpu")
    trained = train_fold(on_gpu, GPU)
    there = predict_fold(on_gpu, trained, GPU)
    assert there.facts["inference"]["form"].startswith("float32") and there.facts["inference"]["rows"] == 0
    trained.model.to(CPU)
    trained.train_images.device = CPU
    here = predict_fold(
        on_gpu, dataclasses.replace(trained, train_images=dataset_module.ImageSource(on_gpu.train_images, CPU)), CPU
    )
    np.testing.assert_allclose(there.oof_prob, here.oof_prob, atol=1e-3)
    np.testing.assert_allclose(there.test_prob, here.test_prob, atol=1e-3)
