"""What became of each item of a run, and of the run as a whole.

Plain data: the engine fills these structs in, users read them. They are frozen and know nothing of how a run
works. They take positional arguments too: the engine makes one for each item of a stream, and position is cheaper
than keyword (`benchmarks/bench_engine.py`, question f).

Their `repr`s are short, and show no item, result, state or message: they end up in logs, and results are large
and private.
"""

from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import chain
from operator import eq
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, cast, final, overload

import msgspec

from trioflow._text import describe_error, escape_surrogates, quote

__all__ = (
    "BranchesResult",
    "ChainResult",
    "ErrorCategory",
    "ErrorReport",
    "FailedItems",
    "GraphResult",
    "GraphStep",
    "Indexes",
    "LiveValue",
    "ParallelResult",
    "Progress",
    "TaskError",
    "TaskOutcome",
    "count_errors",
)

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")
V_co = TypeVar("V_co", covariant=True)

_SHOWN = 10
"""Ranges of indexes that a `repr` shows."""


class _Brief(msgspec.Struct, frozen=True):
    """A struct whose `repr` says what its `_brief` says, to rich as well."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{self._brief()}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("brief", self._brief().lstrip(": "))]

    def _brief(self) -> str:
        raise NotImplementedError


class TaskError(_Brief, Generic[T], frozen=True):
    """One failed item: which, why, and after how many attempts."""

    index: int
    """Position of the item in the input, from 0."""
    item: T | None
    """The item; None where it was never pulled and the source cannot be indexed."""
    error: Exception
    """What the processor raised, or `trio.TooSlowError` where the run's time ran out."""
    attempts: int
    """How often the processor was called for the item; 0 where it never was."""

    def _brief(self) -> str:
        return f" of item {self.index}: {type(self.error).__name__}, attempts {self.attempts}"


class TaskOutcome(_Brief, Generic[T, R], frozen=True):
    """One finished item as a stream yields it: its result, or its error."""

    index: int
    """Position of the item in the input, from 0."""
    item: T | None
    """The item; None where it was never pulled and the source cannot be indexed."""
    result: R | None
    """What the processor returned; None where the item failed."""
    error: Exception | None
    """Why the item failed; None where it succeeded."""
    attempts: int
    """How often the processor was called for the item; 0 where it never was."""
    duration: float
    """Seconds by Trio's clock from the start of the first attempt, waits between attempts included."""

    def _brief(self) -> str:
        what = "ok" if self.error is None else type(self.error).__name__
        return f" of item {self.index}: {what}, attempts {self.attempts}, {self.duration:.3g} s"

    @property
    def ok(self) -> bool:
        """Whether the item succeeded."""
        return self.error is None

    def unwrap(self) -> R:
        """Return the result, or raise the error of a failed item as it is."""
        if self.error is None:
            return cast("R", self.result)
        captured = self.error
        try:
            raise captured
        finally:
            # The traceback holds this frame; without the names, the error does not hold itself.
            del captured, self


class ErrorCategory(_Brief, frozen=True):
    """Failures that share one message."""

    message: str
    """The message, raw and uncut; lone surrogates alone are escaped, for JSON has no form for them."""
    type: str
    """Type name of the first failure of the category."""
    count: int
    """How many items failed so."""
    first_index: int
    """The lowest index among them."""

    def _brief(self) -> str:
        return f": {self.count} failed with {self.type} first, item {self.first_index} the first"


class ErrorReport(_Brief, frozen=True):
    """The failures of a run, counted by message: a struct that encodes to JSON."""

    failed: int
    """Items that failed."""
    total: int
    """Items of the run."""
    categories: list[ErrorCategory]
    """Most frequent first, ties by lowest index."""

    def _brief(self) -> str:
        return f": {self.failed} of {self.total} failed, {len(self.categories)} messages"


class ParallelResult(_Brief, Generic[T, R], frozen=True):
    """The account of a run: every index of the input is ok, failed or unfinished, never two of them."""

    results: list[R]
    """What the processor returned, successes only, in item order."""
    indices: list[int]
    """`indices[k]` is the position in the input of the item that gave `results[k]`."""
    errors: list[TaskError[T]]
    """The failed items, in item order."""
    unfinished: Sequence[int]
    """Ascending positions of items without an outcome: cancelled in flight, or never started. A list, or
    `Indexes`, which takes no memory for each, where they are more than 1,000."""
    total: int
    """The length of the input, or how many items were pulled where it has none."""
    status: Literal["running", "complete", "failed", "timeout", "drained", "cancelled"] = "complete"
    """How the run ended: `complete` where the input was exhausted and every item has an outcome, `failed` where
    failures ended it, `timeout` where its time was up, `drained` by `ParallelRun.drain`, or `cancelled`: from
    outside, by `ParallelRun.cancel`, or by an error of the source, of `progress` or of the block. Before the end
    it is `running`."""

    @property
    def report(self) -> ErrorReport:
        """The failures counted by message: what `ParallelError.report` says, also where nothing was raised."""
        return count_errors(self.errors, self.total)

    def outcomes(self) -> list[TaskOutcome[T, R]]:
        """Return the outcome of each item that has one, in item order.

        A result does not keep the items that succeeded, nor their attempts and durations: `item` is None there,
        `attempts` 0 and `duration` 0.0, as `duration` is where an item failed. `on_outcome=` of
        `process_parallel`, and a stream, give outcomes that have all of it.
        """
        succeeded = zip(self.indices, self.results, strict=True)
        outcomes: list[TaskOutcome[T, R]]
        outcomes = [TaskOutcome(index, None, result, None, 0, 0.0) for index, result in succeeded]
        outcomes += [TaskOutcome(e.index, e.item, None, e.error, e.attempts, 0.0) for e in self.errors]
        return sorted(outcomes, key=lambda outcome: outcome.index)

    def failed_items(self) -> "FailedItems[T]":
        """Return the items that failed, in item order: the input of another round.

        An item that was never pulled, from a source that cannot be indexed, is not there: it is not known.
        """
        known = [error for error in self.errors if error.attempts or error.item is not None]
        return FailedItems([cast("T", error.item) for error in known], [error.index for error in known])

    def _brief(self) -> str:
        return (
            f": {self.status}, {len(self.results)} ok, {len(self.errors)} failed, "
            f"{len(self.unfinished)} unfinished of {self.total}"
        )


@final
class Indexes(Sequence[int]):
    """Ascending positions in an input, kept as ranges: what a large input has left takes no memory for each.

    It equals a list of the same numbers, and added to a list it gives a list.

    Args:
        indexes: ascending numbers from 0, none of them twice.
        rest: numbers after those.
    """

    __slots__ = ("_ends", "_ranges")

    def __init__(self, indexes: Iterable[int] = (), rest: range = range(0)) -> None:
        ranges: list[range] = []
        start = stop = 0
        for index in indexes:
            if index != stop:
                ranges.append(range(start, stop))
                start = index
            stop = index + 1
        if rest and rest.start == stop:
            stop, rest = rest.stop, range(0)
        # In one form only, so that equal numbers have equal ranges.
        self._ranges = tuple(filter(None, (*ranges, range(start, stop), rest)))
        ends = [0]
        for part in self._ranges:
            ends.append(ends[-1] + len(part))
        self._ends = ends

    def __repr__(self) -> str:
        shown = [f"{part[0]}" if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in self._ranges[:_SHOWN]]
        return f"<Indexes {', '.join(shown) or 'of nothing'}{', …' if len(self._ranges) > _SHOWN else ''}>"

    def __len__(self) -> int:
        return self._ends[-1]

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self._ranges)

    def __contains__(self, value: object) -> bool:
        return any(value in part for part in self._ranges)

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> list[int]: ...
    def __getitem__(self, place: int | slice) -> int | list[int]:
        if isinstance(place, slice):
            return [self[at] for at in range(*place.indices(len(self)))]
        at = range(len(self))[place]
        which = bisect_right(self._ends, at) - 1
        return self._ranges[which][at - self._ends[which]]

    def __eq__(self, other: object) -> bool:
        """Whether `other` has the same numbers; a list, tuple or range may."""
        if isinstance(other, Indexes):
            return self._ranges == other._ranges
        if not isinstance(other, list | tuple | range):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    __hash__: ClassVar[None]  # type: ignore[assignment]  # it equals a list, which has none

    def __add__(self, other: Iterable[int]) -> list[int]:
        return [*self, *other]

    def __radd__(self, other: Iterable[int]) -> list[int]:
        return [*other, *self]


@final
class FailedItems(Sequence[T]):
    """The items of a run that failed: a sequence that knows where in the input each of them was.

    ::

        again = result.failed_items()
        second = await process_parallel(again, processor)
        repaired = {again.indices[k]: value for k, value in zip(second.indices, second.results)}

    Attributes:
        indices: `indices[k]` is the position of `self[k]` in the input of the run.
    """

    __slots__ = ("_items", "indices")

    def __init__(self, items: Sequence[T], indices: Sequence[int]) -> None:
        self._items: tuple[T, ...] = tuple(items)
        self.indices: tuple[int, ...] = tuple(indices)

    def __repr__(self) -> str:
        return f"<FailedItems: {len(self)}>"

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> "FailedItems[T]": ...
    def __getitem__(self, place: int | slice) -> "T | FailedItems[T]":
        if isinstance(place, slice):
            return FailedItems(self._items[place], self.indices[place])
        return self._items[place]

    def __eq__(self, other: object) -> bool:
        """Whether `other` has the same items in the same order; a list may."""
        return list(self) == list(other) if isinstance(other, FailedItems | list | tuple) else NotImplemented

    __hash__: ClassVar[None]  # type: ignore[assignment]  # items need not be hashable


class ChainResult(_Brief, Generic[S], frozen=True):
    """What a chain came to."""

    final: S
    """The state after the last step; the initial one where there was no step."""
    intermediate: list[S]
    """The initial state and the state after each step, where the config captures them; else empty."""
    steps: int
    """How many steps were made."""

    def _brief(self) -> str:
        return f": {self.steps} steps"


class GraphStep(_Brief, Generic[S], frozen=True):
    """One node that completed, as a stream of steps yields it."""

    node: str
    """The node's name."""
    iteration: int
    """Node attempts that the run has made so far, this one included; from 1."""
    state: S
    """What the node returned."""

    def _brief(self) -> str:
        return f" {self.iteration}: node {quote(self.node)}"


class GraphResult(_Brief, Generic[S], frozen=True):
    """What a run of a graph came to."""

    state: S
    """The state after the exit point; of a paused run, the state that the node will see again."""
    run_id: str
    """The run's id: what `StateGraph.resume` takes."""
    status: Literal["completed", "paused"]
    """Whether the run reached an exit point, or waits to be resumed."""
    exit_point: str | None
    """The exit point that was reached; None where the run is paused."""
    path: list[str]
    """The nodes of this call in order, the last 1,000 of them; a paused node is one of them."""
    iterations: int
    """Node attempts of the whole run, failed ones and those before a pause included."""
    pause: Any = None
    """What was given to `pause`; None where the run completed."""

    def _brief(self) -> str:
        where = f" at {quote(self.exit_point)}" if self.exit_point is not None else ""
        return f" of run {quote(self.run_id)}: {self.status}{where}, {self.iterations} iterations"


class BranchesResult(msgspec.Struct, Generic[S], frozen=True):
    """What the branches of a node came to, both in the order of the branches."""

    states: dict[str, S]
    """By name, the states that branches returned."""
    errors: dict[str, Exception]
    """By name, what branches failed with."""


class Progress(msgspec.Struct, frozen=True):
    """How far a run has come."""

    completed: int
    """Items that succeeded."""
    failed: int
    """Items that failed."""
    total: int | None
    """The length of the input; None where it is not known."""

    @property
    def done(self) -> int:
        """Items that have an outcome: those that succeeded and those that failed."""
        return self.completed + self.failed


class LiveValue(Protocol[V_co]):
    """A value that changes while a run works, and that a task can wait for."""

    @property
    def value(self) -> V_co:
        """The value now."""
        ...

    async def wait_value(self, value_or_predicate: object, *, held_for: float = 0) -> V_co:
        """Wait until the value equals `value_or_predicate`, or satisfies it where it is callable.

        The end of the run does not end the wait.

        Args:
            value_or_predicate: a value to equal, or a function of the value.
            held_for: seconds for which it must stay so.

        Cancellation: nothing is lost; call again.
        """
        ...

    def eventual_values(self, value_or_predicate: object = ..., held_for: float = 0) -> AsyncIterator[V_co]:
        """Iterate over the value now and each later one that matches; fast changes may be skipped.

        The iteration ends with the run.

        Cancellation: nothing is lost; iterate again.
        """
        ...


def count_errors(errors: Sequence[TaskError[Any]], total: int) -> ErrorReport:
    """Return `errors`, failed items of a run of `total`, counted by message."""
    groups: dict[str, list[TaskError[Any]]] = {}
    for failure in errors:
        groups.setdefault(describe_error(failure.error), []).append(failure)
    categories = [
        ErrorCategory(
            escape_surrogates(message),
            type(members[0].error).__name__,
            len(members),
            min(member.index for member in members),
        )
        for message, members in groups.items()
    ]
    categories.sort(key=lambda category: (-category.count, category.first_index))
    return ErrorReport(len(errors), total, categories)
