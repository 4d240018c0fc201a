"""A process for each call in hand: killed when the call is cancelled, gone when the run ends."""

import multiprocessing.process
import os
import signal
import threading
from concurrent.futures import BrokenExecutor
from contextlib import suppress

import executor_calls as calls
import pytest
import trio
from executor_pools import child_processes

from trioflow import ParallelConfig, RetryConfig, TransferError, on_process, process_parallel, with_retry
from trioflow.executors import processes
from trioflow.testing import assert_accounted

pytestmark = [pytest.mark.usefixtures("nothing_left"), pytest.mark.skipif(os.name == "nt", reason="kills by signals")]

CONFIG = ParallelConfig(fail_fast=False, observer="noop", max_workers=2)


async def test_calls_run_elsewhere_and_processes_are_used_again():
    before = child_processes()
    result = await process_parallel(range(20), on_process(calls.pid), config=CONFIG)
    assert os.getpid() not in result.results
    assert len(set(result.results)) <= 2
    assert child_processes() == before


async def test_outcomes_are_those_of_the_function():
    result = await process_parallel(range(10), on_process(calls.square), config=CONFIG)
    assert_accounted(result, range(10))
    assert str(result.errors[0].error) == "bad 7"
    assert "in square" in result.errors[0].error.__notes__[0]
    assert await on_process(calls.square_async)(3) == 9
    assert await on_process(calls.add)(1, second=2, third=3) == 6


async def test_a_time_limit_kills_a_busy_loop():
    config = ParallelConfig(fail_fast=False, observer="noop", max_workers=2, task_timeout=1.5)
    processor = on_process(calls.spin)
    before = child_processes()

    async def either(number):
        if number:
            return number
        return await processor(number)

    with trio.fail_after(20):
        result = await process_parallel([0, 1], either, config=config)
        assert child_processes() == before
    assert isinstance(result.errors[0].error, trio.TooSlowError)


async def test_a_process_that_another_thread_reaps_is_killed_all_the_same(monkeypatch):
    reap, lost = os.waitpid, []

    def lose_the_race_twice(pid, options):
        if cancelled.is_set() and len(lost) < 2:
            lost.append(pid)
            raise ChildProcessError  # what the kernel says when the other thread was first
        return reap(pid, options)

    async def spin(number):
        with trio.move_on_after(1.5):
            await on_process(calls.spin)(number)
        return "cancelled"

    cancelled = threading.Event()
    kill = multiprocessing.process.BaseProcess.kill
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "kill", lambda self: (cancelled.set(), kill(self)))
    monkeypatch.setattr(os, "waitpid", lose_the_race_twice)
    with trio.fail_after(20):
        result = await process_parallel([1], spin, config=CONFIG)
    assert result.results == ["cancelled"]
    assert len(lost) == 2


class ReadSlowly:
    """Our end of a pipe, read by a thread that is slow to notice the end."""

    def __init__(self, pipe):
        self.pipe = pipe
        self.reading, self.go_on, self.left = threading.Event(), threading.Event(), threading.Event()

    def send_bytes(self, data):
        self.pipe.send_bytes(data)

    def recv_bytes(self):
        self.reading.set()
        self.go_on.wait(20)
        try:
            return self.pipe.recv_bytes()
        finally:
            self.left.set()

    def close(self):
        self.pipe.close()


async def test_a_pipe_that_an_abandoned_exchange_reads_is_closed_only_after_it(monkeypatch):
    pipes = []
    start = processes._Process.start

    def start_slow():
        process = start()
        process._pipe = ReadSlowly(process._pipe)
        pipes.append(process._pipe)
        return process

    monkeypatch.setattr(processes._Process, "start", start_slow)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on_process(calls.spin), 1)
            with trio.fail_after(20):
                while not (pipes and pipes[0].reading.is_set()):  # noqa: ASYNC110 - of a thread
                    await trio.sleep(0.01)
            scope.cancel()
    (pipe,) = pipes
    # The process has ended. A file opened now would have the descriptor of a pipe that is closed.
    assert not pipe.pipe.closed
    pipe.go_on.set()
    assert pipe.left.wait(20)
    with trio.fail_after(20):
        while not pipe.pipe.closed:  # noqa: ASYNC110 - of a thread
            await trio.sleep(0.01)


async def test_a_cancellation_kills_all_at_once():
    with trio.move_on_after(1.5) as scope, trio.fail_after(15):
        await process_parallel([1, 2], on_process(calls.spin), config=CONFIG)
    assert scope.cancelled_caught
    assert trio.current_time() - scope.deadline < 5


@pytest.mark.parametrize(("fn", "how"), [(calls.die_at_five, "SIGKILL"), (calls.exit_at_five, "status 3")])
async def test_a_death_fails_that_call_alone(fn, how):
    result = await process_parallel(range(10), on_process(fn), config=CONFIG)
    assert_accounted(result, range(10))
    (failed,) = result.errors
    assert failed.index == 5
    assert isinstance(failed.error, BrokenExecutor)
    assert how in str(failed.error)


async def test_a_retry_has_a_new_process(tmp_path):
    processor = with_retry(
        on_process(calls.die_once), RetryConfig(max_attempts=2, initial_delay=0.01), on=BrokenExecutor
    )
    jobs = [(number, str(tmp_path / "died")) for number in range(8)]
    result = await process_parallel(jobs, processor, config=CONFIG)
    assert result.results == list(range(8))


async def test_what_does_not_pickle_is_named_and_the_process_goes_on():
    import threading

    items = [1, threading.Lock(), 2]
    result = await process_parallel(items, on_process(calls.pid), config=CONFIG)
    (failed,) = result.errors
    assert isinstance(failed.error, TransferError)
    with pytest.raises(TransferError, match="the result, a lock"):
        await on_process(calls.give_lock)(1)


async def test_ctrl_c_is_not_for_the_children():
    others = child_processes()  # of other tests: a server, a cluster
    with trio.open_signal_receiver(signal.SIGINT):
        processor = on_process(calls.nap)
        async with trio.open_nursery() as nursery:
            got = []

            async def call():
                got.append(await processor(1.0))

            nursery.start_soon(call)
            # At any time: while Python starts in it, while it imports, and during the call.
            while not got:
                for child in child_processes() - others:
                    with suppress(ProcessLookupError):
                        os.kill(child, signal.SIGINT)
                await trio.sleep(0.02)
    assert len(got) == 1
