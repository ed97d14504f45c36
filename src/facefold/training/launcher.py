"""The ranks of a fold are started on this machine, and watched, by torchrun's own agent."""

import gc
import logging
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing import active_children, get_context
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from tqdm import tqdm

from facefold.training.ranks import Ranks
from facefold.utils.console import TerminalLock, be_quiet
from facefold.utils.processes import end_with_parent

PATIENCE = timedelta(days=1)  # of ranks that wait while the first one scores; one that dies is the agent's to notice


def launch(work: Callable[..., None], devices: Sequence[torch.device], *args: Any) -> None:
    """Run `work(device, *args, ranks)` in a process for each device until all are done. From the main thread.

    Where one fails the others are ended, and its exception is raised here; where one was killed this process ends by the same
    signal, so that whoever started it sees what it sees of a process that trains alone.
    """
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [logging.NullHandler()], False  # what goes wrong is raised
    failures, killed = get_context("spawn").SimpleQueue(), 0
    config = LaunchConfig(
        1,
        1,
        len(devices),
        run_id="fold",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(os.devnull),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        signals_to_handle="SIGTERM",
    )
    before = signal.getsignal(signal.SIGTERM)  # the agent sets its own
    try:
        elastic_launch(config, _rank)(failures, work, tuple(devices), args)
    except ChildFailedError as error:
        killed = -error.get_first_failure()[1].exitcode
        if killed < 0:
            raise (RuntimeError(str(error)) if failures.empty() else failures.get()) from None
    except BaseException:
        for rank in active_children():  # those that the agent was about to start when this process was told to end
            rank.terminate()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if killed:
        del failures
        gc.collect()  # the semaphores, which would stay behind
        os.kill(os.getpid(), killed)


def _rank(failures: SimpleQueue, work: Callable[..., None], devices: tuple[torch.device, ...], args: tuple) -> None:
    end_with_parent()
    ranks = Ranks(int(os.environ["RANK"]), len(devices), devices[int(os.environ["RANK"])])
    tqdm.set_lock(TerminalLock())
    if not ranks.first:
        be_quiet()
    try:
        if ranks.device.type == "cuda":
            torch.cuda.set_device(ranks.device)
            distributed.init_process_group("nccl", timeout=PATIENCE, device_id=ranks.device)
        else:
            torch.set_num_threads(1)
            distributed.init_process_group("gloo", timeout=PATIENCE)
        work(ranks.device, *args, ranks)
        distributed.destroy_process_group()
    except Exception as error:
        error.add_note(f"in rank {ranks.rank} of {ranks.count}:\n{traceback.format_exc()}")
        failures.put(error)  # the first one is the cause: the others fail only when this process is gone
        time.sleep(
            1
        )  # the agent looks every 0.1 s: where another was killed and this one failed of it, it finds that one
        raise
