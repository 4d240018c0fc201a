"""The graph that is killed while it fans out and goes on, run as its reader runs it."""

import os
import re
import signal
import subprocess
import sys

import pytest
import trio

for package, version in (("openai", "1.63"), ("h11", None), ("rich", None)):
    pytest.importorskip(package, version, "the example needs openai (1.63, for Trio), h11 and rich: demo group")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")

IGNORING_SIGINT = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]


def command(examples, *options):
    return [sys.executable, "-W", "error", str(examples / "resume.py"), *map(str, options)]


def environment():
    own = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return {**own, "PYTHONUTF8": "1", "NO_PROXY": "127.0.0.1"}


async def run_example(examples, *options):
    done = await trio.run_process(
        command(examples, *options), env=environment(), capture_stdout=True, stderr=subprocess.STDOUT, check=False
    )
    return done.returncode, done.stdout.decode()


async def test_it_saves_the_calls_that_were_made(examples):
    status, output = await run_example(examples, "--count", 40)
    assert status == 0, output
    saved = int(re.search(r"(\d+) of 40 are in the store", output)[1])
    assert 5 <= saved <= 20 + 8
    made = re.search(r"resumed: (\d+) calls succeeded, (\d+) calls saved, (\d+) failed", output)
    assert int(made[2]) == saved
    assert sum(map(int, made.groups())) == 40
    killed = int(re.search(r"killed after (\d+) calls had succeeded", output)[1])
    again = int(re.search(r"(\d+) of the calls before the kill were not written yet", output)[1])
    # What is made again has the key that it had before; nothing else is made again.
    assert killed - again <= saved
    count = int(re.search(r"the digest has \d+ characters, from (\d+) summaries", output)[1])
    assert count == int(made[1]) + saved


async def test_a_run_that_is_complete_calls_nothing(examples, tmp_path):
    options = ("--count", 12, "--store", tmp_path / "runs.db")
    for calls in (r"[1-9]\d*", "0"):
        status, output = await run_example(examples, *options)
        assert status == 0, output
        assert re.search(rf"resumed: {calls} calls succeeded", output), output


@pytest.mark.parametrize("before", [[], IGNORING_SIGINT], ids=["", "ignored before"])
async def test_ctrl_c_does_no_harm(tracebacks, examples, tmp_path, before):
    options = ("--count", 40, "--store", tmp_path / "runs.db")
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            lambda task_status: trio.run_process(
                [*before, *command(examples, *options)], env=environment(), stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, check=False, task_status=task_status, start_new_session=True,
            )
        )  # fmt: skip
        output = b""
        while b"in the store" not in output:
            output += await process.stdout.receive_some()
        os.killpg(process.pid, signal.SIGINT)
        output += b"".join([part async for part in process.stdout])
    assert process.returncode == 130
    assert not tracebacks(output), output
    saved = int(re.search(rb"(\d+) of 40 are in the store", output)[1])
    status, output = await run_example(examples, *options)
    assert status == 0, output
    assert int(re.match(r"(\d+) calls are in .* already", output)[1]) >= saved
