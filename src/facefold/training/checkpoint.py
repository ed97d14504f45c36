"""The state of a fold's training after an epoch, in one file that is there whole or not at all.

The file is a line with the sha256 (hex) of what follows, then a dict as `torch.save` writes it: meta, the fields of
`CheckpointMeta` and of the run's identity; model, ema and best, trainable state dicts; soup, those of the last epochs
by epoch; optimizer, its state.
"""

import hashlib
import io
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from pickle import UnpicklingError

import torch

from facefold.utils.errors import InputError
from facefold.utils.files import atomic_path


@dataclass
class CheckpointMeta:
    """What a checkpoint says of itself.

    history: one row per finished epoch. scaler: state of the gradient scaler. weights_source: where the pretrained
    weights came from ({source, sha256}). precision: number format and device type. repeated_epoch: the epoch (from 0)
    that was repeated because its loss was not finite. accumulate: parts of a batch. cpu_seconds: of the finished
    epochs.
    """

    history: list[dict] = field(default_factory=list)
    scaler: dict = field(default_factory=dict)
    weights_source: dict | None = None
    precision: str | None = None
    repeated_epoch: int | None = None
    accumulate: int = 1
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after an epoch; identity: see `runs.Identity`.

    state: part (model, ema, best, soup, optimizer) -> state dict, or state dicts by epoch, on the CPU.
    """

    identity: dict
    meta: CheckpointMeta
    state: dict[str, dict]


def save_checkpoint(path: Path, identity: dict, meta: CheckpointMeta, state: dict[str, dict]) -> None:
    """Write a checkpoint atomically."""
    buffer = io.BytesIO()
    torch.save({"identity": identity, "meta": asdict(meta), **state}, buffer)
    content = buffer.getbuffer()
    with atomic_path(path) as temporary, open(temporary, "wb") as out:
        out.write(hashlib.sha256(content).hexdigest().encode() + b"\n")
        out.write(content)


def load_checkpoint(path: Path) -> Checkpoint | None:
    """Load a checkpoint, None where there is none. Raise `InputError` if any byte of the file is damaged."""
    if not path.exists():
        return None
    digest, _, content = path.read_bytes().partition(b"\n")
    try:
        if digest != hashlib.sha256(content).hexdigest().encode():
            raise ValueError("its checksum differs")
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        meta = {field.name: loaded["meta"][field.name] for field in fields(CheckpointMeta)}
        state = {name: value for name, value in loaded.items() if name not in ("identity", "meta")}
        return Checkpoint(loaded["identity"], CheckpointMeta(**meta), state)
    except (ValueError, KeyError, UnpicklingError, RuntimeError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it, and that fold starts again") from error
