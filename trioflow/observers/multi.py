"""An observer that passes events to several others, even if one of them fails."""

from typing import final

from trioflow.events import Event, Observer
from trioflow.observers.registry import check_observer

__all__ = ("MultiObserver",)


@final
class MultiObserver:
    """Passes each event to all `observers`, in their order.

    A run treats them individually: each gets items and results only if its own `include_data` is true, and its
    errors count as its own.

    Raises:
        ConfigError: one of `observers` is not an observer.
    """

    def __init__(self, *observers: Observer) -> None:
        for observer in observers:
            check_observer("observers", observer)
        self.observers = observers

    def __repr__(self) -> str:
        return f"MultiObserver({', '.join(map(repr, self.observers))})"

    def on_event(self, event: Event) -> None:
        """Pass `event` to all, then raise an `ExceptionGroup` of what they raised, if anything."""
        failures: list[Exception] = []
        for observer in self.observers:
            try:
                observer.on_event(event)
            except Exception as error:  # noqa: BLE001 - raised below, once all have received it
                failures.append(error)
        if failures:
            raise ExceptionGroup("observers failed", failures)
