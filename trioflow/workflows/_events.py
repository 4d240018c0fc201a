"""The events of a fan-out: when each is emitted, and its data."""

from typing import Any, Generic, TypeVar, final

import trio

from trioflow._runtime.emitter import Emitter, error_fields, status_of
from trioflow.events import RATE_WAIT, EventType
from trioflow.outcomes import TaskOutcome
from trioflow.workflows._channel import BatchChannel
from trioflow.workflows._ledger import Ledger

T = TypeVar("T")
R = TypeVar("R")


@final
class ParallelEvents(Generic[T, R]):
    """Emits the events of one run.

    It must not hold the ledger: the traceback of a retried failure leads here, and would keep it alive.

    Attributes:
        active: whether there is an observer; without one, nothing else here need be called.
        batches: whether an observer takes successful items in batches.
        announces: whether an observer is notified of beginnings that are no events.
        has_singles: whether an observer takes them one by one.
        passed: if an observer takes batches, the items that succeeded at the first attempt and wait to be handed
            over: worker, index, end time and duration.
    """

    __slots__ = ("_emitter", "_total", "active", "announces", "batches", "has_singles", "passed")

    def __init__(self, emitter: Emitter, total: int | None) -> None:
        self._emitter = emitter
        self._total = total
        self.active = emitter.active
        self.batches = emitter.batches
        self.announces = emitter.announces
        self.has_singles = bool(emitter.singles)
        self.passed: BatchChannel[tuple[int, int, float, float]] | None = None
        if emitter.batches:
            self.passed = BatchChannel()

    def __repr__(self) -> str:
        return f"<ParallelEvents: {self._emitter!r}>"

    def run_started(self, worker_count: int, *, fail_fast: bool, has_progress: bool) -> None:
        """Emit `parallel.start`."""
        if self.active:
            data = {
                "item_count": self._total,
                "worker_count": worker_count,
                "fail_fast": fail_fast,
                "has_progress_callback": has_progress,
            }
            self._emitter.emit(EventType.PARALLEL_START, data)

    def item_started(self, worker: int, index: int, item: T) -> bool:
        """Emit `worker.start`, if any observer wants it; return whether one does."""
        emitter = self._emitter
        if not emitter.wants(EventType.WORKER_START):
            return False
        emitter.emit(EventType.WORKER_START, self._place(worker, index), {"item": item}, to=emitter.singles)
        return True

    def hand_over(self) -> None:
        """Hand the items in `passed` to the observers that take batches."""
        if self.passed is not None and self.passed.batch:
            items = list(self.passed.batch)
            self.passed.batch.clear()
            self._emitter.hand_over(items, self._total)

    def item_waits(self, worker: int, index: int, seconds: float) -> None:
        """Announce that an item will wait for the rate limit for this many seconds."""
        data = {**self._place(worker, index), "delay": seconds}
        self._emitter.announce(EventType.CUSTOM, {"name": RATE_WAIT, "data": data})

    def late_item_started(self, worker: int, index: int, ago: float) -> None:
        """Emit `worker.start` to observers that take batches, `ago` seconds after the start."""
        self.hand_over()
        self._emitter.emit_to_batchers(EventType.WORKER_START, self._place(worker, index), ago=ago)

    def item_retried(
        self, worker: int, index: int, item: T, *, attempt: int, delay: float, error: Exception
    ) -> None:
        """Emit `task.retry`."""
        if self.active:
            data = self._place(worker, index) | {"attempt": attempt, "delay": delay} | error_fields(error)
            self._emitter.emit(EventType.TASK_RETRY, data, {"item": item})

    def item_completed(
        self, worker: int, outcome: TaskOutcome[T, R], *, observed: bool = True, batched: bool = False
    ) -> None:
        """Emit `worker.complete` for an item that has its outcome.

        Args:
            worker: the number of the worker that processed it.
            outcome: its outcome.
            observed: whether its start was emitted.
            batched: whether it was put into `passed`.
        """
        private: dict[str, Any] = {"item": outcome.item}
        status = "error"
        if outcome.error is None:
            status, private["result"] = "ok", outcome.result
        data = self._completion(worker, outcome, status, outcome.error)
        if batched:
            self._emitter.emit(EventType.WORKER_COMPLETE, data, private, to=self._emitter.singles)
        else:
            self._emit_complete(data, private, observed=observed)

    def item_abandoned(
        self,
        worker: int,
        outcome: TaskOutcome[T, R],
        status: str,
        error: BaseException | None,
        *,
        observed: bool,
    ) -> None:
        """Emit `worker.complete` for an item that stays unfinished; `outcome` has no result."""
        data = self._completion(worker, outcome, status, error)
        self._emit_complete(data, {"item": outcome.item}, observed=observed)

    def run_completed(self, ledger: Ledger[T, R], error: BaseException | None, started: float) -> None:
        """Emit `parallel.complete` for a run that began at `started` and ends with `error`."""
        if not self.active:
            return
        self.hand_over()
        cut_short = error is None and not ledger.finished and ledger.status != "complete"
        status = "cancelled" if cut_short else status_of(error)
        self._emitter.emit(
            EventType.PARALLEL_COMPLETE,
            {
                "status": status,
                "items_processed": ledger.completed,
                "items_failed": ledger.failed,
                "items_unfinished": ledger.size - ledger.completed - ledger.failed,
                "error": status == "error",
                **error_fields(error if status == "error" else None),
                "duration": trio.current_time() - started,
                "observer_failures": self._emitter.observer_failures,
            },
        )

    def _completion(
        self, worker: int, outcome: TaskOutcome[T, R], status: str, error: BaseException | None
    ) -> dict[str, Any]:
        return {
            **self._place(worker, outcome.index),
            "status": status,
            "attempts": outcome.attempts,
            "error": status == "error",
            **error_fields(error),
            "duration": outcome.duration,
        }

    def _emit_complete(self, data: dict[str, Any], private: dict[str, Any], *, observed: bool) -> None:
        """Emit the end of an item: a failure to all observers, a success to those that saw its start."""
        if observed or data["error_type"] is not None:
            self._emitter.emit(EventType.WORKER_COMPLETE, data, private)
        else:
            self._emitter.emit_to_batchers(EventType.WORKER_COMPLETE, data)

    def _place(self, worker: int, index: int) -> dict[str, Any]:
        return {"worker_id": worker, "item_index": index, "total_items": self._total}
