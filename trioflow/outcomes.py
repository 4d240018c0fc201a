"""The outcomes of items and the results of runs.

Plain frozen data, without behaviour of a run. They take positional arguments too: the engine builds one for each
item, and positional arguments are cheaper than keywords (`benchmarks/bench_engine.py`, question f).

Their `repr`s are short and show no item, result, state or message: a `repr` ends up in logs, and results are
large and private.
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
    """A struct whose `repr` is its `_brief`, in rich as well."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{self._brief()}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("brief", self._brief().lstrip(": "))]

    def _brief(self) -> str:
        raise NotImplementedError


class TaskError(_Brief, Generic[T], frozen=True):
    """A failed item: its index, its error, and the number of attempts."""

    index: int
    """Position of the item in the input, from 0."""
    item: T | None
    """The item; None if it was never pulled and the source cannot be indexed."""
    error: Exception
    """The processor's exception, or `trio.TooSlowError` if the run timed out."""
    attempts: int
    """How often the processor was called for the item; 0 if it never started."""

    def _brief(self) -> str:
        return f" of item {self.index}: {type(self.error).__name__}, attempts {self.attempts}"


class TaskOutcome(_Brief, Generic[T, R], frozen=True):
    """The outcome of one item, as a stream yields it: a result or an error."""

    index: int
    """Position of the item in the input, from 0."""
    item: T | None
    """The item; None if it was never pulled and the source cannot be indexed."""
    result: R | None
    """The processor's return value; None if the item failed."""
    error: Exception | None
    """The processor's exception, or `trio.TooSlowError` if the run timed out; None if the item succeeded."""
    attempts: int
    """How often the processor was called for the item; 0 if it never started."""
    duration: float
    """Seconds by Trio's clock since the start of the first attempt, delays between attempts included."""

    def _brief(self) -> str:
        what = "ok" if self.error is None else type(self.error).__name__
        return f" of item {self.index}: {what}, attempts {self.attempts}, {self.duration:.3g} s"

    @property
    def ok(self) -> bool:
        """Whether the item succeeded."""
        return self.error is None

    def unwrap(self) -> R:
        """Return the result, or raise the item's error."""
        if self.error is None:
            return cast("R", self.result)
        captured = self.error
        try:
            raise captured
        finally:
            # The traceback refers to this frame: without the names there is no reference cycle.
            del captured, self


class ErrorCategory(_Brief, frozen=True):
    """Errors that share one message."""

    message: str
    """The message, raw and uncut, except that lone surrogates are escaped: JSON cannot represent them."""
    type: str
    """Type name of the first error of the category."""
    count: int
    """How many items failed with this message."""
    first_index: int
    """The lowest index among them."""

    def _brief(self) -> str:
        return f": {self.count} failed with {self.type} first, item {self.first_index} the first"


class ErrorReport(_Brief, frozen=True):
    """The errors of a run, counted by message; encodes to JSON."""

    failed: int
    """Items that failed."""
    total: int
    """Items of the run."""
    categories: list[ErrorCategory]
    """Most frequent first, ties by lowest index."""

    def _brief(self) -> str:
        return f": {self.failed} of {self.total} failed, {len(self.categories)} messages"


class ParallelResult(_Brief, Generic[T, R], frozen=True):
    """The result of a parallel run: each index of the input is ok, failed or unfinished, exactly one of these."""

    results: list[R]
    """The processor's return values, of successful items only, in item order."""
    indices: list[int]
    """`indices[k]` is the index in the input of the item that produced `results[k]`."""
    errors: list[TaskError[T]]
    """The failed items, in item order."""
    unfinished: Sequence[int]
    """Ascending indexes of items without an outcome: cancelled in flight, or never started. A list, or, for more
    than 1,000, `Indexes`, which stores ranges."""
    total: int
    """The length of the input, or the number of items pulled if it has none."""
    status: Literal["running", "complete", "failed", "timeout", "drained", "cancelled"] = "complete"
    """How the run ended: `complete` if the input was exhausted and every item has an outcome, `failed` if failed
    items ended it, `timeout` if it timed out, `drained` by `ParallelRun.drain`, or `cancelled`: by an outer scope,
    by `ParallelRun.cancel`, or by an error of the source, of `progress` or of the block. `running` until then."""

    @property
    def report(self) -> ErrorReport:
        """The errors counted by message, as in `ParallelError.report`, also if nothing was raised."""
        return count_errors(self.errors, self.total)

    def outcomes(self) -> list[TaskOutcome[T, R]]:
        """Return the outcome of each item that has one, in item order.

        A result does not store successful items, nor their attempts and durations: their `item` is None and their
        `attempts` 0. `duration` is always 0.0. `on_outcome=` of `process_parallel`, and a stream, give complete
        outcomes.
        """
        succeeded = zip(self.indices, self.results, strict=True)
        outcomes: list[TaskOutcome[T, R]]
        outcomes = [TaskOutcome(index, None, result, None, 0, 0.0) for index, result in succeeded]
        outcomes += [TaskOutcome(e.index, e.item, None, e.error, e.attempts, 0.0) for e in self.errors]
        return sorted(outcomes, key=lambda outcome: outcome.index)

    def failed_items(self) -> "FailedItems[T]":
        """Return the failed items, in item order: the input of another round.

        Leaves out items that were never pulled from a source that cannot be indexed: they are unknown.
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
    """Ascending indexes, stored as ranges, so that the rest of a large input takes little memory.

    Equal to a list of the same numbers; added to a list it gives a list.

    Args:
        indexes: strictly ascending numbers from 0.
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
        # A canonical form, so that equal numbers have equal ranges.
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
        """Whether `other` has the same numbers; it may be a list, tuple or range."""
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
    """The failed items of a run: a sequence that also has their indexes in the input.

    ::

        again = result.failed_items()
        second = await process_parallel(again, processor)
        repaired = {again.indices[k]: value for k, value in zip(second.indices, second.results)}

    Attributes:
        indices: `indices[k]` is the index of `self[k]` in the input of the run.
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
        """Whether `other` has the same items in the same order; it may be a list or tuple."""
        return list(self) == list(other) if isinstance(other, FailedItems | list | tuple) else NotImplemented

    __hash__: ClassVar[None]  # type: ignore[assignment]  # items need not be hashable


class ChainResult(_Brief, Generic[S], frozen=True):
    """The result of a chain."""

    final: S
    """The state after the last step; the initial one if there was no step."""
    intermediate: list[S]
    """The initial state and the state after each step, if the config captures them; otherwise empty."""
    steps: int
    """The number of steps."""

    def _brief(self) -> str:
        return f": {self.steps} steps"


class GraphStep(_Brief, Generic[S], frozen=True):
    """A completed node, as a stream of steps yields it."""

    node: str
    """The node's name."""
    iteration: int
    """Node attempts of the run so far, this one included; from 1."""
    state: S
    """The state that the node returned."""

    def _brief(self) -> str:
        return f" {self.iteration}: node {quote(self.node)}"


class GraphResult(_Brief, Generic[S], frozen=True):
    """The result of a run of a graph."""

    state: S
    """The state after the exit point; of a paused run, the state with which the paused node will run again."""
    run_id: str
    """The run's id, for `StateGraph.resume`."""
    status: Literal["completed", "paused"]
    """Whether the run reached an exit point, or waits to be resumed."""
    exit_point: str | None
    """The exit point reached; None if the run is paused."""
    path: list[str]
    """The nodes of this call in order, a paused one included; only the last 1,000."""
    iterations: int
    """Node attempts of the whole run, failed ones and those before a pause included."""
    pause: Any = None
    """The payload of `pause`; None if the run completed."""

    def _brief(self) -> str:
        where = f" at {quote(self.exit_point)}" if self.exit_point is not None else ""
        return f" of run {quote(self.run_id)}: {self.status}{where}, {self.iterations} iterations"


class BranchesResult(msgspec.Struct, Generic[S], frozen=True):
    """The results of a node's branches; both mappings are in the order of the branches."""

    states: dict[str, S]
    """The states of the branches that returned, by branch name."""
    errors: dict[str, Exception]
    """The errors of the branches that failed, by branch name."""


class Progress(msgspec.Struct, frozen=True):
    """The progress of a parallel run."""

    completed: int
    """Items that succeeded."""
    failed: int
    """Items that failed."""
    total: int | None
    """The length of the input; None if unknown."""

    @property
    def done(self) -> int:
        """Items that have an outcome: `completed` + `failed`."""
        return self.completed + self.failed


class LiveValue(Protocol[V_co]):
    """A value that changes during a run, and that a task can wait on."""

    @property
    def value(self) -> V_co:
        """The current value."""
        ...

    async def wait_value(self, value_or_predicate: object, *, held_for: float = 0) -> V_co:
        """Wait until the value equals `value_or_predicate`, or satisfies it if it is callable.

        The end of the run does not end the wait.

        Args:
            value_or_predicate: a value to equal, or a predicate of the value; what it raises is raised here.
            held_for: seconds for which the value must keep matching.

        Returns:
            The value that matched.

        Cancellation: nothing is lost; call again.
        """
        ...

    def eventual_values(self, value_or_predicate: object = ..., held_for: float = 0) -> AsyncIterator[V_co]:
        """Iterate over the current value and each later one that matches; fast changes may be skipped.

        The iteration ends with the run.

        Cancellation: nothing is lost; iterate again.
        """
        ...


def count_errors(errors: Sequence[TaskError[Any]], total: int) -> ErrorReport:
    """Return a report of `errors`, the failed items of a run of `total` items, counted by message."""
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
