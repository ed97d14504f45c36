import pytest
import torch
from torch import nn

from facefold.models import inference, precision
from facefold.models.build import Net, Trunk, build_model
from facefold.models.depthwise import replace_depthwise
from facefold.models.precision import Precision
from facefold.models.recipe import load_recipe, parse_recipe

CPU = torch.device("cpu")
PLAIN, HALF = Precision(torch.float32, True), Precision(torch.bfloat16, True)


def trained(name: str) -> tuple[Net, torch.Tensor]:
    """A network whose batch norms have seen something, and images."""
    torch.manual_seed(0)
    recipe = load_recipe(name)
    net, _ = build_model(recipe, trained=False)
    net.lay_out(True)
    pixels = torch.randint(
        0, 256, (16, recipe.size, recipe.size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(pixels)
    return net.eval(), pixels


@pytest.mark.parametrize("name", ["demo_lite0", "demo_cnn", "mobilenetv2"])
def test_folding_removes_every_batch_norm_after_a_convolution_and_changes_nothing(name):
    net, pixels = trained(name)
    replace_depthwise(net)
    before = net(pixels)
    folded = inference.fuse_batch_norm(net, pixels[:2])
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    for one, other in zip(folded(pixels), before, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_norm_that_does_not_follow_a_convolution_stays():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
    assert [type(module) for module in inference.fuse_batch_norm(model, torch.zeros(1, 3, 4, 4))] == [
        type(module) for module in model
    ]


def test_half_precision_is_taken_where_it_agrees():
    net, pixels = trained("demo_cnn")
    said = []
    form = inference.fastest_inference_model(net, PLAIN, HALF, pixels, said.append)
    assert form.name == "bfloat16 channels_last fused" and 0 < form.difference <= inference.BOUND and not said
    logits, features = form(pixels)
    assert logits.dtype is features.dtype is torch.float32


def test_a_form_that_does_not_agree_is_passed_over_aloud(monkeypatch):
    monkeypatch.setattr(precision, "_half", lambda device: torch.bfloat16)
    net, pixels = trained("demo_cnn")
    monkeypatch.setattr(inference, "BOUND", 1e-6)
    said = []
    form = inference.fastest_inference_model(net, PLAIN, HALF, pixels, said.append)
    assert form.name == "float32 channels_last" or form.difference <= 1e-6
    assert said[0].startswith("bfloat16 channels_last fused inference differs from float32 by a probability of ")
    assert said[0].endswith(" (bound 1e-06); it is not used")


def test_a_convolution_that_two_modules_read_is_not_folded_into_a_wrong_answer():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.norm.running_mean += 2

        def forward(self, x):
            x = self.conv(x)
            return self.norm(x) + x

    trunk = Trunk((0.5,) * 3, (0.5,) * 3, [Forked()])
    pixels = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    assert inference.fuse_frozen_stages(trunk, pixels) is trunk


def test_the_rule_knows_no_half_precision_without_units(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert precision.half_precision(load_recipe("demo_cnn"), PLAIN, CPU) is None
    net, pixels = trained("demo_cnn")
    assert inference.fastest_inference_model(net, PLAIN, None, pixels, print).name == "float32 channels_last fused"


def test_a_recipe_that_names_its_precision_predicts_in_it(monkeypatch):
    monkeypatch.setattr(precision, "_half", lambda device: torch.bfloat16)
    for named, expected in (("auto", HALF), ("bfloat16", HALF), ("float32", None)):
        assert precision.half_precision(parse_recipe("r", {"precision": named}, "r.toml"), PLAIN, CPU) == expected


def test_depthwise_channels_first_stays_in_float32(monkeypatch):
    monkeypatch.setattr(precision, "_half", lambda device: torch.bfloat16)
    recipe = parse_recipe("m", {"backbone": "mobilenetv2_100", "size": 32, "layout": "channels_first"}, "m.toml")
    assert precision.choose_precision(recipe, build_model(recipe)[0], CPU).name == "float32 channels_first"
