"""A PostgreSQL that is killed, restarted, stopped and filled up: what was acknowledged is there, once, and whole.

`TRIOFLOW_TERMINATIONS` is how many sessions are ended during commits, `TRIOFLOW_SEED` what the instants are drawn
from.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from trioflow import (
    Checkpoint,
    CheckpointConfig,
    CheckpointConflictError,
    CheckpointStoreError,
    ParallelConfig,
    process_parallel,
)
from trioflow.checkpoint.codec import sealed

pytest.importorskip("psycopg", reason="psycopg is not installed")

from trioflow.checkpoint import _postgres_rows
from trioflow.checkpoint._postgres_link import Bounds
from trioflow.checkpoint.postgres import PostgresStore

TERMINATIONS = int(os.environ.get("TRIOFLOW_TERMINATIONS", "20"))
SEED = int(os.environ.get("TRIOFLOW_SEED", "1"))
BATCH = 20
GROUP = 8

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def schema(postgres_server):
    return postgres_server.new_schema()


@pytest.fixture
def url(postgres_server, schema):
    return postgres_server.url(schema)


@pytest.fixture
def bounds(monkeypatch):
    def set_bounds(**seconds):
        monkeypatch.setattr(PostgresStore, "_bounds", Bounds(**seconds))

    return set_bounds


def checkpoint(step, state=b"state", run_id="run"):
    return sealed(
        Checkpoint(
            run_id=run_id, graph="g", step=step, node=f"n{step}", next_node="n", iterations=step,
            state=state, status="running", pause=None, created_at=float(step),
        )
    )


class Background:
    """A thread that does something again and again until the block is left; its failure is the block's."""

    def __init__(self, work):
        self._work = work
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.error = None
        self.count = 0

    def __enter__(self):
        self._thread.start()
        return self

    def _run(self):
        try:
            while not self._over.is_set():
                self.count += self._work()
        except BaseException as error:
            self.error = error

    def __exit__(self, *details):
        self._over.set()
        self._thread.join()
        if self.error is not None:
            raise self.error


@pytest.fixture
def looked_up(monkeypatch):
    """Return how often a write of unknown fate was looked up: [it had been kept, it had not]."""
    counts = [0, 0]
    real = _postgres_rows.ask

    def ask(db, query, *values):
        rows = real(db, query, *values)
        if query is _postgres_rows._IS_SAVED:
            counts[not rows] += 1
        elif query is _postgres_rows._COUNT_SAVED:
            counts[rows == [(0,)]] += 1
        return rows

    monkeypatch.setattr(_postgres_rows, "ask", ask)
    return counts


async def test_sessions_that_are_ended_during_commits_cost_nothing(postgres_server, url, schema, looked_up):
    random_ = random.Random(SEED)
    end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'trioflow'"
    async with PostgresStore(url) as store:
        epoch, step = await store.claim("run"), 0
        with postgres_server.connect() as db, Background(lambda: terminate(db, end, random_)) as ended:
            while step < 3 or ended.count < TERMINATIONS:
                step += 1
                await store.save(checkpoint(step, random_.randbytes(random_.randrange(20_000))), epoch)
                await store.save_items("run", epoch, [(f"{step} {n}", str(n).encode()) for n in range(BATCH)])
                assert ended.error is None
    async with PostgresStore(url) as store:
        assert [info.step for info in await store.history("run")] == list(range(1, step + 1))
        assert (await store.load("run")).step == step
        kept = await store.load_items("run")
        assert kept == {f"{each} {n}": str(n).encode() for each in range(1, step + 1) for n in range(BATCH)}
    sessions = postgres_server.ask("SELECT last_value FROM trioflow_epoch", schema=schema)
    assert sessions == [(epoch,)]
    print(
        f"{ended.count} sessions ended over {step} steps and batches, seed {SEED}: all are there, once; "
        f"{sum(looked_up)} writes were looked up, of which {looked_up[0]} had been kept"
    )


async def test_runs_that_are_submitted_and_saved_together_while_sessions_are_ended_are_there_once(postgres_server, url):
    random_ = random.Random(SEED)
    end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'trioflow'"
    groups = 0
    async with PostgresStore(url) as store:
        epochs = {f"kept {number}": await store.claim(f"kept {number}") for number in range(GROUP)}
        with postgres_server.connect() as db, Background(lambda: terminate(db, end, random_)) as ended:
            while groups < 3 or ended.count < TERMINATIONS:
                groups += 1
                async with trio.open_nursery() as nursery:
                    for number, (run_id, epoch) in enumerate(epochs.items()):
                        first = checkpoint(0, b"state", f"run {groups}/{number}")
                        nursery.start_soon(store.submit, first, 0.0)
                        nursery.start_soon(store.save, checkpoint(groups, b"state", run_id), epoch)
                assert ended.error is None
    async with PostgresStore(url) as store:
        listed = Counter(run.run_id for run in await store.list_runs())
        assert listed == Counter([*epochs, *(f"run {each}/{n}" for each in range(1, groups + 1) for n in range(GROUP))])
        for run_id in epochs:
            assert [info.step for info in await store.history(run_id)] == list(range(1, groups + 1))
    print(f"{ended.count} sessions ended over {groups} groups, seed {SEED}: all is there, once")


def terminate(db, query, random_):
    time.sleep(random_.uniform(0, 0.05))
    return db.execute(query).fetchone()[0]


class Way:
    """The way to a server, which can be cut when the next request comes: before it is there, or before its answer.

    The server is told of it, or goes on to believe that somebody is there.
    """

    def __init__(self, port):
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._cut = None
        self._sockets = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]

    def cut(self, *, after, told):
        self._cut = (after, told)

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *details):
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                for source, target in ((client, server), (server, client)):
                    thread = threading.Thread(target=self._pump, args=(source, target, source is client))
                    self._threads.append(thread)
                    thread.start()

    def _pump(self, source, target, from_client):
        with suppress(OSError):
            while data := source.recv(1 << 16):
                cut, self._cut = (self._cut, None) if from_client else (None, self._cut)
                if cut is None:
                    target.sendall(data)
                    continue
                after, told = cut
                # Nothing of an answer gets through from here on.
                source.shutdown(socket.SHUT_RDWR)
                if after:
                    target.sendall(data)
                    time.sleep(0.01)
                if told:
                    target.shutdown(socket.SHUT_RDWR)
                return
            target.shutdown(socket.SHUT_RDWR)


async def test_a_way_that_is_cut_around_a_commit_costs_nothing(postgres_server, schema, looked_up):
    random_ = random.Random(SEED)
    with Way(postgres_server.port) as way:
        url = postgres_server.url(schema).replace(f":{postgres_server.port}/", f":{way.port}/")
        async with PostgresStore(url) as store:
            epoch, warm = await store.claim("run"), await store.claim("warm")
            for step in range(1, TERMINATIONS + 1):
                # A session prepares a statement by a request of its own; what is cut is the one after that.
                await store.save(checkpoint(step, run_id="warm"), warm)
                await store.save_items("warm", warm, [("a", b"v")])
                way.cut(after=random_.random() < 0.5, told=random_.random() < 0.5)
                if step % 2:
                    await store.save(checkpoint(step), epoch)
                else:
                    await store.save_items("run", epoch, [(f"{step} {n}", b"v") for n in range(BATCH)])
            assert [info.step for info in await store.history("run")] == list(range(1, TERMINATIONS + 1, 2))
            kept = {f"{step} {n}" for step in range(2, TERMINATIONS + 1, 2) for n in range(BATCH)}
            assert set(await store.load_items("run")) == kept
            for _ in range(TERMINATIONS // 2):
                way.cut(after=True, told=random_.random() < 0.5)
                epoch = await store.claim("run")
                await store.save(checkpoint(TERMINATIONS + 1), epoch)
    assert min(looked_up) > 0
    print(
        f"the way was cut {TERMINATIONS} times around a commit, seed {SEED}: {sum(looked_up)} writes were looked up, "
        f"of which {looked_up[0]} had been kept"
    )


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGINT], ids=["immediate", "fast"])
async def test_a_server_that_restarts_in_the_middle_of_a_fan_out_is_waited_for(postgres_server, url, how):
    random_ = random.Random(SEED)
    calls = []
    restarts = []

    async def work(item):
        calls.append(item)
        await trio.sleep(0.005)
        return item * 3

    def restart():
        for _ in range(3):
            time.sleep(random_.uniform(0.1, 0.4))
            postgres_server.restart(how)
            restarts.append(how)

    config = ParallelConfig(
        observer="noop", max_workers=8, checkpoint=CheckpointConfig(flush_interval=0.01, preserve=True)
    )
    async with PostgresStore(url) as store:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, restart)
            result = await process_parallel(range(3_000), work, config=config, store=store, run_id="run")
        assert list(result.results) == [item * 3 for item in range(3_000)]
        assert sorted(calls) == list(range(3_000))
        assert len(await store.load_items("run")) == 3_000
    assert len(restarts) == 3


@pytest.mark.parametrize("count", [2, 4])
def test_of_processes_that_resume_one_run_at_once_the_run_ends_right(count, workload, workloads, tmp_path, url):
    run = workload("graph", tmp_path / "run", url=url)
    first = run.start()
    while run.count() < 20:
        time.sleep(0.005)
    first.kill()
    first.communicate()
    processes = [run.start() for _ in range(count)]
    ends = [process.communicate(timeout=120) for process in processes]
    results = [int(output.split()[1]) for output, _ in ends if "done" in output]
    conflicts = [errors for output, errors in ends if "done" not in output]
    assert results
    assert set(results) == {workloads.expected_graph()}
    assert all("CheckpointConflictError" in errors for errors in conflicts), conflicts


@pytest.mark.parametrize("what", ["fan_out", "nested"])
def test_a_process_that_is_killed_goes_on_with_what_was_acknowledged(what, workload, workloads, tmp_path, url):
    random_ = random.Random(SEED)
    run = workload(what, tmp_path / "run", url=url)
    for _ in range(2):
        before, kept = len(run.calls()), set(trio.run(items_kept, url))
        process = run.start()
        while run.count() < before + random_.randrange(100, 400) and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        process.communicate()
        assert not kept & set(run.calls()[before:])
    before, kept = len(run.calls()), set(trio.run(items_kept, url))
    with run.start() as process:
        output, errors = process.communicate(timeout=120)
    assert "done" in output, errors
    assert int(output.split()[1]) == workloads.EXPECTED[what]()
    assert not kept & set(run.calls()[before:])


async def items_kept(url):
    """Return the calls of fan-outs whose results the store has: the run and the place in it."""
    async with PostgresStore(url) as store:
        runs = await store.list_runs()
        assert "corrupt" not in {run.status for run in runs}
        return [
            (run.run_id, int(key))
            for run in runs if run.kind == "parallel"
            for key in await store.load_items(run.run_id)
        ]


@pytest.fixture
def paused(postgres_server):
    """Return what stops the server's processes where they are; they go on when the test ends."""
    if not Path(f"/proc/{os.getpid()}/task").exists():
        pytest.skip("a process finds the server's processes in /proc")
    yield postgres_server.pause
    postgres_server.go_on()
    postgres_server.wait()


async def test_a_server_that_is_stopped_is_waited_for_within_bounds(postgres_server, url, bounds, paused):
    bounds(silence=0.5, connect=2, returning=3.0)
    async with PostgresStore(url) as store:
        epoch = await store.claim("run")
        await store.save(checkpoint(1), epoch)
        paused()
        started = time.monotonic()
        with pytest.raises(CheckpointStoreError, match="has not been there for 3 s"):
            await store.save(checkpoint(2), epoch)
        assert 3 <= time.monotonic() - started < 12
        postgres_server.go_on()
        # What the stopped one did when it went on is over before anything else is done.
        await store.save(checkpoint(3), epoch)
        assert (await store.load("run")).step == 3


async def test_a_server_that_is_stopped_and_goes_on_costs_time(postgres_server, url, bounds, paused):
    bounds(silence=0.5, connect=2, returning=30.0)
    async with PostgresStore(url) as store:
        epoch = await store.claim("run")
        paused()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.save_items, "run", epoch, [("a", b"1")])
            await trio.sleep(1.5)
            postgres_server.go_on()
        assert await store.load_items("run") == {"a": b"1"}
        (run,) = await store.list_runs()
        assert run.items == 1


async def test_who_is_cancelled_does_not_wait_for_a_server_that_is_stopped(url, bounds, paused):
    bounds(cancelled=0.3)
    async with PostgresStore(url) as store:
        epoch = await store.claim("run")
        paused()
        started = time.monotonic()
        with trio.move_on_after(0.2) as scope:
            await store.save(checkpoint(1), epoch)
        assert scope.cancelled_caught
        assert time.monotonic() - started < 4


async def test_who_was_overtaken_while_the_server_restarted_is_refused(postgres_server, url):
    async with PostgresStore(url) as store, PostgresStore(url) as other:
        epoch = await store.claim("run")
        await trio.to_thread.run_sync(postgres_server.restart, signal.SIGQUIT)
        later = await other.claim("run")
        assert later > epoch
        with pytest.raises(CheckpointConflictError):
            await store.save(checkpoint(1), epoch)
        await other.save(checkpoint(1), later)


@pytest.fixture
def small_disk():
    """A file system of its own, of 2 MiB, that the server may write."""
    folder = Path(tempfile.mkdtemp(prefix="trioflow-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=777", "tmpfs", str(folder)]
    try:
        mounted = shutil.which("mount") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
        if not mounted:
            pytest.skip("a small file system can be mounted by root only, and not in every container")
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
        folder.rmdir()


async def test_a_full_disk_is_said_and_what_was_kept_stays(postgres_servers, small_disk):
    # A server of its own, which is gone before its disk is.
    server = postgres_servers.Server()
    place = small_disk / "tables"
    place.mkdir()
    shutil.chown(place, *([server.folder.owner()] if os.geteuid() == 0 else []))
    try:
        server.make()
        server.start()
        server.ask(f"CREATE TABLESPACE small LOCATION '{place}'")
        await fill_up(server.url() + "%20-cdefault_tablespace%3Dsmall", small_disk)
    finally:
        server.remove()


async def fill_up(url, disk):
    kept = {}
    async with PostgresStore(url) as store:
        epoch = await store.claim("run")
        await store.save(checkpoint(1), epoch)
        with pytest.raises(CheckpointStoreError, match="the server's disk is full"):
            for number in range(1_000):
                key = str(number)
                value = random.Random(number).randbytes(10_000)
                await store.save_items("run", epoch, [(key, value)])
                kept[key] = value
        assert len(kept) > 50
        assert await store.load_items("run") == kept
        with pytest.raises(CheckpointStoreError, match="the server's disk is full"):
            await store.save(checkpoint(2, random.Random(1).randbytes(2 << 20)), epoch)
        assert (await store.load("run")).step == 1
    await trio.run_process(["mount", "-o", "remount,size=8m", str(disk)])
    async with PostgresStore(url) as store:
        assert await store.load_items("run") == kept
        await store.save(checkpoint(2, random.Random(1).randbytes(2 << 20)), epoch)
        await store.delete("run")
        await store.vacuum()
        await store.save_items("run", await store.claim("run"), [("a", b"1")])
