"""The engines that calls are made on, and a look at what they leave behind."""

import sys
import threading
import time
from pathlib import Path

import pytest

# Workers import the functions of the tests by name, on the path that this process has: the tests are no package.
sys.path.insert(0, str(Path(__file__).parent))

from executor_pools import child_processes, interpreter_pool, loky_pool, process_pool, thread_pool


@pytest.fixture(scope="session")
def dask_client():
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    import dask

    dask.config.set({"distributed.worker.daemon": False, "distributed.comm.timeouts.connect": "20s"})
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


MAKES = {"threads": thread_pool, "processes": process_pool, "loky": loky_pool, "interpreters": interpreter_pool}


@pytest.fixture(params=[*MAKES, "dask"], scope="module")
def engine(request):
    """An executor of each kind, at work already: starting one for each test would take most of the time."""
    if request.param == "dask":
        from trioflow import dask_executor

        yield dask_executor(request.getfixturevalue("dask_client"))
        return
    with MAKES[request.param]() as executor:
        for future in [executor.submit(time.sleep, 0.2) for _ in range(2)]:
            future.result()
        yield executor


@pytest.fixture(params=MAKES)
def factory(request):
    """What makes an executor, of each kind that a run may make."""
    if request.param in {"loky", "interpreters"}:
        MAKES[request.param]().shutdown()
    return MAKES[request.param]


@pytest.fixture
def nothing_left():
    """No process, and no thread of an executor, is there after the test that was not there before."""
    before = child_processes()
    yield
    deadline = time.monotonic() + 2  # the system takes a moment to forget a process that was waited for
    while (left := child_processes() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left
    names = [thread.name for thread in threading.enumerate()]
    assert "trioflow executor" not in names, names
