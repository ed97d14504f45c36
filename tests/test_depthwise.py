import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn
from torch.nn.functional import conv2d

from facefold.models.build import build_model
from facefold.models.depthwise import Depthwise, replace_depthwise, weight_gradient
from facefold.models.recipe import load_recipe


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_each_tap_of_the_weight_gradient_by_hand():
    """One channel, an output gradient of a single 1: the gradient of the weight is the window of the input under it."""
    x = torch.arange(49.0).view(1, 1, 7, 7).repeat(1, 2, 1, 1)
    x[:, 1] += 100
    grad = torch.zeros(1, 2, 7, 7)
    grad[0, 0, 3, 2] = 1
    gradient = weight_gradient(grad, x, torch.zeros(2, 1, 5, 5), (1, 1), (2, 2))
    assert torch.equal(gradient[0, 0], x[0, 0, 1:6, 0:5]) and not gradient[1].any()
    grad[0, 0, 3, 2], grad[0, 0, 0, 0] = 0, 1  # at the corner two rows and columns of padding are zero
    gradient = weight_gradient(grad, x, torch.zeros(2, 1, 5, 5), (1, 1), (2, 2))
    assert torch.equal(gradient[0, 0, 2:, 2:], x[0, 0, :3, :3])
    assert not gradient[0, 0, :2].any() and not gradient[0, 0, :, :2].any()


@pytest.mark.parametrize("taps", [3, 4, 5, 6, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_those_of_torch(taps, stride):
    x, weight = draw(3, 8, 11, 9).double().requires_grad_(), draw(8, 1, taps, taps).double().requires_grad_()
    conv = nn.Conv2d(8, 8, taps, stride, taps // 2, groups=8, bias=False).double()
    conv.weight = nn.Parameter(weight.detach().clone())
    expected = conv2d(x, weight, None, stride, taps // 2, 1, 8)
    pull = draw(*expected.shape).double()
    expected_gradients = torch.autograd.grad(expected, (x, weight), pull)
    depthwise = Depthwise(conv)
    output = depthwise(x)
    torch.testing.assert_close(output, expected)
    gradients = torch.autograd.grad(output, (x, depthwise.weight), pull)
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_same_padding_is_timms():
    conv = Conv2dSame(6, 6, 5, stride=2, groups=6, bias=False)
    x = draw(2, 6, 10, 10)
    torch.testing.assert_close(Depthwise(conv)(x), conv(x))


def test_strided_ones_stay_in_float32():
    x = draw(2, 6, 10, 10)
    with torch.autocast("cpu", torch.bfloat16):
        dtypes = [Depthwise(nn.Conv2d(6, 6, 5, stride, 2, groups=6, bias=False))(x).dtype for stride in (1, 2)]
    assert dtypes == [torch.bfloat16, torch.float32]


def test_only_convolutions_that_become_faster_are_replaced_and_names_stay():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 5, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, stride=2, groups=4, bias=False),
        nn.Conv2d(4, 8, 5, groups=4, bias=False),
        nn.Conv2d(4, 4, 5, bias=False),
        nn.Conv2d(4, 4, 5, groups=4),
        nn.Conv2d(4, 4, 5, dilation=2, groups=4, bias=False),
    )
    names, weight = list(model.state_dict()), model[0].weight
    replace_depthwise(model)
    assert [type(module) is Depthwise for module in model] == [True, False, True, False, False, False, False]
    assert list(model.state_dict()) == names and model[0].weight is weight


def test_a_network_trains_the_same_in_bfloat16():
    """Against the same network in float32: the gradients differ by bfloat16's rounding, no more than without the
    replacement.
    """

    def gradients(replaced: bool, dtype: torch.dtype) -> torch.Tensor:
        torch.manual_seed(0)
        net, _ = build_model(load_recipe("demo_lite0"), pretrained=False)
        if replaced:
            replace_depthwise(net)
        net.set_memory_format(channels_last=True).eval()
        pixels = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            logits, _ = net(pixels)
        logits.sum().backward()
        return torch.cat([parameter.grad.flatten() for parameter in net.parameters() if parameter.grad is not None])

    exact, plain, ours = (
        gradients(False, torch.float32),
        gradients(False, torch.bfloat16),
        gradients(True, torch.bfloat16),
    )
    assert (ours - exact).norm() < 1.2 * (plain - exact).norm() + 1e-3 * exact.norm()
    torch.testing.assert_close(gradients(True, torch.float32), exact, rtol=1e-3, atol=1e-4)
