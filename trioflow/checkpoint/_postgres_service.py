"""What the PostgreSQL store does for a service: each function is one transaction, in a worker thread.

What each run needs is one statement for all who want it: to submit, to finish, to look. Its arrays have a column each.

A run that was submitted has a row of its own beside the one in `trioflow_runs`, under the same number, which is
also its place in the queue. Times are the server's. Whoever changes the row has locked the run's first, so the
epoch that was looked at stays the latest; processes that ask for runs take turns, so limits hold over all of them.

A connection that is lost leaves its transaction of unknown fate. All of this can be done again: what is new has a
number that is remembered (`Tried`), and runs that were taken for nobody come back when their lease ends.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

import psycopg

from trioflow.checkpoint import _postgres_rows as rows
from trioflow.checkpoint._entries import already_there, has_ended, not_submitted
from trioflow.checkpoint._postgres_rows import (
    Tried,
    ask,
    columns,
    find,
    find_locked,
    lookup_name,
    refusal,
    shown,
    step_values,
)
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
from trioflow.errors import CheckpointConflictError, CheckpointError

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

# Before a run is added it has a number, by which it is known again. Nothing is drawn for one that is there.
_DRAW = """
    SELECT given.place, run.number, CASE WHEN run.number IS NULL THEN nextval('trioflow_epoch') END,
        CASE WHEN run.number IS NULL THEN nextval(pg_get_serial_sequence('trioflow_runs', 'number')) END
    FROM unnest(%b::bytea[]) WITH ORDINALITY AS given(name, place)
        LEFT JOIN trioflow_runs AS run ON run.name = given.name
"""
# In the order of their names, as everybody else does it who adds several: nobody waits for who waits for him. One
# moment for all: of those that are due at once, the number says which is first.
_SUBMIT = """
    WITH given AS (
        SELECT * FROM unnest(%(number)s::bigint[], %(name)b::bytea[], %(run_id)b::bytea[], %(epoch)s::bigint[],
            %(delay)s::float8[], %(step)s::bigint[], %(graph)b::bytea[], %(node)b::bytea[], %(next_node)b::bytea[],
            %(iterations)s::bigint[], %(status)b::bytea[], %(created_at)s::float8[], %(kind)b::bytea[],
            %(forked_from)b::bytea[], %(version)s::bigint[], %(digest)b::bytea[], %(pause)b::bytea[],
            %(info_seal)b::bytea[], %(seal)b::bytea[], %(state)b::bytea[])
            AS given(number, name, run_id, epoch, delay, step, graph, node, next_node, iterations, status,
                created_at, kind, forked_from, version, digest, pause, info_seal, seal, state)
    ), added AS (
        INSERT INTO trioflow_runs(number, name, run_id, epoch, last_step, items, created_at, updated_at, seal)
        OVERRIDING SYSTEM VALUE
        SELECT number, name, run_id, epoch, step, 0, %(now)s::float8, %(now)s::float8,
            trioflow_seal(name, run_id, epoch, step, 0, %(now)s::float8, %(now)s::float8, NULL)
        FROM given ORDER BY name
        ON CONFLICT (name) DO NOTHING RETURNING number
    ), put AS (
        INSERT INTO trioflow_steps(run, step, graph, node, next_node, iterations, status, created_at, kind,
            forked_from, version, digest, pause, info_seal, seal, state)
        SELECT number, step, graph, node, next_node, iterations, status, created_at, kind, forked_from, version,
            digest, pause, info_seal, seal, state
        FROM given JOIN added USING (number)
    ), queued AS (
        INSERT INTO trioflow_service(run, graph, status, due)
        SELECT number, graph, 'queued', extract(epoch FROM statement_timestamp())::float8 + delay
        FROM given JOIN added USING (number)
    )
    SELECT number, pg_notify(%(channel)s, current_schema()) FROM added
"""
_SELECT = (
    "SELECT run, graph, status, due, waits_for, is_cancelled, reason, seal_of_outcome, outcome"
    " FROM trioflow_service WHERE run = %s"
)
_LOOK = """
    SELECT run.name, service.graph, service.status, service.reason, service.seal_of_outcome, service.outcome,
        saved.step, saved.graph, saved.node, saved.next_node, saved.iterations, saved.status, saved.created_at,
        saved.kind, saved.forked_from, saved.version, saved.digest, saved.pause, saved.seal, saved.state
    FROM trioflow_service AS service JOIN trioflow_runs AS run ON run.number = service.run
        LEFT JOIN trioflow_steps AS saved ON saved.run = run.number AND saved.step = run.last_step
            AND service.status = 'completed' AND octet_length(saved.state) <= %(most)s
    WHERE run.name = ANY(%(names)b)
"""
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
    FROM drawn JOIN trioflow_runs AS run ON run.number = drawn.number
        LEFT JOIN trioflow_steps AS saved
            ON saved.run = run.number AND saved.step = run.last_step AND octet_length(saved.state) <= %(most)s
    WHERE service.run = drawn.number
    RETURNING drawn.number, drawn.epoch, service.is_cancelled, saved.step, saved.graph, saved.node,
        saved.next_node, saved.iterations, saved.status, saved.created_at, saved.kind, saved.forked_from,
        saved.version, saved.digest, saved.pause, saved.seal, saved.state
"""
_RELEASE = "UPDATE trioflow_service SET status = %s, due = %s, waits_for = %b, reason = %b WHERE run = %s"
_END = (
    "UPDATE trioflow_service SET status = %s, due = NULL, waits_for = NULL, reason = %b, seal_of_outcome = %b,"
    " outcome = %b WHERE run = %s"
)
_FINISH = """
    WITH held AS MATERIALIZED (
        SELECT run.number, given.*
        FROM unnest(%(name)b::bytea[], %(epoch)s::bigint[], %(status)s::text[], %(reason)b::bytea[],
            %(seal)b::bytea[], %(outcome)b::bytea[]) AS given(name, epoch, status, reason, seal, outcome)
            JOIN trioflow_runs AS run ON run.name = given.name AND run.epoch = given.epoch
        WHERE run.seal = trioflow_seal(run.name, run.run_id, run.epoch, run.last_step, run.items, run.created_at,
            run.updated_at, run.parent)
        ORDER BY run.number FOR UPDATE OF run
    )
    UPDATE trioflow_service AS service SET status = held.status, due = NULL, waits_for = NULL,
        reason = held.reason, seal_of_outcome = held.seal, outcome = held.outcome
    FROM held WHERE service.run = held.number RETURNING held.name, pg_notify(%(channel)s, current_schema())
"""
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


def submit(
    db: Connection, many: Sequence[tuple[Checkpoint, float]], tried: Sequence[Tried]
) -> list[CheckpointError | None]:
    """Keep new runs at their first steps; return for each why not, or None."""
    runs = [
        {**step_values(checkpoint), "run_id": checkpoint.run_id.encode(), "delay": delay}
        for checkpoint, delay in many
    ]
    there = _drawn(db, runs, tried)
    new = [{**run, "number": each.number, "epoch": each.epoch} for run, each in zip(runs, tried, strict=True)]
    new = [run for run in new if run["number"] not in there and run["number"] is not None]
    if new:
        values = {**columns(new), "now": time.time(), "channel": CHANNEL}
        there |= {number for number, _ in ask(db, _SUBMIT, values)}
    return [
        None if each.number in there else already_there(checkpoint.run_id)
        for each, (checkpoint, _) in zip(tried, many, strict=True)
    ]


def _drawn(db: Connection, runs: Sequence[Mapping[str, Any]], tried: Sequence[Tried]) -> set[int]:
    """Draw numbers and epochs for runs that are not there, in their order; return the numbers of those that are.

    What an attempt before has drawn is its own: a run that has that number is the one that it was to submit.
    """
    rows = sorted(ask(db, _DRAW, ([run["name"] for run in runs],)))
    drawn = sorted((number, epoch) for _, _, epoch, number in rows if number is not None)
    for place, there, _, _ in rows:
        each = tried[place - 1]
        if there is None:
            each.number, each.epoch = drawn.pop(0)
        elif not each.again:
            each.number = None
    return {there for _, there, _, _ in rows if there is not None}


def lease(db: Connection, request: LeaseRequest, *, tried: Tried) -> LeaseGrant:
    """Prolong what is held, and take what is due."""
    del tried
    try:
        return _lease(db, request, rows.LOOKED_AT)
    except psycopg.Error as error:
        if error.sqlstate not in rows.DAMAGE:
            raise
    # A step that cannot be read keeps nobody from the other runs: who makes its run finds it.
    return _lease(db, request, -1)


def _lease(db: Connection, request: LeaseRequest, most: int) -> LeaseGrant:
    with db.transaction():
        ask(db, _TURN)
        now = _now(db)
        held = _prolonged(db, request, now)
        taken = _taken(db, _due(db, request, now), (now, request.lease, most))
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


def _taken(db: Connection, found: Sequence[tuple[int, str, str]], how: tuple[float, float, int]) -> list[Lease]:
    """Claim these runs, but those that were deleted, let go of or ended meanwhile, and return their leases."""
    now, seconds, most = how
    numbers = [number for number, _, _ in found]
    if not numbers:
        return []
    # Whoever worked inside a run did so for its former holder.
    locked = ask(db, _LOCK_DUE, (numbers, now))
    rows.take_inside(db, [number for number, whole in locked if whole])
    values = {"numbers": [number for number, whole in locked if whole], "now": now, "until": now + seconds}
    taken = {number: row for number, *row in ask(db, _TAKE, {**values, "most": most})}
    for number, whole in locked:
        if not whole:
            # It keeps nobody from the others; a list of runs says that it is damaged.
            _do(db, _RELEASE, "blocked", None, None, b"what is kept of it is damaged", number)
    return [
        _lease_of(run_id, graph, taken[number]) for number, run_id, graph in found if number in taken
    ]


def _lease_of(run_id: str, graph: str, row: Sequence[Any]) -> Lease:
    epoch, is_cancelled, *last = row
    known = rows.last_step(run_id, last)
    return Lease(run_id=run_id, graph=graph, epoch=epoch, is_cancelled=is_cancelled, last=known)


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
    many: Sequence[tuple[str, int, EndStatus, bytes, str | None]],
    tried: Sequence[Tried],
) -> list[CheckpointError | None]:
    """Keep how different runs ended; return for each why not, or None."""
    del tried
    ends = [
        {
            "name": lookup_name(run_id),
            "epoch": epoch,
            "status": status,
            "reason": None if reason is None else reason.encode(),
            "seal": seal_item(run_id, status, outcome),
            "outcome": outcome,
        }
        for run_id, epoch, status, outcome, reason in many
    ]
    kept = {name for name, _ in ask(db, _FINISH, {**columns(ends), "channel": CHANNEL})}
    return [
        None if end["name"] in kept else _refusal(db, run_id, epoch)
        for end, (run_id, epoch, *_) in zip(ends, many, strict=True)
    ]


def _refusal(db: Connection, run_id: str, epoch: int) -> CheckpointError:
    """Return why no run was found that is whole, has this epoch, and was submitted."""
    run = find(db, run_id)
    if run is not None and run.whole and run.epoch == epoch:
        return not_submitted(run_id)
    return refusal(db, run_id, epoch)


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


def look(db: Connection, many: Sequence[tuple[str]], tried: Sequence[Tried]) -> list[ServiceRun | CheckpointError]:
    """Return for each run how it stands, or why that cannot be said."""
    del tried
    names = [lookup_name(run_id) for (run_id,) in many]
    found = {name: row for name, *row in ask(db, _LOOK, {"names": names, "most": rows.LOOKED_AT})}
    return [_looked_at(run_id, found.get(name)) for (run_id,), name in zip(many, names, strict=True)]


def _looked_at(run_id: str, row: Sequence[Any] | None) -> ServiceRun | CheckpointError:
    if row is None:
        return not_submitted(run_id)
    graph, status, reason, seal, outcome, *last = row
    if outcome is not None and seal != seal_item(run_id, status, outcome):
        return damaged(run_id, "what it ended with is not what was saved")
    return ServiceRun(
        run_id=run_id,
        graph=graph.decode(),
        status=status,
        reason=None if reason is None else shown(reason),
        outcome=outcome,
        last=rows.last_step(run_id, last),
    )


def ended(db: Connection, many: Sequence[tuple[Sequence[str]]], tried: Sequence[Tried]) -> list[list[str]]:
    """Return of each caller's runs those that nothing more comes of."""
    del tried
    names = {lookup_name(run_id): run_id for (run_ids,) in many for run_id in run_ids}
    going = {names[name] for (name,) in ask(db, _SELECT_GOING, (list(names),))}
    return [[run_id for run_id in run_ids if run_id not in going] for (run_ids,) in many]


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
