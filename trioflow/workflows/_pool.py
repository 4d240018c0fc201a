"""The engine of a fan-out: a nursery owns feeder, workers and collector; three bounded channels connect them.

    items -> feeder -> [work] -> workers -> [results] -> collector -> [done] -> the caller or a stream

The channels carry batches (`_channel`); the ledger counts and bounds what is on them (`_ledger`). A worker that
finds no work pulls from a plain source itself (`_feeder`). It records an outcome with one synchronous call, so a
cancellation cannot lose a returned result.

Every decision is one synchronous method, called between the `await`s. Tasks let `Cancelled` pass and raise nothing
else: other errors are collected, the scope is cancelled, and once all tasks have ended `conclude` decides which
error to raise. `docs/design/engine.md` has the reasons and the figures.
"""

import math
import time
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar, final

import msgspec
import trio

from trioflow._durable.items import Journal
from trioflow._runtime.context import WorkInHand, id_of, nothing_in_hand, task_name, working
from trioflow._runtime.emitter import Emitter, status_of
from trioflow._runtime.errors import ErrorCollector, foreign_cancelled, strip_cancelled
from trioflow._runtime.policies import Policies
from trioflow._runtime.resources import Resources
from trioflow._runtime.signals import JournalError, NotAsyncError
from trioflow.checkpoint.protocol import RunStatus
from trioflow.checkpoint.session import open_store
from trioflow.config import ParallelConfig
from trioflow.errors import CheckpointError, ConfigError, ParallelError, TrioflowError
from trioflow.outcomes import TaskOutcome
from trioflow.policies import RateLimiter
from trioflow.workflows._channel import BatchChannel
from trioflow.workflows._events import ParallelEvents
from trioflow.workflows._feeder import Feeder
from trioflow.workflows._ledger import Ledger, Status
from trioflow.workflows._queue import QueueSource
from trioflow.workflows._sources import Source, open_pool_source

T = TypeVar("T")
R = TypeVar("R")

IDLE = -1
"""The index of a worker without an item."""

ITEMS_IN_A_ROW = 16
"""Items that a worker may process without a checkpoint of its own."""

_SEVERITY: tuple[Status, ...] = ("complete", "drained", "cancelled", "timeout", "failed")


class Setup(msgspec.Struct, Generic[T, R], frozen=True):
    """The validated arguments of a run."""

    items: Any
    processor: Callable[[T], Awaitable[R]]
    config: ParallelConfig
    worker_count: int
    streamed: bool
    has_progress: bool


@final
class Worker(Generic[T]):
    """A worker's state: the item in hand, and its attempts so far.

    Attributes:
        observed: whether an event was emitted for the item's start; if so, one is emitted for its end.
        late_start: whether the item's start was emitted late, to observers that take batches.
    """

    __slots__ = ("attempts", "emitter", "identity", "index", "item", "late_start", "number", "observed", "started")

    def __init__(self, number: int, emitter: Emitter) -> None:
        self.number = number
        self.identity: str | None = None
        self.emitter = emitter
        self.index = IDLE
        self.item: T = None  # type: ignore[assignment]  # set before it is read
        self.attempts = 0
        self.started = 0.0
        self.observed = self.late_start = False

    def __repr__(self) -> str:
        return f"<Worker {self.number} with item {self.index}, attempt {self.attempts}>"

    @property
    def run_id(self) -> str:
        """The run's id."""
        return id_of(self.emitter)

    @property
    def worker(self) -> int:
        """The worker's number."""
        return self.number

    def in_hand(self) -> WorkInHand:
        """Return the item in hand, for `current_run`."""
        if self.index == IDLE:
            raise nothing_in_hand()
        attempt = max(1, self.attempts)
        return WorkInHand(self.run_id, "parallel", attempt, item_index=self.index, identity=self.identity)

    def restart_clock(self) -> None:
        """Count an item's duration from now, if it has only waited for the rate limit so far."""
        if not self.attempts:
            self.started = trio.current_time()


@final
class Pool(Generic[T, R]):
    """One run: its tasks, their decisions, and its end.

    Args:
        setup: the arguments of the run.
        ledger: counts items and outcomes.
        emitter: emits the run's events.
        journal: stores results; None if the run is not durable.

    Attributes:
        errors: the errors of the run; `conclude` leaves only the one to raise.
        feeder: supplies the items.
        task_name: the prefix of the names of its tasks.
        on_abort: called when an error that is not an `Exception` stops the run.
    """

    def __init__(
        self,
        setup: Setup[T, R],
        ledger: Ledger[T, R],
        emitter: Emitter,
        journal: Journal[T, R] | None = None,
    ) -> None:
        config = setup.config
        self.ledger = ledger
        buffer = config.buffer or setup.worker_count
        source: Source[T] = open_pool_source(setup.items)
        self.feeder: Feeder[T] = Feeder(source, ledger, min(buffer - 1, setup.worker_count))
        self.errors = ErrorCollector()
        self.on_abort: Callable[[], object] = lambda: None
        self._setup = setup
        self._emitter = emitter
        self.task_name = task_name(emitter, "parallel", setup.processor)
        self._events: ParallelEvents[T, R] = ParallelEvents(emitter, ledger.total)
        self._journal = journal
        rate = config.max_per_second
        self._policies = Policies(
            setup.processor,
            task_timeout=config.task_timeout,
            retry=config.retry,
            limiter=None if rate is None else RateLimiter(rate, burst=config.burst),
        )
        # Only events and outcomes that are passed on have durations: other runs need not read the clock.
        self._timed = emitter.active or setup.streamed or ledger.reports
        self._reports = emitter.active or ledger.reports
        self._clock: Callable[[], float]
        self._scope: trio.CancelScope | None = None
        self._watcher: trio.lowlevel.Task | None = None
        self._writing = trio.CancelScope()
        self._nursery: trio.Nursery
        self._context: Context
        self._workers = 0
        self._token: trio.lowlevel.TrioToken | None = None
        self._cut: Status = "complete"
        self._stopping = self._cancelled = self._awaited = self._concluded = False
        self._alive = 0
        self._failures = 0
        self._left = trio.Event()
        self._left_in_peace = True
        self._started = 0.0

    # Called by the public functions.

    def bind(self) -> None:
        """Bind the run to the caller's `trio.run`: `drain` and `stop` raise anywhere else."""
        self._token = trio.lowlevel.current_trio_token()

    @trio.lowlevel.enable_ki_protection
    async def execute(self) -> None:
        """Run to the end; raises nothing, because `conclude` decides what to raise.

        Cancellation: the outcomes so far are in the ledger.
        """
        self.bind()
        self._clock = trio.lowlevel.current_clock().current_time
        self._started = self._clock()
        with self.errors.collecting():
            config = self._setup.config
            workers = self._setup.worker_count
            self._events.run_started(
                workers, fail_fast=config.fail_fast, has_progress=self._setup.has_progress
            )
            self.feeder.open()
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._journal is None:
                await self._run_tasks()
            else:
                await self._run_kept(self._journal)
        if not self.ledger.ended:
            await self._end()

    @trio.lowlevel.enable_ki_protection
    def stop(self) -> None:
        """Cancel the items in flight and start no more; after the end, do nothing."""
        if not self._stopping and not self.ledger.ended:
            self._check_thread()
            self._stop("cancelled")

    def leave(self, *, in_peace: bool) -> None:
        """Stop: the block of the stream is exiting; `in_peace` if it did not raise."""
        self._left_in_peace = in_peace
        self.stop()
        self._left.set()

    @trio.lowlevel.enable_ki_protection
    def drain(self) -> None:
        """Pull no more items and let those in flight finish; items pulled but not started stay unfinished."""
        if not self._stopping and not self.ledger.ended:
            self._check_thread()
            self._cut_short("drained")
            self.feeder.drain()

    @trio.lowlevel.enable_ki_protection
    def leave_body(self) -> None:
        """Note that a loop over the stream ended while its body had an outcome; others may wait for the end."""
        self.feeder.in_bodies -= 1
        if self.ledger.is_awaited and self._is_here():
            self.feeder.end_if_over()

    @trio.lowlevel.enable_ki_protection
    def conclude(self) -> None:
        """Decide the run's error, and emit its end, once; `errors` then has what the caller should raise."""
        if self._concluded:
            return
        self._concluded = True
        self.ledger.check()
        who = "an observer or the body of the stream"
        self.errors.replace_foreign(lambda cancelled: foreign_cancelled(cancelled, who))
        worst = self.errors.worst()
        if isinstance(worst, CheckpointError) and worst.value is None:
            worst.value = self.ledger.result()  # the results were paid for, and may not be in the store
        if worst is None or isinstance(worst, trio.Cancelled):
            self.errors.replace(self._failure(cancelled=worst is not None) or worst)
        elif isinstance(worst, Exception) and not isinstance(worst, TrioflowError):
            ledger = self.ledger
            unfinished = ledger.size - ledger.completed - ledger.failed
            account = f"{ledger.completed} succeeded, {ledger.failed} failed, {unfinished} unfinished"
            worst.add_note(f"when the run ended: {account}")
        del worst
        self._events.run_completed(self.ledger, self.errors.worst(), self._started)

    # The tasks.

    async def _run_tasks(self) -> None:
        with self.errors.collecting(unwrap=True):
            async with Resources(), trio.open_nursery() as self._nursery:
                self._limit_time()
                # A worker may be started from a task of the user's, which has a context of its own.
                self._context = copy_context()
                self._start("collector", self._collect)
                if self._events.passed is not None:
                    self._start("observers", self._hand_over, self._events.passed)
                if self._journal is not None:
                    self._start("journal", self._write_journal, self._journal)
                self.feeder.on_short = self._start_workers
                self._alive = 1
                self._start("feeder", self._feed)
                await self._watch()
        self.ledger.take_in()
        if self.ledger.finished:
            # Nothing was lost: return the result, and let the caller be cancelled at its next checkpoint.
            self.errors.discard_cancelled()

    def _start(self, name: str, task: Callable[..., Awaitable[object]], *args: object) -> None:
        self._nursery.start_soon(task, *args, name=f"{self.task_name} {name}")

    def _limit_time(self) -> None:
        self._scope = self._nursery.cancel_scope
        if self._setup.config.timeout is not None:
            self._scope.deadline = self._started + self._setup.config.timeout
        if self._stopping:
            self._scope.cancel(reason="the fan-out was stopped before it began")

    async def _watch(self) -> None:
        """Wait until the feeder and the workers have ended; stop feeding at the very instant of a cancellation.

        Trio calls the abort function while it delivers the cancellation, before any task continues. So a worker
        whose processor shields itself, or swallows `Cancelled`, does not begin another item, and no worker has to
        poll for cancellation.

        Cancellation: passes through.
        """
        self._watcher = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._on_cancelled)

    def _task_ended(self) -> None:
        """Note that the feeder or a worker has ended; after the last of them, end the other tasks."""
        self._alive -= 1
        if self._alive:
            return
        self.ledger.results.close()
        if self._events.passed is not None:
            self._events.passed.close()
        if self._journal is not None:
            self._writing.cancel(reason="the run of the fan-out has ended")
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            trio.lowlevel.reschedule(watcher)

    @trio.lowlevel.enable_ki_protection
    async def _feed(self) -> None:
        try:
            await self.feeder.feed()
        except BaseException as error:  # noqa: ASYNC103 - a Cancelled of the run is raised again
            if not self._on_crash(None, error):
                raise
        finally:
            self._task_ended()

    def _start_workers(self, short: int) -> None:
        """Start up to `short` more workers, within the limit."""
        first = self._workers
        self._workers = min(first + short, self._setup.worker_count)
        for number in range(first, self._workers):
            self._start_worker(number)

    def _start_worker(self, number: int) -> None:
        worker: Worker[T] = Worker(number, self._emitter)
        self.feeder.idle += 1
        self._alive += 1
        self._context.run(self._start, f"worker {number}", self._work, worker)

    @trio.lowlevel.enable_ki_protection
    async def _work(self, worker: Worker[T]) -> None:
        attempt, batch, claimed, result, turn = self._equipped(worker), self.feeder.work.batch, None, None, 1
        timed, observed = self._timed, self._events.has_singles
        working.set(worker)
        try:
            self.feeder.join()
            while True:
                has_work = turn and (batch or self.feeder.refill())
                claimed = batch.popleft() if has_work else await self.feeder.wait(refill=not turn)
                if claimed is None:
                    return
                worker.index, worker.item = claimed
                worker.attempts = 0
                if timed:
                    worker.started = self._clock()
                    worker.observed = observed and self._item_started(worker)
                try:
                    result = await attempt(worker.item)
                except Exception as error:  # noqa: BLE001 - the item's failure, reported as such
                    self._settle(worker, None, error)
                else:
                    self._settle(worker, result, None)
                turn = (turn + 1) % ITEMS_IN_A_ROW
        except BaseException as error:  # noqa: ASYNC103 - the same
            if not self._on_crash(worker, error):
                raise
        finally:
            # Tracebacks of errors refer to this frame: an error that a user keeps must not keep the run alive.
            claimed = result = None
            self._task_ended()
            del self, worker, attempt, batch

    @trio.lowlevel.enable_ki_protection
    async def _collect(self) -> None:
        """Enter outcomes as they arrive. Shielded: it ends with the workers, and waits for no other task."""
        results = self.ledger.results
        try:
            with trio.CancelScope(shield=True):
                while not results.closed:
                    self.ledger.take_in()
                    await results.wait()
        except BaseException as error:  # noqa: BLE001, ASYNC103 - shielded, so no Cancelled of ours gets here
            self._break_off(error)

    @trio.lowlevel.enable_ki_protection
    async def _hand_over(self, passed: BatchChannel[Any]) -> None:
        """Hand items to observers that take batches; later ones are handed over at the run's end."""
        while not passed.closed:
            await passed.wait()
            try:
                self._events.hand_over()
            except BaseException as error:  # noqa: BLE001, ASYNC103 - an observer's, and not an Exception
                self._break_off(error)
                return  # noqa: ASYNC104 - the same

    def _on_cancelled(self, raise_cancel: object) -> trio.lowlevel.Abort:
        del raise_cancel
        self._watcher = None
        self._cancelled = True
        if not self._stopping and self._scope is not None:
            # The first cause counts: a deadline that expires during cleanup is not a timeout of the run.
            self._cut_short("timeout" if self._scope.deadline <= self._clock() else "cancelled")
            self._awaited = self.feeder.is_pulling
            self._stopping = True
            self._scope.deadline = math.inf
        self.feeder.stop()
        return trio.lowlevel.Abort.SUCCEEDED

    # The decisions of a worker: synchronous methods, each of which leaves the run's state consistent.

    def _equipped(self, worker: Worker[T]) -> Callable[[T], Awaitable[R]]:
        events = self._events

        def on_retry(attempt: int, delay: float, error: Exception) -> None:
            _emit_late_start(events, worker, worker.index)
            place = worker.number, worker.index, worker.item
            events.item_retried(*place, attempt=attempt, delay=delay, error=error)

        def on_wait(seconds: float) -> None:
            events.item_waits(worker.number, worker.index, seconds)

        announced = on_wait if events.announces else None
        attempt = self._policies.around(worker, on_retry, on_admitted=worker.restart_clock, on_wait=announced)
        if self._journal is None:
            return attempt
        if isinstance(self.feeder.source, QueueSource):
            self.feeder.source.refuse_puts_here()
        return self._journal.around(attempt, worker)

    def _item_started(self, worker: Worker[T]) -> bool:
        return self._events.item_started(worker.number, worker.index, worker.item)

    def _settle(self, worker: Worker[T], result: R | None, error: Exception | None) -> None:
        """Record the outcome of the item in hand; from here on it cannot be lost."""
        duration = self._clock() - worker.started if self._timed else 0.0
        outcome = TaskOutcome(worker.index, worker.item, result, error, worker.attempts, duration)
        worker.index = IDLE
        self.ledger.record(outcome)
        if error is not None:
            self._count_failure()
            if self._journal is not None:
                self._journal.note_failure(outcome.index, error, key=worker.identity)
        if self._reports:
            self._report(worker, outcome)

    def _count_failure(self) -> None:
        self._failures += 1
        limit = self.ledger.failure_limit
        if limit is not None and self._failures > limit:
            self._stop("failed")

    def _report(self, worker: Worker[T], outcome: TaskOutcome[T, R]) -> None:
        events = self._events
        passed = events.passed
        if passed is not None and outcome.error is None and outcome.attempts == 1:
            # Inlined: this runs for each item, and a call would be a tenth of what an observer may cost.
            if not passed.batch:
                passed.call()
            passed.batch.append((worker.number, outcome.index, time.time(), outcome.duration))
            if worker.observed:
                events.item_completed(worker.number, outcome, batched=True)
        elif worker.observed or events.batches or (events.active and outcome.error is not None):
            _emit_late_start(events, worker, outcome.index)
            events.item_completed(worker.number, outcome, observed=worker.observed)
            worker.late_start = False
        if self.ledger.reports:
            try:
                self.ledger.take_in()
            except BaseException as error:  # noqa: BLE001, ASYNC103 - the callback's: it must not end the worker
                self._break_off(error)

    def _on_crash(self, worker: Worker[T] | None, error: BaseException) -> bool:
        """Handle the `error` that ended a task; return False to let it pass through."""
        problem = strip_cancelled(error)
        if isinstance(problem, trio.Cancelled):
            if self._cancelled:
                self._cut_off(worker, problem)
                return False
            holds = worker is not None and worker.index != IDLE
            who = f"the processor of item {worker.index}" if worker is not None and holds else "a task of the run"
            problem = foreign_cancelled(problem, who)
        elif isinstance(problem, NotAsyncError):
            allowed = "an async function, or a lambda that returns an awaitable"
            problem = ConfigError.refusing("processor", self._setup.processor, allowed)
            self._abandon(worker, "error", problem)
        elif isinstance(problem, JournalError) and problem.__cause__ is not None:
            problem = problem.__cause__
            self._abandon(worker, "error", problem)
        elif not isinstance(problem, Exception):
            self._abandon(worker, status_of(problem), problem)
        if isinstance(problem, Exception) and worker is not None and worker.index != IDLE:
            self._settle(worker, None, problem)
            # The task may be corrupted, by a scope that was left open: another one takes its place.
            self._start_worker(worker.number)
        else:
            self._break_off(problem)
        return True

    def _cut_off(self, worker: Worker[T] | None, cancelled: trio.Cancelled) -> None:
        """Leave the item in hand unfinished, or fail it if the run has timed out."""
        if worker is None or worker.index == IDLE or self._cut != "timeout":
            self._abandon(worker, "cancelled", None)
            return
        too_slow = trio.TooSlowError(self._too_slow())
        too_slow.__cause__ = cancelled.__cause__  # the failure that it was to be retried for
        self._settle(worker, None, too_slow)

    def _abandon(self, worker: Worker[T] | None, status: str, error: BaseException | None) -> None:
        """Leave the item in hand without an outcome."""
        if worker is None or worker.index == IDLE:
            return
        index, worker.index = worker.index, IDLE
        events = self._events
        if worker.observed or events.batches or (events.active and error is not None):
            _emit_late_start(events, worker, index)
            duration = self._clock() - worker.started
            outcome: TaskOutcome[T, R] = TaskOutcome(index, worker.item, None, None, worker.attempts, duration)
            events.item_abandoned(worker.number, outcome, status, error, observed=worker.observed)
            worker.late_start = False

    # How a run stops and ends.

    def _break_off(self, error: BaseException) -> None:
        if isinstance(strip_cancelled(error), trio.Cancelled):
            # From a synchronous callback: a cancellation around it cannot be raised there.
            error = foreign_cancelled(error, "a callback of the run, or an observer,")
        self.errors.add(error)
        self._stop("cancelled")
        if not isinstance(error, Exception):
            self.on_abort()

    def _stop(self, why: Status) -> None:
        if not self._stopping:
            self._cut_short(why)
            self._stopping = self._cancelled = True
            self.feeder.stop()
            if self._scope is not None:
                self._scope.cancel(reason=f"the fan-out stops: {why}")

    def _cut_short(self, why: Status) -> None:
        if _SEVERITY.index(why) > _SEVERITY.index(self._cut):
            self._cut = why

    def _status(self) -> Status:
        if self.ledger.finished:
            return "complete" if self._cut in {"drained", "cancelled"} else self._cut
        # An error before any task had started has cut the run short all the same.
        return "cancelled" if self._cut == "complete" else self._cut

    def _failure(self, *, cancelled: bool) -> ParallelError | None:
        """Return the error that the failed items amount to, or None.

        More than the limit always do. Fewer do only if every item failed, `raise_if_all_failed` is set, and the
        caller would not notice otherwise: the consumer of a stream has seen the failures, and a cancelled caller
        gets the cancellation.
        """
        ledger = self.ledger
        unknown = not self._setup.streamed and not cancelled and self._setup.config.raise_if_all_failed
        if not ledger.has_failed and not (unknown and 0 < ledger.failed == ledger.size):
            return None
        result = ledger.result()
        return ParallelError(result.errors, result)

    def _too_slow(self) -> str:
        return f"run timed out after {self._setup.config.timeout:g} s"

    async def _end(self) -> None:
        """Close the source, and end the ledger.

        Cancellation: an error of closing the source is collected.
        """
        with self.errors.collecting():
            await self.feeder.aclose()
        if self._cut == "timeout":
            with self.errors.collecting():
                self._expire()
        self.ledger.end(self._status())

    def _expire(self) -> None:
        """Fail every item without an outcome: the run has timed out."""
        message = self._too_slow()
        count, first = self.ledger.expire(message, self._setup.items, awaited=self._awaited)
        if count and self._journal is not None:
            self._journal.note_failure(first, trio.TooSlowError(message), count=count)
        self.ledger.take_in()

    def _check_thread(self) -> None:
        """Raise, before anything is changed, if called from another thread or another `trio.run`."""
        if not self._is_here() and self._token is not None:
            message = "drain() and cancel() work in the trio.run of their run: use trio.from_thread.run_sync"
            raise RuntimeError(message)

    def _is_here(self) -> bool:
        try:
            return trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:
            return False

    # Durable runs.

    async def _run_kept(self, journal: Journal[T, R]) -> None:
        async with open_store(journal.store) as store:
            with self.errors.collecting():
                await journal.open(store, self._setup.items)
                await self._run_tasks()
                journal.check_end(exhausted=self.ledger.exhausted)
            await self._end()
            with self.errors.collecting():
                await journal.finish(self._run_status())
            if self._setup.streamed:
                with trio.CancelScope(shield=True):
                    await self._left.wait()  # the body will end: it is cancelled if we are
            if self._run_status() == "completed" and self._left_in_peace and not self.ledger.done.batch:
                await self._clean_up(journal)

    async def _clean_up(self, journal: Journal[T, R]) -> None:
        """Forget a completed run whose outcomes were taken, or are about to be returned.

        Cancellation: shielded, for some seconds at most.
        """
        if not self._setup.streamed:
            # First, because an observer may take the result from the caller by stopping the program.
            with self.errors.collecting():
                self.conclude()
        if self.errors.worst() is None:
            await journal.clean_up()

    def _run_status(self) -> RunStatus:
        worst = self.errors.worst()
        if self.ledger.failed or not (worst is None or isinstance(worst, trio.Cancelled)):
            return "failed"
        return "completed" if self.ledger.finished and worst is None else "cancelled"

    @trio.lowlevel.enable_ki_protection
    async def _write_journal(self, journal: Journal[T, R]) -> None:
        try:
            with self._writing:
                await journal.write_until_cancelled()
        except CheckpointError as error:
            self._break_off(error)


def _emit_late_start(events: ParallelEvents[Any, Any], worker: Worker[Any], index: int) -> None:
    """Emit, to observers that take batches, the start of an item that fails, is retried or is cut off."""
    if events.batches and not worker.late_start:
        worker.late_start = True
        events.late_item_started(worker.number, index, trio.current_time() - worker.started)
