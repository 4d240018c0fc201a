"""What the PostgreSQL store does for a service: each function is one transaction, in a worker thread.

A run that was submitted has a row of its own beside the one in `trioflow_runs`, under the same number, which is
also its place in the queue. Times are the server's. Whoever changes the row has locked the run's first, so the
epoch that was looked at stays the latest; processes that ask for runs take turns, so limits hold over all of them.

A connection that is lost leaves its transaction of unknown fate. All of this can be done again: what is new has a
number that is remembered (`Tried`), and runs that were taken for nobody come back when their lease ends.
"""

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from trioflow.checkpoint import _postgres_rows as rows
from trioflow.checkpoint._entries import already_there, has_ended, not_submitted
from trioflow.checkpoint._postgres_rows import Tried, ask, find_locked, lookup_name, next_epoch, shown
from trioflow.checkpoint._postgres_schema import Connection
from trioflow.checkpoint._seals import damaged, seal_item
from trioflow.checkpoint.memory import conflict, not_found
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
from trioflow.errors import CheckpointConflictError

__all__ = (
    "CHANNEL",
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

CHANNEL = "trioflow"
"""Where changes are notified of; what comes on it is the schema that was changed."""

_FRESH = 0.7
"""The part of a lease that has to be left for it not to be written again."""

_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
_NOTIFY = f"SELECT pg_notify('{CHANNEL}', current_schema())"
_TURN = "SELECT pg_advisory_xact_lock(hashtextextended('trioflow.' || current_schema(), 0))"

_INSERT = "INSERT INTO trioflow_service(run, graph, status, due) VALUES (%s, %b, 'queued', %s)"
_SELECT = (
    "SELECT run, graph, status, due, waits_for, is_cancelled, reason, seal_of_outcome, outcome"
    " FROM trioflow_service WHERE run = %s"
)
_SELECT_BY_NAME = (
    "SELECT run, graph, status, due, waits_for, is_cancelled, reason, seal_of_outcome, outcome"
    " FROM trioflow_service JOIN trioflow_runs ON number = run WHERE name = %b"
)
_SELECT_LEFT_BEHIND = """
    SELECT run, run_id FROM trioflow_service JOIN trioflow_runs ON number = run
    WHERE graph = %(graph)b AND (status = 'running') AND due <= %(now)s AND name <> ALL(%(passed)b)
    ORDER BY due, run LIMIT %(room)s
"""
_SELECT_DUE = """
    SELECT run, run_id, due FROM trioflow_service JOIN trioflow_runs ON number = run
    WHERE graph = %(graph)b AND NOT (status = 'running') AND due <= %(now)s AND name <> ALL(%(passed)b)
    ORDER BY due, run LIMIT %(room)s
"""
# One that was left behind keeps its place: whoever has it may come back, and it can only be taken over.
_COUNT_RUNNING = """
    SELECT count(*) FROM trioflow_service JOIN trioflow_runs ON number = run
    WHERE graph = %(graph)b AND (status = 'running') AND (due > %(now)s OR name = ANY(%(refused)b))
"""
_NEXT_DUE = "SELECT min(due) FROM trioflow_service WHERE graph = ANY(%b) AND due > %s"
_SELECT_GOING = (
    "SELECT name FROM trioflow_runs JOIN trioflow_service ON run = number"
    " WHERE name = ANY(%b) AND status NOT IN ('completed', 'failed', 'cancelled')"
)
_PROLONG = "UPDATE trioflow_service SET due = %s WHERE run = %s"
_PROLONG_HELD = """
    WITH held AS (
        SELECT run.number, run.name, service.is_cancelled
        FROM unnest(%(names)b::bytea[], %(epochs)s::bigint[]) AS given(name, epoch)
            JOIN trioflow_runs AS run ON run.name = given.name AND run.epoch = given.epoch
            JOIN trioflow_service AS service ON service.run = run.number
        WHERE service.status = 'running' AND run.seal = trioflow_seal(run.name, run.run_id, run.epoch,
            run.last_step, run.items, run.created_at, run.updated_at, run.parent)
    ), prolonged AS (
        UPDATE trioflow_service AS service SET due = %(until)s FROM held
        WHERE service.run = held.number AND service.due < %(worn)s
    )
    SELECT name, is_cancelled FROM held
"""
_LOCK_DUE = """
    SELECT run.number, run.seal = trioflow_seal(run.name, run.run_id, run.epoch, run.last_step, run.items,
        run.created_at, run.updated_at, run.parent)
    FROM trioflow_runs AS run JOIN trioflow_service AS service ON service.run = run.number
    WHERE run.number = ANY(%s) AND service.due <= %s
    ORDER BY run.number FOR UPDATE
"""
_TAKE = """
    WITH drawn AS (
        SELECT number, nextval('trioflow_epoch') AS epoch FROM unnest(%(numbers)s::bigint[]) AS number
    ), taken AS (
        UPDATE trioflow_runs AS run SET epoch = drawn.epoch, updated_at = %(now)s::float8,
            seal = trioflow_seal(run.name, run.run_id, drawn.epoch, run.last_step, run.items, run.created_at,
                %(now)s::float8, run.parent)
        FROM drawn WHERE run.number = drawn.number
    )
    UPDATE trioflow_service AS service SET status = 'running', due = %(until)s::float8, waits_for = NULL,
        reason = NULL
    FROM drawn WHERE service.run = drawn.number RETURNING drawn.number, drawn.epoch, service.is_cancelled
"""
_RELEASE = "UPDATE trioflow_service SET status = %s, due = %s, waits_for = %b, reason = %b WHERE run = %s"
_END = (
    "UPDATE trioflow_service SET status = %s, due = NULL, waits_for = NULL, reason = %b, seal_of_outcome = %b,"
    " outcome = %b WHERE run = %s"
)
_ASK_TO_CANCEL = "UPDATE trioflow_service SET is_cancelled = true WHERE run = %s"
_ADD_SIGNAL = "INSERT INTO trioflow_signals(run, name, seal, payload) VALUES (%s, %b, %b, %b) RETURNING number"
_SIGNAL_THERE = "SELECT 1 FROM trioflow_signals WHERE run = %s AND name = %b AND taken_by IS NULL LIMIT 1"
_SIGNAL_KEPT = "SELECT 1 FROM trioflow_signals WHERE number = %s"
_SELECT_SIGNAL = """
    SELECT number, taken_by, seal, payload FROM trioflow_signals
    WHERE run = %(run)s AND name = %(name)b AND (taken_by = %(wait)b OR taken_by IS NULL)
    ORDER BY taken_by IS NULL, number LIMIT 1
"""
_TAKE_SIGNAL = "UPDATE trioflow_signals SET taken_by = %b WHERE number = %s"


def submit(db: Connection, checkpoint: Checkpoint, delay: float, *, tried: Tried) -> None:
    """Keep a new run at its first step."""
    with db.transaction():
        run = find_locked(db, checkpoint.run_id)
        if run is not None and tried.again and run.number == tried.number:
            return
        epoch = next_epoch(db)
        tried.number = None if run is not None else rows.add_run(db, checkpoint.run_id, epoch)
        if tried.number is None:
            raise already_there(checkpoint.run_id)
        rows.save(db, checkpoint, epoch, tried=Tried())
        _do(db, _INSERT, tried.number, checkpoint.graph.encode(), _now(db) + delay)
        ask(db, _NOTIFY)


def lease(db: Connection, request: LeaseRequest, *, tried: Tried) -> LeaseGrant:
    """Prolong what is held, and take what is due."""
    del tried
    with db.transaction():
        ask(db, _TURN)
        now = _now(db)
        held = _prolonged(db, request, now)
        taken = _taken(db, _due(db, request, now), now, request.lease)
        if taken:
            ask(db, _NOTIFY)
        due = ask(db, _NEXT_DUE, ([graph.encode() for graph in request.graphs], now))[0][0]
    return LeaseGrant(held=held, taken=taken, next_due=None if due is None else due - now)


def _prolonged(db: Connection, request: LeaseRequest, now: float) -> Mapping[str, bool]:
    """Prolong the leases that are held; return which still are, and whether they are to be cancelled."""
    if not request.held:
        return {}
    held = {lookup_name(run_id): (run_id, epoch) for run_id, epoch in request.held}
    values = {
        "names": list(held),
        "epochs": [epoch for _, epoch in held.values()],
        "until": now + request.lease,
        # A lease that is nearly whole is not worth a write.
        "worn": now + request.lease * _FRESH,
    }
    return {held[name][0]: is_cancelled for name, is_cancelled in ask(db, _PROLONG_HELD, values)}


def _due(db: Connection, request: LeaseRequest, now: float) -> Sequence[tuple[int, str, str]]:
    """Return number, id and graph of the runs to take, in their order."""
    refused = [lookup_name(run_id) for run_id in request.refused]
    passed = [*refused, *(lookup_name(run_id) for run_id, _ in request.held)]
    left_behind: list[tuple[int, str, str]] = []
    due: list[tuple[float, int, str, str]] = []
    for graph in request.graphs:
        asked = {"graph": graph.encode(), "now": now, "passed": passed, "refused": refused}
        room, limit = request.room, request.limits.get(graph)
        if limit is not None:
            room = min(room, limit - ask(db, _COUNT_RUNNING, asked)[0][0])
        if room <= 0:
            continue
        found = ask(db, _SELECT_LEFT_BEHIND, {**asked, "room": room})
        left_behind += [(number, shown(run_id), graph) for number, run_id in found]
        waiting = ask(db, _SELECT_DUE, {**asked, "room": room - len(found)})
        due += [(since, number, shown(run_id), graph) for number, run_id, since in waiting]
    return [*left_behind, *((number, run_id, graph) for _, number, run_id, graph in sorted(due))][: request.room]


def _taken(db: Connection, found: Sequence[tuple[int, str, str]], now: float, seconds: float) -> list[Lease]:
    """Claim these runs, but those that were deleted, let go of or ended meanwhile, and return their leases."""
    numbers = [number for number, _, _ in found]
    if not numbers:
        return []
    # Whoever worked inside a run did so for its former holder.
    locked = ask(db, _LOCK_DUE, (numbers, now))
    rows.take_inside(db, [number for number, whole in locked if whole])
    values = {"numbers": [number for number, whole in locked if whole], "now": now, "until": now + seconds}
    taken = {number: (epoch, is_cancelled) for number, epoch, is_cancelled in ask(db, _TAKE, values)}
    for number, whole in locked:
        if not whole:
            # It keeps nobody from the others; a list of runs says that it is damaged.
            _do(db, _RELEASE, "blocked", None, None, b"what is kept of it is damaged", number)
    return [
        Lease(run_id=run_id, graph=graph, epoch=taken[number][0], is_cancelled=taken[number][1])
        for number, run_id, graph in found
        if number in taken
    ]


def release(db: Connection, run_id: str, epoch: int, given: Release, *, tried: Tried) -> None:
    """Let go of the run."""
    with db.transaction():
        try:
            number = _claimed(db, run_id, epoch)
        except CheckpointConflictError:
            if tried.again:
                return  # it was let go of, and somebody has it now
            raise
        row = _submitted(db, run_id, number)
        if row["is_cancelled"]:
            _do(db, _END, "cancelled", None, None, None, number)
        else:
            now = _now(db)
            due = None if given.delay is None else now + given.delay
            waits_for = None if given.waits_for is None else given.waits_for.encode()
            if ask(db, _SIGNAL_THERE, (number, waits_for)):
                due = now
            reason = None if given.reason is None else given.reason.encode()
            _do(db, _RELEASE, given.status, due, waits_for, reason, number)
        ask(db, _NOTIFY)


def finish(
    db: Connection,
    claim: tuple[str, int],
    status: EndStatus,
    outcome: bytes,
    reason: str | None,
    *,
    tried: Tried,
) -> None:
    """Keep how the run ended."""
    del tried
    run_id, epoch = claim
    with db.transaction():
        number = _claimed(db, run_id, epoch)
        _submitted(db, run_id, number)
        seal = seal_item(run_id, status, outcome)
        _do(db, _END, status, None if reason is None else reason.encode(), seal, outcome, number)
        ask(db, _NOTIFY)


def put_signal(db: Connection, run_id: str, name: str, payload: bytes, *, tried: Tried) -> None:
    """Keep the signal, and let the run be taken if it waits for it."""
    with db.transaction():
        run = find_locked(db, run_id)
        if run is None:
            raise not_found(run_id, None)
        if tried.again and tried.number is not None and ask(db, _SIGNAL_KEPT, (tried.number,)):
            return
        row = _entry(db, run.number)
        if row is not None and row["status"] in ENDED:
            raise has_ended(run_id, row["status"])
        values = (run.number, name.encode(), seal_item(run_id, name, payload), payload)
        tried.number = ask(db, _ADD_SIGNAL, values)[0][0]
        if row is not None and row["waits_for"] == name.encode():
            _do(db, _PROLONG, _now(db), run.number)
        ask(db, _NOTIFY)


def take_signal(
    db: Connection, run_id: str, epoch: int, name: str, wait: str, *, tried: Tried
) -> bytes | None:
    """Give the wait its signal."""
    del tried
    with db.transaction():
        number = _claimed(db, run_id, epoch)
        found = ask(db, _SELECT_SIGNAL, {"run": number, "name": name.encode(), "wait": wait.encode()})
        if not found:
            return None
        signal, taken_by, seal, payload = found[0]
        if seal != seal_item(run_id, name, payload):
            raise damaged(run_id, "a signal is not what was saved")
        if taken_by is None:
            _do(db, _TAKE_SIGNAL, wait.encode(), signal)
        return bytes(payload)


def request_cancel(db: Connection, run_id: str, *, tried: Tried) -> None:
    """Cancel the run, or have it cancelled by whoever has it."""
    del tried
    with db.transaction():
        run = find_locked(db, run_id)
        row = None if run is None else _entry(db, run.number)
        if row is None:
            raise not_submitted(run_id)
        if row["status"] == "running":
            _do(db, _ASK_TO_CANCEL, row["run"])
        elif row["status"] not in ENDED:
            _do(db, _END, "cancelled", None, None, None, row["run"])
        ask(db, _NOTIFY)


def look(db: Connection, run_id: str) -> ServiceRun:
    """Return how the run stands."""
    found = ask(db, _SELECT_BY_NAME, (lookup_name(run_id),))
    if not found:
        raise not_submitted(run_id)
    row = _named(found[0])
    outcome, reason = row["outcome"], row["reason"]
    if outcome is not None and row["seal_of_outcome"] != seal_item(run_id, row["status"], outcome):
        raise damaged(run_id, "what it ended with is not what was saved")
    return ServiceRun(
        run_id=run_id,
        graph=row["graph"].decode(),
        status=row["status"],
        reason=None if reason is None else shown(reason),
        outcome=outcome,
    )


def ended(db: Connection, run_ids: Sequence[str]) -> list[str]:
    """Return those of the runs that nothing more comes of."""
    names = {lookup_name(run_id): run_id for run_id in run_ids}
    going = {names[name] for (name,) in ask(db, _SELECT_GOING, (list(names),))}
    return [run_id for run_id in run_ids if run_id not in going]


_FIELDS = (
    "run",
    "graph",
    "status",
    "due",
    "waits_for",
    "is_cancelled",
    "reason",
    "seal_of_outcome",
    "outcome",
)


def _named(row: Sequence[Any]) -> Mapping[str, Any]:
    return dict(zip(_FIELDS, row, strict=True))


def _entry(db: Connection, number: int) -> Mapping[str, Any] | None:
    found = ask(db, _SELECT, (number,))
    return _named(found[0]) if found else None


def _submitted(db: Connection, run_id: str, number: int) -> Mapping[str, Any]:
    row = _entry(db, number)
    if row is None:
        raise not_submitted(run_id)
    return row


def _claimed(db: Connection, run_id: str, epoch: int) -> int:
    """Lock a run that the caller has, and return its number."""
    run = find_locked(db, run_id)
    if run is not None and not run.whole:
        raise damaged(run_id, "its entry is not what was saved")
    if run is None or run.epoch != epoch:
        raise conflict(run_id, epoch, None if run is None else run.epoch)
    return run.number


def _now(db: Connection) -> float:
    return float(ask(db, _NOW)[0][0])


def _do(db: Connection, query: LiteralString, *values: object) -> None:
    db.execute(rows.SQL(query), values)
