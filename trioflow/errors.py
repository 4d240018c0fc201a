"""What trioflow raises: one small tree under `TrioflowError`.

`ParallelError` is an `ExceptionGroup` of what the processors raised, so that `except*` works, and it carries the
account of the run beside it. The errors of the patterns that call one thing at a time say where it failed and what
the state was; what failed is their `__cause__`, and their message quotes it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

from trioflow._text import clip, describe_error, escape, one_line, quote, show
from trioflow.outcomes import ErrorCategory, ErrorReport, ParallelResult, TaskError, count_errors

__all__ = (
    "ChainError",
    "CheckpointConflictError",
    "CheckpointError",
    "CheckpointMismatchError",
    "CheckpointNotFoundError",
    "ConditionalError",
    "ConfigError",
    "ErrorCategory",
    "ErrorReport",
    "ExecutionError",
    "GraphError",
    "ParallelError",
    "TrioflowError",
    "leaves",
)

CATEGORY_LIMIT = 10
"""Categories that the message of a `ParallelError` names; the report has them all."""


class TrioflowError(Exception):
    """The root of what trioflow itself raises."""


class ConfigError(TrioflowError, ValueError):
    """An argument, a setting or a file that cannot work, refused before any work starts.

    Attributes:
        field: the name of the argument or field; None where a whole file is refused.
        value: what was given.
        allowed: what would be accepted, in words.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        value: object = None,
        allowed: str | None = None,
    ) -> None:
        super().__init__(message)
        self.field = field
        self.value = value
        self.allowed = allowed

    @classmethod
    def refusing(cls, field: str, value: object, allowed: str) -> Self:
        """Return the error that says that `field` must be `allowed` and is `value`."""
        message = f"{field} must be {allowed}, got {show(value)}"
        return cls(message, field=field, value=value, allowed=allowed)


class ParallelError(TrioflowError, ExceptionGroup[Exception]):
    """Items of a parallel run failed.

    `exceptions[k]` is what the processor of `errors[k]` raised. `split`, `subgroup` and `except*` keep the type
    and the matching task errors; they reach into groups that a processor raised.

    Attributes:
        errors: the failed items, in item order.
        result: the account of the run, with what succeeded.
        report: the failures counted by message.
    """

    errors: list[TaskError[Any]]
    result: ParallelResult[Any, Any]

    def __new__(cls, errors: Sequence[TaskError[Any]], result: ParallelResult[Any, Any]) -> Self:
        """Make the group of what `errors` hold."""
        self = super().__new__(cls, _summary(errors), [failure.error for failure in errors])
        self.errors = list(errors)
        self.result = result
        return self

    def __init__(self, errors: Sequence[TaskError[Any]], result: ParallelResult[Any, Any]) -> None:
        del errors, result
        super().__init__(self.message, self.exceptions)

    @property
    def report(self) -> ErrorReport:
        """The failures counted by message, most frequent first, ties by lowest index."""
        return count_errors(self.errors, self.result.total)

    def derive(self, excs: Sequence[Exception], /) -> "ExceptionGroup[Exception]":  # type: ignore[override]
        """Return a group of `excs`: a `ParallelError` where all of them come from this one."""
        errors = list(_matching(self.errors, excs))
        if len(errors) != len(excs):
            return ExceptionGroup(self.message, excs)
        return ParallelError(errors, self.result)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errors, self.result), self._extra_state()

    def _extra_state(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in {"errors", "result"}}


class _PlacedError(TrioflowError):
    """A failure whose place the error names, and whose cause the message quotes."""

    def __str__(self) -> str:
        return f"{self._place()}: {self._what()}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle without their cause, but here the message is the cause's.
        return type(self), self.args, {**self.__dict__, "__cause__": self.__cause__}

    def _place(self) -> str:
        raise NotImplementedError

    def _what(self) -> str:
        return one_line(describe_error(self.__cause__)) if self.__cause__ is not None else "no cause is known"


class ChainError(_PlacedError):
    """A step of a chain failed; the `__cause__` is what the processor raised.

    Attributes:
        step_index: which step, from 0.
        item: its item.
        state: the last good state: what the step was given.
    """

    def __init__(self, step_index: int, item: Any, state: Any) -> None:
        super().__init__(step_index, item, state)
        self.step_index = step_index
        self.item = item
        self.state = state

    def _place(self) -> str:
        return f"chain failed at step {self.step_index}"


class ConditionalError(_PlacedError):
    """A predicate failed, gave a route that is not there, or the route's handler failed.

    The `__cause__` is what was raised; a `LookupError` that names the known routes where the route is unknown.

    Attributes:
        route: what the predicate returned; None where it failed.
        state: what it was asked about.
    """

    def __init__(self, route: Any, state: Any) -> None:
        super().__init__(route, state)
        self.route = route
        self.state = state

    def _place(self) -> str:
        if self.route is None:
            return "conditional routing failed"
        return f"conditional routing failed for route {quote(self.route)}"


class GraphError(ConfigError):
    """A graph that cannot work: an argument that does not fit, or the faults that `validate` found.

    Attributes:
        graph: the graph's name.
        faults: what is wrong, one sentence each.
    """

    def __init__(self, graph: str, faults: Sequence[str]) -> None:
        super().__init__(f"graph '{one_line(graph)}' cannot work: {'; '.join(faults)}")
        self.graph = graph
        self.faults: list[str] = list(faults)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.graph, self.faults)


class ExecutionError(_PlacedError):
    """A run of a graph failed; the `__cause__` is what was raised, where something was.

    Attributes:
        node: where: the node that raised, whose edges failed or had no transition; at the limit, the next node.
        state: the last good state; at a node that failed, what it was given.
        path: the nodes of this call up to the failure, the last 1,000 of them.
        kind: what failed.
    """

    def __init__(
        self,
        node: str,
        state: Any,
        path: Sequence[str],
        *,
        kind: Literal["node", "predicate", "no transition", "max iterations"] = "node",
        reason: str | None = None,
    ) -> None:
        super().__init__(node, state, path)
        self.node = node
        self.state = state
        self.path: list[str] = list(path)
        self.kind = kind
        self._reason = reason

    def _place(self) -> str:
        return f"execution failed at node {one_line(self.node)}"

    def _what(self) -> str:
        said = [self._reason] if self._reason else []
        if self.__cause__ is not None or not said:
            said.append(super()._what())
        return ": ".join(said)


class CheckpointError(TrioflowError):
    """The root of what goes wrong with runs that are kept.

    Attributes:
        run_id: the run.
    """

    def __init__(self, message: str, *, run_id: str | None = None) -> None:
        super().__init__(message)
        self.run_id = run_id


class CheckpointNotFoundError(CheckpointError):
    """There is nothing to resume under this run id."""


class CheckpointConflictError(CheckpointError):
    """Somebody else goes on with this run."""


class CheckpointMismatchError(CheckpointError):
    """What is kept under this run id is not what it is to be used for."""


def _summary(errors: Sequence[TaskError[Any]]) -> str:
    prefix = "parallel execution failed"
    if len(errors) == 1:
        return f"{prefix}: item {errors[0].index}: {one_line(describe_error(errors[0].error))}"
    categories = count_errors(errors, len(errors)).categories
    named = ", ".join(
        f"'{clip(escape(category.message))}' ({_counted(category.count, 'item')})"
        for category in categories[:CATEGORY_LIMIT]
    )
    hidden = len(categories) - CATEGORY_LIMIT
    more = f", and {hidden} more" if hidden > 0 else ""
    return f"{prefix}: {len(errors)} items failed with {_counted(len(categories), 'error type')}: {named}{more}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _matching(
    errors: Sequence[TaskError[Any]], parts: Sequence[Exception]
) -> Iterator[TaskError[Any]]:
    """Yield a task error for each of `parts`: its own, or its group's with the part in the group's place.

    `split` and `subgroup` keep the order, so one walk over both finds each part's origin, also where several
    items raised the same exception object.
    """
    begin = 0
    for part in parts:
        places = range(begin, len(errors))
        whole = next((place for place in places if errors[place].error is part), None)
        place = whole if whole is not None else next((p for p in places if _is_of(part, errors[p].error)), None)
        if place is None:
            return
        failure = errors[place]
        yield failure if place == whole else TaskError(failure.index, failure.item, part, failure.attempts)
        begin = place + 1


def _is_of(part: BaseException, group: BaseException) -> bool:
    return {id(leaf) for leaf in leaves(part)} <= {id(leaf) for leaf in leaves(group)}


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in `error` that are no groups, or `error` itself where it is none."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from leaves(member)
    else:
        yield error
