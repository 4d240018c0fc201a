"""The schema of the tables in PostgreSQL, and its migrations.

The tables are created where the connection's `search_path` says, and `trioflow_schema` stores their version.
Migrations and the change of the version are one transaction, under an advisory lock, in one process at a time.
Names, ids and keys are bytes: PostgreSQL text cannot contain NUL, and depends on the server's encoding.
"""

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.sql import SQL

from trioflow.errors import CheckpointStoreError

__all__ = ("CHANNEL", "MIGRATIONS", "Connection", "prepare")

CHANNEL = "trioflow"
"""The channel of notifications about changes; the payload is the schema that was changed."""

Connection = psycopg.Connection[tuple[Any, ...]]

MIGRATIONS: Sequence[SQL] = (
    # The server computes the seal of a run when it changes the row, so that a batch is one statement. There are no
    # foreign keys: each item would look up its run again. An index entry has at most 2,700 bytes, so a long id or
    # key is looked up by its digest. Half of each page of runs is left free, so that an updated row stays on its
    # page.
    SQL("""
    CREATE SEQUENCE trioflow_epoch;
    CREATE TABLE trioflow_runs(
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name bytea NOT NULL UNIQUE, run_id bytea NOT NULL,
        epoch bigint NOT NULL, last_step bigint, items bigint NOT NULL, created_at float8 NOT NULL,
        updated_at float8 NOT NULL, parent bigint, seal bytea NOT NULL
    ) WITH (fillfactor = 50);
    CREATE INDEX trioflow_runs_by_parent ON trioflow_runs(parent) WHERE parent IS NOT NULL;
    CREATE TABLE trioflow_steps(
        run bigint NOT NULL, step bigint NOT NULL, graph bytea NOT NULL, node bytea NOT NULL,
        next_node bytea NOT NULL, iterations bigint NOT NULL, status bytea NOT NULL, created_at float8 NOT NULL,
        kind bytea NOT NULL, forked_from bytea, version bigint NOT NULL, digest bytea NOT NULL,
        info_seal bytea NOT NULL, seal bytea NOT NULL, pause bytea, state bytea NOT NULL,
        PRIMARY KEY (run, step)
    );
    CREATE TABLE trioflow_items(
        run bigint NOT NULL, key bytea NOT NULL, long_key bytea, seal bytea NOT NULL, value bytea NOT NULL,
        PRIMARY KEY (run, key)
    );
    CREATE FUNCTION trioflow_seal(
        name bytea, run_id bytea, epoch bigint, last_step bigint, items bigint,
        created_at float8, updated_at float8, parent bigint
    ) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
        SELECT sha256(
            int4send(octet_length($1)) || $1 || int4send(octet_length($2)) || $2 || int8send($3)
            || coalesce('\\x01'::bytea || int8send($4), '\\x00'::bytea) || int8send($5) || float8send($6)
            || float8send($7) || coalesce('\\x01'::bytea || int8send($8), '\\x00'::bytea)
        )
    $$;
    """),
    SQL("""
    CREATE TABLE trioflow_service(
        run bigint PRIMARY KEY, graph bytea NOT NULL, status text NOT NULL, due float8, waits_for bytea,
        is_cancelled boolean NOT NULL DEFAULT false, reason bytea, seal_of_outcome bytea, outcome bytea
    ) WITH (fillfactor = 50);
    CREATE INDEX trioflow_service_by_due ON trioflow_service(graph, (status = 'running'), due)
        WHERE due IS NOT NULL;
    CREATE TABLE trioflow_signals(
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run bigint NOT NULL, name bytea NOT NULL,
        taken_by bytea, seal bytea NOT NULL, payload bytea NOT NULL
    );
    CREATE INDEX trioflow_signals_by_run ON trioflow_signals(run);
    """),
)
"""The script at index n migrates version n to n + 1."""

_MIGRATING = 0x7472696F666C6F77  # "trioflow"
"""The advisory lock for creating and migrating the tables."""


def prepare(db: Connection, *, migrate: bool, migrations: Sequence[SQL] = MIGRATIONS) -> None:
    """Check the version of the tables; if `migrate`, create missing tables and migrate older ones.

    Raises:
        CheckpointStoreError: the tables are newer; or they are older or missing, and `migrate` is false.
    """
    newest = len(migrations)
    version = _version(db)
    _refuse_newer(version, newest)
    if version == newest:
        return
    if not migrate:
        what = f"has tables of form {version}" if version else "has no tables of trioflow"
        raise CheckpointStoreError(f"the database {what}, and is opened to be read only: open it once to write")
    # Locked before the transaction begins, because that sees the catalogue as of its beginning.
    db.execute("SELECT pg_advisory_lock(%s)", (_MIGRATING,))
    try:
        with db.transaction():
            _migrate(db, migrations)
    finally:
        if not db.closed:
            db.execute("SELECT pg_advisory_unlock(%s)", (_MIGRATING,))


def _migrate(db: Connection, migrations: Sequence[SQL]) -> None:
    newest = len(migrations)
    # Another process may have migrated them meanwhile.
    version = _version(db)
    _refuse_newer(version, newest)
    if version == newest:
        return
    for script in migrations[version:]:
        db.execute(script)
    db.execute("CREATE TABLE IF NOT EXISTS trioflow_schema(version bigint NOT NULL)")
    db.execute("DELETE FROM trioflow_schema")
    db.execute("INSERT INTO trioflow_schema VALUES (%s)", (newest,))


def _version(db: Connection) -> int:
    if db.execute("SELECT to_regclass('trioflow_schema')::text").fetchone() == (None,):
        return 0
    row = db.execute("SELECT max(version) FROM trioflow_schema").fetchone()
    return int(row[0]) if row and row[0] is not None else 0


def _refuse_newer(version: int, newest: int) -> None:
    if version > newest:
        raise CheckpointStoreError(
            f"the database has tables of form {version}, and this version of trioflow knows up to {newest}: "
            "upgrade trioflow; the tables were left as they are"
        )
