"""The observer that takes no events: with it a run builds no events at all."""

from typing import final

from trioflow.events import Event

__all__ = ("NoopObserver",)


@final
class NoopObserver:
    """Ignores every event. Runs recognise it and stay silent, so it costs nothing."""

    def __repr__(self) -> str:
        return "NoopObserver()"

    def on_event(self, event: Event) -> None:
        """Do nothing."""
