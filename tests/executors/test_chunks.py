"""Chunks: sent full or when the first call has waited long enough, cancelled when nobody waits for any of them."""

import weakref
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trioflow import ParallelConfig, on_executor, open_parallel, process_parallel

CONFIG = ParallelConfig(max_workers=10, observer="noop")


class Manual(Executor):
    """Keeps what is submitted until the test says that it runs."""

    def __init__(self):
        self.futures = []
        self.requests = []

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.futures.append(future)
        self.requests.append((fn, *args))
        return future

    def finish(self, number):
        fn, *args = self.requests[number]
        self.futures[number].set_result(fn(*args))

    @property
    def sizes(self):
        return [len(request._calls) for _, request in self.requests]


class AtOnce(Manual):
    def submit(self, fn, /, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs)
        self.finish(-1)
        return future


def double(number):
    return number * 2


async def until(condition):
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - of threads
            await trio.sleep(0.001)


async def test_a_full_chunk_is_sent_at_once():
    executor = AtOnce()
    processor = on_executor(executor, double, chunk=5, max_wait=1000)
    with trio.fail_after(5):
        result = await process_parallel(range(20), processor, config=CONFIG)
    assert result.results == [number * 2 for number in range(20)]
    assert executor.sizes == [5] * 4


async def test_what_does_not_fill_a_chunk_is_sent_after_max_wait(autojump_clock):
    executor = AtOnce()
    processor = on_executor(executor, double, chunk=8, max_wait=3)
    # Only the first of the last two calls keeps the time.
    start = trio.current_time()
    ended = []

    async def call(number):
        await processor(number)
        ended.append(trio.current_time() - start)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(call, number)
    assert executor.sizes == [8, 2]
    assert ended[-2:] == [pytest.approx(3)] * 2  # the clock may jump while a thread works for the others


async def test_a_first_call_that_is_cancelled_hands_the_time_on(autojump_clock):
    executor = AtOnce()
    processor = on_executor(executor, double, chunk=8, max_wait=3)
    got = []

    async def call(number):
        got.append((await processor(number), trio.current_time() - start))

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            async with trio.open_nursery() as first:
                first.start_soon(processor, 0)
                await wait_all_tasks_blocked()
                nursery.start_soon(call, 1)
                nursery.start_soon(call, 2)
                await wait_all_tasks_blocked()
    assert sorted(got) == [(2, pytest.approx(3)), (4, pytest.approx(3))]
    assert executor.sizes == [2]


async def test_calls_that_are_cancelled_before_they_are_sent_are_not_sent(autojump_clock):
    executor = AtOnce()
    processor = on_executor(executor, double, chunk=2, max_wait=3)
    with trio.move_on_after(1):
        await processor(0)
    assert await processor(1) == 2
    assert executor.sizes == [1]


async def test_a_future_is_cancelled_when_nobody_waits_for_any_of_its_calls():
    executor = Manual()
    processor = on_executor(executor, double, chunk=2)
    scopes = [trio.CancelScope(), trio.CancelScope()]

    async def call(number):
        with scopes[number]:
            await processor(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, 0)
        nursery.start_soon(call, 1)
        await until(lambda: executor.futures)
        scopes[0].cancel()
        await trio.sleep(0.02)
        assert not executor.futures[0].cancelled()
        scopes[1].cancel()
        await until(executor.futures[0].cancelled)


async def test_a_call_that_runs_is_abandoned_and_its_late_result_dropped():
    executor = Manual()
    processor = on_executor(executor, double)
    config = ParallelConfig(max_workers=1, observer="noop")
    async with open_parallel([1, 2], processor, config=config) as run, trio.open_nursery() as nursery:
        nursery.start_soon(until, lambda: executor.futures)
        await until(lambda: executor.futures)
        executor.futures[0].set_running_or_notify_cancel()
        run.cancel()
    assert run.result().unfinished == [0, 1]
    executor.finish(0)  # nobody is there any more
    await trio.sleep(0.02)
    assert run.result().results == []


async def test_a_result_that_comes_after_the_end_of_trio_does_no_harm():
    executor = Manual()

    async def main():
        with trio.move_on_after(0.05):
            await on_executor(executor, double)(1)

    await trio.to_thread.run_sync(trio.run, main)
    assert len(executor.futures) == 1
    if not executor.futures[0].cancelled():
        executor.finish(0)


async def test_a_future_that_somebody_else_cancels_fails_its_calls():
    executor = Manual()
    got = []

    async def call():
        with pytest.raises(CancelledError, match="was it shut down") as caught:
            await on_executor(executor, double)(1)
        got.append(caught)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await until(lambda: executor.futures)
        executor.futures[0].cancel()
    assert got


async def test_a_thread_that_cannot_start_fails_the_calls_and_is_tried_again(monkeypatch):
    start, refused = trio.lowlevel.start_thread_soon, []

    def refuse_once(fn, deliver, name=None):
        if name == "trioflow executor" and not refused:
            refused.append(name)
            raise RuntimeError("can't start new thread")
        start(fn, deliver, name)

    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", refuse_once)
    config = ParallelConfig(max_workers=2, fail_fast=False, observer="noop")
    with trio.fail_after(5):
        result = await process_parallel(range(4), on_executor(AtOnce(), double, chunk=2), config=config)
    assert [str(failed.error) for failed in result.errors] == ["can't start new thread"] * 2
    assert result.results == [4, 6]


class Large:
    """An argument that a weak reference can follow."""


def name_of_kind(argument):
    return type(argument).__name__


async def test_an_argument_is_let_go_when_its_call_is_done():
    processor = on_executor(ThreadPoolExecutor, name_of_kind)
    gone = []

    async def call(_):
        argument = Large()
        reference = weakref.ref(argument)
        await processor(argument)
        del argument
        with trio.move_on_after(2):
            while reference() is not None:  # noqa: ASYNC110 - of threads
                await trio.sleep(0.001)
        gone.append(reference() is None)

    await process_parallel([1], call, config=CONFIG)
    assert gone == [True]


async def test_in_flight_are_no_more_than_the_workers():
    executor = Manual()
    processor = on_executor(executor, double, chunk=2)
    config = ParallelConfig(max_workers=6, observer="noop")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: process_parallel(range(20), processor, config=config))
        for done in range(10):
            await until(lambda: len(executor.futures) > done)  # noqa: B023 - awaited at once
            assert sum(executor.sizes[done:]) <= 6
            executor.finish(done)


async def test_max_wait_of_zero_sends_what_waits_in_the_same_turn(autojump_clock):
    executor = AtOnce()
    processor = on_executor(executor, double, chunk=100, max_wait=0)
    result = await process_parallel(range(10), processor, config=CONFIG)
    assert result.results == [number * 2 for number in range(10)]
    assert trio.current_time() == 0
