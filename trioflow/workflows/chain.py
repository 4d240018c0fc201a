"""One call after the other: each step receives an item and the state that the step before it returned.

The steps run in one child task (`run_in_child_task`), which pulls an item when the step before it is done.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sized
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar, final

import trio

from trioflow._durable.chains import ChainLog, KeptChain, UnkeptChain
from trioflow._durable.stores import choose_store_for
from trioflow._runtime.calls import TURN, call_plain
from trioflow._runtime.context import (
    WorkInHand,
    id_of,
    is_changed,
    nothing_in_hand,
    reset_context,
    task_name,
    working,
)
from trioflow._runtime.emitter import Emitter, completion_fields, error_fields
from trioflow._runtime.errors import ErrorCollector, foreign_cancelled, run_in_child_task
from trioflow._runtime.policies import Policies
from trioflow._runtime.signals import NotAsyncError
from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.config import ChainConfig, CheckpointConfig
from trioflow.config.checks import check_async, check_callable, check_in_trio, check_instance
from trioflow.errors import ChainError, ConfigError
from trioflow.events import EventType, Observer
from trioflow.outcomes import ChainResult
from trioflow.workflows._arguments import check_items, choose_observer
from trioflow.workflows._each import for_each
from trioflow.workflows._sources import note_pulled

__all__ = ("process_chain",)

T = TypeVar("T")
S = TypeVar("S")

_DEFAULT = ChainConfig()


async def process_chain(
    items: Iterable[T] | AsyncIterable[T],
    initial: S,
    processor: Callable[[T, S], Awaitable[S]],
    *,
    config: ChainConfig = _DEFAULT,
    progress: Callable[[int, int | None, S], object] | None = None,
    observer: Observer | None = None,
    store: CheckpointStore | None = None,
    run_id: str | None = None,
) -> ChainResult[S]:
    """Call `processor` for each item in turn, with the state that the previous call returned.

    The state is passed on without a copy: a processor that changes it in place, instead of returning another one,
    also changes what `ChainResult.intermediate` and `ChainError.state` hold.

    Args:
        items: the input, sync or async, finite or not; an item is pulled when the step before it is done.
            Generators are always closed, other iterators are left alone.
        initial: the state that the first step receives.
        processor: an async function of an item and the state that returns the next state.
        config: time limit and retries of a step, and whether intermediate states are kept.
        progress: a plain function called after each step with the number of completed steps, the number of items
            (None if the input has no length) and the state.
        observer: receives the chain's events; None takes the one that `config` names.
        store: stores a chain with a `run_id`; None takes the store that `config.checkpoint` names, if its
            `interval` is not 0. The caller closes a store that it passes.
        run_id: the id that the chain's events carry; None generates one. If the chain is stored, calling again
            with the same id and items continues after the last saved step; the result's `intermediate` begins
            there. A chain that completed and is still stored returns its result.

    Raises:
        ConfigError: an argument is invalid; nothing was started.
        ChainError: a step failed, from what the processor raised.
        CheckpointMismatchError: the run stored under `run_id` had other items, or is not a chain.
        CheckpointEncodeError: an item or a state cannot be stored exactly.
        CheckpointConflictError: another process has taken over this chain.
        CheckpointStoreError: the store cannot be read or written.
        Exception: what `items` or `progress` raised, unchanged.
        BaseException: a `KeyboardInterrupt`, `SystemExit` or the like from the processor, bare.

    Cancellation: passes through, and the caller loses the completed steps. If a step had failed before, that error
    is raised instead.
    """
    check_in_trio()
    check_items(items)
    check_async("processor", processor)
    check_instance("config", config, ChainConfig)
    check_callable("progress", progress, optional=True)
    emitter = Emitter(choose_observer(observer, config.observer, run_id), "chain", run_id)
    kept_in = choose_store_for(run_id, store, config.checkpoint)
    chain = _Chain(items, initial, processor, config, emitter=emitter, progress=progress)
    log: UnkeptChain | KeptChain[S] = UnkeptChain()
    if kept_in is not None and run_id is not None:
        log = KeptChain(kept_in, run_id, config.checkpoint or CheckpointConfig(), chain.stand_at)
    return await log.open(chain.execute, initial)


_IDLE: Any = object()
"""The item in hand between two steps."""


@final
class _Chain(Generic[T, S]):
    """One running chain: its state, and the step in hand."""

    def __init__(
        self,
        items: Iterable[T] | AsyncIterable[T],
        initial: S,
        processor: Callable[[T, S], Awaitable[S]],
        config: ChainConfig,
        *,
        emitter: Emitter,
        progress: Callable[[int, int | None, S], object] | None,
    ) -> None:
        self.attempts = 0
        self._items = items
        self._state = initial
        self._processor = processor
        self._config = config
        self.emitter = emitter
        self._active = emitter.active
        self._progress = progress
        self._total = len(items) if isinstance(items, Sized) else None
        self._intermediate = [initial] if config.capture_intermediate_states else []
        self._steps = 0
        self._item: Any = _IDLE
        self._log: ChainLog[S] = UnkeptChain()
        self._context: Context
        self._attempt: Callable[[T, S], Awaitable[S]]
        self._started = self._step_started = 0.0

    def __repr__(self) -> str:
        return f"<chain at step {self._steps}{'' if self._item is _IDLE else ', under way'}>"

    def stand_at(self, steps: int, state: S) -> None:
        """Continue after this many steps, which were completed before."""
        self._steps, self._state = steps, state
        if self._config.capture_intermediate_states:
            self._intermediate = [state]

    @trio.lowlevel.enable_ki_protection
    async def execute(self, log: ChainLog[S], steps: int, state: S) -> ChainResult[S]:
        """Run to the end, after this many completed steps.

        Cancellation: passes through.
        """
        self._log = log
        self.stand_at(steps, state)
        self._started = trio.current_time()
        name = task_name(self.emitter, "chain", self._processor)
        errors = await run_in_child_task(self._make_steps, self._foreign, name)
        if isinstance(errors.worst(), NotAsyncError):
            allowed = "an async function, or a lambda that returns an awaitable"
            errors.replace(ConfigError.refusing("processor", self._processor, allowed))
        # An observer may stop the program at the end of the step, or while the end of the chain is saved: each is
        # an end all the same.
        with errors.collecting():
            if self._item is not _IDLE and self._active:
                self._emit_step(self._place(), errors.worst(), {"item": self._item, "state": self._state})
        with errors.collecting():
            errors.replace(await log.end(errors.worst(), self._steps))
        with errors.collecting():
            self._emit_end(errors.worst())
        # Last, so that nothing can take the result from the caller any more.
        if errors.worst() is None:
            await log.forget()
        errors.raise_worst()
        return ChainResult(self._state, self._intermediate, self._steps)

    @trio.lowlevel.enable_ki_protection
    async def _make_steps(self) -> None:
        working.set(self)
        policies = Policies(self._processor, task_timeout=self._config.task_timeout, retry=self._config.retry)
        self._attempt = policies.around(self, self._emit_retry)
        self._context = copy_context()
        try:
            self._emit_start()
            # What an observer sets at the start of the run belongs to all steps.
            self._context = copy_context()
            await trio.lowlevel.checkpoint()
            await for_each(self._items, self._log.around(self._make_step))
            await self._log.exhausted()
        finally:
            # They refer to this chain: a cycle would keep every run until a garbage collection.
            del self._context, self._attempt, self._log

    async def _make_step(self, item: T) -> None:
        if self._steps and not self._steps % TURN:
            await trio.lowlevel.checkpoint()
        self._item = item
        self.attempts = 0
        stopping = None
        if self._active:
            self._emit_step_start()
        try:
            state = await self._attempt(item, self._state)
        except Exception as error:
            raise ChainError(self._steps, item, self._state) from error
        else:
            # Before the context is compared: an observer may reset at the end of a step what it set at its start.
            stopping = self._complete(state)
        finally:
            if is_changed(self._context):
                await reset_context(self._context)  # noqa: ASYNC102 - shielded in there
        saving = self._log.completed(self._steps, state) if stopping is None else self._stop(state, stopping)
        if saving is not None:
            await saving
        if self._progress is not None:
            self._report_progress(self._progress, state)

    async def _stop(self, state: S, stopping: ErrorCollector) -> None:
        """Record the step, then raise what an observer stops the chain with.

        Cancellation: the step is saved whole, or not at all, and what the observer raised takes precedence.
        """
        with stopping.collecting():
            saving = self._log.completed(self._steps, state)
            if saving is not None:
                await saving
        stopping.raise_worst()

    @property
    def run_id(self) -> str:
        """The run's id."""
        return id_of(self.emitter)

    @property
    def worker(self) -> None:
        """None: a chain has no workers."""

    def in_hand(self) -> WorkInHand:
        """Return the step in hand, for `current_run`."""
        if self._item is _IDLE:
            raise nothing_in_hand()
        return WorkInHand(self.run_id, "chain", self.attempts, step=self._steps)

    # The decisions of a step: synchronous methods, each of which leaves the chain's state consistent.

    def _complete(self, state: S) -> ErrorCollector | None:
        """Complete the step in hand; return what an observer raised to stop the chain with after that."""
        item, self._item = self._item, _IDLE
        self._state = state
        stopping = None
        if self._active:
            stopping = ErrorCollector()
            with stopping.collecting():
                self._emit_step(self._place(), None, {"item": item, "state": state})
        self._steps += 1
        if self._config.capture_intermediate_states:
            self._intermediate.append(state)
        return stopping or None

    def _report_progress(self, progress: Callable[[int, int | None, S], object], state: S) -> None:
        try:
            call_plain(progress, self._steps, self._total, state)
        except Exception as error:
            note_pulled(error, "progress", self._steps)
            raise

    def _foreign(self, error: BaseException) -> BaseException:
        """Return the error for a stray `Cancelled`: the step in hand failed."""
        if self._item is _IDLE:
            return foreign_cancelled(error, "the source of items, or an observer,")
        failure = ChainError(self._steps, self._item, self._state)
        failure.__cause__ = foreign_cancelled(error, f"the processor of step {self._steps}")
        return failure

    # The chain's events.

    def _place(self) -> dict[str, Any]:
        return {"step_index": self._steps, "total_steps": self._total}

    def _emit_start(self) -> None:
        if self._log.resumed:
            self._emit(EventType.CHECKPOINT_LOAD, {"step": self._steps})
            self._emit(EventType.CHECKPOINT_RESUME, {"step": self._steps})
        if self._active:
            data = {
                "item_count": self._total,
                "has_progress_callback": self._progress is not None,
                "captures_intermediate_states": self._config.capture_intermediate_states,
            }
            self.emitter.emit(EventType.CHAIN_START, data, {"state": self._state})
        self._log.start(self._emit_saved)

    def _emit_saved(self, step: int, node: str, status: str, size: int) -> None:
        del node
        self._emit(EventType.CHECKPOINT_SAVE, {"step": step, "run_status": status, "size": size})

    def _emit(self, type: EventType, data: dict[str, Any]) -> None:
        if self._active:
            self.emitter.emit(type, data)

    def _emit_retry(self, attempt: int, delay: float, error: Exception) -> None:
        if self._active:
            data = self._place() | {"attempt": attempt, "delay": delay} | error_fields(error)
            self.emitter.emit(EventType.TASK_RETRY, data, {"item": self._item})

    def _emit_step_start(self) -> None:
        self._step_started = trio.current_time()
        self.emitter.emit(EventType.STEP_START, self._place(), {"item": self._item, "state": self._state})

    def _emit_step(
        self, place: dict[str, Any], error: BaseException | None, private: dict[str, Any]
    ) -> None:
        cause = error.__cause__ if isinstance(error, ChainError) else error
        data = place | completion_fields(cause, self._step_started)
        data["attempts"] = self.attempts
        self.emitter.emit(EventType.STEP_COMPLETE, data, private)

    def _emit_end(self, error: BaseException | None) -> None:
        if not self._active:
            return
        data = {"steps_completed": self._steps} | completion_fields(error, self._started)
        data["observer_failures"] = self.emitter.observer_failures
        self.emitter.emit(EventType.CHAIN_COMPLETE, data, {"state": self._state})
