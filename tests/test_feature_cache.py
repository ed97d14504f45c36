import dataclasses
import re
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from command import call_here
from facefold.data.cache import ImageCache
from facefold.data.competition import load_competition
from facefold.models import feature_cache, inference, requirements
from facefold.models.build import build_model
from facefold.models.feature_cache import FeatureCache, feature_cache_bytes, feature_dir
from facefold.models.precision import Precision, frozen_precision
from facefold.models.recipe import Recipe, parse_recipe, view_names
from facefold.models.requirements import check_disk_space
from facefold.models.views import view_images
from facefold.training.dataset import AugmentedImages, ImageSource
from facefold.utils import files
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory, write_checksum, write_npy

CPU = torch.device("cpu")
FLOAT32, HALF = Precision(torch.float32, True), Precision(torch.bfloat16, True)
SETTINGS = {
    "backbone": "test_efficientnet",
    "weights": "package:test_efficientnet_weights",
    "size": 32,
    "freeze_stages": 1,
    "epochs": 3,
}


def make_images(count: int = 70) -> ImageCache:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return ImageCache([f"a{row}" for row in range(count)], pixels)


def augment(images: ImageCache) -> AugmentedImages:
    return AugmentedImages(ImageSource(images, CPU), parse_recipe("f", {**SETTINGS, "augment": "light"}, "f.toml"), 0)


def make_cache(tmp_path, stages: nn.Module | None = None, views: int = 0) -> FeatureCache:
    images = make_images()
    if stages is None:
        net, _ = build_model(parse_recipe("f", SETTINGS, "f.toml"))
        stages = net.set_memory_format(channels_last=True).frozen_stages
    return FeatureCache(tmp_path / "f" / "key", "train", images, stages, CPU, FLOAT32, augment(images), views)


def test_a_view_holds_the_activations_of_each_image(tmp_path):
    cache = make_cache(tmp_path)
    for name, pixels in [
        ("plain", cache.images.pixels),
        ("mirror", cache.images.pixels[:, :, ::-1].copy()),
        ("zoom_mirror", view_images(torch.from_numpy(cache.images.pixels), "zoom_mirror").numpy()),
        ("epoch_2", augment(cache.images)(2, np.arange(70)).numpy()),
    ]:
        with torch.inference_mode():
            expected = cache.frozen_stages(torch.from_numpy(pixels)).permute(0, 2, 3, 1)
        values = cache.view(name)
        assert values.dtype == np.float16 and values.shape == (70, 16, 16, 16)
        np.testing.assert_allclose(values, expected, rtol=2e-3, atol=5e-3)


def test_a_network_predicts_the_same_from_images_and_from_make_cache(tmp_path):
    torch.manual_seed(0)
    net, _ = build_model(parse_recipe("f", SETTINGS, "f.toml"))
    net.set_memory_format(channels_last=True).eval()
    cache = make_cache(tmp_path, net.frozen_stages)
    with torch.inference_mode():
        from_images = net(torch.from_numpy(cache.images.pixels))
        from_activations = net.forward_from_stages(torch.from_numpy(np.array(cache.view("plain"))))
    for one, other in zip(from_images, from_activations, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


def test_a_view_is_computed_once(tmp_path):
    class Counting(nn.Module):
        calls = 0

        def forward(self, images):
            Counting.calls += 1
            return images.permute(0, 3, 1, 2).float()

    cache = make_cache(tmp_path, Counting())
    first = np.array(cache.view("plain"))
    calls = Counting.calls
    assert np.array_equal(cache.view("plain"), first) and Counting.calls == calls
    assert [path.name for path in cache.folder.glob("*.npy")] == ["train_plain.npy"] and not list(
        cache.folder.glob(".*.part")
    )


def test_the_stages_are_fused_once_for_all_views(tmp_path, monkeypatch):
    compared, cache = [], make_cache(tmp_path, nn.Identity())

    def fuse(stages, images, precision):
        compared.append((stages, images.tolist(), precision))
        return lambda pixels: pixels.permute(0, 3, 1, 2).float()

    monkeypatch.setattr(feature_cache, "fuse_frozen_stages", fuse)
    for name in ("mirror", "plain", "epoch_0"):
        cache.view(name)
    assert compared == [(cache.frozen_stages, cache.images.pixels[:64].tolist(), FLOAT32)]


def test_a_view_that_another_process_computes_is_waited_for(tmp_path):
    cache = make_cache(tmp_path)
    lock = cache.folder / "train_plain.lock"
    with ThreadPoolExecutor(1) as pool:
        with lock_directory(lock):
            waiting = pool.submit(lambda: np.array(cache.view("plain")))
            time.sleep(0.3)
            assert not waiting.done() and not (cache.folder / "train_plain.npy").exists()
            write_npy(cache.folder / "train_plain.npy", np.ones((70, 1, 1, 1), np.float16))
            write_checksum(cache.folder / "train_plain.npy")
        assert waiting.result().sum() == 70  # what the other one wrote


def test_a_damaged_view_is_named_and_computed_again(tmp_path, capsys):
    cache = make_cache(tmp_path)
    path = cache.folder / "train_plain.npy"
    first = np.array(cache.view("plain"))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    cache.compute_view("plain")
    assert capsys.readouterr().out == f"{path} is not what was written (its checksum differs): it is computed again\n"
    assert np.array_equal(cache.view("plain"), first)
    stamp = path.stat().st_mtime_ns
    cache.compute_view("plain")
    assert path.stat().st_mtime_ns == stamp and capsys.readouterr().out == ""


def test_epochs_take_turns_if_the_augmented_copies_are_fewer(tmp_path):
    cache = make_cache(tmp_path, views=2)
    assert np.array_equal(cache.epoch_view(0), cache.epoch_view(2))
    assert not np.array_equal(cache.epoch_view(0), cache.epoch_view(1))
    recipe = parse_recipe("f", {**SETTINGS, "views": 2}, "f.toml")
    assert view_names(recipe) == [
        ("train", "epoch_0"),
        ("train", "epoch_1"),
        ("train", "plain"),
        ("train", "mirror"),
        ("test", "plain"),
        ("test", "mirror"),
    ]
    assert len(view_names(dataclasses.replace(recipe, views=0, tta="none"))) == 5


def test_images_that_nothing_changes_have_one_view(tmp_path):
    cache = dataclasses.replace(make_cache(tmp_path), augmented=None)
    assert all(np.array_equal(cache.epoch_view(epoch), cache.view("plain")) for epoch in (0, 1))
    assert [path.name for path in cache.folder.glob("*.npy")] == ["train_plain.npy"]
    recipe = parse_recipe("f", {**SETTINGS, "augment": "none", "tta": "none"}, "f.toml")
    assert view_names(recipe) == [("train", "plain"), ("test", "plain")]


@pytest.mark.parametrize("tta", [{"tta": "flip_zoom"}, {"tta": "choose", "monitor": 0.2}])
def test_each_view_of_a_prediction_has_a_file_of_each_split(tta):
    recipe = parse_recipe("f", {**SETTINGS, "augment": "none", **tta}, "f.toml")
    views = ("plain", "mirror", "zoom", "zoom_mirror")
    assert view_names(recipe) == [(split, view) for split in ("train", "test") for view in views]
    flip = dataclasses.replace(recipe, tta="flip")
    assert feature_cache_bytes(recipe, 80, 20) == 2 * feature_cache_bytes(flip, 80, 20)
    wide = dataclasses.replace(flip, size=[32, 48])
    assert feature_cache_bytes(wide, 80, 20) == 2 * 100 * (2 * 16 * 24 * 16)  # two views of maps 16 x 24 of 16 channels


def test_half_precision_is_used_only_if_it_nearly_agrees(tmp_path, monkeypatch, capsys):
    cache = make_cache(tmp_path)
    exact = np.array(cache.view("plain"), np.float32)
    half = dataclasses.replace(cache, folder=tmp_path / "f" / "half", precision=HALF)
    difference = np.array(half.view("plain"), np.float32) - exact
    assert 0 < np.square(difference).mean() ** 0.5 < 0.02 * np.square(exact).mean() ** 0.5
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(inference, "MAX_STAGES_DIFFERENCE", 1e-6)
    refused = dataclasses.replace(half, folder=tmp_path / "f" / "exact").view("plain")
    assert np.array_equal(np.array(refused, np.float32), exact)
    assert "float32 is used" in capsys.readouterr().out


def test_whatever_decides_a_value_is_in_the_key(tmp_path):
    def key(precision: Precision = FLOAT32, device: torch.device = CPU, **settings) -> Path:
        return feature_dir(tmp_path, parse(**settings), 0, "images", {"source": "w"}, precision, device)

    def parse(**settings) -> Recipe:
        return parse_recipe("f", {**SETTINGS, **settings}, "f.toml")

    others = [
        key(freeze_stages=2),
        key(size=48),
        key(size=[32, 48]),
        key(size=[48, 32]),
        key(crop=0.5),
        key(start_size=16),
        key(augment="light"),
        key(augmenter="batch"),
        key(backbone="tf_efficientnet_lite1"),
        key(freeze_stages=0, freeze_backbone=True, head="flatten"),
        key(freeze_stages=0, freeze_backbone=True, head="average"),
        key(HALF),
        key(Precision(torch.float32, False)),
        key(device=torch.device("cuda")),
        feature_dir(tmp_path, parse(), 1, "images", {"source": "w"}, FLOAT32, CPU),
        feature_dir(tmp_path, parse(), 0, "others", {"source": "w"}, FLOAT32, CPU),
        feature_dir(tmp_path, parse(), 0, "images", {"source": "v"}, FLOAT32, CPU),
    ]
    assert len({key(), *others}) == 18
    assert key(frozen_precision(parse(), HALF, CPU)) == key()  # trained in bfloat16, frozen in float32
    assert key(lr=0.5, epochs=9) == key()


def test_activations_of_another_key_are_removed(tmp_path):
    run = tmp_path / "frozen" / "f"
    for name in ("0" * 16, "notes"):
        (run / name).mkdir(parents=True)
    make = dataclasses.replace(make_cache(tmp_path), folder=run / ("1" * 16))
    make.view("plain")
    assert sorted(path.name for path in run.iterdir()) == ["1" * 16, "notes"]


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes here")
def test_a_full_disk_is_an_error_and_no_crash(tmp_path):
    cache, old = make_cache(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(OSError):
            cache.view("plain")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(cache.folder.glob("*.npy")) and cache.view("plain").shape == (70, 16, 16, 16)


def test_what_float16_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    class Huge(nn.Module):
        def forward(self, images):
            return images.permute(0, 3, 1, 2).float() * 1e4

    cache = make_cache(tmp_path, Huge())
    with pytest.raises(
        InputError,
        match=re.escape("the activations of the frozen stages of f do not fit float16; freeze less in the recipe"),
    ):
        cache.view("plain")
    assert not list(cache.folder.glob("*.npy")) and not list(cache.folder.glob(".*.part"))


def test_the_disk_has_room_for_the_cache_and_the_frozen_stages_or_nothing_begins(
    make_competition, tmp_path, monkeypatch
):
    make_competition(tmp_path, 80, 20, 32, 2)
    tables = load_competition(tmp_path)
    first, plain, second = (
        parse_recipe(name, settings, "r.toml")
        for name, settings in (
            ("a", SETTINGS),
            ("b", {"size": 32, "width": 4, "batch": 16, "epochs": 4}),
            ("c", {**SETTINGS, "epochs": 2}),
        )
    )
    images, of_first, of_second = (80 + 20) * 32 * 32 * 3, *(feature_cache_bytes(r, 80, 20) for r in (first, second))
    assert of_first > of_second > 0 == feature_cache_bytes(plain, 80, 20)

    def check(recipes, needed):
        monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1.06 * needed))
        line = check_disk_space(tmp_path, tables, recipes)
        monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1.04 * needed))
        with pytest.raises(InputError, match=r"MB are needed there for the cache and the frozen stages and \d+ MB are"):
            check_disk_space(tmp_path, tables, recipes)
        return line

    check([first, second], images + of_first + of_second)
    monkeypatch.setattr(requirements, "_call_apart", call_here)  # the same without a process each time
    assert check([plain], images) == "disk: 0 MB needed for the cache and the frozen stages, 0 MB free"
    check([first, plain, second], images + of_first)  # those of the first are gone when the third begins
    kept = tmp_path / "cache" / "frozen" / "a" / "key" / "train_plain.npy"
    files.write_bytes(kept, bytes(1000))
    check([first, plain, second], images + of_first - 1000)
