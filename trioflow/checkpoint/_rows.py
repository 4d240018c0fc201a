"""What the SQLite store does with its tables: each function is one transaction, in a worker thread.

Every row is sealed by a digest over all that is in it and the run it belongs to, and a run's own row knows its
last step and the number of its items: so a row that was changed, moved or lost is seen when it is read.
"""

import hashlib
import time
from collections.abc import Sequence
from typing import Any, cast

import apsw

from trioflow._text import quote
from trioflow.checkpoint._schema import immediately, reading
from trioflow.checkpoint.memory import conflict, not_found
from trioflow.checkpoint.protocol import Checkpoint, CheckpointInfo, RunInfo
from trioflow.errors import CheckpointCorruptError

__all__ = ("claim", "delete", "history", "list_runs", "load", "load_items", "save", "save_items")

PIECE = 1 << 20
"""Bytes of a state from which it is written and read apart from its row."""

_INFO = ("step", "graph", "node", "next_node", "iterations", "status", "created_at")
_REST = ("version", "digest", "pause")
# Written out: SQL that is put together cannot be seen to be safe.
_SELECT_RUN = (
    "SELECT number, run_id, epoch, last_step, items, created_at, updated_at, seal FROM runs WHERE run_id = ?"
)
_PUT_RUN = (
    "REPLACE INTO runs(number, run_id, epoch, last_step, items, created_at, updated_at, seal)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_SELECT_STEP = (
    "SELECT seal, step, graph, node, next_node, iterations, status, created_at, version, digest, pause,"
    " iif(length(state) > 1048576, NULL, state), rowid FROM checkpoints WHERE run = ? AND step = ?"
)
_SELECT_INFOS = (
    "SELECT info_seal, step, graph, node, next_node, iterations, status, created_at"
    " FROM checkpoints WHERE run = ? ORDER BY step"
)
_SELECT_INFO = (
    "SELECT info_seal, step, graph, node, next_node, iterations, status, created_at"
    " FROM checkpoints WHERE run = ? AND step = ?"
)
_PUT_STEP = (
    "REPLACE INTO checkpoints(run, info_seal, seal, step, graph, node, next_node, iterations, status, created_at,"
    " version, digest, pause, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def claim(db: apsw.Connection, run_id: str) -> int:
    """Give the run to the caller, and return the new epoch."""
    now = time.time()
    with immediately(db):
        db.execute("UPDATE epochs SET last = last + 1")
        epoch = int(db.execute("SELECT last FROM epochs").get)
        run = _find(db, run_id)
        if run is None:
            _put_run(db, None, run_id, epoch, None, 0, now, now)
        else:
            _put_run(db, run[0], run_id, epoch, *run[3:6], now)
    return epoch


def save(db: apsw.Connection, checkpoint: Checkpoint, epoch: int) -> None:
    """Keep the checkpoint."""
    with immediately(db):
        run = _claimed(db, checkpoint.run_id, epoch)
        info = [getattr(checkpoint, name) for name in _INFO]
        info[-1] = float(checkpoint.created_at)
        rest = [getattr(checkpoint, name) for name in _REST]
        state = checkpoint.state
        seals = _seal(checkpoint.run_id, *info), _seal(checkpoint.run_id, *info, *rest, state)
        long = len(state) > PIECE
        db.execute(_PUT_STEP, (run[0], *seals, *info, *rest, apsw.zeroblob(len(state)) if long else state))
        if long:
            _write_state(db, state)
        _put_run(db, run[0], run[1], epoch, checkpoint.step, *run[4:6], time.time())


def load(db: apsw.Connection, run_id: str, step: int | None) -> Checkpoint:
    """Return the checkpoint of a step, or the latest."""
    with reading(db):
        run = _find(db, run_id)
        if run is None:
            known = [row[0] for row in db.execute("SELECT run_id FROM runs")]
            raise not_found(run_id, None, known)
        wanted = run[3] if step is None else step
        row = db.execute(_SELECT_STEP, (run[0], wanted)).fetchone()
        if row is None:
            if wanted is not None and wanted == run[3]:
                raise _damaged(run_id, f"its last step, {wanted}, is missing")
            steps = [row[0] for row in db.execute("SELECT step FROM checkpoints WHERE run = ?", (run[0],))]
            raise not_found(run_id, step, steps)
        seal, *values, state, place = cast("list[Any]", row)
        if state is None:
            state = _read_state(db, place)
    if seal != _seal(run_id, *values, state):
        raise _damaged(run_id, f"step {wanted} is not what was saved")
    return Checkpoint(run_id=run_id, state=state, **dict(zip(_INFO + _REST, values, strict=True)))


# SQLite copies a bound value while no other thread can run, and what goes through a blob while they can.


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
    """Return the steps that are kept, oldest first."""
    with reading(db):
        run = _find(db, run_id)
        if run is None:
            return []
        steps = [_info(run_id, row) for row in db.execute(_SELECT_INFOS, (run[0],))]
    if run[3] not in {None, *(step["step"] for step in steps)}:
        raise _damaged(run_id, f"its last step, {run[3]}, is missing")
    return [CheckpointInfo(**{name: step[name] for name in CheckpointInfo.__struct_fields__}) for step in steps]


def list_runs(db: apsw.Connection) -> list[RunInfo]:
    """Return the runs that something is kept of."""
    found = []
    with reading(db):
        rows = db.execute("SELECT run_id FROM runs WHERE last_step IS NOT NULL OR items > 0 ORDER BY number")
        for (run_id,) in list(rows):
            number, _, _, last, items, created_at, updated_at, _ = _find(db, run_id)
            step: dict[str, Any] = {"graph": "", "status": "running", "step": 0}
            if last is not None:
                row = db.execute(_SELECT_INFO, (number, last)).fetchone()
                if row is None:
                    raise _damaged(run_id, f"its last step, {last}, is missing")
                step = _info(run_id, row)
            named = {name: step[name] for name in ("graph", "status", "step")}
            found.append(
                RunInfo(run_id=run_id, items=items, created_at=created_at, updated_at=updated_at, **named)
            )
    return found


def _info(run_id: str, row: Any) -> dict[str, Any]:
    seal, *values = row
    if seal != _seal(run_id, *values):
        raise _damaged(run_id, f"step {values[0]} is not what was saved")
    return {"run_id": run_id, **dict(zip(_INFO, values, strict=True))}


def delete(db: apsw.Connection, run_id: str) -> None:
    """Forget the run."""
    with immediately(db):
        number = db.execute("SELECT number FROM runs WHERE run_id = ?", (run_id,)).get
        db.execute("DELETE FROM checkpoints WHERE run = ?", (number,))
        db.execute("DELETE FROM items WHERE run = ?", (number,))
        db.execute("DELETE FROM runs WHERE number = ?", (number,))


def save_items(
    db: apsw.Connection, run_id: str, epoch: int, batch: Sequence[tuple[str, bytes]]
) -> None:
    """Keep the items."""
    with immediately(db):
        run = _claimed(db, run_id, epoch)
        number = run[0]
        unique = dict(batch)
        rows = [(_item_seal(run_id, key, value), value, number, key) for key, value in unique.items()]
        before = db.total_changes()
        db.executemany("INSERT OR IGNORE INTO items(seal, value, run, key) VALUES (?, ?, ?, ?)", rows)
        added = db.total_changes() - before
        if added < len(rows):
            db.executemany("UPDATE items SET seal = ?, value = ? WHERE run = ? AND key = ?", rows)
        _put_run(db, number, run_id, epoch, run[3], run[4] + added, run[5], time.time())


def load_items(db: apsw.Connection, run_id: str) -> dict[str, bytes]:
    """Return the items by key."""
    found: dict[str, bytes] = {}
    with reading(db):
        run = _find(db, run_id)
        number = None if run is None else run[0]
        for key, seal, value in db.execute("SELECT key, seal, value FROM items WHERE run = ?", (number,)):
            whole = isinstance(key, str) and isinstance(value, bytes)
            if not whole or seal != _item_seal(run_id, key, value):
                raise _damaged(run_id, f"item {quote(key)} is not what was saved")
            found[key] = value
    if run is not None and len(found) != run[4]:
        raise _damaged(run_id, f"{run[4] - len(found)} of its {run[4]} items are missing")
    return found


def _find(db: apsw.Connection, run_id: str) -> Any:
    """Return the row of the run, if there is one and it is whole."""
    row = db.execute(_SELECT_RUN, (run_id,)).fetchone()
    if row is not None and row[-1] != _seal(*row[1:-1]):
        raise _damaged(run_id, "its entry is not what was saved")
    return row


def _claimed(db: apsw.Connection, run_id: str, epoch: int) -> Any:
    run = _find(db, run_id)
    if run is None or run[2] != epoch:
        raise conflict(run_id, epoch, None if run is None else run[2])
    return run


def _put_run(db: apsw.Connection, number: int | None, *values: object) -> None:
    db.execute(_PUT_RUN, (number, *values, _seal(*values)))


def _seal(*values: object) -> bytes:
    """Return what stands for a row: any change of it gives another one."""
    hasher = hashlib.blake2b(digest_size=16)
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass")
        hasher.update(f"{type(value).__name__}{len(data)}:".encode())
        hasher.update(data)
    return hasher.digest()


def _item_seal(run_id: str, key: str, value: bytes) -> bytes:
    names = b"%d:%b%d:%b" % (len(run_id), run_id.encode(), len(key), key.encode())
    return hashlib.blake2b(names + value, digest_size=16).digest()


def _damaged(run_id: str, what: str) -> CheckpointCorruptError:
    message = f"run {quote(run_id)} is damaged: {what}; restore a copy of the store, or delete the run"
    return CheckpointCorruptError(message, run_id=run_id)
