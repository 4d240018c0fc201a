"""What became of each item of a run, and of the run as a whole.

Plain data: the engine fills these structs in, users read them. They are frozen and know nothing of how a run
works. They take positional arguments too: the engine makes one for each item of a stream, and position is cheaper
than keyword (`benchmarks/bench_engine.py`, question f).
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar, cast

import msgspec

from trioflow._text import describe_error, escape_surrogates

__all__ = (
    "BranchesResult",
    "ChainResult",
    "ErrorCategory",
    "ErrorReport",
    "GraphResult",
    "GraphStep",
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


class TaskError(msgspec.Struct, Generic[T], frozen=True):
    """One failed item: which, why, and after how many attempts."""

    index: int
    """Position of the item in the input, from 0."""
    item: T | None
    """The item; None where it was never pulled and the source cannot be indexed."""
    error: Exception
    """What the processor raised, or `trio.TooSlowError` where the run's time ran out."""
    attempts: int
    """How often the processor was called for the item; 0 where it never was."""


class TaskOutcome(msgspec.Struct, Generic[T, R], frozen=True):
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


class ErrorCategory(msgspec.Struct, frozen=True):
    """Failures that share one message."""

    message: str
    """The message, raw and uncut; lone surrogates alone are escaped, for JSON has no form for them."""
    type: str
    """Type name of the first failure of the category."""
    count: int
    """How many items failed so."""
    first_index: int
    """The lowest index among them."""


class ErrorReport(msgspec.Struct, frozen=True):
    """The failures of a run, counted by message: a struct that encodes to JSON."""

    failed: int
    """Items that failed."""
    total: int
    """Items of the run."""
    categories: list[ErrorCategory]
    """Most frequent first, ties by lowest index."""


class ParallelResult(msgspec.Struct, Generic[T, R], frozen=True):
    """The account of a run: every index of the input is ok, failed or unfinished, never two of them."""

    results: list[R]
    """What the processor returned, successes only, in item order."""
    indices: list[int]
    """`indices[k]` is the position in the input of the item that gave `results[k]`."""
    errors: list[TaskError[T]]
    """The failed items, in item order."""
    unfinished: list[int]
    """Ascending positions of items without an outcome: cancelled in flight, or never started."""
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


class ChainResult(msgspec.Struct, Generic[S], frozen=True):
    """What a chain came to."""

    final: S
    """The state after the last step; the initial one where there was no step."""
    intermediate: list[S]
    """The initial state and the state after each step, where the config captures them; else empty."""
    steps: int
    """How many steps were made."""


class GraphStep(msgspec.Struct, Generic[S], frozen=True):
    """One node that completed, as a stream of steps yields it."""

    node: str
    """The node's name."""
    iteration: int
    """Node attempts that the run has made so far, this one included; from 1."""
    state: S
    """What the node returned."""


class GraphResult(msgspec.Struct, Generic[S], frozen=True):
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
