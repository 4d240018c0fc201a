"""Damage, full disks and failing I/O: detected or harmless, never other data, and what was kept before stays whole.

`TRIOFLOW_CORRUPTIONS` is how many times a file is damaged, `TRIOFLOW_SEED` what the damage is drawn from.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import apsw
import pytest
import trio

from trioflow import Checkpoint, CheckpointError, CheckpointNotFoundError, CheckpointStoreError
from trioflow.checkpoint import _schema
from trioflow.checkpoint.codec import sealed
from trioflow.checkpoint.session import load_verified
from trioflow.checkpoint.sqlite import SqliteStore

CORRUPTIONS = int(os.environ.get("TRIOFLOW_CORRUPTIONS", "200"))
SEED = int(os.environ.get("TRIOFLOW_SEED", "1"))
STEPS = 12
ITEMS = 40


def checkpoint(run_id, step, size=300):
    return sealed(
        Checkpoint(
            run_id=run_id, graph="g", step=step, node=f"n{step}", next_node=f"n{step + 1}", iterations=step,
            state=f"{run_id} {step} ".encode() * (size // 8), status="running", pause=None, created_at=float(step),
        )
    )


def items_of(run_id):
    return {f"item {number}": f"{run_id} {number} ".encode() * 5 for number in range(ITEMS)}


async def fill(path):
    store = SqliteStore(path)
    for run_id in ("one", "two"):
        epoch = await store.claim(run_id)
        for step in range(1, STEPS + 1):
            await store.save(checkpoint(run_id, step), epoch)
        await store.save_items(run_id, epoch, list(items_of(run_id).items()))
    return store


async def classify(path):
    """Read all that is kept, and return what became of it; other data fails the test."""
    seen = set()
    async with SqliteStore(path) as store:
        for run_id in ("one", "two"):
            try:
                found = await load_verified(store, run_id)
                assert found == checkpoint(run_id, found.step), "other data was given out"
                seen.add("whole" if found.step == STEPS else "earlier step")
            except CheckpointNotFoundError:
                seen.add("gone")
            except CheckpointError:
                seen.add("detected")
            try:
                kept = await store.load_items(run_id)
                assert kept in ({}, items_of(run_id)), "other items were given out"
                seen.add("whole" if kept else "gone")
            except CheckpointError:
                seen.add("detected")
    return "detected" if "detected" in seen else "older" if seen - {"whole"} else "harmless"


def damage(data, random_):
    """Return `data` with bits flipped, a part zeroed, a part moved, or the end torn off."""
    data = bytearray(data)
    kind = random_.choice(["flip", "flip", "zero", "move", "tear"])
    at = random_.randrange(len(data))
    length = random_.choice([1, 16, 512, 4096])
    if kind == "flip":
        for _ in range(random_.choice([1, 3, 20])):
            place = random_.randrange(len(data))
            data[place] ^= 1 << random_.randrange(8)
    elif kind == "zero":
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == "move":
        source = random_.randrange(len(data))
        part = data[source : source + length]
        data[at : at + len(part)] = part
    else:
        del data[at:]
    return kind, bytes(data)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_damage_is_detected_or_harmless_and_never_other_data(tmp_path):
    async def prepare():
        store = await fill(tmp_path / "runs.db")
        # A copy while the store is open: most of it is in the write-ahead log.
        for name in ("runs.db", "runs.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / f"with-log-{name}")
        await store.aclose()
        shutil.copy(tmp_path / "runs.db", tmp_path / "plain-runs.db")

    trio.run(prepare)
    random_ = random.Random(SEED)
    wal = (tmp_path / "with-log-runs.db-wal").read_bytes()
    counts = Counter()
    for number in range(CORRUPTIONS):
        folder = tmp_path / "damaged"
        folder.mkdir()
        if number % 2:
            kind, spoilt = damage((tmp_path / "plain-runs.db").read_bytes(), random_)
            (folder / "runs.db").write_bytes(spoilt)
            where = "database"
        else:
            kind, spoilt = damage(wal, random_)
            shutil.copy(tmp_path / "with-log-runs.db", folder / "runs.db")
            (folder / "runs.db-wal").write_bytes(spoilt)
            where = "log"
        counts[where, kind, trio.run(classify, folder / "runs.db")] += 1
        shutil.rmtree(folder)
    print(f"{CORRUPTIONS} corruptions, seed {SEED}:")
    for (where, kind, outcome), count in sorted(counts.items()):
        print(f"  {where:8} {kind:5} {outcome:9} {count}")
    # A torn log goes back to an earlier commit, whole; a torn database does not pass for a whole one.
    assert sum(count for (where, _, outcome), count in counts.items() if (where, outcome) == ("database", "older")) == 0
    assert any(outcome == "detected" for _, _, outcome in counts)


@pytest.mark.skipif(sys.platform != "linux", reason="mounting a small disk needs Linux")
def test_a_full_disk_leaves_what_was_kept_before(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.strip()}")

    async def main():
        async with SqliteStore(disk / "runs.db") as store:
            epoch = await store.claim("one")
            await store.save(checkpoint("one", 1), epoch)
            with pytest.raises(CheckpointStoreError, match="the disk is full|failed"):
                for step in range(2, 500):
                    await store.save(checkpoint("one", step, size=20_000), epoch)
            last = await load_verified(store, "one")
            assert last == checkpoint("one", last.step, size=300 if last.step == 1 else 20_000)
            with pytest.raises(CheckpointStoreError):
                await store.save_items("one", epoch, [(str(number), b"x" * 20_000) for number in range(100)])
            assert await store.load_items("one") == {}
            return last.step

    try:
        assert trio.run(main) > 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


class FailingFile(apsw.VFSFile):
    """A file whose writes and syncs fail while the test wants them to."""

    failing = False

    def xWrite(self, data, offset):
        if FailingFile.failing:
            raise apsw.IOError("write failed")
        super().xWrite(data, offset)

    def xSync(self, flags):
        if FailingFile.failing:
            raise apsw.IOError("sync failed")
        super().xSync(flags)


class FailingVFS(apsw.VFS):
    def __init__(self):
        super().__init__("failing", "")

    def xOpen(self, name, flags):
        return FailingFile("", name, flags)


async def test_failing_writes_leave_what_was_kept_before(tmp_path, monkeypatch):
    vfs = FailingVFS()
    original = apsw.Connection
    monkeypatch.setattr(apsw, "Connection", lambda name: original(name, vfs="failing"))
    path = tmp_path / "runs.db"
    async with SqliteStore(path) as store:
        epoch = await store.claim("one")
        await store.save(checkpoint("one", 1), epoch)
        FailingFile.failing = True
        try:
            for _ in range(3):
                with pytest.raises(CheckpointStoreError):
                    await store.save(checkpoint("one", 2, size=100_000), epoch)
                with pytest.raises(CheckpointStoreError):
                    await store.save_items("one", epoch, [("a", b"1" * 100_000)])
        finally:
            FailingFile.failing = False
        assert await load_verified(store, "one") == checkpoint("one", 1)
        assert await store.load_items("one") == {}
        await store.save(checkpoint("one", 2), epoch)
        assert (await load_verified(store, "one")).step == 2
    vfs.unregister()


MIGRATION = """
import sys, apsw
from trioflow.checkpoint import _schema
many = "".join(f"INSERT INTO first VALUES ({n});" for n in range(20000))
new = ("CREATE TABLE first(x);", many + "CREATE TABLE second(x);")
db = apsw.Connection(sys.argv[1])
print("ready", flush=True)
_schema.prepare(db, sys.argv[1], new)
print("done", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")
def test_a_migration_that_is_killed_is_done_whole_or_not_at_all(tmp_path):
    random_ = random.Random(SEED)
    ends = set()
    for number in range(8):
        path = tmp_path / f"{number}.db"
        db = apsw.Connection(str(path))
        _schema.prepare(db, str(path), ("CREATE TABLE first(x);",))
        db.close()
        process = subprocess.Popen([sys.executable, "-P", "-c", MIGRATION, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(random_.uniform(0, 0.06))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        db = apsw.Connection(str(path))
        version = db.pragma("user_version")
        rows = db.execute("SELECT count(*) FROM first").get
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
        assert (version, rows, tables) in [(1, 0, {"first"}), (2, 20_000, {"first", "second"})]
        ends.add(version)
        db.close()
    assert 1 in ends


async def test_a_save_that_is_cancelled_is_never_of_unknown_fate(tmp_path):
    async with SqliteStore(tmp_path / "runs.db") as store:
        epoch = await store.claim("one")
        step = 0
        for number in range(60):
            with trio.move_on_after(number * 0.0001):
                await store.save(checkpoint("one", step + 1, size=50_000), epoch)
                step += 1
            try:
                kept = (await load_verified(store, "one")).step
            except CheckpointNotFoundError:
                kept = 0
            # What returned is kept; what was cancelled was kept whole, or was never begun.
            assert kept in {step, step + 1}
            step = kept


@pytest.mark.parametrize("seed", range(5))
async def test_hostile_bytes_in_rows_are_never_run_or_believed(tmp_path, seed):
    path = tmp_path / "runs.db"
    await (await fill(path)).aclose()
    random_ = random.Random(seed)
    db = apsw.Connection(str(path))
    for column in ("state", "pause", "node", "status", "digest", "seal"):
        db.execute(f"UPDATE checkpoints SET {column} = ? WHERE step = {STEPS}", (random_.randbytes(200),))
    db.execute("UPDATE items SET value = ?", (random_.randbytes(200),))
    db.close()
    async with SqliteStore(path) as store:
        for run_id in ("one", "two"):
            with pytest.raises(CheckpointError):
                await load_verified(store, run_id)
            with pytest.raises(CheckpointError):
                await store.load_items(run_id)
            assert await load_verified(store, run_id, STEPS - 1) == checkpoint(run_id, STEPS - 1)


OPENING = """
import sys, trio
from trioflow.checkpoint.sqlite import SqliteStore
print("ready", flush=True)
sys.stdin.readline()
async def main():
    async with SqliteStore(sys.argv[1]) as store:
        print(await store.claim(sys.argv[2]))
trio.run(main)
"""
OPENINGS = int(os.environ.get("TRIOFLOW_OPENINGS", "3"))


@pytest.mark.timeout(600)
def test_several_processes_open_a_new_file_at_once(tmp_path):
    for number in range(OPENINGS):
        path = tmp_path / f"{number}.db"
        command = [sys.executable, "-P", "-c", OPENING, str(path)]
        processes = [
            subprocess.Popen([*command, f"run {n}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for n in range(4)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        ends = [process.communicate(timeout=60) for process in processes]
        assert [process.returncode for process in processes] == [0] * 4, [error for _, error in ends]
        assert sorted(int(epoch) for epoch, _ in ends) == [1, 2, 3, 4]
