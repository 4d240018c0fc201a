"""The engine under orders that Trio's scheduler never takes by itself, with everything that can go wrong in a run.

Trio reverses a batch of runnable tasks or leaves it; here Hypothesis draws the order of each. A case is a source, a
behaviour for each item, a consumer, and what happens to the run at which step of the scheduler. A lost wake-up shows
as a run that only the watchdog, far away in the time of a `MockClock`, ends.

`TRIOFLOW_FUZZ=30000 pytest tests/properties/test_engine_fuzz.py --hypothesis-seed=1` plays so many.
"""

import os
import random
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import islice

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from trioflow import ParallelConfig, ParallelError, RetryConfig, WorkQueue, open_parallel, process_parallel
from trioflow._runtime.errors import strip_cancelled
from trioflow.errors import leaves
from trioflow.workflows import parallel

CASES = int(os.environ.get("TRIOFLOW_FUZZ", "1000"))

ORDERS = 5
"""Orders in which each run that was drawn is played: drawing one takes longer than playing it."""

FAR = 1e6
"""Seconds after which a run hangs."""

MANY_STEPS = 50_000
"""Steps of the scheduler after which a run goes round in circles."""

PROCESSORS = ["ok", "ok", "ok", "checkpoint", "checkpoint", "checkpoints", "nap", "nap", "naps", "raise", "raise-late", "shield", "swallow", "stubborn", "stale", "leak", "leak-open", "cancel-leaks", "own-scope", "nest", "nest-stream"]

NESTED = ParallelConfig(max_workers=2, observer="noop")

LEAKY = {"stale", "leak", "leak-open", "cancel-leaks"}

PAUSES = st.sampled_from(["none", "none", "none", "checkpoint", "checkpoints", "nap", "naps"])


class Boom(Exception):
    """What the items of a case raise."""


class SourceBoom(Exception):
    pass


class ProgressBoom(Exception):
    pass


class BodyBoom(Exception):
    pass


@dataclass(frozen=True)
class Case:
    """One run, drawn."""

    plan: list
    source: str
    source_pauses: list
    source_end: str
    holds: str
    face: str
    consumer_pauses: list
    leave: str
    leave_after: int
    at: dict
    config: ParallelConfig
    keep: bool
    order: str
    seed: int


@st.composite
def cases(draw):
    face = draw(st.sampled_from(["process", "process", "progress", "stream", "ordered", "several", "several ordered"]))
    streamed = face not in {"process", "progress"}
    many = draw(st.sampled_from([False, False, False, True]))
    # Of few kinds each: runs of the same are what a batch needs to go wrong.
    kinds = draw(st.lists(st.sampled_from(PROCESSORS), min_size=1, max_size=4))
    fewest = draw(st.sampled_from([0, 8, 16]))
    plan = draw(st.lists(st.sampled_from(kinds), min_size=fewest, max_size=24)) * (5 if many else 1)
    actions = ["outer", "drain", "cancel"] if streamed else ["outer"]
    config = ParallelConfig(
        max_workers=draw(st.integers(1, 20 if many else 6)),
        buffer=draw(st.integers(0, 40 if many else 6)),
        fail_fast=draw(st.booleans()),
        timeout=draw(st.sampled_from([None, None, 0.5, 1.0, 2.0, 3.5, 8.0])),
        task_timeout=None if LEAKY & set(plan) else draw(st.sampled_from([None, None, 1.5])),
        max_per_second=draw(st.sampled_from([None] * 5 + [2.0])),
        retry=draw(st.sampled_from([None] * 5 + [RetryConfig(max_attempts=2, initial_delay=1)])),
        observer="noop",
    )
    return Case(
        plan=plan,
        source=draw(st.sampled_from(["list", "iterator", "generator", "async", "async", "channel", "queue"])),
        source_pauses=draw(st.lists(PAUSES, min_size=1, max_size=5)),
        source_end=draw(st.sampled_from(["plain", "plain", "plain", "raise", "close-raise", "swallow", "wait"])),
        holds=draw(st.sampled_from(["nothing", "nothing", "scope", "nursery"])),
        face=face,
        consumer_pauses=draw(st.lists(PAUSES, min_size=1, max_size=4)),
        leave=draw(st.sampled_from(["never", "never", "break", "raise", "unseen", "impatient", "look", "watch"])),
        leave_after=draw(st.integers(0, 12)),
        at=draw(st.dictionaries(st.integers(1, 150), st.sampled_from(actions), max_size=2)),
        config=config,
        keep=draw(st.booleans()),
        order=draw(st.sampled_from(["shuffled", "shuffled", "ranked", "reversed"])),
        seed=draw(st.integers(0, 2**32)),
    )


class Order:
    """In the place of Trio's own random: the order of each batch of tasks.

    Ranked, a task stays before or after the others for a while, which a shuffle rarely gives.
    """

    def __init__(self, kind, seed):
        self._random = random.Random(seed)
        self._kind = kind
        self._ranks = {}

    def shuffle(self, batch):
        if self._kind == "shuffled":
            self._random.shuffle(batch)
        else:
            if self._random.random() < 0.05:
                self._ranks.clear()
            batch.sort(key=lambda task: self._ranks.setdefault(task._counter, self._random.random()))

    def random(self):
        return self._random.random()


@contextmanager
def scheduled(kind, seed):
    """Have Trio order each batch of tasks so."""
    run = trio._core._run
    before = run._r, run._ALLOW_DETERMINISTIC_SCHEDULING
    run._r, run._ALLOW_DETERMINISTIC_SCHEDULING = Order(kind, seed), kind != "reversed"
    try:
        yield
    finally:
        run._r, run._ALLOW_DETERMINISTIC_SCHEDULING = before


@contextmanager
def seen_by(play):
    """Let `play` have the engine of its run."""
    open_pool = parallel._open_pool

    def open_and_show(*args, **options):
        pool = open_pool(*args, **options)
        play.pool = play.pool or pool
        return pool

    parallel._open_pool = open_and_show
    try:
        yield
    finally:
        parallel._open_pool = open_pool


async def pause(how):
    if how == "checkpoint":
        await trio.lowlevel.checkpoint()
    elif how == "checkpoints":
        for _ in range(5):
            await trio.lowlevel.checkpoint()
    elif how == "nap":
        await trio.sleep(1)
    elif how == "naps":
        await trio.sleep(1)
        await trio.sleep(1.5)


async def quick(item):
    await trio.lowlevel.checkpoint()
    return item


async def make_stale():
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            return cancelled


class Source:
    """The items of a case, as it wants them pulled, and what happened to them."""

    def __init__(self, case):
        self._case = case
        self._left = enumerate(case.plan)
        self.counted = case.source not in {"list", "channel", "queue"}
        self.put_next = lambda: None
        self.on_broken = lambda: None
        self.pulled = 0
        self.broke = []
        self.items = {
            "list": lambda: list(enumerate(case.plan)),
            "iterator": lambda: self,
            "generator": self._generate,
            "async": self._generate_async,
            "channel": self._channel,
            "queue": self._queue,
        }[case.source]()

    def __iter__(self):
        return self

    def __next__(self):
        item = next(self._left)
        self.pulled += 1
        return item

    def left_open(self):
        if self._case.source == "generator":
            return self.items.gi_frame is not None
        return self._case.source == "async" and self.items.ag_frame is not None

    def _channel(self):
        send, receive = trio.open_memory_channel(len(self._case.plan))
        for item in self._left:
            send.send_nowait(item)
        send.close()
        return receive

    def _queue(self):
        # Half is there, and each item that begins brings another.
        items = list(self._left)
        half = (len(items) + 1) // 2
        queue, rest = WorkQueue(items[:half]), iter(items[half:])
        self.put_next = lambda: [queue.put(item) for item in islice(rest, 1)]
        return queue

    def _generate(self):
        try:
            yield from self
            self._break("raise")
        finally:
            self._break("close-raise")

    async def _generate_async(self):
        pauses = self._case.source_pauses
        try:
            async with self._held():
                for item in self._left:
                    await self._pause(pauses[item[0] % len(pauses)])
                    self.pulled += 1
                    yield item
                if self._case.source_end == "wait":
                    await trio.sleep(5)
                self._break("raise")
        finally:
            self._break("close-raise")

    async def _pause(self, how):
        try:
            await pause(how)
        except trio.Cancelled:
            if self._case.source_end != "swallow":
                raise

    def _break(self, where):
        if self._case.source_end == where:
            self.broke.append(SourceBoom)
            if self._case.source == "generator":
                self.on_broken()  # at once: no task of its own is on the way out
            raise SourceBoom(where)

    @asynccontextmanager
    async def _held(self):
        if self._case.holds == "scope":
            with trio.fail_after(FAR / 10):
                yield
        elif self._case.holds == "nursery":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                yield
                nursery.cancel_scope.cancel()
        else:
            yield


class Play(trio.abc.Instrument):
    """One case played: what happens in it, and what was seen."""

    def __init__(self, case):
        self.case = case
        self.streamed = case.face not in {"process", "progress"}
        self.window = case.config.max_workers + (case.config.buffer or case.config.max_workers)
        self.source = Source(case)
        self.outer = trio.CancelScope()
        self.pool = self.run = self.result = self.error = self.stale = None
        self.steps = self.active = self.finished = self.waiting = self.most_held = 0
        self.began, self.returned, self.raised, self.taken, self.told = set(), [], set(), [], []
        # What the run was told to do, what user code broke it with, what it did wrong.
        self.acted, self.broke, self.wrong = set(), [], []
        # Since when no item may begin; draining, those that were claimed may still wait for the rate.
        self.stopped = self.draining = False
        self.leaked = []
        self.source.on_broken = self.stop

    # At each step of the scheduler.

    def before_task_step(self, task):
        self.steps += 1
        action = self.case.at.get(self.steps)
        if self.steps == MANY_STEPS:
            self.wrong.append("it goes round in circles")
            action = "outer"
        if action == "outer":
            self.outer.cancel()
            self.acted.add("cancelled")
            self.stopped = True
        elif action is not None and self.run is not None and not self.run._pool.ledger.ended:
            self.run.drain() if action == "drain" else self.run.cancel()
            self.acted.add("drained" if action == "drain" else "cancelled")
            self.draining = True
            self.stopped = self.stopped or action == "cancel"

    def after_task_step(self, task):
        if self.case.config.max_per_second is not None:
            return  # an item may fail before it begins
        held = self.source.pulled - (len(self.taken) if self.streamed else self.finished)
        self.most_held = max(self.most_held, held)

    def before_io_wait(self, timeout):
        statistics = trio.lowlevel.current_statistics()
        idle = not statistics.tasks_runnable and statistics.seconds_to_next_deadline > 0
        if idle and self.pool is not None and not self.pool.ledger.ended:
            try:
                self.check_idle()
            except Exception as error:  # Trio would only log it
                self.wrong.append(error)

    def check_idle(self):
        """Nobody waits for something that is there, when every task is waiting for something."""
        feeder, ledger, config = self.pool.feeder, self.pool.ledger, self.case.config
        if self.waiting and (ledger.done.batch or ledger.results.batch):
            self.wrong.append("a consumer waits though an outcome is there")
        if config.retry is not None or config.max_per_second is not None:
            return  # an item in hand need not be in its processor
        if feeder.work.closed and not feeder.work.batch and not self.active:
            self.wrong.append("all is done and the run does not end")
        if self.active == config.max_workers:
            return
        if feeder.work.batch:
            self.wrong.append("a worker waits though an item is there")
        room = self.window - ledger.pulled + (len(self.taken) if self.streamed else self.finished)
        starving = self.waiting and not self.case.face.startswith("several")
        waits_for_source = feeder.is_pulling or not getattr(feeder.source, "waiting", True)
        can_pull = not feeder.work.closed and not waits_for_source
        if can_pull and room >= (1 if starving else feeder._enough):
            self.wrong.append("a worker waits though there is room for an item")

    def stop(self):
        self.stopped = True

    # The processor.

    async def process(self, item):
        index, what = item
        config = self.case.config
        late = config.timeout is not None and trio.current_time() >= config.timeout
        drained = self.draining and config.max_per_second is None
        if (self.stopped or late or drained) and index not in self.began:
            self.wrong.append(f"item {index} began too late")
        if index not in self.began:
            self.source.put_next()
        self.began.add(index)
        self.active += 1
        try:
            await self.behave(what)
        except Boom:
            self.raised.add(index)
            if config.fail_fast and config.retry is None:
                self.stopped = True
            raise
        finally:
            self.active -= 1
            self.finished += 1
        self.returned.append(index)
        return index

    async def behave(self, what):
        if what == "raise":
            raise Boom(what)
        elif what == "raise-late":
            await trio.sleep(1.5)
            raise Boom(what)
        elif what == "shield":
            with trio.CancelScope(shield=True):
                await trio.sleep(2)
        elif what in {"swallow", "stubborn"}:
            for _ in range(1 if what == "swallow" else 3):
                try:
                    await trio.sleep(1)
                except trio.Cancelled:
                    pass
        elif what == "stale":
            raise self.stale
        elif what in {"leak", "leak-open"}:
            self.leaked.append(trio.CancelScope())
            self.leaked[-1].__enter__()
            if what == "leak":
                self.leaked[-1].cancel()
                await trio.lowlevel.checkpoint()
        elif what == "cancel-leaks":
            for scope in self.leaked:
                scope.cancel()
        elif what == "own-scope":
            with trio.move_on_after(1):
                await trio.sleep_forever()
        elif what == "nest":
            inner = await process_parallel(range(3), quick, config=NESTED)
            assert inner.status == "complete"
        elif what == "nest-stream":
            async with open_parallel(iter(range(6)), quick, config=NESTED) as run:
                async for outcome in run:
                    if outcome.index == 4:
                        break
        else:
            await pause(what)

    # The caller.

    def on_progress(self, completed, total, result):
        self.told.append(completed)
        if self.case.leave == "raise" and completed > self.case.leave_after:
            self.stopped = True
            self.broke.append(ProgressBoom)
            raise ProgressBoom

    async def call(self):
        case, items = self.case, self.source.items
        if not self.streamed:
            progress = self.on_progress if case.face == "progress" else None
            self.result = await process_parallel(items, self.process, config=case.config, progress=progress)
            return
        ordered = case.face.endswith("ordered")
        block = open_parallel(items, self.process, config=case.config, ordered=ordered, keep_results=case.keep)
        try:
            async with block as self.run:
                await self.consume()
                if self.left_early():
                    self.acted.add("cancelled")
                    self.stopped = True
        finally:
            if self.run is not None:
                self.result = self.run.result()

    def left_early(self):
        return self.case.leave == "unseen" or (
            self.case.leave == "break" and len(self.taken) > self.case.leave_after
        )

    async def consume(self):
        if self.case.leave == "unseen":
            await trio.sleep(self.case.leave_after)
            return
        consumers = 3 if self.case.face.startswith("several") else 1
        if consumers == 1 and self.case.leave != "watch":
            await self.take()
            return
        try:
            async with trio.open_nursery() as nursery:
                if self.case.leave == "watch":
                    nursery.start_soon(self.watch)
                for _ in range(consumers):
                    nursery.start_soon(self.take, nursery.cancel_scope)
        except BaseExceptionGroup as group:
            raise next(leaves(strip_cancelled(group))) from None

    async def watch(self):
        async for progress in self.run.progress.eventual_values():
            assert progress.completed + progress.failed <= len(self.case.plan) + 1

    async def take(self, scope=None):
        pauses, leave, outcomes = self.case.consumer_pauses, self.case.leave, aiter(self.run)
        while True:
            outcome = None
            # A wait that is given up takes nothing.
            with trio.move_on_after(0.4 if leave == "impatient" else FAR * 2):
                self.waiting += 1
                try:
                    outcome = await anext(outcomes)
                except StopAsyncIteration:
                    return
                finally:
                    self.waiting -= 1
                self.taken.append(outcome.index)
            if outcome is None:
                continue
            await pause(pauses[len(self.taken) % len(pauses)])
            if leave == "look":
                assert outcome.index not in self.run.result().unfinished
                assert self.run.progress.value.completed <= len(self.case.plan)
            if leave == "raise" and len(self.taken) > self.case.leave_after:
                self.broke.append(BodyBoom)
                raise BodyBoom
            if self.left_early():
                if scope is not None:
                    scope.cancel()
                return

    async def main(self):
        self.stale = await make_stale()
        living = trio.lowlevel.current_statistics().tasks_living
        trio.lowlevel.add_instrument(self)
        with trio.move_on_at(FAR) as watchdog, self.outer:
            try:
                await self.call()
            except Exception as error:
                self.error = error
        trio.lowlevel.remove_instrument(self)
        if watchdog.cancel_called:
            self.wrong.append("it hangs")
        if trio.lowlevel.current_statistics().tasks_living != living:
            self.wrong.append("a task is left")

    # What must hold.

    def check(self):
        assert self.wrong == []
        assert not self.source.left_open()
        if self.source.counted:
            assert self.most_held <= self.window
        self.check_error()
        if self.streamed:
            assert len(set(self.taken)) == len(self.taken)
            if self.case.face.endswith("ordered"):
                assert self.taken == sorted(self.taken)
        assert self.told == list(range(1, len(self.told) + 1))
        result = self.error.result if isinstance(self.error, ParallelError) else self.result
        if result is not None:
            self.check_account(result)
            self.check_status(result)

    def check_error(self):
        error, config = self.error, self.case.config
        if isinstance(error, ExceptionGroup) and not isinstance(error, ParallelError):
            # A nursery that the source holds wraps what it raises; nobody else's does.
            assert self.case.holds == "nursery"
            (error,) = error.exceptions
        broke = self.broke + self.source.broke
        if LEAKY & set(self.case.plan):
            broke += [RuntimeError] if type(error) is RuntimeError else []
        if broke:
            assert type(error) in broke
        elif isinstance(error, ParallelError):
            assert config.fail_fast or (not self.streamed and not error.result.results)
            assert error.errors
        elif error is not None:
            raise error
        elif self.result is None:
            assert self.acted == {"cancelled"}
        elif config.fail_fast:
            assert not self.result.errors

    def check_account(self, result):
        config, failed = self.case.config, [failure.index for failure in result.errors]
        whole = not self.streamed or self.case.keep
        indexes = [*result.indices, *failed, *result.unfinished]
        if whole:
            assert sorted(indexes) == list(range(result.total))
        else:
            assert len(set(indexes)) == len(indexes)
            assert {*indexes, *self.taken} == set(range(result.total))
        assert [*result.indices] == sorted(result.indices)
        assert result.results == result.indices
        assert failed == sorted(failed)
        assert result.unfinished == sorted(result.unfinished)
        if whole:
            assert result.indices == sorted(self.returned)
            if config.retry is None:
                assert self.raised <= set(failed)
        else:
            assert set(result.indices) == set(self.returned) - set(self.taken)
        for failure in result.errors:
            assert failure.item is None or failure.item == (failure.index, self.case.plan[failure.index])
            assert isinstance(failure.error, Boom | trio.TooSlowError | RuntimeError)
            assert not isinstance(failure.error, RuntimeError) or LEAKY & set(self.case.plan)
        if self.case.face == "progress" and not self.broke:
            assert len(self.told) == len(result.results)

    def check_status(self, result):
        cut = {"cancelled"} if self.broke or self.source.broke or type(self.error) is RuntimeError else set()
        possible = self.acted | cut | ({"timeout"} if self.case.config.timeout is not None else set())
        if result.errors and self.case.config.fail_fast:
            possible.add("failed")
        if result.status == "complete":
            assert not result.unfinished
            if self.case.source != "queue" or not LEAKY & set(self.case.plan):
                assert result.total == len(self.case.plan)
        else:
            assert result.status in possible
        if result.unfinished:
            assert result.status != "complete"


@pytest.mark.timeout(max(60, CASES))
@settings(
    max_examples=max(1, CASES // ORDERS),
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],  # to explain a failure, Hypothesis traces every line of every play
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(case=cases())
def test_whatever_happens_in_whatever_order_the_run_ends_and_nothing_is_lost(case):
    for seed in range(case.seed, case.seed + ORDERS):
        play = Play(case)
        with scheduled(case.order, seed), seen_by(play):
            trio.run(play.main, clock=MockClock(autojump_threshold=0))
        play.check()
