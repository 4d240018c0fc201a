"""The observer that ignores all events: with it a run builds none."""

from typing import final

from trioflow.events import Event

__all__ = ("NoopObserver",)


@final
class NoopObserver:
    """Ignores every event. Runs recognise it and build no events, so it costs nothing."""

    def __repr__(self) -> str:
        return "NoopObserver()"

    def on_event(self, event: Event) -> None:
        """Do nothing."""
