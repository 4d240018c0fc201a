"""The web service whose runs outlive it, run as its reader runs it."""

import os
import re
import signal
import subprocess
import sys

import pytest
import trio

for package in ("starlette", "hypercorn"):
    pytest.importorskip(package, reason="the example needs starlette and hypercorn[trio]")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")


def command(examples, *options):
    return [sys.executable, "-W", "error", str(examples / "service.py"), *map(str, options)]


ENVIRONMENT = {**os.environ, "PYTHONUTF8": "1", "NO_PROXY": "127.0.0.1"}


async def test_every_review_is_completed_though_a_worker_is_killed(examples):
    done = await trio.run_process(
        command(examples, "--count", 6), env=ENVIRONMENT, capture_stdout=True, stderr=subprocess.STDOUT, check=False
    )
    output = done.stdout.decode()
    assert done.returncode == 0, output
    killed = re.search(r"killed worker (\d+)", output)[1]
    assert "6 of 6 reviews completed" in output
    reviews = re.findall(r"^\w{8} (approved|rejected), 3 words, steps made by \[(.*)\]$", output, re.MULTILINE)
    assert sorted(verdict for verdict, _ in reviews) == ["approved"] * 4 + ["rejected"] * 2
    # Whoever was killed made no last step.
    assert all(made.split(", ")[-1] != killed for _, made in reviews)


async def test_it_serves_until_ctrl_c(tracebacks, examples):
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            lambda task_status: trio.run_process(
                command(examples, "--count", 1, "--serve"), env=ENVIRONMENT, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, check=False, task_status=task_status, start_new_session=True,
            )
        )  # fmt: skip
        output = b""
        while b"Ctrl-C ends it" not in output:
            output += await process.stdout.receive_some()
        process.send_signal(signal.SIGINT)
        output += b"".join([part async for part in process.stdout])
    assert process.returncode == 130, output
    assert not tracebacks(output), output
