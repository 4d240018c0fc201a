"""What the tests of kept runs share: a store of each kind."""

import pytest

from trioflow import MemoryStore
from trioflow.checkpoint.sqlite import SqliteStore


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def opened_as(request, tmp_path):
    """Return what opens a store of this kind."""
    if request.param == "memory":
        return MemoryStore
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "runs.db")
    server = request.getfixturevalue("postgres_server")

    def open_in_postgres():
        from trioflow.checkpoint.postgres import PostgresStore

        return PostgresStore(server.url())

    return open_in_postgres


@pytest.fixture
async def store(opened_as):
    opened = opened_as()
    yield opened
    await opened.aclose()
