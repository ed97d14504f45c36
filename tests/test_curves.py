"""Event files for TensorBoard: the scalars of a history, and the error if no package writes them."""

import sys
import types
from pathlib import Path

import pytest

from facefold.training import curves
from facefold.utils.errors import InputError

HISTORY = [
    {
        "epoch": 0,
        "lr": 0.1,
        "train_loss": 0.6,
        "monitor_loss": None,
        "valid_loss": 0.5,
        "valid_acc": 0.8,
        "seconds": 3.0,
    },
    {
        "epoch": 1,
        "lr": 0.05,
        "train_loss": 0.4,
        "monitor_loss": float("nan"),
        "valid_loss": 0.4,
        "valid_acc": 0.9,
        "seconds": 2.0,
    },
]


class Writer:
    """Stand in for SummaryWriter."""

    instances: list["Writer"] = []

    def __init__(self, directory: str):
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / "events.out.tfevents.1.host").open("x").close()  # refuses a folder that was not cleared
        self.scalars, self.closed = [], False
        Writer.instances.append(self)

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, value, step))

    def flush(self):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def package(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    Writer.instances = []


def test_a_fold_has_one_event_file_from_its_first_epoch_on(package, tmp_path):
    directory = curves.curves_dir(tmp_path, "lite0+corrected", 2)
    assert directory == tmp_path / "tensorboard" / "lite0+corrected" / "fold_2"
    killed = curves.Curves(directory, HISTORY[:1])
    (directory / "notes.txt").write_text("mine")
    killed.add(HISTORY[1])  # an epoch without a checkpoint: it is repeated
    resumed = curves.Curves(directory, HISTORY[:1])
    resumed.add(HISTORY[1])
    resumed.close()
    assert (directory / "notes.txt").read_text() == "mine"
    assert len(Writer.instances) == 2 and Writer.instances[1].closed
    assert Writer.instances[1].scalars == [
        ("loss/train", 0.6, 1),
        ("loss/validation", 0.5, 1),
        ("accuracy/validation", 0.8, 1),
        ("learning rate", 0.1, 1),
        ("seconds an epoch", 3.0, 1),
        ("loss/train", 0.4, 2),
        ("loss/validation", 0.4, 2),
        ("accuracy/validation", 0.9, 2),
        ("learning rate", 0.05, 2),
        ("seconds an epoch", 2.0, 2),
    ]


def test_without_a_directory_nothing_is_written_and_no_package_needed(monkeypatch):
    monkeypatch.setattr(curves, "require_tensorboard", lambda: pytest.fail("nothing was asked for"))
    none = curves.Curves(None, HISTORY)
    none.add(HISTORY[0])
    none.close()


def test_without_a_package_it_is_a_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError) as caught:
        curves.require_tensorboard()
    assert str(caught.value) == (
        "--tensorboard needs the package tensorboard or tensorboardX, and neither is there: "
        "`pip install tensorboard`, or leave --tensorboard out"
    )


def test_a_real_package_writes_event_files(tmp_path):
    pytest.importorskip("tensorboard")
    written = curves.Curves(tmp_path / "fold_0", HISTORY)
    written.close()
    assert [path.name for path in (tmp_path / "fold_0").iterdir()][0].startswith("events.out.tfevents.")
