"""One worker's hand: the item it holds, how often that was tried, and the events that tell of it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar, final

import trio

from trioflow._runtime.attempts import equip
from trioflow._runtime.emitter import Emitter, told
from trioflow.config import ParallelConfig
from trioflow.events import EventType
from trioflow.policies import RateLimiter
from trioflow.workflows._collector import Collector
from trioflow.workflows._source import Source

__all__ = ("IDLE", "Worker")

T = TypeVar("T")
R = TypeVar("R")

_START = EventType.WORKER_START

IDLE = -1
"""The index of a worker that has no item in hand."""


@final
class Worker(Generic[T]):
    """The state of one worker.

    Attributes:
        number: which worker, from 0.
        index: the item in hand; `IDLE` between two items.
        attempts: how often the processor was called for it.
        started: when it was taken up, by Trio's clock.
        told: whether its start was told, so that its end must be; a failure is told in any case.
    """

    __slots__ = (
        "_emitter",
        "_telling",
        "_timed",
        "_total",
        "attempts",
        "index",
        "item",
        "number",
        "started",
        "told",
    )

    def __init__(self, number: int, emitter: Emitter, collector: Collector[T, Any]) -> None:
        self.number = number
        self.index = IDLE
        self.item: T = None  # type: ignore[assignment]  # set before it is read
        self.attempts = 0
        self.started = 0.0
        self._emitter = emitter
        self._total = collector.total
        self._telling = emitter.active
        self.told = False
        # Durations are for events and for the consumer's outcomes: nobody else pays for reading the clock.
        self._timed = emitter.active or collector.outlet is not None

    def __repr__(self) -> str:
        return f"<Worker {self.number} with item {self.index}, attempt {self.attempts}>"

    def equip(
        self,
        processor: Callable[[T], Awaitable[R]],
        config: ParallelConfig,
        limiter: RateLimiter | None,
    ) -> Callable[[T], Awaitable[R]]:
        """Return `processor` with the config's policies, its attempts counted and told by this worker."""
        return equip(
            processor,
            self,
            task_timeout=config.task_timeout,
            retry=config.retry,
            on_retry=self._tell_retry,
            limiter=limiter,
        )

    def take_up(self, source: Source[T]) -> bool:
        """Take the next item in hand and tell so; False where there is none."""
        claimed = source.take()
        if claimed is None:
            return False
        self.index, self.item = claimed
        self.attempts = 0
        if self._timed:
            self.started = trio.current_time()
        if self._telling:
            self.told = self._emitter.wants(_START)
        if self.told:
            self._emitter.emit(_START, self._place(self.index), {"item": self.item})
        return True

    def elapsed(self) -> float:
        """Return the seconds since the item was taken up; 0 where nobody wants to know."""
        return trio.current_time() - self.started if self._timed else 0.0

    def let_go(self, status: str, error: BaseException | None) -> None:
        """Lay the item down without an outcome, if there is one in hand, and tell so."""
        index, self.index = self.index, IDLE
        if index != IDLE and self._telling and (self.told or error is not None):
            self.tell_complete(index, self.elapsed(), status, error, {"item": self.item})

    def _tell_retry(self, attempt: int, delay: float, error: Exception) -> None:
        """Tell that an attempt failed and the next one follows."""
        if self._telling:
            data = self._place(self.index) | {"attempt": attempt, "delay": delay} | told(error)
            self._emitter.emit(EventType.TASK_RETRY, data, {"item": self.item})

    def tell_complete(
        self,
        index: int,
        duration: float,
        status: str,
        error: BaseException | None,
        private: Mapping[str, object],
    ) -> None:
        """Tell how the item went that was in hand."""
        data = self._place(index)
        data["status"] = status
        data["attempts"] = self.attempts
        data["error"] = status == "error"
        data.update(told(error))
        data["duration"] = duration
        self._emitter.emit(EventType.WORKER_COMPLETE, data, private)

    def _place(self, index: int) -> dict[str, Any]:
        return {"worker_id": self.number, "item_index": index, "total_items": self._total}
