"""The program of the tutorial: it is tried, and it serves through a kill."""

import os
import re
import signal
import subprocess
import sys
from functools import partial

import pytest
import trio

from trioflow import State, service_client
from trioflow.checkpoint.sqlite import SqliteStore

for package in ("openai", "h11", "rich", "starlette", "hypercorn"):
    pytest.importorskip(package, reason="the service of the tutorial needs openai, h11, rich and the extra ui")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")

ENVIRONMENT = {**os.environ, "PYTHONUTF8": "1", "NO_PROXY": "127.0.0.1"}


def program(examples, *options):
    command = [sys.executable, "-W", "error", str(examples / "briefing.py"), *map(str, options)]
    settings = {"env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return partial(trio.run_process, command, check=False, **settings)


async def until_it_serves(process):
    output = b""
    while b"Ctrl-C ends it" not in output:
        part = await process.stdout.receive_some()
        assert part, output
        output += part
    return output.decode()


async def until_it_is(store, run_id, status):
    while (await store.look(run_id)).status != status:  # noqa: ASYNC110 - another process changes it
        await trio.sleep(0.05)


async def test_it_is_tried(examples):
    run = program(examples, "try")
    async with trio.open_nursery() as nursery:
        process = await nursery.start(run)
        output = b"".join([part async for part in process.stdout]).decode()
    assert process.returncode == 0, output
    assert "<ParallelResult: complete, 11 ok, 1 failed, 0 unfinished of 12>" in output
    assert "while: failed: Error code: 500" in output


async def test_it_serves_through_a_kill_until_sigterm(examples, tmp_path, tracebacks):
    run = program(examples, "serve", "--store", tmp_path / "briefings.db", "--port", 0, "--lease", 2)
    async with SqliteStore(tmp_path / "briefings.db") as store, trio.open_nursery() as nursery:
        client = service_client(store)
        first = await nursery.start(run)
        assert re.search(r"shown at http://127.0.0.1:\d+/", await until_it_serves(first))
        run_id = await client.submit("briefing", State(topics=["with", "try", "class", "yield"]))
        await until_it_is(store, run_id, "running")
        first.kill()
        await first.wait()
        second = await nursery.start(run)
        await until_it_serves(second)
        with trio.fail_after(20):  # the lease of the first has to end
            await until_it_is(store, run_id, "paused")
            await client.signal(run_id, "resume", {"answer": "publish"})
            result = await client.result(run_id)
        assert result.state["published"]
        assert list(result.state["summaries"]) == ["with", "try", "class", "yield"]
        second.send_signal(signal.SIGTERM)
        output = b"".join([part async for part in second.stdout])
        await second.wait()
    assert second.returncode == 0, output
    assert not tracebacks(output), output
