"""The demo, run as its reader runs it: the account adds up, repeats, and survives Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

for package, version in (("openai", "1.63"), ("h11", None), ("rich", None)):
    pytest.importorskip(package, version, "the demo needs openai (1.63, for Trio), h11 and rich: demo group")

from chat_server import FaultRates, open_chat_server  # noqa: E402 - needs h11
from fan_out import Chunk, cut, retry_after  # noqa: E402 - needs openai

COUNTED = ("calls", "succeeded", "failed", "unfinished", "retries")

IGNORING_SIGINT = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]


def command(examples: Path, *options: object) -> list[str]:
    return [sys.executable, "-W", "error", str(examples / "fan_out.py"), *map(str, options)]


def environment(**variables: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return {**own, "PYTHONUTF8": "1", "NO_PROXY": "127.0.0.1", **variables}


async def run_demo(examples: Path, *options: object, **variables: str) -> tuple[int, str]:
    done = await trio.run_process(
        command(examples, *options),
        env=environment(**variables),
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode()


def account(output: str) -> dict[str, int]:
    """Read the numbers of the account; fails on output without one."""
    rows = {name: re.search(rf"^\s*{name}\s+(\d+)\s*$", output, re.MULTILINE) for name in COUNTED}
    assert all(rows.values()), output
    return {name: int(row[1]) for name, row in rows.items()}


def failures(output: str) -> list[str]:
    """Read the lines of the table of failures, each a count, a type and a message."""
    return re.findall(r"^\s*(\d+ +\w+Error .*?)\s*$", output, re.MULTILINE)


async def test_the_account_adds_up_and_the_same_seed_repeats_it(examples):
    # the texts, and with them what befalls each, are those of the running Python: only the sums are known
    first_status, first = await run_demo(examples, "--seed", 3, "--count", 40, "--workers", 20)
    second_status, second = await run_demo(examples, "--seed", 3, "--count", 40, "--workers", 10)

    counted = account(first)
    assert (first_status, second_status) == (0, 0)
    assert counted["calls"] == counted["succeeded"] + counted["failed"] == 40
    assert counted["unfinished"] == 0
    assert sum(int(line.split()[0]) for line in failures(first)) == counted["failed"]
    assert account(second) == counted
    assert failures(second) == failures(first)


async def test_output_that_is_no_terminal_has_no_control_characters(examples):
    status, output = await run_demo(examples, "--count", 2)

    assert status == 0
    assert "\x1b" not in output
    assert "\r" not in output.replace("\r\n", "\n")


async def test_the_service_that_the_environment_names_is_used(examples):
    never = FaultRates(rate_limited=0, server_error=0, dropped=0, persistent=0)
    async with open_chat_server(faults=never, latency=0) as base_url:
        variables = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "test", "OPENAI_MODEL": "any-model"}
        status, output = await run_demo(examples, "--count", 30, **variables)

    assert status == 0
    assert base_url in output
    assert account(output) == {"calls": 30, "succeeded": 30, "failed": 0, "unfinished": 0, "retries": 0}


async def test_calls_that_all_fail_are_counted_by_message(examples):
    always = FaultRates(rate_limited=0, server_error=0, dropped=0, persistent=1)
    async with open_chat_server(faults=always, latency=0) as base_url:
        variables = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "test"}
        status, output = await run_demo(examples, "--count", 5, **variables)

    assert status == 0
    assert account(output) == {"calls": 5, "succeeded": 0, "failed": 5, "unfinished": 0, "retries": 10}
    (line,) = failures(output)
    assert line.startswith("5")
    assert "InternalServerError" in line


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process on Windows")
@pytest.mark.parametrize("before", [[], IGNORING_SIGINT], ids=["", "ignored before"])
async def test_ctrl_c_ends_it_with_the_account_of_what_completed(tracebacks, examples, before):
    async with trio.open_nursery() as nursery:
        demo = [*before, *command(examples, "--count", 100, "--workers", 2)]
        process = await nursery.start(start_demo, demo)
        output = b""
        async for part in process.stdout:
            if not output:
                # the first line comes when the run begins
                process.send_signal(signal.SIGINT)
            output += part

    counted = account(output.decode())
    assert process.returncode == 130
    assert counted["unfinished"] > 0
    assert counted["calls"] == counted["succeeded"] + counted["failed"] + counted["unfinished"] == 100
    assert not tracebacks(output), output


async def start_demo(demo: list[str], *, task_status: trio.TaskStatus[trio.Process]) -> None:
    await trio.run_process(
        demo,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        task_status=task_status,
    )


@pytest.mark.parametrize("option", ["--count", "--workers"])
async def test_numbers_that_cannot_work_are_refused(examples, option):
    status, output = await run_demo(examples, option, 0)

    assert status == 2
    assert "must be 1 or more, got 0" in output


def test_texts_are_cut_between_paragraphs_without_loss_or_repetition():
    long = "\n\n".join(f"paragraph {number} " + 500 * "x" for number in range(20))

    chunks = cut({"long": long, "short": "a line", "again": "a line"})

    assert "".join(chunk.text for chunk in chunks if chunk.topic == "long") == long + "\n\n"
    assert chunks[-1] == Chunk("short", "a line\n\n")
    assert all(len(chunk.text) <= 3_100 for chunk in chunks)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0.25", 0.25),
        ("7", 7.0),
        ("-1", 0.0),
        ("nan", 0.0),
        ("1e9", 60.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_within_reason(header, seconds):
    assert retry_after(rate_limited({"retry-after": header})) == seconds


def test_an_error_that_says_no_time_leaves_it_to_the_backoff():
    assert retry_after(rate_limited({})) is None
    assert retry_after(trio.TooSlowError()) is None


def rate_limited(headers: dict[str, str]) -> Exception:
    import openai

    class Response:
        status_code = 429
        request = None

    response = Response()
    response.headers = headers
    return openai.RateLimitError("slow down", response=response, body=None)
