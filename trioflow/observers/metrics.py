"""Numbers of what runs do: how many events, how their calls ended, and how long those took.

Durations go into buckets that are two percent wide, so that a percentile is right within one percent, memory does
not grow with the number of calls, and no sample has to be drawn: the same durations give the same numbers.
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
"""What ends one call of the user's code."""

_WIDTH = math.log(1.02)
"""The logarithm of the ratio of a bucket's bounds."""
_SHORTEST = 1e-9
"""Durations below share a bucket; so there are at most about 2,000 between a nanosecond and a thousand years."""
_LONGEST = 3e10


class SourceMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What one pattern did; its calls are items, steps, nodes, handlers of a route, or handled messages."""

    events: dict[str, int]
    """How many events of each type there were."""
    succeeded: int = 0
    """Calls that returned."""
    failed: int = 0
    """Calls that failed."""
    cancelled: int = 0
    """Calls that were cancelled, or never made."""
    p50: float | None = None
    """Half of the calls that returned or failed took at most these seconds; None where there were none."""
    p95: float | None = None
    """95 percent of them took at most these seconds."""
    p99: float | None = None
    """99 percent of them took at most these seconds."""
    longest: float | None = None
    """The longest of them, in seconds."""


class MetricsSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics as they stood at one instant."""

    sources: dict[str, SourceMetrics]
    """By event source: `parallel`, `chain`, `conditional`, `graph` or `hub`."""


@final
class MetricsObserver:
    """Counts events and calls, and gives percentiles of how long calls took, right within one percent.

    It sums over all the runs that it is given, until `clear`. It serves one thread.
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
        """Count items that succeeded, as if each had had its two events."""
        self._source(event).count_items([duration for _, _, _, duration in event.data["items"]])

    def snapshot(self) -> MetricsSnapshot:
        """Return the numbers as they stand; later events do not change them."""
        return MetricsSnapshot(sources={name: source.read() for name, source in self._sources.items()})

    def clear(self) -> None:
        """Begin anew."""
        self._sources.clear()

    def _source(self, event: Event) -> "_Source":
        source = self._sources.get(event.source)
        if source is None:
            source = self._sources[event.source] = _Source()
        return source


@final
class _Source:
    """The numbers of one source."""

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
        """Return the middle of the bucket that has the duration of `rank` in it."""
        for bucket, count in buckets:
            rank -= count
            if rank <= 0:
                return min(math.exp((bucket - 0.5) * _WIDTH), self.longest)
        return None
