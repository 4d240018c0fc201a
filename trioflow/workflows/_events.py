"""The events of a fan-out: when each is emitted, and its data."""

from typing import Any, Generic, TypeVar, final

import trio

from trioflow._runtime.emitter import Emitter, error_fields, status_of
from trioflow.events import EventType
from trioflow.outcomes import TaskOutcome
from trioflow.workflows._ledger import Ledger

T = TypeVar("T")
R = TypeVar("R")


@final
class ParallelEvents(Generic[T, R]):
    """Emits the events of one run.

    It must not hold the account: the traceback of a failure that was retried leads here.

    Attributes:
        active: whether there is an observer; without one, nothing else here need be called.
    """

    __slots__ = ("_emitter", "_total", "active")

    def __init__(self, emitter: Emitter, total: int | None) -> None:
        self._emitter = emitter
        self._total = total
        self.active = emitter.active

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
        """Emit `worker.start`, if any observer has a use for it; return whether one has."""
        if not self._emitter.wants(EventType.WORKER_START):
            return False
        self._emitter.emit(EventType.WORKER_START, self._place(worker, index), {"item": item})
        return True

    def item_retried(
        self, worker: int, index: int, item: T, *, attempt: int, delay: float, error: Exception
    ) -> None:
        """Emit `task.retry`."""
        if self.active:
            data = self._place(worker, index) | {"attempt": attempt, "delay": delay} | error_fields(error)
            self._emitter.emit(EventType.TASK_RETRY, data, {"item": item})

    def item_completed(self, worker: int, outcome: TaskOutcome[T, R]) -> None:
        """Emit `worker.complete` for an item that has its outcome."""
        private = {"item": outcome.item, "result": outcome.result} if outcome.ok else {"item": outcome.item}
        status = "ok" if outcome.ok else "error"
        self._emit_complete(worker, outcome, status, outcome.error, private)

    def item_abandoned(
        self, worker: int, outcome: TaskOutcome[T, R], status: str, error: BaseException | None
    ) -> None:
        """Emit `worker.complete` for an item that stays unfinished; `outcome` has no result."""
        self._emit_complete(worker, outcome, status, error, {"item": outcome.item})

    def run_completed(self, ledger: Ledger[T, R], error: BaseException | None, started: float) -> None:
        """Emit `parallel.complete`, for a run that began at `started` and ends with `error`."""
        if not self.active:
            return
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

    def _emit_complete(
        self,
        worker: int,
        outcome: TaskOutcome[T, R],
        status: str,
        error: BaseException | None,
        private: dict[str, Any],
    ) -> None:
        data = self._place(worker, outcome.index)
        data["status"] = status
        data["attempts"] = outcome.attempts
        data["error"] = status == "error"
        data.update(error_fields(error))
        data["duration"] = outcome.duration
        self._emitter.emit(EventType.WORKER_COMPLETE, data, private)

    def _place(self, worker: int, index: int) -> dict[str, Any]:
        return {"worker_id": worker, "item_index": index, "total_items": self._total}
