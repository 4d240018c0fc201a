"""Workers that die: what fails, what is made again, and what a retry makes of it."""

import os
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future

import executor_calls as calls
import pytest
from executor_pools import loky_pool, process_pool

from trioflow import ParallelConfig, RetryConfig, on_executor, process_parallel, with_retry
from trioflow.executors._sender import shut_down
from trioflow.testing import assert_accounted

pytestmark = pytest.mark.usefixtures("nothing_left")

CONFIG = ParallelConfig(fail_fast=False, observer="noop", max_workers=4)


@pytest.mark.parametrize("make", [process_pool, loky_pool])
async def test_a_killed_worker_breaks_the_pool_and_a_retry_mends_it(make, tmp_path):
    made = []

    def factory():
        made.append(make())
        return made[-1]

    jobs = [(number, str(tmp_path / "died")) for number in range(30)]
    processor = with_retry(
        on_executor(factory, calls.die_once, chunk=2),
        RetryConfig(max_attempts=3, initial_delay=0.01),
        on=BrokenExecutor,
    )
    result = await process_parallel(jobs, processor, config=CONFIG)
    assert_accounted(result, jobs)
    assert result.results == list(range(30))
    assert len(made) == 2
    with pytest.raises(RuntimeError):
        made[-1].submit(calls.pid, 1)  # shut down with the run


async def test_without_a_retry_the_calls_in_flight_fail_and_the_others_do_not():
    made = []

    def factory():
        made.append(process_pool())
        return made[-1]

    result = await process_parallel(range(30), on_executor(factory, calls.die_at_five), config=CONFIG)
    assert_accounted(result, range(30))
    assert 5 in {failed.index for failed in result.errors}
    assert 1 <= len(result.errors) <= CONFIG.max_workers
    assert all(isinstance(failed.error, BrokenExecutor) for failed in result.errors)
    assert len({id(failed.error) for failed in result.errors}) == len(result.errors)
    assert len(made) == 2


async def test_an_executor_of_the_callers_stays_broken_and_says_so():
    with process_pool() as pool:
        result = await process_parallel(range(1000), on_executor(pool, calls.die_at_five), config=CONFIG)
    assert_accounted(result, range(1000))
    assert 999 in {failed.index for failed in result.errors}
    assert "pass on_executor a function that creates one" in result.errors[-1].error.__notes__[-1]


@pytest.mark.skipif(os.name == "nt", reason="writes to the pool's pipe as POSIX has it")
@pytest.mark.parametrize("make", [process_pool, loky_pool])
def test_a_worker_killed_while_it_writes_a_result_does_not_hold_the_shutdown(make, tmp_path):
    executor = make()
    writer = executor._result_queue._writer
    executor.submit(calls.begin_a_result, str(tmp_path / "begun"))
    deadline = time.monotonic() + 30
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    thread = threading.Thread(target=shut_down, args=(executor,), kwargs={"at_once": True}, daemon=True)
    thread.start()
    thread.join(20)
    try:
        assert not thread.is_alive()
    finally:
        writer.close()  # otherwise a failure would hold the end of Python too


class Breaking(Executor):
    """Breaks when it is told, as pools do while nobody looks."""

    def __init__(self):
        self.is_broken = False
        self.shutdowns = 0

    def submit(self, fn, /, *args, **kwargs):
        if self.is_broken:
            raise BrokenExecutor("broken while idle")
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.shutdowns += 1


async def test_what_broke_while_idle_is_replaced_and_nothing_fails():
    made = []

    def factory():
        made.append(Breaking())
        return made[-1]

    def work(number):
        if number == 1:
            made[0].is_broken = True
        return number

    config = ParallelConfig(max_workers=1, observer="noop")
    result = await process_parallel(range(4), on_executor(factory, work), config=config)
    assert result.results == [0, 1, 2, 3]
    assert [executor.shutdowns for executor in made] == [1, 1]


async def test_a_factory_whose_executors_are_always_broken_fails_the_items():
    def factory():
        executor = Breaking()
        executor.is_broken = True
        return executor

    config = ParallelConfig(fail_fast=False, raise_if_all_failed=False, max_workers=1, observer="noop")
    result = await process_parallel(range(2), on_executor(factory, calls.pid), config=config)
    assert [str(failed.error) for failed in result.errors] == ["broken while idle"] * 2


async def test_a_factory_that_fails_is_asked_again():
    asked = []

    def factory():
        asked.append(threading.current_thread().name)
        if len(asked) == 1:
            raise OSError("no machine")
        return Breaking()

    config = ParallelConfig(fail_fast=False, max_workers=1, observer="noop")
    result = await process_parallel(range(2), on_executor(factory, calls.thread), config=config)
    assert [str(failed.error) for failed in result.errors] == ["no machine"]
    assert len(result.results) == 1
    assert "trioflow executor" in asked[0]  # never on the loop
