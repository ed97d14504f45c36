import pytest
import torch

from facefold.models import precision
from facefold.models.build import build_model
from facefold.models.precision import Precision, choose_precision, frozen_precision, half_precision
from facefold.models.recipe import load_recipe, parse_recipe
from facefold.utils.errors import InputError

CPU = torch.device("cpu")
FLOAT32, HALF = Precision(torch.float32, True), Precision(torch.bfloat16, True)


def test_precision_follows_what_the_model_is_made_of(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for name, device in (("lite0", "cpu"), ("cnn5", "meta"), ("resnet50", "meta"), ("vit_small", "meta")):
        with torch.device(device):  # on `meta` without values, which take most of the time
            net, _ = build_model(load_recipe(name), pretrained=False)
        assert choose_precision(load_recipe(name), net, CPU).name == "bfloat16 channels_last", name


def test_precision_without_bfloat16_units_is_float32(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    net, _ = build_model(load_recipe("cnn5"), pretrained=False)
    assert choose_precision(load_recipe("cnn5"), net, CPU).name == "float32 channels_last"
    assert half_precision(load_recipe("demo_cnn"), FLOAT32, CPU) is None


def test_the_recipe_overrules_the_rule():
    recipe = parse_recipe("c", {"precision": "float32", "layout": "channels_first"}, "c.toml")
    assert choose_precision(recipe, build_model(recipe)[0], CPU).name == "float32 channels_first"


def test_stems_that_crash_in_channels_last_stay_channels_first():
    stem = torch.nn.Conv2d(3, 8, 1, stride=2)
    assert not choose_precision(parse_recipe("c", {}, "c.toml"), stem, CPU).channels_last
    with pytest.raises(
        InputError, match='layout = "channels_last" crashes this backbone\'s stem on the CPU; use channels_first'
    ):
        choose_precision(parse_recipe("c", {"layout": "channels_last"}, "c.toml"), stem, CPU)


def test_float16_needs_a_gpu():
    recipe = parse_recipe("c", {"precision": "float16"}, "c.toml")
    with pytest.raises(InputError, match='precision = "float16" needs a GPU; on the CPU use bfloat16 or float32'):
        choose_precision(recipe, build_model(recipe)[0], CPU)


def test_depthwise_channels_first_stays_in_float32(monkeypatch):
    monkeypatch.setattr(precision, "_fast_half", lambda device: torch.bfloat16)
    recipe = parse_recipe("m", {"backbone": "mobilenetv2_100", "size": 32, "layout": "channels_first"}, "m.toml")
    assert choose_precision(recipe, build_model(recipe)[0], CPU).name == "float32 channels_first"


def test_a_recipe_that_names_its_precision_predicts_in_it(monkeypatch):
    monkeypatch.setattr(precision, "_fast_half", lambda device: torch.bfloat16)
    for name, expected in (("auto", HALF), ("bfloat16", HALF), ("float32", None)):
        assert half_precision(parse_recipe("r", {"precision": name}, "r.toml"), FLOAT32, CPU) == expected


def test_frozen_stages_are_float32_unless_recipe_and_device_allow_half_precision(monkeypatch):
    settings = {"backbone": "resnet18", "weights": "hub", "freeze_stages": 1}
    exact = parse_recipe("r", settings, "r.toml")
    half = parse_recipe("r", {**settings, "frozen_precision": "half"}, "r.toml")
    monkeypatch.setattr(precision, "_fast_half", lambda device: torch.bfloat16)
    assert frozen_precision(half, FLOAT32, CPU) == HALF
    assert frozen_precision(exact, HALF, CPU) == FLOAT32
    monkeypatch.setattr(precision, "_fast_half", lambda device: None)
    assert frozen_precision(half, FLOAT32, CPU) == FLOAT32
