"""Learning curves as event files for TensorBoard, where a person asks for them and there is a package that writes them.

tensorboard/<run>/fold_<k>/    under the root; look with `tensorboard --logdir ROOT/tensorboard`
"""

import shutil
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
    """The class that writes event files; `InputError` where no package has it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise InputError(
                "--tensorboard needs the package tensorboard or tensorboardX, and neither is there: "
                "`pip install tensorboard`, or leave --tensorboard out"
            )
    return SummaryWriter


def curves_dir(root: Path, run: str, fold: int) -> Path:
    return root / "tensorboard" / run / f"fold_{fold}"


class Curves:
    """The event file of a fold: made anew from the epochs that there are, then a row an epoch. None at all where
    `place` is None.
    """

    def __init__(self, place: Path | None, history: Iterable[Mapping]):
        self._writer = None
        if place is None:
            return
        shutil.rmtree(place, ignore_errors=True)  # of a run that was killed: its epochs come again from its checkpoint
        self._writer = require_tensorboard()(str(place))
        for row in history:
            self.add(row)

    def add(self, row: Mapping) -> None:
        """Write one row of a history (`trainer.FoldResult`), epochs counted from 1."""
        if self._writer is None:
            return
        for name, tag in _TAGS.items():
            if (
                value := row.get(name)
            ) is not None and value == value:  # a monitor that is not there is nan in history.csv
                self._writer.add_scalar(tag, value, int(row["epoch"]) + 1)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
