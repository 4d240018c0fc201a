"""A run that cannot be found because the index of the runs is damaged is not taken for one that never was."""

import apsw
import pytest

from trioflow import CheckpointCorruptError, CheckpointNotFoundError
from trioflow.checkpoint.sqlite import SqliteStore


@pytest.mark.parametrize("runs", [["one"], ["one", "two"], [f"run {number}" for number in range(20)]])
async def test_damage_of_the_index_of_runs_is_no_run_that_is_gone(tmp_path, runs):
    path = tmp_path / "runs.db"
    async with SqliteStore(path) as store:
        for run_id in runs:
            await store.claim(run_id)
        with pytest.raises(CheckpointNotFoundError):
            await store.load("another")
    db = apsw.Connection(str(path))
    page = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_runs_1'").get
    size = db.pragma("page_size")
    db.close()
    with path.open("r+b") as file:
        # Entries are written from the end of the page on.
        file.seek(page * size - 15)
        file.write(bytes(15))
    async with SqliteStore(path) as store:
        for lookup in (store.load, store.load_items, store.claim):
            with pytest.raises(CheckpointCorruptError):
                await lookup(runs[0])
