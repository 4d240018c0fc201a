"""What holds for every run: the account adds up, order, bounds; with races drawn by Hypothesis."""

import os

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from trioflow import (
    ParallelConfig,
    ParallelError,
    RecordingObserver,
    RetryConfig,
    open_parallel,
    process_parallel,
)

SETTINGS = settings(
    max_examples=int(os.environ.get("TRIOFLOW_EXAMPLES", "150")), deadline=None
)

behaviours = st.sampled_from(
    ["ok", "ok", "ok", "fail", "yield", "nap", "long nap", "stale", "swallow", "shield", "own scope", "leak"]
)


class Boom(Exception):
    pass


async def behave(what):
    """Act as a processor that does `what`."""
    if what == "fail":
        await trio.lowlevel.checkpoint()
        raise Boom(what)
    if what == "yield":
        await trio.lowlevel.checkpoint()
    elif what in {"nap", "long nap"}:
        await trio.sleep(1 if what == "nap" else 10)
    elif what == "stale":
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                stale = cancelled
        raise stale
    elif what == "swallow":
        try:
            await trio.sleep(3)
        except trio.Cancelled:
            return "swallowed"
    elif what == "shield":
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
    elif what == "own scope":
        with trio.move_on_after(1):
            await trio.sleep_forever()
    elif what == "leak":
        scope = trio.CancelScope()
        scope.__enter__()
        scope.cancel()
        await trio.lowlevel.checkpoint()
    return what


def source_of(items, kind):
    def sync():
        yield from items

    async def async_():
        for item in items:
            await trio.lowlevel.checkpoint()
            yield item

    return {"list": list(items), "sync": sync(), "async": async_()}[kind]


def assert_accounted(result, items, ran):
    """Results, errors and unfinished are each index once; what returned is there, whatever came after."""
    failed = [failure.index for failure in result.errors]
    assert result.indices == sorted(result.indices)
    assert failed == sorted(failed)
    assert result.unfinished == sorted(result.unfinished)
    assert sorted([*result.indices, *failed, *result.unfinished]) == list(range(result.total))
    assert len(result.results) == len(result.indices)
    for failure in result.errors:
        assert failure.item is None or failure.item == items[failure.index]
    assert sorted(ran["returned"]) == result.indices
    assert set(ran["raised"]) <= set(failed)


@SETTINGS
@given(
    plan=st.lists(behaviours, max_size=30),
    kind=st.sampled_from(["list", "sync", "async"]),
    workers=st.integers(1, 6),
    buffer=st.integers(0, 4),
    fail_fast=st.booleans(),
    ordered=st.booleans(),
    timeout=st.none() | st.floats(0.5, 12),
    deadline=st.none() | st.floats(0.5, 12),
    leave_after=st.none() | st.integers(0, 10),
    end=st.sampled_from(["none", "drain", "cancel"]),
)
def test_nothing_is_lost(plan, kind, workers, buffer, fail_fast, ordered, timeout, deadline, leave_after, end):
    ran = {"returned": [], "raised": []}
    heard = RecordingObserver()
    config = ParallelConfig(max_workers=workers, buffer=buffer, fail_fast=fail_fast, timeout=timeout)
    items = list(enumerate(plan))

    async def processor(item):
        index, what = item
        try:
            result = await behave(what)
        except Boom:
            ran["raised"].append(index)
            raise
        ran["returned"].append(index)
        return result

    async def main():
        taken = []
        living = trio.lowlevel.current_statistics().tasks_living
        with trio.move_on_after(deadline or 1000):
            try:
                source = source_of(items, kind)
                async with open_parallel(source, processor, config=config, ordered=ordered, observer=heard) as run:
                    async for outcome in run:
                        taken.append(outcome.index)
                        if len(taken) == 3 and end != "none":
                            run.drain() if end == "drain" else run.cancel()
                        if leave_after is not None and len(taken) > leave_after:
                            break
            except ParallelError as error:
                assert fail_fast
                assert error.errors == run.result().errors
        result = run.result()
        assert_accounted(result, items, ran)
        assert len(set(taken)) == len(taken)
        assert set(taken) <= {*result.indices, *(failure.index for failure in result.errors)}
        progress = run.progress.value
        assert (progress.completed, progress.failed) == (len(result.results), len(result.errors))
        if ordered and end == "none" and leave_after is None and deadline is None and not fail_fast:
            assert taken == list(range(result.total))
        assert trio.lowlevel.current_statistics().tasks_living == living

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    starts = [event.data["item_index"] for event in heard.events if event.type == "worker.start"]
    ends = [event.data["item_index"] for event in heard.events if event.type == "worker.complete"]
    assert sorted(starts) == sorted(ends)
    assert [event.type for event in heard.events][-1] == "parallel.complete"


@SETTINGS
@given(
    plan=st.lists(st.sampled_from(["ok", "fail", "yield", "nap", "long nap", "leak"]), max_size=30),
    kind=st.sampled_from(["list", "sync", "async"]),
    workers=st.integers(1, 6),
    fail_fast=st.booleans(),
    attempts=st.integers(1, 3),
)
def test_what_is_returned_and_what_is_raised_follow_the_table(plan, kind, workers, fail_fast, attempts):
    retry = RetryConfig(max_attempts=attempts, initial_delay=0.1)
    config = ParallelConfig(max_workers=workers, fail_fast=fail_fast, retry=retry, observer="noop")
    completed = []

    async def main():
        return await process_parallel(
            source_of(plan, kind), behave, config=config, progress=lambda *call: completed.append(call)
        )

    failing = [index for index, what in enumerate(plan) if what in {"fail", "leak"}]
    try:
        result = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    except ParallelError as error:
        result = error.result
        assert failing
        assert fail_fast or len(failing) == len(plan)
        assert error.errors == result.errors
    else:
        assert not failing or (not fail_fast and len(failing) < len(plan))
        assert [failure.index for failure in result.errors] == failing
        assert result.unfinished == []
    for failure in result.errors:
        assert failure.attempts == (attempts if plan[failure.index] == "fail" else 1)
    assert [call[0] for call in completed] == list(range(1, len(completed) + 1))
    assert len(completed) == len(result.results)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 5), buffer=st.integers(1, 5), ordered=st.booleans())
def test_never_more_held_than_workers_plus_buffer(seed, workers, buffer, ordered):
    import random

    rng = random.Random(seed)
    pulled = yielded = most = 0

    def source():
        nonlocal pulled, most
        for item in range(60):
            pulled += 1
            most = max(most, pulled - yielded)
            yield item

    async def jittery(item):
        for _ in range(rng.randrange(5)):
            await trio.lowlevel.checkpoint()

    async def main():
        nonlocal yielded
        config = ParallelConfig(max_workers=workers, buffer=buffer, observer="noop")
        async with open_parallel(source(), jittery, config=config, ordered=ordered) as run:
            async for _ in run:
                yielded += 1
                for _ in range(rng.randrange(5)):
                    await trio.lowlevel.checkpoint()

    trio.run(main)
    assert yielded == 60
    assert most <= workers + buffer
