"""Two processes that train a fold together, against one that trains it alone: 96 drawn squares, on the CPU."""

import dataclasses
import os
import pickle
import re
import signal
import threading
import time
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import nn

from facefold.data.corrections import NO_CORRECTIONS
from facefold.models.batchnorm import learns, synchronised
from facefold.models.build import build_model
from facefold.models.recipe import parse_recipe
from facefold.runs import Identity, fold_dir
from facefold.training import fold as fold_module
from facefold.training import jobs, launcher, workers
from facefold.training.budget import Keeper
from facefold.training.estimate import cost
from facefold.training.ranks import ALONE, Ranks
from facefold.training.step import GradientAccumulation
from facefold.utils.errors import InputError
from facefold.utils.files import lock_directory
from test_plan import CHOSEN, RATES, jobs_of, scene
from test_trainer import CPU, TINY, Killed, task

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN = {
    "backbone": "test_convnext",
    "size": 32,
    "batch": 16,
    "epochs": 3,
    "lr": 2e-3,
    "ema": 0.5,
    "precision": "float32",
    "ranks": 2,
}
CASES = {
    "equal": PLAIN,
    "unequal": {**PLAIN, "batch": 7, "optimizer": "sgd", "lr": 0.05, "ema": 0.0},  # parts of 4 rows and of 3
    "watched": {
        **PLAIN,
        "schedule": "plateau",
        "plateau_patience": 0,
        "monitor": 0.2,
        "early_stopping": 1,
        "epochs": 6,
        "warmup": 1.0,
    },
    "frozen": {
        **PLAIN,
        "backbone": "test_resnet",
        "weights": "hub",
        "freeze_backbone": True,
        "lr": 0.2,
        "head": "average, dense 8",
        "augment": "none",
    },
}
BOUND = 1e-5  # between probabilities: the sum of two parts is rounded otherwise than that of the whole


def fit(folder: Path, name: str, case: str, among: Ranks) -> None:
    """Train the case in the folder of that name, and leave what came of it there."""
    made = dataclasses.replace(task(folder / name, CASES[case]), weights_dir=folder)
    result = fold_module.fit_fold(made, CPU, ranks=among)
    assert (result is not None) == among.first
    if result:
        np.savez(
            folder / name / "result.npz",
            oof=result.oof_prob,
            test=result.test_prob,
            repeated=result.facts["repeated_epoch"] or 0,
            curve=result.history.drop(columns="seconds").astype(float).to_numpy(),
            **result.state,
        )


def train_all(device: torch.device, folder: Path, among: Ranks = ALONE) -> None:
    """Every case; of several ranks one more that ends in its second epoch and goes on, and one where a single rank meets a NaN."""
    for case in CASES:
        fit(folder, case, case, among)
    if among.count == 1:
        return
    step, steps = fold_module.train_step, []

    def killed(*args):
        steps.append(1)
        if len(steps) == 6:
            raise Killed
        return step(*args)

    def spoilt(net, shown, labels, optimizer, scaler, fmt, made, *rest):
        loss = step(net, shown, labels, optimizer, scaler, fmt, made, *rest)
        steps.append(1)
        return loss * float("nan") if not among.first and made.lr == PLAIN["lr"] and len(steps) == 6 else loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_module, "train_step", killed)
        with pytest.raises(Killed):
            fit(folder, "killed", "equal", among)
    fit(folder, "killed", "equal", among)
    steps.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_module, "train_step", spoilt)
        fit(folder, "spoilt", "equal", among)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, one_thread):
    """`trained[ranks, name]`: what a case left, trained by one process or by two."""
    folders = {count: tmp_path_factory.mktemp(f"ranks_{count}") for count in (1, 2)}
    state = fold_module.zoo.pretrained.timm.create_model("test_resnet").state_dict()
    for folder in folders.values():
        save_file(state, folder / "test_resnet.safetensors")
        for name in (*CASES, "killed", "spoilt"):
            (folder / name).mkdir()
    train_all(CPU, folders[1])
    launcher.launch(train_all, [CPU, CPU], folders[2])
    return {
        (count, path.parent.name): dict(np.load(path))
        for count, folder in folders.items()
        for path in folder.rglob("result.npz")
    }


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_what_one_does(trained, case):
    one, two = trained[1, case], trained[2, case]
    assert np.ptp(one["oof"]) > 0.1
    np.testing.assert_allclose(two["oof"], one["oof"], rtol=0, atol=BOUND)
    np.testing.assert_allclose(two["test"], one["test"], rtol=0, atol=BOUND)
    np.testing.assert_allclose(two["curve"], one["curve"], rtol=0, atol=BOUND)


def test_ranks_that_were_killed_go_on_to_the_same_bytes(trained):
    whole, resumed = trained[2, "equal"], trained[2, "killed"]
    assert whole.keys() == resumed.keys() and all(whole[name].tobytes() == resumed[name].tobytes() for name in whole)


def test_a_loss_that_is_not_finite_in_one_rank_is_repeated_by_all(trained):
    assert trained[2, "spoilt"]["repeated"] == 1 and trained[2, "equal"]["repeated"] == 0


LIGHT = """import os, signal, sys

def dies(device, folder, ranks):
    with open(os.path.join(folder, f"pid_{ranks.rank}"), "w") as file:
        file.write(str(os.getpid()))
    ranks.summed(0.0)
    if not ranks.first:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.summed(0.0)  # waits for one that is gone
"""


class Ended(BaseException):
    """What stands in for the end of this process."""


def test_where_a_rank_is_killed_the_others_end_and_so_does_their_starter(tmp_path, monkeypatch, capfd):
    (tmp_path / "light.py").write_text(LIGHT)  # a rank that need not import all of a trainer
    monkeypatch.syspath_prepend(tmp_path)
    from light import dies

    kill = os.kill

    def not_this_one(process, number):
        if process == os.getpid():
            raise Ended(number)
        kill(process, number)

    monkeypatch.setattr(os, "kill", not_this_one)
    with pytest.raises(Ended) as end:
        launcher.launch(dies, [CPU, CPU], str(tmp_path))
    assert end.value.args == (signal.SIGKILL,)
    for rank in range(2):
        with pytest.raises(ProcessLookupError):
            kill(int((tmp_path / f"pid_{rank}").read_text()), 0)
    assert capfd.readouterr().err == ""


def failing(device, among):
    raise InputError("row 3 is wrong")


def test_the_first_failure_of_a_rank_is_raised_where_it_was_launched(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    for name in ("end_with_parent", "time.sleep", "distributed.init_process_group", "tqdm.set_lock"):
        monkeypatch.setattr(f"facefold.training.launcher.{name}", lambda *_, **__: None)

    def agent(config, entry):
        def run(failures, *rest):
            with pytest.raises(InputError):
                entry(failures, *rest)
            failures.put(RuntimeError("Connection closed by peer"))  # what another rank says of it
            failure = SimpleNamespace(exitcode=1, timestamp=0)
            monkeypatch.setattr(launcher.ChildFailedError, "format_msg", lambda self: "")
            raise launcher.ChildFailedError("_rank", {0: failure})

        return run

    monkeypatch.setattr(launcher, "elastic_launch", agent)
    with pytest.raises(InputError) as raised:
        launcher.launch(failing, [CPU])
    (note,) = raised.value.__notes__
    assert (
        str(raised.value) == "row 3 is wrong" and note.startswith("in rank 0 of 1:\nTraceback") and "in failing" in note
    )


def test_a_batch_that_a_gpu_does_not_hold_is_not_divided_by_one_rank_alone():
    def full(parts: int) -> torch.Tensor:
        raise torch.OutOfMemoryError(f"{parts}")

    with pytest.raises(torch.OutOfMemoryError, match="^1$") as raised:
        GradientAccumulation().step(full, 0, pytest.fail)
    assert (
        type(pickle.loads(pickle.dumps(raised.value))) is torch.OutOfMemoryError
    )  # so the engine says "lower batch in the recipe"


@given(st.integers(1, 8), st.integers(8, 70))
def test_the_parts_of_a_batch_are_all_of_it_and_weigh_as_much_as_they_have_rows(count, batch):
    parts = [Ranks(rank, count).share(np.arange(batch)) for rank in range(count)]
    assert np.concatenate(parts).tolist() == list(range(batch)) and max(map(len, parts)) - min(map(len, parts)) <= 1
    assert sum(Ranks(0, count).weight(len(part), batch) for part in parts) / count == pytest.approx(1)
    assert Ranks(1, 2).drawn == ("rank", 1) and Ranks(0, 2).drawn == ALONE.drawn == ()


def test_batch_norm_of_the_steps_looks_at_whole_batches_and_learns_into_the_net():
    made = parse_recipe("r", {"backbone": "test_efficientnet", "size": 32}, "r.toml")
    net, _ = build_model(made)
    twin = synchronised(net)
    assert learns(net) and twin is not net and twin.training
    kinds = [type(module) for module in twin.backbone.modules()]
    assert SyncBatchNormAct in kinds and not {nn.BatchNorm2d, BatchNormAct2d} & set(kinds)
    assert BatchNormAct2d in map(type, net.modules()) and nn.SyncBatchNorm not in map(type, net.modules())
    for of in ("parameters", "buffers"):
        assert [id(value) for value in getattr(net, of)()] == [id(value) for value in getattr(twin, of)()]
    plain, _ = build_model(parse_recipe("r", {"backbone": "test_convnext", "size": 32}, "r.toml"))
    assert synchronised(plain) is plain and not learns(plain)


@pytest.mark.parametrize(
    "settings, places, message",
    [
        (
            {**PLAIN, "ranks": 3},
            [CPU] * 2,
            "recipe big: ranks = 3 takes 3 processes at once, and there is room for 2 (--workers, else a core each); "
            "set ranks = 2, or train elsewhere",
        ),
        (
            {**PLAIN, "compile": False},
            [torch.device("cuda", 0)],
            "recipe big: ranks = 2 takes 2 GPUs at once, and there is room for 1 (--workers, else "
            "all that torch sees); set ranks = 1, or train elsewhere",
        ),
        (
            {**TINY, "ranks": 2},
            [CPU] * 2,
            "recipe big: the batch norm of cnn5 looks at whole batches, which torch does not do over ranks on the "
            "CPU: set ranks = 1, take GPUs, or a backbone without batch norm (ViT, ConvNeXt)",
        ),
    ],
)
def test_ranks_that_cannot_train_here_are_refused(settings, places, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        jobs.require_places(parse_recipe("big", settings, "big.toml"), places)


def test_ranks_that_can_train_here_are_not_refused():
    jobs.require_places(parse_recipe("big", PLAIN, "big.toml"), [CPU] * 2)
    jobs.require_places(
        parse_recipe("big", {**TINY, "ranks": 2}, "big.toml"), [torch.device("cuda", index) for index in range(2)]
    )
    jobs.require_places(parse_recipe("small", TINY, "small.toml"), [CPU])


def test_a_fold_job_launches_a_rank_a_device_and_only_the_first_writes(tmp_path, monkeypatch):
    job = jobs.FoldJob(tmp_path, Identity("big", "hash", "folds", "images", 0), NO_CORRECTIONS, 0, None, 0, ranks=2)
    held = []
    launched = []
    monkeypatch.setattr(
        jobs, "launch", lambda *args: (launched.append(args), held.append(is_held(fold_dir(tmp_path, "big", 0))))
    )
    monkeypatch.setattr(jobs, "remove_feature_caches", lambda *_: None)
    jobs.run_job(job, (CPU, CPU), 3)
    assert (
        launched == [(job.train, (CPU, CPU), 3)]
        and held == [True]
        and pickle.loads(pickle.dumps(job.train)).__self__ == job
    )
    monkeypatch.setattr(jobs, "_task", lambda *_: fold_module.FoldTask(*[None] * 10))
    monkeypatch.setattr(
        fold_module, "fit_fold", lambda *args: launched.append(args[-1])
    )  # None, as in a rank that is not the first
    job.train(CPU, 3, Ranks(1, 2))
    assert launched[1:] == [Ranks(1, 2)]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def is_held(folder) -> bool:
    """Whether the fold is locked before its ranks look at what is there: each must see the same."""
    try:
        with lock_directory(folder):
            return False
    except InputError:
        return True


GPUS = [torch.device("cuda", index) for index in range(4)]


def run_in_threads(monkeypatch, jobs_to_run: list, places: list, needs: dict) -> list[tuple]:
    """`engine.run` with threads for processes: (job, devices, daemon) as they were started. Fails where a device is used twice."""
    started, in_use, held = [], [], threading.Lock()

    def worker(pipe, work, job, devices, slot):
        time.sleep(0.001)
        with held:
            assert places[slot] == devices[0]
            for device in devices:
                in_use.remove(device)
        pipe.send(None)

    def process(target, args, daemon):
        def start():
            with held:
                started.append((args[2], args[3], daemon))
                in_use.extend(args[3])
                assert all(in_use.count(device) <= places.count(device) for device in in_use)
            thread.start()

        thread = threading.Thread(target=target, args=args)
        return SimpleNamespace(start=start, join=thread.join, pid=None)

    def pipe(duplex):
        ours, theirs = Pipe(duplex)
        return ours, SimpleNamespace(send=theirs.send, close=lambda: None)  # the thread's end is this process's as well

    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda _: SimpleNamespace(Pipe=pipe, Process=process))
    monkeypatch.setattr(workers, "_worker", worker)
    workers.run_jobs(jobs_to_run, places, None, needs=needs)
    return started


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 4), max_size=8))
def test_jobs_of_several_places_begin_in_their_order_on_devices_of_their_own(needed):
    wanted = [f"job {number}" for number in range(len(needed))]
    with pytest.MonkeyPatch.context() as patch:
        started = run_in_threads(patch, wanted, GPUS, dict(zip(wanted, needed)))
    assert [job for job, _, _ in started] == wanted and [len(devices) for _, devices, _ in started] == needed


def test_more_places_than_there_are_is_a_fault(monkeypatch):
    with pytest.raises(
        ValueError, match="jobs that wait for one another, or for more places than there are: many, last"
    ):
        run_in_threads(monkeypatch, ["one", "many", "last"], GPUS, {"many": 5})


def test_only_a_process_that_starts_none_is_a_daemon(monkeypatch):
    started = run_in_threads(monkeypatch, ["one", "pair"], [CPU, CPU], {"pair": 2})
    assert started == [("one", (CPU,), True), ("pair", (CPU, CPU), False)]


def test_work_of_one_place_is_given_its_device_and_of_several_all_of_them(monkeypatch):
    monkeypatch.setattr(workers, "end_with_parent", lambda: None)
    monkeypatch.setattr(workers.tqdm, "set_lock", lambda _: None)
    given_to, pipe = [], SimpleNamespace(send=lambda told: told)
    for devices in ((CPU,), (CPU, CPU)):
        workers._worker(pipe, lambda *args: given_to.append(args), "job", devices, 1)
    assert given_to == [("job", CPU, 1), ("job", (CPU, CPU), 1)]


def test_a_fold_of_two_ranks_costs_half_the_time_of_two_places(tmp_path):
    one = CHOSEN[0]
    two = dataclasses.replace(one, ranks=2)
    costs = [cost(made, dataclasses.replace(RATES, start=0.0, predict=0.0), 1000, 5, 300).fold for made in (one, two)]
    assert costs[1] == pytest.approx(costs[0] / 2)
    work = scene().work(two, 4)
    alone = dataclasses.replace(work, left=1)
    assert scene().seconds([work]) - scene().seconds([alone]) == pytest.approx(
        3 * work.cost.fold
    )  # one after the other
    path = tmp_path / "budget.json"
    for until, may in ((1350.0, False), (1450.0, True)):
        path.write_text('{"until": %f, "runs": {"lite0": {"shared": 0, "fold": 100}}}' % until)
        folds = [dataclasses.replace(job, ranks=2) for job in jobs_of("lite0", 4)]
        assert Keeper(path, folds, 2, lambda: True, lambda: 1000.0)(folds[0], []) is may
