"""Which parameters decay and how fast each layer learns, by hand on a small transformer and on a CNN of our own."""

import pytest
import torch

from facefold.models.build import Net, build_model
from facefold.models.recipe import Recipe, parse_recipe
from facefold.training.optimizer import make_optimizer, parameter_groups
from facefold.training.schedule import Schedule
from facefold.utils.errors import InputError

VIT = {"backbone": "vit_tiny_patch16_224", "size": 224, "weight_decay": 0.05}


def build(settings: dict) -> tuple[Net, Recipe]:
    recipe = parse_recipe("r", settings, "r.toml")
    return build_model(recipe)[0], recipe


def by_name(net: Net, groups: list[dict], key: str) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return {names[id(parameter)]: group[key] for group in groups for parameter in group["params"]}


def test_norms_biases_and_position_embeddings_do_not_decay():
    net, recipe = build(VIT)
    groups = parameter_groups(net, recipe)
    assert len(groups) == 2 and {group["lr_scale"] for group in groups} == {1.0}
    decays = by_name(net, groups, "weight_decay")
    assert decays.keys() == dict(net.named_parameters()).keys()
    assert {name for name, decay in decays.items() if not decay} == {
        name for name in decays if name.endswith("bias") or ".norm" in name or name[9:] in ("pos_embed", "cls_token")
    }
    assert {decay for decay in decays.values() if decay} == {0.05}


def test_without_weight_decay_there_is_one_group():
    net, recipe = build({"backbone": "cnn3", "size": 32, "weight_decay": 0.0})
    assert [len(group["params"]) for group in parameter_groups(net, recipe)] == [len(list(net.parameters()))]


def test_each_layer_learns_more_slowly_than_the_next_and_the_head_at_its_own_rate():
    net, recipe = build({**VIT, "layer_decay": 0.5, "head_lr": 10.0})
    scales = by_name(net, parameter_groups(net, recipe), "lr_scale")
    assert scales.keys() == dict(net.named_parameters()).keys()
    # The patches, then twelve blocks; the norm at the end belongs to the last one.
    assert scales["backbone.patch_embed.proj.weight"] == scales["backbone.pos_embed"] == 0.5**12
    assert [scales[f"backbone.blocks.{block}.attn.qkv.weight"] for block in (0, 10, 11)] == [0.5**11, 0.5, 1]
    assert scales["backbone.norm.weight"] == 1 and scales["output.weight"] == scales["output.bias"] == 10


def test_the_head_of_an_own_cnn_is_its_output():
    net, recipe = build({"backbone": "cnn3", "size": 32, "head_lr": 3.0})
    scales = by_name(net, parameter_groups(net, recipe), "lr_scale")
    assert {name for name, scale in scales.items() if scale == 3} == {"output.weight", "output.bias"}
    assert set(scales.values()) == {1.0, 3.0}


def test_layers_before_a_head_of_layers():
    net, recipe = build(
        {"backbone": "face_resnet", "size": 112, "head": "average, norm", "layer_decay": 0.5, "head_lr": 2.0}
    )
    scales = by_name(net, parameter_groups(net, recipe), "lr_scale")
    # Fourteen blocks: the last learns at the rate itself.
    assert scales["backbone.0.model.layer5.0.conv1.weight"] == 1
    assert (
        scales["backbone.0.model.layer4.2.conv1.weight"] == 0.5 and scales["backbone.0.model.conv1.weight"] == 0.5**14
    )
    assert {scale for name, scale in scales.items() if not name.startswith("backbone.0.")} == {2.0}


@pytest.mark.parametrize(
    "schedule, rates",
    [
        # Of 8 steps the first two warm up: from 0.01 of the rate in the cosine, in thirds in the others.
        ({"schedule": "cosine"}, [0.01, 0.505]),
        ({"schedule": "constant"}, [1 / 3, 2 / 3]),
        ({"schedule": "plateau", "monitor": 0.1}, [1 / 3, 2 / 3]),
    ],
)
def test_every_schedule_gives_each_group_its_share_of_the_rate(schedule, rates):
    net, recipe = build(
        {"backbone": "cnn3", "size": 32, "lr": 0.1, "head_lr": 3.0, "epochs": 2, "warmup": 0.5, **schedule}
    )
    optimizer = make_optimizer(net, recipe, torch.device("cpu"))
    replayed = Schedule(recipe, optimizer, 4)
    for step, share in enumerate(rates):
        replayed.before_step(step)
        assert replayed.rate == pytest.approx(0.1 * share)
        rates_of_groups = [group["lr"] / group["lr_scale"] for group in optimizer.param_groups]
        assert rates_of_groups == pytest.approx([0.1 * share] * 4)
    assert {group["lr_scale"] for group in optimizer.param_groups} == {1.0, 3.0}
    for step in range(len(rates), 4):
        replayed.before_step(step)
    if schedule["schedule"] != "cosine":
        assert replayed.rate == pytest.approx(0.1)


def test_layers_that_do_not_learn_have_no_decay_of_rates():
    for settings, message in (
        ({"backbone": "cnn3", "layer_decay": 0.9}, "layer_decay is for a backbone of timm that learns"),
        ({**VIT, "layer_decay": 1.1}, "layer_decay is at most 1: earlier layers learn more slowly"),
        ({**VIT, "head_lr": 0.0}, "head_lr = 0.0 should be above 0"),
    ):
        with pytest.raises(InputError) as caught:
            parse_recipe("r", settings, "r.toml")
        assert str(caught.value) == f"r.toml is not a recipe:\n  - {message}"


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_on_a_gpu_a_step_can_be_recorded_and_momentum_begins_at_zero(name):
    """The fused SGD leaves its momentum undefined where the first gradient of float16 overflows."""
    recipe = parse_recipe("r", {"size": 32, "width": 4, "optimizer": name, "lr": 0.1}, "r.toml")
    optimizer = make_optimizer(build_model(recipe)[0], recipe, torch.device("cuda"))
    assert optimizer.defaults["fused"] and optimizer.defaults.get("capturable", True)
    momentum = [state["momentum_buffer"] for state in optimizer.state.values()]
    assert len(momentum) == (sum(len(group["params"]) for group in optimizer.param_groups) if name == "sgd" else 0)
    assert not any(buffer.any() for buffer in momentum)
