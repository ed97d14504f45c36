import os
import signal
import time

import pytest

from facefold.processes import pool


def test_processes_of_a_pool_leave_ctrl_c_to_the_parent():
    with pool(1) as one:
        worker = one.submit(os.getpid).result()
        os.kill(worker, signal.SIGINT)
        assert one.submit(os.getpid).result() == worker != os.getpid()


def test_a_pool_that_is_stopped_drops_what_it_has_not_begun():
    with pytest.raises(KeyboardInterrupt), pool(1) as one:
        asked = [one.submit(time.sleep, 0.1) for _ in range(1000)]
        raise KeyboardInterrupt
    assert sum(future.cancelled() for future in asked) > 900
