"""What the tests of kept runs share: a store of each kind."""

import pytest

from trioflow import MemoryStore
from trioflow.checkpoint.sqlite import SqliteStore


@pytest.fixture(params=["memory", "sqlite"])
async def store(request, tmp_path):
    if request.param == "memory":
        yield MemoryStore()
    else:
        async with SqliteStore(tmp_path / "runs.db") as opened:
            yield opened
