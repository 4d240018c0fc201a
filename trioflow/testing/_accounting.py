"""The promise of every fan-out, as one assertion: each item is ok, failed or unfinished, never two of them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from trioflow.errors import ParallelError
from trioflow.outcomes import ParallelResult

__all__ = ("assert_accounted",)


def assert_accounted(
    result: ParallelResult[Any, Any] | ParallelError, items: Sequence[Any] | None = None
) -> None:
    """Assert that the account of a run is exact.

    Args:
        result: the result, or the error that has it.
        items: the input, in order; None does not look which item an index stands for.

    Raises:
        AssertionError: an index is missing, is there twice or is out of order, or stands for another item.
    """
    if isinstance(result, ParallelError):
        _check(
            {failure.index for failure in result.errors} <= {failure.index for failure in result.result.errors},
            "the error names failures that its result does not",
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
            _check(bool(same), f"the failure at {failure.index} has another item")


def _check(holds: bool, what: str) -> None:  # noqa: FBT001 - an assertion
    # Not the statement: it must hold under `python -O`, too.
    if not holds:
        raise AssertionError(f"the account is wrong: {what}")
