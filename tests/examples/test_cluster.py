"""The map over paragraphs, run as its reader runs it: each engine gives the same, and what is kept is not computed."""

import os
import re
import signal
import subprocess
import sys

import pytest
import trio

from trioflow import CheckpointError
from trioflow.checkpoint.sqlite import SqliteStore


def command(examples, *options):
    return [sys.executable, "-W", "error", str(examples / "cluster.py"), *map(str, options)]


async def run_example(examples, *options):
    environment = {**os.environ, "PYTHONUTF8": "1"}
    done = await trio.run_process(
        command(examples, *options), env=environment, capture_stdout=True, stderr=subprocess.STDOUT, check=False
    )
    output = done.stdout.decode()
    assert done.returncode == 0, output
    *lines, account = output.splitlines()
    return lines, [int(number) for number in re.findall(r"(\d+) (?:computed|kept|failed)", account)]


async def count_kept(path):
    if not path.exists():
        return 0
    try:
        async with SqliteStore(path, read_only=True) as store:
            return sum(run.items for run in await store.list_runs())
    except CheckpointError:
        return 0  # it is being made


async def test_engines_give_the_same_and_what_is_kept_is_not_computed(examples, tmp_path):
    store = ("--store", tmp_path / "runs.db")
    on_loop, account = await run_example(examples, "--on", "loop", "--count", 20, "--workers", 1)
    assert account == [20, 0, 0]
    assert len(on_loop) == 3
    on_pool, account = await run_example(examples, "--on", "pool", "--count", 40, *store)
    assert on_pool == on_loop
    assert account == [40, 0, 0]


async def test_on_a_cluster(examples):
    pytest.importorskip("distributed", reason="Dask is not installed")
    lines, account = await run_example(examples, "--on", "dask", "--count", 20)
    assert len(lines) == 3
    assert account == [20, 0, 0]


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
async def test_a_killed_run_goes_on_on_another_engine(examples, tmp_path):
    store = tmp_path / "runs.db"
    process = subprocess.Popen(  # noqa: ASYNC220 - it takes a moment
        command(examples, "--on", "loop", "--count", 300, "--store", store), stdout=subprocess.DEVNULL
    )
    with trio.fail_after(20):
        while await count_kept(store) < 10:  # noqa: ASYNC110 - of another process
            await trio.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, (computed, kept, failed) = await run_example(examples, "--on", "pool", "--count", 300, "--store", store)
    assert computed + kept == 300
    assert kept > 0
    assert failed == 0
