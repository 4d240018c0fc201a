"""The transactions of the PostgreSQL store: each function is one, in a worker thread.

A save is one statement, for as many runs as are saved together: it checks that the epochs are the runs' latest,
locks the runs, and writes, in one round trip. If the connection is lost, it is unknown whether that happened, so
the next attempt reads first (`Tried.again`). Rows are sealed as in a SQLite file; the server seals a run's row,
because it knows how many items were new.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg.sql import SQL

from trioflow._text import quote
from trioflow.checkpoint._postgres_schema import CHANNEL, Connection
from trioflow.checkpoint._seals import INFO, REST, damaged, seal_info, seal_item, seal_step, seals_of_step
from trioflow.checkpoint.memory import conflict, foreign_child, not_found
from trioflow.checkpoint.protocol import Checkpoint, CheckpointInfo, RunInfo
from trioflow.errors import CheckpointCorruptError, CheckpointError

__all__ = (
    "DAMAGE",
    "LOOKED_AT",
    "SQL",
    "Run",
    "Tried",
    "ask",
    "claim",
    "columns",
    "delete",
    "find",
    "find_locked",
    "history",
    "last_step",
    "list_runs",
    "load",
    "load_items",
    "lookup_name",
    "refusal",
    "save",
    "save_items",
    "shown",
    "step_values",
    "take_inside",
    "vacuum",
)

LOOKED_AT = 1 << 16
"""Bytes up to which a state is verified when runs are listed, and returned with a leased run."""

LONGEST_NAME = 1_000
"""Bytes up to which an id or key is looked up as it is; a longer one is looked up by its digest."""

_LARGEST = 2**63 - 1
"""The largest integer that a column can hold."""

DAMAGE = ("XX001", "XX002")
"""The error codes for a damaged table or index."""

_TEXTS = {"graph", "node", "next_node", "status", "kind", "forked_from", "digest"}

_SELECT_RUN = (
    "SELECT number, run_id, epoch, last_step, parent,"
    " seal = trioflow_seal(name, run_id, epoch, last_step, items, created_at, updated_at, parent)"
    " FROM trioflow_runs WHERE name = %b"
)
_LOCK_RUN = _SELECT_RUN + " FOR UPDATE"
_ADD_RUN = """
    INSERT INTO trioflow_runs(name, run_id, epoch, last_step, items, created_at, updated_at, parent, seal)
    SELECT given.*, trioflow_seal(name, run_id, epoch, last_step, items, created_at, updated_at, parent)
    FROM (
        SELECT %(name)b::bytea AS name, %(run_id)b::bytea AS run_id, %(epoch)s::bigint AS epoch,
            NULL::bigint AS last_step, 0::bigint AS items, %(now)s::float8 AS created_at,
            %(now)s::float8 AS updated_at, %(parent)s::bigint AS parent
    ) AS given
    ON CONFLICT (name) DO NOTHING RETURNING number
"""
_TAKE_RUN = """
    UPDATE trioflow_runs SET epoch = %(epoch)s, updated_at = %(now)s,
        seal = trioflow_seal(name, run_id, %(epoch)s, last_step, items, created_at, %(now)s, parent)
    WHERE number = %(number)s
"""
_SELECT_INSIDE = """
    WITH RECURSIVE inside(number) AS (
        SELECT number FROM trioflow_runs WHERE parent = ANY(%s)
        UNION SELECT run.number FROM trioflow_runs AS run JOIN inside ON run.parent = inside.number
    )
    SELECT number FROM inside ORDER BY number
"""
_LOCK_INSIDE = "SELECT number FROM trioflow_runs WHERE number = ANY(%s) ORDER BY number FOR UPDATE"
# A damaged row stays damaged, but its former holder loses the run all the same.
_TAKE_INSIDE = """
    UPDATE trioflow_runs AS run SET epoch = drawn.epoch,
        seal = CASE WHEN run.seal = trioflow_seal(run.name, run.run_id, run.epoch, run.last_step, run.items,
                run.created_at, run.updated_at, run.parent)
            THEN trioflow_seal(run.name, run.run_id, drawn.epoch, run.last_step, run.items, run.created_at,
                run.updated_at, run.parent)
            ELSE run.seal END
    FROM (SELECT number, nextval('trioflow_epoch') AS epoch FROM unnest(%s::bigint[]) AS number) AS drawn
    WHERE run.number = drawn.number
"""
# Each column is an array, so one statement saves many runs. To avoid deadlocks, rows are always locked in order of
# their numbers.
_SAVE = """
    WITH held AS MATERIALIZED (
        SELECT run.number, given.*
        FROM unnest(%(name)b::bytea[], %(epoch)s::bigint[], %(step)s::bigint[], %(graph)b::bytea[],
            %(node)b::bytea[], %(next_node)b::bytea[], %(iterations)s::bigint[], %(status)b::bytea[],
            %(created_at)s::float8[], %(kind)b::bytea[], %(forked_from)b::bytea[], %(version)s::bigint[],
            %(digest)b::bytea[], %(pause)b::bytea[], %(info_seal)b::bytea[], %(seal)b::bytea[], %(state)b::bytea[])
            AS given(name, epoch, step, graph, node, next_node, iterations, status, created_at, kind, forked_from,
                version, digest, pause, info_seal, seal, state)
            JOIN trioflow_runs AS run ON run.name = given.name AND run.epoch = given.epoch
        WHERE run.seal = trioflow_seal(run.name, run.run_id, run.epoch, run.last_step, run.items, run.created_at,
            run.updated_at, run.parent)
        ORDER BY run.number FOR UPDATE OF run
    ), put AS (
        INSERT INTO trioflow_steps(run, step, graph, node, next_node, iterations, status, created_at, kind,
            forked_from, version, digest, pause, info_seal, seal, state)
        SELECT number, step, graph, node, next_node, iterations, status, created_at, kind, forked_from, version,
            digest, pause, info_seal, seal, state
        FROM held
        ON CONFLICT (run, step) DO UPDATE SET graph = excluded.graph, node = excluded.node,
            next_node = excluded.next_node, iterations = excluded.iterations, status = excluded.status,
            created_at = excluded.created_at, kind = excluded.kind, forked_from = excluded.forked_from,
            version = excluded.version, digest = excluded.digest, pause = excluded.pause,
            info_seal = excluded.info_seal, seal = excluded.seal, state = excluded.state
    )
    UPDATE trioflow_runs AS run SET last_step = held.step, updated_at = %(now)s::float8,
        seal = trioflow_seal(run.name, run.run_id, run.epoch, held.step, run.items, run.created_at,
            %(now)s::float8, run.parent)
    FROM held WHERE run.number = held.number RETURNING run.name
"""
_IS_SAVED = """
    SELECT given.name
    FROM unnest(%(name)b::bytea[], %(epoch)s::bigint[], %(step)s::bigint[], %(seal)b::bytea[])
        AS given(name, epoch, step, seal)
        JOIN trioflow_runs AS run ON run.name = given.name AND run.epoch = given.epoch
            AND run.last_step = given.step
        JOIN trioflow_steps AS saved ON saved.run = run.number AND saved.step = given.step
            AND saved.seal = given.seal
"""
# ON CONFLICT locks a row that existed before, which sets its `xmax`; in a new row, `xmax` is 0.
_SAVE_ITEMS = """
    WITH held AS MATERIALIZED (
        SELECT number FROM trioflow_runs WHERE name = %(name)b AND epoch = %(epoch)s
            AND seal = trioflow_seal(name, run_id, epoch, last_step, items, created_at, updated_at, parent)
        FOR UPDATE
    ), put AS (
        INSERT INTO trioflow_items(run, key, long_key, seal, value)
        SELECT held.number, given.key, nullif(given.long_key, ''), given.seal, given.value
        FROM held, unnest(%(keys)b::bytea[], %(long_keys)b::bytea[], %(seals)b::bytea[], %(values)b::bytea[])
            AS given(key, long_key, seal, value)
        ON CONFLICT (run, key) DO UPDATE SET long_key = excluded.long_key, seal = excluded.seal,
            value = excluded.value
        RETURNING xmax = 0 AS added
    ), counted AS (SELECT count(*) FILTER (WHERE added) AS added FROM put)
    UPDATE trioflow_runs AS run SET items = run.items + counted.added, updated_at = %(now)s::float8,
        seal = trioflow_seal(run.name, run.run_id, run.epoch, run.last_step, run.items + counted.added,
            run.created_at, %(now)s::float8, run.parent)
    FROM held, counted WHERE run.number = held.number RETURNING run.number
"""
_COUNT_SAVED = """
    SELECT count(*) FROM trioflow_runs AS run JOIN trioflow_items AS item ON item.run = run.number
        JOIN unnest(%(keys)b::bytea[], %(seals)b::bytea[]) AS given(key, seal)
        ON item.key = given.key AND item.seal = given.seal
    WHERE run.name = %(name)b AND run.epoch = %(epoch)s
"""
_LOAD = """
    SELECT given.place, run.last_step, run.seal = trioflow_seal(run.name, run.run_id, run.epoch, run.last_step,
            run.items, run.created_at, run.updated_at, run.parent),
        saved.step, saved.graph, saved.node, saved.next_node, saved.iterations, saved.status, saved.created_at,
        saved.kind, saved.forked_from, saved.version, saved.digest, saved.pause, saved.seal, saved.state
    FROM unnest(%(names)b::bytea[], %(steps)s::bigint[]) WITH ORDINALITY AS given(name, step, place)
        JOIN trioflow_runs AS run ON run.name = given.name
        LEFT JOIN trioflow_steps AS saved
            ON saved.run = run.number AND saved.step = coalesce(given.step, run.last_step)
"""
_HISTORY = """
    SELECT run.last_step, run.seal = trioflow_seal(run.name, run.run_id, run.epoch, run.last_step, run.items,
            run.created_at, run.updated_at, run.parent),
        saved.info_seal, saved.step, saved.graph, saved.node, saved.next_node, saved.iterations, saved.status,
        saved.created_at, saved.kind, saved.forked_from
    FROM trioflow_runs AS run LEFT JOIN trioflow_steps AS saved ON saved.run = run.number
    WHERE run.name = %b ORDER BY saved.step
"""
_LOAD_ITEMS = """
    SELECT run.items, run.seal = trioflow_seal(run.name, run.run_id, run.epoch, run.last_step, run.items,
            run.created_at, run.updated_at, run.parent),
        item.key, item.long_key, item.seal, item.value
    FROM trioflow_runs AS run LEFT JOIN trioflow_items AS item ON item.run = run.number
    WHERE run.name = %b
"""
_SELECT_PAGE = """
    SELECT run.number, run.run_id, run.items, run.created_at, run.updated_at, parent.run_id, run.last_step,
        run.seal = trioflow_seal(run.name, run.run_id, run.epoch, run.last_step, run.items, run.created_at,
            run.updated_at, run.parent),
        service.status, service.reason
    FROM trioflow_runs AS run LEFT JOIN trioflow_runs AS parent ON parent.number = run.parent
        LEFT JOIN trioflow_service AS service ON service.run = run.number
    WHERE run.number > %s AND (run.last_step IS NOT NULL OR run.items > 0
        OR run.seal <> trioflow_seal(run.name, run.run_id, run.epoch, run.last_step, run.items, run.created_at,
            run.updated_at, run.parent))
    ORDER BY run.number LIMIT %s
"""
_SELECT_LAST = """
    SELECT saved.run, saved.info_seal, saved.step, saved.graph, saved.node, saved.next_node, saved.iterations,
        saved.status, saved.created_at, saved.kind, saved.forked_from, saved.version, saved.digest, saved.pause,
        saved.seal, CASE WHEN octet_length(saved.state) <= %s THEN saved.state END
    FROM unnest(%s::bigint[], %s::bigint[]) AS wanted(run, step) JOIN trioflow_steps AS saved USING (run, step)
"""
_SELECT_DAMAGED = """
    SELECT name, run_id FROM trioflow_runs
    WHERE seal <> trioflow_seal(name, run_id, epoch, last_step, items, created_at, updated_at, parent)
"""
_DELETE = """
    WITH gone AS (DELETE FROM trioflow_steps WHERE run = ANY(%(numbers)s)),
        lost AS (DELETE FROM trioflow_items WHERE run = ANY(%(numbers)s)),
        left_queue AS (
            DELETE FROM trioflow_service WHERE run = ANY(%(numbers)s)
            RETURNING pg_notify(%(channel)s, current_schema())
        ),
        untaken AS (DELETE FROM trioflow_signals WHERE run = ANY(%(numbers)s))
    DELETE FROM trioflow_runs WHERE number = ANY(%(numbers)s)
"""
_DELETE_RUNS = """
    WITH left_queue AS (
            DELETE FROM trioflow_service WHERE run = ANY(%(numbers)s)
            RETURNING pg_notify(%(channel)s, current_schema())
        ),
        untaken AS (DELETE FROM trioflow_signals WHERE run = ANY(%(numbers)s))
    DELETE FROM trioflow_runs WHERE number = ANY(%(numbers)s)
"""


class Tried(msgspec.Struct):
    """What an operation knows of its previous attempts, after it has lost its connection."""

    again: bool = False
    """Whether there was an attempt whose outcome is unknown."""
    epoch: int | None = None
    """The epoch that it drew."""
    number: int | None = None
    """The number of the row that it was to add or delete."""


class Run(msgspec.Struct, frozen=True):
    """The row of a run, as far as a writer needs it."""

    number: int
    run_id: bytes
    epoch: int
    last_step: int | None
    parent: int | None
    whole: bool


def claim(db: Connection, run_id: str, parent: tuple[str, int] | None, *, tried: Tried) -> int:
    """Claim the run, and those inside it, for the caller, and return the new epoch."""
    with db.transaction():
        holder = None if parent is None else _held(db, *parent)
        run = find_locked(db, run_id)
        if tried.again and tried.epoch is not None and run is not None and run.epoch >= tried.epoch:
            # The previous attempt has claimed it, or another process has since, and keeps it.
            return tried.epoch
        while run is None:
            tried.epoch = _next_epoch(db)
            if _add_run(db, run_id, tried.epoch, holder) is not None:
                return tried.epoch
            run = find_locked(db, run_id)
        _check_whole(run, run_id)
        if run.parent != holder:
            raise foreign_child(run_id, _name_of(db, run.parent))
        # Processes that hold runs inside this one hold them for its former holder.
        take_inside(db, [run.number])
        tried.epoch = _next_epoch(db)
        db.execute(_TAKE_RUN, {"epoch": tried.epoch, "now": time.time(), "number": run.number})
    return tried.epoch


def _add_run(db: Connection, run_id: str, epoch: int, parent: int | None = None) -> int | None:
    """Create a run, and return its number; None if one of this id exists."""
    values = {**_names(run_id), "epoch": epoch, "now": time.time(), "parent": parent}
    added = ask(db, _ADD_RUN, values)
    return int(added[0][0]) if added else None


def take_inside(db: Connection, numbers: Sequence[int]) -> None:
    """Give the runs inside these, which are locked, epochs that no process knows."""
    inside = _lock_inside(db, numbers)
    if inside:
        db.execute(_TAKE_INSIDE, (inside,))


def _lock_inside(db: Connection, numbers: Sequence[int]) -> list[int]:
    """Lock the runs inside these, which are locked, and return their numbers.

    A run can be created inside another only by a session that has locked the other. So once two reads find the
    same runs, they are complete.
    """
    locked: list[int] = []
    while (inside := [each for (each,) in ask(db, _SELECT_INSIDE, (list(numbers),))]) != locked:
        db.execute(_LOCK_INSIDE, (inside,))
        locked = inside
    return locked


def _next_epoch(db: Connection) -> int:
    """Draw an epoch."""
    # A sequence never reuses a number, even if the transaction is rolled back.
    return int(ask(db, "SELECT nextval('trioflow_epoch')")[0][0])


def save(
    db: Connection, many: Sequence[tuple[Checkpoint, int]], tried: Sequence[Tried]
) -> list[CheckpointError | None]:
    """Save checkpoints of different runs; return for each an error or None."""
    steps = [{**step_values(checkpoint), "epoch": epoch} for checkpoint, epoch in many]
    left = steps
    kept: set[bytes] = set()
    doubtful = [step for step, each in zip(steps, tried, strict=True) if each.again]
    if doubtful:
        kept = {name for (name,) in ask(db, _IS_SAVED, columns(doubtful))}
        left = [step for step in steps if step["name"] not in kept]
    if left:
        kept |= {name for (name,) in ask(db, _SAVE, {**columns(left), "now": time.time()})}
    return [
        None if step["name"] in kept else refusal(db, checkpoint.run_id, epoch)
        for step, (checkpoint, epoch) in zip(steps, many, strict=True)
    ]


def step_values(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the values of a checkpoint by column, and the name of its run."""
    info = [getattr(checkpoint, name) for name in INFO]
    info[6] = float(checkpoint.created_at)
    rest = [getattr(checkpoint, name) for name in REST]
    fields = zip(INFO + REST, (*info, *rest), strict=True)
    run_id = checkpoint.run_id
    info_seal, seal = seals_of_step(run_id, info, rest, checkpoint.state)
    return {
        "name": lookup_name(run_id),
        **{name: _encode(value) if name in _TEXTS else value for name, value in fields},
        "info_seal": info_seal,
        "seal": seal,
        "state": checkpoint.state,
    }


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return rows as one array per column."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def load(
    db: Connection, many: Sequence[tuple[str, int | None]], tried: Sequence[Tried]
) -> list[Checkpoint | CheckpointError]:
    """Return for each run and step the checkpoint, the latest if no step is given; or an error."""
    del tried
    names = [lookup_name(run_id) for run_id, _ in many]
    # A number that the column cannot hold is in no row; neither is -1, which can be sent.
    steps = [-1 if step is not None and abs(step) > _LARGEST else step for _, step in many]
    found = {place: row for place, *row in ask(db, _LOAD, {"names": names, "steps": steps})}
    return [_loaded(run_id, step, found.get(place)) for place, (run_id, step) in enumerate(many, 1)]


def _loaded(run_id: str, step: int | None, row: Sequence[Any] | None) -> Checkpoint | CheckpointError:
    if row is None:
        return not_found(run_id, step)
    last_step, whole, *saved = row
    try:
        _check_entry(run_id, whole=whole)
        if saved[0] is None:
            if last_step is not None and step in {None, last_step}:
                raise damaged(run_id, f"its last step, {last_step}, is missing")
            return not_found(run_id, step)
        fields = _whole_step(run_id, saved)
    except CheckpointCorruptError as error:
        return error
    return Checkpoint(run_id=run_id, state=saved[-1], **fields)


def last_step(run_id: str, row: Sequence[Any]) -> Checkpoint | None:
    """Return the last step of a run from its row; None if there is none, or it is damaged (`load` says so)."""
    try:
        return None if row[-1] is None else Checkpoint(run_id=run_id, state=row[-1], **_whole_step(run_id, row))
    except CheckpointCorruptError:
        return None


def _whole_step(run_id: str, row: Sequence[Any]) -> dict[str, Any]:
    """Return the verified fields of a step, without its state."""
    *values, seal, state = row
    fields = _decoded(run_id, INFO + REST, values)
    found = list(fields.values())
    if seal != seal_step(run_id, found[: len(INFO)], found[len(INFO) :], state):
        raise damaged(run_id, f"step {fields['step']} is not what was saved")
    return fields


def history(db: Connection, run_id: str) -> list[CheckpointInfo]:
    """Return the stored steps, oldest first."""
    steps: list[CheckpointInfo] = []
    last_step = None
    for last, whole, seal, *info in ask(db, _HISTORY, (lookup_name(run_id),)):
        _check_entry(run_id, whole=whole)
        last_step = last
        if seal is None:
            break
        fields = _whole_info(run_id, seal, info)
        steps.append(
            CheckpointInfo(run_id=run_id, **{name: fields[name] for name in CheckpointInfo.__struct_fields__[1:]})
        )
    if last_step not in {None, *(step.step for step in steps)}:
        raise damaged(run_id, f"its last step, {last_step}, is missing")
    return steps


def _whole_info(run_id: str, seal: bytes, info: Sequence[Any]) -> dict[str, Any]:
    fields = _decoded(run_id, INFO, info)
    if seal != seal_info(run_id, list(fields.values())):
        raise damaged(run_id, f"step {fields['step']} is not what was saved")
    return fields


def list_runs(db: Connection, after: str | None, limit: int | None) -> list[RunInfo]:
    """Return the stored runs."""
    with db.transaction():
        # One snapshot for all queries.
        db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        start = 0
        if after is not None:
            found = ask(db, "SELECT number FROM trioflow_runs WHERE name = %b", (lookup_name(after),))
            if not found:
                raise not_found(after, None)
            start = found[0][0]
        rows = ask(db, _SELECT_PAGE, (start, limit))
        last = _last_steps(db, [(row[0], row[6]) for row in rows if row[6] is not None])
    return [_look(row, last.get(row[0])) for row in rows]


def _last_steps(db: Connection, wanted: Sequence[tuple[int, int]]) -> dict[int, Sequence[Any]]:
    """Return the rows of these steps by run, without steps that cannot be read."""
    if not wanted:
        return {}
    try:
        with db.transaction():
            runs, steps = zip(*wanted, strict=True)
            return {run: row for run, *row in ask(db, _SELECT_LAST, (LOOKED_AT, list(runs), list(steps)))}
    except psycopg.Error as error:
        if error.sqlstate not in DAMAGE:
            raise
    if len(wanted) == 1:
        return {}
    # One of them is damaged on disk, which must not hide the others.
    middle = len(wanted) // 2
    return _last_steps(db, wanted[:middle]) | _last_steps(db, wanted[middle:])


def _look(row: Sequence[Any], last: Sequence[Any] | None) -> RunInfo:
    """Return what is known about a run; a damaged run is listed too."""
    _, name, items, created_at, updated_at, parent, last_step, whole, status, reason = row
    run_id = shown(name)
    known: dict[str, Any] = {"graph": "", "kind": "", "status": "running", "step": 0, "forked_from": None}
    try:
        _check_entry(run_id, whole=whole)
        if last_step is not None:
            known |= _last_of(run_id, last_step, last)
        if status is not None:
            known |= {"status": status, "reason": None if reason is None else shown(reason)}
    except CheckpointCorruptError:
        # Any damaged row makes it a damaged run, and nothing more can be said about it.
        known["status"] = "corrupt"
    return RunInfo(
        run_id=run_id,
        items=items,
        created_at=created_at,
        updated_at=updated_at,
        parent=None if parent is None else shown(parent),
        **known,
    )


def _last_of(run_id: str, last_step: int, row: Sequence[Any] | None) -> dict[str, Any]:
    if row is None:
        raise damaged(run_id, f"its last step, {last_step}, is missing")
    seal, *step = row
    fields = _whole_info(run_id, seal, step[: len(INFO)])
    if step[-1] is not None:
        _whole_step(run_id, step)
    return {name: fields[name] for name in ("graph", "kind", "status", "step", "forked_from")}


def delete(db: Connection, run_id: str, epoch: int | None, *, tried: Tried) -> None:
    """Delete the run and those inside it; if an epoch is given, only if it is the run's latest."""
    with db.transaction():
        run = find_locked(db, run_id)
        if run is None and epoch is None:
            run = _find_damaged(db, run_id)
        if run is None or epoch not in {None, run.epoch}:
            return
        if tried.again and tried.number not in {None, run.number}:
            # The run is deleted already, and another one of the same name has been started.
            return
        tried.number = run.number
        gone = {"numbers": [run.number, *_lock_inside(db, [run.number])], "channel": CHANNEL}
        try:
            with db.transaction():
                db.execute(_DELETE, gone)
        except psycopg.Error as error:
            if error.sqlstate not in DAMAGE:
                raise
            # Damaged rows cannot be deleted. Without their run, they belong to none.
            db.execute(_DELETE_RUNS, gone)


def _find_damaged(db: Connection, run_id: str) -> Run | None:
    """Return the damaged run that is listed under this id: its name may no longer be valid text."""
    for name, kept in ask(db, _SELECT_DAMAGED):
        if shown(kept) == run_id:
            return Run(*ask(db, _LOCK_RUN, (name,))[0])
    return None


def save_items(
    db: Connection, run_id: str, epoch: int, batch: Sequence[tuple[str, bytes]], *, tried: Tried
) -> None:
    """Save the items."""
    items = dict(batch)
    keys = [lookup_name(key) for key in items]
    names = zip(map(str.encode, items), keys, strict=True)
    values: dict[str, Any] = {
        **_names(run_id),
        "epoch": epoch,
        "now": time.time(),
        "keys": keys,
        "long_keys": [b"" if name == short else name for name, short in names],
        "seals": [seal_item(run_id, key, value) for key, value in items.items()],
        "values": list(items.values()),
    }
    # A batch is stored as a whole, or not at all.
    if tried.again and items and ask(db, _COUNT_SAVED, values) == [(len(items),)]:
        return
    if not ask(db, _SAVE_ITEMS, values):
        raise refusal(db, run_id, epoch)


def load_items(db: Connection, run_id: str) -> dict[str, bytes]:
    """Return the items by key."""
    found: dict[str, bytes] = {}
    count = 0
    for items, whole, short, long, seal, value in ask(db, _LOAD_ITEMS, (lookup_name(run_id),)):
        _check_entry(run_id, whole=whole)
        count = items
        if short is None:
            break
        key = shown(short if long is None else long)
        if seal != seal_item(run_id, key, value):
            raise damaged(run_id, f"item {quote(key)} is not what was saved")
        found[key] = value
    if len(found) != count:
        raise damaged(run_id, f"{count - len(found)} of its {count} items are missing")
    return found


def vacuum(db: Connection) -> None:
    """Return the space of deleted rows to the disk."""
    tables = "trioflow_runs, trioflow_steps, trioflow_items, trioflow_service, trioflow_signals"
    db.execute(SQL("VACUUM (FULL, ANALYZE) ") + SQL(tables))


def ask(db: Connection, query: LiteralString, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
    """Return the rows of `query`: in binary, so that bytes need no escaping, and prepared, to be planned once."""
    return db.execute(SQL(query), values, prepare=True, binary=True).fetchall()


def find(db: Connection, run_id: str) -> Run | None:
    """Return the row of the run, if it exists."""
    rows = ask(db, _SELECT_RUN, (lookup_name(run_id),))
    return Run(*rows[0]) if rows else None


def find_locked(db: Connection, run_id: str) -> Run | None:
    """Lock the row of the run, if it exists, and return it."""
    rows = ask(db, _LOCK_RUN, (lookup_name(run_id),))
    return Run(*rows[0]) if rows else None


def _held(db: Connection, run_id: str, epoch: int) -> int:
    """Lock a run that the caller holds, and return its number."""
    run = find_locked(db, run_id)
    if run is not None:
        _check_whole(run, run_id)
    if run is None or run.epoch != epoch:
        raise conflict(run_id, epoch, None if run is None else run.epoch)
    return run.number


def refusal(db: Connection, run_id: str, epoch: int) -> CheckpointError:
    """Return the error for a write that found no intact run with this epoch."""
    run = find(db, run_id)
    if run is not None and not run.whole:
        return damaged(run_id, "its entry is not what was saved")
    return conflict(run_id, epoch, None if run is None else run.epoch)


def _check_whole(run: Run, run_id: str) -> None:
    _check_entry(run_id, whole=run.whole)


def _check_entry(run_id: str, *, whole: bool) -> None:
    if not whole:
        raise damaged(run_id, "its entry is not what was saved")


def _name_of(db: Connection, number: int | None) -> str | None:
    rows = ask(db, "SELECT run_id FROM trioflow_runs WHERE number = %s", (number,))
    return shown(rows[0][0]) if rows else None


def _names(run_id: str) -> dict[str, bytes]:
    return {"name": lookup_name(run_id), "run_id": run_id.encode()}


def lookup_name(text: str) -> bytes:
    """Return the name by which a run or item is looked up: its own, or a digest if that is long."""
    name = text.encode()
    return name if len(name) <= LONGEST_NAME else b"\xff" + hashlib.sha256(name).digest()


def _encode(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _decoded(run_id: str, names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Return the fields of a step by name, with text decoded."""
    try:
        return {
            name: value.decode() if name in _TEXTS and value is not None else value
            for name, value in zip(names, values, strict=True)
        }
    except UnicodeDecodeError as error:
        raise damaged(run_id, f"step {values[0]} is not what was saved") from error


def shown(name: bytes) -> str:
    """Return the text of a name, even if it is damaged."""
    return name.decode(errors="backslashreplace")
