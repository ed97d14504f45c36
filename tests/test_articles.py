"""Every recipe of the articles takes a step: its network at a small size, with random weights."""

import dataclasses

import pytest
import torch

from facefold.models.profiles import PROFILES
from facefold.models.recipe import load_recipe
from facefold.training.fold import prepare_model, train_step

LEARNING = {  # what a step moves, each part by the first two parts of its name; 0 and on are the last block and the head's layers
    "cnn3": {"backbone.blocks", "backbone.dense", "output"},
    "cnn5": {"backbone.blocks", "backbone.dense", "output"},
    **dict.fromkeys(("vgg16", "vgg16_bn", "vgg19"), {"backbone.0", "backbone.2", "backbone.3", "output"}),
    "resnet50_conv": {"backbone.0", "backbone.3", "output"},
    "resnet50_scratch": {
        "output",
        *(f"backbone.{part}" for part in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")),
    },
    **dict.fromkeys(("resnet152v2_gap", "resnet101v2_gap"), {"output"}),
    "vgg16_age": {"backbone.2", "output"},
}


@pytest.mark.parametrize("name", LEARNING)
def test_a_step_moves_what_learns_and_nothing_else(name):
    torch.manual_seed(0)
    made = dataclasses.replace(load_recipe(name), size=64)
    net, _, fmt = prepare_model(made, torch.device("cpu"), None, trained=False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    pixels = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    optimizer = torch.optim.SGD([weight for weight in net.parameters() if weight.requires_grad], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    loss = train_step(net.train(), pixels, torch.tensor([0.0, 1, 0, 1]), optimizer, scaler, fmt, made)
    moved = {
        ".".join(key.split(".")[:2]) for key, value in net.state_dict().items() if not torch.equal(value, before[key])
    }
    assert (
        torch.isfinite(loss)
        and {part.removesuffix(".weight").removesuffix(".bias") for part in moved} == LEARNING[name]
    )
    assert net.frozen == made.freezes and sum(value.numel() for value in before.values()) < 70e6  # no VGG classifier


def test_the_profile_has_all_whose_weights_can_be_had():
    """timm's hub has none for resnetv2_152, whose recipe needs a file; vgg16_age is for --target age."""
    assert set(PROFILES["articles"]) == set(LEARNING) - {"resnet152v2_gap", "vgg16_age"}
