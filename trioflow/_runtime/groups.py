"""Errors as they come out: bare, and the gravest first.

A nursery wraps whatever its tasks raise into groups, and mixes in the `Cancelled` of the tasks it stopped.
These functions take such groups apart. Beside `calls`, this is the only place where a `BaseException` is held.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from trioflow.errors import leaves

__all__ = ("distil", "holding", "most_grave")


@contextmanager
def holding(faults: list[BaseException]) -> Iterator[None]:
    """Put what the block raises into `faults`, for a decision after its tasks have ended."""
    try:
        yield
    except BaseException as error:  # noqa: BLE001, ASYNC103 - the caller decides, and lets Cancelled pass
        faults.append(error)


def distil(error: BaseException) -> BaseException:
    """Return what `error` is about: itself, or what a group says once `Cancelled` is left out.

    A group that holds something else than `Exception` and `Cancelled`, such as a `KeyboardInterrupt`, is about
    that alone: the one, or a group of the several.
    """
    if not isinstance(error, BaseExceptionGroup) or isinstance(error, ExceptionGroup):
        return error
    grave = [leaf for leaf in leaves(error) if _is_grave(leaf)]
    if grave:
        return grave[0] if len(grave) == 1 else BaseExceptionGroup(error.message, grave)
    rest = error.split(trio.Cancelled)[1]
    return rest if rest is not None else next(leaves(error))


def most_grave(faults: Sequence[BaseException]) -> BaseException | None:
    """Return which of `faults` a run ends with: not an `Exception` > the first `Exception` > `Cancelled`.

    Several that are not `Exception`s come out as a group, unless they say the same: one `SystemExit(3)` speaks
    for those of all workers.
    """
    distilled = [distil(fault) for fault in faults]
    grave = [fault for fault in distilled if _is_grave(fault)]
    if grave:
        first = grave[0]
        if all(type(other) is type(first) and other.args == first.args for other in grave):
            return first
        every = [leaf for fault in grave for leaf in leaves(fault)]
        return BaseExceptionGroup("several tasks stopped the run", every)
    real = (fault for fault in distilled if isinstance(fault, Exception))
    return next(real, distilled[0] if distilled else None)


def _is_grave(error: BaseException) -> bool:
    return not isinstance(error, Exception | trio.Cancelled)
