import re

import pytest
import torch
from torch import nn

from facefold.models.build import Net, build_model
from facefold.models.recipe import parse_recipe
from facefold.utils.errors import InputError


def build_net(**settings) -> Net:
    torch.manual_seed(0)
    recipe = parse_recipe("h", {"weights": "hub", "size": 64, **settings}, "h.toml")
    return build_model(recipe, pretrained=False)[0].eval()


def make_images(size: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalise(net: Net, images: torch.Tensor) -> torch.Tensor:
    return (images.permute(0, 3, 1, 2).float() - net.frozen_stages.mean) / net.frozen_stages.std


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"])
def test_a_head_reads_the_last_feature_map(backbone):
    net = build_net(backbone=backbone, head="flatten", freeze_backbone=True)
    with torch.inference_mode():
        expected = net.frozen_stages.stages[0].model.forward_features(normalise(net, make_images()))
        maps = net.frozen_stages(make_images())
        features = net(make_images())[1]
    assert maps.ndim == 4 and features.shape == (2, maps[0].numel())
    torch.testing.assert_close(maps.squeeze(3).transpose(1, 2) if expected.ndim == 3 else maps, expected)
    torch.testing.assert_close(features, maps.flatten(1))


def test_layers_without_weights_are_frozen_with_the_backbone():
    pooled = build_net(backbone="test_resnet", head="average, dense 8", freeze_backbone=True)
    with torch.inference_mode():
        activations = pooled.frozen_stages(make_images())
        maps = pooled.frozen_stages.stages[0](normalise(pooled, make_images()))
    assert activations.shape[2:] == (1, 1) and [type(part) for part in pooled.backbone] == [nn.Flatten, nn.Sequential]
    torch.testing.assert_close(activations, maps.mean((2, 3), keepdim=True))
    dropped = build_net(backbone="test_resnet", head="dropout 0.2, average", freeze_backbone=True)
    assert dropped.frozen_stages(make_images()).shape[2] > 1


def test_without_a_head_a_frozen_backbone_gives_the_pooling_of_timm():
    free, frozen = build_net(backbone="test_resnet"), build_net(backbone="test_resnet", freeze_backbone=True)
    with torch.inference_mode():
        torch.testing.assert_close(frozen(make_images())[1], free(make_images())[1])
    trained = [name for name, weight in frozen.named_parameters() if weight.requires_grad]
    assert trained == ["output.weight", "output.bias"]


@pytest.mark.parametrize(
    "backbone, head",
    [("test_resnet", ""), ("test_resnet", "average, dense 8"), ("test_convnext", ""), ("test_efficientnet", "")],
)
def test_taking_first_stages_out_changes_no_output(backbone, head):
    free = build_net(backbone=backbone, head=head)
    frozen = build_net(backbone=backbone, head=head, freeze_stages=2)
    assert frozen.has_frozen_stages and not free.has_frozen_stages
    with torch.inference_mode():
        torch.testing.assert_close(frozen(make_images())[1], free(make_images())[1])
    assert len(frozen.frozen_stages.stages) > 2 and frozen.frozen_stages(make_images()).shape[2] > 1


def test_a_backbone_that_is_no_chain_of_stages_is_refused():
    with pytest.raises(
        InputError,
        match=re.escape(
            "recipe h: the stem and first stages of vit_small_patch16_224 cannot be separated from the rest; "
            "set freeze_stages = 0"
        ),
    ):
        build_net(backbone="vit_small_patch16_224", freeze_stages=2)


def test_too_many_frozen_stages_are_refused():
    message = "freeze_stages = 7 does not fit tf_efficientnet_lite0, which has 7 stages"
    with pytest.raises(InputError, match=re.escape(message)):
        build_net(backbone="tf_efficientnet_lite0", freeze_stages=7)


def test_a_size_that_the_backbone_does_not_accept_is_named():
    with pytest.raises(InputError, match="the backbone does not accept 48 x 48 pixels: Input height"):
        build_net(backbone="vit_small_patch16_224", start_size=48)


def test_a_size_that_a_backbone_of_windows_does_not_accept_names_those_next_to_it():
    with pytest.raises(InputError) as caught:
        build_net(backbone="maxvit_rmlp_pico_rw_256", size=80)
    assert str(caught.value).startswith("the backbone does not accept 80 x 80 pixels: ")
    assert str(caught.value).endswith("; take a multiple of 32: 64 or 96")
