"""Learning curves as event files for TensorBoard, if asked for and if a package that writes them is installed.

tensorboard/<run>/fold_<k>/    under the root; look with `tensorboard --logdir ROOT/tensorboard`
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from facefold.utils.errors import InputError

_TAGS = {
    "train_loss": "loss/train",
    "valid_loss": "loss/validation",
    "monitor_loss": "loss/monitor",
    "valid_acc": "accuracy/validation",
    "valid_mae": "mean absolute error/validation",
    "lr": "learning rate",
    "seconds": "seconds an epoch",
}


def require_tensorboard() -> type:
    """Return the class that writes event files; raise `InputError` if no package has it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise InputError(
                "--tensorboard needs the package tensorboard or tensorboardX, and neither is there: "
                "`pip install tensorboard`, or leave --tensorboard out"
            ) from error
    return SummaryWriter


def curves_dir(root: Path, run: str, fold: int) -> Path:
    return root / "tensorboard" / run / f"fold_{fold}"


class Curves:
    """The event file of a fold: rewritten from the finished epochs, then a row per epoch. Without a directory, none."""

    def __init__(self, directory: Path | None, history: Iterable[Mapping]):
        self._writer = None
        if directory is None:
            return
        for path in directory.glob("events.out.tfevents.*"):  # of a killed run: its checkpoint repeats the last epochs
            path.unlink()
        self._writer = require_tensorboard()(str(directory))
        for row in history:
            self.add(row)

    def add(self, row: Mapping) -> None:
        """Write one row of a history (`trainer.FoldResult`), epochs counted from 1."""
        if self._writer is None:
            return
        for name, tag in _TAGS.items():
            value = row.get(name)
            if value is not None and value == value:  # history.csv has nan for a missing monitor
                self._writer.add_scalar(tag, value, int(row["epoch"]) + 1)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
