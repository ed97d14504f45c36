import pytest
import torch
from torch import nn

from facefold.models import inference
from facefold.models.build import FrozenStages, Net, build_model
from facefold.models.depthwise import replace_depthwise
from facefold.models.inference import (
    MAX_DIFFERENCE,
    InferenceModel,
    fuse_batch_norm,
    fuse_frozen_stages,
    rebuild_inference_model,
    select_inference_model,
)
from facefold.models.precision import Precision
from facefold.models.recipe import load_recipe, parse_recipe

FLOAT32, HALF = Precision(torch.float32, True), Precision(torch.bfloat16, True)


def build_trained(name: str) -> tuple[Net, torch.Tensor]:
    """Return a network whose batch norms have seen images, and images uint8 (16, H, W, 3)."""
    torch.manual_seed(0)
    recipe = load_recipe(name)
    net, _ = build_model(recipe, pretrained=False)
    net.set_memory_format(channels_last=True)
    images = torch.randint(
        0, 256, (16, recipe.size, recipe.size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(images)
    return net.eval(), images


@pytest.mark.parametrize("name", ["demo_lite0", "demo_cnn"])
def test_fusing_removes_every_batch_norm_after_a_convolution_and_changes_nothing(name):
    net, images = build_trained(name)
    replace_depthwise(net)
    before = net(images)
    fused = fuse_batch_norm(net, images[:2])
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    for one, other in zip(fused(images), before, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_fusing_a_network_with_frozen_stages_reads_activations():
    net, images = build_trained("mobilenetv2")
    replace_depthwise(net)
    with torch.inference_mode():
        activations = net.frozen_stages(images).permute(0, 2, 3, 1)
        fused = fuse_batch_norm(net, activations[:2])
        outputs, expected = fused.forward_inputs(activations), net(images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.backbone.modules())
    for one, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_norm_that_does_not_follow_a_convolution_stays():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
    fused = fuse_batch_norm(model, torch.zeros(1, 3, 4, 4))
    assert [type(module) for module in fused] == [type(module) for module in model]


def test_half_precision_is_used_if_it_agrees():
    net, images = build_trained("demo_cnn")
    model = select_inference_model(net, HALF, images)
    assert model.name == "bfloat16 channels_last fused" and 0 < model.difference <= MAX_DIFFERENCE and not model.refused
    logits, features = model(images)
    assert logits.dtype is features.dtype is torch.float32


def test_what_does_not_agree_is_refused_with_its_difference(monkeypatch):
    net, images = build_trained("demo_cnn")
    monkeypatch.setattr(inference, "MAX_DIFFERENCE", 1e-6)
    model = select_inference_model(net, HALF, images)
    assert model.name == "float32 channels_last" or model.difference <= 1e-6
    refused = model.refused[0]
    assert refused.startswith("bfloat16 channels_last fused inference differs from float32 by a probability of ")
    assert refused.endswith(" (bound 1e-06); it is not used")


def test_without_half_precision_float32_is_fused():
    net, images = build_trained("demo_cnn")
    assert select_inference_model(net, None, images).name == "float32 channels_last fused"


def test_an_inference_model_is_rebuilt_from_its_name():
    net, images = build_trained("demo_cnn")
    for name, rebuilt in (
        ("float16 channels_last", "float32 channels_last"),  # the CPU has no units for it
        ("bfloat16 channels_first", "bfloat16 channels_first"),
        ("bfloat16 channels_last fused", "bfloat16 channels_last fused"),
    ):
        assert rebuild_inference_model(net, name, images).name == rebuilt
    model = select_inference_model(net, HALF, images)
    again = rebuild_inference_model(net, model.name, images)
    assert all(torch.equal(one, other) for one, other in zip(model(images), again(images), strict=True))


def test_logits_keep_their_digits_in_bfloat16():
    torch.manual_seed(0)
    net, _ = build_model(parse_recipe("r", {"size": 32, "width": 4, "dropout": 0.1}, "r.toml"))
    net.set_memory_format(channels_last=True).eval()
    images = torch.randint(0, 256, (96, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    logits, _ = InferenceModel(net.forward_inputs, HALF)(images)
    assert len(logits.unique()) > 90  # 8 bits would leave a handful


def test_a_convolution_that_two_modules_read_is_not_fused_into_a_wrong_output():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.norm.running_mean += 2

        def forward(self, x):
            x = self.conv(x)
            return self.norm(x) + x

    stages = FrozenStages((0.5,) * 3, (0.5,) * 3, [Forked()])
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    assert fuse_frozen_stages(stages, images, FLOAT32) is stages
