"""What the fault tests share: a workload that runs in processes of its own, and what its store shows of it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import apsw
import pytest
import trio

from trioflow.checkpoint.sqlite import SqliteStore

SCRIPT = Path(__file__).with_name("workloads.py")


@pytest.fixture(scope="session")
def workloads():
    """Return the module of what runs in the processes."""
    spec = importlib.util.spec_from_file_location("workloads", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def workload():
    """Return what makes a `Workload`."""
    return Workload


@pytest.fixture(scope="session")
def acknowledged():
    """Return what tells which calls a store has the results of."""
    return results_in


class Workload:
    """One of the workloads, with a log of its own in `folder`, and a store of its own there, or behind a URL."""

    def __init__(self, what, folder, *options, url=None):
        folder.mkdir(exist_ok=True)
        self.store = url or folder / "runs.db"
        self.log = folder / "log"
        self._what, self._options = what, options

    def start(self):
        """Start a process, and return it when it is ready to begin."""
        command = [sys.executable, str(SCRIPT), self._what, str(self.store), str(self.log), *self._options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        return process

    def calls(self):
        """Return the calls that were made, in their order: the run and the place in it."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [tuple(json.loads(line)[:2]) for line in lines]

    def count(self):
        """Return how many calls were made."""
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def keys(self):
        """Return the idempotency keys of the calls that were made, in their order."""
        return [json.loads(line)[2] for line in self.log.read_text().splitlines()]

    def acknowledged(self):
        """Return the calls whose results the store has, at any depth: those must never be made again."""
        return trio.run(results_in, self.store)


    def status(self):
        """Return how the run stands; None where it is not there."""
        return trio.run(self._status)

    async def _status(self):
        async with SqliteStore(self.store, read_only=True) as store:
            return next((run.status for run in await store.list_runs() if run.run_id == "run"), None)

    def dump(self):
        """Return all rows of the store."""
        return dump(self.store)


async def results_in(path):
    """Return the calls whose results the store has: the run and the place in it."""
    if not path.exists():
        return set()
    found = set()
    # Looking changes nothing: what the next process finds is what the one before left.
    async with SqliteStore(path, read_only=True) as store:
        for run in await store.list_runs():
            assert run.status != "corrupt", run
            if run.kind == "parallel":
                found |= {(run.run_id, int(name)) for name in await store.load_items(run.run_id)}
            else:
                found |= {(run.run_id, step) for step in range(run.step)}
    return found


def dump(path):
    db = apsw.Connection(str(path))
    try:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: sorted(db.execute(f'SELECT * FROM "{name}"'), key=repr) for name in tables}
    finally:
        db.close()
