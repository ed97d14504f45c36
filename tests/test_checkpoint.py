"""The checkpoint: whole or refused."""

import pytest
import torch

from facefold.training.checkpoint import CheckpointMeta, load_checkpoint, save_checkpoint
from facefold.utils.errors import InputError

STATE = {
    "model": {"a": torch.arange(6.0).view(2, 3), "c": torch.ones(2, dtype=torch.bfloat16)},
    "optimizer": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2, 3)}},
}
META = CheckpointMeta([{"epoch": 0, "monitor_loss": None}], {}, {"source": "none"}, "float32 on cpu", None, 2, 1.5)


def test_it_is_loaded_as_it_was_saved(tmp_path):
    path = tmp_path / "c.pt"
    assert load_checkpoint(path) is None
    save_checkpoint(path, {"recipe": "tiny", "seed": 0}, META, STATE)
    loaded = load_checkpoint(path)
    assert loaded.identity == {"recipe": "tiny", "seed": 0} and loaded.meta == META
    assert all(torch.equal(loaded.state["model"][name], value) for name, value in STATE["model"].items())
    assert torch.equal(loaded.state["optimizer"][0]["step"], torch.tensor(3.0))


def test_memory_layout_is_kept(tmp_path):
    weight = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "c.pt", {}, META, {"model": {"w": weight}})
    assert load_checkpoint(tmp_path / "c.pt").state["model"]["w"].stride() == weight.stride()


def test_any_damaged_byte_is_found(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {}, META, STATE)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(InputError, match="c.pt is damaged .*; delete it, and that fold starts again"):
            load_checkpoint(path)
    for length in (0, 5, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="c.pt is damaged"):
            load_checkpoint(path)


def test_code_in_a_checkpoint_is_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return print, ("run",)

    path = tmp_path / "c.pt"
    save_checkpoint(path, {"recipe": Code()}, META, {})
    with pytest.raises(InputError, match="c.pt is damaged"):
        load_checkpoint(path)


def test_a_checkpoint_that_the_disk_does_not_read_is_not_called_damaged(tmp_path):
    (tmp_path / "checkpoint.pt").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert caught.value.filename == str(tmp_path / "checkpoint.pt")
