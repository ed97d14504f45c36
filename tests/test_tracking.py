"""Trackers of experiments: what each is sent, also by the real clients, and what is said of one that fails."""

import json
import os
import pickle
import struct
import sys
import types
from pathlib import Path

import pytest

from command import RECIPE, call, refused, train_here
from facefold.models.recipe import load_recipe
from facefold.runs import Identity, fold_dir
from facefold.task import LABEL, Task
from facefold.training import budget, tracking
from facefold.training.jobs import tracked_run
from facefold.training.trackers import SUMMARY, TrackedRun
from facefold.training.tracking import Tracker, Tracking, load_tracking
from facefold.utils import environment
from facefold.utils.environment import installed_version
from facefold.utils.errors import InputError
from facefold.utils.files import write_json
from recorder import Recorder, record
from tiny_fold import killed_after_an_epoch


def client(name: str) -> pytest.MarkDecorator:
    reason = f"the package {name} is not installed: pip install -r requirements-tracking.txt"
    return pytest.mark.skipif(installed_version(name) is None, reason=reason)


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
FIRST = {
    "loss/train": 0.6,
    "loss/validation": 0.5,
    "accuracy/validation": 0.8,
    "learning rate": 0.1,
    "seconds per epoch": 3.0,
}
SECOND = {
    "loss/train": 0.4,
    "loss/validation": 0.4,
    "accuracy/validation": 0.9,
    "learning rate": 0.05,
    "seconds per epoch": 2.0,
}
CONFIG = {"lr": 0.1, "fold": 2, "versions": {"torch": "2.15"}}
RECIPE_RUN = tracked_run(load_recipe("lite0"), Identity("lite0", "recipe", "folds", "images", 3), SUMMARY)
FOLD, ALL = (TrackedRun("lite0#1+corrected", part, "key", CONFIG) for part in ("fold_2", SUMMARY))


@pytest.fixture
def recorder(monkeypatch):
    return record(monkeypatch)


@pytest.mark.parametrize("text", ["wandb", "wandb:", "mlflow: ", "tensorboard:x", "comet:x", "tensorboard,wandb:x", ""])
def test_what_names_no_tracker_is_refused(tmp_path, text):
    message = f"--log {text}: it is tensorboard, wandb:PROJECT or mlflow:EXPERIMENT; for several repeat --log"
    assert refused("train", tmp_path, "--recipe", "cnn3", "--log", text) == message


def test_a_name_that_the_tracker_does_not_take_is_refused(tmp_path):
    assert refused("run_all", tmp_path, "--log", "wandb:me/faces") == (
        "--log wandb:me/faces: the name of a project has at most 128 characters and none of / \\ # ? % : (its entity "
        "is named by WANDB_ENTITY)"
    )
    name = "e" * 501
    assert refused("blend", tmp_path, "--log", f"mlflow:{name}") == (
        f"--log mlflow:{name}: the name of an experiment has at most 500 characters"
    )


@pytest.mark.parametrize(
    "text, versions, message",
    [
        ("tensorboard", {}, "no tensorboard; run `pip install --upgrade tensorboard`, or leave it out"),
        ("wandb:faces", {}, "no wandb; run `pip install --upgrade wandb`, or leave it out"),
        (
            "wandb:faces",
            {"wandb": "0.26.1"},
            "wandb 0.26.1, 0.27 or newer is needed; run `pip install --upgrade wandb`, or leave it out",
        ),
        ("mlflow:faces", {}, "no mlflow and no sqlalchemy; run `pip install --upgrade mlflow`, or leave it out"),
        ("mlflow:faces", {"mlflow": "3"}, "no sqlalchemy; run `pip install --upgrade mlflow`, or leave it out"),
    ],
)
def test_a_client_that_is_missing_or_too_old_is_refused_before_anything_is_done(
    tmp_path, monkeypatch, text, versions, message
):
    monkeypatch.setattr(environment, "installed_version", versions.get)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for step, *options in (("train", "--recipe", "cnn3"), ("run_all",), ("report",)):
        assert refused(step, tmp_path / "root", *options, "--log", text) == f"--log {text}: {message}"
    assert not (tmp_path / "root").exists()


def test_for_a_server_the_small_client_is_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "version", {"mlflow-skinny": "3", "tensorboardX": "2"}.__getitem__)
    monkeypatch.setattr(environment, "PackageNotFoundError", KeyError)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    texts = ["mlflow:faces", "tensorboard", "mlflow:faces"]
    assert load_tracking(texts, tmp_path, LABEL).sinks == ("mlflow:faces", "tensorboard")


def test_each_epoch_is_logged_once_however_often_training_begins(recorder):
    tracker = Tracker(Tracking(("wandb:faces",)), FOLD)
    with tracker:
        tracker.begin()
        tracker.log(HISTORY[0])
        tracker.begin(HISTORY[:1])  # an epoch whose loss is not finite begins it again
        tracker.log(HISTORY[1])
        tracker.add_figures({"oof/accuracy": 0.5, "oof/auc": float("nan")})
    (run,) = recorder.runs
    assert not run.resumed and run.events == [
        ("open", "faces"),
        ("log", 1, FIRST),
        ("log", 2, SECOND),
        ("figures", {"oof/accuracy": 0.5}),
        ("close", False),
    ]


def test_a_fold_with_a_history_and_every_summary_continue_their_run(recorder):
    for run, history in ((FOLD, []), (FOLD, HISTORY), (ALL, [])):
        Tracker(Tracking(("mlflow:faces",)), run).begin(history)
    assert [run.resumed for run in recorder.runs] == [False, True, True]


def test_a_training_that_ends_with_an_error_is_a_failed_run(recorder):
    with pytest.raises(InputError), Tracker(Tracking(("wandb:faces",)), FOLD) as tracker:
        tracker.begin()
        raise InputError("a loss is not finite")
    assert recorder.runs[0].events[-1] == ("close", True)


@pytest.mark.parametrize("at, events", [("open", 0), ("log", 1), ("figures", 2), ("close", 3)])
def test_a_tracker_that_fails_is_named_once_and_the_others_go_on(recorder, monkeypatch, capsys, at, events):
    class Works(Recorder):
        def receive(self, *event):
            self.events.append(event)

    monkeypatch.setitem(tracking.SINKS, "mlflow", Works)
    recorder.failing = at
    with Tracker(Tracking(("wandb:faces", "mlflow:faces")), FOLD) as tracker:
        tracker.begin()
        for row in HISTORY:
            tracker.log(row)
        tracker.add_figures({"oof/accuracy": 0.5})
    assert capsys.readouterr().err == (
        "lite0#1+corrected/fold_2: --log wandb:faces fails and is left out: the server is down. The same command logs "
        "later what is missing there\n"
    )
    assert tracker.working == ("mlflow:faces",)
    assert [event[0] for event in recorder.runs[1].events] == ["open", "log", "log", "figures", "close"]
    assert len(recorder.runs[0].events) == (events if at in ("open", "log") else events + 1)


def test_it_travels_to_another_machine_with_the_variables_of_the_clients(tmp_path, monkeypatch, recorder):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("WANDB_MODE", "offline")
    sent = load_tracking(["wandb:faces"], tmp_path, LABEL)
    assert "secret" not in repr(sent) and {sent: 1}[pickle.loads(pickle.dumps(sent))]
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("WANDB_MODE", "online")
    Tracker(pickle.loads(pickle.dumps(sent)), FOLD).begin()
    assert (os.environ["WANDB_API_KEY"], os.environ["WANDB_MODE"]) == ("secret", "online")


class Writer:
    """Stand in for SummaryWriter."""

    def __init__(self, directory: str):
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / "events.out.tfevents.1.host").open("x").close()  # refuses a folder that was not cleared
        self.events = written.setdefault(directory, [])

    def add_scalar(self, *event):
        self.events.append(event)

    add_text = add_scalar

    def flush(self):
        pass

    def close(self):
        self.events.append("closed")


written: dict[str, list] = {}


def test_event_files_are_written_again_when_training_continues(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    directory = tmp_path / "targets" / "age" / "tensorboard" / "lite0#1+corrected" / "fold_2"
    log = Tracking(("tensorboard",), tmp_path, Task("age", "regression", (), "mae"))
    killed = Tracker(log, FOLD)
    killed.begin()
    killed.log(HISTORY[0])
    (directory / "notes.txt").write_text("mine")
    written.clear()
    with Tracker(log, FOLD) as resumed:
        resumed.begin(HISTORY[:1])
        resumed.log(HISTORY[1])
        resumed.add_figures({"oof/accuracy": 0.5})
        resumed.add_artifact(directory / "notes.txt")
    settings = "| setting | value |\n| --- | --- |\n| lr | 0.1 |\n| fold | 2 |\n| versions.torch | 2.15 |"
    assert written == {
        str(directory): [
            ("settings", settings),
            *((name, value, 1) for name, value in FIRST.items()),
            *((name, value, 2) for name, value in SECOND.items()),
            ("oof/accuracy", 0.5, 0),
            "closed",
        ]
    }
    assert (directory / "notes.txt").read_text() == "mine"


@client("tensorboard")
def test_a_real_event_file_has_the_curve(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with Tracker(Tracking(("tensorboard",), tmp_path), FOLD) as tracker:
        tracker.begin(HISTORY)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / FOLD.group / FOLD.part)).Reload()
    assert {name: [event.step for event in events.Scalars(name)] for name in FIRST} == dict.fromkeys(FIRST, [1, 2])
    assert [round(event.value, 6) for event in events.Scalars("accuracy/validation")] == [0.8, 0.9]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Keep W&B offline and all that it writes in tmp_path; yield the file of each of its runs, see `records`."""
    wandb = pytest.importorskip("wandb")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield lambda: sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    wandb.teardown()


def records(path: Path) -> list:
    """Return the records of a file of W&B: each follows its checksum, length and kind (1 for a whole one)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, found = path.read_bytes(), 7, []
    while position < len(data):
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        assert kind == 1
        found.append(Record.FromString(data[position + 7 : position + 7 + length]))
        position += 7 + length
    return found


def values(items) -> dict[str, object]:
    """Return the items of a record by name, without those of W&B itself."""
    pairs = ((item.key or "/".join(item.nested_key), json.loads(item.value_json)) for item in items)
    return {name: value for name, value in pairs if not name.startswith("_")}


def curve(path: Path) -> list[tuple[int, dict[str, object]]]:
    return [
        (int(record.history.step.num), values(record.history.item)) for record in records(path) if record.history.item
    ]


@client("wandb")
def test_wandb_has_a_run_per_fold_in_a_group_which_a_resumed_fold_continues(tmp_path, offline):
    log = Tracking(("wandb:faces",), tmp_path)
    killed = Tracker(log, FOLD)
    killed.begin()
    killed.log(HISTORY[0])
    killed.__exit__(BaseException)
    (before,) = offline()
    before.parent.rename(f"{before.parent}-1")  # as W&B calls a second one in that second
    with Tracker(log, FOLD) as resumed:
        resumed.begin(HISTORY[:1])
        resumed.log(HISTORY[1])
    (path,) = offline()
    assert path.name == before.name and curve(path) == [(1, FIRST), (2, SECOND)]
    (run,) = (record.run for record in records(path) if record.run.run_id)
    assert (run.project, run.run_group, run.job_type) == ("faces", "lite0#1+corrected", "fold")
    assert run.display_name == "lite0#1+corrected/fold_2" and values(run.config.update) == CONFIG
    with Tracker(log, FOLD) as again:
        again.begin()
    assert len({file.name for file in offline()}) == 2  # a training from the beginning is another run


@client("wandb")
def test_wandb_has_figures_and_files_in_the_summary(tmp_path, offline):
    (tmp_path / "report.html").write_text("<p>")
    for figures in ({"oof/accuracy": 0.5}, {"oof/accuracy": 0.75}):
        with Tracker(Tracking(("wandb:faces",), tmp_path), RECIPE_RUN) as tracker:
            tracker.begin()
            tracker.add_figures(figures)
            tracker.add_artifact(tmp_path / "report.html")
    first, last = offline()
    assert first.name == last.name
    for path, figures in ((first, {"oof/accuracy": 0.5}), (last, {"oof/accuracy": 0.75})):
        found = records(path)
        summary = [values(record.summary.update) for record in found if record.summary.update]
        assert figures in summary
        config = next(values(record.run.config.update) for record in found if record.run.run_id)
        assert (config["size"], config["lr"], config["seed"], config["folds_hash"]) == (128, 0.001, 3, "folds")
        assert [record.artifact.name for record in found if record.artifact.name] == ["report.html"]


@client("wandb")
def test_wandb_without_a_login_says_so_and_asks_nothing(tmp_path, offline, monkeypatch, capsys):
    class Terminal:
        def isatty(self):
            return True

        def readline(self, *_):
            raise AssertionError("a person was asked")

        read = fileno = readline

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with Tracker(Tracking(("wandb:faces",), tmp_path), FOLD) as tracker:
        tracker.begin()
    out, err = capsys.readouterr()
    assert out == "" and err == (
        "lite0#1+corrected/fold_2: --log wandb:faces fails and is left out: No API key configured. Use `wandb login` "
        "to log in. The same command logs later what is missing there\n"
    )


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Return a client of a store of files in tmp_path, which the trackers use as well."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return mlflow.MlflowClient()


def tracked(store, name: str = "faces") -> dict[str, list]:
    """Return the runs of an experiment by their name, the latest first."""
    experiment = store.get_experiment_by_name(name).experiment_id
    runs: dict[str, list] = {}
    for run in store.search_runs([experiment], order_by=["start_time DESC"]):
        runs.setdefault(run.info.run_name, []).append(run)
    return runs


@client("mlflow")
def test_mlflow_has_a_child_per_fold_which_a_resumed_fold_continues(tmp_path, store):
    log = Tracking(("mlflow:faces",), tmp_path)
    assert log.without_failing(ALL) == log
    killed = Tracker(log, FOLD)
    killed.begin()
    killed.log(HISTORY[0])
    with Tracker(log, FOLD) as resumed:
        resumed.begin(HISTORY[:1])
        resumed.log(HISTORY[1])
    runs = tracked(store)
    (parent,), (child,) = runs["lite0#1+corrected"], runs["lite0#1+corrected/fold_2"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id and child.info.status == "FINISHED"
    assert child.data.params == {"lr": "0.1", "fold": "2", "versions.torch": "2.15"}
    for name, value in FIRST.items():
        metrics = store.get_metric_history(child.info.run_id, name)
        assert [(metric.step, metric.value) for metric in metrics] == [(1, value), (2, SECOND[name])]
    Tracker(log, FOLD).begin()
    assert len(tracked(store)["lite0#1+corrected/fold_2"]) == 2


@client("mlflow")
def test_mlflow_has_figures_once_and_files_in_the_summary(tmp_path, store):
    (tmp_path / "report.html").write_text("<p>")
    for value in (0.5, 0.5, 0.75):
        with Tracker(Tracking(("mlflow:faces",), tmp_path), RECIPE_RUN) as tracker:
            tracker.begin()
            tracker.add_figures({"oof/accuracy": value})
            tracker.add_artifact(tmp_path / "report.html")
    ((run,),) = tracked(store).values()
    assert [metric.value for metric in store.get_metric_history(run.info.run_id, "oof/accuracy")] == [0.5, 0.75]
    params = run.data.params
    assert (params["size"], params["lr"], params["seed"], params["folds_hash"]) == ("128", "0.001", "3", "folds")
    assert [file.path for file in store.list_artifacts(run.info.run_id)] == ["report.html"]


@client("mlflow")
def test_an_mlflow_server_that_is_down_is_named_and_no_fold_tries_it_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    assert Tracking(("mlflow:faces",), tmp_path).without_failing(ALL).sinks == ()
    line = capsys.readouterr().err
    assert line.startswith(
        "lite0#1+corrected: --log mlflow:faces fails and is left out: API request to http://127.0.0.1"
    )
    assert line.count("\n") == 1


@pytest.fixture
def root(tmp_path, monkeypatch, make_competition, one_thread):
    train_here(tmp_path / "recipes", monkeypatch, tiny=RECIPE)
    make_competition(tmp_path / "root", 40, 10, 32, 2)
    return tmp_path / "root"


def test_a_killed_training_is_tracked_as_one_that_was_not_and_its_bytes_stay(root, recorder, monkeypatch):
    call("train", root, "--recipe", "tiny")
    before = {fold: (fold_dir(root, "tiny", fold) / "oof.csv").read_bytes() for fold in range(2)}
    options = ("--recipe", "tiny", "--seed", "0", "--log", "wandb:faces")
    call("train", root, *options)
    curves = [run.events for run in recorder.runs if run.run.part != SUMMARY]
    recorder.runs.clear()
    for fold in before:
        (fold_dir(root, "tiny", fold) / "run.json").unlink()
    with killed_after_an_epoch(monkeypatch):
        call("train", root, *options)
    call("train", root, *options)
    assert before == {fold: (fold_dir(root, "tiny", fold) / "oof.csv").read_bytes() for fold in before}
    assert [(run.run.name, run.resumed) for run in recorder.runs] == [
        ("tiny", True),
        ("tiny/fold_0", False),
        ("tiny", True),
        ("tiny/fold_0", True),
        ("tiny/fold_1", False),
        ("tiny", True),
    ]
    assert recorder.runs[1].events == [("open", "faces"), ("close", True)]
    for run, finished in zip(recorder.runs[3:5], curves):
        assert [event[:2] for event in run.events] == [("open", "faces"), ("log", 1), ("log", 2), ("close", False)]
        losses = [event[2]["loss/validation"] for event in run.events[1:3]]
        assert losses == pytest.approx([event[2]["loss/validation"] for event in finished[1:3]], abs=1e-6)
        config = run.run.config
        assert (config["size"], config["seed"], config["recipe"], config["fold"]) == (
            16,
            0,
            "tiny",
            int(run.run.part[-1]),
        )
        assert config["folds_hash"] and config["versions"]["torch"]
    figures = recorder.runs[-1].events[1][1]
    assert 0 <= figures["oof/accuracy_low"] <= figures["oof/accuracy"] <= figures["oof/accuracy_high"] <= 1


def test_a_fold_that_a_session_stops_has_not_failed(root, recorder, tmp_path, capsys):
    session = tmp_path / "session.json"
    write_json(session, {"until": 0.0, "boot": budget._boot(), "runs": {"tiny": {"shared": 0.0, "fold": 1.0}}})
    call("train", root, "--recipe", "tiny", "--session", session, "--log", "wandb:faces")
    (run,) = (run for run in recorder.runs if run.run.part != SUMMARY)
    assert [event[:2] for event in run.events] == [("open", "faces"), ("log", 1), ("close", False)]
    out = capsys.readouterr().out
    assert "tiny fold 0: the session is over after epoch 1 of 2; its checkpoint is kept" in out
    assert (fold_dir(root, "tiny", 0) / "checkpoint.pt").exists()


def test_a_tracker_that_is_down_costs_a_training_one_line(root, recorder, capsys):
    recorder.failing = "open"
    call("train", root, "--recipe", "tiny", "--log", "wandb:faces")
    out, err = capsys.readouterr()
    assert err.count("--log wandb:faces fails and is left out: the server is down.") == 1
    assert "tiny: OOF accuracy" in out
