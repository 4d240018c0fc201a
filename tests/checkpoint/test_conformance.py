"""Every store that ships does what a store must do."""

import re
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest

from trioflow import MemoryStore
from trioflow.checkpoint.sqlite import SqliteStore
from trioflow.testing import CheckpointStoreConformance


class TestMemoryStore(CheckpointStoreConformance):
    @asynccontextmanager
    async def open_store(self):
        yield MemoryStore()


class TestSqliteStore(CheckpointStoreConformance):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self.path = tmp_path / "runs.db"

    @asynccontextmanager
    async def open_store(self):
        async with SqliteStore(self.path) as store:
            yield store


def test_there_are_many_cases():
    cases = [name for name in dir(CheckpointStoreConformance) if name.startswith("test_")]
    assert len(cases) >= 58
    assert all(getattr(CheckpointStoreConformance, name).__doc__ for name in cases)


USERS_FILE = """
from contextlib import asynccontextmanager
from trioflow import MemoryStore
from trioflow.testing import CheckpointStoreConformance

class TestMine(CheckpointStoreConformance):
    @asynccontextmanager
    async def open_store(self):
        yield MemoryStore()
"""


def test_pytest_collects_the_cases_in_a_users_class(tmp_path):
    file = tmp_path / "test_mine.py"
    file.write_text(USERS_FILE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file), "-k", "epochs or whole"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b[5-9] passed", done.stdout), done.stdout


def test_a_suite_without_a_store_says_what_to_override():
    with pytest.raises(NotImplementedError, match="override open_store"):
        CheckpointStoreConformance().test_epochs_grow()


class Careless:
    """A store that takes what comes, whatever its epoch."""

    def __init__(self):
        self._store = MemoryStore()
        self._epochs = {}

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def claim(self, run_id):
        self._epochs[run_id] = await self._store.claim(run_id)
        return self._epochs[run_id]

    async def save(self, checkpoint, epoch):
        await self._store.save(checkpoint, self._epochs.get(checkpoint.run_id, epoch))


def test_a_store_that_does_not_fence_is_found_out():
    class Suite(CheckpointStoreConformance):
        @asynccontextmanager
        async def open_store(self):
            yield Careless()

    with pytest.raises(AssertionError, match="no CheckpointConflictError was raised"):
        Suite().test_save_with_an_older_epoch_is_refused()
