"""Depthwise convolutions whose gradients the CPU computes quickly in bfloat16.

oneDNN (with torch 2.15) has a vectorised weight gradient for 3 x 3 depthwise kernels only. Larger ones, half of
EfficientNet's, fall back to a loop that takes 40 to 120 times their forward pass. Here 3 x 3 tiles cover the taps of a
larger kernel, each the weight gradient of a 3 x 3 convolution of the shifted input: the same sums. The data gradient of
strided ones is slow as well; these stay in float32.

It pays: a training step of lite0 from pixels takes 110 images per CPU second with it, 37 with torch's own gradients in
bfloat16 (3.0 times) and 71 in float32 (1.5 times); see docs/results.md, measured with bench/steps.py.
"""

import torch
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

TILE = 3


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        with torch.autocast(x.device.type, enabled=False):  # the caller has chosen the dtype
            return conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x, *_ = _gradients(grad, x, weight, ctx.stride, ctx.padding, of_input=True)
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(grad, x, weight, ctx.stride, ctx.padding)
        return grad_x, grad_weight, None, None


def weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return the gradient (C, 1, kh, kw) of a depthwise convolution's weight.

    Args:
        grad: Gradient of the output (N, C, oh, ow).
        x: Input (N, C, h, w).
        weight: The weight (C, 1, kh, kw), for its shape.
        stride: Of the convolution, (rows, columns).
        padding: Of the convolution, (rows, columns).
    """
    if max(weight.shape[2:]) <= TILE:
        return _gradients(grad, x, weight, stride, padding)[1]
    (kh, kw), (ph, pw), (oh, ow) = weight.shape[2:], padding, grad.shape[2:]
    # Channels last, so that the copy of a tile's window has long runs.
    padded = pad(x.permute(0, 2, 3, 1), (0, 0, pw, pw, ph, ph))
    height, width = (oh - 1) * stride[0] + TILE, (ow - 1) * stride[1] + TILE
    total, tile = torch.empty_like(weight), weight.new_empty(x.shape[1], 1, TILE, TILE)
    for i in _tile_starts(kh):
        for j in _tile_starts(kw):
            window = padded[:, i : i + height, j : j + width].contiguous().permute(0, 3, 1, 2)
            gradient = _gradients(grad, window, tile, stride, (0, 0))[1]
            total[:, :, i : i + TILE, j : j + TILE] = gradient
    return total


def _tile_starts(taps: int) -> list[int]:
    """Return where the tiles along one side begin; the last may overlap its neighbour, whose sums are the same."""
    return [*range(0, taps - TILE, TILE), taps - TILE]


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], of_input: bool = False
) -> tuple[Tensor, ...]:
    mask = [of_input, not of_input, False]
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), mask
    )


class Depthwise(nn.Conv2d):
    """Replacement of a depthwise `nn.Conv2d` or timm `Conv2dSame` without bias and dilation, with the same weight."""

    def __init__(self, conv: nn.Conv2d):
        self.same = isinstance(conv, Conv2dSame)
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            0 if self.same else conv.padding,
            groups=conv.groups,
            bias=False,
        )
        self.weight = conv.weight

    def forward(self, x: Tensor) -> Tensor:
        if self.same:
            x = pad_same(x, self.kernel_size, self.stride)
        if self.bias is not None or not torch.is_grad_enabled():  # a fused batch norm leaves a bias
            return self._conv_forward(x, self.weight, self.bias)
        weight = self.weight
        if torch.is_autocast_enabled(x.device.type):
            # Strided ones stay in float32: their data gradient in bfloat16 is another slow loop.
            dtype = torch.get_autocast_dtype(x.device.type) if self.stride == (1, 1) else torch.float32
            x, weight = x.to(dtype), weight.to(dtype)
        return _Depthwise.apply(x, weight, self.stride, self.padding)


def replace_depthwise(model: nn.Module) -> None:
    """Replace each convolution that is faster as a `Depthwise` in bfloat16 on the CPU; names in the state stay."""
    for module in model.modules():
        for name, conv in list(module.named_children()):
            if isinstance(conv, nn.Conv2d) and _is_faster(conv):
                setattr(module, name, Depthwise(conv))


def _is_faster(conv: nn.Conv2d) -> bool:
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    slow = min(conv.kernel_size) > TILE or (min(conv.kernel_size) == TILE and conv.stride != (1, 1))
    plain = conv.dilation == (1, 1) and conv.bias is None and conv.padding_mode == "zeros"
    return depthwise and slow and plain and not isinstance(conv.padding, str)
