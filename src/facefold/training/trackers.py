"""A run in each of the trackers of experiments that `--log` can name, by the real client; see `tracking`.

    tensorboard/<run>/<part>/       event files, in the folder of the task
    wandb/                          what Weights & Biases keeps of its runs, in the root, or in WANDB_DIR
    mlflow.db  mlartifacts/         MLflow's runs, in the root, if MLFLOW_TRACKING_URI does not say where

What a client raises is left to the caller.
"""

import os
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from facefold.task import Task
from facefold.utils.files import sha256_text
from facefold.utils.processes import set_environment

SUMMARY = "summary"
EPOCH_FIGURE = "loss/train"  # one that each epoch has
CLIENT_VARIABLES = ("WANDB_", "MLFLOW_")  # how the names of those begin that configure the clients
# What the clients read when they are imported, for what the user has not set: how long a server that is down is tried,
# which would be minutes, and in W&B without an end.
CLIENT_ENVIRONMENT = {
    "WANDB_INIT_TIMEOUT": "10",
    "WANDB_FINISH_TIMEOUT": "30",
    "WANDB_FINISH_TIMEOUT_RAISES": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True)
class TrackedRun:
    """A part of a run as trackers call it.

    group: the recipe's run, or `blend`. part: `fold_<k>` or `SUMMARY`. key: a hash of what it is computed from, which
    tells runs of one name apart. config: settings and identity.
    """

    group: str
    part: str
    key: str
    config: Mapping[str, object]

    @property
    def name(self) -> str:
        return self.group if self.part == SUMMARY else f"{self.group}/{self.part}"

    @property
    def settings(self) -> dict[str, str]:
        """The settings as texts without levels: `versions.torch` for those of a dict."""
        texts = {}
        for name, value in self.config.items():
            inner = (
                {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, Mapping) else {name: value}
            )
            texts |= {key: str(one) for key, one in inner.items()}
        return texts


class Sink(Protocol):
    """A run in a tracker. last: the last epoch, counted from 1, that it has; 0 for none.

    Args:
        root: Of the competition.
        task: Whose folder has the event files.
        name: Of the project or experiment.
        run: What is tracked.
        resumed: Whether to continue the run if it exists; else a new one begins.
    """

    last: int

    def __init__(self, root: Path, task: Task, name: str, run: TrackedRun, resumed: bool): ...

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Add the figures of an epoch, for people to see at once."""

    def add_figures(self, figures: Mapping[str, float]) -> None:
        """Set figures of the whole run."""

    def add_artifact(self, path: Path) -> None:
        """Add a copy of a file."""

    def close(self, failed: bool) -> None:
        """End the run."""


class TensorBoard:
    """Event files, written again from the history when training continues. They take no artifacts."""

    def __init__(self, root: Path, task: Task, name: str, run: TrackedRun, resumed: bool):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            from tensorboardX import SummaryWriter

        self.last = 0
        directory = task.directory(root) / "tensorboard" / run.group / run.part
        for path in directory.glob("events.out.tfevents.*"):  # of a killed run: its checkpoint repeats the last epochs
            path.unlink()
        self._writer = SummaryWriter(str(directory))
        rows = [f"| {name} | {value} |" for name, value in run.settings.items()]
        self._writer.add_text("settings", "\n".join(["| setting | value |", "| --- | --- |", *rows]))
        self._writer.flush()

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def add_figures(self, figures: Mapping[str, float]) -> None:
        self.log(figures, 0)

    def add_artifact(self, path: Path) -> None:
        pass

    def close(self, failed: bool) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases, continued under the id that its folders have.

    Offline it is logged again from the beginning: of two such folders the server keeps what it receives last.
    """

    def __init__(self, root: Path, task: Task, name: str, run: TrackedRun, resumed: bool):
        set_environment(CLIENT_ENVIRONMENT)
        import wandb

        directory, key = Path(os.environ.get("WANDB_DIR") or root), sha256_text(f"{name} {run.key} {run.part}")[:12]
        folders = (directory / "wandb").glob(f"*run-*-{key}*") if resumed else ()  # .._<time>-<key><random>
        earlier = sorted(folders, key=lambda folder: folder.name.removeprefix("offline-"))
        wandb.setup(wandb.Settings(silent=True))  # so it does not ask for a login either
        # Else workers share W&B's process, which keeps the run of one that was killed open.
        os.environ.pop("WANDB_SERVICE", None)
        self._run = wandb.init(
            project=name,
            group=run.group,
            name=run.name,
            job_type=run.part.partition("_")[0],
            id=key + (earlier[-1].name.partition(key)[2][:8] if earlier else secrets.token_hex(4)),
            resume="allow",
            reinit="create_new",
            config=dict(run.config),
            dir=str(directory),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.last = max(0, self._run.step - 1)  # `step` is the next one of a run on the server, 0 of a run offline
        for folder in earlier if run.part != SUMMARY else ():  # a summary's may have artifacts
            if folder.name.startswith("offline-"):
                shutil.rmtree(folder, ignore_errors=True)

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        self._run.log(dict(values), step=epoch, commit=True)

    def add_figures(self, figures: Mapping[str, float]) -> None:
        self._run.summary.update(dict(figures))

    def add_artifact(self, path: Path) -> None:
        from wandb import Artifact

        artifact = Artifact(path.name, type=path.stem)
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class MLflow:
    """A run of MLflow, found again by its tags."""

    def __init__(self, root: Path, task: Task, name: str, run: TrackedRun, resumed: bool):
        set_environment(CLIENT_ENVIRONMENT)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        local, self.last = has_local_mlflow(), 0
        self._client = client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}" if local else None)
        if found := client.get_experiment_by_name(name):
            self._experiment = found.experiment_id
        else:
            self._experiment = client.create_experiment(name, (root / "mlartifacts").as_uri() if local else None)
        if resumed and (earlier := self._find(run.key, run.part)):
            self._id = earlier
            client.update_run(earlier, status="RUNNING")
            self.last = max((metric.step for metric in client.get_metric_history(earlier, EPOCH_FIGURE)), default=0)
            return
        parent = None if run.part == SUMMARY else self._find(run.key, SUMMARY)
        tags = {"facefold.key": run.key, "facefold.part": run.part} | ({"mlflow.parentRunId": parent} if parent else {})
        self._id = client.create_run(self._experiment, tags=tags, run_name=run.name).info.run_id
        client.log_batch(self._id, params=[Param(setting, value) for setting, value in run.settings.items()])

    def _find(self, key: str, part: str) -> str | None:
        """Return the id of the latest run of a part, None without one."""
        tags = f"tags.`facefold.key` = '{key}' and tags.`facefold.part` = '{part}'"
        found = self._client.search_runs([self._experiment], tags, max_results=1, order_by=["start_time DESC"])
        return found[0].info.run_id if found else None

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, [Metric(name, value, now, epoch) for name, value in values.items()])

    def add_figures(self, figures: Mapping[str, float]) -> None:
        known = self._client.get_run(self._id).data.metrics
        self.log({name: value for name, value in figures.items() if known.get(name) != value}, 0)

    def add_artifact(self, path: Path) -> None:
        self._client.log_artifact(self._id, str(path))

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


def has_local_mlflow() -> bool:
    """Return whether MLflow is to keep its runs in the root, for no other place is named."""
    return not os.environ.get("MLFLOW_TRACKING_URI")
