"""How a run ends: which error its failures amount to, and what its last event says."""

from typing import Any

from trioflow._runtime.emitter import error_fields, status_of
from trioflow.errors import ParallelError
from trioflow.workflows._collector import Collector

__all__ = ("ending", "failure")


def failure(collector: Collector[Any, Any], *, fail_fast: bool, cancelled: bool) -> ParallelError | None:
    """Return the error that the failed items amount to, if they do.

    Under `fail_fast` one failed item is enough; without, all must have failed, and nobody else hears of them: not
    the consumer of a stream, nor the one who cancelled.
    """
    if fail_fast:
        failed = collector.failed > 0
    else:
        unheard = collector.outlet is None and not cancelled
        failed = 0 < collector.failed == collector.size and unheard
    if not failed:
        return None
    result = collector.result()
    return ParallelError(result.errors, result)


def ending(collector: Collector[Any, Any], fault: BaseException | None, *, cut_short: bool) -> dict[str, Any]:
    """Return what the last event says: status, counts and the error that comes out."""
    status = "cancelled" if fault is None and cut_short else status_of(fault)
    return {
        "status": status,
        "items_processed": collector.completed,
        "items_failed": collector.failed,
        "items_unfinished": collector.size - collector.completed - collector.failed,
        "error": status == "error",
        **error_fields(fault if status == "error" else None),
    }
