"""The schema of the SQLite file: its tables, its migrations, and the setup of a connection.

`PRAGMA user_version` is the version of the schema, and `application_id` identifies the file as ours. Migrations
run in one transaction with the change of the version; processes that open a new file concurrently take turns.
"""

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw

from trioflow._text import quote
from trioflow.errors import CheckpointStoreError

__all__ = ("MIGRATIONS", "immediately", "open_to_look", "prepare", "reading")

APPLICATION_ID = 0x7472696F  # "trio"
BUSY_TIMEOUT = 10_000
"""Milliseconds that a write waits for those of other processes."""

_PAUSE = 0.005
"""Seconds between retries of operations for which SQLite does not wait."""

MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE epochs(id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL);
    INSERT INTO epochs VALUES (1, 0);
    CREATE TABLE runs(
        number INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL UNIQUE, epoch INTEGER NOT NULL,
        last_step INTEGER, items INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL,
        seal BLOB NOT NULL
    );
    CREATE TABLE checkpoints(
        run INTEGER NOT NULL, step INTEGER NOT NULL, graph TEXT NOT NULL, node TEXT NOT NULL,
        next_node TEXT NOT NULL, iterations INTEGER NOT NULL, status TEXT NOT NULL, created_at REAL NOT NULL,
        version INTEGER NOT NULL, digest TEXT NOT NULL, info_seal BLOB NOT NULL, seal BLOB NOT NULL,
        pause BLOB, state BLOB NOT NULL,
        PRIMARY KEY (run, step)
    );
    CREATE TABLE items(
        run INTEGER NOT NULL, key TEXT NOT NULL, seal BLOB NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (run, key)
    ) WITHOUT ROWID;
    """,
    # The state stays the last column: reading a column after it would read all of its pages. An older row has no
    # kind, and keeps its seals.
    """
    ALTER TABLE runs ADD COLUMN parent INTEGER;
    CREATE INDEX runs_by_parent ON runs(parent) WHERE parent IS NOT NULL;
    CREATE TABLE steps(
        run INTEGER NOT NULL, step INTEGER NOT NULL, graph TEXT NOT NULL, node TEXT NOT NULL,
        next_node TEXT NOT NULL, iterations INTEGER NOT NULL, status TEXT NOT NULL, created_at REAL NOT NULL,
        kind TEXT, forked_from TEXT, version INTEGER NOT NULL, digest TEXT NOT NULL, info_seal BLOB NOT NULL,
        seal BLOB NOT NULL, pause BLOB, state BLOB NOT NULL,
        PRIMARY KEY (run, step)
    );
    INSERT INTO steps SELECT run, step, graph, node, next_node, iterations, status, created_at, NULL, NULL,
        version, digest, info_seal, seal, pause, state FROM checkpoints;
    DROP TABLE checkpoints;
    ALTER TABLE steps RENAME TO checkpoints;
    """,
    # A submitted run has its run's number: a unique place in the queue.
    """
    CREATE TABLE service_runs(
        run INTEGER PRIMARY KEY, graph TEXT NOT NULL, status TEXT NOT NULL, due REAL, waits_for TEXT,
        is_cancelled INTEGER NOT NULL, reason TEXT, seal_of_outcome BLOB, outcome BLOB
    );
    CREATE INDEX service_runs_by_due ON service_runs(graph, (status = 'running'), due) WHERE due IS NOT NULL;
    CREATE TABLE signals(
        number INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, name TEXT NOT NULL, taken_by TEXT,
        seal BLOB NOT NULL, payload BLOB NOT NULL
    );
    CREATE INDEX signals_by_run ON signals(run, name);
    """,
)
"""The migrations from version n to version n + 1."""


def prepare(db: apsw.Connection, path: str, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Set `db` up: refuse a foreign file or a newer schema, migrate an older one, and make commits durable.

    Raises:
        CheckpointStoreError: the schema is newer, the file is not a store, or its commits cannot be made durable.
    """
    db.set_busy_timeout(BUSY_TIMEOUT)
    _check(db, path, len(migrations))
    # WAL with synchronous=FULL loses no commit in a power cut; NORMAL does. The journal mode is stored in the
    # file.
    _set_wal(db)
    db.pragma("synchronous", "full")
    if db.pragma("synchronous") != 2:
        raise CheckpointStoreError(f"the store {quote(path)} cannot be made durable: synchronous is not FULL")
    _migrate(db, migrations)


def _set_wal(db: apsw.Connection) -> None:
    """Set the journal mode, retrying: SQLite fails at once where two connections would deadlock."""
    until = time.monotonic() + BUSY_TIMEOUT / 1_000
    while db.pragma("journal_mode") != "wal":
        try:
            db.pragma("journal_mode", "wal")
        except apsw.BusyError:
            if time.monotonic() >= until:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _migrate(db: apsw.Connection, migrations: Sequence[str]) -> None:
    if _version(db) < len(migrations):
        with immediately(db):
            # Another process may have migrated it meanwhile.
            for script in migrations[_version(db) :]:
                db.execute(script)
            db.execute(f"PRAGMA user_version = {len(migrations)}")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def open_to_look(path: str) -> apsw.Connection:
    """Open a store read-only: neither the file nor its directory is changed.

    Raises:
        CheckpointStoreError: the schema is newer, or the file is not a store.
    """
    file = Path(path).absolute()
    log, index = (file.with_name(f"{file.name}-{kind}") for kind in ("wal", "shm"))
    if not log.exists() or not log.stat().st_size:
        # No process has the file open, so SQLite needs no files beside it.
        return _looked_at(file, path, "mode=ro&immutable=1")
    if index.exists():
        with suppress(apsw.CantOpenError, apsw.ReadOnlyError):
            return _looked_at(file, path, "mode=ro")
    # The log that a killed process left can be read only by a connection that may write.
    with TemporaryDirectory() as folder:
        for each in (file, log):
            shutil.copy(each, folder)
        db = apsw.Connection(str(Path(folder) / file.name))
        try:
            _check(db, path, len(MIGRATIONS))
            return _migrated_copy(db)
        finally:
            db.close()


def _looked_at(file: Path, path: str, how: str) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    db = apsw.Connection(f"{file.as_uri()}?{how}", flags=flags)
    with ExitStack() as undo:
        undo.callback(db.close)
        db.set_busy_timeout(BUSY_TIMEOUT)
        _check(db, path, len(MIGRATIONS))
        if _version(db) < len(MIGRATIONS):
            return _migrated_copy(db)
        undo.pop_all()
    return db


def _migrated_copy(db: apsw.Connection) -> apsw.Connection:
    """Return a temporary copy, migrated to the newest schema, of a store that must not be changed."""
    copy = apsw.Connection("")
    if _version(db):
        with copy.backup("main", db, "main") as backup:
            backup.step()
    _migrate(copy, MIGRATIONS)
    return copy


def _check(db: apsw.Connection, path: str, newest: int) -> None:
    version = _version(db)
    if version > newest:
        raise CheckpointStoreError(
            f"the store {quote(path)} has schema {version}, and this version of trioflow knows up to {newest}: "
            "upgrade trioflow; the file was left as it is"
        )
    empty = version == 0 and not db.execute("SELECT count(*) FROM sqlite_schema").get
    if not empty and db.pragma("application_id") != APPLICATION_ID:
        raise CheckpointStoreError(
            f"{quote(path)} is another program's SQLite database: name another file; it was left as it is"
        )


def _version(db: apsw.Connection) -> int:
    return int(db.pragma("user_version"))


class _Transaction:
    """A block that is one transaction, or a savepoint in one, rolled back if it raises."""

    def __init__(self, db: apsw.Connection, begin: str, commit: str, undo: Sequence[str]) -> None:
        self._db = db
        self._begin = begin
        self._commit = commit
        self._undo = undo

    def __enter__(self) -> None:
        self._db.execute(self._begin)

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        is_kept = False
        try:
            if kind is None:
                self._db.execute(self._commit)
                is_kept = True
        finally:
            # SQLite undoes all of it by itself where the disk fails.
            if not is_kept and self._db.in_transaction:
                for each in self._undo:
                    self._db.execute(each)


def immediately(db: apsw.Connection) -> _Transaction:
    """Return a transaction that takes the write lock at its start; inside another one, a savepoint of it."""
    if db.in_transaction:
        return _Transaction(db, "SAVEPOINT part", "RELEASE part", ("ROLLBACK TO part", "RELEASE part"))
    return _Transaction(db, "BEGIN IMMEDIATE", "COMMIT", ("ROLLBACK",))


def reading(db: apsw.Connection) -> _Transaction:
    """Return a transaction that reads one snapshot of the file."""
    return _Transaction(db, "BEGIN", "COMMIT", ("ROLLBACK",))
