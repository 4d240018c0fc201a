"""How a run emits events: it builds them, hands them out, and keeps what observers raise away from the run.

Without an observer no event is built: callers ask `active` first. An observer that raises is warned about once a
run and counted; what is not an `Exception` passes through.
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
"""An observer, and whether it wants data."""

@final
class Emitter:
    """Emits the events of one run.

    Args:
        observer: receives the events; a `MultiObserver` is taken apart, a `NoopObserver` left out.
        source: the pattern that the run is one of.
        run_id: the run's id; None makes one.
        parent: the id of the run that it was started in; None asks whether there is one.

    Attributes:
        active: whether there is an observer.
        announces: whether one of them wants to know what begins without an event.
        batches: whether one of them takes items that succeed many at a time.
        singles: those that take them one by one, each with whether it wants data.
        observer_failures: how often an observer raised.
        run_id: the run's id; empty while nobody needs it.
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
        """Return whether any of `singles` has a use for an event of `type` that reports no failure."""
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
        """Hand an event to the observers, or to some of them; `private` goes only to those who ask for data."""
        timestamp = time.time()
        for each, wants_data in self._observers if to is None else to:
            # Each gets its own copy: what one does to it reaches no other.
            own = {**data, **private} if wants_data and private else dict(data)
            try:
                each.on_event(self._event(type, timestamp, own))
            except Exception as error:  # noqa: BLE001 - an observer never changes a run's outcome
                self._blame(each, error)

    def emit_to_batchers(self, type: EventType, data: dict[str, Any], *, ago: float = 0.0) -> None:
        """Hand an event to those of the observers that are not `singles`; it happened so many seconds ago."""
        timestamp = time.time() - ago
        for each, _ in self._batchers:
            try:
                each.on_event(self._event(type, timestamp, dict(data)))
            except Exception as error:  # noqa: BLE001 - an observer never changes a run's outcome
                self._blame(each, error)

    def hand_over(self, items: list[tuple[int, int, float, float]], total: int | None) -> None:
        """Hand items that succeeded to those who take them many at a time; they share the list."""
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
        """Hand what begins, and has an event of `type` at its end only, to the observers that want to know.

        It is called in the task, or in the context, in which the user's code is called then.
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
        # Where the log itself fails, the count in the run's last event still shows it.
        with suppress(Exception):
            logger.warning("observer {} failed in run {}: {}", name, one_line(self.run_id), one_line(cause))


def status_of(error: BaseException | None) -> str:
    """Return the status of what ended with `error`: a pause is no failure of what it cut short."""
    if error is None:
        return "ok"
    return "cancelled" if isinstance(error, trio.Cancelled | Parked | Paused) else "error"


def error_fields(error: BaseException | None) -> dict[str, Any]:
    """Return what an event says of `error`."""
    if error is None:
        return {"error_type": None, "error_message": None}
    return {"error_type": type(error).__name__, "error_message": describe_error(error)}


def completion_fields(error: BaseException | None, started: float) -> dict[str, Any]:
    """Return what the event at the end of something says that ended with `error`, having begun at `started`."""
    status = status_of(error)
    return {
        "status": status,
        "error": status == "error",
        **error_fields(error if status == "error" else None),
        "duration": trio.current_time() - started,
    }


_Asker = tuple[Observer, Callable[[EventType], object]]


def _askers(observers: Sequence[Observer]) -> Sequence[_Asker] | None:
    """Return the `wants` of each observer; None where one takes everything, so that nobody need be asked."""
    askers = [(each, getattr(each, "wants", None)) for each in observers]
    chosen = [(each, asker) for each, asker in askers if callable(asker)]
    return chosen if len(chosen) == len(askers) else None


def _single_observers(observer: Observer) -> Iterator[Observer]:
    if isinstance(observer, MultiObserver):
        for member in observer.observers:
            yield from _single_observers(member)
    elif not isinstance(observer, NoopObserver):
        yield observer
