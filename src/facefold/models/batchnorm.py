"""Batch norm of a network that several processes train together: its means and variances are those of the whole batch."""

from copy import deepcopy

from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from facefold.models.build import Net


def learns(net: Net) -> bool:
    """Whether a part of `net` that is not frozen has batch norm."""
    return any(isinstance(module, _BatchNorm) for module in net.backbone.modules())


def synchronised(net: Net) -> nn.Module:
    """`net` itself where it has no batch norm to learn; else a twin for its training steps, with the same parameters and running
    statistics in memory and torch's SyncBatchNorm, which works on GPUs alone. What is scored, saved and predicts stays `net`,
    whose batch norm can be folded.

    By timm's conversion: torch's drops the activations that timm's own batch norm layers end in.
    """
    if not learns(net):
        return net
    shared = {id(value): value for value in [*net.parameters(), *net.buffers()]}
    twin = deepcopy(net, shared)
    twin.backbone = convert_sync_batchnorm(twin.backbone)
    return twin.train()
