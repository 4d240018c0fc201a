"""The transactions of the SQLite store for a service: each function is one, in a worker thread.

A submitted run has a row in `service_runs` besides the one in `runs`, under the same number, which is also its
place in the queue. `due` is the time from which it may be leased; its holder moves that forward. `now` is the time
at which the caller asked: if it had to wait for its turn, its leases are shorter, and no run is taken too soon.
"""

import json
from collections.abc import Sequence
from typing import Any, cast

import apsw

from trioflow.checkpoint._entries import already_there, has_ended, not_submitted
from trioflow.checkpoint._rows import claimed, find, last_step, new_run, put_step, take
from trioflow.checkpoint._schema import immediately, reading
from trioflow.checkpoint._seals import damaged, seal_item
from trioflow.checkpoint.memory import not_found
from trioflow.checkpoint.protocol import Checkpoint
from trioflow.checkpoint.service_protocol import (
    ENDED,
    EndStatus,
    Lease,
    LeaseGrant,
    LeaseRequest,
    Release,
    ServiceRun,
)
from trioflow.errors import CheckpointCorruptError

__all__ = (
    "data_version",
    "ended",
    "finish",
    "lease",
    "look",
    "put_signal",
    "release",
    "request_cancel",
    "submit",
    "take_signal",
)

_FRESH = 0.7
"""A lease of which at least this part remains is not renewed."""

_INSERT = "INSERT INTO service_runs(run, graph, status, due, is_cancelled) VALUES (?, ?, 'queued', ?, 0)"
_SELECT = (
    "SELECT run, run_id, graph, status, due, waits_for, is_cancelled, reason, seal_of_outcome, outcome"
    " FROM service_runs JOIN runs ON number = run WHERE run_id = ?"
)
_SELECT_LEFT_BEHIND = (
    "SELECT run, run_id, is_cancelled FROM service_runs JOIN runs ON number = run"
    " WHERE graph = ? AND (status = 'running') = 1 AND due <= ?"
    " AND run NOT IN (SELECT number FROM runs WHERE run_id IN (SELECT value FROM json_each(?)))"
    " ORDER BY due, run LIMIT ?"
)
_SELECT_DUE = (
    "SELECT run, run_id, is_cancelled, due FROM service_runs JOIN runs ON number = run"
    " WHERE graph = ? AND (status = 'running') = 0 AND due <= ?"
    " AND run NOT IN (SELECT number FROM runs WHERE run_id IN (SELECT value FROM json_each(?)))"
    " ORDER BY due, run LIMIT ?"
)
# A run whose lease has expired keeps its place in the limit, because its holder may come back: only taking over
# that very run can use the place.
_COUNT_RUNNING = (
    "SELECT count(*) FROM service_runs WHERE graph = ? AND (status = 'running') = 1"
    " AND (due > ? OR run IN (SELECT number FROM runs WHERE run_id IN (SELECT value FROM json_each(?))))"
)
_NEXT_DUE = (
    "SELECT min(due) FROM (SELECT min(due) AS due FROM service_runs"
    " WHERE graph = ?1 AND (status = 'running') = 0 AND due > ?2"
    " UNION ALL SELECT min(due) FROM service_runs WHERE graph = ?1 AND (status = 'running') = 1 AND due > ?2)"
)
_TAKE = (
    "UPDATE service_runs SET status = 'running', due = ?, waits_for = NULL, reason = NULL WHERE run = ?"
)
_RELEASE = "UPDATE service_runs SET status = ?, due = ?, waits_for = ?, reason = ? WHERE run = ?"
_END = (
    "UPDATE service_runs SET status = ?, due = NULL, waits_for = NULL, reason = ?, seal_of_outcome = ?,"
    " outcome = ? WHERE run = ?"
)
_SELECT_GOING = (
    "SELECT run_id FROM runs JOIN service_runs ON run = number"
    " WHERE run_id IN (SELECT value FROM json_each(?)) AND status NOT IN ('completed', 'failed', 'cancelled')"
)
_SIGNAL_THERE = "SELECT 1 FROM signals WHERE run = ? AND name = ? AND taken_by IS NULL LIMIT 1"
_SELECT_SIGNAL = (
    "SELECT number, taken_by, seal, payload FROM signals"
    " WHERE run = ?1 AND name = ?2 AND (taken_by = ?3 OR taken_by IS NULL)"
    " ORDER BY taken_by IS NULL, number LIMIT 1"
)


def submit(db: apsw.Connection, checkpoint: Checkpoint, delay: float, now: float) -> None:
    """Store a new run at its first step, and queue it."""
    with immediately(db):
        if find(db, checkpoint.run_id) is not None:
            raise already_there(checkpoint.run_id)
        new_run(db, checkpoint.run_id)
        run = find(db, checkpoint.run_id)
        put_step(db, run, checkpoint)
        db.execute(_INSERT, (run.number, checkpoint.graph, now + delay))


def lease(db: apsw.Connection, request: LeaseRequest, now: float) -> LeaseGrant:
    """Renew the leases that are held, and lease runs that are due."""
    with immediately(db):
        held = dict(_prolonged(db, request, now))
        rows = _due(db, request, now)
        taken = [each for row in rows if (each := _taken(db, row, now + request.lease)) is not None]
        dues = [due for graph in request.graphs if (due := db.execute(_NEXT_DUE, (graph, now)).get) is not None]
    next_due = min(dues, default=None)
    return LeaseGrant(held=held, taken=taken, next_due=None if next_due is None else next_due - now)


def _prolonged(db: apsw.Connection, request: LeaseRequest, now: float) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    for run_id, epoch in request.held:
        run, row = _find(db, run_id), db.execute(_SELECT, (run_id,)).fetchone()
        if run is None or row is None or run.epoch != epoch or row[3] != "running":
            continue
        due = cast("float", row[4])
        # A lease of which most remains is not worth a write.
        if due - now < request.lease * _FRESH:
            db.execute("UPDATE service_runs SET due = ? WHERE run = ?", (now + request.lease, run.number))
        found.append((run_id, bool(row[6])))
    return found


def _find(db: apsw.Connection, run_id: str) -> Any:
    """Return the row of the run; None if it is damaged, because then no process holds it."""
    try:
        return find(db, run_id)
    except CheckpointCorruptError:
        return None


def _due(db: apsw.Connection, request: LeaseRequest, now: float) -> Sequence[tuple[int, str, str, bool]]:
    """Return number, id, graph and `is_cancelled` of the runs to lease, in order."""
    passed = json.dumps([*request.refused, *(run_id for run_id, _ in request.held)])
    left_behind: list[tuple[int, str, str, bool]] = []
    due: list[Any] = []
    for graph in request.graphs:
        limit = request.limits.get(graph)
        room = request.room
        if limit is not None:
            room = min(room, limit - cast("int", db.execute(_COUNT_RUNNING, (graph, now, passed)).get))
        if room <= 0:
            continue
        rows: Any = list(db.execute(_SELECT_LEFT_BEHIND, (graph, now, passed, room)))
        left_behind += [(number, run_id, graph, bool(cancelled)) for number, run_id, cancelled in rows]
        room -= len(rows)
        waiting: Any = db.execute(_SELECT_DUE, (graph, now, passed, max(room, 0)))
        due += [(since, number, run_id, graph, bool(cancelled)) for number, run_id, cancelled, since in waiting]
    return [*left_behind, *(row for _, *row in sorted(due))][: request.room]


def _taken(db: apsw.Connection, row: tuple[int, str, str, bool], until: float) -> Lease | None:
    number, run_id, graph, is_cancelled = row
    try:
        run = take(db, run_id)
    except CheckpointCorruptError:
        # It must not block the other runs; a list of runs shows that it is damaged.
        db.execute(_RELEASE, ("blocked", None, None, "what is kept of it is damaged", number))
        return None
    db.execute(_TAKE, (until, number))
    return Lease(
        run_id=run_id, graph=graph, epoch=run.epoch, is_cancelled=is_cancelled, last=last_step(db, run)
    )


def release(db: apsw.Connection, run_id: str, epoch: int, given: Release, now: float) -> None:
    """Release the run."""
    with immediately(db):
        number = claimed(db, run_id, epoch).number
        row = _submitted(db, run_id)
        if row[6]:
            db.execute(_END, ("cancelled", None, None, None, number))
            return
        due = None if given.delay is None else now + given.delay
        if db.execute(_SIGNAL_THERE, (number, given.waits_for)).get is not None:
            due = now
        db.execute(_RELEASE, (given.status, due, given.waits_for, given.reason, number))


def finish(
    db: apsw.Connection, claim: tuple[str, int], status: EndStatus, outcome: bytes, reason: str | None
) -> None:
    """Store the outcome of the run."""
    run_id, epoch = claim
    with immediately(db):
        number = claimed(db, run_id, epoch).number
        _submitted(db, run_id)
        db.execute(_END, (status, reason, seal_item(run_id, status, outcome), outcome, number))


def put_signal(db: apsw.Connection, run_id: str, name: str, payload: bytes, now: float) -> None:
    """Store the signal, and make the run due if it waits for it."""
    with immediately(db):
        run = find(db, run_id)
        if run is None:
            raise not_found(run_id, None)
        row: Any = db.execute(_SELECT, (run_id,)).fetchone()
        if row is not None:
            if row[3] in ENDED:
                raise has_ended(run_id, row[3])
            if row[5] == name:
                db.execute("UPDATE service_runs SET due = ? WHERE run = ?", (now, run.number))
        db.execute(
            "INSERT INTO signals(run, name, seal, payload) VALUES (?, ?, ?, ?)",
            (run.number, name, seal_item(run_id, name, payload), payload),
        )


def take_signal(db: apsw.Connection, run_id: str, epoch: int, name: str, wait: str) -> bytes | None:
    """Return the signal for this wait, and mark it as taken; None if there is none."""
    with immediately(db):
        run = claimed(db, run_id, epoch)
        row: Any = db.execute(_SELECT_SIGNAL, (run.number, name, wait)).fetchone()
        if row is None:
            return None
        number, taken_by, seal, payload = row
        if seal != seal_item(run_id, name, payload):
            raise damaged(run_id, "a signal is not what was saved")
        if taken_by is None:
            db.execute("UPDATE signals SET taken_by = ? WHERE number = ?", (wait, number))
        return bytes(payload)


def request_cancel(db: apsw.Connection, run_id: str) -> None:
    """Cancel the run; if it is leased, request that its holder cancels it."""
    with immediately(db):
        row = _submitted(db, run_id)
        if row[3] == "running":
            db.execute("UPDATE service_runs SET is_cancelled = 1 WHERE run = ?", (row[0],))
        elif row[3] not in ENDED:
            db.execute(_END, ("cancelled", None, None, None, row[0]))


def look(db: apsw.Connection, run_id: str) -> ServiceRun:
    """Return the run's status and outcome."""
    with reading(db):
        row = _submitted(db, run_id)
        run = _find(db, run_id) if row[3] == "completed" else None
        last = None if run is None else last_step(db, run)
    status, outcome = row[3], row[9]
    if outcome is not None and row[8] != seal_item(run_id, status, outcome):
        raise damaged(run_id, "what it ended with is not what was saved")
    return ServiceRun(
        run_id=run_id, graph=row[2], status=status, reason=row[7], outcome=outcome, last=last
    )


def ended(db: apsw.Connection, run_ids: Sequence[str]) -> list[str]:
    """Return those of the runs that have ended, or do not exist."""
    going = {run_id for (run_id,) in db.execute(_SELECT_GOING, (json.dumps([*run_ids]),))}
    return [run_id for run_id in run_ids if run_id not in going]


def data_version(db: apsw.Connection) -> int:
    """Return a number that changes when another connection has changed the file."""
    return int(db.pragma("data_version"))


def _submitted(db: apsw.Connection, run_id: str) -> Any:
    row = db.execute(_SELECT, (run_id,)).fetchone()
    if row is None:
        raise not_submitted(run_id)
    return row
