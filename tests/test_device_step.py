"""The step that a GPU takes by one launch, run here on the CPU: what a GPU would record is repeated by calling it."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from facefold.training import fold as fold_module
from facefold.training.dataset import AugmentedImages, ImageSource, shrink
from facefold.training.device_batch import DeviceBatch, HostDataset, read_ahead
from facefold.training.device_step import EAGER_STEPS
from facefold.training.fold import FoldTrainer
from facefold.training.step import TrainingStep
from tiny_fold import CPU, FROZEN, TINY, Killed, fit, images, make_task, same

pytestmark = pytest.mark.usefixtures("one_thread")
# Like augmentation by the branchless way, in whose last bits it differs from the CPU's way.
BATCHES = {**TINY, "augmenter": "batch", "augment": "light", "lr": 5e-3, "epochs": 2}


class Repeated:
    """Stands for `CudaGraphs`: what is recorded is called again, from buffers that were written meanwhile."""

    recorded, eager = 0, 0

    def __init__(self, _device: torch.device):
        pass

    def run(self, run: Callable) -> torch.Tensor:
        type(self).eager += 1
        return run()

    def record(self, run: Callable) -> Callable:
        type(self).recorded += 1
        return run

    def wait(self) -> None:
        pass


@pytest.fixture
def on_device(monkeypatch):
    """Have folds trained by the step of a GPU; return what stands for its graphs."""

    class Graphs(Repeated):
        pass

    monkeypatch.setattr(fold_module, "steps_on_device", lambda device: True)
    monkeypatch.setattr(fold_module, "CudaGraphs", Graphs)
    return Graphs


@pytest.mark.parametrize(
    "settings",
    [
        BATCHES,
        {**BATCHES, "mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1, "size": [32, 64]},
        {**BATCHES, "optimizer": "sgd", "lr": 0.02, "momentum": 0.9},
        {**TINY, "epochs": 2, "lr": 5e-3, "ema": 0.0, "schedule": "plateau", "monitor": 0.25},
        {**FROZEN, "views": 2, "freeze_backbone": True, "freeze_stages": 0, "head": "average"},
    ],
    ids=["batch", "mixed", "sgd", "image by image", "activations"],
)
def test_it_trains_as_the_step_of_a_cpu(tmp_path, request, settings):
    (tmp_path / "device").mkdir()
    expected = fit(make_task(tmp_path, settings))
    graphs = request.getfixturevalue("on_device")
    result = fit(make_task(tmp_path / "device", settings))
    np.testing.assert_allclose(result.oof_prob, expected.oof_prob, atol=2e-4)
    np.testing.assert_allclose(result.test_prob, expected.test_prob, atol=2e-4)
    np.testing.assert_allclose(result.history["train_loss"], expected.history["train_loss"], rtol=1e-4)
    assert result.history["lr"].tolist() == expected.history["lr"].tolist()
    assert result.facts["training_step"] == "CUDA graph" and expected.facts["training_step"] == "eager"
    assert graphs.recorded == 1 and graphs.eager == EAGER_STEPS


def test_killed_and_resumed_gives_the_same_bytes(tmp_path, monkeypatch, on_device):
    (tmp_path / "b").mkdir()
    whole = fit(make_task(tmp_path, BATCHES))
    save, deaths = fold_module.save_checkpoint, 0
    task = make_task(tmp_path / "b", BATCHES)

    def die_once(*args):
        nonlocal deaths
        save(*args)
        deaths += 1
        if deaths == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fold_module, "save_checkpoint", die_once)
        with pytest.raises(Killed):
            fit(task)
    assert same(whole, fit(task))


def test_a_step_that_cannot_be_recorded_is_run_as_it_comes(tmp_path, monkeypatch, on_device, capsys):
    expected = fit(make_task(tmp_path, BATCHES))

    def refuse(self, run):
        raise RuntimeError("operation not permitted when stream is capturing\nsecond line")

    monkeypatch.setattr(on_device, "record", refuse)
    (tmp_path / "b").mkdir()
    result = fit(make_task(tmp_path / "b", BATCHES))
    assert same(result, expected)
    assert result.facts["training_step"] == "eager: operation not permitted when stream is capturing"
    assert (
        capsys.readouterr().out.count(
            "tiny fold 0: the training step cannot be recorded as a CUDA graph (operation not permitted when stream is "
            "capturing); the processor launches each of its kernels, which is slower\n"
        )
        == 1
    )


def test_a_batch_that_memory_does_not_hold_is_split_before_it_is_recorded(tmp_path, monkeypatch, on_device):
    update, parts = TrainingStep.update, []

    def update_parts(self, inputs, labels):
        parts.append(self.accumulate)
        if self.accumulate < 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return update(self, inputs, labels)

    monkeypatch.setattr(TrainingStep, "update", update_parts)
    result = fit(make_task(tmp_path, BATCHES))
    assert parts == [1] + [2] * 8 and result.facts["parts_of_a_batch"] == 2
    assert on_device.recorded == 1 and on_device.eager == 1 + EAGER_STEPS  # the first batch had another shape


@pytest.mark.parametrize("resident", [True, False])
def test_nothing_is_read_back_from_the_device(tmp_path, monkeypatch, resident):
    """A device without values: asking for one is an error."""
    settings = {**BATCHES, "augment": "standard", "mixup": 0.4, "cutmix": 1.0}
    monkeypatch.setattr(fold_module, "steps_on_device", lambda device: True)
    monkeypatch.setattr(fold_module, "CudaGraphs", Repeated)
    trainer = FoldTrainer(make_task(tmp_path, settings), CPU)
    step, meta = trainer.device_step, torch.device("meta")
    host = next(iter(trainer.batches))
    step._batch.device = meta
    for name in ("_labels", "_cache_rows"):
        setattr(step._batch, name, getattr(step._batch, name).to(meta))
    if resident:
        host, step._batch._images = host[:1], torch.zeros((96, 32, 32, 3), dtype=torch.uint8, device=meta)
    buffers = [
        torch.empty_like(part, device=meta) for part in (torch.zeros(len(trainer.optimizer.param_groups) + 9), *host)
    ]
    taken = []

    def update(inputs, labels):
        taken.append((inputs.shape, inputs.device.type, labels.shape, labels.device.type))
        return labels.sum()

    step._averages, step._counts = [], []
    step._run(buffers, (32, 32), update)
    assert taken == [((16, 32, 32, 3), "meta", (16, 2), "meta")]


def test_a_row_is_sent_as_its_bits(tmp_path):
    cache, labels = images("a", 9)
    recipe = dataclasses.replace(make_task(tmp_path, BATCHES).recipe, augment="none")
    source = ImageSource(cache, CPU)
    dataset = HostDataset(
        [f"a{row}" for row in (8, 3, 5)], torch.tensor([0.5, 1.5, 2.5]), cache, AugmentedImages(source, recipe, 0)
    )
    numbers, pixels = dataset[0, np.array([2, 0])]
    assert numbers[:, :2].contiguous().view(torch.int64)[:, 0].tolist() == [2, 0] and numbers.dtype == torch.float32
    batch = DeviceBatch(dataset, source, CPU)
    inputs, labels = batch((numbers, pixels), (32, 32))
    assert labels.tolist() == [2.5, 0.5] and np.array_equal(inputs.numpy(), cache.pixels[[5, 8]])
    batch._images = torch.from_numpy(cache.pixels)  # as on a GPU that holds all images
    assert torch.equal(batch((numbers,), (32, 32))[0], inputs)
    assert torch.equal(batch((numbers,), (16, 8))[0], shrink(inputs, (16, 8)))
    area = inputs.numpy().reshape(2, 16, 2, 8, 4, 3).mean((2, 4))
    assert np.array_equal(shrink(inputs, (16, 8)).numpy(), np.floor(area + 0.5))


def test_batches_are_read_ahead_in_their_order_and_errors_arrive():
    read = []

    def batches():
        for number in range(5):
            read.append(number)
            yield (torch.tensor(number),)
        raise ValueError("row 3 is broken")

    taken = []
    with pytest.raises(ValueError, match="^row 3 is broken$"):
        for (batch,) in read_ahead(batches(), CPU):
            taken.append(int(batch))
    assert taken == read == [0, 1, 2, 3, 4]


def test_frozen_stages_are_computed_again_on_a_gpu_unless_the_whole_backbone_is_frozen(tmp_path):
    recipe = make_task(tmp_path, FROZEN).recipe
    assert recipe.caches_stages("cpu") and not recipe.caches_stages("cuda:0")
    frozen = dataclasses.replace(recipe, freeze_stages=0, freeze_backbone=True)
    assert frozen.caches_stages("cuda:0") and not dataclasses.replace(recipe, freeze_stages=0).caches_stages("cpu")
