"""The transactions of the PostgreSQL store for a service: each function is one, in a worker thread.

Operations that every run needs (submit, finish, look) are one statement for all callers, with an array for each
column.

A submitted run has a row in `trioflow_service` besides the one in `trioflow_runs`, under the same number, which is
also its place in the queue. Times are the server's. A session locks the run's row before it changes this one, so
the epoch that it has checked stays the latest. Processes lease runs one at a time, so limits hold across all of
them.

After a lost connection, the outcome of its transaction is unknown. Every operation can be repeated: the number of
a new row is remembered (`Tried`), and leases that reached no process expire.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from trioflow.checkpoint._postgres_schema import CHANNEL, Connection
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

_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
_NOTIFY = f"SELECT pg_notify('{CHANNEL}', current_schema())"
# One round trip for both statements.
_TURN = "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('trioflow.' || current_schema(), 0))"

# A run has a number before it is inserted, by which a repeated attempt recognizes it. Runs that exist need none.
_DRAW = """
    SELECT given.place, run.number, CASE WHEN run.number IS NULL THEN nextval('trioflow_epoch') END,
        CASE WHEN run.number IS NULL THEN nextval(pg_get_serial_sequence('trioflow_runs', 'number')) END
    FROM unnest(%b::bytea[]) WITH ORDINALITY AS given(name, place)
        LEFT JOIN trioflow_runs AS run ON run.name = given.name
"""
# Inserts in order of names, as every session that inserts several runs does, to avoid deadlocks. All get the same
# time: of runs that are due at once, the number decides which is first.
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
_SELECT_GOING = (
    "SELECT name FROM trioflow_runs JOIN trioflow_service ON run = number"
    " WHERE name = ANY(%b) AND status NOT IN ('completed', 'failed', 'cancelled')"
)
_PROLONG = "UPDATE trioflow_service SET due = %s WHERE run = %s"
# Renews held leases, except those of which most remains: they are not worth a write. Chooses as many runs of each
# graph as there is room for. A run whose lease has expired comes first, because it has had its turn. It keeps its
# place in the graph's limit, because its holder may come back: only taking over that very run can use the place. A
# run that is passed over keeps its place too: its lease may have expired and be renewed by this statement, which
# does not see its own changes.
_LOOK_FOR_DUE = """
    WITH clock AS MATERIALIZED (
        SELECT extract(epoch FROM clock_timestamp())::float8 AS now
    ), held AS (
        SELECT run.number, run.name, service.is_cancelled
        FROM unnest(%(held)b::bytea[], %(epochs)s::bigint[]) AS given(name, epoch)
            JOIN trioflow_runs AS run ON run.name = given.name AND run.epoch = given.epoch
            JOIN trioflow_service AS service ON service.run = run.number
        WHERE service.status = 'running' AND run.seal = trioflow_seal(run.name, run.run_id, run.epoch,
            run.last_step, run.items, run.created_at, run.updated_at, run.parent)
    ), prolonged AS (
        UPDATE trioflow_service AS service SET due = clock.now + %(lease)s::float8
        FROM held, clock WHERE service.run = held.number AND service.due < clock.now + %(worn)s::float8
    ), asked AS (
        SELECT given.graph, given.place, clock.now, least(%(room)s::bigint, given.allowed - (
            SELECT count(*) FROM trioflow_service AS service JOIN trioflow_runs AS run ON run.number = service.run
            WHERE given.allowed IS NOT NULL AND service.graph = given.graph AND (service.status = 'running')
                AND (service.due > clock.now OR run.name = ANY(%(passed)b::bytea[]))
        )) AS room
        FROM clock, unnest(%(graphs)b::bytea[], %(limits)s::bigint[]) WITH ORDINALITY
            AS given(graph, allowed, place)
    ), left_behind AS (
        SELECT asked.graph, asked.place, found.run, found.due
        FROM asked CROSS JOIN LATERAL (
            SELECT service.run, service.due
            FROM trioflow_service AS service JOIN trioflow_runs AS run ON run.number = service.run
            WHERE service.graph = asked.graph AND (service.status = 'running') AND service.due <= asked.now
                AND run.name <> ALL(%(passed)b::bytea[])
            ORDER BY service.due, service.run LIMIT greatest(asked.room, 0)
        ) AS found
    ), waiting AS (
        SELECT asked.graph, found.run, found.due
        FROM asked CROSS JOIN LATERAL (
            SELECT service.run, service.due
            FROM trioflow_service AS service JOIN trioflow_runs AS run ON run.number = service.run
            WHERE service.graph = asked.graph AND NOT (service.status = 'running') AND service.due <= asked.now
                AND run.name <> ALL(%(passed)b::bytea[])
            ORDER BY service.due, service.run
            LIMIT greatest(asked.room - (SELECT count(*) FROM left_behind WHERE place = asked.place), 0)
        ) AS found
    ), chosen AS (
        SELECT run, graph, row_number() OVER (ORDER BY place, due, run) AS turn
        FROM (SELECT run, graph, place, due FROM left_behind
            UNION ALL SELECT run, graph, 9223372036854775807, due FROM waiting) AS found
        ORDER BY turn LIMIT %(room)s::bigint
    ), locked AS MATERIALIZED (
        SELECT run.number, run.run_id, chosen.graph, chosen.turn, run.seal = trioflow_seal(run.name, run.run_id,
            run.epoch, run.last_step, run.items, run.created_at, run.updated_at, run.parent) AS whole
        FROM chosen JOIN trioflow_runs AS run ON run.number = chosen.run
        ORDER BY run.number FOR UPDATE OF run
    )
    SELECT 'due', number, run_id, graph, whole, turn::float8 FROM locked
    UNION ALL SELECT 'held', number, name, NULL, is_cancelled, NULL FROM held
    UNION ALL SELECT 'next', NULL, NULL, NULL, NULL, (
        SELECT min(due) FROM trioflow_service WHERE graph = ANY(%(graphs)b::bytea[]) AND due > clock.now
    ) - clock.now FROM clock
"""
# Leaves out runs that were released or have ended while this session waited for their locks: the rows read before
# may be older than the locks, but those read here are not.
_TAKE = """
    WITH clock AS MATERIALIZED (
        SELECT extract(epoch FROM clock_timestamp())::float8 AS now
    ), drawn AS MATERIALIZED (
        SELECT service.run AS number, nextval('trioflow_epoch') AS epoch
        FROM clock, trioflow_service AS service WHERE service.run = ANY(%(numbers)s) AND service.due <= clock.now
    ), taken AS (
        UPDATE trioflow_runs AS run SET epoch = drawn.epoch, updated_at = %(now)s::float8,
            seal = trioflow_seal(run.name, run.run_id, drawn.epoch, run.last_step, run.items, run.created_at,
                %(now)s::float8, run.parent)
        FROM drawn WHERE run.number = drawn.number
    )
    UPDATE trioflow_service AS service SET status = 'running', due = clock.now + %(lease)s::float8,
        waits_for = NULL, reason = NULL
    FROM clock, drawn JOIN trioflow_runs AS run ON run.number = drawn.number
        LEFT JOIN trioflow_steps AS saved
            ON saved.run = CASE WHEN %(most)s >= 0 THEN run.number END AND saved.step = run.last_step
                AND octet_length(saved.state) <= %(most)s
    WHERE service.run = drawn.number
    RETURNING drawn.number, pg_notify(%(channel)s, current_schema()), (
            SELECT array_agg(inside.number) FROM trioflow_runs AS inside WHERE inside.parent = drawn.number
        ), drawn.epoch, service.is_cancelled, saved.step, saved.graph, saved.node,
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
    """Store new runs at their first steps, and queue them; return for each an error or None."""
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
    """Draw numbers and epochs for runs that do not exist, in order; return the numbers of those that do.

    A number that a previous attempt drew is unique to it: a run with this number is the one that it submitted.
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
    """Renew the leases that are held, and lease runs that are due."""
    del tried
    try:
        return _lease(db, request, rows.LOOKED_AT)
    except psycopg.Error as error:
        if error.sqlstate not in rows.DAMAGE:
            raise
    # An unreadable step must not block the other runs: the process that executes its run will find it.
    return _lease(db, request, -1)


def _lease(db: Connection, request: LeaseRequest, most: int) -> LeaseGrant:
    held = {lookup_name(run_id): (run_id, epoch) for run_id, epoch in request.held}
    values = {
        "held": list(held),
        "epochs": [epoch for _, epoch in held.values()],
        "lease": request.lease,
        "worn": request.lease * _FRESH,
        "room": max(request.room, 0),
        "graphs": [graph.encode() for graph in request.graphs],
        "limits": [request.limits.get(graph) for graph in request.graphs],
        "passed": [*(lookup_name(run_id) for run_id in request.refused), *held],
        "most": most,
    }
    with _in_turn(db):
        found = ask(db, _LOOK_FOR_DUE, values)
        due = sorted(
            (turn, number, shown(name), graph.decode(), whole)
            for kind, number, name, graph, whole, turn in found
            if kind == "due"
        )
        taken = _taken(db, due, values) if due else []
    return LeaseGrant(
        held={held[name][0]: is_cancelled for kind, _, name, _, is_cancelled, _ in found if kind == "held"},
        taken=taken,
        next_due=next(seconds for kind, *_, seconds in found if kind == "next"),
    )


@contextmanager
def _in_turn(db: Connection) -> Iterator[None]:
    """Run the block in a transaction under the advisory lock for leasing runs."""
    end: LiteralString = "ROLLBACK"
    try:
        db.execute(rows.SQL(_TURN))
        yield
        end = "COMMIT"
    finally:
        if not db.closed:
            db.execute(rows.SQL(end))


def _taken(
    db: Connection, due: Sequence[tuple[float, int, str, str, bool]], values: Mapping[str, Any]
) -> list[Lease]:
    """Claim these runs, which are locked, and return their leases."""
    numbers = [number for _, number, _, _, whole in due if whole]
    found = ask(db, _TAKE, {**values, "numbers": numbers, "now": time.time(), "channel": CHANNEL})
    taken = {number: row for number, _, _, *row in found}
    # Processes that hold runs inside these hold them for the former holders.
    if any(inside for _, _, inside, *_ in found):
        rows.take_inside(db, list(taken))
    for _, number, _, _, whole in due:
        if not whole:
            # It must not block the other runs; a list of runs shows that it is damaged.
            _do(db, _RELEASE, "blocked", None, None, b"what is kept of it is damaged", number)
    return [_lease_of(run_id, graph, taken[number]) for _, number, run_id, graph, _ in due if number in taken]


def _lease_of(run_id: str, graph: str, row: Sequence[Any]) -> Lease:
    epoch, is_cancelled, *last = row
    known = rows.last_step(run_id, last)
    return Lease(run_id=run_id, graph=graph, epoch=epoch, is_cancelled=is_cancelled, last=known)


def release(db: Connection, run_id: str, epoch: int, given: Release, *, tried: Tried) -> None:
    """Release the run."""
    with db.transaction():
        try:
            number = _claimed(db, run_id, epoch)
        except CheckpointConflictError:
            if tried.again:
                return  # it was released, and another process has claimed it since
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
    """Store the outcomes of different runs; return for each an error or None."""
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
    """Return the error for a write that found no intact submitted run with this epoch."""
    run = find(db, run_id)
    if run is not None and run.whole and run.epoch == epoch:
        return not_submitted(run_id)
    return refusal(db, run_id, epoch)


def put_signal(db: Connection, run_id: str, name: str, payload: bytes, *, tried: Tried) -> None:
    """Store the signal, and make the run due if it waits for it."""
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
    """Return the signal for this wait, and mark it as taken; None if there is none."""
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
    """Cancel the run; if it is leased, request that its holder cancels it."""
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
    """Return for each run its status and outcome, or an error."""
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
    """Return for each caller those of its runs that have ended, or do not exist."""
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
    """Lock a run that the caller holds, and return its number."""
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
