"""A real cluster of processes on loopback: at least once, never merged, and a poison item fails."""

import gc
import os
import signal
from functools import partial

import executor_calls as calls
import pytest
import trio

from trioflow import ConfigError, ParallelConfig, dask_executor, on_executor, process_parallel
from trioflow.testing import assert_accounted

distributed = pytest.importorskip("distributed", reason="Dask is not installed")

CONFIG = ParallelConfig(fail_fast=False, observer="noop", max_workers=4)


async def until_cluster_is_empty(client):
    with trio.fail_after(10):
        while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):  # noqa: ASYNC110 - of processes
            await trio.sleep(0.02)


async def test_equal_calls_are_made_each(dask_client, tmp_path):
    jobs = [(0, str(tmp_path))] * 20
    processor = on_executor(dask_executor(dask_client), calls.write_name, chunk=2)
    await process_parallel(jobs, processor, config=CONFIG)
    assert len(list(tmp_path.iterdir())) == 20


async def test_lambdas_and_closures_travel(dask_client):
    offset = 5
    processor = on_executor(dask_executor(dask_client), lambda number: number + offset)
    assert (await process_parallel([1, 2], processor, config=CONFIG)).results == [6, 7]


async def test_a_killed_worker_costs_calls_that_are_made_again(dask_client, tmp_path):
    config = ParallelConfig(fail_fast=False, observer="noop", max_workers=20)
    jobs = [(number, str(tmp_path)) for number in range(100)]
    processor = on_executor(dask_executor(dask_client), calls.write_name, chunk=5)
    async with trio.open_nursery() as nursery:

        async def kill_one():
            while len(list(tmp_path.iterdir())) < 10:  # noqa: ASYNC110 - of processes
                await trio.sleep(0.005)
            pids = await trio.to_thread.run_sync(partial(dask_client.run, os.getpid))
            os.kill(next(iter(pids.values())), signal.SIGKILL)

        nursery.start_soon(kill_one)
        result = await process_parallel(jobs, processor, config=config)
    assert_accounted(result, jobs)
    assert result.errors == []
    made = {file.name.partition("-")[0] for file in tmp_path.iterdir()}
    assert made == set(result.results)  # each at least once, under one key
    assert len(made) == 100


@pytest.fixture
def without_gc():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_gc")
async def test_an_item_that_kills_its_workers_fails_and_leaves_the_cluster(dask_client):
    allowed = dask_client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures)

    def allow(number, dask_scheduler):
        dask_scheduler.allowed_failures = number

    dask_client.run_on_scheduler(partial(allow, 0))
    try:
        processor = on_executor(dask_executor(dask_client), calls.die_at_five)
        config = ParallelConfig(fail_fast=False, observer="noop", max_workers=1)
        result = await process_parallel(range(8), processor, config=config)
        await until_cluster_is_empty(dask_client)
    finally:
        dask_client.run_on_scheduler(partial(allow, allowed))
    assert_accounted(result, range(8))
    (failed,) = result.errors
    assert failed.index == 5
    assert type(failed.error).__name__ == "KilledWorker"


async def test_cancelled_calls_leave_the_cluster(dask_client):
    processor = on_executor(dask_executor(dask_client), calls.nap)
    with trio.move_on_after(0.5):
        await process_parallel([0.3] * 20, processor, config=CONFIG)
    await until_cluster_is_empty(dask_client)


async def test_what_was_shut_down_or_closed_says_so(dask_client):
    executor = dask_executor(dask_client)
    processor = on_executor(executor, calls.pid)
    assert await processor(1)
    executor.shutdown()
    with pytest.raises(ConfigError, match="an executor that stays open during the run"):
        await processor(1)
    assert dask_client.status == "running"


def test_other_things_than_an_open_client_are_refused(dask_client):
    with pytest.raises(ConfigError, match=r"client must be an open distributed.Client"):
        dask_executor(3)
    for given in (dask_client, dask_client.get_executor()):
        with pytest.raises(ConfigError, match=r"executor must be dask_executor\(client\)"):
            on_executor(given, calls.pid)
    closed = distributed.Client(dask_client.scheduler.address)
    closed.close()
    with pytest.raises(ConfigError, match="client must be an open"):
        dask_executor(closed)
