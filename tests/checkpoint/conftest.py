"""What the tests of kept runs share: a store of each kind."""

import pytest
import trio

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


@pytest.fixture
def together():
    """Return what awaits several calls at once, and returns what each came to."""

    async def await_all(*calls):
        ends = [None] * len(calls)

        async def one(number, call):
            try:
                ends[number] = await call
            except Exception as error:
                ends[number] = error

        async with trio.open_nursery() as nursery:
            for number, call in enumerate(calls):
                nursery.start_soon(one, number, call)
        return ends

    return await_all
