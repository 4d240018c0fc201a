"""`ParallelError`: an `ExceptionGroup` of the processors' exceptions, with the partial result of the run."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Self

from trioflow._text import describe_error, one_line
from trioflow.errors.tree import TrioflowError, leaves
from trioflow.outcomes import ErrorReport, ParallelResult, TaskError, count_errors

__all__ = ("ParallelError",)

CATEGORY_LIMIT = 10
"""Categories listed in the message of a `ParallelError`; the report has them all."""


class ParallelError(TrioflowError, ExceptionGroup[Exception]):
    """Items of a parallel run failed.

    `exceptions[k]` is what the processor of `errors[k]` raised. `split`, `subgroup` and `except*` keep the type
    and the matching task errors; they reach into groups that a processor raised.

    Attributes:
        errors: the failed items, in item order.
        result: the partial result of the run.
        report: the errors counted by message.
    """

    errors: list[TaskError[Any]]
    result: ParallelResult[Any, Any]

    def __new__(cls, errors: Sequence[TaskError[Any]], result: ParallelResult[Any, Any]) -> Self:
        """Create the group of the exceptions in `errors`."""
        self = super().__new__(cls, _summary(errors), [failure.error for failure in errors])
        self.errors = list(errors)
        self.result = result
        return self

    def __init__(self, errors: Sequence[TaskError[Any]], result: ParallelResult[Any, Any]) -> None:
        del errors, result
        super().__init__(self.message, self.exceptions)

    @property
    def report(self) -> ErrorReport:
        """The errors counted by message, most frequent first, ties by lowest index."""
        return count_errors(self.errors, self.result.total)

    def derive(self, excs: Sequence[Exception], /) -> "ExceptionGroup[Exception]":  # type: ignore[override]
        """Return a group of `excs`: a `ParallelError` if all of them come from this one."""
        errors = list(_matching(self.errors, excs))
        if len(errors) != len(excs):
            return ExceptionGroup(self.message, excs)
        return ParallelError(errors, self.result)

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        types = Counter(type(failure.error).__name__ for failure in self.errors)
        named = ", ".join(f"{name} ({count})" for name, count in types.most_common(CATEGORY_LIMIT))
        return f"<{type(self).__name__}: {len(self.errors)} of {self.result.total} items failed: {named}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errors, self.result), self._extra_state()

    def _extra_state(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in {"errors", "result"}}


def _summary(errors: Sequence[TaskError[Any]]) -> str:
    prefix = "parallel execution failed"
    if len(errors) == 1:
        return f"{prefix}: item {errors[0].index}: {one_line(describe_error(errors[0].error))}"
    categories = count_errors(errors, len(errors)).categories
    named = ", ".join(
        f"'{one_line(category.message)}' ({_counted(category.count, 'item')})"
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

    `split` and `subgroup` keep the order, so one pass over both finds each part's origin, even if several items
    raised the same exception object.
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
