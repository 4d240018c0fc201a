"""The ledger of a run: which items were pulled, the outcome of each, and how many may be in progress.

Workers put outcomes on the channel `results`; `take_in` enters them in the ledger and, for a stream, puts them
on `done`, in order of completion or of items. This is the collector task's work, but a synchronous method: any
task that needs the ledger up to date, such as a worker that looks for room or a caller that wants the result,
calls it too. Nothing here awaits.

At every instant pulled = results + errors + unfinished, and pulled - released is at most the window. So no channel
needs a limit of its own, and a worker never waits for room to record a result.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter, lt
from typing import Any, Generic, Literal, TypeVar, cast, final

import trio

from trioflow._live import Live
from trioflow.outcomes import Indexes, ParallelResult, Progress, TaskError, TaskOutcome
from trioflow.workflows._channel import BatchChannel
from trioflow.workflows._sources import note_pulled

T = TypeVar("T")
R = TypeVar("R")

MANY = 32
"""Recorded outcomes for which the collector is woken even if no task waits for one."""

MANY_UNFINISHED = 1_000
"""The most unfinished items that a result holds in a plain list."""

_index_of = attrgetter("index")

Status = Literal["running", "complete", "failed", "timeout", "drained", "cancelled"]


@final
class Ledger(Generic[T, R]):
    """The outcomes of the items, and the room for more.

    Args:
        total: the length of the input; None if it has none.
        window: how many items may be pulled and neither collected nor taken by a consumer.
        streamed: whether a consumer takes outcomes.
        ordered: whether it takes them in item order.
        keep: whether outcomes that it has taken are kept for the result.
        failure_limit: failures that a run may have; one more ends it, and is raised, not yielded. None is no
            limit.
        on_success: called with each result that is entered; None is not called.
        on_outcome: called with each outcome that is entered, until it raises; None is not called.

    Attributes:
        results: outcomes that are recorded and not entered yet.
        done: outcomes for the consumer; closed at the end of the run.
        unsettled: the items without an outcome, by index.
        on_room: called when there is as much room as `wake_for` asked for.
        reports: whether a callback receives what is entered.
    """

    __slots__ = (
        "_awaited",
        "_failures",
        "_indices",
        "_keep",
        "_kept",
        "_late",
        "_live",
        "_next_index",
        "_on_outcome",
        "_on_success",
        "_ordered",
        "_out_of_turn",
        "_released",
        "_sorted",
        "_sorted_failures",
        "_streamed",
        "_wake_at",
        "_window",
        "completed",
        "done",
        "ended",
        "exhausted",
        "expired",
        "failed",
        "failure_limit",
        "on_room",
        "pulled",
        "reports",
        "results",
        "status",
        "total",
        "unsettled",
    )

    def __init__(
        self,
        total: int | None,
        window: int,
        *,
        streamed: bool,
        ordered: bool,
        keep: bool,
        failure_limit: int | None,
        on_success: Callable[[int, int | None, R], object] | None,
        on_outcome: Callable[[TaskOutcome[T, R]], object] | None,
    ) -> None:
        self.total = total
        self.results: BatchChannel[TaskOutcome[T, R]] = BatchChannel()
        self.done: BatchChannel[TaskOutcome[T, R]] = BatchChannel()
        self.unsettled: dict[int, T] = {}
        self.pulled = self.completed = self.failed = self.expired = 0
        self.exhausted = self.ended = False
        self.status: Status = "running"
        self.on_room: Callable[[], object] = lambda: None
        self._window = window
        self._released = 0
        self._awaited = 0
        self._wake_at = sys.maxsize
        self._streamed = streamed
        self._ordered = ordered
        self.failure_limit = failure_limit
        self._keep = keep or not streamed
        self._on_success = on_success
        self._on_outcome = on_outcome
        self.reports = on_success is not None or on_outcome is not None
        self._indices: list[int] = []
        self._kept: list[R] = []
        self._failures: list[TaskError[T]] = []
        self._sorted = self._sorted_failures = 0
        self._out_of_turn: dict[int, TaskOutcome[T, R]] = {}
        self._late: _Late[T] = _Late(range(0), (), "")
        self._next_index = 0
        # Created on demand: publishing a change costs time even when no task waits for it.
        self._live: Live[Progress] | None = None

    def __repr__(self) -> str:
        return (
            f"<Ledger: {self.pulled} pulled, {self.completed} ok, {self.failed} failed, "
            f"{len(self.unsettled)} unsettled>"
        )

    # Room.

    @property
    def room(self) -> int:
        """How many more items may be pulled."""
        return self._window - self.pulled + self._released

    @property
    def idle(self) -> bool:
        """Whether no pulled item is in hand or waits for the consumer."""
        return self.pulled == self._released

    @property
    def is_awaited(self) -> bool:
        """Whether a task waits for an outcome."""
        return self._awaited > 0

    @property
    def is_asked(self) -> bool:
        """Whether the caller waits for the next outcome, or for the end."""
        return not self._streamed or self.is_awaited

    def wake_for(self, room: int) -> None:
        """Call `on_room`, once, as soon as there is this much room."""
        self._wake_at = self.pulled - self._window + room

    def release(self, count: int) -> None:
        """Note that the consumer has taken this many outcomes, or that no consumer will."""
        self._released += count
        if self._released >= self._wake_at:
            self._wake_at = sys.maxsize
            self.on_room()

    # Items.

    def begin(self, items: Iterable[T]) -> list[tuple[int, T]]:
        """Note that `items` were pulled, and return them with their indexes."""
        numbered = list(enumerate(items, self.pulled))
        self.pulled += len(numbered)
        self.unsettled.update(numbered)
        return numbered

    def record(self, outcome: TaskOutcome[T, R]) -> None:
        """Record an outcome to be entered; wake the collector for many of them, or if a task waits for one."""
        batch = self.results.batch
        batch.append(outcome)
        if self._awaited or len(batch) >= MANY or self._live is not None:
            self.results.call()

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """Have each outcome entered at once, while the block waits for one.

        The caller must first take in what was recorded before: no task is woken for that.
        """
        self._awaited += 1
        try:
            yield
        finally:
            self._awaited -= 1

    def take_in(self) -> None:
        """Enter what has been recorded."""
        batch = self.results.batch
        if self._live is not None or self.reports:
            freed = 0
            while batch:
                freed += not self._enter(batch.popleft())
        elif self._streamed:
            freed = self._hand_out_all()
        else:
            freed = len(batch)
            self._enter_all()
        if self._late.indexes and not self.done.batch:
            self.done.batch.extend(self._late.outcomes(MANY))
            self._late.skip(MANY)
        if self.done.batch:
            self.done.call()
        if freed:
            self.release(freed)

    def _enter_all(self) -> None:
        """Enter outcomes that only the ledger needs; no user code can run meanwhile."""
        batch = self.results.batch
        settle, keep_index, keep_result = self.unsettled.pop, self._indices.append, self._kept.append
        for outcome in batch:
            index = outcome.index
            settle(index)
            if outcome.error is None:
                self.completed += 1
                keep_index(index)
                keep_result(outcome.result)  # type: ignore[arg-type]  # a success has one
            else:
                self._enter_failure(outcome)
        batch.clear()

    def _hand_out_all(self) -> int:
        """Enter outcomes that only the ledger and a consumer need; return how many the consumer will not take."""
        batch, keep, withheld = self.results.batch, self._keep, 0
        fresh: list[TaskOutcome[T, R]] = []
        settle, hand_out = self.unsettled.pop, (fresh if self._ordered else self.done.batch).append
        for outcome in batch:
            index = outcome.index
            settle(index)
            if outcome.error is None:
                self.completed += 1
                if keep:
                    self._indices.append(index)
                    self._kept.append(outcome.result)  # type: ignore[arg-type]  # a success has one
            else:
                self._enter_failure(outcome)
                if self.has_failed:
                    withheld += 1
                    continue
            hand_out(outcome)
        batch.clear()
        self._put_in_order(fresh)
        return withheld

    def _enter(self, outcome: TaskOutcome[T, R]) -> bool:
        """Enter one outcome, and pass it on; return whether a consumer will take it."""
        del self.unsettled[outcome.index]
        if outcome.error is not None:
            self._enter_failure(outcome)
        else:
            self.completed += 1
            if self._keep:
                self._indices.append(outcome.index)
                self._kept.append(outcome.result)  # type: ignore[arg-type]  # a success has one
        return self._pass_on(outcome)

    def _enter_failure(self, outcome: TaskOutcome[T, R]) -> None:
        self.failed += 1
        if self._keep or not self._is_handed_out(outcome):
            error = cast("Exception", outcome.error)
            self._failures.append(TaskError(outcome.index, outcome.item, error, outcome.attempts))

    def _pass_on(self, outcome: TaskOutcome[T, R]) -> bool:
        """Pass an entered outcome to all that want it; return whether a consumer will take it."""
        for_consumer = self._is_handed_out(outcome)
        if for_consumer and self._ordered:
            self._put_in_order([outcome])
        elif for_consumer:
            self.done.batch.append(outcome)
        if self._live is not None:
            self._live.publish()
        if self.reports:
            self._report(outcome)
        return for_consumer

    def _report(self, outcome: TaskOutcome[T, R]) -> None:
        who = "on_outcome"
        try:
            if self._on_outcome is not None:
                self._on_outcome(outcome)
            who = "progress"
            if self._on_success is not None and outcome.error is None:
                self._on_success(self.completed, self.total, cast("R", outcome.result))
        except BaseException as error:
            if who == "on_outcome":
                # A run that times out enters many outcomes at its end: one failure of the callback is enough.
                self._on_outcome = None
            note_pulled(error, who, self.pulled)
            raise

    def _is_handed_out(self, outcome: TaskOutcome[T, R]) -> bool:
        return self._streamed and (outcome.error is None or not self.has_failed)

    @property
    def has_failed(self) -> bool:
        """Whether more items have failed than `failure_limit` allows."""
        return self.failure_limit is not None and self.failed > self.failure_limit

    def _put_in_order(self, outcomes: list[TaskOutcome[T, R]]) -> None:
        waiting, hand_out, turn = self._out_of_turn, self.done.batch.append, self._next_index
        for outcome in outcomes:
            if outcome.index != turn:
                waiting[outcome.index] = outcome
                continue
            hand_out(outcome)
            turn += 1
            while waiting and turn in waiting:
                hand_out(waiting.pop(turn))
                turn += 1
        self._next_index = turn

    # The end.

    def expire(self, message: str, items: object, *, awaited: bool) -> tuple[int, int]:
        """Fail every item without an outcome with `trio.TooSlowError`; `take_in` enters these outcomes.

        Args:
            message: the message of the errors.
            items: the input, for items that were never pulled.
            awaited: whether the feeder was waiting for an item; if the input has no length, that one fails too.

        Returns:
            The number of these items, and the lowest of their indexes.
        """
        self.take_in()
        never: _Late[T] = _Late(self._never_pulled(), items, message)
        if awaited and not never.indexes and not self.exhausted:
            never = _Late(range(self.pulled, self.pulled + 1), (), message)
        self.expired = len(never.indexes)
        count, first = len(self.unsettled) + self.expired, min(self.unsettled, default=never.indexes.start)
        for index, item in self.unsettled.items():
            self.results.batch.append(TaskOutcome(index, item, None, trio.TooSlowError(message), 0, 0.0))
        if self._streamed and not self._keep and self.failure_limit is None:
            # Most of a large input may never have been pulled: the consumer receives those outcomes bit by bit.
            self.failed += self.expired
            self._late = never
        else:
            outcomes = never.outcomes()
            self.unsettled.update(zip(never.indexes, map(attrgetter("item"), outcomes), strict=True))
            self.results.batch.extend(outcomes)
        return count, first

    def end(self, status: Status) -> None:
        """Mark that no more outcomes will come, and release those that wait for a predecessor."""
        self.take_in()
        self.done.batch.extend(self._out_of_turn.pop(index) for index in sorted(self._out_of_turn))
        self.status = status
        self.ended = True
        if self._live is not None:
            self._live.end()
        self._wake_at = sys.maxsize
        self.results.dispose()
        self.done.close()

    @property
    def size(self) -> int:
        """The number of items: those seen, or the input's length if that is more and the source not exhausted."""
        seen = self.pulled + self.expired
        return seen if self.total is None or self.exhausted else max(self.total, seen)

    @property
    def finished(self) -> bool:
        """Whether every item of the input has its outcome."""
        all_pulled = self.exhausted or self.pulled == self.total
        return all_pulled and not self.unsettled

    def check(self) -> None:
        """Raise if the ledger does not add up."""
        if self.completed + self.failed + len(self.unsettled) != self.pulled + self.expired:
            raise RuntimeError(f"the account does not add up, please report this: {self!r}")

    def result(self) -> ParallelResult[T, R]:
        """Return the result so far."""
        self.take_in()
        self._sort()
        indices, results, failures = self._indices, self._kept, self._failures
        if not self._keep:
            untaken = [*self.done.batch, *self._out_of_turn.values(), *self._late.outcomes()]
            untaken.sort(key=_index_of)
            indices = [outcome.index for outcome in untaken if outcome.ok]
            results = [cast("R", outcome.result) for outcome in untaken if outcome.ok]
            failures = failures + [
                TaskError(outcome.index, outcome.item, outcome.error, outcome.attempts)
                for outcome in untaken
                if outcome.error is not None
            ]
            failures.sort(key=_index_of)
        in_hand, never = sorted(self.unsettled), self._never_pulled()
        few = len(in_hand) + len(never) <= MANY_UNFINISHED
        unfinished = [*in_hand, *never] if few else Indexes(in_hand, never)
        return ParallelResult(
            list(results), list(indices), list(failures), unfinished, self.size, self.status
        )

    def _sort(self) -> None:
        """Sort the kept outcomes by index; the part that was sorted before is not scanned again."""
        indices, kept, failures = self._indices, self._kept, self._failures
        if not _ascend(indices[max(0, self._sorted - 1) :]):
            order = sorted(range(len(indices)), key=indices.__getitem__)
            indices[:] = [indices[place] for place in order]
            kept[:] = [kept[place] for place in order]
        if not _ascend([failure.index for failure in failures[max(0, self._sorted_failures - 1) :]]):
            failures.sort(key=_index_of)
        self._sorted, self._sorted_failures = len(indices), len(failures)

    def watch(self) -> Live[Progress]:
        """Return the live count of outcomes."""
        if self._live is None:
            self.take_in()
            self._live = Live(self._progress)
            if self.ended:
                self._live.end()
        return self._live

    def _progress(self) -> Progress:
        return Progress(self.completed, self.failed, self.total)

    def _never_pulled(self) -> range:
        return range(self.pulled + self.expired, self.size)


def _ascend(indices: list[int]) -> bool:
    return all(map(lt, indices, indices[1:]))


@final
class _Late(Generic[T]):
    """Items that had not been pulled when the run timed out.

    Args:
        indexes: their indexes.
        items: the input.
        message: the message of their errors.
    """

    __slots__ = ("_items", "_message", "indexes")

    def __init__(self, indexes: range, items: object, message: str) -> None:
        self.indexes = indexes
        self._items = items
        self._message = message

    def outcomes(self, most: int | None = None) -> list[TaskOutcome[Any, Any]]:
        """Return the outcomes of the first `most` of them, or of all."""
        return [
            TaskOutcome(index, _item_at(self._items, index), None, trio.TooSlowError(self._message), 0, 0.0)
            for index in self.indexes[:most]
        ]

    def skip(self, count: int) -> None:
        """Drop the first `count` of them."""
        self.indexes = self.indexes[count:]


def _item_at(items: object, index: int) -> Any:
    """Return the item, or None if the input cannot be indexed."""
    if not isinstance(items, Sequence):
        return None
    try:
        return items[index]
    except Exception:  # noqa: BLE001 - an input that shrank, or raises, must not hide the failure
        return None
