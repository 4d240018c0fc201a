"""The engine of a run: workers that take items, settle them, and stop when they must.

Every decision is one plain method (`_succeed`, `_fail`, `stop`, `_derailed`); the awaits stand around them, in
`_work`. Workers never raise what went wrong: they record it, and `conclude` weighs it all once the tasks have
ended. Only a `Cancelled` that belongs to the run or to a scope around it passes through them. See
`docs/design/engine.md`.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, final

import trio

from trioflow._runtime.calls import TURN, NotAsyncError, call_plain, is_cancelled, stale
from trioflow._runtime.emitter import Emitter, status_of
from trioflow._runtime.groups import distil, holding, most_grave
from trioflow.checkpoint.protocol import RunStatus
from trioflow.checkpoint.session import open_store
from trioflow.config import ParallelConfig
from trioflow.errors import CheckpointError, ConfigError, leaves
from trioflow.events import EventType
from trioflow.policies import RateLimiter
from trioflow.workflows._collector import Collector
from trioflow.workflows._journal import Journal, JournalFaultError
from trioflow.workflows._judge import Judge
from trioflow.workflows._source import FedSource, Source, note_pulled
from trioflow.workflows._verdict import ending, failure
from trioflow.workflows._worker import IDLE, Worker

__all__ = ("Pool",)

T = TypeVar("T")
R = TypeVar("R")


@final
class Pool(Generic[T, R]):
    """One run: its workers, its faults and its end.

    Args:
        items: the input, as the user gave it.
        processor: what is called for each item.
        config: how.
        collector: who keeps the account.
        source: who gives the items.
        emitter: who tells.
        worker_count: how many workers.
        progress: called after each success; None is nobody.
        journal: who keeps what succeeded; None is nobody.
    """

    def __init__(
        self,
        items: object,
        processor: Callable[[T], Awaitable[R]],
        config: ParallelConfig,
        *,
        collector: Collector[T, R],
        source: Source[T],
        emitter: Emitter,
        worker_count: int,
        progress: Callable[[int, int | None, R], object] | None = None,
        journal: Journal[T, R] | None = None,
    ) -> None:
        self.collector = collector
        self.source = source
        self.faults: list[BaseException] = []
        self.on_abort: Callable[[], object] = lambda: None
        self._items = items
        self._processor = processor
        self._config = config
        self._emitter = emitter
        self._worker_count = worker_count
        self._progress = progress
        self._journal = journal
        self._limiter = None if config.max_per_second is None else RateLimiter(config.max_per_second)
        self._telling = emitter.active
        self._frees_room = collector.outlet is None and isinstance(source, FedSource)
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery
        self._judge: Judge[T] = Judge()
        self._stopping = False
        self._timed_out = False
        self._started = 0.0

    # What the faces call.

    @trio.lowlevel.enable_ki_protection
    async def execute(self) -> None:
        """Run to the end, whatever it is; raise nothing, `conclude` says what came of it.

        Cancellation: what completed is in the collector.
        """
        self._started = trio.current_time()
        with holding(self.faults):
            self._tell_start()
            await trio.lowlevel.checkpoint()
            if self._journal is None:
                await self._run_workers()
            else:
                await self._run_kept(self._journal)
        with holding(self.faults):
            await self.source.aclose()
        if self._timed_out:
            self.collector.expire(self._too_slow(), self._items)
        self.collector.end()

    @trio.lowlevel.enable_ki_protection
    def stop(self) -> None:
        """Cancel what is in flight and start nothing more; after the end, do nothing."""
        if self._stopping or self.collector.ended:
            return
        self._look_at_the_clock()
        self._stopping = True
        self.source.stop()
        self._scope.cancel()

    @trio.lowlevel.enable_ki_protection
    def conclude(self) -> BaseException | None:
        """Weigh what went wrong, tell the end of the run, and return what the caller should raise."""
        self.collector.check()
        fault = most_grave(self.faults)
        if isinstance(fault, trio.Cancelled) and not is_cancelled():
            fault = stale(fault, "an observer or the body of the stream")
        if fault is None or isinstance(fault, trio.Cancelled):
            cancelled = fault is not None
            fault = failure(self.collector, fail_fast=self._config.fail_fast, cancelled=cancelled) or fault
        self._tell_complete(fault)
        return fault

    # The workers.

    async def _run_kept(self, journal: Journal[T, R]) -> None:
        async with open_store(journal.store) as store:
            await journal.open(store, self._items)
            await self._run_workers()
            with holding(self.faults):
                journal.check_end(exhausted=self.collector.exhausted)
            problem = await journal.finish(self._status())
            if problem is not None:
                self.faults.append(problem)

    def _status(self) -> RunStatus:
        fault = most_grave(self.faults)
        if self.collector.failed or not (fault is None or isinstance(fault, trio.Cancelled)):
            return "failed"
        return "completed" if self.collector.finished and fault is None else "cancelled"

    @trio.lowlevel.enable_ki_protection
    async def _write_journal(self, journal: Journal[T, R]) -> None:
        try:
            await journal.write_until_cancelled()
        except CheckpointError as error:
            self._break_off(error)

    async def _run_workers(self) -> None:
        wrapped: list[BaseException] = []
        if self._config.timeout is not None:
            self._scope.deadline = self._started + self._config.timeout
        with holding(wrapped), self._scope:
            async with trio.open_nursery() as watched:
                watched.start_soon(self._watch, name="trioflow watch")
                if self._journal is not None:
                    watched.start_soon(self._write_journal, self._journal, name="trioflow journal")
                async with trio.open_nursery() as self._nursery:
                    if isinstance(self.source, FedSource):
                        self._nursery.start_soon(self._feed, self.source, name="trioflow feeder")
                    for number in range(self._worker_count):
                        self._start_worker(number)
                watched.cancel_scope.cancel()
        faults = [leaf for fault in wrapped for leaf in leaves(fault)]
        if self.collector.finished:
            # Nothing was cut: let the caller have the result, and meet the cancellation at its next checkpoint.
            faults = [fault for fault in faults if not isinstance(fault, trio.Cancelled)]
        self.faults.extend(faults)

    @trio.lowlevel.enable_ki_protection
    async def _watch(self) -> None:
        """Take note of a cancellation for workers whose processors shield themselves from it, or swallow it."""
        try:
            await trio.sleep_forever()
        finally:
            self._look_at_the_clock()
            self.source.stop()

    def _start_worker(self, number: int) -> None:
        worker: Worker[T] = Worker(number, self._emitter, self.collector)
        self._nursery.start_soon(self._work, worker, name=f"trioflow worker {number}")

    @trio.lowlevel.enable_ki_protection
    async def _work(self, worker: Worker[T]) -> None:
        attempt = worker.equip(self._processor, self._config, self._limiter)
        if self._journal is not None:
            attempt = self._journal.around(attempt, worker)
        turn = 0
        result: Any = None
        try:
            while worker.take_up(self.source) or await self._await_item(worker):
                try:
                    result = await attempt(worker.item)
                except Exception as error:  # noqa: BLE001 - the item's failure, reported as such
                    self._fail(worker, error)
                else:
                    self._succeed(worker, result)
                turn = (turn + 1) % TURN
                if not turn:
                    await trio.lowlevel.checkpoint()
        except BaseException as error:  # noqa: ASYNC103 - a Cancelled that belongs here is raised again
            if not self._derailed(worker, error):
                raise
        finally:
            # The traceback of an error leads here: one that a user keeps must not keep the whole run alive.
            result = None
            del self, worker, attempt

    async def _await_item(self, worker: Worker[T]) -> bool:
        while not self.source.ended:
            await self.source.wait()
            if worker.take_up(self.source):
                return True
        return False

    @trio.lowlevel.enable_ki_protection
    async def _feed(self, source: FedSource[T]) -> None:
        try:
            await source.feed()
        except BaseException as error:  # noqa: ASYNC103 - the same
            if not self._derailed(Worker(-1, self._emitter, self.collector), error):
                raise

    # What a worker decides: plain methods, each leaves the run's state consistent.

    def _succeed(self, worker: Worker[T], result: R) -> None:
        index = worker.index
        duration = worker.elapsed()
        worker.index = IDLE
        self.collector.succeed(index, result, worker.attempts, duration)
        if self._frees_room:
            self.source.room_freed()
        if worker.told:
            worker.tell_complete(index, duration, "ok", None, {"item": worker.item, "result": result})
        if self._progress is not None:
            try:
                call_plain(self._progress, self.collector.completed, self.collector.total, result)
            except BaseException as error:
                note_pulled(error, "progress", self.collector.pulled)
                raise

    def _fail(self, worker: Worker[T], error: Exception) -> None:
        index, duration = worker.index, worker.elapsed()
        worker.index = IDLE
        self.collector.fail(index, error, worker.attempts, duration)
        if self._frees_room:
            self.source.room_freed()
        if self._config.fail_fast:
            self.stop()
        if self._telling:
            worker.tell_complete(index, duration, "error", error, {"item": worker.item})

    def _derailed(self, worker: Worker[T], error: BaseException) -> bool:
        """Deal with what ended a worker other than the end of its work; False lets `error` pass through."""
        problem = distil(error)
        if isinstance(problem, trio.Cancelled):
            return self._cancelled(worker, problem)
        if isinstance(problem, NotAsyncError):
            allowed = "an async function, or a lambda that gives an awaitable"
            refusal = ConfigError.refusing("processor", self._processor, allowed)
            self._break_off(refusal)
            worker.let_go("error", refusal)
        elif isinstance(problem, JournalFaultError) and problem.__cause__ is not None:
            self._break_off(problem.__cause__)
            worker.let_go("error", problem.__cause__)
        elif not isinstance(problem, Exception):
            self._break_off(problem)
            self.on_abort()
            worker.let_go(status_of(problem), problem)
        elif worker.index == IDLE:
            self._break_off(problem)
        else:
            self._fail(worker, problem)
            self._start_worker(worker.number)
        return True

    def _cancelled(self, worker: Worker[T], error: BaseException) -> bool:
        if self._scope.cancel_called:
            self._dismiss(worker)
            return False
        self._judge.decide_soon(worker, error, self._nursery, self._dismiss, self._stray)
        return True

    def _dismiss(self, worker: Worker[T]) -> None:
        """Leave the item in hand unfinished, or failed where the run's time is up."""
        self._look_at_the_clock()
        if worker.index != IDLE and self._timed_out:
            self._fail(worker, trio.TooSlowError(self._too_slow()))
        else:
            worker.let_go("cancelled", None)

    def _stray(self, worker: Worker[T], error: BaseException) -> None:
        """Report a `Cancelled` that nobody cancelled for: as the failure of the item in hand, else of the run."""
        if worker.index == IDLE:
            self._break_off(stale(error, "a task of the run"))
        else:
            self._fail(worker, stale(error, f"the processor of item {worker.index}"))
            self._start_worker(worker.number)

    def _break_off(self, fault: BaseException) -> None:
        self.faults.append(fault)
        self.stop()

    def _look_at_the_clock(self) -> None:
        if self._scope.cancel_called and not self._stopping:
            self._timed_out = True

    def _too_slow(self) -> str:
        return f"run timed out after {self._config.timeout:g} s"

    def _tell_start(self) -> None:
        if self._telling:
            data = {
                "item_count": self.collector.total,
                "worker_count": self._worker_count,
                "fail_fast": self._config.fail_fast,
                "has_progress_callback": self._progress is not None,
            }
            self._emitter.emit(EventType.PARALLEL_START, data)

    def _tell_complete(self, fault: BaseException | None) -> None:
        if self._telling:
            cut_short = self._stopping and not self.collector.finished
            data = ending(self.collector, fault, cut_short=cut_short)
            data["duration"] = trio.current_time() - self._started
            data["observer_failures"] = self._emitter.observer_failures
            self._emitter.emit(EventType.PARALLEL_COMPLETE, data)
