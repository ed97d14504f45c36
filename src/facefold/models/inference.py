"""Prediction in the fastest way whose probabilities agree with float32: batch norms fused, half precision."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from facefold.models.build import FrozenStages, Net
from facefold.models.precision import Precision

MAX_DIFFERENCE = 0.02  # largest difference of a probability from float32 on the rows that are checked
MAX_STAGES_DIFFERENCE = 0.05  # largest RMS difference of frozen stages' activations from float32, relative to their RMS


@dataclass(frozen=True)
class InferenceModel:
    """A forward method of a network in one number format, without gradients.

    forward: of a network in eval mode. fused: whether its batch norms are. difference: largest difference from plain
    float32 on the rows that were checked, 0 if none were. refused: one line per faster variant that differs too much.
    """

    forward: Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]
    precision: Precision
    fused: bool = False
    difference: float = 0.0
    refused: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The variant as run.json records it, for `rebuild_inference_model`."""
        return f"{self.precision.name} fused" if self.fused else self.precision.name

    @torch.inference_mode()
    def __call__(self, inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return what `forward` returns: of a `Net`, logits float32 (N,) or (N, C) and features float32 (N, F)."""
        with self.precision.autocast(inputs.device):
            return self.forward(inputs)


def fuse_batch_norm(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy of `model` in eval mode in which each batch norm after a convolution is fused into it.

    A forward pass of `example` shows which batch norm reads which convolution. A convolution that something else reads
    too changes for that reader as well, so callers compare the outputs.
    """
    model = copy.deepcopy(model).eval()
    outputs: dict[int, tuple[Tensor, nn.Module]] = {}  # holds the tensors, so that no id is used twice
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def keep_output(conv: nn.Module, _inputs: tuple, output: Tensor) -> None:
        outputs[id(output)] = (output, conv)

    def find_conv(norm: nn.Module, inputs: tuple) -> None:
        if id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][1], norm))

    modules = list(model.modules())
    hooks = [module.register_forward_hook(keep_output) for module in modules if isinstance(module, nn.Conv2d)]
    hooks += [module.register_forward_pre_hook(find_conv) for module in modules if isinstance(module, nn.BatchNorm2d)]
    with torch.inference_mode():
        (model.forward_inputs if isinstance(model, Net) else model)(example)
    for hook in hooks:
        hook.remove()
    parents = {id(child): (module, name) for module in modules for name, child in module.named_children()}
    for conv, norm in pairs:
        rest = nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)))  # timm's
        for old, new in ((conv, fuse_conv_bn_eval(conv, norm)), (norm, rest)):
            parent, name = parents[id(old)]
            setattr(parent, name, new)
    return model


def select_inference_model(
    net: Net,
    half: Precision | None,
    inputs: Tensor,
    postprocess: Callable[[Tensor], Tensor] = Tensor.sigmoid,
    difference_format: str = "a probability of {:.3f}",
) -> InferenceModel:
    """Return the first inference model of `net` that agrees with float32 within `MAX_DIFFERENCE` on `inputs`.

    Tried in this order, from fast to slow: half precision with batch norms fused, float32 with them fused, plain
    float32. For a CPU: on a GPU the network predicts as it trains, see `training_form`.

    Args:
        net: The trained network.
        half: The format from `half_precision`; None to try float32 only.
        inputs: A few dozen rows of what `Net.forward_inputs` takes.
        postprocess: Maps outputs (N,) or (N, C) to what is compared, such as probabilities, of the same shape.
        difference_format: How a line in `refused` states the largest difference.
    """
    plain = Precision(torch.float32, net.channels_last)
    reference = InferenceModel(net.eval().forward_inputs, plain)
    forward, expected = fuse_batch_norm(net, inputs[:2]).forward_inputs, postprocess(reference(inputs)[0])
    refused: list[str] = []
    for precision in (half, plain) if half else (plain,):
        model = InferenceModel(forward, precision, fused=True)
        largest = float((postprocess(model(inputs)[0]) - expected).abs().max())
        if largest <= MAX_DIFFERENCE:
            return replace(model, difference=largest, refused=tuple(refused))
        refused.append(
            f"{model.name} inference differs from float32 by {difference_format.format(largest)} "
            f"(bound {MAX_DIFFERENCE:g}); it is not used"
        )
    return replace(reference, refused=tuple(refused))


def training_form(net: Net, precision: Precision) -> InferenceModel:
    """Return the network in the format it trained in: on a GPU other forms are hardly faster."""
    return InferenceModel(net.eval().forward_inputs, precision)


def rebuild_inference_model(net: Net, name: str, inputs: Tensor) -> InferenceModel:
    """Return the inference model of `net` that run.json records as `name`, without a comparison with float32.

    inputs: one row or more of what `Net.forward_inputs` takes. On the CPU, which lacks float16, float16 becomes
    float32.
    """
    dtype, layout, *fused = name.split()
    dtype = "float32" if dtype == "float16" and inputs.device.type == "cpu" else dtype
    precision = Precision(getattr(torch, dtype), layout == "channels_last")
    net = fuse_batch_norm(net, inputs[:2]) if fused else net.eval()
    return InferenceModel(net.forward_inputs, precision, fused=bool(fused))


def fuse_frozen_stages(stages: FrozenStages, images: Tensor, precision: Precision) -> Callable[[Tensor], Tensor]:
    """Return the frozen stages with batch norms fused, in `precision` if that agrees with float32.

    `images` uint8 (N, H, W, 3), a few dozen, are compared: fusing may change no more than rounding, half precision at
    most `MAX_STAGES_DIFFERENCE`. What differs more is not used.
    """
    fused = fuse_batch_norm(stages, images[:2])
    with torch.inference_mode():
        expected = stages.eval()(images)
        if not torch.allclose(fused(images), expected, rtol=1e-3, atol=1e-3):
            return stages
        if precision.dtype is torch.float32:
            return fused
        model = InferenceModel(fused, precision)
        difference = float((model(images).float() - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    if difference <= MAX_STAGES_DIFFERENCE:  # not where it is nan
        return model
    print(
        f"the frozen stages in {precision.name} differ from float32 by {difference:.3f} of their RMS "
        f"(bound {MAX_STAGES_DIFFERENCE:g}); float32 is used",
        flush=True,
    )
    return fused
