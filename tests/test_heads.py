import re

import pytest
import torch
from torch import nn

from facefold.models.build import Net, build_model
from facefold.models.heads import build_head, parse_head
from facefold.models.recipe import parse_recipe
from facefold.utils.errors import InputError

MAP = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(0))


def built(head: str, example: torch.Tensor = MAP) -> nn.Sequential:
    return build_head(parse_head(head), example).eval()


def test_layers_do_what_they_are_called():
    rows = torch.cat([MAP, 2 * MAP])
    torch.testing.assert_close(built("average")(rows), rows.mean((2, 3)))
    torch.testing.assert_close(
        built("pool, flatten")(rows), rows.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)).flatten(1)
    )
    assert torch.equal(built("dropout 0.5, flatten")(rows), rows.flatten(1))
    conv, _, _ = net = built("conv 5, pool, flatten")
    assert net(rows).shape == (2, 5 * 2 * 2) and conv[0].kernel_size == (3, 3)
    dense, norm = built("flatten, dense 7, norm")[1:]
    assert dense[0].in_features == 96 and isinstance(norm, nn.BatchNorm1d) and norm.num_features == 7
    assert isinstance(built("norm, average")[0], nn.BatchNorm2d)
    assert built("flatten, dropout 0.25").train()[1].p == 0.25


def test_no_head_is_no_layer():
    assert parse_head("") == [] and parse_head("average,dense 8") == [("average", 0.0), ("dense", 8.0)]


@pytest.mark.parametrize(
    "head, message",
    [
        (
            "average, dense",
            "head has no layer 'dense'; there are: average, pool, flatten, norm, conv N, dense N, dropout P (P below 1)",
        ),
        ("average 3", "head has no layer 'average 3'"),
        ("dropout 1.0, average", "head has no layer 'dropout 1.0'"),
        ("average, dense 0.5", "head has no layer 'dense 0.5'"),
        ("gap, dense 8", "head has no layer 'gap'"),
        ("conv 8, pool", "head has neither average nor flatten: the output needs one row of numbers an image"),
        ("dense 8, flatten", "head has dense before flatten"),
        ("flatten, conv 8", "head has conv after flatten"),
        ("flatten, average", "head has average after flatten"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(head, message):
    with pytest.raises(InputError, match=re.escape(f"h.toml is not a recipe:\n  - {message}")):
        parse_recipe("h", {"backbone": "resnet18", "head": head}, "h.toml")


def test_a_map_too_small_is_named():
    with pytest.raises(InputError, match="the head's pool does not fit a map of 1 x 1"):
        built("pool, pool, pool, flatten")


def network(**settings) -> Net:
    torch.manual_seed(0)
    return build_model(parse_recipe("h", {"weights": "hub", "size": 64, **settings}, "h.toml"), trained=False)[0].eval()


def pixels(count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"])
def test_what_is_read_of_a_backbone_is_its_last_map(backbone):
    size = 160 if backbone == "test_vit" else 64  # the only one it takes
    net = network(backbone=backbone, head="flatten", freeze_backbone=True, size=size)
    shown = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    maps = net.trunk.stages[0]
    x = (shown.permute(0, 3, 1, 2).float() - net.trunk.mean) / net.trunk.std
    with torch.inference_mode():
        expected = maps.model.forward_features(x)
        given = net.trunk(shown)
        features = net(shown)[1]
    assert given.ndim == 4 and features.shape == (2, given[0].numel())
    torch.testing.assert_close(given.squeeze(3).transpose(1, 2) if expected.ndim == 3 else given, expected)
    torch.testing.assert_close(features, given.flatten(1))


def test_layers_that_never_change_are_frozen_with_the_backbone():
    pooled = network(backbone="test_resnet", head="average, dense 8", freeze_backbone=True)
    with torch.inference_mode():
        shown = pooled.trunk(pixels())
        whole = pooled.trunk.stages[0]((pixels().permute(0, 3, 1, 2).float() - pooled.trunk.mean) / pooled.trunk.std)
    assert shown.shape[2:] == (1, 1) and [type(part) for part in pooled.backbone] == [nn.Flatten, nn.Sequential]
    torch.testing.assert_close(shown, whole.mean((2, 3), keepdim=True))
    assert (
        network(backbone="test_resnet", head="dropout 0.2, average", freeze_backbone=True).trunk(pixels()).shape[2] > 1
    )


def test_without_a_head_a_frozen_backbone_gives_the_pooling_of_timm():
    free, frozen = network(backbone="test_resnet"), network(backbone="test_resnet", freeze_backbone=True)
    with torch.inference_mode():
        torch.testing.assert_close(frozen(pixels())[1], free(pixels())[1])
    assert [name for name, weight in frozen.named_parameters() if weight.requires_grad] == [
        "output.weight",
        "output.bias",
    ]


@pytest.mark.parametrize(
    "backbone, head", [("test_resnet", ""), ("test_resnet", "average, dense 8"), ("test_convnext", "")]
)
def test_taking_first_stages_out_changes_no_output(backbone, head):
    free, parted = network(backbone=backbone, head=head), network(backbone=backbone, head=head, freeze_stages=2)
    with torch.inference_mode():
        torch.testing.assert_close(parted(pixels())[1], free(pixels())[1])
    assert len(parted.trunk.stages) > 2 and parted.trunk(pixels()).shape[2] > 1
