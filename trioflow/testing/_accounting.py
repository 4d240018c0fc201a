"""The invariant of every fan-out as one assertion: each item is exactly one of ok, failed or unfinished."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from trioflow.errors import ParallelError
from trioflow.outcomes import ParallelResult

__all__ = ("assert_accounted",)


def assert_accounted(
    result: ParallelResult[Any, Any] | ParallelError, items: Sequence[Any] | None = None
) -> None:
    """Assert that each item of a run is exactly one of ok, failed or unfinished.

    Args:
        result: the result, or the error that contains it.
        items: the input, in order; None does not compare items.

    Raises:
        AssertionError: an index is missing, duplicate or out of order, or an error has another item.
    """
    if isinstance(result, ParallelError):
        _check(
            {failure.index for failure in result.errors} <= {failure.index for failure in result.result.errors},
            "the errors of the exception and of its result differ",
        )
        result = result.result
    failed = [failure.index for failure in result.errors]
    _check(len(result.results) == len(result.indices), "there is not one index for each result")
    for name, indexes in (("indices", result.indices), ("errors", failed), ("unfinished", result.unfinished)):
        _check(all(a < b for a, b in pairwise(indexes)), f"{name} are not in item order")
    seen = sorted([*result.indices, *failed, *result.unfinished])
    expected = list(range(result.total))
    _check(
        seen == expected,
        f"of {result.total} items, these have no outcome or two: "
        f"{sorted(set(expected) ^ set(seen)) or sorted({index for index in seen if seen.count(index) > 1})}",
    )
    if items is not None:
        _check(len(items) == result.total, f"there were {len(items)} items, and the result is of {result.total}")
        for failure in result.errors:
            item = items[failure.index]
            same = failure.item is None or failure.item is item or failure.item == item
            _check(bool(same), f"the error at {failure.index} has another item")


def _check(holds: bool, what: str) -> None:  # noqa: FBT001 - an assertion
    # Not an assert statement: it must work under `python -O` too.
    if not holds:
        raise AssertionError(f"the result is inconsistent: {what}")
