"""Entries and signals of submitted runs in memory: the `ServiceStore` half of `MemoryStore`.

Synchronous methods; the caller has checked that the run exists, and its epoch.
"""

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import final

import msgspec

from trioflow._text import quote
from trioflow.checkpoint._clock import store_time
from trioflow.checkpoint.protocol import RunStatus
from trioflow.checkpoint.service_protocol import ENDED, EndStatus, LeaseRequest, Release, ServiceRun
from trioflow.errors import CheckpointMismatchError, CheckpointNotFoundError

__all__ = ("Entries", "already_there", "has_ended", "not_submitted")


class _Signal(msgspec.Struct):
    name: str
    payload: bytes
    taken_by: str | None = None


class _Entry(msgspec.Struct):
    """The entry of a submitted run, beside its steps."""

    number: int
    run_id: str
    graph: str
    due: float | None
    status: RunStatus = "queued"
    waits_for: str | None = None
    reason: str | None = None
    is_cancelled: bool = False
    outcome: bytes | None = None

    @property
    def order(self) -> tuple[bool, float, int]:
        """The sort key for leasing: a run whose lease has expired comes first, because it was leased before."""
        return self.status != "running", self.due or 0.0, self.number

    def end(self, status: EndStatus, outcome: bytes | None, reason: str | None) -> None:
        self.status, self.outcome, self.reason = status, outcome, reason
        self.due = self.waits_for = None


@final
class Entries:
    """Entries and signals by run."""

    __slots__ = ("_entries", "_number", "_signals")

    def __init__(self) -> None:
        self._number = 0
        self._entries: dict[str, _Entry] = {}
        self._signals: dict[str, list[_Signal]] = {}

    def __repr__(self) -> str:
        return f"<Entries: {len(self._entries)}>"

    def add(self, run_id: str, graph: str, delay: float) -> None:
        """Add a new run that may be leased in `delay` seconds."""
        self._number += 1
        self._entries[run_id] = _Entry(self._number, run_id, graph, store_time() + delay)

    def find(self, run_id: str) -> _Entry | None:
        """Return the entry of the run, if it was submitted."""
        return self._entries.get(run_id)

    def forget(self, run_id: str) -> None:
        """Delete the run's entry and signals."""
        self._entries.pop(run_id, None)
        self._signals.pop(run_id, None)

    def prolong(self, run_id: str, lease: float) -> bool | None:
        """Renew the run's lease; return whether its cancellation is requested, or None if no lease is held."""
        entry = self._entries.get(run_id)
        if entry is None or entry.status != "running":
            return None
        entry.due = store_time() + lease
        return entry.is_cancelled

    def take(self, request: LeaseRequest) -> Iterator[_Entry]:
        """Mark the granted runs as running, and yield them."""
        now = store_time()
        room = request.room
        for entry in sorted(self._candidates(request, now), key=attrgetter("order")):
            limit = request.limits.get(entry.graph)
            if room > 0 and (limit is None or self._running(entry.graph, now, request.refused) < limit):
                room -= 1
                entry.status, entry.waits_for, entry.reason = "running", None, None
                entry.due = now + request.lease
                yield entry

    def next_due(self, request: LeaseRequest) -> float | None:
        """Return the seconds until another run becomes due; None if none will."""
        now = store_time()
        waiting = [
            entry.due - now
            for entry in self._entries.values()
            if entry.graph in request.graphs and entry.due is not None and entry.due > now
        ]
        return min(waiting, default=None)

    def _candidates(self, request: LeaseRequest, now: float) -> list[_Entry]:
        held = {run_id for run_id, _ in request.held}
        return [
            entry
            for entry in self._entries.values()
            if entry.graph in request.graphs
            and entry.due is not None
            and entry.due <= now
            and entry.run_id not in request.refused
            and entry.run_id not in held
        ]

    def _running(self, graph: str, now: float, refused: Sequence[str]) -> int:
        # A run with an expired lease counts: its holder may come back, and it can only be taken over.
        return sum(
            entry.graph == graph
            and entry.status == "running"
            and ((entry.due or 0) > now or entry.run_id in refused)
            for entry in self._entries.values()
        )

    def release(self, run_id: str, release: Release) -> None:
        """Release the run."""
        entry = self._submitted(run_id)
        if entry.is_cancelled:
            entry.end("cancelled", None, None)
            return
        now = store_time()
        entry.status, entry.reason, entry.waits_for = release.status, release.reason, release.waits_for
        entry.due = None if release.delay is None else now + release.delay
        if any(signal.name == release.waits_for for signal in self._untaken(run_id)):
            entry.due = now

    def finish(self, run_id: str, status: EndStatus, outcome: bytes, reason: str | None) -> None:
        """Store the end of the run."""
        self._submitted(run_id).end(status, outcome, reason)

    def put_signal(self, run_id: str, name: str, payload: bytes) -> None:
        """Store the signal, and make the run due if it waits for it."""
        entry = self._entries.get(run_id)
        if entry is not None:
            if entry.status in ENDED:
                raise has_ended(run_id, entry.status)
            if entry.waits_for == name:
                entry.due = store_time()
        self._signals.setdefault(run_id, []).append(_Signal(name, payload))

    def take_signal(self, run_id: str, name: str, wait: str) -> bytes | None:
        """Return the signal's payload for this wait."""
        signals = [signal for signal in self._signals.get(run_id, ()) if signal.name == name]
        for signal in signals:
            if signal.taken_by == wait:
                return signal.payload
        for signal in signals:
            if signal.taken_by is None:
                signal.taken_by = wait
                return signal.payload
        return None

    def request_cancel(self, run_id: str) -> None:
        """Cancel the run, or request its holder to cancel it."""
        entry = self._submitted(run_id)
        if entry.status not in ENDED:
            entry.is_cancelled = True
            if entry.status != "running":
                entry.end("cancelled", None, None)

    def look(self, run_id: str) -> ServiceRun:
        """Return the run's service status."""
        entry = self._submitted(run_id)
        return ServiceRun(
            run_id=run_id, graph=entry.graph, status=entry.status, reason=entry.reason, outcome=entry.outcome
        )

    def ended(self, run_ids: Sequence[str]) -> list[str]:
        """Return those of the runs that have ended, or are unknown."""
        entries = [(run_id, self._entries.get(run_id)) for run_id in run_ids]
        return [run_id for run_id, entry in entries if entry is None or entry.status in ENDED]

    def _untaken(self, run_id: str) -> list[_Signal]:
        return [signal for signal in self._signals.get(run_id, ()) if signal.taken_by is None]

    def _submitted(self, run_id: str) -> _Entry:
        entry = self._entries.get(run_id)
        if entry is None:
            raise not_submitted(run_id)
        return entry


def not_submitted(run_id: str) -> CheckpointNotFoundError:
    """Return the error for a run that was not submitted, or was deleted."""
    message = f"no run {quote(run_id)} was submitted to a service of this store, or it was pruned since"
    return CheckpointNotFoundError(message, run_id=run_id)


def has_ended(run_id: str, status: str) -> CheckpointMismatchError:
    """Return the error for a signal to a run that has ended."""
    message = f"run {quote(run_id)} has ended ({status}): it takes no more signals"
    return CheckpointMismatchError(message, run_id=run_id)


def already_there(run_id: str) -> CheckpointMismatchError:
    """Return the error for submitting a run under an id that is taken."""
    message = f"run {quote(run_id)} already exists: wait for its result, or submit under another run_id"
    return CheckpointMismatchError(message, run_id=run_id)
