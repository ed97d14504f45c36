"""Follow runs in the trackers of experiments that `--log` names: TensorBoard, Weights & Biases and MLflow.

A fold is a run of its own there, since folds train at the same time in processes or on machines of their own, and since
people know cross-validation as runs that are grouped: by a folder in TensorBoard, a group in W&B, a parent run in
MLflow. What is known of all folds, such as the out-of-fold score, is in a run that is called `SUMMARY`, in MLflow the
parent. A blend has a summary alone.

No client is imported before it is used. What one raises while a step works is said in a line and ends neither training
nor the step; the same command logs later what is missing then.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from facefold.task import LABEL, Task
from facefold.training.trackers import (
    CLIENT_VARIABLES,
    EPOCH_FIGURE,
    SUMMARY,
    MLflow,
    Sink,
    TensorBoard,
    TrackedRun,
    WandB,
    has_local_mlflow,
)
from facefold.utils.environment import find_shortfalls
from facefold.utils.errors import InputError

SINKS: dict[str, type[Sink]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
_PACKAGES = {"tensorboard": ["tensorboard"], "wandb": ["wandb>=0.27"], "mlflow": ["mlflow"]}
_FIGURES = {
    "train_loss": EPOCH_FIGURE,
    "valid_loss": "loss/validation",
    "monitor_loss": "loss/monitor",
    "valid_acc": "accuracy/validation",
    "valid_mae": "mean absolute error/validation",
    "lr": "learning rate",
    "seconds": "seconds per epoch",
}


@dataclass(frozen=True)
class Tracking:
    """What `--log` names, as texts that travel to the processes that train.

    root: of the competition. environment: the variables that configure the clients where the command was given; a
    machine of a cluster has none of its own.
    """

    sinks: tuple[str, ...] = ()
    root: Path = Path()
    task: Task = LABEL
    environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def without_failing(self, run: TrackedRun) -> "Tracking":
        """Begin `run`, and return what works: a server that is down is so named once, not for each fold."""
        with Tracker(self, run) as tracker:
            tracker.begin()
            return replace(self, sinks=tracker.working)


def load_tracking(texts: Iterable[str], root: Path, task: Task) -> Tracking:
    """Return what the values of `--log` mean. Raise `InputError` for a bad name, or a client that is not installed."""
    sinks = tuple(dict.fromkeys(texts))
    for text in sinks:
        kind, _, name = text.partition(":")
        if kind not in SINKS or bool(name.strip()) == (kind == "tensorboard"):
            raise InputError(
                f"--log {text}: it is tensorboard, wandb:PROJECT or mlflow:EXPERIMENT; for several repeat --log"
            )
        if kind == "wandb" and (re.search(r"[/\\#?%:]", name) or len(name) > 128):
            raise InputError(
                f"--log {text}: the name of a project has at most 128 characters and none of / \\ # ? % : (its entity "
                "is named by WANDB_ENTITY)"
            )
        if kind == "mlflow" and len(name) > 500:
            raise InputError(f"--log {text}: the name of an experiment has at most 500 characters")
        database = ["sqlalchemy"] if kind == "mlflow" and has_local_mlflow() else []  # mlflow-skinny comes without
        if shortfalls := find_shortfalls([*_PACKAGES[kind], *database]):
            raise InputError(
                f"--log {text}: {' and '.join(shortfalls)}; run `pip install --upgrade {kind}`, or leave it out"
            )
    variables = [name for name in os.environ if name.startswith(CLIENT_VARIABLES) and name != "WANDB_SERVICE"]
    environment = tuple((name, os.environ[name]) for name in sorted(variables)) if sinks else ()
    return Tracking(sinks, root.resolve(), task, environment)


class Tracker:
    """Pass on what becomes known of a run to each sink; one that fails is named, once, and left alone from then on."""

    def __init__(self, tracking: Tracking, run: TrackedRun):
        self._tracking, self._run = tracking, run
        self._sinks: dict[str, Sink] | None = None

    @property
    def working(self) -> tuple[str, ...]:
        """The sinks that have not failed since `begin`."""
        return tuple(self._sinks or ())

    def begin(self, history: Sequence[Mapping] = ()) -> None:
        """Open the sinks, the first time, and log the rows that they lack.

        With a history, and as a summary, a run that exists is continued; without, training begins, in a new run.
        """
        if self._sinks is None:
            self._sinks = {}
            for variable, value in self._tracking.environment:
                os.environ.setdefault(variable, value)
            for text in self._tracking.sinks:
                kind, _, name = text.partition(":")
                resumed = bool(history) or self._run.part == SUMMARY
                with self._guard(text):
                    self._sinks[text] = SINKS[kind](self._tracking.root, self._tracking.task, name, self._run, resumed)
        for row in history:
            self.log(row)

    def log(self, row: Mapping) -> None:
        """Log a row of a history, see `fold.FoldTrainer`, where it has not been."""
        epoch, values = int(row["epoch"]) + 1, _numbers({figure: row.get(name) for name, figure in _FIGURES.items()})

        def log_new(sink: Sink) -> None:
            if epoch > sink.last:
                sink.log(values, epoch)
                sink.last = epoch

        self._each(log_new)

    def add_figures(self, figures: Mapping[str, float]) -> None:
        """Set figures of the whole run, but for those that are nan."""
        self._each(lambda sink: sink.add_figures(_numbers(figures)))

    def add_artifact(self, path: Path) -> None:
        """Add a copy of a file."""
        self._each(lambda sink: sink.add_artifact(path))

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._each(lambda sink: sink.close(failed=kind is not None))

    def _each(self, act: Callable[[Sink], object]) -> None:
        for text, sink in list((self._sinks or {}).items()):
            with self._guard(text):
                act(sink)

    @contextmanager
    def _guard(self, text: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a client raises must not end a training
            self._sinks.pop(text, None)
            reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
            print(
                f"{self._run.name}: --log {text} fails and is left out: {reason}. The same command logs later what is "
                "missing there",
                file=sys.stderr,
                flush=True,
            )


NO_TRACKING = Tracking()
NO_TRACKER = Tracker(NO_TRACKING, TrackedRun("", "", "", {}))


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """Return the values that are numbers: a history has None, and its csv nan, for a missing monitor."""
    return {name: float(value) for name, value in values.items() if value is not None and value == value}
