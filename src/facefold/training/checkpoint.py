"""Where a fold's training stands, in one safetensors file that is there whole or not at all.

Tensors: `model.*`, `ema.*`, `best.*`, `optimizer.<group>.<parameter>.<name>`. Header: one json object under "state" (identity,
epochs done, history, gradient scaler), and the checksum of all of it under "sha256".
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as packed
from torch import Tensor

from facefold.utils.errors import InputError
from facefold.utils.files import atomic_path


def save_checkpoint(path: Path, header: dict, parts: dict[str, dict[str, Tensor]]) -> None:
    """Write `parts` (prefix -> name -> tensor) and the header, atomically."""
    tensors = {
        f"{prefix}.{name}": value.detach().cpu().contiguous().clone()
        for prefix, state in parts.items()
        for name, value in state.items()
    }
    state = json.dumps(header)
    content = packed(tensors, {"state": state, "sha256": _digest(state, sorted(tensors.items()))})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)  # safetensors' own writing tells a full disk as an error of its own kind


def load_checkpoint_header(path: Path) -> dict | None:
    """The header of a checkpoint, None where there is none. `InputError` when any byte of the file is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as opened:
            facts = opened.metadata()
            found = _digest(facts["state"], ((name, opened.get_tensor(name)) for name in sorted(opened.keys())))
        if facts.get("sha256", found) != found:  # one from before there were checksums has none
            raise ValueError("its checksum differs")
        return json.loads(facts["state"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it, and that fold starts anew")


def load_checkpoint_part(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors saved under `prefix`, on the CPU."""
    with safe_open(path, "pt") as opened:
        return {
            name.removeprefix(f"{prefix}."): opened.get_tensor(name)
            for name in opened.keys()
            if name.startswith(f"{prefix}.")
        }


def _digest(state: str, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Sha256 of a header and of tensors with their names, types and shapes, sorted by name."""
    found = hashlib.sha256(state.encode("utf-8"))
    for name, value in tensors:
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, flat: `<parameter number>.<name>` -> tensor. Rates and decays are the recipe's, not state."""
    return {
        f"{number}.{name}": value
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put what `optimizer_tensors` gave back into a fresh optimiser over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            if value.shape == parameter.shape:  # saved contiguous; the parameter may be channels_last
                held[name] = torch.empty_like(parameter).copy_(value)
