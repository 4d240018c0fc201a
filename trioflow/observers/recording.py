"""The observer that records events, for tests and debugging."""

from collections import deque
from typing import final

from trioflow.config.checks import check_count, check_flag
from trioflow.events import Event

__all__ = ("RecordingObserver",)


@final
class RecordingObserver:
    """Records the latest `limit` events.

    Args:
        limit: the most events to keep; older ones are dropped and counted in `dropped`.
        include_data: whether events carry items, results, states and messages.

    Raises:
        ConfigError: `limit` is below 1.
    """

    def __init__(self, limit: int = 100_000, *, include_data: bool = False) -> None:
        check_count("limit", limit, minimum=1, allowed="1 or more")
        check_flag("include_data", include_data)
        self.limit = limit
        self.include_data = include_data
        self.dropped: int = 0
        self._events: deque[Event] = deque(maxlen=limit)

    def __repr__(self) -> str:
        return f"<RecordingObserver: {len(self._events)} of at most {self.limit} events>"

    @property
    def events(self) -> list[Event]:
        """The events kept, oldest first."""
        return list(self._events)

    def on_event(self, event: Event) -> None:
        """Record `event`."""
        self.dropped += len(self._events) == self.limit
        self._events.append(event)

    def clear(self) -> None:
        """Drop all recorded events."""
        self._events.clear()
        self.dropped = 0
