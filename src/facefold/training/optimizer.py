"""The recipe's optimiser: which parameters decay, and at which share of the learning rate each layer learns."""

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2

from facefold.models.build import Net
from facefold.models.recipe import Recipe


def make_optimizer(model: Net, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """Return timm's optimiser over the groups of `parameter_groups`; on a GPU its step can be recorded."""
    on_gpu, adamw = device.type == "cuda", recipe.optimizer == "adamw"
    optimizer = create_optimizer_v2(
        parameter_groups(model, recipe),
        opt=recipe.optimizer,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        **({"fused": True} if on_gpu else {}),
        **({"capturable": True} if on_gpu and adamw else {}),
    )
    if on_gpu and adamw:
        optimizer._warned_capturable_if_run_uncaptured = True  # the first steps are not recorded
    elif on_gpu:
        # The fused one leaves its momentum undefined if the first gradient of float16 overflows.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def parameter_groups(model: Net, recipe: Recipe) -> list[dict]:
    """Return what trains in groups of one `weight_decay` and one `lr_scale`, the share of the learning rate.

    Biases, norms and what timm's backbone excepts, such as position embeddings, do not decay. The last layer of the
    backbone learns at the recipe's rate, each one before at `layer_decay` times that of the next (Clark et al. 2020,
    ELECTRA; layers are timm's groups), the head and the output at `head_lr` times the rate.
    """
    backbones = [(name, module) for name, module in model.named_modules() if hasattr(module, "pretrained_cfg")]
    prefix, backbone = backbones[0] if backbones else ("backbone", None)  # cnn3 and cnn5 are not timm's
    excepted = {f"{prefix}.{name}" for name in getattr(backbone, "no_weight_decay", set)()}
    layers = {}
    if recipe.layer_decay < 1:
        numbers = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
        layers = {f"{prefix}.{name}": max(numbers.values()) - number for name, number in numbers.items()}

    groups: dict[tuple[float, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        own = parameter.ndim <= 1 or name.endswith(".bias") or name in excepted
        decays = recipe.weight_decay > 0 and not own
        inside = name.startswith(f"{prefix}.")
        scale = recipe.layer_decay ** layers.get(name, 0) if inside else recipe.head_lr
        settings = {"params": [], "weight_decay": recipe.weight_decay if decays else 0.0, "lr_scale": scale}
        groups.setdefault((scale, decays), settings)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]
