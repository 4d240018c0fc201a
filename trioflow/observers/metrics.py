"""Metrics of runs: counts of events, outcomes of calls, and percentiles of their durations.

Durations go into buckets two percent wide, so that a percentile is accurate to one percent, memory does not grow
with the number of calls, and no sampling is needed: equal durations give equal numbers.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import final

import msgspec

from trioflow.events import Event, EventType

__all__ = ("MetricsObserver", "MetricsSnapshot", "SourceMetrics")

_CALLS = frozenset(
    {
        EventType.WORKER_COMPLETE,
        EventType.STEP_COMPLETE,
        EventType.NODE_COMPLETE,
        EventType.ROUTE_EXECUTE,
        EventType.MESSAGE_HANDLED,
    }
)
"""The events at the end of a call of the user's code."""

_WIDTH = math.log(1.02)
"""The logarithm of the ratio of a bucket's bounds."""
_SHORTEST = 1e-9
"""Durations below share a bucket; so there are at most about 2,000 between a nanosecond and a thousand years."""
_LONGEST = 3e10


class SourceMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics of one pattern; its calls are items, steps, nodes, handlers of a route, or handled messages."""

    events: dict[str, int]
    """The number of events of each type."""
    succeeded: int = 0
    """Calls that returned."""
    failed: int = 0
    """Calls that failed."""
    cancelled: int = 0
    """Calls that were cancelled, or never started."""
    p50: float | None = None
    """Seconds within which half of the calls that returned or failed ended; None if there were none."""
    p95: float | None = None
    """Seconds within which 95 percent of them ended."""
    p99: float | None = None
    """Seconds within which 99 percent of them ended."""
    longest: float | None = None
    """The longest of them, in seconds."""


class MetricsSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics at one moment."""

    sources: dict[str, SourceMetrics]
    """By event source: `parallel`, `chain`, `conditional`, `graph` or `hub`."""


@final
class MetricsObserver:
    """Counts events and calls, and computes percentiles of the calls' durations, accurate to one percent.

    Aggregates all runs that it observes, until `clear`. Not thread-safe.
    """

    def __init__(self) -> None:
        self._sources: dict[str, _Source] = {}

    def __repr__(self) -> str:
        return f"<MetricsObserver of {', '.join(self._sources) or 'nothing yet'}>"

    def on_event(self, event: Event) -> None:
        """Count `event`."""
        source = self._source(event)
        source.events[event.type] += 1
        if event.type in _CALLS:
            source.count(event.data["status"], event.data["duration"])

    def on_items(self, event: Event) -> None:
        """Count successful items, as if each had had its two events."""
        self._source(event).count_items([duration for _, _, _, duration in event.data["items"]])

    def snapshot(self) -> MetricsSnapshot:
        """Return the current metrics; later events do not change the snapshot."""
        return MetricsSnapshot(sources={name: source.read() for name, source in self._sources.items()})

    def clear(self) -> None:
        """Reset all metrics."""
        self._sources.clear()

    def _source(self, event: Event) -> "_Source":
        source = self._sources.get(event.source)
        if source is None:
            source = self._sources[event.source] = _Source()
        return source


@final
class _Source:
    """The metrics of one source."""

    __slots__ = ("events", "longest", "statuses", "timed")

    def __init__(self) -> None:
        self.events: Counter[EventType] = Counter()
        self.statuses: Counter[str] = Counter()
        self.timed: Counter[int] = Counter()
        self.longest = 0.0

    def count(self, status: str, duration: float) -> None:
        self.statuses[status] += 1
        if status == "cancelled":
            return
        bounded = min(max(duration, _SHORTEST), _LONGEST)
        self.timed[math.ceil(math.log(bounded) / _WIDTH)] += 1
        self.longest = max(self.longest, duration)

    def count_items(self, durations: Sequence[float]) -> None:
        for type in (EventType.WORKER_START, EventType.WORKER_COMPLETE):
            self.events[type] += len(durations)
        self.statuses["ok"] += len(durations)
        buckets, logarithm, ceil, width = self.timed, math.log, math.ceil, _WIDTH
        for duration in durations:
            bounded = duration if _SHORTEST <= duration <= _LONGEST else min(max(duration, _SHORTEST), _LONGEST)
            buckets[ceil(logarithm(bounded) / width)] += 1
        self.longest = max(self.longest, *durations)

    def read(self) -> SourceMetrics:
        p50, p95, p99 = self._percentiles((0.50, 0.95, 0.99))
        return SourceMetrics(
            events={type.value: count for type, count in self.events.items()},
            succeeded=self.statuses["ok"],
            failed=self.statuses["error"],
            cancelled=self.statuses["cancelled"],
            p50=p50,
            p95=p95,
            p99=p99,
            longest=self.longest if self.timed else None,
        )

    def _percentiles(self, shares: Iterable[float]) -> list[float | None]:
        buckets = sorted(self.timed.items())
        total = self.timed.total()
        return [self._percentile(buckets, math.ceil(share * total)) for share in shares]

    def _percentile(self, buckets: Iterable[tuple[int, int]], rank: int) -> float | None:
        """Return the middle of the bucket that contains the duration of `rank`."""
        for bucket, count in buckets:
            rank -= count
            if rank <= 0:
                return min(math.exp((bucket - 0.5) * _WIDTH), self.longest)
        return None
