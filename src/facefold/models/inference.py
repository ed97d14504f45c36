"""Prediction in the fastest form whose probabilities agree with float32: batch norms folded, half precision."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from facefold.models.build import Net
from facefold.models.precision import Precision

BOUND = 0.02  # largest difference of a probability from float32 on the slice that is checked
TRUNK_BOUND = 0.05  # root mean square difference of a frozen part's activations from float32, as a share of theirs


@dataclass(frozen=True)
class InferenceModel:
    """A network as it predicts. name: for run.json; difference: from plain float32 on the slice that was checked."""

    net: nn.Module
    fmt: Precision
    name: str
    difference: float

    @torch.inference_mode()
    def __call__(self, shown: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 (N,) and features float32 (N, F) of what a `Net` takes."""
        with autocast(shown.device, self.fmt):
            return self.net(shown)


def autocast(device: torch.device, fmt: Precision) -> torch.autocast:
    return torch.autocast(device.type, fmt.dtype, enabled=fmt.dtype is not torch.float32)


def fuse_batch_norm(net: nn.Module, example: Tensor) -> nn.Module:
    """A copy of `net` in eval mode with each batch norm that follows a convolution folded into it (frozen or not).

    Which batch norm follows which convolution is read off one forward pass of `example`; a convolution whose output goes elsewhere as
    well would be changed for it, too, so whoever calls compares the outcome.
    """
    net = copy.deepcopy(net).eval()
    made: dict[int, tuple[Tensor, nn.Module]] = {}
    pairs: list[tuple[nn.Module, nn.BatchNorm2d]] = []

    def convolved(conv: nn.Module, _inputs: tuple, output: Tensor) -> None:
        made[id(output)] = (output, conv)

    def normalising(norm: nn.Module, inputs: tuple) -> None:
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][1], norm))

    hooks = [module.register_forward_hook(convolved) for module in net.modules() if isinstance(module, nn.Conv2d)]
    hooks += [
        module.register_forward_pre_hook(normalising) for module in net.modules() if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.inference_mode():
        net(example)
    for hook in hooks:
        hook.remove()
    places = {id(child): (module, name) for module in net.modules() for name, child in module.named_children()}
    for conv, norm in pairs:
        _put(places, conv, fuse_conv_bn_eval(conv, norm))
        _put(places, norm, nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name))))
    return net


def _put(places: dict[int, tuple[nn.Module, str]], old: nn.Module, new: nn.Module) -> None:
    parent, name = places[id(old)]
    setattr(parent, name, new)


def fastest_inference_model(
    net: Net,
    fmt: Precision,
    half: Precision | None,
    shown: Tensor,
    say: Callable[[str], None],
    read: Callable[[Tensor], Tensor] = Tensor.sigmoid,
    difference: str = "a probability of {:.3f}",
) -> InferenceModel:
    """The first of `half` with batch norms folded, float32 with them folded and float32 without whose probabilities on `shown`
    (what the net takes, a few dozen rows) differ by at most `BOUND` from the last one's.

    half: `precision.half`, None to do without. `say` is told of each form that does not agree. read: what is made of the outputs
    (N,), if not probabilities; `difference` says by how much that differs.
    """
    plain = Precision(torch.float32, fmt.channels_last)
    reference = InferenceModel(net.eval(), plain, plain.name, 0.0)
    folded, expected = fuse_batch_norm(net, shown[:2]), read(reference(shown)[0])
    for tried in ([half] if half else []) + [plain]:
        form = InferenceModel(folded, tried, f"{tried.name} fused", 0.0)
        largest = float((read(form(shown)[0]) - expected).abs().max())
        if largest <= BOUND:
            return InferenceModel(folded, tried, form.name, largest)
        say(
            f"{form.name} inference differs from float32 by {difference.format(largest)} (bound {BOUND:g}); it is not used"
        )
    return reference


def rebuild_inference_model(net: Net, name: str, shown: Tensor) -> InferenceModel:
    """The form that `fastest` called `name`, without comparing anew; `shown` is what the net takes, one row or more. float16, which
    the CPU has no units for, becomes float32 there."""
    dtype, layout, *folded = name.split()
    dtype = "float32" if dtype == "float16" and shown.device.type == "cpu" else dtype
    fmt = Precision(getattr(torch, dtype), layout == "channels_last")
    return InferenceModel(
        fuse_batch_norm(net, shown[:2]) if folded else net.eval(), fmt, " ".join([fmt.name, *folded]), float("nan")
    )


def fuse_frozen_stages(trunk: nn.Module, pixels: Tensor, half: Precision | None = None) -> Callable[[Tensor], Tensor]:
    """The frozen part with its batch norms folded, in `half` precision where that is given; the second, then the first left out
    where what it makes of `pixels` (at most a few dozen images) differs from the frozen part as it is.

    Folding is to change no more than rounding does, half precision at most `TRUNK_BOUND` by root mean square.
    """
    folded = fuse_batch_norm(trunk, pixels[:2])
    with torch.inference_mode():
        expected = trunk.eval()(pixels)
        if not torch.allclose(folded(pixels), expected, rtol=1e-3, atol=1e-3):
            return trunk
        if half:
            form = HalfPrecisionStages(folded, half)
            difference = float((form(pixels) - expected).square().mean().sqrt() / expected.square().mean().sqrt())
            if difference <= TRUNK_BOUND:  # also where it is not a number
                return form
            print(
                f"the frozen part in {half.name} differs from float32 by {difference:.3f} of its size (bound {TRUNK_BOUND:g}); "
                "float32 it is",
                flush=True,
            )
    return folded


@dataclass(frozen=True)
class HalfPrecisionStages:
    """A frozen part as it computes in half precision; float32 comes out."""

    trunk: nn.Module
    fmt: Precision

    def __call__(self, pixels: Tensor) -> Tensor:
        with autocast(pixels.device, self.fmt):
            return self.trunk(pixels).float()
