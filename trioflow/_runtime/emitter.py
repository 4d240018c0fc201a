"""How a run emits events: builds them, sends them to observers, and keeps observers' errors away from the run.

Without an observer no event is built: callers check `active` first. An observer that raises is logged once per run
and counted; an error that is not an `Exception` passes through.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, final

import trio

from trioflow._runtime.context import enclosing_run_id, enclosing_worker
from trioflow._runtime.places import find_caller
from trioflow._runtime.signals import Parked, Paused
from trioflow._text import describe_error, one_line
from trioflow.events import Event, EventType, Observer
from trioflow.observers import MultiObserver, NoopObserver

Addressed = tuple[Observer, bool]
"""An observer, and whether it wants private data."""

@final
class Emitter:
    """Emits the events of one run.

    Args:
        observer: receives the events; a `MultiObserver` is split into its observers, a `NoopObserver` dropped.
        source: the pattern of the run.
        run_id: the run's id; None generates one.
        parent: the id of the enclosing run; None looks it up.

    Attributes:
        active: whether there is an observer.
        announces: whether an observer is notified of beginnings that are no events.
        batches: whether an observer takes successful items in batches.
        singles: the observers that take them one by one, each with whether it wants private data.
        observer_failures: how often an observer raised.
        run_id: the run's id; empty until it is needed.
    """

    __slots__ = (
        "_announced_to",
        "_askers",
        "_batchers",
        "_observers",
        "_parent",
        "_parent_worker",
        "_place",
        "_source",
        "_warned",
        "active",
        "announces",
        "batches",
        "observer_failures",
        "run_id",
        "singles",
    )

    def __init__(
        self, observer: Observer, source: str, run_id: str | None = None, *, parent: str | None = None
    ) -> None:
        self._observers = [
            (each, bool(getattr(each, "include_data", False)))
            for each in _single_observers(observer)
        ]
        self._batchers = [each for each in self._observers if callable(getattr(each[0], "on_items", None))]
        self.singles: list[Addressed] = [each for each in self._observers if each not in self._batchers]
        self.batches: bool = bool(self._batchers)
        self._askers = _askers([each for each, _ in self.singles])
        self._announced_to = [each for each in self._observers if hasattr(each[0], "on_begin")]
        self.announces: bool = bool(self._announced_to)
        self._source = source
        self._warned: set[int] = set()
        self.active: bool = bool(self._observers)
        self.observer_failures: int = 0
        self.run_id: str = run_id or (uuid.uuid4().hex if self.active else "")
        self._parent = parent or (enclosing_run_id() if self.active else None)
        self._parent_worker = enclosing_worker(self._parent) if self.active else None
        self._place = find_caller() if self.active else None

    def __repr__(self) -> str:
        return f"<Emitter {self._source} of run {self.run_id} to {len(self._observers)} observers>"

    def wants(self, type: EventType) -> bool:
        """Return whether any of `singles` wants an event of `type` that reports no failure."""
        if self._askers is None:
            return bool(self.singles)
        for each, asker in self._askers:
            try:
                if asker(type):
                    return True
            except Exception as error:  # noqa: BLE001 - an observer never changes a run's outcome
                self._blame(each, error)
                return True
        return False

    def emit(
        self,
        type: EventType,
        data: dict[str, Any],
        private: Mapping[str, Any] | None = None,
        *,
        to: Sequence[Addressed] | None = None,
    ) -> None:
        """Send an event to the observers, or to those in `to`; only those that want private data get `private`."""
        timestamp = time.time()
        for each, wants_data in self._observers if to is None else to:
            # Each gets a copy of its own: one observer's changes must not reach another.
            own = {**data, **private} if wants_data and private else dict(data)
            try:
                each.on_event(self._event(type, timestamp, own))
            except Exception as error:  # noqa: BLE001 - an observer never changes a run's outcome
                self._blame(each, error)

    def emit_to_batchers(self, type: EventType, data: dict[str, Any], *, ago: float = 0.0) -> None:
        """Send an event that happened `ago` seconds ago to the observers that are not in `singles`."""
        timestamp = time.time() - ago
        for each, _ in self._batchers:
            try:
                each.on_event(self._event(type, timestamp, dict(data)))
            except Exception as error:  # noqa: BLE001 - an observer never changes a run's outcome
                self._blame(each, error)

    def hand_over(self, items: list[tuple[int, int, float, float]], total: int | None) -> None:
        """Send successful items to the observers that take batches; they share the list."""
        timestamp = time.time()
        for each, _ in self._batchers:
            event = self._event(EventType.WORKER_COMPLETE, timestamp, {"total_items": total, "items": items})
            try:
                each.on_items(event)  # type: ignore[attr-defined]  # they are chosen by it
            except Exception as error:  # noqa: BLE001 - an observer never changes a run's outcome
                self._blame(each, error)

    def _event(self, type: EventType, timestamp: float, data: dict[str, Any]) -> Event:
        return Event(
            type, timestamp, self._source, self.run_id, data, self._parent, self._place, self._parent_worker
        )

    def announce(
        self, type: EventType, data: dict[str, Any], private: Mapping[str, Any] | None = None
    ) -> None:
        """Notify observers of a beginning that is no event: only its end is one, of `type`.

        Called in the task, or the context, in which the user code is then called.
        """
        timestamp = time.time()
        for each, wants_data in self._announced_to:
            own = {**data, **private} if wants_data and private else dict(data)
            event = self._event(type, timestamp, own)
            try:
                each.on_begin(event)  # type: ignore[attr-defined]  # they are chosen by it
            except Exception as error:  # noqa: BLE001 - an observer never changes a run's outcome
                self._blame(each, error)

    def _blame(self, observer: Observer, error: Exception) -> None:
        self.observer_failures += 1
        if id(observer) in self._warned:
            return
        self._warned.add(id(observer))
        from loguru import logger  # noqa: PLC0415 - loaded on first use

        name = type(observer).__name__
        cause = f"{type(error).__name__}: {describe_error(error)}"
        # If logging itself fails, the count in the run's last event still shows the failure.
        with suppress(Exception):
            logger.warning("observer {} failed in run {}: {}", name, one_line(self.run_id), one_line(cause))


def status_of(error: BaseException | None) -> str:
    """Return the event status for an end with `error`; a pause counts as a cancellation, not as an error."""
    if error is None:
        return "ok"
    return "cancelled" if isinstance(error, trio.Cancelled | Parked | Paused) else "error"


def error_fields(error: BaseException | None) -> dict[str, Any]:
    """Return the fields of an event that describe `error`."""
    if error is None:
        return {"error_type": None, "error_message": None}
    return {"error_type": type(error).__name__, "error_message": describe_error(error)}


def completion_fields(error: BaseException | None, started: float) -> dict[str, Any]:
    """Return the fields of a completion event, for a start at `started` and an end with `error`."""
    status = status_of(error)
    return {
        "status": status,
        "error": status == "error",
        **error_fields(error if status == "error" else None),
        "duration": trio.current_time() - started,
    }


_Asker = tuple[Observer, Callable[[EventType], object]]


def _askers(observers: Sequence[Observer]) -> Sequence[_Asker] | None:
    """Return the `wants` of each observer; None if one takes everything, so that none need be asked."""
    askers = [(each, getattr(each, "wants", None)) for each in observers]
    chosen = [(each, asker) for each, asker in askers if callable(asker)]
    return chosen if len(chosen) == len(askers) else None


def _single_observers(observer: Observer) -> Iterator[Observer]:
    if isinstance(observer, MultiObserver):
        for member in observer.observers:
            yield from _single_observers(member)
    elif not isinstance(observer, NoopObserver):
        yield observer
