"""The form of the SQLite file: its tables, how an older one is made a newer one, and how a connection is set up.

`PRAGMA user_version` is the version of the schema, and `application_id` says that the file is ours. Migrations run
in one transaction with the change of the version; two processes that open one new file take turns.
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
"""Seconds between two tries of what SQLite does not wait for."""

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
    # The state stays the last column: what comes after it is read through all of its pages. A row of before has no
    # kind, and its seals are those of before.
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
    # A run that was submitted has its run's number: a place in the queue that nobody else ever has.
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
"""What makes version n + 1 of version n."""


def prepare(db: apsw.Connection, path: str, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Set `db` up: refuse what is not ours or newer, bring an older schema up to date, and make commits durable.

    Raises:
        CheckpointStoreError: the file is newer, of something else, or its commits cannot be made durable.
    """
    db.set_busy_timeout(BUSY_TIMEOUT)
    _check(db, path, len(migrations))
    # WAL with synchronous=FULL loses no commit to a power cut; NORMAL does. The mode is kept in the file.
    _set_wal(db)
    db.pragma("synchronous", "full")
    if db.pragma("synchronous") != 2:
        raise CheckpointStoreError(f"the store {quote(path)} cannot be made durable: synchronous is not FULL")
    _migrate(db, migrations)


def _set_wal(db: apsw.Connection) -> None:
    """Set the journal's mode, waiting for others: SQLite gives up at once where two would wait for each other."""
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
            # Somebody else may have done it meanwhile.
            for script in migrations[_version(db) :]:
                db.execute(script)
            db.execute(f"PRAGMA user_version = {len(migrations)}")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def open_to_look(path: str) -> apsw.Connection:
    """Open a store so that nothing is changed: not the file, and not what is beside it.

    Raises:
        CheckpointStoreError: the file is newer, or of something else.
    """
    file = Path(path).absolute()
    log, index = (file.with_name(f"{file.name}-{kind}") for kind in ("wal", "shm"))
    if not log.exists() or not log.stat().st_size:
        # Nobody has the file open, and SQLite needs none of the files that it would make beside it.
        return _looked_at(file, path, "mode=ro&immutable=1")
    if index.exists():
        with suppress(apsw.CantOpenError, apsw.ReadOnlyError):
            return _looked_at(file, path, "mode=ro")
    # What a killed process left: its log can be read only by a connection that may write.
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
    """Return a temporary copy, in the newest form, of a store that must stay as it is."""
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
            f"{quote(path)} is a SQLite database of something else: name another file; it was left as it is"
        )


def _version(db: apsw.Connection) -> int:
    return int(db.pragma("user_version"))


class _Transaction:
    """A block that is one transaction, or a part of one, undone where it raises."""

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
    """Return a transaction that has the write lock from its first moment; in another one, a part of that."""
    if db.in_transaction:
        return _Transaction(db, "SAVEPOINT part", "RELEASE part", ("ROLLBACK TO part", "RELEASE part"))
    return _Transaction(db, "BEGIN IMMEDIATE", "COMMIT", ("ROLLBACK",))


def reading(db: apsw.Connection) -> _Transaction:
    """Return a transaction that sees one state of the file."""
    return _Transaction(db, "BEGIN", "COMMIT", ("ROLLBACK",))
