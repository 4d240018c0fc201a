"""The transactions of the SQLite store: each function is one, in a worker thread.

Everything read is verified: every row has a seal (`_seals`), and a run's own row has its last step and the number
of its items, so a row that was changed, moved or lost is detected.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any, cast

import apsw

from trioflow._text import quote
from trioflow.checkpoint._schema import immediately, reading
from trioflow.checkpoint._seals import (
    INFO,
    REST,
    RunRow,
    damaged,
    seal_info,
    seal_item,
    seal_run,
    seal_step,
    seals_of_step,
)
from trioflow.checkpoint.memory import conflict, foreign_child, not_found
from trioflow.checkpoint.protocol import Checkpoint, CheckpointInfo, RunInfo, kind_of_form_1
from trioflow.errors import CheckpointCorruptError

__all__ = (
    "claim",
    "claimed",
    "delete",
    "find",
    "history",
    "last_step",
    "list_runs",
    "load",
    "load_items",
    "new_run",
    "put_step",
    "save",
    "save_items",
    "take",
    "vacuum",
)

PIECE = 1 << 20
"""Bytes from which a state is written and read as a blob, separately from its row."""

LOOKED_AT = 1 << 16
"""Bytes up to which a state is verified when runs are listed, and returned with a leased run."""

# Written out: the safety of SQL that is built from parts cannot be checked by reading.
_SELECT_RUN = (
    "SELECT number, run_id, epoch, last_step, items, created_at, updated_at, parent, seal FROM runs"
    " WHERE run_id = ?"
)
_NEW_RUN = (
    "INSERT INTO runs(run_id, epoch, last_step, items, created_at, updated_at, parent, seal)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
# Changes no column that is in an index: a step then writes fewer pages, and a commit syncs what it writes.
_PUT_RUN = "UPDATE runs SET epoch = ?, last_step = ?, items = ?, updated_at = ?, seal = ? WHERE number = ?"
_SELECT_PAGE = (
    "SELECT number, run_id, epoch, last_step, items, created_at, updated_at, parent, seal FROM runs"
    " WHERE number > ? ORDER BY number"
)
# From the index alone: the neighbours of a run that it does not have.
_SELECT_NEIGHBOURS = (
    "SELECT * FROM (SELECT run_id, number FROM runs WHERE run_id < ?1 ORDER BY run_id DESC LIMIT 1)"
    " UNION ALL SELECT * FROM (SELECT run_id, number FROM runs WHERE run_id > ?1 ORDER BY run_id LIMIT 1)"
)
_SELECT_EPOCH = "SELECT number, epoch FROM runs WHERE run_id = ?"
_SELECT_EPOCH_OF_DAMAGED = "SELECT number, epoch FROM runs WHERE CAST(run_id AS TEXT) = ?"
_SELECT_INSIDE = (
    "WITH RECURSIVE inside(number) AS (SELECT number FROM runs WHERE parent = ?"
    " UNION SELECT runs.number FROM runs JOIN inside ON runs.parent = inside.number)"
    " SELECT number, run_id FROM runs JOIN inside USING (number)"
)
_SELECT_STEP = (
    "SELECT info_seal, seal, step, graph, node, next_node, iterations, status, created_at, kind, forked_from,"
    " version, digest, pause, iif(length(state) > ?, NULL, state), rowid"
    " FROM checkpoints WHERE run = ? AND step = ?"
)
_SELECT_INFOS = (
    "SELECT info_seal, step, graph, node, next_node, iterations, status, created_at, kind, forked_from"
    " FROM checkpoints WHERE run = ? ORDER BY step"
)
_SELECT_SUBMITTED = "SELECT status, reason FROM service_runs WHERE run = ?"
_PUT_STEP = (
    "REPLACE INTO checkpoints(run, info_seal, seal, step, graph, node, next_node, iterations, status, created_at,"
    " kind, forked_from, version, digest, pause, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def claim(db: apsw.Connection, run_id: str, parent: tuple[str, int] | None) -> int:
    """Claim the run, and those inside it, for the caller, and return the new epoch."""
    with immediately(db):
        holder = None if parent is None else claimed(db, *parent).number
        run = find(db, run_id)
        if run is None:
            return new_run(db, run_id, holder)
        if run.parent != holder:
            raise foreign_child(run_id, _name_of(db, run.parent))
        return take(db, run_id).epoch


# Operations inside the caller's transaction.


def new_run(db: apsw.Connection, run_id: str, holder: int | None = None) -> int:
    """Create a run, and return its first epoch."""
    now, epoch = time.time(), _next_epoch(db)
    run = RunRow(None, run_id, epoch, None, 0, now, now, holder)
    db.execute(_NEW_RUN, (*run[1:], seal_run(run)))
    return epoch


def take(db: apsw.Connection, run_id: str) -> RunRow:
    """Give an existing run, and those inside it, a new epoch, and return its row."""
    run: RunRow = find(db, run_id)
    # Work inside the run was done for its previous holder.
    for number, inside in list(db.execute(_SELECT_INSIDE, (run.number,))):
        _take_away(db, number, inside)
    taken = run._replace(epoch=_next_epoch(db), updated_at=time.time())
    _put_run(db, taken)
    return taken


def _take_away(db: apsw.Connection, number: int, run_id: str) -> None:
    """Give the run an epoch that no holder has."""
    epoch = _next_epoch(db)
    try:
        run = find(db, run_id)
    except CheckpointCorruptError:
        # It stays damaged, and its previous holder still loses it.
        db.execute("UPDATE runs SET epoch = ? WHERE number = ?", (epoch, number))
    else:
        _put_run(db, run._replace(epoch=epoch))


def _next_epoch(db: apsw.Connection) -> int:
    return int(db.execute("UPDATE epochs SET last = last + 1 RETURNING last").get)


def save(db: apsw.Connection, checkpoint: Checkpoint, epoch: int) -> None:
    """Save the checkpoint."""
    with immediately(db):
        put_step(db, claimed(db, checkpoint.run_id, epoch), checkpoint)


def put_step(db: apsw.Connection, run: RunRow, checkpoint: Checkpoint) -> None:
    """Save the checkpoint of a run that the caller holds."""
    info = [getattr(checkpoint, name) for name in INFO]
    info[6] = float(checkpoint.created_at)
    rest = [getattr(checkpoint, name) for name in REST]
    state = checkpoint.state
    seals = seals_of_step(checkpoint.run_id, info, rest, state)
    long = len(state) > PIECE
    db.execute(_PUT_STEP, (run.number, *seals, *info, *rest, apsw.zeroblob(len(state)) if long else state))
    if long:
        _write_state(db, state)
    _put_run(db, run._replace(last_step=checkpoint.step, updated_at=time.time()))


def load(db: apsw.Connection, run_id: str, step: int | None) -> Checkpoint:
    """Return the checkpoint of a step, or the latest."""
    with reading(db):
        run = find(db, run_id)
        wanted = run.last_step if step is None and run is not None else step
        if run is None or wanted is None:
            raise not_found(run_id, step)
        row = db.execute(_SELECT_STEP, (PIECE, run.number, wanted)).fetchone()
        if row is None:
            if wanted == run.last_step:
                raise damaged(run_id, f"its last step, {wanted}, is missing")
            raise not_found(run_id, step)
        _, seal, *values, state, place = cast("list[Any]", row)
        if state is None:
            state = _read_state(db, place)
    return _checkpoint_of(run_id, seal, values, state)


def last_step(db: apsw.Connection, run: RunRow) -> Checkpoint | None:
    """Return the last step of a run; None where there is none, or it is large or damaged, which `load` finds."""
    try:
        row = db.execute(_SELECT_STEP, (LOOKED_AT, run.number, run.last_step)).fetchone()
        if row is None:
            return None
        _, seal, *values, state, _ = cast("list[Any]", row)
        return None if state is None else _checkpoint_of(run.run_id, seal, values, state)
    except (CheckpointCorruptError, apsw.CorruptError):
        return None


def _checkpoint_of(run_id: str, seal: bytes, values: Sequence[Any], state: bytes) -> Checkpoint:
    info, rest = values[: len(INFO)], values[len(INFO) :]
    if seal != seal_step(run_id, info, rest, state):
        raise damaged(run_id, f"step {info[0]} is not what was saved")
    fields = dict(zip(INFO + REST, values, strict=True))
    if fields["kind"] is None:
        fields["kind"] = kind_of_form_1(fields["graph"])
    return Checkpoint(run_id=run_id, state=state, **fields)


# SQLite copies a bound value while it holds the GIL, and blob I/O without it.


def _write_state(db: apsw.Connection, state: bytes) -> None:
    with db.blob_open("main", "checkpoints", "state", db.last_insert_rowid(), writeable=True) as blob:
        blob.write(state)


def _read_state(db: apsw.Connection, place: int) -> bytes:
    blob = db.blob_open("main", "checkpoints", "state", place, writeable=False)
    try:
        return blob.read()
    finally:
        blob.close()


def history(db: apsw.Connection, run_id: str) -> list[CheckpointInfo]:
    """Return the stored steps, oldest first."""
    with reading(db):
        run = find(db, run_id)
        if run is None:
            return []
        rows = db.execute(_SELECT_INFOS, (run.number,)).fetchall()
    steps = []
    for seal, *info in cast("list[Any]", rows):
        if seal != seal_info(run_id, info):
            raise damaged(run_id, f"step {info[0]} is not what was saved")
        fields: dict[str, Any] = dict(zip(INFO, info, strict=True), run_id=run_id)
        steps.append(CheckpointInfo(**{name: fields[name] for name in CheckpointInfo.__struct_fields__}))
    if run.last_step not in {None, *(step.step for step in steps)}:
        raise damaged(run_id, f"its last step, {run.last_step}, is missing")
    return steps


def list_runs(db: apsw.Connection, after: str | None, limit: int | None) -> list[RunInfo]:
    """Return the stored runs."""
    with reading(db):
        start = 0
        if after is not None:
            start = db.execute("SELECT number FROM runs WHERE run_id = ?", (after,)).get
            if start is None:
                raise not_found(after, None)
        found: list[RunInfo] = []
        for row in cast("Iterable[Any]", db.execute(_SELECT_PAGE, (start,))):
            run = RunRow(*row[:-1])
            whole = row[-1] == seal_run(run)
            # By its row, the run was only claimed, and nothing is stored.
            if not whole or run.last_step is not None or run.items:
                found.append(_look(db, run, whole=whole))
                if len(found) == limit:
                    break
    return found


def _look(db: apsw.Connection, run: RunRow, *, whole: bool) -> RunInfo:
    """Return the info of a run, as `corrupt` if it is damaged."""
    known: dict[str, Any] = {"graph": "", "kind": "", "status": "corrupt", "step": 0, "forked_from": None}
    parent = _name_of(db, run.parent)
    try:
        if whole:
            known = _last_of(db, run)
    except (CheckpointCorruptError, apsw.CorruptError):
        # Any damage in its rows makes it a damaged run; nothing else is listed of it.
        pass
    name: Any = run.run_id
    return RunInfo(
        run_id=name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name),
        items=_number(run.items),
        created_at=_number(run.created_at),
        updated_at=_number(run.updated_at),
        parent=parent,
        **known,
    )


def _last_of(db: apsw.Connection, run: RunRow) -> dict[str, Any]:
    if run.last_step is None:
        return {"graph": "", "kind": "", "status": "running", "step": 0, "forked_from": None}
    row = db.execute(_SELECT_STEP, (LOOKED_AT, run.number, run.last_step)).fetchone()
    if row is None:
        raise damaged(run.run_id, f"its last step, {run.last_step}, is missing")
    info_seal, seal, *values, state, _ = cast("list[Any]", row)
    info, rest = values[: len(INFO)], values[len(INFO) :]
    whole = info_seal == seal_info(run.run_id, info)
    if not whole or (state is not None and seal != seal_step(run.run_id, info, rest, state)):
        raise damaged(run.run_id, f"step {run.last_step} is not what was saved")
    fields = dict(zip(INFO, info, strict=True))
    kind = kind_of_form_1(fields["graph"]) if fields["kind"] is None else fields["kind"]
    known = {"kind": kind, **{name: fields[name] for name in ("graph", "status", "step", "forked_from")}}
    submitted: Any = db.execute(_SELECT_SUBMITTED, (run.number,)).fetchone()
    return known if submitted is None else {**known, "status": submitted[0], "reason": submitted[1]}


def _number(value: Any) -> Any:
    """Return the number in a row that may be damaged."""
    return value if isinstance(value, int | float) else 0


def delete(db: apsw.Connection, run_id: str, epoch: int | None) -> None:
    """Delete the run and those inside it; if `epoch` is given, only if it is the latest."""
    with immediately(db):
        rows = db.execute(_SELECT_EPOCH, (run_id,)).fetchall()
        if not rows and epoch is None:
            # The id of a damaged run may no longer be text.
            rows = db.execute(_SELECT_EPOCH_OF_DAMAGED, (run_id,)).fetchall()
        for number, latest in cast("list[Any]", rows):
            if epoch in {None, latest}:
                inside = db.execute(_SELECT_INSIDE, (number,)).fetchall()
                for each in (number, *(row[0] for row in inside)):
                    db.execute("DELETE FROM checkpoints WHERE run = ?", (each,))
                    db.execute("DELETE FROM items WHERE run = ?", (each,))
                    db.execute("DELETE FROM service_runs WHERE run = ?", (each,))
                    db.execute("DELETE FROM signals WHERE run = ?", (each,))
                    db.execute("DELETE FROM runs WHERE number = ?", (each,))


def save_items(
    db: apsw.Connection, run_id: str, epoch: int, batch: Sequence[tuple[str, bytes]]
) -> None:
    """Save the items."""
    sealed = [(seal_item(run_id, key, value), value, key) for key, value in dict(batch).items()]
    with immediately(db):
        run = claimed(db, run_id, epoch)
        rows = [(seal, value, run.number, key) for seal, value, key in sealed]
        before = db.total_changes()
        db.executemany("INSERT OR IGNORE INTO items(seal, value, run, key) VALUES (?, ?, ?, ?)", rows)
        added = db.total_changes() - before
        if added < len(rows):
            db.executemany("UPDATE items SET seal = ?, value = ? WHERE run = ? AND key = ?", rows)
        _put_run(db, run._replace(items=run.items + added, updated_at=time.time()))


def load_items(db: apsw.Connection, run_id: str) -> dict[str, bytes]:
    """Return the items by key."""
    found: dict[str, bytes] = {}
    with reading(db):
        run = find(db, run_id)
        number = None if run is None else run.number
        for key, seal, value in db.execute("SELECT key, seal, value FROM items WHERE run = ?", (number,)):
            whole = isinstance(key, str) and isinstance(value, bytes)
            if not whole or seal != seal_item(run_id, key, value):
                raise damaged(run_id, f"item {quote(key)} is not what was saved")
            found[key] = value
    if run is not None and len(found) != run.items:
        raise damaged(run_id, f"{run.items - len(found)} of its {run.items} items are missing")
    return found


def vacuum(db: apsw.Connection) -> None:
    """Return the space of deleted runs to the disk."""
    db.execute("VACUUM")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def find(db: apsw.Connection, run_id: str) -> Any:
    """Return the row of the run, or None.

    Raises:
        CheckpointCorruptError: it is damaged.
    """
    row = db.execute(_SELECT_RUN, (run_id,)).fetchone()
    if row is None:
        _check_index(db, run_id)
        return None
    run = RunRow(*cast("Any", row[:-1]))
    if row[-1] != seal_run(run):
        raise damaged(run_id, "its entry is not what was saved")
    return run


def _check_index(db: apsw.Connection, run_id: str) -> None:
    """Raise if the index of the runs is damaged where the run is missing.

    Otherwise the caller would start the run again. Reading all runs would be certain, but too slow for each start;
    an index that is damaged at the run's place does not match the neighbouring runs.
    """
    neighbours = list(db.execute(_SELECT_NEIGHBOURS, (run_id,)))
    fits = all(name is not None and _name_of(db, number) == name for name, number in neighbours)
    if not fits or (not neighbours and db.execute("SELECT 1 FROM runs NOT INDEXED LIMIT 1").get is not None):
        raise damaged(run_id, "the index of the runs is not what was saved")


def claimed(db: apsw.Connection, run_id: str, epoch: int) -> RunRow:
    """Return the row of the run, if this is its latest epoch."""
    run: RunRow | None = find(db, run_id)
    if run is None or run.epoch != epoch:
        raise conflict(run_id, epoch, None if run is None else run.epoch)
    return run


def _name_of(db: apsw.Connection, number: int | None) -> str | None:
    name = None if number is None else db.execute("SELECT run_id FROM runs WHERE number = ?", (number,)).get
    return name if isinstance(name, str) else None


def _put_run(db: apsw.Connection, run: RunRow) -> None:
    changed = run.epoch, run.last_step, run.items, run.updated_at
    db.execute(_PUT_RUN, (*changed, seal_run(run), run.number))
