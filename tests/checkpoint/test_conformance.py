"""Every store that ships does what a store must do."""

import os
import re
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import trioflow
from trioflow import MemoryStore
from trioflow.checkpoint.sqlite import SqliteStore
from trioflow.testing import CheckpointStoreConformance, ServiceStoreConformance


class TestMemoryStore(CheckpointStoreConformance, ServiceStoreConformance):
    @asynccontextmanager
    async def open_store(self):
        yield MemoryStore()


class TestSqliteStore(CheckpointStoreConformance, ServiceStoreConformance):
    durable = True

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self.path = tmp_path / "runs.db"

    @asynccontextmanager
    async def open_store(self):
        async with SqliteStore(self.path) as store:
            yield store


def test_there_are_many_cases():
    cases = [name for name in dir(CheckpointStoreConformance) if name.startswith("test_")]
    assert len(cases) >= 78
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
    env = {**os.environ, "PYTHONPATH": str(Path(trioflow.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False, env=env)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b[5-9] passed", done.stdout), done.stdout


def test_a_suite_without_a_store_says_what_to_override():
    with pytest.raises(NotImplementedError, match="override open_store"):
        CheckpointStoreConformance().test_epochs_grow()
