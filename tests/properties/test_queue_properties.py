"""A queue that grows, under any schedule: every item once, the account exact, the end found and not too early."""

import os

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from trioflow import MemoryStore, ParallelConfig, ParallelError, WorkQueue, open_parallel, process_parallel

SETTINGS = settings(max_examples=int(os.environ.get("TRIOFLOW_EXAMPLES", "150")), deadline=None)

MOST = 60


@pytest.fixture(autouse=True)
def _scheduler_as_it_was():
    before = trio._core._run._r
    yield
    trio._core._run._r = before


class Work:
    """What an item leads to: checkpoints before, children put meanwhile or by the body, perhaps a failure."""

    def __init__(self, rng, workers_put, failing, deduped):
        self.rng = rng
        self.workers_put = workers_put
        self.failing = failing
        self.put = 0
        self.queue = WorkQueue(dedupe=(lambda item: item) if deduped else None)
        self.returned = []
        self.refused = 0

    async def process(self, item):
        for _ in range(self.rng.randrange(4)):
            await (trio.lowlevel.checkpoint() if self.rng.random() < 0.8 else trio.sleep(1))
        if self.workers_put:
            self.grow()
        if self.failing and self.rng.random() < 0.2:
            raise ValueError(item)
        self.returned.append(item)
        return item

    def grow(self):
        for _ in range(self.rng.choice([0, 0, 1, 1, 2, 5])):
            if self.put < MOST:
                try:
                    self.queue.put(self.put)
                except RuntimeError:
                    self.refused += 1
                    return
                self.put += 1


async def consume(run, work, taken, pause):
    async for outcome in run:
        taken.append(outcome.index)
        for _ in range(work.rng.randrange(pause)):
            await trio.lowlevel.checkpoint()
        if not work.workers_put:
            work.grow()


@SETTINGS
@given(
    rng=st.randoms(use_true_random=True),
    first=st.integers(0, 8),
    workers=st.integers(1, 5),
    buffer=st.integers(0, 4),
    workers_put=st.booleans(),
    ordered=st.booleans(),
    loops=st.integers(0, 3),
    mode=st.sampled_from(["ok", "collect", "fail fast"]),
    end=st.sampled_from(["none", "none", "drain", "cancel", "timeout", "deadline", "break"]),
    kept=st.booleans(),
    deduped=st.booleans(),
)
def test_every_item_that_is_put_is_accounted_for(
    rng, first, workers, buffer, workers_put, ordered, loops, mode, end, kept, deduped
):
    trio._core._run._r = rng
    workers_put = workers_put or not loops
    kept = kept and not workers_put
    work = Work(rng, workers_put, mode != "ok", deduped)
    for item in range(first):
        work.queue.put(item)
    work.put = first
    config = ParallelConfig(
        max_workers=workers,
        buffer=buffer,
        fail_fast=mode != "collect",
        raise_if_all_failed=False,
        timeout=3 if end == "timeout" else None,
        observer="noop",
    )
    where = {"store": MemoryStore(), "run_id": "run", "key": str} if kept else {}
    taken = []

    async def stop(run):
        if end == "drain":
            await trio.sleep(2)
            run.drain()
        elif end == "cancel":
            await trio.sleep(2)
            run.cancel()

    async def stream():
        async with open_parallel(work.queue, work.process, config=config, ordered=ordered, **where) as run:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop, run)
                for pause in range(1, loops + 1):
                    nursery.start_soon(consume, run, work, taken, pause)
                if end == "break":
                    await trio.sleep(2)
                    nursery.cancel_scope.cancel()
        return run.result()

    async def main():
        living = trio.lowlevel.current_statistics().tasks_living
        result = None
        with trio.fail_after(1000), trio.move_on_after(2 if end == "deadline" else 999) as scope:
            try:
                if loops:
                    result = await stream()
                else:
                    result = await process_parallel(work.queue, work.process, config=config, **where)
            except ParallelError as error:
                assert mode == "fail fast" or end == "timeout"
                result = error.result
        assert trio.lowlevel.current_statistics().tasks_living == living
        assert not scope.cancelled_caught or end == "deadline"
        return result

    result = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(taken) == len(set(taken))
    with pytest.raises(RuntimeError, match="after the end"):
        work.queue.put("late")
    if result is None:
        return
    failed = [failure.index for failure in result.errors]
    assert sorted([*result.indices, *failed, *result.unfinished]) == list(range(result.total))
    # First in, first out: what was put is what was pulled and, where the run was cut short, what waits.
    assert result.results == result.indices
    assert sorted(work.returned) == result.results
    assert result.total + work.queue.waiting == work.put
    if end == "none" and (mode != "fail fast" or not failed):
        assert work.refused == 0
        assert work.queue.waiting == 0
        assert result.unfinished == []
        assert result.status == "complete"
        if loops:
            assert sorted(taken) == list(range(result.total))
