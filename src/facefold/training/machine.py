"""Memory and package versions of the process that trains."""

import re
import resource
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from facefold.models.build import build_model
from facefold.models.recipe import Recipe
from facefold.models.svm import KERNEL_BYTES

PROCESS_BYTES = 1 << 30  # memory of a process that has imported torch, timm and albumentations, and of what it read
CLASSIFIER_BYTES = PROCESS_BYTES + 2 * KERNEL_BYTES  # of one that fits a classifier: an SVM's largest kernel and parts
_RECORDED = ("torch", "timm", "numpy", "albumentations", "opencv-python-headless", "scikit-learn")


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MiB: the GPU's that torch allocated, or this process's resident with mapped pages."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage carries the parent's peak over to a child that was just started
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def reset_peak_memory(device: torch.device) -> None:
    """Measure the peak from now on: a worker's process trains one fold after another."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # some containers do not allow it, and other systems have no such file
        Path("/proc/self/clear_refs").write_text("5")


def versions() -> dict[str, str]:
    """Return the versions of the packages that shape a result, without those installed under another name."""
    recorded = {}  # opencv-python instead of opencv-python-headless, for one, is left out
    for name in _RECORDED:
        try:
            recorded[name] = version(name)
        except PackageNotFoundError:
            continue
    return recorded


def estimate_training_memory(recipe: Recipe) -> int:
    """Estimate the bytes of memory that a process needs to train the recipe on the CPU.

    Twice what autograd keeps of a batch in float32 (by a forward pass of two images), for gradients are as large; the
    weights, their gradients, moments and EMA. Of a classifier, whose rows are not known here, `CLASSIFIER_BYTES`.
    """
    if recipe.classifier:
        return CLASSIFIER_BYTES
    net, _ = build_model(recipe, pretrained=False)
    state = {value.data_ptr(): value.nbytes for value in net.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    images = torch.zeros(2, *recipe.shape, 3, dtype=torch.uint8)
    inputs = net.frozen_stages.eval()(images).permute(0, 2, 3, 1).detach() if net.has_frozen_stages else images
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net.train().forward_inputs(inputs)
    activations = sum(size for pointer, size in kept.items() if pointer not in state)
    return PROCESS_BYTES + activations * recipe.batch + (5 + 2 * recipe.soup) * sum(state.values())
