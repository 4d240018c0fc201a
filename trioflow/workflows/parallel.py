"""Concurrent calls under bounded workers: `process_parallel` returns a result, `open_parallel` streams outcomes.

Both use the engine in `_pool`: the first waits for the run's end, the second yields outcomes as they complete.
"""

import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sized
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Generic, Self, TypeVar, final

import trio

from trioflow._durable.items import open_journal
from trioflow._runtime.block import Block
from trioflow._runtime.calls import call_plain
from trioflow._runtime.emitter import Emitter
from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.config import ParallelConfig
from trioflow.config.checks import (
    check_async,
    check_callable,
    check_flag,
    check_in_trio,
    check_instance,
)
from trioflow.errors import ConfigError
from trioflow.events import Observer
from trioflow.outcomes import LiveValue, ParallelResult, Progress, TaskOutcome
from trioflow.workflows._arguments import check_items, choose_observer
from trioflow.workflows._ledger import Ledger
from trioflow.workflows._pool import Pool, Setup
from trioflow.workflows._queue import QueueSource, WorkQueue

__all__ = ("ParallelRun", "open_parallel", "process_parallel")

T = TypeVar("T")
R = TypeVar("R")

_DEFAULT = ParallelConfig()


async def process_parallel(
    items: Iterable[T] | AsyncIterable[T] | WorkQueue[T],
    processor: Callable[[T], Awaitable[R]],
    *,
    config: ParallelConfig = _DEFAULT,
    progress: Callable[[int, int | None, R], object] | None = None,
    on_outcome: Callable[[TaskOutcome[T, R]], object] | None = None,
    observer: Observer | None = None,
    store: CheckpointStore | None = None,
    run_id: str | None = None,
    key: Callable[[T], str] | None = None,
    result_type: type[R] | None = None,
) -> ParallelResult[T, R]:
    """Call `processor` for each item under bounded workers, and return the outcome of every one.

    Args:
        items: the input, sync or async, finite or not; pulled lazily, never with more than
            `workers + buffer` items pulled and not yet done. Generators are always closed, other iterators are
            left alone. A `WorkQueue` may grow meanwhile.
        processor: an async function of one item.
        config: how many workers, what a failure means, time limits, rate, retries.
        progress: a plain function called after each success with the number of successes, the number of items
            (None if the input has no length) and the result.
        on_outcome: a plain function called with the `TaskOutcome` of each item, whether it succeeded or failed, as
            it is known; not for items that stay unfinished.
        observer: receives the run's events; None takes the one that `config` names.
        store: stores a run with a `run_id`; None takes the store that `config.checkpoint` names, if there is one.
            The caller closes a store that it passes.
        run_id: the id that the run's events carry; None generates one. If the run is stored, calling again with
            the same id and items calls `processor` only for items that have not succeeded. A run that succeeded
            as a whole is deleted, unless `config.checkpoint.preserve` is true.
        key: a plain function that names an item, so that items may be added and removed between two calls;
            without it an item is identified by its index and its value.
        result_type: the type as which stored results are restored; None is plain data.

    Raises:
        ConfigError: an argument is invalid; nothing was started.
        ParallelError: under `fail_fast`, an item failed; without, every item failed. Items that did not finish
            within `config.timeout` fail with `trio.TooSlowError`.
        CheckpointMismatchError: the run stored under `run_id` had other items.
        CheckpointEncodeError: an item or a result cannot be stored exactly.
        CheckpointConflictError: another process has taken over this run.
        CheckpointStoreError: the store cannot be read or written.
        Exception: what `items`, `progress` or `on_outcome` raised, unchanged; items in flight are cancelled.
        BaseException: a `KeyboardInterrupt`, `SystemExit` or the like from the processor, bare.

    Cancellation: passes through, and the caller loses the completed results; use `open_parallel` to keep them. If
    an item had failed before under `fail_fast`, that error is raised instead.
    """
    check_in_trio()
    check_callable("progress", progress, optional=True)
    check_callable("on_outcome", on_outcome, optional=True)
    pool = _open_pool(
        items,
        processor,
        config,
        observer=observer,
        run_id=run_id,
        progress=progress,
        on_outcome=on_outcome,
        store=store,
        key=key,
        result_type=result_type,
    )
    try:
        await pool.execute()
        pool.conclude()
        pool.errors.raise_worst()
        return pool.ledger.result()
    finally:
        del pool


def open_parallel(
    items: Iterable[T] | AsyncIterable[T] | WorkQueue[T],
    processor: Callable[[T], Awaitable[R]],
    *,
    config: ParallelConfig = _DEFAULT,
    ordered: bool = False,
    keep_results: bool = True,
    observer: Observer | None = None,
    store: CheckpointStore | None = None,
    run_id: str | None = None,
    key: Callable[[T], str] | None = None,
    result_type: type[R] | None = None,
) -> AbstractAsyncContextManager["ParallelRun[T, R]"]:
    """Open a run that yields outcomes as they complete.

    ::

        async with open_parallel(urls, fetch, config=ParallelConfig(fail_fast=False)) as run:
            async for outcome in run:
                ...

    The run holds at most `workers + buffer` items that the block has not taken, so a slow block slows the source.
    Leaving the block early cancels the rest. Under `fail_fast` a failure ends the iteration after the outcomes
    that completed, and leaving the block raises; the block itself is not cancelled, unless an error that is not
    an `Exception` stops the run. Without it, failed outcomes are yielded and nothing is raised for them.

    Args:
        items: as for `process_parallel`.
        processor: as for `process_parallel`.
        config: as for `process_parallel`.
        ordered: whether outcomes come in item order instead of in order of completion.
        keep_results: whether `ParallelRun.result` keeps outcomes that the block has taken; if not, memory does not
            grow with the number of items.
        observer: as for `process_parallel`.
        store: as for `process_parallel`.
        run_id: as for `process_parallel`.
        key: as for `process_parallel`.
        result_type: as for `process_parallel`.

    Raises:
        ConfigError: an argument is invalid; nothing was started.
        ParallelError: on leaving the block, under `fail_fast`, an item failed.
        Exception: on leaving the block, what `items` raised, unchanged.

    Cancellation: passes through; `ParallelRun.result` still has the outcomes so far.
    """
    check_flag("ordered", ordered)
    check_flag("keep_results", keep_results)
    pool = _open_pool(
        items,
        processor,
        config,
        observer=observer,
        run_id=run_id,
        streamed=True,
        ordered=ordered,
        keep=keep_results,
        store=store,
        key=key,
        result_type=result_type,
    )
    return _Stream(pool)


@final
class ParallelRun(Generic[T, R]):
    """A running fan-out: an async iterator of `TaskOutcome`, and the handle to watch and end it.

    Created only by `open_parallel`.
    """

    __slots__ = ("_pool",)

    _pool: Pool[T, R]

    def __init__(self) -> None:
        raise TypeError("a ParallelRun is created only by open_parallel")

    @classmethod
    def _create(cls, pool: Pool[T, R]) -> Self:
        self = cls.__new__(cls)
        self._pool = pool
        return self

    def __repr__(self) -> str:
        return f"<ParallelRun: {self._pool.ledger!r}, {len(self._pool.ledger.done.batch)} to be taken>"

    def __aiter__(self) -> AsyncIterator[TaskOutcome[T, R]]:
        return _Loop(self, self._pool) if isinstance(self._pool.feeder.source, QueueSource) else self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> TaskOutcome[T, R]:
        """Return the next outcome.

        Cancellation: nothing was taken.
        """
        ledger = self._pool.ledger
        done, batch = ledger.done, ledger.done.batch
        if not batch:
            ledger.take_in()
        if batch or done.closed:
            await trio.lowlevel.checkpoint()
        while not batch:
            ledger.take_in()
            if not batch:
                if done.closed:
                    raise StopAsyncIteration
                self._pool.feeder.nudge()
                with ledger.waited_for():
                    await done.wait()
        outcome = batch.popleft()
        if batch and not done.called:
            done.call()  # several tasks may iterate
        ledger.release(1)
        return outcome

    @property
    def progress(self) -> LiveValue[Progress]:
        """The progress of the run, to read and to wait for."""
        return self._pool.ledger.watch()

    def drain(self) -> None:
        """Pull no more items and let those in flight finish; never blocks.

        Items that were pulled but not started become unfinished, and a wait for the source ends.

        Raises:
            RuntimeError: called in another thread, or in another `trio.run`; nothing was changed.
        """
        self._pool.drain()

    def cancel(self) -> None:
        """Stop at once and keep the outcomes so far; never blocks.

        Raises:
            RuntimeError: called in another thread, or in another `trio.run`; nothing was changed.
        """
        self._pool.stop()

    def result(self) -> ParallelResult[T, R]:
        """Return the result so far, at any time, also after the block; items in flight count as unfinished."""
        return self._pool.ledger.result()


@final
class _Loop(Generic[T, R]):
    """One `async for` over a stream whose source is a queue.

    Several tasks may iterate, and the body of each may put items, so the run must not end while one of them has an
    outcome in hand. A loop that is left early is garbage-collected, and then no longer counts as having one.
    """

    __slots__ = ("_holds", "_pool", "_run")

    def __init__(self, run: ParallelRun[T, R], pool: Pool[T, R]) -> None:
        self._run = run
        self._pool = pool
        self._holds = False

    def __aiter__(self) -> Self:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> TaskOutcome[T, R]:
        """Return the next outcome.

        Cancellation: nothing was taken.
        """
        if self._holds:
            self._holds = False
            self._pool.feeder.in_bodies -= 1
        outcome = await self._run.__anext__()
        self._holds = True
        self._pool.feeder.in_bodies += 1
        return outcome

    @trio.lowlevel.enable_ki_protection
    def __del__(self) -> None:
        if self._holds:
            self._pool.leave_body()


@final
class _Stream(Block[ParallelRun[T, R]], Generic[T, R]):
    """The block of `open_parallel`."""

    def __init__(self, pool: Pool[T, R]) -> None:
        super().__init__(pool.errors)
        self._pool = pool

    def _open(self, nursery: trio.Nursery) -> ParallelRun[T, R]:
        self._pool.bind()  # the body may pass the run to a thread before the task below has begun
        self._pool.on_abort = nursery.cancel_scope.cancel
        nursery.start_soon(self._pool.execute, name=f"{self._pool.task_name} run")
        return ParallelRun._create(self._pool)  # noqa: SLF001 - only made here

    async def _leave(self, *, in_peace: bool) -> None:
        self._pool.leave(in_peace=in_peace)

    def _conclude(self) -> None:
        self._pool.conclude()


def _open_pool(
    items: Iterable[T] | AsyncIterable[T] | WorkQueue[T],
    processor: Callable[[T], Awaitable[R]],
    config: ParallelConfig,
    *,
    observer: Observer | None,
    run_id: str | None,
    progress: Callable[[int, int | None, R], object] | None = None,
    on_outcome: Callable[[TaskOutcome[T, R]], object] | None = None,
    streamed: bool = False,
    ordered: bool = False,
    keep: bool = True,
    store: CheckpointStore | None,
    key: Callable[[T], str] | None,
    result_type: type[R] | None,
) -> Pool[T, R]:
    """Check the arguments and assemble a run; starts nothing."""
    if not isinstance(items, WorkQueue):
        check_items(items)
    check_async("processor", processor)
    check_instance("config", config, ParallelConfig)
    observer = choose_observer(observer, config.observer, run_id)
    total = len(items) if isinstance(items, Sized) else None
    worker_count = _worker_count(config, total)
    window = worker_count + (config.buffer or worker_count)
    emitter = Emitter(observer, "parallel", run_id)
    ledger: Ledger[T, R] = Ledger(
        total,
        window,
        streamed=streamed,
        ordered=ordered,
        keep=keep,
        failure_limit=_failure_limit(config),
        on_success=None if progress is None else partial(call_plain, progress),
        on_outcome=None if on_outcome is None else partial(call_plain, on_outcome),
    )
    journal = open_journal(
        run_id, store, config.checkpoint, key=key, result_type=result_type, total=total, emitter=emitter
    )
    if journal is not None and isinstance(items, WorkQueue) and key is None:
        raise ConfigError.refusing("key", key, "a plain function that names an item, where a WorkQueue is kept")
    setup = Setup(items, processor, config, worker_count, streamed, progress is not None)
    return Pool(setup, ledger, emitter, journal)


def _failure_limit(config: ParallelConfig) -> int | None:
    if config.max_failures is not None:
        return config.max_failures
    return 0 if config.fail_fast else None


def _worker_count(config: ParallelConfig, total: int | None) -> int:
    if config.max_workers:
        return config.max_workers
    limits = [2 * _usable_cpus(), config.worker_cap]
    if total is not None:
        limits.append(total)
    return max(1, min(limits))


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
