"""The ledger of a run: who was pulled, and what became of each; and the way of outcomes to a consumer.

Nothing here awaits. A worker settles its item by one plain call, so a result that a processor returned is
recorded before anything can be cancelled. Pulled = results + errors + unfinished at every instant.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar, cast, final

import trio

from trioflow._live import Live
from trioflow.outcomes import ParallelResult, Progress, TaskError, TaskOutcome

__all__ = ("Collector", "Outlet")

T = TypeVar("T")
R = TypeVar("R")


@final
class Outlet(Generic[T, R]):
    """Finished items on their way to a consumer, as they come or in item order.

    It needs no limit of its own: the source stops while too many items are held.
    """

    __slots__ = ("_next_index", "_ordered", "_ready", "_waiting", "arrivals", "ended")

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._ready: deque[TaskOutcome[T, R]] = deque()
        self._waiting: dict[int, TaskOutcome[T, R]] = {}
        self._next_index = 0
        self.arrivals = trio.lowlevel.ParkingLot()
        self.ended = False

    def __len__(self) -> int:
        return len(self._ready) + len(self._waiting)

    def __repr__(self) -> str:
        return f"<Outlet holding {len(self)}, {'ended' if self.ended else 'open'}>"

    def __iter__(self) -> Iterator[TaskOutcome[T, R]]:
        yield from self._ready
        yield from self._waiting.values()

    def put(self, outcome: TaskOutcome[T, R]) -> None:
        """Take in a finished item and wake a consumer that can have one."""
        if not self._ordered:
            self._ready.append(outcome)
        else:
            self._waiting[outcome.index] = outcome
            while self._next_index in self._waiting:
                self._ready.append(self._waiting.pop(self._next_index))
                self._next_index += 1
        if self._ready and self.arrivals:
            self.arrivals.unpark(count=len(self._ready))

    def take(self) -> TaskOutcome[T, R] | None:
        """Give the next finished item, or None where there is none yet."""
        return self._ready.popleft() if self._ready else None

    def end(self) -> None:
        """Say that nothing more comes: what waits for a predecessor need not wait any more."""
        self._ready.extend(self._waiting[index] for index in sorted(self._waiting))
        self._waiting.clear()
        self.ended = True
        self.arrivals.unpark_all()


@final
class Collector(Generic[T, R]):
    """What became of each item.

    Args:
        total: the length of the input; None where it is not known.
        fail_fast: whether a failure ends the run, so that it is reported and not handed to the consumer.
        outlet: the way to a consumer; None where the result alone is wanted.
        keep: whether outcomes are kept for the result; if not, it holds what the consumer has not taken.
    """

    __slots__ = (
        "_expired",
        "_fail_fast",
        "_failures",
        "_indices",
        "_keep",
        "_results",
        "completed",
        "ended",
        "exhausted",
        "failed",
        "live",
        "outlet",
        "pulled",
        "total",
        "unsettled",
    )

    def __init__(
        self, total: int | None, *, fail_fast: bool, outlet: Outlet[T, R] | None, keep: bool
    ) -> None:
        self.total = total
        self.outlet = outlet
        self.pulled = 0
        self.completed = 0
        self.failed = 0
        self.exhausted = False
        self.ended = False
        self.unsettled: dict[int, T] = {}
        # Made for those who ask: it refers back to the ledger.
        self.live: Live[Progress] | None = None
        self._expired = 0
        self._fail_fast = fail_fast
        self._keep = keep
        self._indices: list[int] = []
        self._results: list[R] = []
        self._failures: list[TaskError[T]] = []

    def __repr__(self) -> str:
        return (
            f"<Collector: {self.pulled} pulled, {self.completed} ok, {self.failed} failed, "
            f"{len(self.unsettled)} unsettled>"
        )

    @property
    def held(self) -> int:
        """How many items were pulled and neither collected nor taken by the consumer."""
        return len(self.unsettled) + (0 if self.outlet is None else len(self.outlet))

    def begin(self, item: T) -> int:
        """Note that `item` was pulled, and return its index."""
        index = self.pulled
        self.pulled = index + 1
        self.unsettled[index] = item
        return index

    def succeed(self, index: int, result: R, attempts: int, duration: float) -> None:
        """Settle an item that has its result."""
        item = self.unsettled.pop(index)
        self.completed += 1
        if self._keep:
            self._indices.append(index)
            self._results.append(result)
        if self.outlet is not None:
            self.outlet.put(TaskOutcome(index, item, result, None, attempts, duration))
        if self.live is not None:
            self.live.publish()

    def fail(self, index: int, error: Exception, attempts: int, duration: float) -> None:
        """Settle an item that failed."""
        self._settle_failure(TaskError(index, self.unsettled.pop(index), error, attempts), duration)

    def expire(self, message: str, items: object) -> None:
        """Let every item of the input `items` that has no outcome fail with `trio.TooSlowError`."""
        for index in list(self.unsettled):
            self.fail(index, trio.TooSlowError(message), 0, 0.0)
        for index in self._never_pulled():
            self._expired += 1
            failure = TaskError(index, _item_at(items, index), trio.TooSlowError(message), 0)
            self._settle_failure(failure, 0.0)

    def end(self) -> None:
        """Say that no more outcomes come."""
        self.ended = True
        if self.live is not None:
            self.live.end()
        if self.outlet is not None:
            self.outlet.end()

    def watch(self) -> Live[Progress]:
        """Return the live count of outcomes."""
        if self.live is None:
            self.live = Live(self._progress)
            if self.ended:
                self.live.end()
        return self.live

    def result(self) -> ParallelResult[T, R]:
        """Return the account as it stands."""
        indices, results, failures = self._indices, self._results, self._failures
        if not self._keep:
            untaken = list(self.outlet or ())
            indices = [outcome.index for outcome in untaken if outcome.ok]
            results = [cast("R", outcome.result) for outcome in untaken if outcome.ok]
            failures = failures + [
                TaskError(outcome.index, outcome.item, outcome.error, outcome.attempts)
                for outcome in untaken
                if outcome.error is not None
            ]
        order = sorted(range(len(indices)), key=indices.__getitem__)
        return ParallelResult(
            [results[place] for place in order],
            [indices[place] for place in order],
            sorted(failures, key=lambda failure: failure.index),
            [*self.unsettled, *self._never_pulled()],
            self.size,
        )

    @property
    def size(self) -> int:
        """The items of the run: the input's length, or how many were pulled where that says more."""
        return self.pulled if self.total is None or self.exhausted else max(self.total, self.pulled)

    @property
    def finished(self) -> bool:
        """Whether every item of the input has its outcome."""
        all_pulled = self.exhausted or self.pulled == self.total
        return all_pulled and not self.unsettled

    def check(self) -> None:
        """Refuse to end a run whose account does not add up."""
        if self.completed + self.failed + len(self.unsettled) != self.pulled + self._expired:
            raise RuntimeError(f"the account does not add up, please report this: {self!r}")

    def _never_pulled(self) -> range:
        return range(self.pulled + self._expired, self.size)

    def _settle_failure(self, failure: TaskError[T], duration: float) -> None:
        self.failed += 1
        consumer = None if self._fail_fast else self.outlet
        if self._keep or consumer is None:
            self._failures.append(failure)
        if consumer is not None:
            index, item, error, attempts = failure.index, failure.item, failure.error, failure.attempts
            consumer.put(TaskOutcome(index, item, None, error, attempts, duration))
        if self.live is not None:
            self.live.publish()

    def _progress(self) -> Progress:
        return Progress(self.completed, self.failed, self.total)


def _item_at(items: object, index: int) -> Any:
    """Return the item, or None where the input cannot be indexed."""
    if not isinstance(items, Sequence):
        return None
    try:
        return items[index]
    except Exception:  # noqa: BLE001 - an input that shrank, or will not say, must not hide the failure
        return None
