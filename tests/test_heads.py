import re

import pytest
import torch
from torch import nn

from facefold.models.heads import build_head, parse_head
from facefold.models.recipe import parse_recipe
from facefold.utils.errors import InputError

MAP = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(0))


def build(head: str) -> nn.Sequential:
    return build_head(parse_head(head), MAP).eval()


def test_layers_do_what_they_are_called():
    rows = torch.cat([MAP, 2 * MAP])
    torch.testing.assert_close(build("average")(rows), rows.mean((2, 3)))
    torch.testing.assert_close(
        build("pool, flatten")(rows), rows.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)).flatten(1)
    )
    assert torch.equal(build("dropout 0.5, flatten")(rows), rows.flatten(1))
    conv, _, _ = net = build("conv 5, pool, flatten")
    assert net(rows).shape == (2, 5 * 2 * 2) and conv[0].kernel_size == (3, 3)
    dense, norm = build("flatten, dense 7, norm")[1:]
    assert dense[0].in_features == 96 and isinstance(norm, nn.BatchNorm1d) and norm.num_features == 7
    assert isinstance(build("norm, average")[0], nn.BatchNorm2d)
    assert build("flatten, dropout 0.25").train()[1].p == 0.25


def test_no_head_is_no_layer():
    assert parse_head("") == [] and parse_head("average,dense 8") == [("average", 0.0), ("dense", 8.0)]


@pytest.mark.parametrize(
    "head, message",
    [
        (
            "average, dense",
            "head has no layer 'dense'; there are: average, pool, flatten, norm, conv N, dense N, "
            "dropout P (P below 1)",
        ),
        ("average 3", "head has no layer 'average 3'"),
        ("dropout 1.0, average", "head has no layer 'dropout 1.0'"),
        ("average, dense 0.5", "head has no layer 'dense 0.5'"),
        ("gap, dense 8", "head has no layer 'gap'"),
        ("conv 8, pool", "head has neither average nor flatten: the output needs one vector per image"),
        ("dense 8, flatten", "head has dense before flatten"),
        ("flatten, conv 8", "head has conv after flatten"),
        ("flatten, average", "head has average after flatten"),
    ],
)
def test_a_head_without_meaning_is_refused(head, message):
    with pytest.raises(InputError, match=re.escape(f"h.toml is not a recipe:\n  - {message}")):
        parse_recipe("h", {"backbone": "resnet18", "head": head}, "h.toml")


def test_a_map_too_small_is_named():
    with pytest.raises(InputError, match="the head's pool does not fit a map of 1 x 1"):
        build("pool, pool, pool, flatten")
